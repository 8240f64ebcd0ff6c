"""The $SYS topics, named and valued as Mosquitto's."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.sys import SysTopics
from platziverse.mqtt.packets import Disconnect, Publish, Pubrel, Suback
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.testing import BrokerHarness


class Figures(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.topics = SysTopics(self.harness.broker, self.harness.clock, "1.2.3", 10.0)

    def figures(self) -> dict[str, str]:
        client = self.harness.connect("reader")
        packets = client.subscribe("$SYS/#")
        self.assertEqual(packets[0], Suback(1, [0]))
        client.lose()
        return {
            packet.topic.removeprefix("$SYS/broker/"): packet.payload.decode()
            for packet in packets[1:]
            if isinstance(packet, Publish) and packet.retain
        }

    def test_figures_follow_the_broker(self) -> None:
        sender = self.harness.connect("sender")
        self.harness.connect("absent", clean_session=False).lose()
        sender.subscribe("t")
        for _ in range(30):
            sender.publish("t", b"12345")
        sender.received()
        self.topics.start()
        figures = self.figures()
        self.assertEqual(figures["version"], "platziverse version 1.2.3")
        self.assertEqual(figures["clients/connected"], "1")
        self.assertEqual(figures["clients/disconnected"], "1")
        self.assertEqual(figures["clients/total"], "2")
        self.assertEqual(figures["clients/protocol/3.1.1"], "1")
        self.assertEqual(figures["clients/protocol/5"], "0")
        self.assertEqual(figures["subscriptions/count"], "1")
        self.assertEqual(figures["publish/messages/received"], "30")
        self.assertEqual(figures["publish/messages/sent"], "30")
        self.assertEqual(figures["publish/bytes/received"], "150")
        self.assertEqual(figures["publish/bytes/sent"], "150")
        self.assertEqual(figures["messages/received"], "33")
        self.assertGreater(float(figures["load/publish/received/1min"]), 0)

    def test_refusals_are_counted_by_the_name_of_their_reason_code(self) -> None:
        client = self.harness.connect("five", protocol_level=5)
        client.subscribe("a/" + "b/" * 300 + "c")
        for packet_id in (1, 2):
            client.send(Pubrel(packet_id))
        client.send(Disconnect(ReasonCode.UNSPECIFIED_ERROR))
        self.topics.start()
        figures = self.figures()
        self.assertEqual(figures["refusals/server/packet_identifier_not_found"], "2")
        self.assertEqual(figures["refusals/client/unspecified_error"], "1")
        self.assertEqual(figures["refusals/server/topic_filter_invalid"], "1")

    def test_retained_messages_are_counted_as_sent(self) -> None:
        client = self.harness.connect("one")
        for qos, topic in enumerate(("a", "b", "c")):
            client.publish(topic, b"12345", qos, 1 if qos else None, retain=True)
        client.subscribe("+", 2)
        traffic = self.harness.broker.traffic
        self.assertEqual((traffic.publish_sent, traffic.publish_bytes_sent), ([1, 1, 1], [5, 5, 5]))
        self.assertEqual(traffic.publish_dropped, 0)

    def test_only_what_has_changed_is_published_again(self) -> None:
        watcher = self.harness.connect("watcher")
        self.topics.start()
        watcher.subscribe("$SYS/broker/uptime")
        watcher.received()
        self.harness.advance(10)
        self.assertEqual([packet.payload for packet in watcher.received()], [b"10 seconds"])  # type: ignore[union-attr]
        watcher.subscribe("$SYS/broker/version")
        watcher.received()
        self.harness.advance(10)
        self.assertEqual([packet.topic for packet in watcher.received()], ["$SYS/broker/uptime"])  # type: ignore[union-attr]

    def test_the_interval_0_switches_them_off(self) -> None:
        SysTopics(self.harness.broker, self.harness.clock, "1", 0).start()
        self.assertEqual(len(self.harness.broker.retained), 0)
        self.topics.start()
        self.topics.stop()
