"""Wills: published when a client is lost, discarded when it leaves."""

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.turn import LENGTH
from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
)
from platziverse.testing import BrokerHarness, FakeClient
from tests.broker.test_access import Rules
from tests.net.doubles import Store
from tests.net.test_turns import run_turn

#: Seconds that the handler of a Will takes.
WORK = 0.001


class Wills(SynchronousTestCase):
    def test_a_lost_connection_publishes_the_will(self) -> None:
        """[MQTT-3.1.2-8] [MQTT-3.1.2-16] [MQTT-3.1.2-17]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will/#", 1)
        for retain in (False, True):
            client = harness.connect("one", will=Publish("will/one", b"gone", 1, retain))
            client.lose()
        received = [packet.payload for packet in watcher.received() if isinstance(packet, Publish)]
        self.assertEqual(received, [b"gone", b"gone"])
        self.assertEqual(len(harness.broker.retained), 1)

    def test_a_violation_publishes_the_will(self) -> None:
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        harness.connect("one", will=Publish("will", b"gone")).send_bytes(b"\xf0\x00")
        self.assertEqual(watcher.received(), [Publish("will", b"gone")])

    def test_disconnect_discards_the_will(self) -> None:
        """[MQTT-3.1.2-10] [MQTT-3.14.4-3] [MQTT-3.1.2-12]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        harness.connect("one", will=Publish("will", b"gone")).send(Disconnect())
        self.assertEqual(watcher.received(), [])

    def test_a_will_goes_to_the_handler_like_any_publish(self) -> None:
        """row 29"""
        store = Store()
        harness = BrokerHarness({"agent/message": store})
        harness.connect("one", will=Publish("agent/message", b"x")).lose()
        self.assertEqual(store.messages, [Publish("agent/message", b"x")])

    def test_a_will_on_a_forbidden_topic_is_refused_at_connect(self) -> None:
        """row 28"""
        rules = Rules()
        rules.mute_topics.add("will")
        client = BrokerHarness(authority=rules).connect("one", will=Publish("will", b"x"))
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.NOT_AUTHORIZED)])
        self.assertTrue(client.closed)


class AtOnce(SynchronousTestCase):
    """Row 354: thousands of clients end in one turn, and each leaves a Will whose handler takes a while."""

    many = 1000

    def setUp(self) -> None:
        self.clock = Clock()
        self.raises: list[BaseException] = []
        self.then: Callable[[], None] | None = None
        self.handled: list[bytes] = []
        self.harness = BrokerHarness({"will/+": self.handle}, clock=self.clock)
        self.unfinished = self.harness.broker.clients.farewells.unfinished
        self.watcher = self.harness.connect("watcher")
        self.watcher.subscribe("will/+")

    def handle(self, message: Publish, client: Any) -> None:
        self.clock.rightNow += WORK
        self.handled.append(message.payload)
        then, self.then = self.then, None
        if then is not None:
            then()
        if self.raises:
            raise self.raises.pop()

    def connect(self, number: int) -> FakeClient:
        will = Publish("will/1", b"%d" % number, 0, True)
        return self.harness.connect(f"client-{number}", will=will)

    def lose(self, count: int) -> list[FakeClient]:
        """Connect so many clients, and lose all of them in one turn."""
        clients = [self.connect(number) for number in range(count)]
        for client in clients:
            client.lose()
        return clients

    def test_a_turn_ends_on_time_and_the_rest_follows_in_order(self) -> None:
        innocent = self.harness.connect("innocent")
        self.lose(self.many)
        turns, longest = 1, 0.0
        while len(self.handled) < self.many:
            before = self.clock.seconds()
            run_turn(self.clock)
            longest = max(longest, self.clock.seconds() - before)
            innocent.send(Pingreq())
            self.assertEqual(innocent.received(), [Pingresp()])
            turns += 1
        self.assertEqual(self.handled, [b"%d" % number for number in range(self.many)])
        self.assertLessEqual(longest, LENGTH + 1.5 * WORK)
        self.assertLessEqual(turns, self.many * WORK / LENGTH + 2)
        received = [packet.payload for packet in self.watcher.received() if isinstance(packet, Publish)]
        self.assertEqual(received, self.handled)
        self.assertEqual((self.unfinished.count, self.unfinished.bytes), (0, 0))

    def test_those_that_wait_count_as_unfinished(self) -> None:
        self.lose(20)
        done = len(self.handled)
        self.assertLess(done, 20)
        size = sum(len(b"will/1%d" % number) for number in range(done, 20))
        self.assertEqual((self.unfinished.count, self.unfinished.bytes), (20 - done, size))
        self.assertEqual(len(self.harness.broker.clients.farewells.due.waiting), 20 - done)

    def test_one_whose_client_comes_back_is_published_before_what_it_sends_then(self) -> None:
        self.lose(20)
        self.assertNotIn(b"19", self.handled)
        self.harness.connect("client-19").publish("will/1", b"back", retain=True)
        self.assertEqual(self.handled[-2:], [b"19", b"back"])
        self.harness.connect("client-18", clean_session=False)
        self.assertEqual(self.handled[-1], b"18")
        run_turn(self.clock)
        run_turn(self.clock)
        self.assertEqual(len(self.handled), 21)

    def test_one_that_a_take_over_sets_free_waits_for_nobody(self) -> None:
        taken = self.connect(100)
        self.lose(20)
        self.connect(100)
        self.assertTrue(taken.closed)
        self.assertEqual(self.handled[-1], b"100")

    def test_one_whose_client_another_one_ends_has_its_turn(self) -> None:
        last = self.connect(100)
        self.then = last.lose
        self.lose(20)
        self.assertTrue(last.closed)
        for _ in range(3):
            run_turn(self.clock)
        self.assertEqual(sorted(map(int, self.handled)), [*range(20), 100])
        self.assertEqual(self.unfinished.count, 0)

    def test_a_handler_that_breaks_keeps_none_of_the_others(self) -> None:
        """Row 297."""
        self.lose(20)
        self.raises = [ZeroDivisionError(), SystemExit()]
        self.assertRaises(SystemExit, run_turn, self.clock)
        for _ in range(3):
            run_turn(self.clock)
        self.assertEqual((len(self.handled), self.unfinished.count), (20, 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
