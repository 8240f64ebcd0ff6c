"""Group commit: what arrives while a round commits forms the next one."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.agents.model import Departure, Entry, Rejection, Report
from platziverse.broker.records import Delivery, Forget, Release
from platziverse.ingest.batch import Batch, Outcome, PacketIdentifiers, weight
from platziverse.ingest.deliveries import Deliveries
from platziverse.ingest.errors import StoreStopped

log = Logger("platziverse.store")

#: Seconds after which the next round begins without a shard whose batch is still under way.
PATIENCE: Final = 1.0

T = TypeVar("T")
_Queue = deque[tuple[Entry, "Deferred[None]"]]


class BatchStore(Protocol):
    """Commits batches; :class:`~platziverse.ingest.store.PostgresStore` is one.

    :ivar slots: how many batches it takes at a time.
    """

    @property
    def slots(self) -> int: ...

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        """Commit all of a batch, however long it takes; errbacks only when stopped."""


class BatchWriter:
    """A ``ReportStore`` that commits in rounds, one batch for each shard.

    An agent always belongs to the same shard, so no two batches wait for the same row. There is no
    timer: while the database is fast the batches are small, while it is slow they grow. A shard in
    trouble of its own, say behind a lock on a row, keeps the others waiting ``PATIENCE`` and no longer.

    :param clock: Twisted's reactor, or a clock.
    :param max_entries: most entries of a batch.
    :param max_rows: about the most rows of a batch.
    :param observe: called with the number of entries and the seconds of each batch.
    :ivar received: messages saved: reports and rejections. Always the sum of the next four.
    :ivar stored: of those, the ones whose metrics are in the tables.
    :ivar duplicates: the ones that were in the tables before.
    :ivar rejected: the ones in ``rejected_messages``.
    :ivar pending: the ones that are not yet committed.
    :ivar waiting: entries of all kinds not yet committed.
    :ivar departures: those of them that are Departures.
    """

    def __init__(
        self,
        store: BatchStore,
        clock: Any,
        *,
        max_entries: int = 500,
        max_rows: int = 4000,
        observe: Callable[[int, float], None] = lambda entries, seconds: None,
    ) -> None:
        self.received = self.stored = self.duplicates = self.rejected = self.pending = 0
        self.waiting = self.departures = 0
        self._store, self._clock = store, clock
        self._max_entries, self._max_rows, self._observe = max_entries, max_rows, observe
        self._queues: list[_Queue] = [deque() for _ in range(store.slots)]
        self._busy: set[int] = set()
        self._in_round = self._stopped = False
        self._drained: list[Deferred[None]] = []
        self._deliveries = Deliveries()

    def save(self, entry: Entry) -> "Deferred[None]":
        """Fires when the transaction with this entry has committed."""
        if self._stopped:
            return fail(StoreStopped())
        deferred: Deferred[None] = Deferred()
        self.waiting += 1
        if type(entry) is Report:
            self.received += 1
            self.pending += 1
            if entry.delivery is not None:
                self._deliveries.begun(entry.delivery)
                deferred.addBoth(self._delivered, entry.delivery)
            self._enqueue(entry.agent.uuid, entry, deferred)
        elif type(entry) is Departure:
            self.departures += 1
            deferred.addBoth(self._departed)
            self._enqueue(entry.uuid, entry, deferred)
        elif type(entry) is Rejection:
            self.received += 1
            self.pending += 1
            self._enqueue(entry.client_id, entry, deferred)
        else:
            last = cast(Release | Forget, entry)
            self._deliveries.after(last, partial(self._enqueue, last.client_id, last, deferred))
        return deferred

    def _delivered(self, result: T, delivery: Delivery) -> T:
        self._deliveries.finished(delivery)
        return result

    def _departed(self, result: T) -> T:
        self.departures -= 1
        return result

    def _enqueue(self, place: str, entry: Entry, deferred: "Deferred[None]") -> None:
        if self._stopped:
            deferred.errback(StoreStopped())
            return
        shard = hash(place) % len(self._queues)
        self._queues[shard].append((entry, deferred))
        if not self._in_round:
            self._go_on(shard)

    def _go_on(self, shard: int) -> None:
        if shard not in self._busy and self._queues[shard]:
            self._in_round = True
            # Everything of this reactor turn joins the round.
            self._clock.callLater(0, self._begin_round)

    def drain(self) -> "Deferred[None]":
        """Fires when everything saved so far, and since, is committed."""
        if not self.waiting:
            return succeed(None)
        self._drained.append(Deferred())
        return self._drained[-1]

    def stop(self) -> None:
        """Errback what is queued, and all that is saved later, with ``StoreStopped``.

        What is being committed ends with the store's own ``stop``.
        """
        self._stopped = True
        for queue in self._queues:
            while queue:
                queue.popleft()[1].errback(StoreStopped())

    def _begin_round(self) -> None:
        shards = [shard for shard, queue in enumerate(self._queues) if queue and shard not in self._busy]
        self._in_round = bool(shards)
        if shards:
            self._busy.update(shards)
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
        batch = self._take(self._queues[shard])
        since = self._clock.seconds()

        def written(_: None) -> None:
            self._observe(len(batch.entries), self._clock.seconds() - since)

        def failed(failure: Failure) -> None:
            if not failure.check(StoreStopped):
                log.failure("a batch was not committed", failure)

        def free(_: object) -> None:
            self._busy.discard(shard)
            if not self._in_round:
                self._go_on(shard)

        return self._store.write(shard, batch).addCallback(written).addErrback(failed).addBoth(free)

    def _take(self, queue: _Queue) -> Batch:
        """The next batch of a shard: in order, and as much as may go together."""
        entries: list[Entry] = []
        deferreds: list[Deferred[None]] = []
        rows, identifiers = 0, PacketIdentifiers()
        while queue and len(entries) < self._max_entries:
            entry, deferred = queue[0]
            rows += weight(entry)
            if entries and rows > self._max_rows:
                break
            if not identifiers.take(entry):  # never the first
                break
            entries.append(entry)
            deferreds.append(deferred)
            queue.popleft()
        return Batch(entries, deferreds, self._settle)

    def _settle(self, entries: int, outcome: Outcome) -> None:
        self.stored += outcome.stored
        self.duplicates += outcome.duplicates
        self.rejected += outcome.rejected
        self.pending -= outcome.stored + outcome.duplicates + outcome.rejected
        self.waiting -= entries
        if not self.waiting:
            # Only after those who wait for the batch have been told.
            drained, self._drained = self._drained, []
            for waiter in drained:
                self._clock.callLater(0, waiter.callback, None)
