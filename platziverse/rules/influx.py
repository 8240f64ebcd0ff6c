"""Influx: the line protocol of InfluxDB and Telegraf."""

import re
from typing import Any, Final

_PLAIN: Final = r"(?:[^,= \\\n\r]|\\.)+"
_NAME: Final = re.compile(r"(?:[^, \\\n\r]|\\.)+")
_TAG: Final = re.compile(rf",({_PLAIN})=({_PLAIN})")
_FIELD: Final = re.compile(rf"({_PLAIN})=(?:\"((?:[^\"\\]|\\.)*)\"|([^, \n\r\"]+))(,?)", re.DOTALL)
_TIME: Final = re.compile(r" +(-?[0-9]{1,20})")
#: What the quick reader does not read: quotation marks, backslashes, comments and other white space.
_UNUSUAL: Final = re.compile(r"[\"\\#\r\t]").search
#: White space and comments between lines.
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]+|\#[^\n]*)*")
_END: Final = re.compile(r"[ \r]*(?:\n|\Z)")
_ESCAPED: Final = re.compile(r"\\([,= ])")
_QUOTED: Final = re.compile(r'\\(["\\])')
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,300}[iu]").fullmatch
_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_BOOLEANS: Final = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}


def read_lines(text: str) -> list[dict[str, Any]]:
    """Return the points of lines, as Telegraf writes them in JSON.

    :return: each with ``name``, ``tags`` and ``fields`` by name, and ``timestamp`` if it has one.
    :raises ValueError: a line cannot be read; says which.
    """
    if _UNUSUAL(text) is None and (points := _read_quickly(text)):
        return points
    points = []
    place = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        try:
            point, place = _read_point(text, place)
        except ValueError as error:
            line = text.count("\n", 0, place) + 1
            raise ValueError(f"line {line}: {error}") from None
        points.append(point)
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
    return points


def _read_quickly(text: str) -> list[dict[str, Any]]:
    """Return the points of lines that are all as usual, in a third of the time; nothing if one is not."""
    points: list[dict[str, Any]] = []
    for line in text.split("\n"):
        if not line:
            continue
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


def _read_point(text: str, place: int) -> tuple[dict[str, Any], int]:
    """Return a point and where its line ends. :raises ValueError: it is none."""
    found = _NAME.match(text, place)
    if found is None:
        raise ValueError("no measurement")
    point: dict[str, Any] = {"name": _plain(found[0]), "tags": {}, "fields": {}}
    place = found.end()
    while (found := _TAG.match(text, place)) is not None:
        point["tags"][_plain(found[1])] = _plain(found[2])
        place = found.end()
    if text[place : place + 1] != " ":
        raise ValueError("no blank before the fields")
    place = _read_fields(text, place, point["fields"])
    if (found := _TIME.match(text, place)) is not None:
        point["timestamp"] = int(found[1])
        place = found.end()
    if (found := _END.match(text, place)) is None:
        raise ValueError("something stands behind the fields and the time")
    return point, found.end()


def _read_fields(text: str, place: int, fields: dict[str, Any]) -> int:
    """Read fields; return where they end. :raises ValueError: there are none, or one is wrong."""
    while text[place : place + 1] == " ":
        place += 1
    comma = True
    while comma:
        found = _FIELD.match(text, place)
        if found is None:
            raise ValueError("no field")
        name, quoted, plain, after = found.groups()
        fields[_plain(name)] = _QUOTED.sub(r"\1", quoted) if plain is None else _value(plain)
        place, comma = found.end(), bool(after)
    return place


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _value(text: str) -> int | float | bool:
    """Return the value of a field. :raises ValueError: it is none."""
    if _WHOLE(text):
        return int(text[:-1])
    if _FLOAT(text):
        return float(text)
    if text not in _BOOLEANS:
        raise ValueError(f"{text[:40]!r} is no value")
    return _BOOLEANS[text]
