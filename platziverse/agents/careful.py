"""Careful: the slower reader of ``agent/message``, which forgives single metrics and says what is wrong."""

import json
import re
from typing import Any, Final

from attrs import define
from msgspec import DecodeError, Raw, ValidationError
from msgspec.json import Decoder

from platziverse.agents.model import MAX_REASON, Agent, InvalidReport, Metric

MAX_DEPTH: Final = 16
#: Bytes of one value.
MAX_VALUE: Final = 4096

_BOM: Final = b"\xef\xbb\xbf"
#: A string, closed or not, or a bracket; no input makes it go back.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]+|\\.)*"?|[][{}]', re.DOTALL)


_NULL: Final = Raw(b"null")


@define
class _Message:
    agent: Agent
    metrics: list[Raw]
    timestamp: Raw = _NULL


_decode: Final = Decoder(_Message).decode
_decode_metric: Final = Decoder(Metric).decode
_decode_timestamp: Final = Decoder(int | float | str | None).decode

#: A string, or one of the words that programs write where JSON has no number. None is within a string.
_WORD: Final = re.compile(
    rb'"(?:[^"\\]+|\\.)*"?|(?<![\w.])[-+]?(?:nan|inf|infinity)(?![\w.])', re.DOTALL | re.IGNORECASE
)
#: What such a word is replaced by, so that the rest can be read: a text that is refused as a value.
NO_NUMBER: Final = "\x01no number: "


def read_carefully(
    payload: bytes, max_metrics: int
) -> "tuple[Agent, list[Metric], int | float | str | None, str]":
    """Return agent, usable metrics, timestamp, and in words what is wrong with the other metrics.

    The timestamp is ``None`` when there is none, and NaN when it is no number.

    :raises InvalidReport: nothing can be used.
    """
    check_text(payload)
    _check_depth(payload)
    payload = words_marked(payload)
    try:
        message = _decode(payload)
    except ValidationError as error:
        raise InvalidReport("fields", str(error)) from None
    except (DecodeError, RecursionError) as error:
        raise InvalidReport("syntax", str(error)) from None
    if len(message.metrics) > max_metrics:
        raise InvalidReport(
            "size", f"{len(message.metrics)} metrics, {max_metrics} are allowed (max_metrics)"
        )
    check_keys(payload)
    agent = message.agent
    for field in ("uuid", "username", "name", "hostname"):
        if "\0" in getattr(agent, field):
            raise InvalidReport("fields", f"NUL - at `$.agent.{field}`")
    metrics, problems = _read_metrics(message.metrics)
    if problems and not metrics:
        raise InvalidReport("metrics", problems)
    return agent, metrics, _read_timestamp(message.timestamp), problems


def words_marked(payload: bytes) -> bytes:
    """Return JSON that can be read: each word such as NaN is a text, ``NO_NUMBER`` and the word."""
    return _WORD.sub(_quoted, payload)


def _quoted(found: "re.Match[bytes]") -> bytes:
    word = found[0]
    return word if word.startswith(b'"') else b'"\\u0001no number: %b"' % word


def check_text(payload: bytes) -> None:
    """Check that a payload is text.

    :raises InvalidReport: it is no UTF-8, or begins with a byte order mark.
    """
    if payload.startswith(_BOM):
        raise InvalidReport("encoding", "begins with a byte order mark")
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidReport("encoding", f"not UTF-8: {error.reason} (byte {error.start})") from None


def _check_depth(payload: bytes) -> None:
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(payload):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidReport("depth", f"nested deeper than {MAX_DEPTH} (byte {token.start()})")
        elif first in b"]}":
            depth -= 1


def check_keys(payload: bytes) -> None:
    """Check JSON that could be read.

    :raises InvalidReport: a key comes twice in one object.
    """
    try:
        json.loads(payload, object_pairs_hook=_unique, parse_int=_any, parse_float=_any)
    except ValueError as error:  # pragma: no cover: msgspec has taken it; on nothing known do they differ
        raise InvalidReport("syntax", f"JSON is malformed: {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise InvalidReport("duplicate", f"key {key!r:.80} comes twice")
        seen.add(key)


def _any(_: str) -> None:
    """Ignore a number."""


def _read_metrics(raws: list[Raw]) -> tuple[list[Metric], str]:
    metrics, problems = [], []
    for index, raw in enumerate(raws):
        try:
            metrics.append(_read_metric(raw))
        except (DecodeError, ValueError) as error:
            path = f"`$.metrics[{index}]"
            text = str(error)
            problems.append(text.replace("`$", path) if "`$" in text else f"{text} - at {path}`")
    if not problems:
        return metrics, ""
    count = f"{len(problems)} of {len(raws)} metrics: " if len(raws) > 1 else ""
    return metrics, (count + "; ".join(problems))[:MAX_REASON]


def _read_metric(raw: Raw) -> Metric:
    """Read one metric.

    :raises ValueError: it cannot be used; the text is part of the reason. So is that of ``DecodeError``.
    """
    metric = _decode_metric(raw)
    value: Any = metric.value
    metric.value = value = value if isinstance(value, str) else number_text(value)
    if value.startswith(NO_NUMBER):
        raise ValueError(f"{value[1:]} - at `$.value`")
    if "\0" in metric.type:
        raise ValueError("NUL - at `$.type`")
    if "\0" in value:
        raise ValueError("NUL - at `$.value`")
    if len(value.encode()) > MAX_VALUE:
        raise ValueError(f"longer than {MAX_VALUE} bytes - at `$.value`")
    return metric


def _read_timestamp(raw: Raw) -> int | float | str | None:
    try:
        timestamp: int | float | str | None = _decode_timestamp(raw)
    except DecodeError:
        return float("nan")
    return timestamp


def number_text(value: int | float) -> str:
    """Return the shortest decimal text for the same number; integers of any size digit by digit.

    :raises ValueError: it is too large even for a double.
    """
    if isinstance(value, int):
        if value.bit_length() > 1024:
            raise ValueError("Number out of range - at `$.value`")
        return str(value)
    text = repr(value)
    return (text[:-2] if value else "0") if text.endswith(".0") else text
