"""Properties of MQTT 5 (section 2.2.2): one table, which decoding, encoding and the tests go by."""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from struct import Struct
from sys import getsizeof
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from platziverse.mqtt.errors import MalformedPacket, ProtocolViolation
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import Properties, Publish, PublishProperties, Subscribe, UserProperties
from platziverse.mqtt.readers import Body
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.mqtt.topics import check_topic_name

#: User Properties of one packet; reading more would hold everybody up.
MAX_USER_PROPERTIES: Final = 1000

#: Bytes of memory that the Properties of a message take, and each User Property.
_OWN: Final = 120
_PAIR: Final = 64
_NONE: Final = PublishProperties()
_UINT16: Final = Struct(">H").pack
_UINT32: Final = Struct(">I").pack


class Kind(Enum):
    """A Kind is how the value of a Property is written (section 2.2.2.2)."""

    BYTE = "byte"
    TWO_BYTES = "two byte integer"
    FOUR_BYTES = "four byte integer"
    VARIABLE = "variable byte integer"
    BINARY = "binary data"
    TEXT = "UTF-8 encoded string"
    PAIR = "UTF-8 string pair"


class Property(NamedTuple):
    """A Property is one row of the table.

    :ivar name: of the field in ``PublishProperties`` or ``Properties``.
    :ivar packets: those that may have it; WILL is the Will Properties in CONNECT.
    :ivar repeatable: it may be there several times, and its field is a tuple of all values in order.
    :ivar least: of a number.
    :ivar most: of a number.
    """

    identifier: int
    name: str
    kind: Kind
    packets: frozenset[str]
    repeatable: bool = False
    least: int = 0
    most: int = 0xFFFF_FFFF


_ANSWERS: Final = "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"
#: Those with properties.
PACKETS: Final = tuple(f"CONNECT WILL PUBLISH SUBSCRIBE UNSUBSCRIBE {_ANSWERS}".split())


def _row(identifier: int, name: str, kind: Kind, packets: str, **bounds: Any) -> Property:
    return Property(identifier, name, kind, frozenset(packets.split()), **bounds)


#: Every Property.
PROPERTIES: Final = (
    _row(0x01, "payload_format_indicator", Kind.BYTE, "PUBLISH WILL", most=1),
    _row(0x02, "message_expiry_interval", Kind.FOUR_BYTES, "PUBLISH WILL"),
    _row(0x03, "content_type", Kind.TEXT, "PUBLISH WILL"),
    _row(0x08, "response_topic", Kind.TEXT, "PUBLISH WILL"),
    _row(0x09, "correlation_data", Kind.BINARY, "PUBLISH WILL"),
    _row(0x0B, "subscription_identifiers", Kind.VARIABLE, "PUBLISH", repeatable=True, least=1),
    _row(0x0B, "subscription_identifier", Kind.VARIABLE, "SUBSCRIBE", least=1),
    _row(0x11, "session_expiry_interval", Kind.FOUR_BYTES, "CONNECT CONNACK DISCONNECT"),
    _row(0x12, "assigned_client_identifier", Kind.TEXT, "CONNACK"),
    _row(0x13, "server_keep_alive", Kind.TWO_BYTES, "CONNACK"),
    _row(0x15, "authentication_method", Kind.TEXT, "CONNECT CONNACK AUTH"),
    _row(0x16, "authentication_data", Kind.BINARY, "CONNECT CONNACK AUTH"),
    _row(0x17, "request_problem_information", Kind.BYTE, "CONNECT", most=1),
    _row(0x18, "will_delay_interval", Kind.FOUR_BYTES, "WILL"),
    _row(0x19, "request_response_information", Kind.BYTE, "CONNECT", most=1),
    _row(0x1A, "response_information", Kind.TEXT, "CONNACK"),
    _row(0x1C, "server_reference", Kind.TEXT, "CONNACK DISCONNECT"),
    _row(0x1F, "reason_string", Kind.TEXT, _ANSWERS),
    _row(0x21, "receive_maximum", Kind.TWO_BYTES, "CONNECT CONNACK", least=1),
    _row(0x22, "topic_alias_maximum", Kind.TWO_BYTES, "CONNECT CONNACK"),
    _row(0x23, "topic_alias", Kind.TWO_BYTES, "PUBLISH"),
    _row(0x24, "maximum_qos", Kind.BYTE, "CONNACK", most=1),
    _row(0x25, "retain_available", Kind.BYTE, "CONNACK", most=1),
    _row(0x26, "user_properties", Kind.PAIR, " ".join(PACKETS), repeatable=True),
    _row(0x27, "maximum_packet_size", Kind.FOUR_BYTES, "CONNECT CONNACK", least=1),
    _row(0x28, "wildcard_subscription_available", Kind.BYTE, "CONNACK", most=1),
    _row(0x29, "subscription_identifier_available", Kind.BYTE, "CONNACK", most=1),
    _row(0x2A, "shared_subscription_available", Kind.BYTE, "CONNACK", most=1),
)

#: Packet → identifier → Property.
ALLOWED: Final = {
    packet: {each.identifier: each for each in PROPERTIES if packet in each.packets} for packet in PACKETS
}

#: What is written for a store, or another daemon, and never sent: with a Property of our own.
STORED: Final = "STORED"
_SUBSCRIPTION: Final = Property(0x7F, "subscription", Kind.TEXT, frozenset([STORED]))
ALLOWED[STORED] = {**ALLOWED["PUBLISH"], _SUBSCRIPTION.identifier: _SUBSCRIPTION}

_READ: Final[dict[Kind, Callable[[Body], Any]]] = {
    Kind.BYTE: Body.byte,
    Kind.TWO_BYTES: Body.number,
    Kind.FOUR_BYTES: Body.large_number,
    Kind.VARIABLE: Body.variable_number,
    Kind.BINARY: Body.binary,
    Kind.TEXT: Body.text,  # [MQTT5-3.3.2-13] [MQTT5-3.3.2-19]
    Kind.PAIR: lambda body: (body.text(), body.text()),  # [MQTT5-1.5.7-1]
}


def _behind_length(data: bytes) -> bytes:
    return _UINT16(len(data)) + data


_WRITE: Final[dict[Kind, Callable[[Any], bytes]]] = {
    Kind.BYTE: lambda value: bytes((value,)),
    Kind.TWO_BYTES: _UINT16,
    Kind.FOUR_BYTES: _UINT32,
    Kind.VARIABLE: encode_length,
    Kind.BINARY: _behind_length,
    Kind.TEXT: lambda value: _behind_length(value.encode()),
    Kind.PAIR: lambda value: _behind_length(value[0].encode()) + _behind_length(value[1].encode()),
}


def decode_properties(body: Body, packet: str) -> dict[str, Any]:
    """Read the Properties of a packet, with their length; return name → value of those that are there.

    :param packet: its name, of ``PACKETS``.
    :raises MalformedPacket: a Property does not belong to the packet, or is cut short.
    :raises ProtocolViolation: one is there twice, or has a value that it must not have.
    """
    length = body.variable_number()
    if not length:
        return {}
    part, allowed = body.part(length), ALLOWED[packet]
    found: dict[str, Any] = {}
    while part:
        identifier = part.variable_number()
        row = allowed.get(identifier)
        if row is None:
            raise MalformedPacket(f"property {identifier:#04x} in {packet}", "2.2.2.2")
        value = _READ[row.kind](part)
        if row.repeatable:
            _add(found.setdefault(row.name, []), value, row)
        elif row.name in found:
            raise ProtocolViolation(f"property {identifier:#04x} twice in {packet}", "2.2.2.2")
        else:
            found[row.name] = value
        if not isinstance(value, (str, bytes, tuple)) and not row.least <= value <= row.most:
            raise ProtocolViolation(f"{row.name} is {value}", "2.2.2.2")
    return {name: tuple(value) if type(value) is list else value for name, value in found.items()}


def _add(values: list[Any], value: Any, row: Property) -> None:
    values.append(value)
    if len(values) > MAX_USER_PROPERTIES:
        text = f"more than {MAX_USER_PROPERTIES} {row.name} in one packet"
        raise ProtocolViolation(text, "4.13", ReasonCode.QUOTA_EXCEEDED)


def check_response_topic(found: dict[str, Any]) -> None:
    """Check that a Response Topic is a Topic Name. [MQTT5-3.3.2-14]

    :raises MalformedPacket: it has a wildcard, or is none for another reason.
    """
    if (topic := found.get("response_topic")) is not None:
        check_topic_name(topic)


class _Parts(NamedTuple):
    """_Parts are what a message is written with, but for its Message Expiry Interval; and what they weigh."""

    before: bytes
    behind: bytes
    weight: int


def _key(properties: PublishProperties) -> tuple[Any, ...]:
    return (
        properties.payload_format_indicator,
        properties.content_type,
        properties.response_topic,
        properties.correlation_data,
        properties.user_properties,
    )


def _parts(key: tuple[Any, ...]) -> _Parts:
    indicator, content_type, response_topic, correlation_data, pairs = key
    before = b"" if indicator is None else bytes((1, indicator))
    same = PublishProperties(None, None, content_type, response_topic, correlation_data, (), None, pairs)
    weight = _weigh((content_type, response_topic, correlation_data), pairs)
    return _Parts(before, _written("PUBLISH", same, {}), weight)


#: Bytes that remembered ones take, all of them, and the largest.
_ALL: Final = 4 << 20
_LARGEST: Final = 4096
#: Those of short ones: most publishers send the same again.
_PARTS: Final = Memo(_parts, _ALL, lambda key, parts: 2 * parts.weight if parts.weight < _LARGEST else 0)


def encode_kept(properties: PublishProperties, left: int | None) -> bytes:
    """Return the Properties of a message that is kept as a PUBLISH has them, with their length.

    :param left: seconds until it is over; ``None``: it never is.
    """
    before, behind, _ = _PARTS[_key(properties)]
    data = before + behind if left is None else before + b"\2" + _UINT32(left) + behind
    return encode_length(len(data)) + data


def weigh(properties: PublishProperties) -> int:
    """Return how many bytes Properties take while their message waits, roughly."""
    return _PARTS[_key(properties)].weight


def weigh_asked(properties: Properties) -> int:
    """Return how many bytes the Properties of a CONNECT take, roughly."""
    return _weigh(
        (properties.authentication_method, properties.authentication_data), properties.user_properties
    )


def _weigh(texts: "Iterable[str | bytes | None]", pairs: UserProperties) -> int:
    size = _OWN + sum(getsizeof(text) for text in texts if text is not None)
    return size + sum(getsizeof(name) + getsizeof(value) + _PAIR for name, value in pairs)


def is_as_it_says(message: Publish) -> bool:
    """Return whether a payload is UTF-8 if its Payload Format Indicator says so."""
    properties = message.properties
    if properties is None or properties.payload_format_indicator != 1:
        return True
    try:
        message.payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def store_properties(properties: PublishProperties | None) -> bytes:
    """Return the Properties of a message for a store, or another daemon; nothing: it has none.

    In the place of the Message Expiry Interval stands the second at which the message is over.
    """
    if properties is None:
        return b""
    if properties.expires is None:
        return encode_properties(STORED, properties)
    end = min(int(properties.expires), 0xFFFF_FFFF)  # of the epoch, in the year 2106
    return encode_properties(STORED, properties, message_expiry_interval=end)


def restored(data: bytes) -> PublishProperties | None:
    """Return the Properties that :func:`store_properties` has written; ``None``: there are none.

    :raises MQTTError: they are no Properties.
    """
    if not data:
        return None
    found = decode_properties(Body(data), STORED)
    return PublishProperties(**found, expires=found.get("message_expiry_interval"))


def encode_will_properties(properties: PublishProperties | None, delay: int) -> bytes:
    """Return the Properties of a Will for a store; nothing: it has none.

    :param delay: its Will Delay Interval in seconds.
    """
    if properties is None and not delay:
        return b""
    return encode_properties("WILL", properties, **({"will_delay_interval": delay} if delay else {}))


def restored_will(data: bytes) -> tuple[PublishProperties | None, int]:
    """Return the Properties that :func:`encode_will_properties` has written, and the Will Delay Interval.

    :raises MQTTError: they are no Properties.
    """
    found = decode_properties(Body(data), "WILL") if data else {}
    delay = found.pop("will_delay_interval", 0)
    return PublishProperties(**found) if found else None, delay


def without_properties(data: bytes) -> tuple[bytes, bytes]:
    """Return the payload that stands behind Properties, and these.

    :raises MQTTError: they are cut short.
    """
    body = Body(data)
    body.skip(body.variable_number())
    payload = body.rest()
    return payload, data[: len(data) - len(payload)]


def arrived_properties(properties: PublishProperties, now: float) -> PublishProperties | None:
    """Return Properties without what belongs to their connection, and with the end of the message.

    :param now: seconds since the epoch.
    """
    interval = properties.message_expiry_interval
    if interval is None and properties.topic_alias is None:
        return properties
    kept = replace(properties, topic_alias=None, expires=None if interval is None else now + interval)
    return kept if kept != _NONE else None


def arrived(message: Publish, topic: str, now: float) -> Publish:
    """Return a message without what belongs to the connection that it came by, and with its end.

    :param topic: that its Topic Alias stands for.
    :param now: seconds since the epoch.
    """
    if message.properties is None:
        return message
    return replace(message, topic=topic, properties=arrived_properties(message.properties, now))


def brought_by(message: Publish, topic_filter: str) -> Publish:
    """Return a message as the one Subscription with this Topic Filter brings it."""
    return replace(message, properties=replace(message.properties or _NONE, subscription=topic_filter))


def identified(packet: Subscribe) -> Subscribe:
    """Return a SUBSCRIBE whose Subscriptions have its Subscription Identifier, if there is one."""
    identifier = packet.properties.subscription_identifier if packet.properties is not None else None
    if identifier is None:
        return packet
    return replace(
        packet, subscriptions=[replace(one, identifier=identifier) for one in packet.subscriptions]
    )


def encode_properties(packet: str, properties: object, **more: object) -> bytes:
    """Return Properties with their length, in the order of the table; User Properties in their own.

    [MQTT5-3.1.3-10] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18]

    :param packet: its name, of ``PACKETS``.
    :param properties: ``PublishProperties``, ``Properties`` or ``None``: there are none.
    :param more: name → value of what is not in them.
    """
    if properties is None and not more:
        return b"\0"
    data = _written(packet, properties, more)
    return encode_length(len(data)) + data


def _written(packet: str, properties: object, more: "Mapping[str, object]") -> bytes:
    """Return Properties without their length; see :func:`encode_properties`."""
    data = bytearray()
    for identifier, row in ALLOWED[packet].items():
        value: Any = more[row.name] if row.name in more else getattr(properties, row.name, None)
        if value is None:
            continue
        write = _WRITE[row.kind]
        for each in value if row.repeatable else (value,):
            data.append(identifier)
            data += write(each)
    return bytes(data)
