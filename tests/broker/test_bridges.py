"""Bridges: other brokers that are clients of this one, as Mosquitto is by default."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Puback, Publish, Pubrec
from platziverse.testing import BrokerHarness, FakeClient
from tests.broker.test_access import Rules
from tests.logs import observe_log

ACCEPTED = Connack(False, ConnectReturnCode.ACCEPTED)
STATE = "$SYS/broker/connection/edge/state"


class Bridges(SynchronousTestCase):
    """Row 270."""

    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.bridge = self.connect()

    def connect(self, **fields: Any) -> FakeClient:
        bridge = self.harness.connect("edge", bridge=True, **fields)
        bridge.subscribe("#", 2)
        return bridge

    def test_none_of_its_own_messages_come_back_to_it_and_all_of_them_to_others(self) -> None:
        other = self.harness.connect("other")
        other.subscribe("#", 2)
        for qos, retain in ((0, False), (1, False), (2, False), (0, True), (1, True)):
            self.bridge.publish("t", b"x", qos, qos or None, retain=retain)
        acknowledged = [Puback(1), Pubrec(2), Puback(1)]
        self.assertEqual(self.bridge.received(), acknowledged)
        self.assertEqual(len(other.received()), 5)

    def test_any_other_client_gets_its_own_messages(self) -> None:
        client = self.harness.connect("client")
        client.subscribe("#", 1)
        client.publish("t", b"x")
        self.assertEqual(client.received(), [Publish("t", b"x")])

    def test_messages_that_are_kept_come_as_they_were_published(self) -> None:
        """With RETAIN, also the empty ones that clear; so the other broker keeps and clears them too."""
        plain, client = self.harness.connect("plain"), self.harness.connect("client")
        plain.subscribe("#", 1)
        client.publish("t", b"x", 0, retain=True)
        client.publish("t", b"y", 1, 1, retain=True)
        client.publish("t", b"", 0, retain=True)
        client.publish("t", b"z")
        got = [(each.payload, each.retain) for each in self.bridge.received() if type(each) is Publish]
        self.assertEqual(got, [(b"x", True), (b"y", True), (b"", True), (b"z", False)])
        got = [(each.payload, each.retain) for each in plain.received() if type(each) is Publish]
        self.assertEqual(got, [(b"x", False), (b"y", False), (b"", False), (b"z", False)])

    def test_what_the_server_says_itself_comes_as_it_was_published(self) -> None:
        self.bridge.subscribe("$SYS/#")
        self.harness.broker.announce("$SYS/broker/version", b"1", retain=True)
        self.harness.broker.announce("$SYS/broker/once", b"1")
        expected = [Publish("$SYS/broker/version", b"1", retain=True), Publish("$SYS/broker/once", b"1")]
        self.assertEqual(self.bridge.received(), expected)

    def test_messages_that_wait_for_it_are_marked_and_its_own_will_is_not_among_them(self) -> None:
        self.connect(clean_session=False, will=Publish("will", b"x", 1)).lose()
        client = self.harness.connect("client")
        client.publish("t", b"x", 1, 1, retain=True)
        again = self.harness.connect("edge", clean_session=False, bridge=True)
        got = again.connack[1:]
        self.assertEqual(got, [Publish("t", b"x", 1, retain=True, packet_id=1)])

    def test_of_the_retained_messages_it_gets_those_of_others(self) -> None:
        self.bridge.publish("own", b"x", retain=True)
        self.harness.connect("client").publish("other", b"x", retain=True)
        self.bridge.received()
        self.assertEqual(self.bridge.subscribe("#")[1:], [Publish("other", b"x", retain=True)])

    def test_rules_hold_for_it_as_well(self) -> None:
        rules = Rules()
        self.harness = BrokerHarness(authority=rules)
        bridge = self.connect()
        rules.deaf.add("edge")
        self.harness.connect("client").publish("t", b"x", retain=True)
        self.assertEqual(bridge.received(), [])


class Notifications(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[Any] = []
        observe_log(self, self.events.append)

    def test_what_bridges_say_of_themselves_is_acknowledged_counted_and_goes_nowhere(self) -> None:
        """Row 270: any number of times, and without a line."""
        harness = BrokerHarness(limits=Limits(max_denied_publishes=5))
        watcher = harness.connect("watcher")
        watcher.subscribe("$SYS/#")
        bridge = harness.connect("edge", bridge=True, will=Publish(STATE, b"0", 1, retain=True))
        self.assertEqual(bridge.connack, [ACCEPTED])
        for number in range(1, 11):
            bridge.publish(STATE, b"1", 1, number, retain=True)
        self.assertEqual(bridge.received(), [Puback(number) for number in range(1, 11)])
        bridge.lose()
        traffic = harness.broker.traffic
        self.assertEqual((traffic.bridge_notifications, traffic.publish_denied), (11, 0))
        self.assertEqual((watcher.received(), len(harness.broker.retained), self.events), ([], 0, []))

    def test_a_will_on_a_topic_of_the_servers_own_is_ignored_when_it_is_due(self) -> None:
        """Row 271: CONNECT is not refused for it, and it is counted and logged as a PUBLISH would be."""
        for topic in ("$SYS/broker/uptime", "$anything", "agent/disconnected"):
            harness = BrokerHarness()
            watcher = harness.connect("watcher")
            watcher.subscribe("#")
            watcher.subscribe(topic)
            client = harness.connect("one", will=Publish(topic, b"x", retain=True))
            self.assertEqual(client.connack, [ACCEPTED])
            client.lose()
            self.assertEqual((watcher.received(), len(harness.broker.retained)), ([], 0))
            self.assertEqual(harness.broker.traffic.publish_denied, 1)
        self.assertEqual(len(self.events), 3)
