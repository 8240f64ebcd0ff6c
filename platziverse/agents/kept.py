"""Kept: the Properties of a message as JSON, as they stand beside a message that was rejected."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from msgspec.json import encode

from platziverse.mqtt.packets import PublishProperties

#: Property → its name in JSON.
NAMES: Final = {
    "payload_format_indicator": "payloadFormatIndicator",
    "message_expiry_interval": "messageExpiryInterval",
    "content_type": "contentType",
    "response_topic": "responseTopic",
    "correlation_data": "correlationData",
}
#: Bytes of punctuation that a Property takes in JSON, at most.
_ROOM: Final = 8


def as_json(properties: PublishProperties | None, most: int) -> str | None:
    """Return Properties as an object of JSON, Correlation Data in base64; ``None``: there are none.

    :param most: bytes of them all, about; those for which there is no room are left out, and counted as
        ``leftOut``.
    """
    if properties is None:
        return None
    found: dict[str, Any] = {}
    left_out = 0
    for name, written in NAMES.items():
        value = getattr(properties, name)
        if isinstance(value, bytes):
            value = b64encode(value).decode()
        if value is not None:
            size = len(encode(value)) + len(written) + _ROOM
            if size <= most:
                found[written], most = value, most - size
            else:
                left_out += 1
    pairs, more = _pairs(properties, most)
    if pairs:
        found["userProperties"] = pairs
    if left_out + more:
        found["leftOut"] = left_out + more
    return encode(found).decode()


def _pairs(properties: PublishProperties, most: int) -> tuple[list[tuple[str, str]], int]:
    """Return the first User Properties for which there is room, and how many there are besides."""
    pairs = properties.user_properties
    for number, pair in enumerate(pairs):
        most -= len(encode(pair)) + _ROOM
        if most < 0:
            return list(pairs[:number]), len(pairs) - number
    return list(pairs), 0


def from_json(found: Mapping[str, Any] | None) -> PublishProperties | None:
    """Return the Properties that :func:`as_json` has written, but for what it has left out."""
    if not found:
        return None
    values = {name: found[written] for name, written in NAMES.items() if written in found}
    if (data := values.get("correlation_data")) is not None:
        values["correlation_data"] = b64decode(data)
    pairs = tuple((name, value) for name, value in found.get("userProperties", ()))
    return PublishProperties(**values, user_properties=pairs)
