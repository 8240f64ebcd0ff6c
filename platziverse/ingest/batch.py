"""What one statement commits, and who waits for it."""

from collections.abc import Callable, Sequence

from attrs import evolve, frozen
from twisted.internet.defer import Deferred


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

    entries: Sequence[object]
    deferreds: "Sequence[Deferred[None]]"
    settle: Callable[[int, Outcome], None]

    def halves(self) -> "tuple[Batch, Batch]":
        """The same entries as two batches, in order."""
        middle = len(self.entries) // 2
        return (
            evolve(self, entries=self.entries[:middle], deferreds=self.deferreds[:middle]),
            evolve(self, entries=self.entries[middle:], deferreds=self.deferreds[middle:]),
        )

    def replaced(self, entries: Sequence[object]) -> "Batch":
        """For a batch of one: with these entries instead, at most one."""
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
