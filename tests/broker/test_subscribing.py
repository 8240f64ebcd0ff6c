"""SUBSCRIBE and UNSUBSCRIBE, and the Retained Messages that follow."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Disconnect,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.testing import BrokerHarness


class Subscribing(SynchronousTestCase):
    def test_retained_messages_outlive_the_session_of_their_publisher(self) -> None:
        """[MQTT-3.1.2-7]"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        sender.publish("t", b"kept", retain=True)
        sender.send(Disconnect())
        harness.connect("sender")
        self.assertEqual(harness.connect("one").subscribe("t")[1:], [Publish("t", b"kept", 0, True)])

    def test_pubrels_leave_in_the_order_of_their_pubrecs(self) -> None:
        """[MQTT-4.6.0-4]"""
        client = BrokerHarness().connect()
        client.subscribe("t", 2)
        for number in range(1, 6):
            client.publish("t", b"", 2, number)
        client.received()
        client.send(*(Pubrec(number) for number in (3, 1, 5, 2, 4)))
        self.assertEqual(client.received(), [Pubrel(number) for number in (3, 1, 5, 2, 4)])

    def test_suback_answers_every_filter_in_order(self) -> None:
        """[MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1]"""
        client = BrokerHarness().connect()
        filters = [
            Subscription("a", 2),
            Subscription("$share/+/t", 1),
            Subscription("b/#", 1),
            Subscription("c", 0),
        ]
        client.send(Subscribe(10, filters))
        self.assertEqual(client.received(), [Suback(10, [2, 0x80, 1, 0])])

    def test_too_many_subscriptions_are_refused(self) -> None:
        """row 48"""
        client = BrokerHarness(limits=Limits(max_subscriptions=2)).connect()
        client.send(Subscribe(1, [Subscription(name, 0) for name in "abc"]))
        self.assertEqual(client.received(), [Suback(1, [0, 0, 0x80])])
        self.assertEqual(client.subscribe("a", 1), [Suback(1, [1])])

    def test_the_levels_of_all_subscriptions_together_are_limited(self) -> None:
        """Rows 34, 48: a level takes some hundred bytes, a slash in a filter one."""
        client = BrokerHarness(limits=Limits(max_subscriptions=100)).connect()
        deep = [Subscription(f"{number}" + "/a" * 198 + "/+", 0) for number in range(10)]
        client.send(Subscribe(1, deep))
        self.assertEqual(client.received(), [Suback(1, [0] * 8 + [0x80] * 2)])
        client.send(Unsubscribe(2, [deep[0].topic_filter]), Subscribe(3, deep[8:]))
        self.assertEqual(client.received(), [Unsuback(2), Suback(3, [0, 0x80])])

    def test_a_packet_with_ever_so_many_filters_closes(self) -> None:
        """Row 48."""
        for packet in (Subscribe(1, [Subscription("a", 0)] * 10_001), Unsubscribe(1, ["a"] * 10_001)):
            client = BrokerHarness().connect()
            client.send(packet)
            self.assertTrue(client.closed)
        client = BrokerHarness().connect()
        client.send(Subscribe(1, [Subscription("a", 0)] * 10_000))
        self.assertEqual(client.received(), [Suback(1, [0] * 1000 + [0x80] * 9000)])

    def test_too_deep_a_filter_is_refused(self) -> None:
        """row 34"""
        client = BrokerHarness().connect()
        self.assertEqual(client.subscribe("/" * 65_535), [Suback(1, [0x80])])
        self.assertEqual(client.subscribe("/".join(["a"] * 200)), [Suback(1, [0])])

    def test_overlapping_filters_bring_a_message_once_at_the_highest_qos(self) -> None:
        """[MQTT-3.3.5-1]"""
        client = BrokerHarness().connect()
        client.send(Subscribe(1, [Subscription("t/#", 0), Subscription("t/+", 2), Subscription("t/a", 1)]))
        client.received()
        client.publish("t/a", b"x", 2, 1)
        self.assertEqual(client.received(), [Pubrec(1), Publish("t/a", b"x", 2, packet_id=1)])

    def test_subscribing_again_replaces_and_brings_the_retained_message_again(self) -> None:
        """row 49 [MQTT-3.8.4-3]"""
        harness = BrokerHarness()
        client = harness.connect()
        client.publish("t", b"kept", 1, 1, retain=True)
        client.received()
        self.assertEqual(client.subscribe("t", 0), [Suback(1, [0]), Publish("t", b"kept", 0, True)])
        self.assertEqual(
            client.subscribe("t", 1), [Suback(1, [1]), Publish("t", b"kept", 1, True, packet_id=1)]
        )
        self.assertEqual(len(harness.broker.subscriptions), 1)

    def test_unsubscribing_compares_filters_exactly(self) -> None:
        """[MQTT-3.10.4-1] [MQTT-3.10.4-3] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]"""
        client = BrokerHarness().connect()
        client.subscribe("a/+")
        client.send(Unsubscribe(3, ["a/b", "a/#"]))
        client.publish("a/b", b"1")
        self.assertEqual(client.received(), [Unsuback(3), Publish("a/b", b"1")])
        client.send(Unsubscribe(4, ["a/+", "nothing"]))
        client.publish("a/b", b"2")
        self.assertEqual(client.received(), [Unsuback(4)])

    def test_row_212_a_topic_filter_twice_in_one_subscribe_brings_the_retained_message_once(self) -> None:
        """Row 212: it is one Subscription, with the QoS that came last. [MQTT-3.8.4-3] [MQTT-3.8.4-4]"""
        harness = BrokerHarness()
        harness.connect("sender").publish("t", b"kept", retain=True)
        client = harness.connect("one")
        client.send(Subscribe(1, [Subscription("t", 0), Subscription("t", 0)]))
        self.assertEqual(client.received(), [Suback(1, [0, 0]), Publish("t", b"kept", 0, True)])

    def test_live_messages_are_not_marked_retained(self) -> None:
        """[MQTT-3.3.1-8] [MQTT-3.3.1-9]"""
        client = BrokerHarness().connect()
        client.subscribe("t")
        client.publish("t", b"1", retain=True)
        self.assertEqual(client.received(), [Publish("t", b"1")])

    def test_the_servers_own_topics_are_ignored_with_ack(self) -> None:
        """rows 36 and 37"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(Subscribe(1, [Subscription("#", 0), Subscription("$SYS/#", 0), Subscription("$foo", 0)]))
        client.received()
        for number, topic in enumerate(("$SYS/x", "$foo", "agent/connected", "agent/disconnected"), 1):
            client.publish(topic, b"forged", 1, number, retain=True)
        self.assertEqual(client.received(), [Puback(1), Puback(2), Puback(3), Puback(4)])
        self.assertEqual((len(harness.broker.retained), harness.broker.traffic.publish_denied), (0, 4))

    def test_ever_so_many_retained_messages_hold_up_nobody(self) -> None:
        """Rows 42, 49: in turns, and once for the same filter."""
        harness = BrokerHarness()
        sender, greedy = harness.connect("sender"), harness.connect("greedy")
        for number in range(1000):
            sender.publish(f"t/{number}", b"x", retain=True)
            harness.turn()
        greedy.send(Subscribe(1, [Subscription("#", 0)] * 900 + [Subscription("t/+", 0)] * 100))
        self.assertLessEqual(len(greedy.received()), 201)
        count, turns = 150, 0
        while found := greedy.received() or turns < 5:
            count += len(found) if isinstance(found, list) else 0
            turns += 1
            harness.turn()
        self.assertEqual((count, greedy.closed), (2000, False))

    def test_many_subscribes_in_one_turn_have_the_time_of_one(self) -> None:
        """Rows 42, 49."""
        harness = BrokerHarness()
        sender, greedy = harness.connect("sender"), harness.connect("greedy")
        sender.publish("t", b"x", retain=True)
        looked: list[str] = []
        match = harness.broker.retained.match

        def counted(name: str) -> object:
            looked.append(name)
            return match(name)

        self.patch(harness.broker.retained, "match", counted)
        greedy.send(*(Subscribe(1, [Subscription(f"+/{number}", 0)]) for number in range(99)))
        self.assertEqual(len(looked), 4)
        harness.turn()  # and those that follow it: a Clock knows no difference
        self.assertEqual(len(looked), 99)

    def test_a_retained_message_is_not_older_than_what_came_since(self) -> None:
        """[MQTT-3.3.1-6]"""
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        sender, client = harness.connect("sender"), harness.connect("one")
        for topic in "abc":
            sender.publish(topic, b"old", 1, 1, retain=True)
        client.subscribe("+", 1)
        sender.publish("a", b"new", 1, 1, retain=True)
        sender.publish("b", b"", 1, 1, retain=True)
        client.send(Puback(1))
        seen = []
        while packets := client.received():
            seen += [(p.topic, p.payload, p.retain) for p in packets if isinstance(p, Publish)]
            client.send(*(Puback(p.packet_id) for p in packets if isinstance(p, Publish) and p.packet_id))
        self.assertEqual(seen, [("a", b"new", False), ("b", b"", False), ("a", b"new", True)])

    def test_unsubscribing_ends_the_retained_messages(self) -> None:
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client = harness.connect("one")
        for topic in ("a/1", "a/2", "a/3", "b"):
            client.publish(topic, b"x", 1, 1, retain=True)
        client.received()
        client.send(Subscribe(1, [Subscription("a/+", 1), Subscription("b", 1)]))
        client.send(Unsubscribe(2, ["a/+"]), Puback(1))
        self.assertEqual(client.received()[-1], Publish("b", b"x", 1, True, packet_id=2))

    def test_a_session_gets_the_rest_of_the_retained_messages_when_it_is_back(self) -> None:
        """[MQTT-3.1.2-5]"""
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client = harness.connect("one", clean_session=False)
        for topic in ("a", "b"):
            client.publish(topic, b"x", 1, 1, retain=True)
        client.subscribe("+", 1)
        client.lose()
        back = harness.connect("one", clean_session=False)
        again = back.connack[1]
        assert isinstance(again, Publish)
        back.send(Puback(1))
        [last] = back.received()
        assert isinstance(last, Publish)
        self.assertEqual((again.dup, last.dup, {again.topic, last.topic}), (True, False, {"a", "b"}))

    def test_retained_messages_wait_for_a_slow_client(self) -> None:
        """rows 42 and 49"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        for number in range(2000):
            sender.publish(f"t/{number}", b"x" * 100, retain=True)
            harness.turn()
        client = harness.connect("one")
        client.stop_reading()
        client.subscribe("t/#")
        client.read_again()
        harness.turn()
        packets = client.received()
        self.assertEqual(len([packet for packet in packets if isinstance(packet, Publish)]), 2000)
