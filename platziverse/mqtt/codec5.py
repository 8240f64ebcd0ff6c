"""Codec of MQTT 5: one encode function per Control Packet."""

from collections.abc import Callable, Sequence
from struct import Struct, pack
from typing import Any, Final

from platziverse.mqtt.framing import encode_length
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
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import encode_properties
from platziverse.mqtt.reasoncodes import ReasonCode

_UINT16: Final = Struct(">H").pack
_IDENTIFIED: Final = Struct(">BBH").pack
_REFUSED: Final = Struct(">BBHB").pack
#: PUBACK 0x10, without its Packet Identifier.
_UNHEARD: Final = bytes((0x40, 3, 0, 0, ReasonCode.NO_MATCHING_SUBSCRIBERS))


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _UINT16(len(data)) + data


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_length(len(body)) + body


def _connect(packet: Connect) -> bytes:
    flags = 0x02 if packet.clean_session else 0
    payload = _text(packet.client_id)
    if (will := packet.will) is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        delay = {"will_delay_interval": packet.will_delay} if packet.will_delay else {}
        payload += encode_properties("WILL", will.properties, **delay)
        payload += _text(will.topic) + _text(will.payload)
    if packet.username is not None:
        flags |= 0x80
        payload += _text(packet.username)
    if packet.password is not None:
        flags |= 0x40
        payload += _text(packet.password)
    header = b"\0\4MQTT\5" + bytes((flags,)) + _UINT16(packet.keep_alive)
    return _packet(0x10, header + encode_properties("CONNECT", packet.properties) + payload)


def _connack(packet: Connack) -> bytes:
    properties = encode_properties("CONNACK", packet.properties)
    return _packet(0x20, bytes((packet.session_present, packet.return_code)) + properties)


def _publish(packet: Publish) -> bytes:
    middle = b"" if packet.packet_id is None else _UINT16(packet.packet_id)
    properties = encode_properties("PUBLISH", packet.properties)
    first = 0x30 | packet.qos << 1 | packet.retain | packet.dup << 3
    return _packet(first, _text(packet.topic) + middle + properties + packet.payload)


def encode_acknowledgement(
    first: int, packet_id: int, code: int = 0, name: str = "", properties: Properties | None = None
) -> bytes:
    """Return PUBACK, PUBREC, PUBREL or PUBCOMP, as short as may be.

    :param first: the first byte of the packet.
    :param name: of the packet, if there are properties.
    """
    if properties is not None:
        body = _UINT16(packet_id) + bytes((code,)) + encode_properties(name, properties)
        return _packet(first, body)
    return _REFUSED(first, 3, packet_id, code) if code else _IDENTIFIED(first, 2, packet_id)


def encode_unheard(packet_ids: Sequence[int]) -> bytes:
    """Return a PUBACK for each Packet Identifier, which says that nobody has subscribed."""
    count = len(packet_ids)
    pubacks, numbers = bytearray(_UNHEARD * count), pack(f">{count}H", *packet_ids)
    pubacks[2::5], pubacks[3::5] = numbers[::2], numbers[1::2]  # a third of the time of one by one
    return bytes(pubacks)


def _encoder_of_acknowledgement(first: int, name: str) -> Callable[[Any], bytes]:
    def encode(packet: Any) -> bytes:
        return encode_acknowledgement(first, packet.packet_id, packet.reason_code, name, packet.properties)

    return encode


def _options(subscription: Subscription) -> bytes:
    options = subscription.qos | subscription.no_local << 2 | subscription.retain_as_published << 3
    return bytes((options | subscription.retain_handling << 4,))


def _subscribe(packet: Subscribe) -> bytes:
    filters = b"".join([_text(each.topic_filter) + _options(each) for each in packet.subscriptions])
    properties = encode_properties("SUBSCRIBE", packet.properties)
    return _packet(0x82, _UINT16(packet.packet_id) + properties + filters)


def _unsubscribe(packet: Unsubscribe) -> bytes:
    properties = encode_properties("UNSUBSCRIBE", packet.properties)
    return _packet(0xA2, _UINT16(packet.packet_id) + properties + b"".join(map(_text, packet.topic_filters)))


def _encoder_of_codes(first: int, name: str) -> Callable[[Any], bytes]:
    def encode(packet: Any) -> bytes:
        properties = encode_properties(name, packet.properties)
        return _packet(first, _UINT16(packet.packet_id) + properties + bytes(packet.return_codes))

    return encode


def _encoder_of_farewell(first: int, name: str) -> Callable[[Any], bytes]:
    def encode(packet: Any) -> bytes:
        if packet.properties is not None:
            return _packet(first, bytes((packet.reason_code,)) + encode_properties(name, packet.properties))
        return _packet(first, bytes((packet.reason_code,)) if packet.reason_code else b"")

    return encode


ENCODERS5: Final[dict[type, Callable[[Any], bytes]]] = {
    Connect: _connect,
    Connack: _connack,
    Publish: _publish,
    Puback: _encoder_of_acknowledgement(0x40, "PUBACK"),
    Pubrec: _encoder_of_acknowledgement(0x50, "PUBREC"),
    Pubrel: _encoder_of_acknowledgement(0x62, "PUBREL"),
    Pubcomp: _encoder_of_acknowledgement(0x70, "PUBCOMP"),
    Subscribe: _subscribe,
    Suback: _encoder_of_codes(0x90, "SUBACK"),
    Unsubscribe: _unsubscribe,
    Unsuback: _encoder_of_codes(0xB0, "UNSUBACK"),
    Pingreq: lambda packet: b"\xc0\x00",
    Pingresp: lambda packet: b"\xd0\x00",
    Disconnect: _encoder_of_farewell(0xE0, "DISCONNECT"),
    Auth: _encoder_of_farewell(0xF0, "AUTH"),
}


def encode5(packet: Packet) -> bytes:
    """Return the bytes of any Control Packet of MQTT 5."""
    return ENCODERS5[type(packet)](packet)
