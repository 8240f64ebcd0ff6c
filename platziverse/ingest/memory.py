"""Memory: a store without a database, for tests and for authors of topic handlers."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from platziverse.agents.model import Arrival, Departure, Entry, Rejection, Report
from platziverse.ingest.errors import StoreStopped

T = TypeVar("T")


class HeldBack(Generic[T]):
    """A HeldBack commits entries at once or, while it is ``held``, when it is told.

    :param commit: called with each entry when it is committed.
    :ivar waiting: entries that were saved and are not yet committed, in order.
    """

    def __init__(self, commit: Callable[[T], None]) -> None:
        self.held = self.stopped = False
        self.waiting: deque[tuple[T, Deferred[None]]] = deque()
        self._commit = commit

    def save(self, entry: T) -> "Deferred[None]":
        """Commit ``entry`` at once, or let it wait."""
        if self.stopped:
            return fail(StoreStopped())
        if not self.held:
            self._commit(entry)
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self.waiting.append((entry, deferred))
        return deferred

    def commit(self, count: int | None = None) -> None:
        """Commit the entries that wait, or the first ``count`` of them."""
        for _ in range(len(self.waiting) if count is None else count):
            entry, deferred = self.waiting.popleft()
            self._commit(entry)
            deferred.callback(None)

    def resume(self) -> None:
        """Commit everything, in order with what is saved meanwhile, and all further entries at once."""
        while self.waiting:
            self.commit(1)
        self.held = False

    def stop(self) -> None:
        """Errback the entries that wait, and all that are saved from now on, with ``StoreStopped``."""
        self.stopped = True
        while self.waiting:
            self.waiting.popleft()[1].errback(StoreStopped())


class MemoryStore:
    """A MemoryStore keeps entries in memory, by the rules of a ``ReportStore`` and with its books.

    :ivar entries: those that are committed, in order, without duplicates.
    :ivar waiting: those that were saved and are not yet committed, in order.
    :ivar connected: uuids of the agents that are connected.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._held_back = HeldBack(self._commit)
        self.waiting = self._held_back.waiting
        self.connected: set[str] = set()
        self.state = "ready"
        self.received = self.stored = self.duplicates = self.rejected = self.pending = 0
        self._keys: set[bytes] = set()
        self._unreleased: dict[tuple[str, int], bytes] = {}
        self._drained: list[Deferred[None]] = []

    def save(self, entry: Entry) -> "Deferred[None]":
        """Commit ``entry`` at once, or with :meth:`commit` when the store is held."""
        if isinstance(entry, Report | Rejection) and not self._held_back.stopped:
            self.received += 1
            self.pending += 1
        return self._held_back.save(entry)

    def hold(self) -> None:
        """Commit nothing from now on, as if the database were away."""
        self._held_back.held, self.state = True, "away: held"

    def commit(self, count: int | None = None) -> None:
        """Commit the entries that wait, or the first ``count`` of them; the store stays held."""
        self._held_back.commit(count)
        if not self.waiting:
            drained, self._drained = self._drained, []
            for waiter in drained:
                waiter.callback(None)

    def resume(self) -> None:
        """Commit everything, and all further entries at once."""
        self.state = "ready"
        self._held_back.resume()
        self.commit()

    def drain(self) -> "Deferred[None]":
        """Return a Deferred that fires when no entry waits any longer."""
        if not self.waiting:
            return succeed(None)
        self._drained.append(Deferred())
        return self._drained[-1]

    def stop(self) -> None:
        """Errback the entries that wait, and all that are saved from now on, with ``StoreStopped``."""
        self._held_back.stop()

    @property
    def reports(self) -> list[Report]:
        """The reports among ``entries``."""
        return of(self.entries, Report)

    @property
    def rejections(self) -> list[Rejection]:
        """The rejections among ``entries`` and those that reports brought along."""
        brought = [rejection for report in self.reports for rejection in report.rejections]
        return of(self.entries, Rejection) + brought

    def _commit(self, entry: Entry) -> None:
        if isinstance(entry, Report):
            self.connected.add(entry.agent.uuid)
            self.pending -= 1
            if self._known(entry):
                self.duplicates += 1
                return
            self.stored += 1
        elif isinstance(entry, Rejection):
            self.pending -= 1
            self.rejected += 1
        elif isinstance(entry, Departure):
            self.connected.discard(entry.uuid)
        elif isinstance(entry, Arrival):
            self.connected.add(entry.agent.uuid)
        else:
            packet_id = getattr(entry, "packet_id", None)
            for client, identifier in list(self._unreleased):
                if client == entry.client_id and packet_id in (None, identifier):
                    del self._unreleased[client, identifier]
        self.entries.append(entry)

    def _known(self, report: Report) -> bool:
        known = report.key in self._keys
        if report.key is not None:
            self._keys.add(report.key)
        if report.delivery is not None:
            delivery = report.delivery
            place = delivery.client_id, delivery.packet_id
            known = known or (delivery.dup and self._unreleased.get(place) == delivery.digest)
            self._unreleased[place] = delivery.digest
        return known


def of(entries: list[Entry], kind: type[T]) -> list[T]:
    """Return the entries of one class, in order."""
    return [entry for entry in entries if isinstance(entry, kind)]
