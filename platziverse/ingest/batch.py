"""What one statement commits, and who waits for it."""

from collections.abc import Callable

from attrs import evolve, frozen
from twisted.internet.defer import Deferred

from platziverse.agents.model import Entry, Rejection, Report
from platziverse.broker.records import Delivery, Forget, Release


@frozen
class Outcome:
    """How the messages of a committed batch ended."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@frozen
class Batch:
    """Entries in the order they came, each with the Deferred of whoever waits for it.

    :param settle: called with the number of entries and the outcome before the Deferreds fire.
    """

    entries: list[Entry]
    deferreds: "list[Deferred[None]]"
    settle: Callable[[int, Outcome], None]

    def halves(self) -> "tuple[Batch, Batch]":
        """The same entries as two batches, in order."""
        middle = len(self.entries) // 2
        return (
            evolve(self, entries=self.entries[:middle], deferreds=self.deferreds[:middle]),
            evolve(self, entries=self.entries[middle:], deferreds=self.deferreds[middle:]),
        )

    def replaced(self, entries: list[Entry]) -> "Batch":
        """For a batch of one: with this entry instead, or with none."""
        return evolve(self, entries=entries)

    def committed(self, outcome: Outcome) -> None:
        """Balance the books, then tell everybody."""
        self.settle(len(self.deferreds), outcome)
        for deferred in self.deferreds:
            deferred.callback(None)

    def abandoned(self, error: Exception) -> None:
        """Tell everybody that there will be no commit."""
        for deferred in self.deferreds:
            deferred.errback(error)


def weight(entry: Entry) -> int:
    """How much of a batch an entry takes, in rows; a KiB of payload counts as one."""
    if type(entry) is Report:
        return len(entry.metrics) + (len(entry.source.payload) >> 10)
    return 1 + (len(entry.payload) >> 10) if type(entry) is Rejection else 1


class PacketIdentifiers:
    """The QoS 2 Packet Identifiers that a batch touches: no two of its entries may touch the same.

    One statement sees the table as it was before; what comes second has to wait for the next.
    """

    def __init__(self) -> None:
        self._taken: set[tuple[str, int]] = set()
        self._clients: set[str] = set()
        self._forgotten: set[str] = set()

    def take(self, entry: Entry) -> bool:
        """Whether the entry may join the batch; if so it has joined."""
        touched = entry.delivery if type(entry) is Report else entry
        if touched is None:
            return True
        if type(touched) is Delivery or type(touched) is Release:
            place = touched.client_id, touched.packet_id
            if place in self._taken or touched.client_id in self._forgotten:
                return False
            self._taken.add(place)
            self._clients.add(touched.client_id)
        elif type(touched) is Forget:
            if touched.client_id in self._clients:
                return False
            self._forgotten.add(touched.client_id)
        return True
