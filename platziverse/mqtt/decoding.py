"""One decode function per Control Packet (section 3), and their table.

Each is called with the flags of the Fixed Header, exactly the bytes that follow it, and the most levels that
a Topic Name may have. It raises ``MalformedPacket`` unless all of the bytes are used. PUBLISH, the packet
that comes most, is decoded in :mod:`platziverse.mqtt.decoder`.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias

from platziverse.mqtt.decoding5 import MQTT_5
from platziverse.mqtt.decoding5 import decode_connect as decode_connect5
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
from platziverse.mqtt.readers import Body, check_levels, decode_topic
from platziverse.mqtt.topics import check_count, check_topic_filter

#: Protocol Name → Protocol Level: MQTT 3.1.1 and MQTT 3.1.
_PROTOCOLS: Final = {b"MQTT": 4, b"MQIsdp": 3}
#: How CONNECT of MQTT 3.1.1 begins: Protocol Name and Level; Connect Flags and Keep Alive follow.
_MQTT_3_1_1: Final = b"\0\4MQTT\4"
_BEGINNING: Final = Struct(">7sBH")
#: Of a Protocol Level: Mosquitto's bridges, by default. ADR 0102.
_BRIDGE: Final = 0x80
_CLEAN_SESSION: Final = 0x02


def _flags_are(expected: int, flags: int) -> None:
    if flags != expected:  # [MQTT-2.2.2-1] [MQTT-2.2.2-2]
        raise MalformedPacket(f"flags {flags:#x} in place of {expected:#x}", "MQTT-2.2.2-2")


def decode_connect(flags: int, data: bytes, max_levels: int) -> Connect:
    """Decode CONNECT.

    :raises ConnectRefused: the protocol, or the Client Identifier, is to be answered with a CONNACK.
    """
    _flags_are(0, flags)
    version, bridge = 4, False
    if data.startswith(MQTT_5):
        return decode_connect5(flags, data, max_levels)
    if data.startswith(_MQTT_3_1_1) and len(data) >= _BEGINNING.size:  # the usual one, in one call: ADR 0122
        _, connect_flags, keep_alive = _BEGINNING.unpack_from(data)
        body = Body(data, _BEGINNING.size)
    else:
        body = Body(data)
        version, bridge = _decode_version(body)
        connect_flags, keep_alive = body.byte(), body.number()
    if connect_flags != _CLEAN_SESSION:  # which contradicts nothing
        _check_connect_flags(connect_flags)
    client_id = body.text()  # [MQTT-3.1.3-3] [MQTT-3.1.3-4]
    will = _decode_will(body, connect_flags, max_levels) if connect_flags & 0x04 else None
    # [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-11]
    username = body.text() if connect_flags & 0x80 else None
    password = body.binary() if connect_flags & 0x40 else None  # [MQTT-3.1.2-20] [MQTT-3.1.2-21]
    body.end()
    clean_session = bool(connect_flags & _CLEAN_SESSION)
    if not client_id and not clean_session:  # [MQTT-3.1.3-7] [MQTT-3.1.3-8]
        refused = ConnectReturnCode.IDENTIFIER_REJECTED
        raise ConnectRefused(refused, "no Client Identifier, and Clean Session is 0", "MQTT-3.1.3-8")
    return Connect(client_id, clean_session, keep_alive, will, username, password, version, bridge)


def _decode_version(body: Body) -> tuple[int, bool]:
    """Return the Protocol Level of a CONNECT, and whether it is of a bridge."""
    name, level = body.binary(), body.byte()
    if name not in _PROTOCOLS:  # [MQTT-3.1.2-1]
        raise MalformedPacket(f"Protocol Name {name[:50]!r}", "MQTT-3.1.2-1")
    version = level & ~_BRIDGE
    if (
        _PROTOCOLS[name] != version
    ):  # before the rest: another version looks different [MQTT-3.1.2-2] [MQTT5-3.1.2-2]
        raise _other_version(name, level, body)
    return version, bool(level & _BRIDGE)


def _other_version(name: bytes, level: int, body: Body) -> ConnectRefused:
    """Return how to refuse a version that is not ours, with the Client Identifier where it can be found."""
    client_id = ""
    try:
        body.byte(), body.number()
        if level >= 5:  # the properties of MQTT 5 come before it, behind their length
            body.skip(body.variable_number())
        client_id = body.text()
    except MalformedPacket:
        pass
    reason = (
        f"Protocol Level {level} of {name!r}, client {client_id[:100]!r}; set the client to MQTT 5 or 3.1.1"
    )
    return ConnectRefused(ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION, reason, "MQTT-3.1.2-2")


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
    """Decode CONNACK, as a client does."""
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
    """Decode SUBSCRIBE.

    Topic Filters of too many levels are not malformed: SUBACK refuses them one by one.
    """
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
    """Decode SUBACK, as a client does."""
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
    """Decode UNSUBSCRIBE."""
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
