"""AckQueue: whatever finishes first, acknowledgements leave in the order of their PUBLISHes."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from platziverse.net.acks import AckQueue


class Sent(list[bytes]):
    """What was sent, piece by piece."""

    send = list.append


class Order(SynchronousTestCase):
    @given(st.permutations(range(8)))
    def test_any_order_of_finishing_gives_the_same_bytes(self, order: list[int]) -> None:
        """row 62"""
        sent = Sent()
        acks = AckQueue(sent)
        pending = [acks.expect(b"%d" % number) for number in range(8)]
        finished: set[int] = set()
        for number in order:
            pending[number].done()
            finished.add(number)
            head = next((index for index in range(8) if index not in finished), 8)
            self.assertEqual(b"".join(sent), b"01234567"[:head])
        self.assertEqual(len(acks), 0)

    def test_a_finished_run_leaves_at_once_and_qos_0_sends_nothing(self) -> None:
        sent = Sent()
        acks = AckQueue(sent)
        first, second, third = (acks.expect(data) for data in (b"a", b"", b"c"))
        second.done()
        third.done()
        self.assertEqual(sent, [])
        first.done()
        self.assertEqual(sent, [b"a", b"c"])

    def test_it_can_be_waited_for_until_one_has_left(self) -> None:
        """Row 272: the last of several; and when the queue ends, the waiting does."""
        sent = Sent()
        acks = AckQueue(sent)
        pending = [acks.expect(data) for data in (b"a", b"b", b"b", b"c")]
        self.assertIsNone(acks.when_left(b"x"))
        twice, other = [acks.when_left(b"b"), acks.when_left(b"b")], acks.when_left(b"c")
        for one in pending[1:3]:
            one.done()
        for left in twice:
            assert left is not None
            self.assertNoResult(left)
        pending[0].done()
        for left in twice:
            assert left is not None
            self.successResultOf(left)
        acks.end()
        assert other is not None
        self.failureResultOf(other, CancelledError)

    def test_a_closed_queue_owes_nothing(self) -> None:
        sent = Sent()
        acks = AckQueue(sent)
        pending = acks.expect(b"a")
        acks.end()
        pending.done()
        self.assertEqual((sent, len(acks)), ([], 0))
