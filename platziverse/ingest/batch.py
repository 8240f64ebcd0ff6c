"""Batch: the entries that one statement commits, each with the Deferred that waits for it."""

from collections.abc import Callable, Sequence

from attrs import evolve, frozen
from twisted.internet.defer import Deferred

from platziverse.ingest.errors import EntryRefused


@frozen
class Outcome:
    """An Outcome says how many messages of a committed batch ended in which way."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@frozen
class Batch:
    """A Batch has entries in the order in which they came, each with the Deferred that waits for it.

    :param settle: called with the number of entries and the outcome before the Deferreds fire.
    :param refusal: what the Deferreds errback with, as their entries were left out; ``None``: none was.
    """

    entries: Sequence[object]
    deferreds: "Sequence[Deferred[None]]"
    settle: Callable[[int, Outcome], None]
    refusal: EntryRefused | None = None

    def halves(self) -> "tuple[Batch, Batch]":
        """Return the same entries as two batches, in order."""
        middle = len(self.entries) // 2
        return (
            evolve(self, entries=self.entries[:middle], deferreds=self.deferreds[:middle]),
            evolve(self, entries=self.entries[middle:], deferreds=self.deferreds[middle:]),
        )

    def replaced(self, entries: Sequence[object]) -> "Batch":
        """Return this batch, of one entry, with ``entries`` in its place, which are one or none."""
        return evolve(self, entries=entries)

    def refused(self, refusal: EntryRefused) -> "Batch":
        """Return this batch, of one entry, without it."""
        return evolve(self, entries=[], refusal=refusal)

    def committed(self, outcome: Outcome) -> None:
        """Balance the books, then fire all Deferreds."""
        self.settle(len(self.deferreds), outcome)
        if self.refusal is not None:
            self.abandoned(self.refusal)
            return
        for deferred in self.deferreds:
            deferred.callback(None)

    def abandoned(self, error: Exception) -> None:
        """Errback all Deferreds: there will be no commit."""
        for deferred in self.deferreds:
            deferred.errback(error)
