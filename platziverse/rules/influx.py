"""Influx: the line protocol of InfluxDB and Telegraf."""

import re
import sys
from typing import Any, Final

from platziverse.rules.errors import too_many_values

# Each reads a run of usual characters in one step: a backslash for every other byte is no slower than a text.
_PLAIN: Final = r"(?=[^,= \\\n\r]|\\.)[^,= \\\n\r]*(?:\\.[^,= \\\n\r]*)*"
_NAME: Final = re.compile(r"(?=[^, \\\n\r]|\\.)[^, \\\n\r]*(?:\\.[^, \\\n\r]*)*")
_TAG: Final = re.compile(rf",({_PLAIN})=({_PLAIN})")
_FIELD: Final = re.compile(rf"({_PLAIN})=(?:\"([^\"\\]*(?:\\.[^\"\\]*)*)\"|([^, \n\r\"]+))(,?)", re.DOTALL)
_BLANKS: Final = re.compile(" +")
_TIME: Final = re.compile(r" +(-?[0-9]{1,20})")
#: What the quick reader does not read: quotation marks, backslashes, comments and other white space.
_UNUSUAL: Final = re.compile(r"[\"\\#\r\t]").search
#: White space and comments between lines.
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]+|\#[^\n]*)*")
_END: Final = re.compile(r"[ \r]*(?:\n|\Z)")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,300}[iu]").fullmatch
_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_BOOLEANS: Final = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}


#: Values of a point: itself, its name, tags, fields and time.
_OF_A_POINT: Final = 5


def read_lines(text: str, most: int = sys.maxsize) -> list[dict[str, Any]]:
    """Return the points of lines, as Telegraf writes them in JSON.

    :param most: values that they may have; what is beyond them is not read.
    :return: each with ``name``, ``tags`` and ``fields`` by name, and ``timestamp`` if it has one.
    :raises ValueError: a line cannot be read; says which.
    :raises InvalidReport: more values.
    """
    if _UNUSUAL(text) is None and (points := _read_quickly(text, most)):
        return points
    reader, points = _Reader(text, most), []
    while (point := reader.next_point()) is not None:
        points.append(point)
    return points


def _read_quickly(text: str, most: int) -> list[dict[str, Any]]:
    """Return the points of lines that are all as usual, in a third of the time; nothing if one is not."""
    points: list[dict[str, Any]] = []
    left = most
    for line in text.split("\n"):
        if not line:
            continue
        left -= _OF_A_POINT + line.count("=")
        if left < 0:
            raise too_many_values(most)
        head, _, rest = line.partition(" ")
        given, _, time = rest.partition(" ")
        name, *others = head.split(",")
        tags, fields = _pairs(others), _pairs(given.split(","))
        if not name or len(tags) < len(others) or not (time.isascii() and time.isdigit()):
            return []
        try:
            values = {key: _value(text) for key, text in fields.items()}
        except ValueError:
            return []
        if not values or len(time) > 20:
            return []
        points.append({"name": name, "tags": tags, "fields": values, "timestamp": int(time)})
    return points


def _pairs(parts: list[str]) -> dict[str, str]:
    """Return names and values of ``name=value``; nothing if one part is something else."""
    pairs = {}
    for part in parts:
        name, _, value = part.partition("=")
        if not (name and value) or "=" in value:
            return {}
        pairs[name] = value
    return pairs


class _Reader:
    """A _Reader reads one point after the other, of lines of any kind."""

    def __init__(self, text: str, most: int) -> None:
        self._text, self._place = text, 0
        self._most = self._left = most

    def next_point(self) -> dict[str, Any] | None:
        """Return a point, ``None`` at the end. :raises ValueError: there is something else."""
        self._place = _BETWEEN.match(self._text, self._place).end()  # type: ignore[union-attr]
        if self._place == len(self._text):
            return None
        begins = self._place
        try:
            return self._point()
        except ValueError as error:
            line = self._text.count("\n", 0, begins) + 1
            raise ValueError(f"line {line}: {error}") from None

    def _point(self) -> dict[str, Any]:
        name = self._match(_NAME, "no measurement")
        point: dict[str, Any] = {"name": _plain(name[0]), "tags": {}, "fields": {}}
        self._take(_OF_A_POINT)
        while (found := _TAG.match(self._text, self._place)) is not None:
            self._take(1)
            point["tags"][_plain(found[1])] = _plain(found[2])
            self._place = found.end()
        self._match(_BLANKS, "no blank before the fields")
        self._fields(point["fields"])
        if (found := _TIME.match(self._text, self._place)) is not None:
            point["timestamp"] = int(found[1])
            self._place = found.end()
        self._match(_END, "something stands behind the fields and the time")
        return point

    def _fields(self, fields: dict[str, Any]) -> None:
        comma = True
        while comma:
            self._take(1)
            name, quoted, plain, after = self._match(_FIELD, "no field").groups()
            fields[_plain(name)] = _unquoted(quoted) if plain is None else _value(plain)
            comma = bool(after)

    def _match(self, pattern: "re.Pattern[str]", otherwise: str) -> "re.Match[str]":
        """Return what comes next. :raises ValueError: something else does."""
        found = pattern.match(self._text, self._place)
        if found is None:
            raise ValueError(otherwise)
        self._place = found.end()
        return found

    def _take(self, values: int) -> None:
        """Count values. :raises InvalidReport: they are too many."""
        self._left -= values
        if self._left < 0:
            raise too_many_values(self._most)


def _plain(text: str) -> str:
    """Return a name without the backslashes before commas, blanks and signs of equality."""
    if "\\" in text:
        return text.replace("\\,", ",").replace("\\=", "=").replace("\\ ", " ")
    return text


def _unquoted(text: str) -> str:
    """Return a text without the backslashes before quotation marks and backslashes."""
    if "\\" in text:
        return "\\".join([part.replace('\\"', '"') for part in text.split("\\\\")])
    return text


def _value(text: str) -> int | float | bool:
    """Return the value of a field. :raises ValueError: it is none."""
    if _WHOLE(text):
        return int(text[:-1])
    if _FLOAT(text):
        return float(text)
    if text not in _BOOLEANS:
        raise ValueError(f"{text[:40]!r} is no value")
    return _BOOLEANS[text]
