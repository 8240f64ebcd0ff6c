"""Releases and Forgets come after the messages they are about, whatever the shard."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.records import Forget, Release
from platziverse.ingest.deliveries import Deliveries
from tests.ingest.entries import delivery


class DeliveriesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.deliveries = Deliveries()
        self.done: list[Release | Forget] = []

    def after(self, *entries: Release | Forget) -> None:
        for entry in entries:
            self.deliveries.after(entry, lambda entry=entry: self.done.append(entry))  # type: ignore[misc]

    def test_a_release_waits_for_its_own_message_only(self) -> None:
        self.deliveries.begun(delivery(1))
        self.after(Release("client", 2), Release("client", 1), Release("other", 1))
        self.assertEqual(self.done, [Release("client", 2), Release("other", 1)])
        self.deliveries.finished(delivery(1))
        self.assertEqual(self.done[2:], [Release("client", 1)])

    def test_a_forget_waits_for_every_message_of_its_client(self) -> None:
        self.deliveries.begun(delivery(1))
        self.deliveries.begun(delivery(2))
        self.after(Forget("client"))
        self.deliveries.finished(delivery(1))
        self.assertEqual(self.done, [])
        self.deliveries.finished(delivery(2))
        self.assertEqual(self.done, [Forget("client")])

    def test_a_message_sent_twice_counts_twice(self) -> None:
        self.deliveries.begun(delivery(1))
        self.deliveries.begun(delivery(1, dup=True))
        self.after(Release("client", 1))
        self.deliveries.finished(delivery(1))
        self.assertEqual(self.done, [])
        self.deliveries.finished(delivery(1, dup=True))
        self.assertEqual(self.done, [Release("client", 1)])

    def test_nothing_is_remembered_of_what_has_ended(self) -> None:
        self.deliveries.begun(delivery(1))
        self.after(Forget("client"))
        self.deliveries.finished(delivery(1))
        self.assertEqual((self.deliveries._unfinished, self.deliveries._behind), ({}, {}))
