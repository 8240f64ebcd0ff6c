"""Formats: how the bytes of a payload become a document of dicts, lists, texts and numbers."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeAlias

from msgspec import DecodeError
from msgspec.json import Decoder
from msgspec.msgpack import Decoder as MsgpackDecoder

from platziverse.agents.careful import MAX_DEPTH, check_keys, check_text, words_marked
from platziverse.agents.model import InvalidReport
from platziverse.rules.cbor import check as check_cbor
from platziverse.rules.influx import read_lines
from platziverse.words import nearest

#: Makes a document of Topic Name and payload.
Read: TypeAlias = Callable[[str, bytes], Any]

#: Values of a document of a format whose values need not be as many as its bytes.
MAX_VALUES: Final = 100_000

#: Formats of the line protocol, and the values of the smallest point: itself, what it has, and one field.
OF_LINES: Final = frozenset({"influx", "python:platziverse.rules.telegraf:read"})
OF_A_POINT: Final = 5

_APART: Final = re.compile(rb"[ \t\r\n]:").search

_decode_json: Final = Decoder().decode
_decode_msgpack: Final = MsgpackDecoder().decode


def find_format(name: str) -> Read:
    """Return the function that reads a format.

    :raises ValueError: there is no such format, or what it needs is missing.
    """
    if name.startswith("python:"):
        return _of_function(name.removeprefix("python:"))
    if name == "cbor":
        return _of_cbor()
    if name not in _FORMATS:
        known = (*_FORMATS, "cbor", "python:module:function")
        raise ValueError(f"unknown format {name!r}{nearest(name, known)}; it is one of {', '.join(known)}")
    return _FORMATS[name]


def read_json(_: str, payload: bytes) -> Any:
    """Return the document of JSON.

    :raises InvalidReport: it is none, a key comes twice, or it is nested too deeply.
    """
    try:
        document = _decode_json(payload)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        check_text(payload)
        payload = words_marked(payload)
        try:
            document = _decode_json(payload)
        except (DecodeError, RecursionError) as error:
            raise InvalidReport("syntax", str(error)) from None
    # A key is there once for each `":`, unless blanks stand between, or a text has one. Looking for a number
    # in bytes is quicker than looking for a byte.
    blank = 32 in payload or 10 in payload or 13 in payload or 9 in payload
    if _count_keys(document, MAX_DEPTH) != payload.count(b'":') or (blank and _APART(payload)):
        check_keys(payload)
    return document


def _count_keys(document: Any, room: int) -> int:
    """Return how many keys all objects have together.

    :raises InvalidReport: it is nested deeper than ``room``.
    """
    kind = document.__class__
    if kind is dict:
        count, inner = len(document), document.values()
    elif kind is list:
        count, inner = 0, document
    else:
        return 0
    if not room:
        raise InvalidReport("depth", f"nested deeper than {MAX_DEPTH}")
    for one in inner:
        if one.__class__ is dict or one.__class__ is list:
            count += _count_keys(one, room - 1)
    return count


def read_value(_: str, payload: bytes) -> str:
    """Return a payload as text. :raises InvalidReport: it is none."""
    check_text(payload)
    return payload.decode()


def _read_msgpack(_: str, payload: bytes) -> Any:
    try:
        return plain(_decode_msgpack(payload))
    except (DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise InvalidReport("syntax", _line(error)) from None


def _read_influx(_: str, payload: bytes) -> Any:
    check_text(payload)
    try:
        return {"metrics": read_lines(payload.decode())}
    except ValueError as error:
        raise InvalidReport("syntax", str(error)) from None


def _of_cbor() -> Read:
    """Return what reads CBOR. :raises ValueError: the package is missing."""
    try:
        loads: Callable[[bytes], Any] = import_module("cbor2").loads
    except ImportError:
        raise ValueError("format cbor needs the package cbor2: pip install 'platziverse[cbor]'") from None

    def read_cbor(_: str, payload: bytes) -> Any:
        check_cbor(payload)
        try:
            return plain(loads(payload))
        except InvalidReport:
            raise
        except Exception as error:  # of a decoder of tags, which makes dates, addresses, expressions
            raise InvalidReport("syntax", _line(error)) from None

    return read_cbor


def _of_function(name: str) -> Read:
    """Return what reads with somebody's function. :raises ValueError: it cannot be imported, or is none."""
    module, _, function = name.partition(":")
    try:
        read = getattr(import_module(module), function)
    except Exception as error:
        raise ValueError(f"{name}: {type(error).__name__}: {_line(error)}") from None
    if not callable(read):
        raise ValueError(f"{name} is no function")

    def read_given(topic: str, payload: bytes) -> Any:
        try:
            return plain(read(topic, payload))
        except InvalidReport:
            raise
        except Exception as error:
            raise InvalidReport("handler", f"{name}: {type(error).__name__}: {_line(error)}") from None

    return read_given


def plain(document: Any) -> Any:
    """Return a document whose keys are texts, whose texts are UTF-8, and which is a tree.

    Keys of MessagePack and CBOR may be anything, a document of CBOR may hold itself, and a function may make
    texts that nobody can write.

    :raises InvalidReport: it is nested too deeply, has too many values, or a text is none.
    """
    left = MAX_VALUES

    def copy(value: Any, room: int) -> Any:
        nonlocal left
        kind = value.__class__
        if kind is str:
            return _writable(value)
        if kind is not dict and kind is not list and kind is not tuple:
            return value
        if not room:
            raise InvalidReport("depth", f"nested deeper than {MAX_DEPTH}")
        left -= len(value)
        if left < 0:
            raise InvalidReport("size", f"more than {MAX_VALUES} values")
        if kind is dict:
            return {_writable(f"{key}"): copy(one, room - 1) for key, one in value.items()}
        return [copy(one, room - 1) for one in value]

    return copy(document, MAX_DEPTH)


def check_values(document: Any, most: int) -> None:
    """Check how many values a document has, which is a tree.

    :raises InvalidReport: more than ``most``.
    """
    left = most + 1
    waiting: list[Any] = [[document]]
    while waiting:
        value = waiting.pop()
        left -= len(value)
        if left < 0:
            raise InvalidReport("size", f"more than {most} values, six times max_metrics")
        inner = value.values() if value.__class__ is dict else value
        waiting += [one for one in inner if one.__class__ is dict or one.__class__ is list]


def check_lines(payload: bytes, most: int) -> None:
    """Check how many lines a payload has, which takes less time than to read them; JSON is left alone.

    :raises InvalidReport: their points would have more than ``most`` values.
    """
    if payload[:1] != b"{" and payload.count(b"\n") * OF_A_POINT > most:
        raise InvalidReport(
            "size", f"more than {most // OF_A_POINT} lines, {most} values are six times max_metrics"
        )


def _writable(text: str) -> str:
    """Return a text. :raises InvalidReport: it has half a surrogate pair, which no UTF-8 has."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidReport("encoding", f"not UTF-8: {error.reason}") from None
    return text


def _line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


_FORMATS: Final[dict[str, Read]] = {
    "json": read_json,
    "value": read_value,
    "msgpack": _read_msgpack,
    "influx": _read_influx,
}
