"""One decode function per Control Packet (section 3), and their table.

Each gets the flags of the Fixed Header and exactly the bytes that follow it, and has to use all of
them. PUBLISH, the packet that comes most, is decoded in :mod:`platziverse.mqtt.decoder`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from platziverse.mqtt.errors import ConnectRefused, MalformedPacket
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
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
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.topics import (
    CACHED_TOPIC_LENGTH,
    CACHED_TOPICS,
    check_count,
    check_topic_filter,
    check_topic_name,
)

#: Protocol Name → Protocol Level: MQTT 3.1.1 and MQTT 3.1.
_PROTOCOLS: Final = {b"MQTT": 4, b"MQIsdp": 3}


class Body:
    """What follows the Fixed Header, read from front to back.

    Every method raises :class:`MalformedPacket` when the bytes do not suffice.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        """One byte."""
        return self._take(1)[0]

    def number(self) -> int:
        """A 16-bit number."""
        return int.from_bytes(self._take(2), "big")

    def packet_id(self) -> int:
        """A Packet Identifier; it is never 0."""
        number = self.number()
        if not number:
            raise MalformedPacket("Packet Identifier 0", "MQTT-2.3.1-1")
        return number

    def binary(self) -> bytes:
        """Bytes behind their 16-bit length."""
        return self._take(self.number())

    def text(self) -> str:
        """A UTF-8 encoded string (section 1.5.3)."""
        return decode_text(self.binary())

    def end(self) -> None:
        """Nothing may be left. [MQTT-4.8.0-1]"""
        if self:
            left = len(self._data) - self._position
            raise MalformedPacket(f"{left} bytes too many for the packet", "4.8")

    def _take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise MalformedPacket("the packet is shorter than its content", "4.8")
        return self._data[start : self._position]


def decode_text(data: bytes) -> str:
    """Strict UTF-8: no surrogates, no NUL; a BOM is a character like any other [MQTT-1.5.3-3].

    :raises MalformedPacket: it is not.
    """
    try:
        text = data.decode()  # [MQTT-1.5.3-1]
    except UnicodeDecodeError:
        raise MalformedPacket(f"{data[:50]!r} is not UTF-8", "MQTT-1.5.3-1") from None
    if "\0" in text:  # [MQTT-1.5.3-2]
        raise MalformedPacket(f"a NUL in {data[:50]!r}", "MQTT-1.5.3-2")
    return text


def decode_topic(data: bytes) -> str:
    """A Topic Name.

    :raises MalformedPacket: it is none.
    """
    topic = decode_text(data)
    check_topic_name(topic)  # [MQTT-3.3.2-1]
    return topic


def check_levels(topic: str, max_levels: int) -> None:
    """:raises MalformedPacket: the Topic Name has more levels than we allow."""
    if topic.count("/") >= max_levels:
        raise MalformedPacket(f"a Topic Name of more than {max_levels} levels", "4.7.1.1")


class TopicNames(dict[bytes, str]):
    """Raw bytes → Topic Name, remembered for those that come again and again.

    Both the number of entries and the length of each are bounded, so the bytes are as well.
    """

    def __init__(self, max_levels: int) -> None:
        super().__init__()
        self._max_levels = max_levels

    def __missing__(self, data: bytes) -> str:
        """:raises MalformedPacket: it is no Topic Name, or has too many levels."""
        topic = decode_topic(data)
        check_levels(topic, self._max_levels)
        if len(data) <= CACHED_TOPIC_LENGTH:
            if len(self) >= CACHED_TOPICS:
                self.clear()
            self[data] = topic
        return topic


#: One for each limit on levels, shared by all decoders with that limit.
topic_names: Final = lru_cache(maxsize=8)(TopicNames)


# -- decoding ----------------------------------------------------------------------------------------


def _flags_are(expected: int, flags: int) -> None:
    if flags != expected:  # [MQTT-2.2.2-1] [MQTT-2.2.2-2]
        raise MalformedPacket(f"flags {flags:#x} in place of {expected:#x}", "MQTT-2.2.2-2")


def decode_connect(flags: int, data: bytes, max_levels: int) -> Connect:
    """:raises ConnectRefused: the protocol, or the Client Identifier, is answered with a CONNACK."""
    _flags_are(0, flags)
    body = Body(data)
    name, level = body.binary(), body.byte()
    if name not in _PROTOCOLS:  # [MQTT-3.1.2-1]
        raise MalformedPacket(f"Protocol Name {name[:50]!r}", "MQTT-3.1.2-1")
    if _PROTOCOLS[name] != level:  # before the rest: another version looks different [MQTT-3.1.2-2]
        refused = ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION
        raise ConnectRefused(refused, f"Protocol Level {level} of {name!r}", "MQTT-3.1.2-2")
    connect_flags, keep_alive = body.byte(), body.number()
    _check_connect_flags(connect_flags)
    client_id = body.text()  # [MQTT-3.1.3-3] [MQTT-3.1.3-4]
    will = _decode_will(body, connect_flags, max_levels) if connect_flags & 0x04 else None
    # [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-11]
    username = body.text() if connect_flags & 0x80 else None
    password = body.binary() if connect_flags & 0x40 else None  # [MQTT-3.1.2-20] [MQTT-3.1.2-21]
    body.end()
    clean_session = bool(connect_flags & 0x02)
    if not client_id and not clean_session:  # [MQTT-3.1.3-7] [MQTT-3.1.3-8]
        refused = ConnectReturnCode.IDENTIFIER_REJECTED
        raise ConnectRefused(refused, "no Client Identifier, and Clean Session is 0", "MQTT-3.1.3-8")
    return Connect(client_id, clean_session, keep_alive, will, username, password, level)


def _check_connect_flags(flags: int) -> None:
    if flags & 0x01:
        raise MalformedPacket("the reserved CONNECT flag is set", "MQTT-3.1.2-3")
    if not flags & 0x04 and flags & 0x38:  # [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-15]
        raise MalformedPacket("Will QoS or Will Retain without a Will", "MQTT-3.1.2-11")
    if flags & 0x18 == 0x18:
        raise MalformedPacket("Will QoS 3", "MQTT-3.1.2-14")
    if flags & 0xC0 == 0x40:
        raise MalformedPacket("a password without a user name", "MQTT-3.1.2-22")


def _decode_will(body: Body, flags: int, max_levels: int) -> Publish:
    topic = decode_topic(body.binary())  # [MQTT-3.1.3-10]
    check_levels(topic, max_levels)
    return Publish(topic, body.binary(), flags >> 3 & 3, bool(flags & 0x20))


def decode_connack(flags: int, data: bytes, max_levels: int) -> Connack:
    """As a client would."""
    _flags_are(0, flags)
    body = Body(data)
    acknowledge_flags, code = body.byte(), body.byte()
    body.end()
    if acknowledge_flags > 1 or code > ConnectReturnCode.NOT_AUTHORIZED:
        raise MalformedPacket("CONNACK with reserved values", "3.2.2")
    return Connack(bool(acknowledge_flags), ConnectReturnCode(code))


def _decoder_of_identified(kind: Callable[[int], Packet], expected_flags: int) -> "Decode":
    def decode(flags: int, data: bytes, max_levels: int) -> Packet:
        _flags_are(expected_flags, flags)
        body = Body(data)
        packet = kind(body.packet_id())
        body.end()
        return packet

    return decode


def decode_subscribe(flags: int, data: bytes, max_levels: int) -> Subscribe:
    """Topic Filters of too many levels are not malformed: SUBACK refuses them one by one."""
    _flags_are(0x02, flags)  # [MQTT-3.8.1-1]
    body = Body(data)
    packet_id = body.packet_id()
    subscriptions: list[Subscription] = []
    while body:
        topic_filter, qos = body.text(), body.byte()  # [MQTT-3.8.3-1]
        check_topic_filter(topic_filter)
        if qos > 2:
            raise MalformedPacket(f"Requested QoS {qos}", "MQTT-3-8.3-4")
        subscriptions.append(Subscription(topic_filter, qos))
        check_count(subscriptions)
    if not subscriptions:
        raise MalformedPacket("SUBSCRIBE without a Topic Filter", "MQTT-3.8.3-3")
    return Subscribe(packet_id, subscriptions)


def decode_suback(flags: int, data: bytes, max_levels: int) -> Suback:
    """As a client would."""
    _flags_are(0, flags)
    body = Body(data)
    packet_id = body.packet_id()
    codes: list[int] = []
    while body:
        codes.append(body.byte())
        if codes[-1] not in (0, 1, 2, 0x80):
            raise MalformedPacket(f"SUBACK return code {codes[-1]}", "MQTT-3.9.3-2")
    if not codes:
        raise MalformedPacket("SUBACK without a return code", "MQTT-3.8.4-5")
    return Suback(packet_id, codes)


def decode_unsubscribe(flags: int, data: bytes, max_levels: int) -> Unsubscribe:
    """UNSUBSCRIBE."""
    _flags_are(0x02, flags)  # [MQTT-3.10.1-1]
    body = Body(data)
    packet_id = body.packet_id()
    topic_filters: list[str] = []
    while body:
        topic_filters.append(body.text())  # [MQTT-3.10.3-1]
        check_topic_filter(topic_filters[-1])
        check_count(topic_filters)
    if not topic_filters:
        raise MalformedPacket("UNSUBSCRIBE without a Topic Filter", "MQTT-3.10.3-2")
    return Unsubscribe(packet_id, topic_filters)


def _decoder_of_empty(packet: Packet) -> "Decode":
    def decode(flags: int, data: bytes, max_levels: int) -> Packet:
        _flags_are(0, flags)  # [MQTT-3.14.1-1]
        Body(data).end()
        return packet

    return decode


Decode: TypeAlias = "Callable[[int, bytes, int], Packet]"

#: Packet type → (flags, content, most levels of a Topic Name) → packet. PUBLISH is not among them.
DECODERS: Final[dict[int, Decode]] = {
    1: decode_connect,
    2: decode_connack,
    4: _decoder_of_identified(Puback, 0),
    5: _decoder_of_identified(Pubrec, 0),
    6: _decoder_of_identified(Pubrel, 0x02),  # [MQTT-3.6.1-1]
    7: _decoder_of_identified(Pubcomp, 0),
    8: decode_subscribe,
    9: decode_suback,
    10: decode_unsubscribe,
    11: _decoder_of_identified(Unsuback, 0),
    12: _decoder_of_empty(Pingreq()),
    13: _decoder_of_empty(Pingresp()),
    14: _decoder_of_empty(Disconnect()),
}
