"""A daemon whose process was stopped: nobody is heard until it knows that it is who it was. ADR 0232."""

from typing import Any, cast
from unittest.mock import Mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import Puback, Publish
from platziverse.net.deadlines import PAUSE, TICK
from platziverse.testing import BrokerHarness
from tests.logs import observe_lines


class Working(Clock):
    """A Working is a clock that moves with each look at it, by so many seconds."""

    pace = 0.0

    def seconds(self) -> float:
        self.rightNow += self.pace
        return self.rightNow


class Case(SynchronousTestCase):
    """A publisher and a subscriber; then the process is stopped for a while."""

    def setUp(self) -> None:
        self.lines = observe_lines(self)
        self.clock = Working()
        self.harness = BrokerHarness(clock=self.clock)
        self.asked: list[Deferred[None]] = []
        self.waking = self.harness.shared.waking
        self.waking.confirm = self.ask
        self.publisher, self.subscriber = self.harness.connect("one"), self.harness.connect("two")
        self.subscriber.subscribe("#", 1)

    def ask(self) -> "Deferred[None]":
        self.asked.append(asked := Deferred[None]())
        return asked

    def stop_for(self, seconds: float) -> None:
        """Nothing runs for so long, not even timers."""
        self.harness.clock.rightNow += seconds

    def got(self) -> list[str]:
        return [packet.topic for packet in self.subscriber.received() if isinstance(packet, Publish)]


class WakingTests(Case):
    def test_what_comes_then_waits_until_the_database_has_answered(self) -> None:
        self.stop_for(TICK + PAUSE + 0.1)
        self.publisher.publish("a", b"old", 1, 1)
        self.publisher.publish("b", b"old", 1, 2)
        self.assertTrue(self.publisher.held)
        self.assertTrue(self.subscriber.held)
        self.assertEqual((self.got(), self.publisher.received()), ([], []))
        (asked,) = self.asked
        asked.callback(None)
        self.assertEqual(self.got(), ["a", "b"])
        self.assertEqual(self.publisher.received(), [Puback(1), Puback(2)])
        self.assertFalse(self.publisher.held)
        self.assertIn("stopped for some seconds", self.lines[-1])

    def test_also_when_the_timers_are_the_first_to_notice(self) -> None:
        self.stop_for(TICK + PAUSE + 0.1)
        self.harness.clock.advance(0)
        self.publisher.publish("a", b"old", 1, 1)
        self.assertEqual((self.got(), self.harness.shared.deadlines.suspensions), ([], 1))

    def test_the_database_may_be_away(self) -> None:
        self.stop_for(5)
        self.publisher.publish("a", b"old", 1, 1)
        self.asked[0].errback(OSError("away"))
        self.assertEqual(self.got(), ["a"])

    def test_what_others_have_taken_over_is_not_handled(self) -> None:
        self.stop_for(20)
        self.publisher.publish("a", b"old", 1, 1)
        self.harness.shared.close_all(Reason.SHUTTING_DOWN, "other daemons have taken over from this one")
        self.asked[0].callback(None)
        self.assertEqual((self.got(), self.publisher.closed), ([], True))

    def test_a_client_that_has_gone_meanwhile_goes_behind_what_it_has_sent(self) -> None:
        self.stop_for(5)
        self.publisher.publish("a", b"old")
        cast(Any, self.publisher.transport).acknowledge_now = hasten = Mock()
        self.publisher.lose()
        self.assertEqual(self.harness.broker.connected, 2)
        again = self.harness.connect("one")
        again.publish("b", b"new", 1, 1)
        self.asked[0].callback(None)
        self.assertEqual((self.got(), self.harness.broker.connected), (["a", "b"], 2))
        hasten.assert_not_called()  # it has no socket any more

    def test_who_comes_meanwhile_waits_too(self) -> None:
        self.stop_for(5)
        self.publisher.publish("a", b"old", 1, 1)
        new = self.harness.connect("three")
        self.assertEqual((new.connack, len(self.asked)), ([], 1))
        self.asked[0].callback(None)
        self.assertEqual(len(new.received()), 1)

    def test_thousands_go_on_in_turns_of_the_reactor(self) -> None:
        clients = [self.harness.connect(f"c{number}") for number in range(200)]
        self.stop_for(5)
        for client in clients:
            client.publish("a", b"old")
        self.harness.turn()
        self.clock.pace = 0.0002
        self.asked[0].callback(None)
        first = len(self.got())
        self.assertTrue(0 < first < 100, first)
        self.publisher.lose()
        rest = 0
        for _ in range(300):
            self.harness.turn()
            rest += len(self.got())
        self.assertEqual(first + rest, 200)
        self.assertEqual(self.harness.broker.connected, 201)
        self.assertFalse(any(client.held for client in clients))

    def test_another_pause_meanwhile_holds_those_that_have_not_gone_on(self) -> None:
        clients = [self.harness.connect(f"c{number}") for number in range(200)]
        self.stop_for(5)
        for client in clients:
            client.publish("a", b"old")
        self.harness.turn()
        self.clock.pace = 0.0002
        self.asked[0].callback(None)
        first = len(self.got())
        self.clock.pace = 0.0
        self.stop_for(5)
        self.publisher.publish("b", b"old")
        clients[-1].lose()
        self.harness.turn()
        self.assertEqual((self.got(), len(self.asked)), ([], 2))
        self.asked[1].callback(None)
        self.assertEqual(first + len(self.got()), 201)

    def test_a_long_turn_is_no_pause(self) -> None:
        self.stop_for(PAUSE - 0.1)
        self.publisher.publish("a", b"new", 1, 1)
        self.assertEqual((self.got(), self.asked), (["a"], []))

    def test_whoever_shares_clients_with_nobody_goes_on(self) -> None:
        self.waking.confirm = None
        self.stop_for(50)
        self.publisher.publish("a", b"old", 1, 1)
        self.assertEqual(self.got(), ["a"])

    def test_a_daemon_that_ends_asks_nobody(self) -> None:
        self.harness.shared.stop()
        self.stop_for(50)
        self.publisher.publish("a", b"old", 1, 1)
        self.assertEqual((self.got(), self.asked), (["a"], []))
