"""Details: Properties, Reason Codes and versions by name, for traces and whoever asks who is there."""

from collections.abc import Iterator
from typing import Final

from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.packets import Connack, Packet, Properties, PublishProperties, Suback, Unsuback
from platziverse.mqtt.properties import PROPERTIES
from platziverse.mqtt.reasoncodes import ReasonCode

#: Protocol Level → what people call that version.
VERSIONS: Final = {3: "3.1", 4: "3.1.1", 5: "5"}
#: From here on a Reason Code says no.
REFUSED: Final = 0x80

#: Characters of a value that are told, and how many pairs or numbers of one Property.
_LONGEST: Final = 100
_MOST: Final = 10
#: More than any packet has.
_ANY_SIZE: Final = 1 << 30


def named(properties: "Properties | PublishProperties | None") -> dict[str, object]:
    """Return the Properties that are there, by their names in the table; no Authentication Data."""
    if properties is None:
        return {}
    names = dict.fromkeys(row.name for row in PROPERTIES if row.name != "authentication_data")
    found = {name: getattr(properties, name, None) for name in names}
    return {name: value for name, value in found.items() if value not in (None, ())}


def in_words(properties: "Properties | PublishProperties | None") -> str:
    """Return the Properties that are there as one text, each behind a comma; long ones are cut."""
    return "".join(f", {name.replace('_', ' ')} {_shown(value)}" for name, value in named(properties).items())


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        shown = " ".join(map(_one, value[:_MOST]))
        return shown if len(value) <= _MOST else f"{shown} and {len(value) - _MOST} more"
    return _one(value)


def _one(value: object) -> str:
    if isinstance(value, tuple):
        return "=".join(map(_one, value))
    return f"{value!r:.{_LONGEST}}"


def code_name(code: int) -> str:
    """Return the name of a Reason Code, as metrics and traces have it."""
    return ReasonCode(code).name.lower()


def answer_in_words(packet: Packet) -> str:
    """Return the Reason Codes of a packet of MQTT 5, behind a blank; nothing: it has none but Success."""
    if isinstance(packet, (Suback, Unsuback)):
        return f" {' '.join(map(code_name, packet.return_codes))}"
    if isinstance(packet, Connack):
        return f" {code_name(packet.return_code)}"
    code = getattr(packet, "reason_code", 0)
    return f" {code_name(code)}" if code else ""


def packets_in(data: bytes) -> Iterator[tuple[Packet, int]]:
    """Return the packets in what we have sent to a client of MQTT 5, each with its bytes."""
    decoder = PacketDecoder(_ANY_SIZE)
    decoder.connected(_ANY_SIZE, 5)
    decoder.feed(data)
    while decoder.has_more:
        before = decoder.pending
        [packet] = decoder.take(1)
        yield packet, before - decoder.pending
