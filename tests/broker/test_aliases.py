"""Topic Aliases for clients of MQTT 5 that take them."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Properties, Puback, Publish, Subscribe, Subscription
from platziverse.net.tracing import trace
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore

TOPIC = "sensors/temperature"


def said(client: FakeClient) -> list[tuple[str, int | None]]:
    """Topic Name and Topic Alias of each message."""
    return [
        (packet.topic, packet.properties.topic_alias if packet.properties is not None else None)
        for packet in client.received()
        if isinstance(packet, Publish)
    ]


class Aliases(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, **more: Any) -> None:
        self.harness = BrokerHarness(**more)
        self.publisher = self.harness.connect("publisher")

    def connect(self, client_id: str = "five", **properties: Any) -> FakeClient:
        asked = Properties(topic_alias_maximum=10, **properties)
        return self.harness.connect(client_id, protocol_level=5, clean_session=False, properties=asked)

    def publish(self, times: int, qos: int = 0, topic: str = TOPIC) -> None:
        for number in range(1, times + 1):
            self.publisher.publish(topic, b"x", qos, number if qos else None)

    def test_who_takes_some_gets_them_and_nobody_else(self) -> None:
        """[MQTT5-3.1.2-26] [MQTT5-3.1.2-27]"""
        other = self.harness.connect("other", protocol_level=5)
        older = self.harness.connect("older")
        for qos in (0, 1, 2):
            client = self.connect(f"five-{qos}")
            for each in (client, other, older):
                each.subscribe(TOPIC, qos)
            self.publish(3, qos)
            self.assertEqual(said(client), [(TOPIC, None), (TOPIC, 1), ("", 1)])
            self.assertEqual((said(other), said(older)), ([(TOPIC, None)] * 3,) * 2)
            client.lose()

    def test_no_more_than_the_setting_says(self) -> None:
        self.start(limits=Limits(topic_alias_maximum=1))
        client = self.connect()
        client.subscribe("#")
        self.publish(2)
        self.publish(2, topic="another")
        self.assertEqual(said(client), [(TOPIC, None), (TOPIC, 1), ("another", None), ("another", None)])
        self.start(limits=Limits(topic_alias_maximum=0))
        client = self.connect()
        client.subscribe("#")
        self.publish(3)
        self.assertEqual(said(client), [(TOPIC, None)] * 3)

    def test_they_end_with_the_connection_and_what_is_sent_again_has_its_name(self) -> None:
        """[MQTT5-3.3.2-7] Row 509."""
        for sessions in (None, MemorySessionStore()):
            self.start(sessions=sessions)
            client = self.connect(session_expiry_interval=100)
            client.subscribe(TOPIC, 1)
            self.publish(4, 1)
            self.harness.advance(1)
            self.assertEqual(said(client), [(TOPIC, None), (TOPIC, 1), ("", 1), ("", 1)])
            client.lose()
            again = self.connect(session_expiry_interval=100)
            packets = [packet for packet in again.connack if isinstance(packet, Publish)]
            self.assertEqual([packet.dup for packet in packets], [True] * 4)
            self.assertEqual([packet.topic for packet in packets], [TOPIC, TOPIC, "", ""])
            last = self.harness.connect("five", protocol_level=5, clean_session=False)
            packets = [packet for packet in last.connack if isinstance(packet, Publish)]
            self.assertEqual([packet.topic for packet in packets], [TOPIC] * 4)

    def test_what_a_client_does_not_get_introduces_none(self) -> None:
        """Its own, with No Local; and what is dropped as it takes nothing."""
        self.start(limits=Limits(max_queued_messages=0, receiver_patience=0))
        client = self.connect()
        client.send(Subscribe(1, [Subscription(TOPIC, 0, no_local=True)]))
        client.received()
        for _ in range(3):
            client.publish(TOPIC, b"own")
        outbox: Any = self.harness.broker.sessions.get("five").connection  # type: ignore[union-attr]
        self.publish(1)
        outbox.pauseProducing()
        self.publish(3)
        outbox.resumeProducing()
        self.publish(3)
        self.assertEqual(self.harness.broker.traffic.publish_dropped, 3)
        self.assertEqual(said(client), [(TOPIC, None), (TOPIC, 1), ("", 1), ("", 1)])

    def test_retained_messages_and_those_that_waited_have_them_too(self) -> None:
        self.publisher.publish(TOPIC, b"kept", 1, 1, retain=True)
        client = self.connect(receive_maximum=1)
        for _ in range(3):
            found = [packet for packet in client.subscribe("sensors/+", 1) if isinstance(packet, Publish)]
            client.send(*[Puback(packet.packet_id) for packet in found if packet.packet_id])
        self.assertEqual(found[-1].topic, "")
        self.publish(2, 1)
        self.harness.advance(1)
        self.assertEqual(said(client), [("", 1)])

    def test_with_subscription_identifiers_and_a_maximum_packet_size(self) -> None:
        client = self.connect(maximum_packet_size=40)
        client.send(Subscribe(1, [Subscription("#", 1, identifier=7)], Properties(subscription_identifier=7)))
        self.publish(3, 1)
        found = [packet for packet in client.received() if isinstance(packet, Publish)]
        self.assertEqual([packet.topic for packet in found], [TOPIC, TOPIC, ""])
        for packet in found:
            assert packet.properties is not None
            self.assertEqual(packet.properties.subscription_identifiers, (7,))

    def test_a_trace_has_them(self) -> None:
        client = self.connect()
        client.subscribe(TOPIC)
        heard: list[object] = []
        end = trace(self.harness.shared, "five", lambda format, event: heard.append(event))
        self.publish(3)
        end()
        self.assertEqual(said(client), [(TOPIC, None), (TOPIC, 1), ("", 1)])
        self.assertIn("topic alias 1", str(heard))
