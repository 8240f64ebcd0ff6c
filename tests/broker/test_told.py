"""What the broker tells subscribers alone, and other handlers in the place of those it had."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.mqtt.packets import Publish
from platziverse.testing import BrokerHarness, MemorySessionStore


class ToldTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.handled: list[str] = []
        self.sessions = MemorySessionStore()
        self.harness = BrokerHarness({"#": self.note("old")}, sessions=self.sessions)

    def note(self, name: str) -> Any:
        return lambda message, client: self.handled.append(f"{name} {message.topic}")

    def test_subscribers_are_told_and_handlers_are_not(self) -> None:
        client = self.harness.connect()
        client.subscribe("agent/message")
        self.harness.broker.tell("agent/message", lambda: b"x")
        self.assertEqual(client.received(), [Publish("agent/message", b"x")])
        self.assertEqual(self.handled, [])

    def test_nothing_is_made_that_nobody_would_get(self) -> None:
        self.harness.broker.tell("agent/message", lambda: self.fail("made"))

    def test_absent_subscribers_are_told_as_of_any_message_at_qos_0(self) -> None:
        client = self.harness.connect("absent", clean_session=False)
        client.subscribe("agent/#", 1)
        client.lose()
        self.harness.broker.tell("agent/message", lambda: b"x")
        self.harness.advance(1)

    def test_other_handlers_take_the_place_of_those_for_every_topic(self) -> None:
        client = self.harness.connect()
        client.publish("a", b"")
        self.harness.broker.use_handlers(TopicDispatcher({"a": self.note("new")}))
        client.publish("a", b"")
        client.publish("b", b"")
        self.assertEqual(self.handled, ["old a", "new a"])

    def test_messages_under_way_end_at_the_handlers_they_began_with(self) -> None:
        answer: Deferred[None] = Deferred()
        wait: Any = lambda message, client: answer  # noqa: E731
        harness = BrokerHarness({"a": wait})
        client = harness.connect()
        client.publish("a", b"", qos=1, packet_id=1)
        harness.broker.use_handlers(TopicDispatcher({}))
        self.assertEqual(client.received(), [])
        answer.callback(None)
        self.assertEqual(len(client.received()), 1)
