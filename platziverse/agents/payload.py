"""Payload: turns the bytes of an ``agent/message`` into a :class:`Report`.

Two readers agree on what is valid. The quick one decodes straight into the classes and proves with one count
of quotation marks that nothing was there that it did not read. Everything unusual goes to the careful one
(:mod:`~platziverse.agents.careful`), which is also the one that says what is wrong.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from attrs import evolve
from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from platziverse.agents.careful import number_text, read_carefully
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import FUTURE, PAST, Agent, InvalidReport, Metric, Rejection, Report
from platziverse.mqtt.packets import Publish
from platziverse.times import MICROSECONDS, MILLISECONDS, milliseconds

_EXACT: Final = 2**53
_LONG: Final = 1024

_DEFAULTS: Final = AgentLimits()


class _Message(Struct, gc=False):
    agent: Agent
    metrics: list[Metric]
    timestamp: int | float | None = None


_decode: Final = Decoder(_Message).decode

#: Sets the time of a reading, as :func:`use_time` does for what comes now.
UseTime: TypeAlias = Callable[[Report, int | float, blake2b], None]


def use_time(report: Report, milliseconds: int | float, hashed: blake2b) -> None:
    """Set the time of a reading, and the key of its report, if that time can be right.

    :param milliseconds: since the epoch; NaN stands for a time that is no number.
    :param hashed: of :func:`hash_of`.
    """
    arrived = report.arrived
    if (arrived - PAST) * 1000 <= milliseconds <= (arrived + FUTURE) * 1000:
        report.measured = milliseconds / 1000
        report.key = int(milliseconds).to_bytes(6, "big") + hashed.digest()
    else:
        report.measured = arrived
        report.measured_adjusted = True


def parse(
    message: Publish,
    client_id: str,
    arrived: float,
    limits: AgentLimits = _DEFAULTS,
    use_time: UseTime = use_time,
) -> Report:
    """Return the Report that a message brings.

    :param client_id: of the sender, for the Rejections.
    :param arrived: seconds since the epoch, wall clock.
    :param use_time: sets the time of its reading.
    :raises InvalidReport: nothing of the message can become rows.
    """
    payload = message.payload
    check_size(payload, limits)
    source = Rejection(message.topic, client_id, payload, "", arrived, "", message.properties)
    found = _read_quickly(payload, limits.max_metrics)
    timestamp: int | float | str | None
    if found is None:
        agent, metrics, timestamp, problems = read_carefully(payload, limits.max_metrics)
        report = Report(agent, metrics, arrived, source)
        if problems:
            report.rejections.append(evolve(source, reason=problems))
    else:
        timestamp = found.timestamp
        report = Report(found.agent, found.metrics, arrived, source)
    if timestamp is not None:
        if isinstance(timestamp, str) or not MILLISECONDS <= timestamp < MICROSECONDS:
            timestamp, report.time_form = milliseconds(timestamp)
        # The payload names the agent: its hash is one over agent and payload.
        use_time(report, timestamp, hash_of(payload))
    return report


def _read_quickly(payload: bytes, max_metrics: int) -> _Message | None:
    try:
        message = _decode(payload)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    metrics = message.metrics
    if len(metrics) > max_metrics:
        return None
    # Strings read: two keys of the message, five keys and four texts of the agent.
    strings = (11 if message.timestamp is None else 12) + 4 * len(metrics)
    for metric in metrics:
        value: Any = metric.value
        if type(value) is str:
            if len(value) > _LONG:
                return None
        elif -_EXACT <= value <= _EXACT:
            metric.value = number_text(value)
            strings -= 1
        else:
            return None
    # An unknown key, or one that came twice, is a string too many. Escapes hide quotes, NUL and keys. Without
    # either every string has been decoded, and is UTF-8.
    if payload.count(b'"') != 2 * strings or b"\\" in payload:
        return None
    return message


def hash_of(hashed: bytes) -> blake2b:
    """Return the hash of bytes that recognise a message when it comes again, as a part of its key."""
    return blake2b(hashed, digest_size=10)


def check_size(payload: bytes, limits: AgentLimits) -> None:
    """Check the size of a payload.

    :raises InvalidReport: it is longer than that of a report may be.
    """
    if len(payload) > limits.max_payload:
        reason = f"{len(payload)} bytes, {limits.max_payload} are allowed (max_payload)"
        raise InvalidReport("size", reason)
