"""Errors that several rooms know, which know nothing of each other."""

__all__ = ["ComesAgain", "NotStorable", "Unusable"]


class Unusable(Exception):
    """Something that was configured cannot be used. The text is one line that says what, and what to do."""


class NotStorable(Exception):
    """A message can never be stored, for what is in it. The text is one line, for its publisher as well."""


class ComesAgain(Exception):
    """A message is not stored now, and has to come again: the connection is closed, whatever its protocol."""
