"""Entries that touch the same: what shares a batch, and what comes after what, whatever the shard."""

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.kinds import Touch
from platziverse.ingest.reports import KINDS
from platziverse.ingest.touches import Touched, UnderWay
from tests.ingest.entries import delivery, rejection, report
from tests.memory import objects_kept


def touches(entry: Entry) -> Sequence[Touch]:
    """What the entry touches, as its kind says."""
    return KINDS[type(entry)].touches(entry)


class InOneBatch(SynchronousTestCase):
    def taken(self, *entries: Entry) -> list[bool]:
        touched = Touched()
        return [touched.take(touches(entry)) for entry in entries]

    def test_entries_that_touch_nothing_never_meet(self) -> None:
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


class AcrossShards(SynchronousTestCase):
    def setUp(self) -> None:
        self.under_way = UnderWay()
        self.done: list[Release | Forget] = []

    def after(self, *entries: Release | Forget) -> None:
        for entry in entries:
            self.under_way.after(touches(entry), lambda entry=entry: self.done.append(entry))  # type: ignore[misc]

    def test_a_release_waits_for_its_own_message_only(self) -> None:
        self.under_way.begun(touches(report(delivery=delivery(1))))
        self.after(Release("client", 2), Release("client", 1), Release("other", 1))
        self.assertEqual(self.done, [Release("client", 2), Release("other", 1)])
        self.under_way.finished(touches(report(delivery=delivery(1))))
        self.assertEqual(self.done[2:], [Release("client", 1)])

    def test_a_forget_waits_for_every_message_of_its_client(self) -> None:
        self.under_way.begun(touches(report(delivery=delivery(1))))
        self.under_way.begun(touches(report(delivery=delivery(2))))
        self.after(Forget("client"))
        self.under_way.finished(touches(report(delivery=delivery(1))))
        self.assertEqual(self.done, [])
        self.under_way.finished(touches(report(delivery=delivery(2))))
        self.assertEqual(self.done, [Forget("client")])

    def test_a_message_sent_twice_counts_twice(self) -> None:
        self.under_way.begun(touches(report(delivery=delivery(1))))
        self.under_way.begun(touches(report(delivery=delivery(1, dup=True))))
        self.after(Release("client", 1))
        self.under_way.finished(touches(report(delivery=delivery(1))))
        self.assertEqual(self.done, [])
        self.under_way.finished(touches(report(delivery=delivery(1, dup=True))))
        self.assertEqual(self.done, [Release("client", 1)])

    def test_nothing_is_remembered_of_what_has_ended(self) -> None:
        self.under_way.begun(touches(report(delivery=delivery(1))))
        self.after(Forget("client"))
        self.under_way.finished(touches(report(delivery=delivery(1))))
        self.assertEqual(self.done, [Forget("client")])
        self.assertEqual(objects_kept(self.under_way), objects_kept(UnderWay()))
