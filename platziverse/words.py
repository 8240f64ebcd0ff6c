"""Words: how text of others is shown, and what somebody may have meant who wrote a word that is unknown."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``word``: the nearest known one, if any."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def escaped(text: str) -> str:
    """Return ``text`` in one line; control characters, and those that turn the direction, are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
