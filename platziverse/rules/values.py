"""Values: what of a payload is a number, and how it is written."""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

from platziverse.agents.careful import MAX_VALUE, NO_NUMBER, number_text
from platziverse.rules.paths import MISSING

#: Words that are numbers, unless a rule has words of its own.
STATES: Final = {
    word: number
    for on, off in (
        ("on", "off"),
        ("true", "false"),
        ("online", "offline"),
        ("open", "closed"),
        ("yes", "no"),
    )
    for word, number in ((on, "1"), (off, "0"))
}
#: Numbers as the column ``metrics.number`` takes them; a digit that could be read in two ways costs seconds.
_NUMERIC: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII).fullmatch
#: Characters of a text that are shown in a reason.
_SHOWN: Final = 40


class NoNumber(Exception):
    """A value is no number; the text says why, without the path."""


class Values:
    """A Values reads the values of one rule, or of one metric of it.

    :param states: words that are numbers, in any case; ``None``: the usual ones.
    :param strings: other texts are kept as they are.
    """

    def __init__(self, states: "Mapping[str, int | float] | None" = None, strings: bool = False) -> None:
        self._strings = strings
        self._states = STATES
        if states is not None:
            self._states = {word.casefold(): number_text(number) for word, number in states.items()}
        # Then a text that is a number needs no look at the words.
        self._only_words = not any(_NUMERIC(word) for word in self._states)

    def text(self, value: Any) -> str | None:
        """Return a value as it is stored; ``None``: it is a text, a list or the like, and no number.

        :raises NoNumber: it is a number that cannot be stored, or a text that is too long.
        """
        kind = value.__class__
        if kind is float:
            if not isfinite(value):
                raise NoNumber(f"no number: {value}")
            return number_text(value)
        if kind is int:
            return _integer(value)
        if kind is str:
            return self._of_text(value)
        if kind is bool:
            return self._states.get("true" if value else "false", "1" if value else "0")
        return None

    def _of_text(self, text: str) -> str | None:
        if self._only_words and len(text) <= MAX_VALUE and _NUMERIC(text):
            return text
        state = self._states.get(text.casefold())
        if state is not None:
            return state
        stripped = text.strip()
        if len(text) <= MAX_VALUE and _NUMERIC(stripped):
            return stripped
        if text.startswith(NO_NUMBER):
            raise NoNumber(text[1:])
        if not self._strings:
            return None
        if "\0" in text:
            raise NoNumber("NUL")
        if len(text.encode()) > MAX_VALUE:
            raise NoNumber(f"longer than {MAX_VALUE} bytes")
        return text

    def number(self, value: Any) -> int | float:
        """Return a value as a number, for arithmetic. :raises NoNumber: it is none."""
        text = self.text(value)
        if text is None or not _NUMERIC(text):
            raise NoNumber(why(value))
        return int(text) if text.lstrip("+-").isdigit() else float(text)


def why(value: Any) -> str:
    """Return in words why a value is no number; of a text a few characters."""
    if value is MISSING:
        return "nothing"
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"no number: {value[:_SHOWN]!r}{'…' if len(value) > _SHOWN else ''}"
    kinds = {dict: "an object", list: "an array"}
    return f"{kinds.get(value.__class__, value.__class__.__name__)} is no number"


def _integer(value: int) -> str:
    try:
        return number_text(value)
    except ValueError:
        raise NoNumber("number out of range") from None
