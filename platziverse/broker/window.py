"""Window: the part of a durable Session that sends. What does not fit into it is in the store alone.

Every message has a *position* in its Session, counted from 1, and is sent in the order of positions under the
Packet Identifier that follows from its position: the same one after a crash, without being stored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.python.failure import Failure

from platziverse.broker.interfaces import DROPPED, OWED, Answer, Client, NetworkConnection
from platziverse.broker.outgoing import IDENTIFIERS, SHARED, Outgoing, identifier
from platziverse.broker.owing import Owing, Unsettled
from platziverse.broker.pace import Pace
from platziverse.broker.queuesize import QueueSize
from platziverse.broker.records import StoredMessage, StoredSession, Trimmed
from platziverse.broker.rows import Rows
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import restored

if TYPE_CHECKING:
    from platziverse.broker.durable import Durable
    from platziverse.broker.session import Session

#: Messages of one Session in memory, in flight or waiting, unless ``max_inflight`` is more.
MOST: Final = 100
#: The same while its client takes many: they need not be read from the store. ADR 0158.
MOST_FLOWING: Final = 4000
#: Bytes of Topic Names and payloads that wait in memory for one Session, but for a last message.
MOST_BYTES: Final = 1024 * 1024
#: Bytes of a message in memory besides its own.
_ENTRY: Final = 256


class Window:
    """A Window sends what one Session is owed; while its client is absent nothing is in memory. ADR 0114.

    :param stored: the Session as it was committed before this process began.
    :param session: is pumped when something can be sent that could not be sent before.
    :ivar last: the highest position that was given.
    :ivar loaded: the highest position that is in memory, or was; above it messages are in the store alone.
    :ivar queue: how much is owed to the client; ``outgoing``: what is in flight, and how it is written.
    :ivar unsettled: what is neither committed nor acknowledged; ``pace``: how quick the client is.
    """

    __slots__ = (
        "_again",
        "_durable",
        "_most",
        "_pumping",
        "_reading",
        "_rows",
        "_sent",
        "_session",
        "_waiting",
        "_waiting_bytes",
        "client",
        "connection",
        "last",
        "loaded",
        "number",
        "outgoing",
        "pace",
        "queue",
        "unsettled",
    )

    def __init__(
        self, number: int, stored: StoredSession | None, durable: "Durable", session: "Session"
    ) -> None:
        self.number, self._session, self.last = number, session, stored.last if stored is not None else 0
        self.loaded = stored.first - 1 if stored is not None and stored.first else self.last
        self.queue = QueueSize(durable.limits, stored)
        self.client: Client | None = None
        self.connection: NetworkConnection | None = None
        self._durable, self._most = durable, durable.limits.max_inflight
        # Waiting in memory to be sent, in the order of positions; ``None``: only PUBREL is due.
        self._waiting: dict[int, tuple[EncodedPublish | None, int]] = {}
        self.outgoing, self.unsettled = Outgoing(), Unsettled(self.last)
        self._rows, self.pace = Rows(number, durable), Pace(durable.clock)
        # Sent before, up to here: perhaps, so with DUP; by this process, so it never expires. [MQTT5-4.3.3-7]
        self._again, self._sent = self.last, 0
        self._waiting_bytes, self._pumping = 0, False
        self._reading: NetworkConnection | None = None

    # -- what others ask -------------------------------------------------------------------------

    @property
    def inflight(self) -> int:
        """How many messages were sent whose acknowledgement has not come."""
        return len(self.outgoing.inflight)

    @property
    def memory(self) -> int:
        """How many bytes its messages take, roughly: those in memory alone."""
        entries = len(self._waiting) + len(self.outgoing.inflight)
        return entries and _ENTRY * entries + self._waiting_bytes + self.outgoing.size

    @property
    def head(self) -> int:
        """The position at and below which nothing waits, nor will."""
        for packet_id in self.outgoing.inflight:
            return self.outgoing.position(packet_id) - 1
        for position in self._waiting:
            return position - 1
        return self.loaded

    @property
    def is_open(self) -> bool:
        """Return whether one message more would be sent at once, or as soon as it is committed."""
        connection = self.connection
        return (
            connection is not None
            and self.loaded == self.last
            and len(self._waiting) + len(self.outgoing.inflight) < self._most
            and not connection.congested
        )

    def sends(self, size: int) -> bool:
        """Return whether a small message of this size at QoS 1 would be sent at once."""
        is_free = not self._waiting and self.last % IDENTIFIERS + 1 not in self.outgoing.inflight
        return is_free and self.is_open and size < self._session.terms.near

    def admit(self, size: int, too_slow: bool) -> int:
        """Return whether one message more may be owed to the client, as bits.

        :param size: bytes of its Topic Name and payload.
        :param too_slow: no publisher is held for this client any more.
        :return: ``OWED``, together with ``FULL`` when it fills the queue, or with ``DROPPED`` when an older
            message had to go; ``DROPPED`` alone: it may not.
        """
        if self.connection is not None:
            return OWED if self.is_open else self.queue.admit(size, too_slow)
        if (dropped := self.queue.make_room(size)) > 0:
            self._durable.record(Trimmed(self.number, self.loaded, dropped))
            return OWED | DROPPED
        return DROPPED if dropped else OWED

    # -- messages come ---------------------------------------------------------------------------

    def take(self, owing: Owing, message: EncodedPublish, qos: int) -> bool:
        """Give a message the next position, and send it if there is room.

        :return: whether the client is likely to acknowledge it within the grace.
        """
        if qos == 1 and message.size <= SHARED and self.offer(owing, (message,)):
            return self.pace.quick
        position = self.last = self.last + 1
        self.unsettled[position] = owing
        self.queue.add(message.size)
        connection = self.connection
        if connection is None or self.loaded != position - 1 or not self._room():
            return False
        self.loaded = position
        self._keep(position, message, qos)
        if qos == 1:  # a large one may have room as well
            self._push(connection)
        return qos == 1 and self.pace.quick and not connection.congested

    def offer(self, owing: Owing, messages: Sequence[EncodedPublish]) -> int:
        """Send small messages at QoS 1 at once, while :attr:`sends` is true; return how many."""
        connection, outgoing, position = self.connection, self.outgoing, self.last
        if connection is None or self._waiting or self.loaded != position:
            return 0
        inflight, near, with_id = outgoing.inflight, self._session.terms.near, outgoing.wire.with_id
        room = self._most - len(inflight)
        for count, message in enumerate(messages):
            packet_id = position % IDENTIFIERS + 1
            if count >= room or connection.congested or packet_id in inflight or message.size >= near:
                return count
            self.last = self.loaded = outgoing.last = position = position + 1
            self.unsettled[position] = owing
            inflight[packet_id] = message, 1
            if not self.pace.quick:
                self.pace.sent(position, len(inflight))
            connection.send(with_id(message, 1, packet_id))
        return len(messages)

    def committed(self, position: int, number: int) -> None:
        """Note that the row of this position is committed; ``number`` is that of its message, or 0."""
        del self.unsettled[position]
        if number and position <= self.loaded and self.connection is not None:
            self._rows.refers(position, number)

    def go_on(self) -> None:
        """Send what has waited for a commit, or for room."""
        if self.connection is not None and (self._waiting or self.loaded < self.last):
            self._session.pump()

    def failed(self, position: int, size: int) -> None:
        """Send this message of ``size`` bytes no more: its row will never be committed."""
        if self.unsettled.pop(position, None) is None or self._is_in_flight(position):
            return
        if self._waiting.pop(position, None) is not None:
            self._waiting_bytes -= size
        self.queue.remove(size)
        if self.connection is not None:
            self._session.pump()

    def _is_in_flight(self, position: int) -> bool:
        packet_id = identifier(position)
        return packet_id in self.outgoing.inflight and self.outgoing.position(packet_id) == position

    def _room(self) -> int:
        """Return how many messages more may be in memory."""
        there = len(self._waiting) + len(self.outgoing.inflight)
        if self._waiting_bytes >= MOST_BYTES:
            return 0
        room = max(MOST, self._most) - there
        if room <= 0 and self.pace.flows():
            room = MOST_FLOWING - there
        return max(room, 0)

    def _keep(self, position: int, message: EncodedPublish | None, qos: int) -> None:
        self._waiting[position] = message, qos
        if message is not None:
            self._waiting_bytes += message.size

    # -- messages go -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Send messages that wait, while there is room, and bring the next ones into memory."""
        connection = self.connection
        if connection is None or self._pumping:
            return  # or the loop below goes on with what has come meanwhile
        self._pumping = True
        try:
            self._push(connection)
            while self.loaded < self.last and self._room() and self._load(connection):
                self._push(connection)
        finally:
            self._pumping = False

    def _push(self, connection: NetworkConnection) -> None:
        waiting = self._waiting
        while waiting and len(self.outgoing.inflight) < self._most and not connection.congested:
            position = next(iter(waiting))
            message, qos = waiting[position]
            if identifier(position) in self.outgoing.inflight or (qos == 2 and position in self.unsettled):
                break  # 65,535 positions ago there is one in flight; or this one is not committed yet
            del waiting[position]
            size = message.size if message is not None else 0
            self._waiting_bytes -= size
            self.queue.remove(size)
            if message is None or self._session.may_get(message, position <= self._sent):
                self._send(connection, position, message, qos)
            else:
                self._owned(position)

    def _send(
        self, connection: NetworkConnection, position: int, message: EncodedPublish | None, qos: int
    ) -> None:
        if qos == 1:
            self.pace.sent(position, self.inflight + 1)
        entry = (message, qos) if message is not None else None
        self.outgoing.send_at(connection, position, entry, position <= max(self._again, self._sent))

    def _load(self, connection: NetworkConnection) -> bool:
        """Bring messages into memory; return whether some have come at once."""
        if self._reading is connection:
            return False
        before = self.loaded
        while self._room() and (owing := self.unsettled.get(self.loaded + 1)) is not None:
            self.loaded += 1
            self._keep(self.loaded, *owing.at(self.number, self.loaded))
        room = min(self._room(), max(MOST, self._most))
        if self.loaded > before or self.loaded == self.last or not room:
            return self.loaded > before
        # A position that is neither committed nor in memory must not be passed over.
        through = next((one for one in self.unsettled if one > before), self.last + 1) - 1
        limit = min(room, int(MOST_BYTES / self.queue.average) + 1)
        self._reading = connection
        # What is acknowledged by now may be deleted while the page is read, or just after that.
        known = connection, through, self._rows.leaving
        page = self._durable.page(self.number, before, through, limit)
        page.addCallbacks(self._page_came, self._page_failed, known, {}, (connection,))
        return self._reading is not connection

    def _page_came(
        self, rows: list[StoredMessage], connection: NetworkConnection, through: int, leaving: frozenset[int]
    ) -> None:
        if self.connection is not connection:
            return
        self._reading = None
        for row in rows:
            if row.position not in leaving:
                self._restore(row)
        # A short page is no sign of the end: large messages make it short.
        self.loaded = rows[-1].position if rows else through
        self._session.pump()

    def _restore(self, row: StoredMessage) -> None:
        if self._rows.is_received(row):
            return self._keep(row.position, None, 2)
        message = Publish(row.topic, row.payload, row.qos, properties=restored(row.properties))
        return self._keep(row.position, EncodedPublish(message, row.retain), row.qos)

    def _page_failed(self, failure: Failure, connection: NetworkConnection) -> None:
        if self.connection is connection and self.client is not None:
            again = partial(self._page_came, [], connection, self.loaded, frozenset())
            self._durable.ask_again(self.client, failure, again)

    # -- the client answers ----------------------------------------------------------------------

    def puback(self, packet_ids: Sequence[int]) -> int:
        """Take note that the client owns these QoS 1 messages; see :meth:`Outgoing.puback`."""
        outgoing, unsettled, unknown, owned = self.outgoing, self.unsettled, 0, 0
        inflight, last, timed, done = outgoing.inflight, outgoing.last, self.pace.timed, []
        try:
            for packet_id in packet_ids:
                position = last - (last - packet_id) % IDENTIFIERS
                owing = unsettled.get(position)
                if owing is None or owing.entries is not None or position == timed:
                    unknown += self._answered(outgoing.puback, packet_id)
                else:
                    del unsettled[position], inflight[packet_id]
                    owned += 1
                    owing.left -= 1
                    if not owing.left:
                        done.append(owing)
        finally:  # one of them may have been wrong
            self.pace.answered += owned
            for owing in done:
                owing.settled()
        return unknown

    def _answered(self, forget: Callable[[Sequence[int]], int], packet_id: int) -> int:
        unknown = forget((packet_id,))
        if not unknown:
            self._owned(self.outgoing.position(packet_id))
        return unknown

    def pubrec(self, packet_id: int) -> bool:
        """Take note that the client owns a QoS 2 message; see :meth:`Outgoing.pubrec`."""
        return self.outgoing.pubrec(packet_id)

    def refused(self, packet_id: int) -> None:
        """Owe a message no more that the client has refused with a PUBREC."""
        self._answered(self.outgoing.refused, packet_id)

    def received(self, packet_id: int) -> Answer:
        """Save that PUBREC came for a message in flight. PUBREL waits for the Deferred, if there is one."""
        position = self.outgoing.position(packet_id)
        return self._rows.receive(position, self._is_received)

    def _is_received(self, _: object, position: int) -> None:
        if self._is_in_flight(position):  # PUBCOMP may have come too early
            self._rows.received(position)

    def pubcomp(self, packet_ids: Sequence[int]) -> int:
        """Take note that these Packet Identifiers are free again; see :meth:`Outgoing.pubcomp`."""
        return sum([self._answered(self.outgoing.pubcomp, packet_id) for packet_id in packet_ids])

    def _owned(self, position: int) -> None:
        """Owe this message no more: its row is deleted, or never written."""
        owing, rows = self.unsettled.pop(position, None), self._rows
        self.pace.owned(position, self._durable.grace)
        rows.owned(position)
        entry = owing.withdraw(self.number, position) if owing is not None else None
        if owing is None or entry is not None:
            rows.leave(position, entry, self.head)

    # -- the client comes and goes ---------------------------------------------------------------

    def replay(self, message: EncodedPublish, qos: int) -> Answer:
        """Send a Retained Message for a new Subscription: a message like any other. ADR 0115."""
        return self._durable.replay(self, message, qos)

    def resume(self, connection: NetworkConnection, client: Client | None) -> None:
        """Send everything again that the client has not acknowledged, then the rest. [MQTT-4.4.0-1]"""
        self.connection, self.client, terms = connection, client, self._session.terms
        self._most, self.outgoing.wire = terms.most_inflight, terms.wire
        self.pace.begin()
        self.pump()

    def pause(self) -> None:
        """Keep nothing in memory: the client has gone. What is not saved yet is saved now."""
        self.loaded, self.connection, self._reading = self.head, None, None
        self.queue.add(self.outgoing.size, self.inflight)
        self._sent = max(self._sent, self.outgoing.last)
        self.outgoing.inflight.clear()
        self._waiting, self._waiting_bytes = {}, 0
        self._rows.forget_numbers()
        for owing in list(self.unsettled.values()):
            self._durable.save_owing(owing)

    def may_pass_on(self, row: StoredMessage) -> bool:
        """Return whether another Session may get a message: if it is not owned, nor sent at QoS 2."""
        sent = row.qos == 2 and row.position <= max(self._again, self._sent)  # [MQTT5-4.8.2-5]
        return not (sent or row.received or row.position in self._rows.leaving)

    def end(self) -> None:
        """Owe nothing any more: the Session has ended, and its rows go with it."""
        self.connection = None
        unsettled, self.unsettled = self.unsettled, Unsettled(self.last)
        for position, owing in unsettled.items():
            owing.withdraw(self.number, position)
