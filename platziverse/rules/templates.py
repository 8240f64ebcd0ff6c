"""Templates: texts with holes, which topic, client and message fill."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from platziverse.agents.careful import number_text
from platziverse.rules.paths import MISSING, Path, parse_prefix
from platziverse.rules.patterns import NAME
from platziverse.words import nearest

_NAME: Final = re.compile(NAME)


class Unfilled(Exception):
    """A hole has no text: there is nothing at its path, or what is there is no text and no number."""


class Template:
    """A Template is a text with holes: ``"tasmota:{device}"``; ``{{`` and ``}}`` are braces.

    :param names: of holes that may stand in it.
    :raises ValueError: a hole is unknown or is not closed.
    :ivar holes: names and Paths of the holes.
    """

    def __init__(self, text: str, names: Iterable[str]) -> None:
        self.text = text
        self._names = tuple(names)
        #: Literal, hole, literal, hole, …, literal.
        self.literals: list[str] = [""]
        self.holes: list[str | Path] = []
        self._parse()

    def _parse(self) -> None:
        text, place = self.text, 0
        while place < len(text):
            if text[place : place + 2] in ("{{", "}}"):
                self.literals[-1] += text[place]
                place += 2
            elif text[place] == "{":
                hole, place = self._hole(place + 1)
                self.holes.append(hole)
                self.literals.append("")
            elif text[place] == "}":
                raise ValueError(f"{text!r} has a }} without {{; write }}}} for a brace")
            else:
                self.literals[-1] += text[place]
                place += 1

    def _hole(self, place: int) -> tuple[str | Path, int]:
        text = self.text
        hole: str | Path
        if text[place : place + 1] in ("$", "@"):
            hole, end = parse_prefix(text, place)
        else:
            found = _NAME.match(text, place)
            hole, end = (found[0], found.end()) if found is not None else ("", place)
        if text[end : end + 1] != "}" or hole == "":
            raise ValueError(f"{text!r} has a hole that is none, {text[place - 1 :]!r}; a brace is {{{{")
        if isinstance(hole, str) and hole not in self._names:
            raise ValueError(f"unknown hole {{{hole}}} in {text!r}{nearest(hole, self._names)}")
        return hole, end + 1

    def split(self, name: str) -> "tuple[Template, Template]":
        """Return the parts before and after the hole of this name."""
        place = self.holes.index(name)
        before, after = Template("", ()), Template("", ())
        before.literals, before.holes = self.literals[: place + 1], self.holes[:place]
        after.literals, after.holes = self.literals[place + 1 :], self.holes[place + 1 :]
        before.text, after.text = before.literals[0], after.literals[0]
        return before, after

    @property
    def begins_with_hole(self) -> bool:
        """Return whether what it begins with is not its own."""
        return bool(self.holes) and not self.literals[0]

    def needs(self, *names: str) -> bool:
        """Return whether one of these names, or ``"$"`` for any path, is among the holes."""
        return any((hole if isinstance(hole, str) else "$") in names for hole in self.holes)

    def fill(self, names: Mapping[str, str], message: object = None, item: object = None) -> str:
        """Return the text with its holes filled.

        :param names: texts of all holes that are no paths.
        :raises Unfilled: a path leads to no text.
        """
        literals = self.literals
        text = literals[0]
        for index, hole in enumerate(self.holes, 1):
            filling = names[hole] if hole.__class__ is str else _text(hole, message, item)  # type: ignore[arg-type]
            text += filling + literals[index]
        return text


def _text(path: Path, message: object, item: object) -> str:
    value: Any = path.find(message, item)
    if value.__class__ is str and value:
        return str(value)
    if value is True or value is False:
        return "true" if value else "false"
    if value.__class__ is int or value.__class__ is float:
        try:
            return number_text(value)
        except ValueError:
            pass
    where = path.root + "".join(f"[{key!r}]" for key in path.keys)
    raise Unfilled(f"{'nothing' if value is MISSING else 'no text'} at {where}")
