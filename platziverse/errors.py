"""Unusable: the base of what stops a start, a reload or a command with one line for its user."""

__all__ = ["Unusable"]


class Unusable(Exception):
    """Something that was configured cannot be used. The text is one line that says what, and what to do."""
