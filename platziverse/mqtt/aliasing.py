"""Aliasing: Topic Aliases for what one client is sent."""

from collections.abc import Callable
from struct import Struct
from typing import Final

from platziverse.mqtt.codec import TOPICS, EncodedPublish
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.wire import Wire, joined

#: Bytes of a Topic Name, with its length, from which on an alias for it makes packets smaller.
SHORTEST: Final = 8
#: Topic Names that came once are remembered, so many for each alias that is free.
REMEMBERED: Final = 4
#: The Property, of a byte and a two byte integer.
_ALIAS: Final = Struct(">BH").pack
_IDENTIFIER: Final = 0x23
#: In the place of a Topic Name.
_NO_TOPIC: Final = b"\0\0"


class Aliasing:
    """An Aliasing is the wire of one connection whose client takes Topic Aliases.

    A Topic Name gets one when it comes for the second time, as long as there are any: what is sent once would
    only be larger. It never changes. An alias must be said to the client before it stands alone, so what is
    written here with a new one must be sent; at QoS 0 none begins while the client may not get it. ADR 0205.

    :param plain: how the client is written to without.
    :param most: aliases, at least one.
    :param largest: bytes of a packet that the client takes.
    :param takes: returns whether the client gets what is written at QoS 0.
    """

    __slots__ = ("_aliases", "_largest", "_most", "_once", "_plain", "_takes", "is_over")

    no_properties = b"\0"
    limited = True

    def __init__(self, plain: Wire, most: int, largest: int, takes: Callable[[], bool]) -> None:
        self._plain, self._most, self._largest, self._takes = plain, most, largest, takes
        self.is_over = plain.is_over
        # Topic Name → the Property of its alias.
        self._aliases: dict[str, bytes] = {}
        # Topic Names that came once, the one that did so longest ago first.
        self._once: dict[str, None] = {}

    def with_id(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2."""
        return self.head(message, qos, packet_id, dup) + message.message.payload

    def head(self, message: EncodedPublish, qos: int, packet_id: int, dup: bool = False) -> bytes:
        """Return the bytes of the packet at QoS 1 or 2 up to its payload."""
        head, publish = self._plain.head(message, qos, packet_id, dup), message.message
        return self._with_alias(head, publish.topic, len(publish.payload), 2)

    def qos0(self, message: EncodedPublish) -> bytes:
        """Return the bytes of the packet at QoS 0."""
        return self._with_alias_at_qos0(self._plain.qos0(message), message.message)

    def at_qos0(self, message: Publish) -> bytes:
        """Return the bytes of the packet at QoS 0, without RETAIN."""
        return self._with_alias_at_qos0(self._plain.at_qos0(message), message)

    def identifying(self, identifiers: "Callable[[Publish], bytes]") -> Wire:
        """Return this wire: from now on it writes Subscription Identifiers too."""
        self._plain = self._plain.identifying(identifiers)
        return self

    def _with_alias_at_qos0(self, data: bytes, message: Publish) -> bytes:
        if message.topic not in self._aliases and not self._takes():
            return data
        end = len(data) - len(message.payload)
        head = self._with_alias(data[:end], message.topic, len(message.payload), 0)
        return head + message.payload

    def _with_alias(self, head: bytes, topic: str, size: int, identifier: int) -> bytes:
        """Return a packet up to its payload with an alias instead of its Topic Name, or, at first, with both.

        :param size: of the payload.
        :param identifier: bytes of its Packet Identifier.
        """
        alias = self._aliases.get(topic)
        if alias is not None:
            return _replaced(head, TOPICS[topic], _NO_TOPIC, alias, size, identifier)
        if len(self._aliases) >= self._most or len(name := TOPICS[topic]) < SHORTEST:
            return head
        if topic not in self._once:
            self._remember(topic)
            return head
        alias = _ALIAS(_IDENTIFIER, len(self._aliases) + 1)  # [MQTT5-3.3.2-8]
        both = _replaced(head, name, name, alias, size, identifier)
        if len(both) + size > self._largest:
            return head
        del self._once[topic]
        self._aliases[topic] = alias
        return both

    def _remember(self, topic: str) -> None:
        once = self._once
        once[topic] = None
        if len(once) > REMEMBERED * self._most:
            del once[next(iter(once))]


def _replaced(head: bytes, topic: bytes, written: bytes, alias: bytes, size: int, identifier: int) -> bytes:
    """Return a packet up to its payload with something else for its Topic Name, and one Property more."""
    begin = 2
    while head[begin - 1] & 0x80:
        begin += 1
    behind = begin + len(topic)
    body = written + head[behind : behind + identifier] + joined(head[behind + identifier :], alias)
    return head[:1] + encode_length(len(body) + size) + body
