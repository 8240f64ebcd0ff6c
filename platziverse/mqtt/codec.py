"""Codec: one encode function per Control Packet, and :class:`EncodedPublish`, one encoding for many."""

from collections.abc import Callable, Sequence
from struct import Struct, pack
from sys import getsizeof
from typing import Any, Final

from platziverse.mqtt.framing import LENGTHS, encode_length
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import weigh
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH

#: Answers that never change.
PINGRESP: Final = b"\xd0\x00"

_UINT16: Final = Struct(">H").pack
_IDENTIFIED: Final = Struct(">BBH").pack
_NAMES: Final = {4: b"MQTT", 3: b"MQIsdp"}


def encode_puback(packet_id: int) -> bytes:
    """Return the four bytes of a PUBACK."""
    return _IDENTIFIED(0x40, 2, packet_id)


def encode_pubacks(packet_ids: Sequence[int]) -> bytes:
    """Return the bytes of many PUBACKs, in the order of ``packet_ids``."""
    return pack(f">{len(packet_ids)}I", *[0x40020000 | packet_id for packet_id in packet_ids])


def encode_pubrec(packet_id: int) -> bytes:
    """Return the four bytes of a PUBREC."""
    return _IDENTIFIED(0x50, 2, packet_id)


def encode_pubrel(packet_id: int) -> bytes:
    """Return the four bytes of a PUBREL."""
    return _IDENTIFIED(0x62, 2, packet_id)  # [MQTT-3.6.1-1]


def encode_pubcomp(packet_id: int) -> bytes:
    """Return the four bytes of a PUBCOMP."""
    return _IDENTIFIED(0x70, 2, packet_id)


_FIRST: Final = tuple(bytes((first,)) for first in range(256))
#: The whole Fixed Header of a short PUBLISH at QoS 0, by its Remaining Length.
_HEADERS: Final = tuple(bytes((0x30, length)) for length in range(128))


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _UINT16(len(data)) + data


#: Topic Name → its bytes behind their length.
TOPICS: Final = Memo(_text)


def encode_at_qos0(message: Publish) -> bytes:
    """Return the PUBLISH at QoS 0, without RETAIN and DUP, in whole."""
    topic = TOPICS[message.topic]
    payload = message.payload
    size = len(topic) + len(payload)
    if size < 128:
        return _HEADERS[size] + topic + payload  # [MQTT-2.3.1-5]
    return b"\x30" + encode_length(size) + topic + payload


def encode_all_at_qos0(topic: bytes, payloads: Sequence[bytes]) -> list[bytes]:
    """Return PUBLISHes at QoS 0 that differ in their payloads alone, without RETAIN and DUP, each in whole.

    :param topic: all that stands between Remaining Length and payload.
    """
    head = len(topic)
    heads = {size: b"\x30" + encode_length(head + size) + topic for size in set(map(len, payloads))}
    return [heads[len(payload)] + payload for payload in payloads]


class EncodedPublish:
    """An EncodedPublish is an Application Message on its way out, encoded once for all its receivers.

    What differs between them, that is QoS, DUP and Packet Identifier, is added for each.

    :param retain: whether RETAIN is set in every copy.
    :ivar message: the Application Message.
    :ivar first: the first byte of the packet at QoS 0.
    :ivar size: bytes of Topic Name, payload and Properties, for the limits of queues; a Topic Name that is
        not remembered counts as often as it is kept here, as text and as bytes.
    """

    __slots__ = ("_head", "first", "five", "message", "size")

    def __init__(self, message: Publish, retain: bool = False) -> None:
        topic = TOPICS[message.topic]
        self.message = message
        self.first = 0x31 if retain else 0x30
        #: Of MQTT 5, once a client of that version gets it; see :class:`Encoding5`.
        self.five: tuple[bytes, bytes] | None = None
        self.size = size = len(topic) + len(message.payload)
        if message.properties is not None:
            self.size += weigh(message.properties)
        # Behind the first byte and before the Packet Identifier, of two bytes.
        if size < 126:
            self._head = LENGTHS[size + 2] + topic
            return
        self._head = encode_length(size + 2) + topic
        if len(topic) > CACHED_TOPIC_LENGTH:
            self.size += getsizeof(message.topic)

    @property
    def qos0(self) -> bytes:
        """The bytes of the packet at QoS 0."""
        data = encode_at_qos0(self.message)
        return data if self.first == 0x30 else b"\x31" + data[1:]

    @property
    def topic(self) -> str:
        """The Topic Name of the message."""
        return self.message.topic

    @property
    def payload(self) -> bytes:
        """The payload of the message."""
        return self.message.payload

    @property
    def retain(self) -> bool:
        """Return whether RETAIN is set in every copy."""
        return self.first == 0x31

    def head(self, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2 up to its payload."""
        return _FIRST[self.first | qos << 1 | dup << 3] + self._head + _UINT16(packet_id)

    def with_id(self, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2."""
        first = self.first | qos << 1 | dup << 3
        return _FIRST[first] + self._head + _UINT16(packet_id) + self.message.payload


def _packet(first: int, body: bytes) -> bytes:
    return _FIRST[first] + encode_length(len(body)) + body


def _encode_connect(packet: Connect) -> bytes:
    flags = 0x02 if packet.clean_session else 0
    payload = _text(packet.client_id)
    if (will := packet.will) is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += _text(will.topic) + _text(will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload += _text(packet.username)
    if packet.password is not None:
        flags |= 0x40
        payload += _text(packet.password)
    level = packet.protocol_level
    header = _text(_NAMES[level]) + bytes((level | packet.bridge << 7, flags)) + _UINT16(packet.keep_alive)
    return _packet(0x10, header + payload)


def _encode_connack(packet: Connack) -> bytes:
    return bytes((0x20, 2, packet.session_present, packet.return_code))


def _encode_publish(packet: Publish) -> bytes:
    encoded = EncodedPublish(packet, packet.retain)
    if packet.packet_id is not None:
        return encoded.with_id(packet.qos, packet.packet_id, packet.dup)
    return _FIRST[encoded.qos0[0] | 0x08] + encoded.qos0[1:] if packet.dup else encoded.qos0


def _encode_subscribe(packet: Subscribe) -> bytes:
    filters = [_text(each.topic_filter) + bytes((each.qos,)) for each in packet.subscriptions]
    return _packet(0x82, _UINT16(packet.packet_id) + b"".join(filters))


def _encode_suback(packet: Suback) -> bytes:
    return _packet(0x90, _UINT16(packet.packet_id) + bytes(packet.return_codes))


def _encode_unsubscribe(packet: Unsubscribe) -> bytes:
    return _packet(0xA2, _UINT16(packet.packet_id) + b"".join(map(_text, packet.topic_filters)))


ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Connect: _encode_connect,
    Connack: _encode_connack,
    Publish: _encode_publish,
    Puback: lambda packet: encode_puback(packet.packet_id),
    Pubrec: lambda packet: encode_pubrec(packet.packet_id),
    Pubrel: lambda packet: encode_pubrel(packet.packet_id),
    Pubcomp: lambda packet: encode_pubcomp(packet.packet_id),
    Subscribe: _encode_subscribe,
    Suback: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    Unsuback: lambda packet: _IDENTIFIED(0xB0, 2, packet.packet_id),
    Pingreq: lambda packet: b"\xc0\x00",
    Pingresp: lambda packet: PINGRESP,
    Disconnect: lambda packet: b"\xe0\x00",
}


def encode(packet: Packet) -> bytes:
    """Return the bytes of any Control Packet."""
    return ENCODERS[type(packet)](packet)
