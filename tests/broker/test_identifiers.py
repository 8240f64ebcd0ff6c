"""Subscription Identifiers: a client of MQTT 5 is told which of its Subscriptions a message is for."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.records import IDENTIFIER
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.mqtt.packets import (
    Packet,
    Properties,
    Puback,
    Publish,
    PublishProperties,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from platziverse.mqtt.topics import matches
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.broker.durability import DurableCase

MOST = 268_435_455


def subscribe(client: FakeClient, identifier: int, *topic_filters: str, qos: int = 1) -> list[Packet]:
    """Subscribe with a Subscription Identifier, or with 0 without one; return what comes behind SUBACK."""
    asked = Properties(subscription_identifier=identifier) if identifier else None
    client.send(Subscribe(1, [Subscription(name, qos) for name in topic_filters], asked))
    return client.received()[1:]


def identifiers(packets: list[Packet]) -> list[tuple[bytes, tuple[int, ...]]]:
    """Payload and Subscription Identifiers, in order, of each message."""
    found = []
    for packet in packets:
        assert isinstance(packet, Publish), packet
        there = packet.properties.subscription_identifiers if packet.properties is not None else ()
        found.append((packet.payload, tuple(sorted(there))))
    return found


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.sender = self.harness.connect("sender")

    def connect(self, client_id: str = "five", **fields: Any) -> FakeClient:
        return self.harness.connect(client_id, protocol_level=5, **fields)

    def publish(self, payload: bytes, qos: int = 1, topic: str = "a/b", **more: Any) -> None:
        self.sender.publish(topic, payload, qos, 1 if qos else None, **more)
        self.sender.received()


class Live(Case):
    def test_one_copy_has_the_identifiers_of_all_that_match(self) -> None:
        """At each QoS; equal ones as often as they were given. [MQTT5-3.3.4-3] [MQTT5-3.3.4-4]"""
        client = self.connect()
        subscribe(client, 1, "a/#", "a/+", qos=2)
        subscribe(client, MOST, "a/b", "other", qos=2)
        subscribe(client, 0, "#", qos=2)
        for qos in (0, 1, 2):
            self.publish(b"x", qos)
            self.assertEqual(identifiers(client.received()), [(b"x", (1, 1, MOST))])

    def test_others_get_the_same_bytes_as_before(self) -> None:
        plain, older, five = self.connect("plain"), self.harness.connect("older"), self.connect()
        older.subscribe("a/b", 1)
        subscribe(plain, 0, "a/b")
        subscribe(five, 7, "a/b")
        subscribe(five, 0, "c")
        for qos in (0, 1):
            self.publish(b"x", qos)
            for client in (plain, older):
                [packet] = client.received()
                self.assertEqual(packet, Publish("a/b", b"x", qos, packet_id=1 if qos else None))
            self.assertEqual(identifiers(five.received()), [(b"x", (7,))])
        self.publish(b"y", topic="c")
        self.assertEqual(identifiers(five.received()), [(b"y", ())])

    def test_the_properties_of_a_message_come_with_it(self) -> None:
        client, sender = self.connect(), self.connect("sender5")
        subscribe(client, 300, "t")
        pairs = tuple((f"name {number}", "value") for number in range(20))  # more than 127 bytes
        for given_ in (PublishProperties(content_type="x"), PublishProperties(user_properties=pairs)):
            sender.publish("t", b"x", 1, 1, properties=given_)
            [packet] = client.received()
            assert isinstance(packet, Publish)
            assert packet.properties is not None
            self.assertEqual(packet.properties.subscription_identifiers, (300,))
            self.assertEqual(packet.properties.content_type, given_.content_type)
            self.assertEqual(packet.properties.user_properties, given_.user_properties)

    def test_the_same_filter_again_replaces_the_identifier(self) -> None:
        """With another one, and without. [MQTT5-3.8.4-3]"""
        client = self.connect()
        for identifier, expected in ((1, (1,)), (2, (2,)), (0, ()), (3, (3,))):
            subscribe(client, identifier, "a/b")
            self.publish(b"x")
            self.assertEqual(identifiers(client.received()), [(b"x", expected)])
        client.send(Unsubscribe(1, ["a/b"]))
        subscribe(client, 4, "a/+")
        client.received()
        self.publish(b"x")
        self.assertEqual(identifiers(client.received()), [(b"x", (4,))])

    def test_a_retained_message_has_the_identifier_of_what_has_brought_it(self) -> None:
        """Each Subscription brings a copy of its own. [MQTT5-3.3.4-5]"""
        client = self.connect()
        for qos in (0, 1):
            self.publish(b"kept", qos, retain=True)
            subscribe(client, 0, "#")
            client.received()
            for identifier, topic_filter in ((1, "a/#"), (2, "a/b"), (0, "+/b"), (3, "#")):
                packets = subscribe(client, identifier, topic_filter)
                self.harness.advance(0.1)
                packets += client.received()
                given_ = [one.packet_id for one in packets if isinstance(one, Publish)]
                client.send(*(Puback(packet_id) for packet_id in given_ if packet_id is not None))
                expected = (identifier,) if identifier else ()
                self.assertEqual(identifiers(packets), [(b"kept", expected)])

    def test_a_packet_that_they_make_too_large_is_not_sent(self) -> None:
        """[MQTT5-3.1.2-24]"""
        for qos, fits in ((0, 24), (1, 22)):  # two bytes less, for the Packet Identifier
            client = self.connect(properties=Properties(maximum_packet_size=40))
            subscribe(client, MOST, "a/b")
            for size in (fits + 3, fits + 4):
                self.publish(bytes(size), qos)
            self.assertEqual([len(payload) for payload, _ in identifiers(client.received())], [fits + 3])
        self.assertEqual(self.harness.broker.traffic.publish_too_large, 2)


class Kept(Case):
    def test_what_waits_has_those_that_there_are_when_it_is_sent(self) -> None:
        """Also what is sent again with DUP, and through more than one connection."""
        kept = Properties(session_expiry_interval=100)
        client = self.connect(properties=kept)
        subscribe(client, 5, "a/b")
        self.publish(b"1")
        self.assertEqual(identifiers(client.received()), [(b"1", (5,))])
        client.lose()
        self.publish(b"2")
        client = self.connect(clean_session=False, properties=kept)
        self.assertEqual(identifiers(client.connack[1:]), [(b"1", (5,)), (b"2", (5,))])
        client.send(Puback(1), Puback(2))
        subscribe(client, 6, "a/#")
        self.publish(b"3")
        self.assertEqual(identifiers(client.received()), [(b"3", (5, 6))])

    def test_an_older_client_of_the_same_session_gets_none(self) -> None:
        client = self.connect(properties=Properties(session_expiry_interval=100))
        subscribe(client, 5, "a/b")
        client.lose()
        older = self.harness.connect("five", clean_session=False)
        self.publish(b"1")
        self.assertEqual(older.received(), [Publish("a/b", b"1", 1, packet_id=1)])


class Restored(DurableCase):
    def test_identifiers_survive_with_their_session(self) -> None:
        """Of what was stored before, of what comes after, and of Retained Messages that are owed."""
        kept = Properties(session_expiry_interval=100)
        client = self.harness.connect("receiver", protocol_level=5, clean_session=False, properties=kept)
        subscribe(client, 9, "t", "u")
        subscribe(client, 0, "#")
        client.lose()
        self.publish(b"stored")
        self.harness.advance(0.1)
        self.start()
        client = self.harness.connect("receiver", protocol_level=5, clean_session=False, properties=kept)
        self.assertEqual(identifiers(client.connack[1:]), [(b"stored", (9,))])
        self.publish(b"live")
        self.assertEqual(identifiers(client.received()), [(b"live", (9,))])
        self.publish(b"kept", topic="u/v", packet_id=2)
        self.assertEqual(identifiers(client.received()), [(b"kept", ())])

    def test_a_durable_session_writes_them_from_the_first_subscription_on(self) -> None:
        kept = Properties(session_expiry_interval=100)
        client = self.harness.connect("receiver", protocol_level=5, properties=kept)
        subscribe(client, 0, "t")
        self.publish(b"1")
        subscribe(client, 1, "t")
        client.received()
        self.publish(b"2", packet_id=2)
        self.assertEqual(identifiers(client.received()), [(b"2", (1,))])

    def test_retained_messages_of_a_durable_session_say_what_has_brought_them(self) -> None:
        self.publisher.publish("t", b"kept", 1, 1, retain=True)
        kept = Properties(session_expiry_interval=100)
        client = self.harness.connect("receiver", protocol_level=5, properties=kept)
        subscribe(client, 1, "#")
        packets = subscribe(client, 2, "t")
        self.assertEqual(identifiers(packets), [(b"kept", (2,))])
        client.lose()
        self.harness.advance(0.1)
        self.start()
        client = self.harness.connect("receiver", protocol_level=5, clean_session=False, properties=kept)
        self.assertEqual(sorted(identifiers(client.connack[1:])), [(b"kept", (1,)), (b"kept", (2,))])


class Many(SynchronousTestCase):
    def test_a_client_may_have_very_many_that_match(self) -> None:
        """Row 517: they are looked up once for a Topic Name, however long it is, not for each receiver."""
        harness = BrokerHarness()
        topic = "/".join(["level"] * 9 + ["x" * 300])
        names = topic.split("/")
        filters = [
            "/".join("+" if number >> place & 1 else name for place, name in enumerate(names))
            for number in range(1 << 9)
        ]
        clients = [harness.connect(f"c{number}", protocol_level=5) for number in range(3)]
        for client in clients:
            subscribe(client, MOST, *filters, qos=0)
            harness.turn()
        harness.connect("sender").publish(topic, b"x")
        harness.turn()
        for client in clients:
            [(_, there)] = identifiers(client.received())
            self.assertEqual(there, (MOST,) * len(filters))
        tree = harness.broker.subscriptions
        self.assertIs(tree.identifiers(topic), tree.identifiers(topic))


NAMES = st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=3)
FILTERS = st.one_of(NAMES, NAMES.map(lambda names: [*names, "#"])).map("/".join)
TOPICS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)


class Property(SynchronousTestCase):
    @given(
        st.dictionaries(st.tuples(st.sampled_from("xy"), FILTERS), st.integers(0, MOST), max_size=8),
        st.lists(TOPICS, min_size=1, max_size=3),
        st.data(),
    )
    def test_the_tree_finds_what_the_definition_says(
        self, there: dict[tuple[str, str], int], topics: list[str], data: st.DataObject
    ) -> None:
        tree: SubscriptionTree[str] = SubscriptionTree()
        for (holder, topic_filter), identifier in there.items():
            tree.add(topic_filter, holder, 1 | identifier << IDENTIFIER)
        for _ in range(2):
            for topic in topics:
                found = {holder: sorted(_decoded(each)) for holder, each in tree.identifiers(topic).items()}
                expected: dict[str, list[int]] = {}
                for (holder, topic_filter), identifier in there.items():
                    if identifier and matches(topic_filter, topic):
                        expected.setdefault(holder, []).append(identifier)
                self.assertEqual(found, {holder: sorted(each) for holder, each in expected.items()})
            if there:  # what is remembered does not outlive a Subscription
                gone = data.draw(st.sampled_from(sorted(there)))
                tree.remove(gone[1], gone[0])
                del there[gone]


def _decoded(properties: bytes) -> list[int]:
    found, at = [], 0
    while at < len(properties):
        assert properties[at] == 0x0B
        value, shift, at = 0, 0, at + 1
        while True:
            byte = properties[at]
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                break
        found.append(value)
    return found


class WithStore(SynchronousTestCase):
    def test_the_store_has_the_identifier_with_what_is_granted(self) -> None:
        store = MemorySessionStore()
        harness = BrokerHarness(sessions=store)
        harness.turn()
        asked = Properties(session_expiry_interval=100)
        client = harness.connect("five", protocol_level=5, properties=asked)
        subscribe(client, MOST, "t", qos=2)
        [stored] = self.successResultOf(store.sessions(0, 10))
        self.assertEqual(stored.subscriptions, {"t": 2 | MOST << IDENTIFIER})


class Later(Case):
    def test_a_client_that_has_messages_in_flight_gets_the_identifier_from_now_on(self) -> None:
        client = self.connect()
        subscribe(client, 0, "t")
        self.sender.publish("t", b"1", 1, 1)
        self.assertEqual(identifiers(client.received()), [(b"1", ())])
        subscribe(client, 7, "t")
        self.sender.publish("t", b"2", 1, 2)
        self.assertEqual(identifiers(client.received()), [(b"2", (7,))])
