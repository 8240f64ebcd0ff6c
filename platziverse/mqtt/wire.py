"""Wire: how messages are written for the clients of one version of the protocol."""

from collections.abc import Callable
from math import ceil
from struct import Struct
from typing import Final, Protocol

from platziverse.mqtt.codec import TOPICS, EncodedPublish, encode_at_qos0
from platziverse.mqtt.framing import LENGTHS, encode_length
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import encode_kept, encode_properties

#: Seconds that a sum of seconds since the epoch is inexact by.
MOMENT: Final = 1e-3
_UINT16: Final = Struct(">H").pack
_FIRST: Final = tuple(bytes((first,)) for first in range(256))
#: The whole Fixed Header of a short PUBLISH at QoS 0, by its Remaining Length.
_HEADERS: Final = tuple(bytes((0x30, length)) for length in range(128))
#: The Properties of a message that has none: their length.
_NONE: Final = b"\0"


class Wire(Protocol):
    """A Wire is chosen when a client connects; nobody asks for its version after that."""

    def __hash__(self) -> int: ...

    @property
    def no_properties(self) -> bytes:
        """Return what stands before the payload of a message without Properties."""

    @property
    def limited(self) -> bool:
        """Return whether its clients may have a Maximum Packet Size: others are not asked. ADR 0198.

        What it writes at QoS 0 is offered to the client, then, or too large for it.
        """

    def with_id(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False, /) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2."""

    def head(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False, /) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2 up to its payload."""

    def qos0(self, message: EncodedPublish, /) -> bytes:
        """Return the bytes of the packet at QoS 0."""

    def at_qos0(self, message: Publish, /) -> bytes:
        """Return the bytes of the packet at QoS 0, without RETAIN."""

    def is_over(self, message: Publish, /) -> bool:
        """Return whether the message has expired."""

    def identifying(self, identifiers: "Callable[[Publish], bytes]", /) -> "Wire":
        """Return the wire of one client that writes its Subscription Identifiers too, if its version has any.

        :param identifiers: returns those of a message, each as a Property.
        """


def _is_over(message: Publish, now: float) -> bool:
    properties = message.properties
    return properties is not None and properties.expires is not None and properties.expires <= now


class Wire311:
    """A Wire311 writes as MQTT 3.1.1 does: what a message has beyond that is left out, but for its end.

    :param now: seconds since the epoch.
    """

    __slots__ = ("_now",)

    with_id = staticmethod(EncodedPublish.with_id)
    head = staticmethod(EncodedPublish.head)
    at_qos0 = staticmethod(encode_at_qos0)
    no_properties = b""
    limited = False

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def qos0(self, message: EncodedPublish) -> bytes:
        """Return the bytes of the packet at QoS 0."""
        return message.qos0

    def is_over(self, message: Publish) -> bool:
        """Return whether the message has expired. [MQTT5-3.3.2-5]"""
        return _is_over(message, self._now())

    def identifying(self, identifiers: "Callable[[Publish], bytes]") -> Wire:
        """Return this wire: there are no Subscription Identifiers."""
        return self


class Wire5:
    """A Wire5 writes as MQTT 5 does: once for all receivers, but what is left until the message expires.

    :param now: seconds since the epoch.
    :param limited: its clients have a Maximum Packet Size.
    """

    __slots__ = ("_now", "limited")

    no_properties = _NONE

    def __init__(self, now: Callable[[], float], limited: bool = False) -> None:
        self._now, self.limited = now, limited

    def with_id(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2; of a short one nothing is kept. ADR 0198."""
        publish, size = message.message, message.size + 3
        if size < 128 and publish.properties is None:
            before = _FIRST[message.first | qos << 1 | dup << 3] + LENGTHS[size] + TOPICS[publish.topic]
            return before + _UINT16(packet_id) + _NONE + publish.payload
        return self.head(message, qos, packet_id, dup) + publish.payload

    def head(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2 up to its payload."""
        before, properties = message.five or self._encode(message)
        first = message.first | qos << 1 | dup << 3
        return _FIRST[first] + before + _UINT16(packet_id) + (properties or self._properties(message.message))

    def _encode(self, message: EncodedPublish) -> tuple[bytes, bytes]:
        """Return what stands before the Packet Identifier, and its Properties; some change, and are not kept.

        The Topic Name is always there, no Topic Alias is. [MQTT5-3.3.2-11]
        """
        publish = message.message
        topic, found = TOPICS[publish.topic], publish.properties
        properties = _NONE if found is None else self._properties(publish)
        size = len(topic) + 2 + len(properties) + len(publish.payload)
        before = (LENGTHS[size] if size < 128 else encode_length(size)) + topic
        message.five = before, properties if found is None or found.expires is None else b""
        return before, properties

    def _properties(self, message: Publish) -> bytes:
        """Return the Properties as they came, with the seconds that are left of a Message Expiry.

        [MQTT5-3.3.2-6] [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-20]
        """
        properties = message.properties
        if properties is None:
            return _NONE
        if properties.expires is not None:
            return encode_kept(properties, max(0, ceil(properties.expires - self._now() - MOMENT)))
        of_connection = properties.subscription_identifiers or properties.topic_alias
        if properties.message_expiry_interval is not None or of_connection:  # of no client's message
            return encode_properties("PUBLISH", properties)
        return encode_kept(properties, None)

    def qos0(self, message: EncodedPublish) -> bytes:
        """Return the bytes of the packet at QoS 0."""
        publish = message.message
        topic, properties = TOPICS[publish.topic], self._properties(publish)
        length = encode_length(len(topic) + len(properties) + len(publish.payload))
        return _FIRST[message.first] + length + topic + properties + publish.payload

    def at_qos0(self, message: Publish) -> bytes:
        """Return the bytes of the packet at QoS 0, without RETAIN."""
        topic = TOPICS[message.topic]
        size = len(topic) + len(message.payload) + 1
        if message.properties is None and size < 128:
            return _HEADERS[size] + topic + _NONE + message.payload
        return self.qos0(EncodedPublish(message))

    def is_over(self, message: Publish) -> bool:
        """Return whether the message has expired. [MQTT5-3.3.2-5]"""
        return _is_over(message, self._now())

    def identifying(self, identifiers: "Callable[[Publish], bytes]") -> Wire:
        """Return the wire of one client, with its Subscription Identifiers."""
        return Identifying(self, identifiers)

    def head_with(self, message: EncodedPublish, more: bytes, first: int, packet_id: bytes) -> bytes:
        """Return the bytes of a packet up to its payload, for one receiver.

        :param more: Properties behind those of the message.
        :param first: the first byte.
        :param packet_id: its two bytes; empty at QoS 0.
        """
        publish = message.message
        topic, properties = TOPICS[publish.topic], joined(self._properties(publish), more)
        size = len(topic) + len(packet_id) + len(properties) + len(publish.payload)
        return _FIRST[first] + encode_length(size) + topic + packet_id + properties


def joined(properties: bytes, more: bytes) -> bytes:
    """Return Properties, which begin with their length, with further ones behind them."""
    begin = 1
    while properties[begin - 1] & 0x80:
        begin += 1
    return encode_length(len(properties) - begin + len(more)) + properties[begin:] + more


class Identifying:
    """An Identifying is the wire of one client that has subscribed with Subscription Identifiers.

    A message gets those of the Subscriptions that there are when it is written, be it live, or from a queue,
    a store or another daemon; none of these keeps them. Where there are none it gets the shared bytes.
    Decided in ADR 0191.

    :param shared: how the clients without any are written to.
    :param identifiers: returns those of a message, each as a Property.
    """

    __slots__ = ("_identifiers", "_shared", "is_over")

    no_properties = _NONE
    limited = True

    def __init__(self, shared: Wire5, identifiers: "Callable[[Publish], bytes]") -> None:
        self._shared, self._identifiers, self.is_over = shared, identifiers, shared.is_over

    def with_id(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2."""
        return self.head(message, qos, packet_id, dup) + message.message.payload

    def head(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2 up to its payload."""
        identifiers = self._identifiers(message.message)
        if not identifiers:
            return self._shared.head(message, qos, packet_id, dup)
        first = message.first | qos << 1 | dup << 3  # [MQTT5-3.3.4-3] [MQTT5-3.3.4-4]
        return self._shared.head_with(message, identifiers, first, _UINT16(packet_id))

    def qos0(self, message: EncodedPublish) -> bytes:
        """Return the bytes of the packet at QoS 0."""
        identifiers = self._identifiers(message.message)
        if not identifiers:
            return self._shared.qos0(message)
        return self._shared.head_with(message, identifiers, message.first, b"") + message.message.payload

    def at_qos0(self, message: Publish) -> bytes:
        """Return the bytes of the packet at QoS 0, without RETAIN."""
        identifiers = self._identifiers(message)
        return self.qos0(EncodedPublish(message)) if identifiers else self._shared.at_qos0(message)

    def identifying(self, identifiers: "Callable[[Publish], bytes]") -> Wire:
        """Return this wire: it does."""
        return self


class Wires:
    """Wires are the ways to write, by Protocol Level.

    :param now: seconds since the epoch.
    """

    __slots__ = ("_five", "_limited", "_older")

    def __init__(self, now: Callable[[], float]) -> None:
        self._older, self._five, self._limited = Wire311(now), Wire5(now), Wire5(now, limited=True)

    def of(self, protocol_level: int, limited: bool = False) -> Wire:
        """Return the wire of a Protocol Level, or of its clients with a Maximum Packet Size."""
        if protocol_level < 5:
            return self._older
        return self._limited if limited else self._five


#: Of a Session whose client has never come.
UNUSED: Final[Wire] = Wire311(lambda: 0.0)
