"""What a broker tells of its clients to those who share them, and asks of them."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.session import Session
from platziverse.broker.sharing import Alone
from platziverse.broker.subscriptions import Match, SubscriptionTree
from platziverse.mqtt.packets import Publish, Suback, Subscribe, Subscription, Unsubscribe
from platziverse.testing import BrokerHarness, MemorySessionStore


class Others:
    """Other daemons: what they were told, and what was handed to them."""

    def __init__(self, harness: BrokerHarness) -> None:
        self.harness = harness
        self.routed: list[tuple[str, int]] = []
        self.told_of: list[str] = []
        self.waits: Deferred[object] | None = None

    def receivers(self, topic: str) -> "Match[Session]":
        return ((self.harness.broker.sessions.make("", False), 1 << 7),)

    def route(
        self, message: Publish, receivers: "Match[Session]", client: Client, more: object = True
    ) -> Answer:
        self.routed.append((message.topic, receivers[-1][1]))
        return self.harness.broker.router.route(message, receivers[:-1], client, more)

    def pass_on(self, run: Sequence[Publish], client: Client) -> int:
        return 0

    def route_retained(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        return self.route(message, receivers, client)

    def subscribed(self, session: Session, topic_filter: str) -> None:
        self.told_of.append(topic_filter)

    def unsubscribed(self, session: Session, topic_filter: str) -> None:
        self.told_of.remove(topic_filter)

    def told(self) -> Answer:
        return self.waits


def shared(harness: BrokerHarness) -> Others:
    others = Others(harness)
    harness.broker.share(others, others, Alone())
    return others


class SharingTests(SynchronousTestCase):
    def test_others_get_what_is_published_whoever_listens_here(self) -> None:
        harness = BrokerHarness()
        others, client = shared(harness), harness.connect("client")
        client.publish("nobody")
        client.subscribe("a")
        client.publish("a")
        client.publish("kept", b"x", retain=True)
        self.assertEqual([packet.topic for packet in client.received() if isinstance(packet, Publish)], ["a"])
        self.assertEqual(others.routed, [("nobody", 1 << 7), ("a", 1 << 7), ("kept", 1 << 7)])

    def test_others_know_each_subscription_once(self) -> None:
        harness = BrokerHarness()
        before = harness.connect("before")
        before.subscribe("before")
        others, client = shared(harness), harness.connect("client")
        for qos in (0, 1):
            client.send(Subscribe(1, [Subscription("a", qos), Subscription("b", qos)]))
        self.assertEqual(others.told_of, ["before", "a", "b"])
        client.send(Unsubscribe(1, ["b", "never"]))
        before.lose()
        self.assertEqual(others.told_of, ["a"])

    def test_suback_waits_for_the_others(self) -> None:
        harness = BrokerHarness()
        others, client = shared(harness), harness.connect("client")
        waits: Deferred[object] = Deferred()
        others.waits = waits
        self.assertEqual(client.subscribe("a"), [])
        waits.callback(None)
        self.assertEqual(client.received(), [Suback(1, [0])])

    def test_others_know_the_subscriptions_of_restored_sessions(self) -> None:
        store = MemorySessionStore()
        BrokerHarness(sessions=store).connect("client", clean_session=False).subscribe("a", 1)
        store.hold(reads=True)
        harness = BrokerHarness(sessions=store)
        others = shared(harness)
        self.assertEqual(others.told_of, [])
        store.resume()
        self.assertEqual(others.told_of, ["a"])

    def test_a_match_that_others_have_changed_is_made_again(self) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree()
        tree.add("a", "here", 1)
        more = {"a": (("there", 2),)}
        tree.extend(lambda topic: more.get(topic, ()))
        self.assertEqual(tree.match("a"), (("here", 1), ("there", 2)))
        more.clear()
        self.assertEqual(tree.match("a"), (("here", 1), ("there", 2)))
        tree.forget("a")
        self.assertEqual(tree.match("a"), (("here", 1),))

    def test_what_others_keep_is_kept_in_memory_alone(self) -> None:
        for store in (None, MemorySessionStore()):
            retained = BrokerHarness(sessions=store).broker.retained
            retained.take(Publish("a", b"x", 0, True), Client("other", 0))
            self.assertEqual([message.payload for message in retained.match("a")], [b"x"])
            self.assertEqual(store.records if store is not None else [], [])
