"""Writer: group commit, in which all entries that arrive while a round commits form the next one."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.ingest.batch import Batch, Incarnation, Outcome
from platziverse.ingest.errors import Fenced, StoreStopped
from platziverse.ingest.kinds import Kinds, Touch
from platziverse.ingest.limits import LimitsMet
from platziverse.ingest.touches import Touched, UnderWay

log = Logger("platziverse.store")

#: Seconds after which the next round begins without a shard whose batch is still under way.
PATIENCE: Final = 1.0

T = TypeVar("T")
#: An entry in a queue: with its weight, with what it touches, and with the Deferred that waits for it.
_Place = tuple[object, int, Sequence[Touch], "Deferred[None]"]
_Queue = deque[_Place]


class BatchStore(Protocol):
    """A BatchStore commits batches; :class:`~platziverse.ingest.store.PostgresStore` is one.

    :ivar slots: how many batches it takes at a time.
    """

    @property
    def slots(self) -> int: ...

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        """Commit all of a batch, however long it takes; errbacks only when stopped."""


class BatchWriter:
    """A BatchWriter commits entries of any kind in rounds, one batch for each shard. It is a ``ReportStore``.

    A shard key, such as an agent, always belongs to the same shard, so no two batches wait for the same
    row. There is no timer: while the database is fast the batches are small, while it is slow they grow. A
    shard in trouble of its own, say behind a lock on a row, keeps the others waiting ``PATIENCE`` and no
    longer.

    :param clock: Twisted's reactor, or a clock.
    :param kinds: of the entries that may be saved.
    :param max_entries: most entries of a batch.
    :param max_rows: about the most rows of a batch.
    :param met: is told of batches that are full or wait.
    :param observe: called with the number of entries and the seconds of each batch.
    :ivar received: messages saved. Always the sum of the next five.
    :ivar stored: of those, the ones whose metrics are in the tables.
    :ivar duplicates: the ones that were in the tables before.
    :ivar rejected: the ones in ``rejected_messages``.
    :ivar given_up: the ones that another daemon gets, as it has fenced this one.
    :ivar pending: the ones that are not yet committed.
    :ivar waiting: entries of all kinds not yet committed.
    :ivar departures: those of them that say that somebody has gone.
    """

    def __init__(
        self,
        store: BatchStore,
        clock: Any,
        kinds: Kinds,
        *,
        max_entries: int = 500,
        max_rows: int = 4000,
        met: LimitsMet | None = None,
        observe: Callable[[int, float], None] = lambda entries, seconds: None,
    ) -> None:
        self.received = self.stored = self.duplicates = self.rejected = self.pending = 0
        self.waiting = self.departures = self.given_up = 0
        self._store, self._clock, self._kinds = store, clock, kinds
        self._met = met or LimitsMet(lambda: clock.seconds())
        self._max_entries, self._max_rows, self._observe = max_entries, max_rows, observe
        self._queues: list[_Queue] = [deque() for _ in range(store.slots)]
        # Shard → the batch of it that is under way.
        self._busy: dict[int, Batch] = {}
        self._in_round = self._stopped = False
        self._unsaid: int | None = None  # ``given_up`` when it was told last
        self._drained: list[Deferred[None]] = []
        self._under_way, self._incarnation = UnderWay(), Incarnation()

    def save(self, entry: object) -> "Deferred[None]":
        """Save an entry; the Deferred fires when the transaction with it has committed.

        :raises KeyError: no kind was given for entries of this class.
        """
        if self._stopped:
            return fail(StoreStopped())
        kind = self._kinds[type(entry)]
        deferred: Deferred[None] = Deferred()
        self.waiting += 1
        if kind.message:
            self.received += 1
            self.pending += 1
        elif kind.departure:
            self.departures += 1
            deferred.addBoth(self._departed)
        touches = kind.touches(entry)
        place = entry, kind.weight(entry), touches, deferred
        if touches and kind.last:
            proceed = partial(self._enqueue_last, kind.shard(entry), place, self._incarnation)
            self._under_way.after(touches, proceed)
            return deferred
        if touches:
            self._under_way.begun(touches)
            deferred.addBoth(self._finished, touches, kind.message)
        self._enqueue(kind.shard(entry), place)
        return deferred

    def _finished(self, result: T, touches: Sequence[Touch], message: bool) -> T:
        if message and isinstance(result, Failure) and isinstance(result.value, Fenced):
            self.pending -= 1
            self.given_up += 1
            if self._unsaid is None:
                self._unsaid = self.given_up - 1
                self._clock.callLater(0, self._say_given_up)
        self._under_way.finished(touches)
        return result

    def _say_given_up(self) -> None:
        assert self._unsaid is not None
        count, self._unsaid = self.given_up - self._unsaid, None
        text = "other daemons have taken over from this one: {count} messages at QoS 2 are left to them"
        log.warn(text, count=count)

    def _departed(self, result: T) -> T:
        self.departures -= 1
        return result

    def _enqueue_last(self, key: str, place: _Place, incarnation: Incarnation) -> None:
        if self._stopped:
            place[-1].errback(StoreStopped())
        elif incarnation.over:
            self._give_up(place)
        else:
            self._enqueue(key, place)

    def _enqueue(self, key: str, place: _Place) -> None:
        queues = self._queues
        shard = hash(key) % len(queues)
        queues[shard].append(place)
        if not self._in_round:
            self._go_on(shard)

    def _go_on(self, shard: int) -> None:
        if shard not in self._busy and self._queues[shard]:
            self._in_round = True
            # Everything of this reactor turn joins the round.
            self._clock.callLater(0, self._begin_round)

    @property
    def limits_met(self) -> Mapping[str, int]:
        """How often settings of ``[ingest]`` were met, by name."""
        return self._met.counts

    def drain(self) -> "Deferred[None]":
        """Return a Deferred that fires when all entries, also those saved meanwhile, are committed."""
        if not self.waiting:
            return succeed(None)
        self._drained.append(Deferred())
        return self._drained[-1]

    def unfinished(self) -> Iterator[object]:
        """Return the entries that are not yet committed, but for those that wait for others."""
        for batch in self._busy.values():
            yield from batch.entries
        for queue in self._queues:
            yield from (entry for entry, *_ in queue)

    def fenced(self) -> None:
        """Errback what was saved and touches anything with ``Fenced``: another daemon has taken over.

        What is in a batch that was sent may have been committed before; else it errbacks as soon as that is
        certain. All other entries are committed as if nothing had happened. See ADR 0230.
        """
        self._incarnation.over = True
        self._incarnation = Incarnation()
        for queue in self._queues:
            places = list(queue)
            queue.clear()
            queue.extend([place for place in places if not place[2]])
            for place in places:
                if place[2]:
                    self._give_up(place)

    def _give_up(self, place: _Place) -> None:
        place[-1].errback(Fenced())
        self._settled(1)

    def stop(self) -> None:
        """Errback the entries in the queues, and all that are saved later, with ``StoreStopped``.

        A batch that is being committed ends with the store's own ``stop``.
        """
        self._stopped = True
        for queue in self._queues:
            while queue:
                queue.popleft()[-1].errback(StoreStopped())

    def _begin_round(self) -> None:
        shards = [shard for shard, queue in enumerate(self._queues) if queue and shard not in self._busy]
        self._in_round = bool(shards)
        if shards:
            # Without fireOnOneErrback this fires once all have ended, whichever way.
            round_ = DeferredList([self._write(shard) for shard in shards], consumeErrors=True)
            self._within_patience(round_).addCallback(lambda _: self._begin_round())

    def _within_patience(self, round_: "Deferred[Any]") -> "Deferred[None]":
        ended: Deferred[None] = Deferred()
        late = self._clock.callLater(PATIENCE, ended.callback, None)

        def all_ended(_: object) -> None:
            if late.active():
                late.cancel()
                ended.callback(None)

        round_.addCallback(all_ended)
        return ended

    def _write(self, shard: int) -> "Deferred[None]":
        batch = self._busy[shard] = self._take(self._queues[shard])
        since = self._clock.seconds()

        def written(_: None) -> None:
            self._observe(len(batch.entries), self._clock.seconds() - since)

        def failed(failure: Failure) -> None:
            if not failure.check(StoreStopped):
                log.failure("a batch was not committed", failure)

        def free(_: object) -> None:
            del self._busy[shard]
            if self._queues[shard]:
                self._met.note("slots", "a batch has waited for the one before it")
            if not self._in_round:
                self._go_on(shard)

        return self._store.write(shard, batch).addCallback(written).addErrback(failed).addBoth(free)

    def _take(self, queue: _Queue) -> Batch:
        """Return the next batch of a shard: as many entries as may go together, in order."""
        entries: list[object] = []
        deferreds: list[Deferred[None]] = []
        rows = 0
        touched: Touched | None = None  # most batches touch nothing
        while queue and len(entries) < self._max_entries:
            entry, weight, touches, deferred = queue[0]
            rows += weight
            if entries and rows > self._max_rows:
                break
            if touches:
                touched = touched or Touched()
                if not touched.take(touches):  # never the first
                    break
            entries.append(entry)
            deferreds.append(deferred)
            queue.popleft()
        if queue and len(entries) == self._max_entries:
            self._met.note("batch", "a batch is full; the rest goes with the next")
        return Batch(entries, deferreds, self._settle, incarnation=self._incarnation)

    def _settle(self, entries: int, outcome: Outcome) -> None:
        self.stored += outcome.stored
        self.duplicates += outcome.duplicates
        self.rejected += outcome.rejected
        self.pending -= outcome.stored + outcome.duplicates + outcome.rejected
        self._settled(entries)

    def _settled(self, entries: int) -> None:
        self.waiting -= entries
        if not self.waiting:
            # Only after those who wait for the batch have been told.
            drained, self._drained = self._drained, []
            for waiter in drained:
                self._clock.callLater(0, waiter.callback, None)
