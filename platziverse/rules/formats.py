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
from platziverse.rules.errors import too_many_values
from platziverse.rules.influx import read_lines
from platziverse.rules.telegraf import in_one_form
from platziverse.words import nearest

#: Makes a document of Topic Name, payload, and how many values it may have. JSON is counted when it is read.
Read: TypeAlias = Callable[[str, bytes, int], Any]

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


def read_json(_: str, payload: bytes, most: int) -> Any:
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


def read_value(_: str, payload: bytes, most: int) -> str:
    """Return a payload as text. :raises InvalidReport: it is none."""
    check_text(payload)
    return payload.decode()


def _read_msgpack(_: str, payload: bytes, most: int) -> Any:
    try:
        return plain(_decode_msgpack(payload), most)
    except (DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise InvalidReport("syntax", _line(error)) from None


def _read_influx(_: str, payload: bytes, most: int) -> Any:
    check_text(payload)
    try:
        return {"metrics": read_lines(payload.decode(), most)}
    except ValueError as error:
        raise InvalidReport("syntax", str(error)) from None


def _read_telegraf(topic: str, payload: bytes, most: int) -> Any:
    read = read_json if payload[:1] == b"{" else _read_influx
    return in_one_form(read(topic, payload, most))


def _of_cbor() -> Read:
    """Return what reads CBOR. :raises ValueError: the package is missing."""
    try:
        loads: Callable[[bytes], Any] = import_module("cbor2").loads
    except ImportError:
        raise ValueError("format cbor needs the package cbor2: pip install 'platziverse[cbor]'") from None

    def read_cbor(_: str, payload: bytes, most: int) -> Any:
        check_cbor(payload, most)
        try:
            document = loads(payload)
        except Exception as error:  # of a decoder of tags, which makes dates
            raise InvalidReport("syntax", _line(error)) from None
        return plain(document, most)

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

    def read_given(topic: str, payload: bytes, most: int) -> Any:
        try:
            return plain(read(topic, payload), most)
        except InvalidReport:
            raise
        except Exception as error:
            raise InvalidReport("handler", f"{name}: {type(error).__name__}: {_line(error)}") from None

    return read_given


def plain(document: Any, most: int) -> Any:
    """Return a document whose keys are texts, whose texts are UTF-8, and which is a tree.

    Keys of MessagePack and CBOR may be anything, a document of CBOR may hold itself, and a function may make
    texts that nobody can write.

    :raises InvalidReport: it is nested too deeply, has more than ``most`` values, or a text is none.
    """
    left = most

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
            raise too_many_values(most)
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
            raise too_many_values(most)
        inner = value.values() if value.__class__ is dict else value
        waiting += [one for one in inner if one.__class__ is dict or one.__class__ is list]


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
    "telegraf": _read_telegraf,
}
