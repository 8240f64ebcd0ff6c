"""Terms: what a client has asked for in CONNECT about what it is sent, and how long it is remembered."""

from collections.abc import Callable
from copy import copy
from functools import lru_cache
from typing import Final

from platziverse.mqtt.aliasing import Aliasing
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Connect, Properties, Publish
from platziverse.mqtt.properties import weigh_asked
from platziverse.mqtt.wire import UNUSED, Wire

#: More than any packet has.
ANY_SIZE: Final = 1 << 30
#: And more than one has besides Topic Name, Properties and payload.
HEADER: Final = 16
#: Bytes that a Topic Alias takes, roughly.
ALIAS: Final = 256
_NOTHING: Final = Properties()


class Terms:
    """Terms are those of one connection; clients that have asked for nothing share theirs, as of MQTT 3.1.1.

    :ivar asked: what CONNECT says, of MQTT 5.
    :ivar size: bytes that it takes, roughly, beyond what all share.
    :ivar wire: how the client is written to.
    :ivar plain: likewise, without Topic Aliases.
    :ivar most_inflight: messages that were sent to it and that it has not acknowledged.
    :ivar largest: bytes of a packet.
    :ivar near: below this, of Topic Name, Properties and payload, a packet is not too large for certain.
    :ivar expiry: seconds that its Session is kept when it has gone; ``None``: as the setting says.
    """

    __slots__ = ("asked", "expiry", "largest", "most_inflight", "near", "plain", "size", "will_delay", "wire")

    def __init__(self, wire: Wire, most_inflight: int, asked: Properties = _NOTHING) -> None:
        self.wire, self.plain, self.asked, self.size = wire, wire, asked, 0
        # [MQTT5-3.3.4-9] [MQTT5-4.9.0-1]
        self.most_inflight = min(asked.receive_maximum or ANY_SIZE, most_inflight)
        self.largest = asked.maximum_packet_size or ANY_SIZE
        self.near = self.largest - HEADER
        self.expiry: float | None = None
        #: Seconds that its Will waits for it to come back.
        self.will_delay = 0

    def identifying(self, identifiers: Callable[[Publish], bytes]) -> "Terms":
        """Return Terms by which the client gets its Subscription Identifiers, if its version has any.

        :param identifiers: see :class:`Wire`.
        """
        plain = self.plain.identifying(identifiers)
        if plain is self.plain:
            return self
        terms = copy(self)  # others may have the same
        terms.wire, terms.plain = self.wire.identifying(identifiers), plain
        terms.near = -1 if self.largest < ANY_SIZE else self.near  # they make packets larger
        return terms

    def patience(self, delay: int) -> float:
        """Return how many seconds a Will waits: no longer than its Session is kept. [MQTT5-3.1.3-9]"""
        return delay if self.expiry is None else min(delay, self.expiry)

    def alias(self, most: int, takes: Callable[[], bool]) -> None:
        """Use Topic Aliases for what the client is sent, if it takes any. [MQTT5-3.1.2-26] [MQTT5-3.1.2-27]

        :param most: that we use.
        :param takes: returns whether the client gets what is written at QoS 0.
        """
        most = min(self.asked.topic_alias_maximum or 0, most)
        if most:
            self.wire = Aliasing(self.plain, most, self.largest, takes)
            self.size += most * ALIAS

    def fits(self, message: EncodedPublish) -> bool:
        """Return whether a message is no larger than the client takes packets. [MQTT5-3.1.2-24]"""
        if message.size < self.near:
            return True
        return len(self.plain.head(message, 1, 1)) + len(message.payload) <= self.largest


@lru_cache(maxsize=16)
def usual(wire: Wire, most_inflight: int) -> Terms:
    """Return the Terms of all clients that have none of their own."""
    return Terms(wire, most_inflight)


def is_limited(packet: Connect) -> bool:
    """Return whether the client has a Maximum Packet Size."""
    return packet.properties is not None and packet.properties.maximum_packet_size is not None


def terms_of(packet: Connect, wire: Wire, most_inflight: int) -> Terms:
    """Return the Terms of the client that has sent this CONNECT."""
    if packet.properties is None and not packet.will_delay:
        return usual(wire, most_inflight)
    terms = Terms(wire, most_inflight, packet.properties or _NOTHING)
    terms.size = weigh_asked(terms.asked)
    terms.will_delay = packet.will_delay
    return terms


def unused(most_inflight: int) -> Terms:
    """Return the Terms of a Session whose client has not come yet."""
    return usual(UNUSED, most_inflight)
