"""Who moves a Session waits for what others owe to it, and for nothing else."""

from collections.abc import Mapping

from twisted.internet.defer import CancelledError, Deferred

from platziverse.cluster.figures import Figures
from platziverse.cluster.linking import Linking
from tests.cluster import test_links, test_moves
from tests.cluster.daemons import Daemon
from tests.cluster.test_links import acknowledge
from tests.memory import objects_kept

#: The first position that a daemon gives.
FIRST = (1 << 40) + 1


def linking_of(daemon: Daemon) -> Linking:
    """Return the links of a daemon that has a store."""
    linking = daemon.cluster.linking
    assert linking is not None
    return linking


class CatchUpTests(test_links.Case):
    """Daemon 1 owes messages to a Session of daemon 2."""

    def setUp(self) -> None:
        super().setUp()
        self.far = self.durable(self.two)
        self.linking = linking_of(self.two)

    def catch_up_with_a_lost_copy(self) -> "Deferred[Mapping[int, int]]":
        """Ask daemon 1 how much it owes, when a copy was lost and its row is not read yet."""
        self.shares[2].slow = True
        self.lose_copy(b"lost")
        caught_up = self.linking.catch_up()
        self.settle()
        return caught_up

    def read_rows(self) -> None:
        """Have the store answer all questions, those that come of an answer too."""
        self.shares[2].slow = False
        self.shares[2].answer()
        self.settle()

    def test_it_is_caught_up_when_a_lost_copy_was_read(self) -> None:
        caught_up = self.catch_up_with_a_lost_copy()
        self.assertNoResult(caught_up)
        self.assertEqual(acknowledge(self.far), [])
        self.read_rows()
        self.assertEqual(self.successResultOf(caught_up), {1: FIRST})
        self.assertEqual(self.linking.cuts({1: FIRST})[1], FIRST)
        self.assertEqual(acknowledge(self.far), [b"lost"])

    def test_it_is_caught_up_with_a_row_before_that_is_done(self) -> None:
        self.far.lose()
        self.shares[2].held = True
        caught_up = self.catch_up_with_a_lost_copy()
        self.shares[2].answer()
        self.daemons.turn()
        self.assertNoResult(self.linking.when_done(1, FIRST))
        self.assertEqual(self.successResultOf(caught_up), {1: FIRST})

    def test_it_is_caught_up_with_a_copy_that_its_daemon_has_sent_late_before_that_is_done(self) -> None:
        far = self.two.listening("two", "b", 2, clean_session=False)
        far.lose()
        self.shares[1].held = self.shares[2].held = True
        self.publisher.publish("b", b"after its commit", 2, 1)
        caught_up = self.linking.catch_up()
        self.settle()
        self.assertNoResult(caught_up)
        self.shares[1].resume()
        self.daemons.turn()
        self.assertNoResult(self.linking.when_done(1, FIRST))
        self.assertEqual(self.successResultOf(caught_up), {1: FIRST})

    def test_it_is_caught_up_when_the_rows_of_a_dead_daemon_are_read(self) -> None:
        self.shares[2].slow = True
        self.lose_copy(b"left behind")
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        caught_up = self.linking.catch_up()
        self.settle()
        self.assertNoResult(caught_up)
        self.read_rows()
        self.successResultOf(caught_up)
        self.assertEqual(acknowledge(self.far), [b"left behind"])

    def test_it_is_caught_up_at_once_when_nothing_is_missing(self) -> None:
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        caught_up = self.linking.catch_up()
        self.daemons.turn()
        self.assertEqual(self.successResultOf(caught_up), {1: FIRST})

    def test_who_is_cancelled_waits_no_longer_and_what_is_owed_comes(self) -> None:
        caught_up = self.catch_up_with_a_lost_copy()
        caught_up.cancel()
        self.failureResultOf(caught_up, CancelledError)
        self.read_rows()
        self.assertEqual(acknowledge(self.far), [b"lost"])

    def test_who_is_cancelled_is_forgotten(self) -> None:
        self.catch_up_with_a_lost_copy().addErrback(lambda failure: None).cancel()
        kept = objects_kept(self.linking)
        for _ in range(5):
            self.linking.when_done(1, FIRST).addErrback(lambda failure: None).cancel()
            caught_up = self.linking.catch_up().addErrback(lambda failure: None)
            self.settle()
            caught_up.cancel()
        self.assertLess(objects_kept(self.linking), kept + 5)

    def test_a_message_is_done_when_the_row_of_its_session_is_committed(self) -> None:
        self.far.lose()
        self.shares[2].held = True
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        first, other = (self.linking.when_done(1, FIRST) for _ in range(2))
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.assertNoResult(first)
        other.addErrback(lambda failure: None).cancel()
        self.shares[2].resume()
        self.daemons.turn()
        self.successResultOf(first)

    def test_a_message_that_comes_later_is_not_waited_for(self) -> None:
        self.far.lose()
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        self.shares[2].held = True
        self.publisher.publish("a", b"2", 1, 2)
        self.settle()
        self.successResultOf(self.linking.when_done(1, FIRST))
        second = self.linking.when_done(1, FIRST + 1)
        self.assertNoResult(second)
        self.shares[2].resume()
        self.successResultOf(second)

    def test_a_link_says_how_much_is_not_answered(self) -> None:
        self.far.lose()
        self.shares[1].held = self.shares[2].held = True
        for number in (1, 2):
            self.publisher.publish("a", b"x", 1, number)
        self.settle()
        ((owed, _),) = linking_of(self.one).owed(1 << 2, 1)
        self.assertEqual((owed.inflight, owed.head), (2, FIRST - 1))
        self.assertEqual(Figures(self.one.cluster).unanswered, {2: 2})
        self.shares[2].resume()
        self.settle()
        self.assertEqual((owed.inflight, owed.head), (0, FIRST + 1))


class NothingElseTests(test_moves.Case):
    """What a Session on its way has nothing to do with does not hold it up."""

    def test_the_death_of_a_third_daemon_does_not_stop_a_session(self) -> None:
        self.durable(self.one).lose()
        self.shares[1].held = True
        far = self.come(self.two)
        self.assertEqual(far.connack, [])
        self.shares[3].kill()
        self.daemons.members.leave(3, dead=True)
        self.shares[1].resume()
        self.settle()
        far.connack += far.received()
        self.assertTrue(self.present(far))

    def test_a_session_that_is_ours_in_the_store_alone_is_read_and_has_not_moved(self) -> None:
        self.durable(self.one).lose()
        self.three.connect("publisher").publish("a", b"x", 1, 1)
        self.daemons.advance(1)
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        (number,) = self.table.owners
        self.table.owners[number] = 2
        far = self.come(self.two)
        self.assertTrue(self.present(far))
        self.assertEqual(acknowledge(far), [b"x"])
        self.assertEqual(Figures(self.two.cluster).moved, {"come": 0, "gone": 0, "refused": 0})

    def test_topics_with_a_dollar_do_not_wait_for_a_session_that_listens_to_all(self) -> None:
        """[MQTT-4.7.2-1]."""
        delaying = self.one.cluster.routing.delaying
        delay = delaying.begin(["#"])
        self.assertIsNone(delaying.keep("$other/a", lambda: None))
        kept = delaying.keep("other/a", lambda: None)
        assert kept is not None
        self.assertNoResult(kept)
        delaying.end(delay)
        self.assertIsNone(self.successResultOf(kept))
