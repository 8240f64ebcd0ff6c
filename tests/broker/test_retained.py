"""RetainedMessages: one per Topic Name, found by any Topic Filter, within limits."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.retained import RetainedMessages
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import matches
from platziverse.testing import BrokerHarness
from tests.broker.test_subscriptions import FILTERS, TOPICS
from tests.logs import observe_lines
from tests.memory import objects_kept

ONE = Client("one", 1)


class Matching(SynchronousTestCase):
    @given(st.lists(st.tuples(TOPICS, st.booleans()), max_size=20), FILTERS)
    def test_matches_as_the_naive_oracle(self, changes: list[tuple[str, bool]], topic_filter: str) -> None:
        retained = RetainedMessages(100, 10_000)
        model: dict[str, bytes] = {}
        for number, (topic, keep) in enumerate(changes):
            payload = b"%d" % number if keep else b""
            retained.set(Publish(topic, payload, 0, True), ONE)
            model.pop(topic, None)
            if keep:
                model[topic] = payload
        found = {message.topic: message.payload for message in retained.match(topic_filter)}
        self.assertEqual(found, {topic: p for topic, p in model.items() if matches(topic_filter, topic)})
        self.assertEqual(len(retained), len(model))
        self.assertEqual(retained.bytes, sum(len(topic) + len(p) for topic, p in model.items()))


class Bounds(SynchronousTestCase):
    def test_above_the_number_a_new_topic_is_not_kept(self) -> None:
        """row 42"""
        retained = RetainedMessages(1, 1000)
        for topic, payload in (("a", b"1"), ("b", b"1"), ("a", b"2")):
            retained.set(Publish(topic, payload, 0, True), ONE)
        self.assertEqual([message.payload for message in retained.match("#")], [b"2"])
        self.assertEqual(retained.refused, 1)

    def test_above_the_bytes_nothing_is_kept(self) -> None:
        """row 42"""
        retained = RetainedMessages(10, 5)
        retained.set(Publish("a", b"1234", 0, True), ONE)
        self.assertEqual((retained.bytes, retained.refused), (5, 0))
        retained.set(Publish("a", b"12345", 0, True), ONE)
        self.assertEqual((retained.bytes, retained.refused), (0, 1))

    def test_a_refused_message_takes_the_older_one_with_it(self) -> None:
        """Row 42; what was replaced is true no more. [MQTT-3.3.1-7]"""
        retained = RetainedMessages(10, 5)
        retained.set(Publish("a", b"old", 0, True), ONE)
        retained.set(Publish("a", b"new, large", 0, True), ONE)
        self.assertEqual(retained.match("a"), [])

    def test_very_deep_topics_are_not_kept_without_end(self) -> None:
        """Row 42; a level takes some hundred bytes, a slash in a topic one."""
        retained = RetainedMessages(100, 1_000_000)
        for number in range(100):
            retained.set(Publish(f"{number}" + "/a" * 199, b"1", 0, True), ONE)
        self.assertEqual((len(retained), retained.refused), (8, 92))
        for number in range(8):
            retained.clear(f"{number}" + "/a" * 199)
        self.assertEqual((len(retained), retained.bytes), (0, 0))
        for number in range(8):  # and the room of their levels is free again
            retained.set(Publish(f"{number}" + "/a" * 199, b"1", 0, True), ONE)
        self.assertEqual((len(retained), retained.refused), (8, 92))

    def test_an_empty_payload_clears_and_leaves_nothing(self) -> None:
        """row 44 [MQTT-3.3.1-10] [MQTT-3.3.1-11]"""
        retained = RetainedMessages(10, 100)
        retained.set(Publish("a/b/c", b"1", 0, True), ONE)
        retained.set(Publish("a/b/c", b"", 0, True), ONE)
        retained.set(Publish("never", b"", 0, True), ONE)
        self.assertEqual((len(retained), retained.bytes), (0, 0))
        self.assertEqual(objects_kept(retained), objects_kept(RetainedMessages(10, 100)))


class Refused(SynchronousTestCase):
    def test_what_there_is_no_room_for_is_delivered_and_said(self) -> None:
        """Row 42."""
        lines = observe_lines(self)
        harness = BrokerHarness(limits=Limits(max_retained_messages=1))
        client = harness.connect("one")
        client.subscribe("#")
        for topic in ("a", "b"):
            client.publish(topic, b"x", retain=True)
        self.assertEqual(client.received(), [Publish("a", b"x"), Publish("b", b"x")])
        self.assertEqual(len(harness.broker.retained), 1)
        [line] = [line for line in lines if "max_retained_messages" in line]
        self.assertIn("not kept, what 127.0.0.1", line)
