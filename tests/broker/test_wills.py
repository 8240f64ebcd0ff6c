"""Wills: published when a client is lost, discarded when it leaves."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Disconnect,
    Publish,
)
from platziverse.testing import BrokerHarness
from tests.net.doubles import Store


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
        client = BrokerHarness().connect("one", will=Publish("$SYS/broker/uptime", b"x"))
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.NOT_AUTHORIZED)])
        self.assertTrue(client.closed)
