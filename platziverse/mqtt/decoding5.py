"""One decode function per Control Packet of MQTT 5 (section 3), and their table; see :mod:`decoding`.

PUBLISH is decoded in :mod:`platziverse.mqtt.decoder`, but for its Properties.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, TypeAlias

from platziverse.mqtt.errors import MalformedPacket, ProtocolViolation
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import check_response_topic, decode_properties
from platziverse.mqtt.readers import Body, check_levels, decode_topic
from platziverse.mqtt.reasoncodes import REASON_CODES, ReasonCode
from platziverse.mqtt.topics import check_count, check_topic_filter

#: Properties of messages that are remembered.
REMEMBERED: Final = 2048
#: How CONNECT of MQTT 5 begins: Protocol Name and Level.
MQTT_5: Final = b"\0\4MQTT\5"
_CLEAN_START: Final = 0x02
#: And how it goes on: flags, Keep Alive, the length of its Properties, if that is less than 128.
_BEGINNING: Final = Struct(f">{len(MQTT_5)}xBHB")

Decode: TypeAlias = "Callable[[int, bytes, int], Packet]"


def _flags_are(expected: int, flags: int) -> None:
    if (
        flags != expected
    ):  # [MQTT5-2.1.3-1] [MQTT5-3.8.1-1] [MQTT5-3.10.1-1] [MQTT5-3.14.1-1] [MQTT5-3.15.1-1]
        raise MalformedPacket(f"flags {flags:#x} in place of {expected:#x}", "MQTT5-2.1.3-1")


def _properties(body: Body, packet: str) -> Properties | None:
    found = decode_properties(body, packet)
    return Properties(**found) if found else None


def decode_publish_properties(body: Body) -> PublishProperties:
    """Read the Properties of a PUBLISH that has some."""
    found = decode_properties(body, "PUBLISH")
    check_response_topic(found)
    if found.get("topic_alias") == 0:  # [MQTT5-3.3.2-8]
        raise ProtocolViolation("Topic Alias 0", "MQTT5-3.3.2-8", ReasonCode.TOPIC_ALIAS_INVALID)
    return PublishProperties(**found)


#: Short Properties of a PUBLISH, with their length → as they are read: most publishers send the same again.
PUBLISH_PROPERTIES: Final[Memo[bytes, PublishProperties]] = Memo(
    lambda data: decode_publish_properties(Body(data)), REMEMBERED
)


def _code(code: int, kind: type) -> int:
    if code not in REASON_CODES[kind]:
        name = kind.__name__.upper()
        raise ProtocolViolation(f"Reason Code {code:#04x} in {name}", "2.4")
    return code


def decode_connect(flags: int, data: bytes, max_levels: int) -> Connect:
    """Decode CONNECT, of Protocol Level 5.

    :raises MQTTError: something is wrong; its ``protocol_level`` is 5.
    """
    try:
        _flags_are(0, flags)
        return _connect(data, max_levels)
    except (MalformedPacket, ProtocolViolation) as error:
        error.protocol_level = 5
        raise


def _connect(data: bytes, max_levels: int) -> Connect:
    if not data.startswith(MQTT_5):
        raise MalformedPacket(f"Protocol Name and Level {data[:7]!r}", "MQTT5-3.1.2-1")
    if len(data) < _BEGINNING.size:
        raise MalformedPacket("CONNECT without the length of its Properties", "4.8")
    flags, keep_alive, length = _BEGINNING.unpack_from(data)  # in one call: ADR 0122
    if flags != _CLEAN_START:  # which contradicts nothing
        _check_connect_flags(flags)
    body, properties = Body(data, _BEGINNING.size), None
    if length:
        body = Body(data, _BEGINNING.size - 1)
        properties = _properties(body, "CONNECT")
    if properties is not None:
        _check_authentication(properties)
    client_id = body.text()  # [MQTT5-3.1.3-1] [MQTT5-3.1.3-3] [MQTT5-3.1.3-4]
    will, delay = _will(body, flags, max_levels) if flags & 0x04 else (None, 0)  # [MQTT5-3.1.2-9]
    username = body.text() if flags & 0x80 else None  # [MQTT5-3.1.2-16] [MQTT5-3.1.2-17] [MQTT5-3.1.3-12]
    password = body.binary() if flags & 0x40 else None  # [MQTT5-3.1.2-18] [MQTT5-3.1.2-19]
    body.end()
    clean = bool(flags & _CLEAN_START)
    return Connect(
        client_id, clean, keep_alive, will, username, password, 5, will_delay=delay, properties=properties
    )


def _check_connect_flags(flags: int) -> None:
    """Check that the flags contradict nothing; a password without a user name is allowed."""
    if flags & 0x01:
        raise MalformedPacket("the reserved CONNECT flag is set", "MQTT5-3.1.2-3")
    if not flags & 0x04 and flags & 0x38:
        raise MalformedPacket("Will QoS or Will Retain without a Will", "MQTT5-3.1.2-11")  # [MQTT5-3.1.2-13]
    if flags & 0x18 == 0x18:
        raise MalformedPacket("Will QoS 3", "MQTT5-3.1.2-12")


def _check_authentication(properties: Properties) -> None:
    """Check that Authentication Data has a method (sections 3.1.2.11.10 and 3.15.2.2.3)."""
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise ProtocolViolation("Authentication Data without a method", "3.1.2.11.10")


def _will(body: Body, flags: int, max_levels: int) -> tuple[Publish, int]:
    found = decode_properties(body, "WILL")
    check_response_topic(found)
    delay = found.pop("will_delay_interval", 0)
    topic = decode_topic(body.binary())  # [MQTT5-3.1.3-11]
    check_levels(topic, max_levels)
    properties = PublishProperties(**found) if found else None
    will = Publish(topic, body.binary(), flags >> 3 & 3, bool(flags & 0x20), properties=properties)
    return will, delay


def decode_connack(flags: int, data: bytes, max_levels: int) -> Connack:
    """Decode CONNACK, as a client does."""
    _flags_are(0, flags)
    body = Body(data)
    acknowledge_flags, code = body.byte(), _code(body.byte(), Connack)
    properties = _properties(body, "CONNACK")
    body.end()
    if acknowledge_flags > 1 or (acknowledge_flags and code):  # [MQTT5-3.2.2-1] [MQTT5-3.2.2-6]
        raise MalformedPacket("CONNACK with reserved flags", "MQTT5-3.2.2-1")
    return Connack(bool(acknowledge_flags), code, properties)


def _decoder_of_acknowledgement(kind: Any, expected_flags: int) -> Decode:
    def decode(flags: int, data: bytes, max_levels: int) -> Packet:
        _flags_are(expected_flags, flags)
        body = Body(data)
        packet_id = body.packet_id()
        code = _code(body.byte(), kind) if body else 0  # left out: Success
        properties = _properties(body, kind.__name__.upper()) if body else None
        body.end()
        packet: Packet = kind(packet_id, code, properties)
        return packet

    return decode


def decode_subscribe(flags: int, data: bytes, max_levels: int) -> Subscribe:
    """Decode SUBSCRIBE; Topic Filters of too many levels are refused in SUBACK, one by one."""
    _flags_are(0x02, flags)
    body = Body(data)
    packet_id, properties = body.packet_id(), _properties(body, "SUBSCRIBE")
    subscriptions: list[Subscription] = []
    while body:
        subscriptions.append(_subscription(body))
        check_count(subscriptions)
    if not subscriptions:
        raise ProtocolViolation("SUBSCRIBE without a Topic Filter", "MQTT5-3.8.3-2")
    return Subscribe(packet_id, subscriptions, properties)


def _subscription(body: Body) -> Subscription:
    topic_filter, options = body.text(), body.byte()  # [MQTT5-3.8.3-1]
    check_topic_filter(topic_filter)
    if options & 0xC0:
        raise MalformedPacket(f"Subscription Options {options:#04x}", "MQTT5-3.8.3-5")
    qos, no_local, handling = options & 3, bool(options & 4), options >> 4
    if qos == 3 or handling == 3:
        raise ProtocolViolation(f"Subscription Options {options:#04x}", "MQTT5-3.8.3-5")
    if no_local and topic_filter.startswith("$share/"):
        raise ProtocolViolation("No Local with a Shared Subscription", "MQTT5-3.8.3-4")
    return Subscription(topic_filter, qos, no_local, bool(options & 8), handling)


def decode_suback(flags: int, data: bytes, max_levels: int) -> Suback:
    """Decode SUBACK, as a client does."""
    return Suback(*_codes(flags, data, Suback))


def decode_unsubscribe(flags: int, data: bytes, max_levels: int) -> Unsubscribe:
    """Decode UNSUBSCRIBE."""
    _flags_are(0x02, flags)
    body = Body(data)
    packet_id, properties = body.packet_id(), _properties(body, "UNSUBSCRIBE")
    topic_filters: list[str] = []
    while body:
        topic_filters.append(body.text())  # [MQTT5-3.10.3-1]
        check_topic_filter(topic_filters[-1])
        check_count(topic_filters)
    if not topic_filters:
        raise ProtocolViolation("UNSUBSCRIBE without a Topic Filter", "MQTT5-3.10.3-2")
    return Unsubscribe(packet_id, topic_filters, properties)


def decode_unsuback(flags: int, data: bytes, max_levels: int) -> Unsuback:
    """Decode UNSUBACK, as a client does."""
    return Unsuback(*_codes(flags, data, Unsuback))


def _codes(flags: int, data: bytes, kind: type) -> tuple[int, list[int], Properties | None]:
    _flags_are(0, flags)
    body, name = Body(data), kind.__name__.upper()
    packet_id, properties = body.packet_id(), _properties(body, name)
    codes = [_code(code, kind) for code in body.rest()]
    if not codes:
        raise ProtocolViolation(f"{name} without a Reason Code", "MQTT5-3.8.4-6")
    return packet_id, codes, properties


def _decoder_of_farewell(kind: Any) -> Decode:
    """Return what decodes DISCONNECT or AUTH, whose Reason Code and Properties may be left out."""

    def decode(flags: int, data: bytes, max_levels: int) -> Packet:
        _flags_are(0, flags)
        body = Body(data)
        code = _code(body.byte(), kind) if body else 0  # [MQTT5-3.15.2-1]
        properties = _properties(body, kind.__name__.upper()) if body else None
        body.end()
        if properties is not None:
            _check_authentication(properties)
        packet: Packet = kind(code, properties)
        return packet

    return decode


def _decoder_of_empty(packet: Packet) -> Decode:
    def decode(flags: int, data: bytes, max_levels: int) -> Packet:
        _flags_are(0, flags)
        Body(data).end()
        return packet

    return decode


#: Packet type → (flags, content, most levels of a Topic Name) → packet. PUBLISH is not among them.
DECODERS5: Final[dict[int, Decode]] = {
    1: decode_connect,
    2: decode_connack,
    4: _decoder_of_acknowledgement(Puback, 0),
    5: _decoder_of_acknowledgement(Pubrec, 0),
    6: _decoder_of_acknowledgement(Pubrel, 0x02),  # [MQTT5-3.6.1-1]
    7: _decoder_of_acknowledgement(Pubcomp, 0),
    8: decode_subscribe,
    9: decode_suback,
    10: decode_unsubscribe,
    11: decode_unsuback,
    12: _decoder_of_empty(Pingreq()),
    13: _decoder_of_empty(Pingresp()),
    14: _decoder_of_farewell(Disconnect),
    15: _decoder_of_farewell(Auth),
}
