"""Messages that come without a position stay behind what was owed before, though the bus lost that."""

from platziverse.cluster.figures import Figures
from platziverse.cluster.frames import Message
from platziverse.cluster.links import ALL
from platziverse.mqtt.packets import Unsubscribe
from platziverse.testing import FakeClient
from tests.cluster import test_links
from tests.cluster.test_links import acknowledge
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
