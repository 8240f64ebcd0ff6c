"""Outgoing: the messages that were sent to one client and that it has not acknowledged."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from platziverse.broker.interfaces import NetworkConnection
from platziverse.mqtt.codec import EncodedPublish, encode_pubrel
from platziverse.mqtt.errors import ProtocolViolation
from platziverse.mqtt.wire import UNUSED, Wire

#: A message with the QoS that it is delivered at.
Entry: TypeAlias = "tuple[EncodedPublish, int]"

#: Bytes from which on receivers of a message share its payload while it waits for them.
SHARED: Final = 16 * 1024

#: In place of a QoS 2 message once PUBREC has come: only its PUBREL is outstanding.
_RELEASED: Final = None

#: In place of a message that is not in flight.
UNKNOWN: Final[Any] = object()

#: How many Packet Identifiers there are.
IDENTIFIERS: Final = 65_535


def identifier(position: int) -> int:
    """Return the Packet Identifier of the message at this position of a durable Session. ADR 0114."""
    return (position - 1) % IDENTIFIERS + 1


class Outgoing:
    """An Outgoing is the half of a Session that sends at QoS 1 and 2; its owner decides how much at a time.

    :ivar inflight: Packet Identifier → message, in the order of sending, which is the order of sending
        again [MQTT-4.6.0-1]; ``None`` once PUBREC has come.
    :ivar last: the Packet Identifier, or the position, that was sent last.
    :ivar wire: how the client is written to.
    """

    __slots__ = ("inflight", "last", "unsent", "wire")

    def __init__(self, wire: Wire = UNUSED) -> None:
        self.inflight: dict[int, Entry | None] = {}
        self.last = 0
        self.wire = wire
        #: Of these, Packet Identifiers that are still to be sent again, in order.
        self.unsent: deque[int] = deque()

    @property
    def size(self) -> int:
        """How many bytes of Topic Names and payloads are in flight."""
        return sum(entry[0].size for entry in self.inflight.values() if entry)

    def send(self, connection: NetworkConnection, message: EncodedPublish, qos: int) -> None:
        """Send a message under a Packet Identifier of its own."""
        inflight = self.inflight
        packet_id = self.last + 1
        if packet_id > 65_535 or packet_id in inflight:
            packet_id = self._free_id()
        self.last = packet_id
        inflight[packet_id] = (message, qos)
        if message.size > SHARED:
            connection.send_shared(self.wire.head(message, qos, packet_id), message.payload)
        else:
            connection.send(self.wire.with_id(message, qos, packet_id))

    def send_together(
        self, connection: NetworkConnection, messages: Sequence[EncodedPublish], qos: int
    ) -> bool:
        """Send short messages in one step, under the next Packet Identifiers; ``False``: some are in use."""
        first, inflight, encode, pieces = self.last + 1, self.inflight, self.wire.with_id, []
        end = first + len(messages)
        if end - 1 > IDENTIFIERS or not inflight.keys().isdisjoint(range(first, end)):
            return False
        for packet_id, message in enumerate(messages, first):
            inflight[packet_id] = (message, qos)
            pieces.append(encode(message, qos, packet_id))
        self.last = end - 1
        connection.send_together(pieces)
        return True

    def send_at(self, connection: NetworkConnection, position: int, entry: "Entry | None", dup: bool) -> None:
        """Send a message of a durable Session under the Packet Identifier of its position, which is free.

        :param entry: ``None``: its PUBREC has come, and PUBREL is sent.
        """
        self.last, packet_id = position, identifier(position)
        self.inflight[packet_id] = entry
        if entry is None or dup or entry[0].size > SHARED:
            self._send(connection, packet_id, entry, dup)
        else:
            connection.send(self.wire.with_id(entry[0], entry[1], packet_id))

    def position(self, packet_id: int) -> int:
        """Return the position of the message in flight under this Packet Identifier.

        All that is in flight is less than ``IDENTIFIERS`` positions behind the last one that was sent.
        """
        return self.last - (self.last - packet_id) % IDENTIFIERS

    def _free_id(self) -> int:
        packet_id = self.last
        while True:
            packet_id = packet_id + 1 if packet_id < 65_535 else 1  # never 0 [MQTT-2.3.1-1]
            if packet_id not in self.inflight:  # [MQTT-2.3.1-2] [MQTT-2.3.1-4]
                return packet_id

    def send_again(self, connection: NetworkConnection, most: int) -> None:
        """Send what is in flight again, in its order, after a reconnect. [MQTT-4.4.0-1]

        :param most: that may be in flight now; the rest is sent by :meth:`go_on`.
        """
        self.unsent = deque(self.inflight)
        self.go_on(connection, most)

    def drop(self, fits: Callable[[EncodedPublish], bool]) -> int:
        """Forget what is in flight and does not fit: it counts as sent. [MQTT5-3.1.2-25]

        :param fits: returns whether a message is no larger than the client takes packets now.
        :return: how many messages that were.
        """
        large = [number for number, entry in self.inflight.items() if entry and not fits(entry[0])]
        for packet_id in large:
            del self.inflight[packet_id]
        return len(large)

    def go_on(self, connection: NetworkConnection, most: int) -> None:
        """Send what was in flight before a reconnect while there is room. [MQTT5-3.3.4-9]"""
        unsent, inflight = self.unsent, self.inflight
        while unsent and len(inflight) - len(unsent) < most:
            packet_id = unsent.popleft()
            if packet_id in inflight:
                self._send(connection, packet_id, inflight[packet_id], dup=True)  # [MQTT-3.3.1-1]

    def _send(self, connection: NetworkConnection, packet_id: int, entry: "Entry | None", dup: bool) -> None:
        """Send PUBREL, or a message that is large or comes again: all of a window may at once."""
        if entry is _RELEASED:
            connection.send(encode_pubrel(packet_id))
        else:
            message, qos = entry
            connection.send_shared(self.wire.head(message, qos, packet_id, dup), message.payload)

    def refused(self, packet_ids: Sequence[int]) -> int:
        """Forget messages that the client does not want: no PUBREL follows. [MQTT5-4.3.3-4]

        [MQTT5-4.4.0-2]

        :return: how many of the Packet Identifiers were not in flight.
        """
        return sum([self.inflight.pop(packet_id, UNKNOWN) is UNKNOWN for packet_id in packet_ids])

    def puback(self, packet_ids: Sequence[int]) -> int:
        """Forget these QoS 1 messages, which the client owns now, or refuses. [MQTT5-4.3.2-3] [MQTT5-4.4.0-2]

        :return: how many of the Packet Identifiers were not in flight.
        :raises ProtocolViolation: the message in flight is one of QoS 2.
        """
        inflight, unknown = self.inflight, 0
        for packet_id in packet_ids:
            entry = inflight.get(packet_id)
            if entry is None:
                if packet_id in inflight:  # released
                    raise ProtocolViolation(f"PUBACK after PUBREC, packet id {packet_id}", "MQTT-4.3.3-1")
                unknown += 1
                continue
            if entry[1] != 1:
                raise ProtocolViolation(f"PUBACK for a QoS 2 message, packet id {packet_id}", "MQTT-4.3.3-1")
            del inflight[packet_id]
        return unknown

    def pubrec(self, packet_id: int) -> bool:
        """Forget a QoS 2 message, which the client owns now, but not its Packet Identifier. [MQTT5-4.3.3-3]

        :return: whether it was in flight; PUBREL is due all the same.
        :raises ProtocolViolation: the message in flight is one of QoS 1.
        """
        inflight = self.inflight
        if packet_id not in inflight:
            return False
        entry = inflight[packet_id]
        if entry is not _RELEASED and entry[1] != 2:
            raise ProtocolViolation(f"PUBREC for a QoS 1 message, packet id {packet_id}", "MQTT-4.3.2-1")
        inflight[packet_id] = _RELEASED  # keeps its place in the order [MQTT5-4.3.3-6]
        return True

    def pubcomp(self, packet_ids: Sequence[int]) -> int:
        """Free the Packet Identifiers of these QoS 2 messages. [MQTT5-4.3.3-5]

        :return: how many of them were not in flight.
        :raises ProtocolViolation: the PUBREC of one has not come yet.
        """
        inflight, unknown = self.inflight, 0
        for packet_id in packet_ids:
            if packet_id not in inflight:
                unknown += 1
                continue
            if inflight[packet_id] is not _RELEASED:
                raise ProtocolViolation(f"PUBCOMP before PUBREC, packet id {packet_id}", "MQTT-4.3.3-1")
            del inflight[packet_id]
        return unknown
