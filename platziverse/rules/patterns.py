"""Patterns: which topics a rule is for, and what the names in its topic stand for."""

import re
from collections.abc import Callable
from typing import Final

from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import check_topic_filter

#: Names of holes that stand for something else than a level of the topic.
RESERVED: Final = ("client", "user", "key")
#: What the broker and the agents of platziverse say; no rule ever gets it.
OWN: Final = "agent/"

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_LEVEL: Final = re.compile(rf"\{{({NAME})(\.\.\.)?\}}")


class Pattern:
    """A Pattern is a Topic Filter whose levels may have names: ``tele/{device}/SENSOR``.

    ``{x}`` is one level, ``{x...}`` one or more.

    :raises ValueError: ``text`` is no such pattern.
    :ivar topic_filter: matches at least the topics that the pattern matches.
    :ivar names: those of its levels.
    """

    def __init__(self, text: str) -> None:
        levels = text.split("/")
        if text.startswith(("$", OWN)) or text == "agent":
            raise ValueError(f"{text!r} begins with $ or agent/, which no rule gets")
        self.text = text
        self.names: tuple[str, ...] = ()
        parts, wanted = [], []
        for level in levels:
            part, one = self._level(level)
            parts.append(part)
            wanted.append(one)
        if sum(part in _MANY for part in wanted) > 1:
            raise ValueError(f"{text!r} has more than one # or {{x...}}")
        self.topic_filter = _topic_filter(wanted)
        #: The first level, if only one can match.
        self.first = levels[0] if wanted[0] not in ("+", *_MANY) else None
        self._match: Callable[[str], "re.Match[str] | None"] = re.compile(
            _expression(parts), re.DOTALL
        ).fullmatch

    def match(self, topic: str) -> "dict[str, str] | None":
        """Return the levels with names, by name, or ``None`` if the topic is not of this pattern."""
        found = self._match(topic)
        return None if found is None else found.groupdict()

    def _level(self, level: str) -> tuple[str, str]:
        """Return a level as a regular expression, and as one of a Topic Filter.

        :raises ValueError: it is none.
        """
        if level == "+":
            return "[^/]*", "+"
        if level == "#":
            return ".*", "#"
        found = _LEVEL.fullmatch(level)
        if found is None:
            if "{" in level or "}" in level:
                raise ValueError(
                    f"{level!r} in {self.text!r}: a name stands for a whole level, as {{x}} or {{x...}}"
                )
            return re.escape(level), level
        name, many = found.groups()
        if name in RESERVED:
            raise ValueError(f"{level!r} in {self.text!r}: this name has a meaning of its own")
        if name in self.names:
            raise ValueError(f"{level!r} in {self.text!r}: the name comes twice")
        self.names += (name,)
        return (f"(?P<{name}>.*)", "{x...}") if many else (f"(?P<{name}>[^/]*)", "+")


_MANY: Final = ("#", "{x...}")


def _topic_filter(levels: list[str]) -> str:
    """Return a Topic Filter for all topics of these levels. :raises ValueError: they are none."""
    if "{x...}" in levels:
        levels = [*levels[: levels.index("{x...}")], "+", "#"]
    topic_filter = "/".join(levels)
    try:
        check_topic_filter(topic_filter)
    except MalformedPacket as error:
        raise ValueError(error.reason) from None
    return topic_filter


def _expression(parts: list[str]) -> str:
    """Return the regular expression; ``#`` stands for the level above it as well [MQTT-4.7.1-2]."""
    text = "/".join(parts)
    return f"{text[:-3]}(?:/.*)?" if text.endswith("/.*") else text
