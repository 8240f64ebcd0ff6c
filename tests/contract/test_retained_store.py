"""What every RetainedStore does; one more subclass for each further one."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.trial.unittest import TestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.ports import RetainedStore
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.retaining import DurableRetained
from platziverse.mqtt.packets import Publish
from platziverse.testing import MemorySessionStore

ONE, OTHER = Client("one", 1), Client("other", 2)


class RetainedStoreContract:
    """Mixed into a TestCase that makes a ``store`` with room for 3 messages of 20 bytes in all."""

    store: RetainedStore
    assertEqual: Callable[..., None]
    assertRaises: Callable[..., Any]

    def keep(self, *messages: tuple[str, bytes], by: Client = ONE) -> "Deferred[Any]":
        return DeferredList(
            [maybeDeferred(self.store.set, Publish(topic, payload, 1), by) for topic, payload in messages]
        )

    def kept(self, topic_filter: str = "#") -> dict[str, bytes]:
        return {message.topic: message.payload for message in self.store.match(topic_filter)}

    def test_the_last_message_of_a_topic_is_kept_with_its_publisher(self) -> "Deferred[Any]":
        """[MQTT-3.3.1-5] [MQTT-3.3.1-7]"""

        def again(_: object) -> "Deferred[Any]":
            return self.keep(("a", b"3"), by=OTHER)

        def check(_: object) -> None:
            self.assertEqual(self.kept(), {"a": b"3", "b": b"2"})
            message = self.store.get("a")
            self.assertEqual((message, len(self.store)), (Publish("a", b"3", 1, True), 2))
            self.assertEqual((self.store.publisher("a"), self.store.publisher("b")), (OTHER, ONE))
            self.assertEqual((self.store.bytes, self.store.refused), (4, 0))

        return self.keep(("a", b"1"), ("b", b"2")).addCallback(again).addCallback(check)

    def test_an_empty_message_clears(self) -> "Deferred[Any]":
        """[MQTT-3.3.1-10] [MQTT-3.3.1-11]"""

        def check(_: object) -> None:
            self.assertEqual((self.kept(), len(self.store), self.store.bytes), ({}, 0, 0))
            self.assertEqual(self.store.get("a"), None)
            self.assertRaises(KeyError, self.store.publisher, "a")

        return self.keep(("a", b"1"), ("a", b""), ("never", b"")).addCallback(check)

    def test_filters_match_as_the_standard_says(self) -> "Deferred[Any]":
        """[MQTT-4.7.2-1]"""

        def check(_: object) -> None:
            for topic_filter, names in (
                ("#", {"a", "a/b"}),
                ("+", {"a"}),
                ("a/#", {"a", "a/b"}),
                ("+/b", {"a/b"}),
                ("$S/#", {"$S"}),
                ("a", {"a"}),
                ("A", set()),
            ):
                self.assertEqual(set(self.kept(topic_filter)), names, topic_filter)
                self.assertEqual(self.store.may_match(topic_filter) or not names, True, topic_filter)

        return self.keep(("a", b"1"), ("a/b", b"2"), ("$S", b"3")).addCallback(check)

    def test_beyond_a_limit_nothing_is_kept_and_nothing_stale(self) -> "Deferred[Any]":
        def more(_: object) -> "Deferred[Any]":
            return self.keep(("d", b"4"), ("a", b"x" * 30))

        def check(_: object) -> None:
            self.assertEqual((self.kept(), self.store.refused), ({"b": b"2", "c": b"3"}, 2))

        return self.keep(("a", b"1"), ("b", b"2"), ("c", b"3")).addCallback(more).addCallback(check)


class InMemory(RetainedStoreContract, TestCase):
    def setUp(self) -> None:
        self.store = RetainedMessages(3, 20)


class Durable(RetainedStoreContract, TestCase):
    def setUp(self) -> None:
        self.store = DurableRetained(RetainedMessages(3, 20), MemorySessionStore())
