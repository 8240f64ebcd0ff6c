"""Memory: a SessionStore without a database, for tests."""

import time
from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed

from platziverse.broker.places import StoredInterest, StoredPlace
from platziverse.broker.records import (
    Absent,
    Acknowledged,
    Back,
    Begun,
    Cleared,
    Ended,
    Forget,
    Freed,
    Kept,
    Present,
    Queued,
    Received,
    Release,
    SessionRecord,
    Settled,
    StoredMessage,
    StoredRetained,
    StoredSession,
    StoredWill,
    Subscribed,
    Taken,
    Trimmed,
    Unsubscribed,
    WillGone,
    WillLeft,
    ends_of,
)
from platziverse.ingest.errors import EntryRefused
from platziverse.ingest.memory import HeldBack

T = TypeVar("T")


@define
class _Queue:
    """A _Queue has the messages that wait for a Session, or in a link, by position."""

    positions: list[int] = field(factory=list)
    messages: dict[int, StoredMessage] = field(factory=dict)

    def put(self, message: StoredMessage) -> None:
        if message.position not in self.messages:
            insort(self.positions, message.position)
        self.messages[message.position] = message

    def delete(self, position: int) -> None:
        if self.messages.pop(position, None) is not None:
            self.positions.remove(position)


@define
class _Kept:
    """A durable Session with all that is stored of it, but for its queue."""

    begun: Begun
    username: str | None
    absent_since: float | None = None
    head: int = 0
    subscriptions: dict[str, int] = field(factory=dict)
    owed: set[str] = field(factory=set)

    def expires(self, expiry: int | None) -> None:
        """Note for how long it is kept, if that has changed."""
        if expiry is not None:
            self.begun = evolve(self.begun, expiry=expiry)


class MemorySessionStore:
    """A MemorySessionStore keeps records in memory, by the rules of a ``SessionStore``.

    :param now: called for the time, in seconds since the epoch.
    :ivar records: those that are committed, in order.
    :ivar waiting: those that were saved and are not yet committed, in order.
    :ivar messages: numbers of the messages that several rows refer to.
    :ivar identifiers: digest of each incoming QoS 2 message that was not released, by client and identifier.
    :ivar reads: how often each of the methods that read was called.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.available = True
        self.records: list[SessionRecord] = []
        self._held_back: HeldBack[SessionRecord] = HeldBack(self._commit)
        self.waiting = self._held_back.waiting
        self.messages: set[int] = set()
        self.identifiers: dict[tuple[str, int], bytes] = {}
        self.reads: Counter[str] = Counter()
        self._now = now
        self._reads_held, self._session, self._number = False, 0, 0
        self._reading: deque[Callable[[], None]] = deque()
        self._sessions: dict[int, _Kept] = {}
        # Number of the Session, or of the link → what waits. A Session that is gone has none.
        self._queues: defaultdict[int, _Queue] = defaultdict(_Queue)
        self._retained: dict[str, Kept] = {}
        self._wills: dict[str, WillLeft] = {}
        self._inherited: dict[str, WillLeft] = {}

    # -- what a test decides ---------------------------------------------------------------------

    def hold(self, reads: bool = False) -> None:
        """Commit nothing from now on, as if the database were away.

        :param reads: nothing is read either; otherwise reads are answered with what is committed.
        """
        self._held_back.held, self._reads_held, self.available = True, reads, False

    def take(self) -> None:
        """Put all records that wait into a batch that is under way: nobody can be withdrawn any more."""
        for record, _ in self.waiting:
            self._take(record)

    def commit(self, count: int | None = None) -> None:
        """Commit the records that wait, or the first ``count`` of them; the store stays held."""
        self._held_back.commit(count)

    def refuse(self) -> None:
        """Errback the first record that waits, as one that the database refuses for its data."""
        self.waiting.popleft()[1].errback(EntryRefused("refused by the test"))

    def resume(self) -> None:
        """Commit everything and answer every read, and from now on at once."""
        self._reads_held = False
        self.available = True
        self._held_back.resume()
        while self._reading:
            self._reading.popleft()()

    def leave(self, will: WillLeft) -> None:
        """Inherit a Will of a client of a dead daemon."""
        self._inherited[will.client_id] = will

    def stop(self) -> None:
        """Errback the records that wait, and all that are saved from now on, with ``StoreStopped``."""
        self.available = False
        self._held_back.stop()

    # -- the port --------------------------------------------------------------------------------

    def save(self, record: SessionRecord) -> "Deferred[None]":
        """Commit ``record`` at once, or with :meth:`commit` when the store is held."""
        return self._held_back.save(record)

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        """Return the first messages that wait for a Session, in order."""
        return self._read("page", lambda: self._page(session, after, through)[:limit])

    def links(self, target: int) -> "Deferred[list[int]]":
        """Return the numbers of the links to daemon ``target`` in which messages wait."""
        return self._read("links", lambda: self._links(target))

    def elsewhere(self, after: int, limit: int) -> "Deferred[list[StoredInterest]]":
        """Return nothing: there is one daemon."""
        nothing: list[StoredInterest] = []
        return self._read("elsewhere", lambda: nothing)

    def heirs(self, daemon: int) -> "Deferred[set[int]]":
        """Return nobody: there is one daemon."""
        return self._read("heirs", lambda: set())

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        """Return the Sessions whose number is higher than ``after``, in order of numbers."""
        return self._read(
            "sessions",
            lambda: [self._stored(number) for number in sorted(self._sessions) if number > after][:limit],
        )

    def retained(self, after: str, limit: int) -> "Deferred[list[StoredRetained]]":
        """Return the Retained Messages whose Topic Name is behind ``after``, in order of the code points."""
        return self._read("retained", lambda: self._retained_after(after)[:limit])

    def inherited(self, numbers: Sequence[int]) -> "Deferred[list[StoredSession]]":
        """Return the Sessions with these numbers that are there."""
        there = [number for number in numbers if number in self._sessions]
        return self._read("inherited", lambda: [self._stored(number) for number in there])

    def find(self, client_id: str) -> "Deferred[StoredPlace | None]":
        """Return the Session of a client; its owner shares no clients, as there is one daemon."""
        return self._read("find", lambda: self._find(client_id))

    def shared(self, limit: int) -> "Deferred[Iterable[tuple[int, int]]]":
        """Return the numbers of messages that rows refer to, each with how many do."""
        return self._read("shared", lambda: self._shared().most_common(limit))

    def wills(self) -> "Deferred[list[StoredWill]]":
        """Return all Wills."""
        return self._read("wills", lambda: [*self._wills.values(), *self._inherited.values()])

    def inherited_wills(self) -> "Deferred[list[StoredWill]]":
        """Return the Wills of a dead daemon."""
        return self._read("inherited_wills", lambda: list(self._inherited.values()))

    # -- what is read ----------------------------------------------------------------------------

    def _read(self, name: str, answer: Callable[[], T]) -> "Deferred[T]":
        self.reads[name] += 1
        if not self._reads_held:
            return succeed(answer())
        deferred: Deferred[T] = Deferred()
        self._reading.append(lambda: deferred.callback(answer()))
        return deferred

    def _find(self, client_id: str) -> StoredPlace | None:
        for number, kept in self._sessions.items():
            if kept.begun.client_id == client_id:
                return StoredPlace(number, 0, kept.absent_since, tuple(kept.subscriptions))
        return None

    def _shared(self) -> Counter[int]:
        messages = [message for queue in self._queues.values() for message in queue.messages.values()]
        return Counter(message.number for message in messages if message.number)

    def _page(self, session: int, after: int, through: int) -> list[StoredMessage]:
        queue = self._queues[session]
        return [queue.messages[position] for position in queue.positions if after < position <= through]

    def _links(self, target: int) -> list[int]:
        waiting = [number for number, queue in self._queues.items() if number < 0 and queue.positions]
        return sorted((number for number in waiting if ends_of(number)[1] == target), reverse=True)

    def _stored(self, number: int) -> StoredSession:
        kept, queue = self._sessions[number], self._queues[number]
        messages = queue.messages.values()
        return StoredSession(
            number,
            kept.begun.client_id,
            kept.username,
            kept.begun.expiry,
            kept.absent_since,
            dict(kept.subscriptions),
            queue.positions[0] if queue.positions else 0,
            max(kept.head, *queue.positions[-1:], 0),
            len(messages),
            sum(len(message.topic.encode()) + len(message.payload) for message in messages),
            tuple(sorted(packet for client, packet in self.identifiers if client == kept.begun.client_id)),
            tuple(sorted(kept.owed)),
        )

    def _retained_after(self, after: str) -> list[StoredRetained]:
        return [kept for topic, kept in sorted(self._retained.items()) if topic > after]

    # -- what is committed -----------------------------------------------------------------------

    def _take(self, record: SessionRecord) -> None:
        if isinstance(record, Queued) and not record.taken:
            record.taken = True
            if len(record.rows) > 1:
                self._number += 1
                record.number = self._number

    def _commit(self, record: SessionRecord) -> None:
        self._take(record)
        _COMMIT[type(record)](self, record)
        self.records.append(record)

    def _queued(self, record: Queued) -> None:
        if isinstance(record.delivery, WillGone):
            self._will_gone(record.delivery)
        elif record.delivery is not None:
            self.identifiers[record.delivery.client_id, record.delivery.packet_id] = record.delivery.digest
        if record.number:
            self.messages.add(record.number)
        before, behind = (record.topic, record.payload), (record.number, record.properties)
        for session, (position, qos) in record.rows.items():
            if session < 0 or session in self._sessions:
                stored = StoredMessage(position, *before, qos, record.retain, False, *behind)
                self._queues[session].put(stored)
        for link, position in record.crossed:
            self._queues[link].delete(position)

    def _acknowledged(self, record: Acknowledged) -> None:
        self.messages.discard(record.over)
        self._queues[record.session].delete(record.position)

    def _received(self, record: Received) -> None:
        message = self._queues[record.session].messages.get(record.position)
        if message is not None:
            received = evolve(message, topic="", payload=b"", received=True, properties=b"")
            self._queues[record.session].put(received)

    def _trimmed(self, record: Trimmed) -> None:
        queue = self._queues[record.session]
        behind = [position for position in queue.positions if position > record.after]
        for position in behind[: record.count]:
            queue.delete(position)

    def _begun(self, record: Begun) -> None:
        for number, kept in list(self._sessions.items()):
            if kept.begun.client_id == record.client_id:
                del self._sessions[number]
                self._queues.pop(number, None)
        self._session += 1
        record.session = self._session
        self._sessions[record.session] = _Kept(record, record.username)

    def _present(self, record: Present) -> None:
        if record.session in self._sessions:
            kept = self._sessions[record.session]
            kept.username, kept.absent_since = record.username, None
            kept.expires(record.expiry)

    def _absent(self, record: Absent) -> None:
        if record.session in self._sessions:
            kept = self._sessions[record.session]
            kept.absent_since, kept.head = self._now(), record.head
            kept.expires(record.expiry)

    def _freed(self, record: Freed) -> None:
        self._absent(Absent(record.session, record.head))

    def _moved(self, record: Back | Taken | Settled) -> None:
        """Do nothing: there is one daemon."""

    def _subscribed(self, record: Subscribed) -> None:
        if record.session in self._sessions:
            kept, filters = self._sessions[record.session], dict(record.filters)
            kept.subscriptions.update(filters)
            kept.owed = kept.owed - filters.keys() | set(record.owed)

    def _unsubscribed(self, record: Unsubscribed) -> None:
        if record.session in self._sessions:
            kept = self._sessions[record.session]
            kept.owed.difference_update(record.filters)
            for topic_filter in record.filters:
                kept.subscriptions.pop(topic_filter, None)

    def _ended(self, record: Ended) -> None:
        self._sessions.pop(record.session, None)
        self._queues.pop(record.session, None)
        self._forget(Forget(record.client_id))

    def _keep(self, record: Kept) -> None:
        if self._may_replace(record):
            self._retained[record.topic] = record

    def _cleared(self, record: Cleared) -> None:
        there = self._retained.get(record.topic)
        if there is not None and record.over in (b"", there.properties) and self._may_replace(record):
            del self._retained[record.topic]

    def _may_replace(self, record: Kept | Cleared) -> bool:
        there = self._retained.get(record.topic)
        return there is None or not record.version or there.version <= record.version

    def _will_left(self, record: WillLeft) -> None:
        self._wills[record.client_id] = record

    def _will_gone(self, record: WillGone) -> None:
        for wills in self._wills, self._inherited:
            will = wills.get(record.client_id)
            if will is not None and will.connection == record.connection:
                del wills[record.client_id]

    def _release(self, record: Release) -> None:
        self.identifiers.pop((record.client_id, record.packet_id), None)

    def _forget(self, record: Forget) -> None:
        for place in [place for place in self.identifiers if place[0] == record.client_id]:
            del self.identifiers[place]


_COMMIT: Final[dict[type, Callable[[MemorySessionStore, Any], None]]] = {
    Queued: MemorySessionStore._queued,
    Acknowledged: MemorySessionStore._acknowledged,
    Received: MemorySessionStore._received,
    Trimmed: MemorySessionStore._trimmed,
    Begun: MemorySessionStore._begun,
    Present: MemorySessionStore._present,
    Absent: MemorySessionStore._absent,
    Freed: MemorySessionStore._freed,
    Back: MemorySessionStore._moved,
    Taken: MemorySessionStore._moved,
    Settled: MemorySessionStore._moved,
    Subscribed: MemorySessionStore._subscribed,
    Unsubscribed: MemorySessionStore._unsubscribed,
    Ended: MemorySessionStore._ended,
    Kept: MemorySessionStore._keep,
    Cleared: MemorySessionStore._cleared,
    WillLeft: MemorySessionStore._will_left,
    WillGone: MemorySessionStore._will_gone,
    Release: MemorySessionStore._release,
    Forget: MemorySessionStore._forget,
}
