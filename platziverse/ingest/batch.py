"""Batch: the entries that one statement commits, each with the Deferred that waits for it."""

from collections.abc import Callable, Sequence

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred

from platziverse.ingest.errors import EntryRefused, Fenced


@frozen
class Outcome:
    """An Outcome says how many messages of a committed batch ended in which way."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0


@define(eq=False)
class Incarnation:
    """An Incarnation is that of this daemon when it took an entry.

    :ivar over: another daemon has taken this one for dead, and fenced it. See ADR 0230.
    """

    over: bool = False


@frozen
class Batch:
    """A Batch has entries in the order in which they came, each with the Deferred that waits for it.

    :param settle: called with the number of entries and the outcome before the Deferreds fire.
    :param refusal: what the Deferreds errback with, as their entries were left out; ``None``: none was.
    :param incarnation: under which all of them were taken.
    """

    entries: Sequence[object]
    deferreds: "Sequence[Deferred[None]]"
    settle: Callable[[int, Outcome], None]
    refusal: EntryRefused | Fenced | None = None
    incarnation: Incarnation = field(factory=Incarnation)

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

    def without(self, fenced: Callable[[object], bool]) -> "tuple[Batch, ...]":
        """Return two batches: of the entries that are fenced, which are left out, and of any others."""
        places = list(zip(self.entries, self.deferreds, strict=True))
        refused = [deferred for entry, deferred in places if fenced(entry)]
        others = [place for place in places if not fenced(place[0])]
        left_out = evolve(self, entries=[], deferreds=refused, refusal=Fenced())
        entries, deferreds = [entry for entry, _ in others], [deferred for _, deferred in others]
        return (left_out, evolve(self, entries=entries, deferreds=deferreds)) if others else (left_out,)

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
