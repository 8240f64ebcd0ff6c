"""What the broker asks of its Authority, and what it does with the answer."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Puback, Publish, Suback
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH, CACHED_TOPICS
from platziverse.testing import BrokerHarness, FakeClient, OpenAuthority
from tests.logs import observe_lines


class Rules(OpenAuthority):
    """Client Identifiers that may not publish, subscribe or receive; changed by the test."""

    restricts = True

    def __init__(self) -> None:
        self.mute: set[str] = set()
        self.mute_topics: set[str] = set()
        self.blind: set[str] = set()
        self.deaf: set[str] = set()

    def may_publish(self, client: Client, topic: str) -> bool:
        if topic in self.mute_topics:
            return False
        return client.client_id not in self.mute and super().may_publish(client, topic)

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        return client.client_id not in self.blind

    def may_receive(self, client: Client, topic: str) -> bool:
        return client.client_id not in self.deaf


class Reserving(OpenAuthority):
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reserved(self, topic: str) -> bool:
        self.asked.append(topic)
        return super().reserved(topic)


class Reserved(SynchronousTestCase):
    def test_whose_a_topic_is_is_asked_once(self) -> None:
        """Row 53: the answers for so many Topic Names are remembered, and no more."""
        authority = Reserving()
        client = BrokerHarness(authority=authority).connect("one")
        for topic in ("t", "$SYS/x", "t", "$SYS/x"):
            client.publish(topic, b"")
        self.assertEqual(authority.asked, ["t", "$SYS/x"])
        for _ in range(2):
            client.publish("x" * (CACHED_TOPIC_LENGTH + 1), b"")
        self.assertEqual(len(authority.asked), 4)
        for number in range(CACHED_TOPICS):
            client.publish(f"t/{number}", b"")
        client.publish("t", b"")
        self.assertEqual(authority.asked[-1], "t")


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.rules = Rules()
        self.harness = BrokerHarness(authority=self.rules)

    def test_a_denied_publish_is_acknowledged_counted_and_logged(self) -> None:
        """row 41 [MQTT-3.3.5-2]"""
        self.rules.mute.add("mute")
        mute, other = self.harness.connect("mute"), self.harness.connect("other")
        other.subscribe("#", 1)
        mute.publish("t", b"x", 1, 7, retain=True)
        mute.publish("t", b"x", 2, 8)
        self.assertEqual(mute.received()[0], Puback(7))
        self.assertEqual(other.received(), [])
        self.assertEqual(
            (self.harness.broker.traffic.publish_denied, len(self.harness.broker.retained)), (2, 0)
        )
        self.assertFalse(mute.closed)

    def test_row_262_a_line_about_a_denied_client_has_its_user_name(self) -> None:
        self.rules.mute.add("mute")
        self.rules.blind.add("mute")
        lines = observe_lines(self)
        mute = self.harness.connect("mute", username="ana")
        mute.publish("t", b"x")
        mute.subscribe("#")
        self.assertEqual(
            lines,
            [
                f"Ignored what {mute.protocol.address} 'mute', user 'ana', published to 't': not allowed",
                f"Refused {mute.protocol.address} 'mute', user 'ana', to subscribe to '#': not allowed",
            ],
        )

    def denied(self, client: FakeClient, messages: int) -> None:
        client.send(*[Publish("t", b"x", 1, packet_id=number) for number in range(1, messages + 1)])
        self.harness.turn()

    def test_after_too_many_denied_publishes_the_connection_is_closed_and_no_other(self) -> None:
        """Row 41: with the thousandth of one connection; each of them has been acknowledged."""
        self.rules.mute.add("mute")
        other = self.harness.connect("other")
        other.subscribe("will")
        mute = self.harness.connect("mute", clean_session=False)
        for _ in range(9):
            self.denied(mute, 100)
        self.denied(mute, 99)
        self.assertFalse(mute.closed)
        self.denied(mute, 2)  # what comes in the same turn is acknowledged too
        self.assertTrue(mute.closed)
        acknowledged = mute.received()
        self.assertEqual((len(acknowledged), acknowledged[-1]), (1001, Puback(2)))
        self.assertFalse(other.closed)
        cause = "too many publishes that are not allowed"
        self.assertEqual(self.harness.broker.traffic.protocol_errors, {cause: 1})

    def test_the_next_connection_of_the_session_begins_anew(self) -> None:
        """Row 41"""
        self.rules.mute.add("mute")
        for _ in range(3):
            mute = self.harness.connect("mute", clean_session=False)
            for _ in range(9):
                self.denied(mute, 100)
            self.assertFalse(mute.closed)
            mute.lose()

    def test_its_will_is_published_once(self) -> None:
        """Row 41 [MQTT-3.1.2-8]"""
        harness = BrokerHarness(limits=Limits(max_denied_publishes=1), authority=self.rules)
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        mute = harness.connect("mute", will=Publish("will", b"gone", 0))
        self.rules.mute_topics.add("t")
        mute.publish("t")
        harness.turn()
        self.assertTrue(mute.closed)
        self.assertEqual(watcher.received(), [Publish("will", b"gone", 0)])
        mute = harness.connect("mute", will=Publish("will", b"gone", 0))
        self.rules.mute_topics.add("will")
        mute.lose()  # a Will that is not allowed any more counts for nobody
        self.assertEqual((watcher.received(), harness.broker.traffic.internal_errors), ([], 0))

    def test_zero_is_any_number_of_denied_publishes(self) -> None:
        """Row 41"""
        harness = BrokerHarness(limits=Limits(max_denied_publishes=0), authority=self.rules)
        self.rules.mute.add("mute")
        mute = harness.connect("mute")
        for _ in range(50):
            mute.send(*[Publish("t", b"x", 0)] * 100)
            harness.turn()
        self.assertFalse(mute.closed)
        self.assertEqual(harness.broker.traffic.publish_denied, 5000)

    def test_a_denied_subscription_is_refused(self) -> None:
        """row 50"""
        self.rules.blind.add("blind")
        self.assertEqual(self.harness.connect("blind").subscribe("#"), [Suback(1, [0x80])])

    def test_rights_taken_away_end_the_deliveries_of_old_subscriptions(self) -> None:
        """row 52"""
        reader, sender = self.harness.connect("reader"), self.harness.connect("sender")
        reader.subscribe("t", 1)
        self.rules.deaf.add("reader")
        sender.publish("t", b"x", 1, 1)
        self.assertEqual(reader.received(), [])
        self.rules.deaf.clear()
        sender.publish("t", b"y", 1, 2)
        self.assertEqual(len(reader.received()), 1)

    def test_rights_taken_away_end_the_delivery_of_what_waits(self) -> None:
        """Row 52: in the queue of an absent client, and behind a full window."""
        self.harness = BrokerHarness(authority=self.rules, limits=Limits(max_inflight=1))
        reader, sender = self.harness.connect("reader", clean_session=False), self.harness.connect("sender")
        reader.subscribe("t", 1)
        sender.publish("t", b"1", 1, 1)
        sender.publish("t", b"2", 1, 2)
        [first] = reader.received()
        self.rules.deaf.add("reader")
        reader.send(Puback(1))
        self.assertEqual((first, reader.received()), (Publish("t", b"1", 1, packet_id=1), []))
        self.rules.deaf.clear()
        reader.lose()
        sender.publish("t", b"3", 1, 3)
        self.rules.deaf.add("reader")
        self.assertEqual(self.harness.connect("reader", clean_session=False).connack[1:], [])

    def test_retained_messages_that_wait_are_asked_for_again(self) -> None:
        """Row 52."""
        self.harness = BrokerHarness(authority=self.rules, limits=Limits(max_inflight=1))
        for topic in ("a", "b"):
            self.harness.connect("sender").publish(topic, b"kept", 1, 1, retain=True)
        reader = self.harness.connect("reader")
        self.assertEqual(len(reader.subscribe("+", 1)), 2)
        self.rules.deaf.add("reader")
        reader.send(Puback(1))
        self.assertEqual(reader.received(), [])

    def test_a_retained_message_is_not_sent_once_its_publisher_may_not_publish_it(self) -> None:
        """row 43"""
        self.harness.connect("sender").publish("t", b"kept", retain=True)
        reader = self.harness.connect("reader")
        self.assertEqual(reader.subscribe("t")[1:], [Publish("t", b"kept", 0, True)])
        self.rules.mute.add("sender")
        self.assertEqual(reader.subscribe("t")[1:], [])

    def test_the_brokers_own_retained_messages_stay(self) -> None:
        self.harness.broker.announce("$SYS/x", b"1", retain=True)
        self.assertEqual(len(self.harness.connect("reader").subscribe("$SYS/#")), 2)
