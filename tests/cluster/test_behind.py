"""Messages that come without a position stay behind what was owed before, though the bus lost that."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from platziverse.cluster.figures import Figures
from platziverse.cluster.frames import Message
from platziverse.cluster.held import Ahead
from platziverse.cluster.links import ALL
from platziverse.mqtt.packets import Unsubscribe
from platziverse.testing import FakeClient
from tests.cluster import test_links
from tests.cluster.test_links import acknowledge
from tests.cluster.test_loading import Late
from tests.cluster.test_waiting import linking_of


class BehindRowsTests(test_links.Case):
    """What comes without a position stays behind rows that were owed before. ADR 0200."""

    def setUp(self) -> None:
        super().setUp()
        self.live = self.two.listening("live", "#", 2)

    def lose_what_is_owed(self) -> FakeClient:
        """Have a row of the link wait while messages of its topic are owed to nobody any more."""
        far = self.durable(self.two)
        self.shares[2].slow = True
        self.lose_copy(b"1")
        far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(2)
        return far

    def publish(self, *numbers: int, retain: bool = False) -> None:
        for number in numbers:
            self.publisher.publish("a", b"%d" % number, 1, number, retain=retain)
        self.settle()

    def read(self) -> None:
        self.shares[2].slow = False
        while self.shares[2].asked:
            self.shares[2].answer()
        self.settle()

    def test_messages_wait_until_what_was_lost_is_read(self) -> None:
        self.lose_what_is_owed()
        self.publish(2, 3)
        self.publish(4, retain=True)
        self.publisher.publish("a", b"at most once", 0)
        self.settle()
        self.assertEqual(acknowledge(self.live), [b"at most once"])
        self.read()
        self.assertEqual(acknowledge(self.live), [b"1", b"2", b"3", b"4"])
        self.publish(5)
        self.assertEqual(acknowledge(self.live), [b"5"])

    def test_what_is_owed_behind_them_does_not_overtake_them(self) -> None:
        far = self.lose_what_is_owed()
        self.publish(2)
        far.subscribe("a", 1)
        self.settle()
        self.publish(3, 4)
        self.assertEqual(acknowledge(self.live), [])
        self.read()
        self.assertEqual(acknowledge(self.live), [b"1", b"2", b"3", b"4"])

    def test_they_do_not_wait_for_ever_when_their_daemon_has_gone(self) -> None:
        self.lose_what_is_owed()
        self.publish(2)
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.read()
        self.assertEqual(acknowledge(self.live), [b"1", b"2"])

    def test_the_oldest_does_not_wait_when_there_are_too_many(self) -> None:
        """Row 496."""
        self.lose_what_is_owed()
        self.publish(2, 3)
        limits = self.two.broker.limits
        for _ in range(limits.max_unfinished_total - 1):
            self.keep_behind(b".")
        self.assertEqual(acknowledge(self.live), [b"2"])
        self.assertEqual(Figures(self.two.cluster).events["overtook"], 1)
        line = "Too much of daemon 1 waits for what the bus has lost; the first waits no more "
        self.assertIn(line + "(max_unfinished_total, max_unfinished_bytes)", self.lines)
        self.keep_behind(bytes(limits.max_unfinished_bytes))
        self.assertEqual(acknowledge(self.live), [b"3"])
        self.read()
        self.assertEqual(acknowledge(self.live), [b"1"])

    def keep_behind(self, payload: bytes) -> None:
        """Have a message of daemon 1 behind everything."""
        linking_of(self.two).keep_behind(1, Message("", payload, 1, after=ALL), lambda: None)


class StandingStillTests(test_links.Case):
    """The bus brings nothing to daemon 2 for a while, and then what it has had all the time. ADR 0228."""

    def setUp(self) -> None:
        super().setUp()
        self.live, self.far = self.two.listening("live", "#", 2), self.durable(self.two)
        self.publisher.publish("a", b"0", 1, 1)
        self.settle()
        self.far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(2)
        self.assertEqual(acknowledge(self.live), [b"0"])
        acknowledge(self.far)
        self.two.bus.ear.slow = True

    def publish(self, number: int, topic: str = "a", retain: bool = False) -> None:
        self.publisher.publish(topic, b"%d" % number, 1, number + 1, retain=retain)
        self.settle()

    def owe(self) -> None:
        """Have daemon 1 owe a message, which is read without it as it does not answer."""
        self.far.subscribe("a", 1)
        self.daemons.advance(3)
        self.publish(9)
        self.daemons.advance(12)

    def go_on(self) -> None:
        self.two.bus.ear.slow = False
        self.two.bus.ear.hear()
        self.daemons.advance(5)

    def test_what_comes_after_a_row_that_was_published_behind_it_is_dropped(self) -> None:
        """Row 561."""
        self.publish(1)
        self.owe()
        self.assertEqual(acknowledge(self.live), [b"9"])
        self.go_on()
        self.assertEqual(acknowledge(self.live), [])
        self.assertEqual(Figures(self.two.cluster).events["passed"], 1)
        line = "The bus was so slow that a message of daemon 1 is dropped: a later one was read before it"
        self.assertIn(line, self.lines)
        self.publish(10)
        self.assertEqual(acknowledge(self.live), [b"10"])

    def test_of_other_topics_it_is_not(self) -> None:
        self.publish(1, "b")
        self.owe()
        self.go_on()
        self.assertEqual(acknowledge(self.live), [b"9", b"1"])
        self.assertEqual(Figures(self.two.cluster).events["passed"], 0)

    def test_all_keep_a_retained_message_that_is_dropped(self) -> None:
        self.publish(1, retain=True)
        self.owe()
        self.go_on()
        self.assertEqual(acknowledge(self.live), [b"9"])
        kept = self.two.broker.retained.get("a")
        self.assertEqual(kept and kept.payload, b"1")

    def test_what_was_published_behind_the_row_is_handed_on(self) -> None:
        self.owe()
        self.far.send(Unsubscribe(2, ["a"]))
        self.daemons.advance(2)
        self.publish(10)
        self.go_on()
        self.assertEqual(acknowledge(self.live), [b"9", b"10"])

    def test_a_daemon_that_has_gone_has_nothing_on_the_bus(self) -> None:
        self.publish(1)
        self.owe()
        one = self.restart(1)
        self.go_on()
        one.connect("publisher").publish("a", b"again", 1, 1)
        self.settle()
        self.assertEqual(acknowledge(self.live), [b"9", b"again"])

    def test_of_very_many_topics_none_is_told_apart(self) -> None:
        ahead = Ahead(2)
        for position, topic in enumerate(["a", "b", "c"], 5):
            ahead.add(topic, position)
        self.assertEqual([ahead.passes(topic, 5) for topic in ("a", "b", "c", "d")], [True] * 4)
        self.assertEqual(
            [ahead.passes(topic, 6) for topic in ("a", "b", "c", "d")], [False, False, True, False]
        )
        ahead.clear()
        self.assertFalse(ahead.passes("c", 0))


class LoadingTests(test_links.Case):
    """Messages come while daemon 2 loads Sessions. ADR 0228."""

    def test_at_a_start_they_wait_behind_rows(self) -> None:
        """Row 562."""
        live = self.begin_with_a_row()
        self.publisher.publish("a", b"2", 1, 2, retain=True)
        self.settle()
        self.load()
        self.assertEqual(acknowledge(live), [b"2", b"1", b"2"])  # the first: as it is retained
        self.assertEqual(self.rows(), [])

    def test_also_behind_those_of_a_daemon_that_has_gone_meanwhile(self) -> None:
        live = self.begin_with_a_row()
        self.publish_and_go()
        self.load()
        self.assertEqual(acknowledge(live), [b"2", b"1", b"2"])  # the first: as it is retained
        self.assertEqual(self.rows(), [])

    def test_but_not_behind_those_that_are_for_an_heir(self) -> None:
        live = self.begin_with_a_row(inherited=True)
        self.publish_and_go()
        self.settle_elsewhere()
        self.load()
        self.assertEqual(acknowledge(live), [b"2", b"2"])
        self.assertEqual(self.rows(), [])

    def test_nor_does_what_is_for_an_heir_become_ours(self) -> None:
        live = self.begin_with_a_row(inherited=True)
        self.publisher.publish("a", b"2", 1, 2, retain=True)
        self.settle()
        self.settle_elsewhere()
        self.load()
        self.assertEqual(acknowledge(live), [b"2", b"2"])
        self.assertEqual(self.rows(), [])

    def settle_elsewhere(self) -> None:
        """Have the heir settle the Session."""
        self.assertEqual(self.rows(), [b"1"])
        self.table.before.clear()
        self.daemons.advance(0.2)

    def begin_with_a_row(self, inherited: bool = False) -> FakeClient:
        """Have daemon 2 begin anew, with a row of a topic that no durable Session of it listens to.

        :param inherited: its Session is another one's by now.
        :return: a client of it, which has come while Sessions are loaded.
        """
        self.durable(self.two).lose()
        self.two.bus.ear.losing = True
        self.publisher.publish("a", b"1", 1, 1)
        self.settle()
        far = self.two.connect("durable", clean_session=False)
        far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(1)
        self.shares[2].kill()
        self.two.die()
        self.daemons.turn()
        if inherited:
            self.table.inherit(2, 3)
        self.shares[2] = self.late = Late(self.table, 2)
        two = self.begin(2)
        self.daemons.advance(2)
        self.assertEqual(self.rows(), [b"1"])
        return two.listening("live", "a", 1)

    def publish_and_go(self) -> None:
        """Have daemon 1 publish a message while Sessions are loaded, and die."""
        self.publisher.publish("a", b"2", 1, 2, retain=True)
        self.settle()
        self.shares[1].kill()
        self.one.die()
        self.daemons.turn()

    def load(self) -> None:
        self.late.load()
        self.settle()

    def test_an_heir_hands_them_on_before_what_is_owed_later(self) -> None:
        """Row 562, while Sessions of a dead daemon are loaded."""
        live = self.two.listening("live", "a", 1)
        far = self.two.connect("durable", clean_session=False)
        taken: Deferred[Sequence[int]] = Deferred()
        self.two.cluster.inheriting.inherit(3, taken)
        self.daemons.turn()
        self.publisher.publish("a", b"1", 1, 1)
        self.publisher.publish("a", b"2", 1, 2, retain=True)
        self.settle()
        far.subscribe("a", 1)
        self.daemons.advance(1)
        self.publisher.publish("a", b"3", 1, 3)
        self.settle()
        self.assertEqual(acknowledge(live), [b"1", b"2", b"3"])
        taken.callback([])
        self.settle()
        self.assertEqual(acknowledge(live), [])
