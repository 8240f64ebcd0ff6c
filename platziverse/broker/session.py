"""Session: what the broker remembers of a client, on both sides of a lost connection."""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from platziverse.broker.interfaces import Client, NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import EncodedPublish, encode_pubrel
from platziverse.mqtt.errors import ProtocolViolation
from platziverse.mqtt.packets import Publish

#: An outgoing message with the QoS it is delivered at.
Outgoing: TypeAlias = "tuple[EncodedPublish, int]"

#: In place of an in-flight QoS 2 message once PUBREC has come: only its PUBREL is outstanding.
_RELEASED: Final = None

#: Called when a QoS 2 message that came twice has been stored (true) or could not be (false).
Waiter: TypeAlias = Callable[[bool], None]


class Session:
    """Subscriptions, in-flight messages and queue of one Client Identifier.

    :param persistent: kept when the connection ends (Clean Session 0).
    """

    __slots__ = (
        "_awaiting_pubrel",
        "_inflight",
        "_last_id",
        "_limits",
        "_queue",
        "_replay",
        "client",
        "client_id",
        "connection",
        "dropped",
        "persistent",
        "queued_bytes",
        "subscriptions",
        "will",
    )

    def __init__(self, client_id: str, persistent: bool, limits: Limits) -> None:
        self.client_id = client_id
        self.persistent = persistent
        self.client: Client | None = None
        self.connection: NetworkConnection | None = None
        self.will: Publish | None = None
        self.subscriptions: dict[str, int] = {}
        #: Messages this client did not get because its queue was full.
        self.dropped = 0
        self.queued_bytes = 0
        self._limits = limits
        self._last_id = 0
        # In the order of sending, which is the order of sending again. [MQTT-4.6.0-1]
        self._inflight: dict[int, Outgoing | None] = {}
        # Made when first needed: an idle client costs as little as possible.
        self._queue: deque[Outgoing] | None = None
        self._replay: deque[tuple[Publish, int]] | None = None
        self._awaiting_pubrel: dict[int, float | list[Waiter]] | None = None

    # -- to the client ---------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Messages that wait, in flight ones not counted."""
        return (len(self._queue) if self._queue else 0) + (len(self._replay) if self._replay else 0)

    @property
    def inflight(self) -> int:
        """Messages sent whose acknowledgement has not come."""
        return len(self._inflight)

    def deliver(self, message: EncodedPublish, qos: int) -> None:
        """Send at QoS 1 or 2, now or as soon as the window and the connection have room."""
        connection = self.connection
        if (
            connection is not None
            and not self._queue
            and len(self._inflight) < self._limits.max_inflight
            and not connection.congested
        ):
            self._send(connection, message, qos)
        elif not self._enqueue(message, qos) and connection is not None:
            connection.close("its queue of outgoing messages is full")

    def replay(self, messages: "list[tuple[Publish, int]]") -> None:
        """Send Retained Messages, each with its QoS, at the client's own pace.

        They wait outside the queue and its limits: they are references to what is kept anyway.
        """
        if self._replay is None:
            self._replay = deque()
        self._replay.extend(messages)
        self.pump()

    def _send(self, connection: NetworkConnection, message: EncodedPublish, qos: int) -> None:
        inflight = self._inflight
        packet_id = self._last_id + 1
        if packet_id > 65_535 or packet_id in inflight:
            packet_id = self._free_id()
        self._last_id = packet_id
        inflight[packet_id] = (message, qos)
        connection.send(message.with_id(qos, packet_id))

    def _enqueue(self, message: EncodedPublish, qos: int) -> bool:
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        limits = self._limits
        size = self.queued_bytes + message.size
        if len(queue) >= limits.max_queued_messages or size > limits.max_queued_bytes:
            self.dropped += 1
            return False
        queue.append((message, qos))
        self.queued_bytes = size
        return True

    def pump(self) -> None:
        """Send what waits, while the window and the connection have room."""
        connection = self.connection
        queue = self._queue
        while queue and connection is not None and self._has_room(connection):
            message, qos = queue.popleft()
            self.queued_bytes -= message.size
            self._send(connection, message, qos)
        replay = self._replay
        while replay and connection is not None and self._has_room(connection):
            retained, qos = replay.popleft()
            encoded = EncodedPublish(retained, retain=True)  # [MQTT-3.3.1-8]
            if qos:
                self._send(connection, encoded, qos)
            else:
                connection.offer(encoded.qos0)

    def _has_room(self, connection: NetworkConnection) -> bool:
        return len(self._inflight) < self._limits.max_inflight and not connection.congested

    def _free_id(self) -> int:
        packet_id = self._last_id
        while True:
            packet_id = packet_id + 1 if packet_id < 65_535 else 1  # never 0 [MQTT-2.3.1-1]
            if packet_id not in self._inflight:  # [MQTT-2.3.1-2] [MQTT-2.3.1-4]
                return packet_id

    def puback(self, packet_id: int) -> bool:
        """The client owns a QoS 1 message. False if no such Packet Identifier is in flight.

        :raises ProtocolViolation: the message in flight is one of QoS 2.
        """
        entry = self._inflight.get(packet_id, _RELEASED)
        if entry is _RELEASED:
            self._refuse_if_present(packet_id, "PUBACK")
            return False
        if entry[1] != 1:
            raise ProtocolViolation(f"PUBACK for a QoS 2 message, packet id {packet_id}", "MQTT-4.3.3-1")
        del self._inflight[packet_id]
        if self._queue or self._replay:
            self.pump()
        return True

    def pubrec(self, packet_id: int) -> bool:
        """The client owns a QoS 2 message; answered with PUBREL even if unknown. False if unknown.

        :raises ProtocolViolation: the message in flight is one of QoS 1.
        """
        connection = self.connection
        assert connection is not None
        known = packet_id in self._inflight
        if known:
            entry = self._inflight[packet_id]
            if entry is not _RELEASED and entry[1] != 2:
                raise ProtocolViolation(f"PUBREC for a QoS 1 message, packet id {packet_id}", "MQTT-4.3.2-1")
            self._inflight[packet_id] = _RELEASED  # keeps its place in the order
        connection.send(encode_pubrel(packet_id))  # [MQTT-4.3.3-1] [MQTT-4.6.0-4]
        return known

    def pubcomp(self, packet_id: int) -> bool:
        """The Packet Identifier is free again. False if it was not in flight.

        :raises ProtocolViolation: PUBREC has not come yet.
        """
        if self._inflight.get(packet_id, _RELEASED) is not _RELEASED:
            raise ProtocolViolation(f"PUBCOMP before PUBREC, packet id {packet_id}", "MQTT-4.3.3-1")
        if packet_id not in self._inflight:
            return False
        del self._inflight[packet_id]
        if self._queue or self._replay:
            self.pump()
        return True

    def _refuse_if_present(self, packet_id: int, what: str) -> None:
        if packet_id in self._inflight:
            raise ProtocolViolation(f"{what} after PUBREC, packet id {packet_id}", "MQTT-4.3.3-1")

    def resume(self) -> None:
        """After a reconnect: everything in flight again, in its order, then what waits. [MQTT-4.4.0-1]"""
        connection = self.connection
        assert connection is not None
        for packet_id, entry in self._inflight.items():
            if entry is _RELEASED:
                connection.send(encode_pubrel(packet_id))
            else:
                message, qos = entry
                connection.send(message.with_id(qos, packet_id, dup=True))  # [MQTT-3.3.1-1]
        self.pump()

    def pause(self) -> None:
        """The connection is gone; what only a connected client may get is dropped."""
        self.connection = None
        self.will = None
        self._replay = None

    # -- from the client: QoS 2 ------------------------------------------------------------------

    def receive(self, packet_id: int, now: float) -> bool:
        """A QoS 2 PUBLISH came. True when it is new and has to be routed. [MQTT-4.3.3-2]

        :param now: seconds; identifiers that were never released expire.
        :raises ProtocolViolation: too many await their PUBREL.
        """
        awaiting = self._awaiting_pubrel
        if awaiting is None:
            awaiting = self._awaiting_pubrel = {}
        if packet_id in awaiting:
            return False
        if len(awaiting) >= self._limits.max_awaiting_pubrel:
            self._expire(awaiting, now - self._limits.awaiting_pubrel_expiry)
            if len(awaiting) >= self._limits.max_awaiting_pubrel:
                raise ProtocolViolation(f"{len(awaiting)} QoS 2 messages await their PUBREL", "4.3.3")
        awaiting[packet_id] = []
        return True

    @staticmethod
    def _expire(awaiting: "dict[int, float | list[Waiter]]", before: float) -> None:
        for packet_id, state in list(awaiting.items()):
            if not isinstance(state, list) and state <= before:
                del awaiting[packet_id]

    def stored(self, packet_id: int, now: float) -> None:
        """The QoS 2 message may be answered with PUBREC; so may its repetitions."""
        awaiting = self._awaiting_pubrel
        waiters = awaiting.get(packet_id) if awaiting else None
        if awaiting is not None and isinstance(waiters, list):
            awaiting[packet_id] = now
            for waiter in waiters:
                waiter(True)

    def failed(self, packet_id: int) -> None:
        """The QoS 2 message could not be stored: a later repetition is a new message."""
        waiters = self._awaiting_pubrel.pop(packet_id, None) if self._awaiting_pubrel else None
        if isinstance(waiters, list):
            for waiter in waiters:
                waiter(False)

    def when_stored(self, packet_id: int, waiter: Waiter) -> None:
        """Call ``waiter`` once the repeated message is stored; perhaps at once."""
        state = self._awaiting_pubrel.get(packet_id) if self._awaiting_pubrel else None
        if isinstance(state, list):
            state.append(waiter)
        else:
            waiter(True)

    def release(self, packet_id: int) -> bool:
        """PUBREL came. False when the Packet Identifier was not known: PUBCOMP is due all the same."""
        awaiting = self._awaiting_pubrel
        return awaiting is not None and awaiting.pop(packet_id, None) is not None
