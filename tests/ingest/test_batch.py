"""Batches: what goes into one, and halves of it."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Batch, Outcome, PacketIdentifiers, weight
from tests.ingest.entries import delivery, rejection, report


class Halves(SynchronousTestCase):
    def test_halves_keep_the_order_and_who_waits(self) -> None:
        entries: list[Entry] = [Departure(str(number)) for number in range(5)]
        deferreds: list[Deferred[None]] = [Deferred() for _ in entries]
        settled: list[tuple[int, Outcome]] = []
        first, second = Batch(entries, deferreds, lambda *given: settled.append(given)).halves()
        self.assertEqual(first.entries + second.entries, entries)
        second.committed(Outcome(1, 2, 0))
        self.assertEqual([deferred.called for deferred in deferreds], [False, False, True, True, True])
        self.assertEqual(settled, [(3, Outcome(1, 2, 0))])


class Weights(SynchronousTestCase):
    def test_a_report_weighs_its_rows_and_its_bytes(self) -> None:
        self.assertEqual(weight(report("1", "2", "3")), 3)
        self.assertEqual(weight(report("1", payload=b"x" * 65_536)), 65)

    def test_a_rejection_weighs_its_bytes(self) -> None:
        self.assertEqual(weight(rejection(payload=b"x" * 10_240)), 11)


class SharedPacketIdentifiers(SynchronousTestCase):
    def taken(self, *entries: Entry) -> list[bool]:
        identifiers = PacketIdentifiers()
        return [identifiers.take(entry) for entry in entries]

    def test_entries_without_one_never_meet(self) -> None:
        self.assertEqual(self.taken(report(), report(), Departure("a"), rejection()), [True] * 4)

    def test_a_message_and_its_release_do_not_share_a_batch(self) -> None:
        message = report(delivery=delivery(1))
        self.assertEqual(self.taken(message, Release("client", 2), Release("client", 1)), [True, True, False])
        self.assertEqual(self.taken(Release("client", 1), message), [True, False])
        self.assertEqual(self.taken(message, report(delivery=delivery(1, dup=True))), [True, False])

    def test_nothing_of_a_client_shares_a_batch_with_its_forget(self) -> None:
        message = report(delivery=delivery(1))
        self.assertEqual(self.taken(message, Forget("client")), [True, False])
        self.assertEqual(self.taken(Forget("client"), message), [True, False])
        self.assertEqual(self.taken(Forget("client"), Forget("client"), Forget("other")), [True, True, True])
