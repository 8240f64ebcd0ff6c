"""Batches: what goes into one, and halves of it."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure
from platziverse.ingest.batch import Batch, Outcome


class Halves(SynchronousTestCase):
    def test_halves_keep_the_order_and_who_waits(self) -> None:
        entries = [Departure(str(number)) for number in range(5)]
        deferreds: list[Deferred[None]] = [Deferred() for _ in entries]
        settled: list[tuple[int, Outcome]] = []
        first, second = Batch(entries, deferreds, lambda *given: settled.append(given)).halves()
        self.assertEqual([*first.entries, *second.entries], entries)
        second.committed(Outcome(1, 2, 0))
        self.assertEqual([deferred.called for deferred in deferreds], [False, False, True, True, True])
        self.assertEqual(settled, [(3, Outcome(1, 2, 0))])
