"""Connections that tell the log what happens on them."""

from typing import Any

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.packets import Disconnect, Pingreq, Pingresp, Publish
from platziverse.testing import BrokerHarness
from tests.logs import observe_log


class TracingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, self.observe)
        self.harness = BrokerHarness()

    def observe(self, event: dict[str, Any]) -> None:
        if event["log_level"] is LogLevel.debug:
            room = event["log_namespace"].split(".")[1]
            self.lines.append(f"{room}: {formatEvent(event)}")

    def talk(self) -> list[Any]:
        client = self.harness.connect("a\nb", username="ana", keep_alive=30)
        client.subscribe("x/#", 1)
        client.publish("x/y", b"123", qos=1, packet_id=7)
        client.publish("x/y", b"1")
        client.send(Pingreq())
        found = client.received()
        client.send(Disconnect())
        client.lose()
        return found

    def test_every_packet_is_told_with_who_it_was(self) -> None:
        self.harness.shared.tracing = True
        self.talk()
        who = "127.0.0.1:40001 'a\\nb'"
        self.assertEqual(
            self.lines,
            [
                f"mqtt: from {who}: CONNECT, user 'ana', Keep Alive 30 s",
                f"mqtt: to {who}: CONNACK, 4 bytes",
                f"net: Connected {who}, user 'ana'",
                f"mqtt: from {who}: SUBSCRIBE to [('x/#', 1)]",
                f"mqtt: to {who}: SUBACK, 5 bytes",
                f"mqtt: from {who}: PUBLISH to 'x/y', QoS 1, 3 bytes",
                f"mqtt: to {who}: PUBLISH, 12 bytes",
                f"mqtt: to {who}: PUBACK, 4 bytes",
                f"mqtt: from {who}: PUBLISH to 'x/y', QoS 0, 1 bytes",
                f"mqtt: to {who}: PUBLISH, 8 bytes",
                f"mqtt: from {who}: PINGREQ",
                f"mqtt: to {who}: PINGRESP, 2 bytes",
                f"mqtt: from {who}: DISCONNECT",
                f"net: Closing {who}: it has disconnected",
                f"net: Gone {who}",
            ],
        )

    def test_it_makes_no_difference_to_the_client(self) -> None:
        plain = self.talk()
        self.assertEqual(self.lines, [])
        self.harness.shared.tracing = True
        self.assertEqual(self.talk(), plain)
        self.assertIsInstance(plain[-1], Pingresp)
        self.assertIn(Publish, [type(packet) for packet in plain])

    def test_one_client_alone_is_told_of(self) -> None:
        """Row 261: everything from its CONNECT on, and nothing of the others."""
        plain = self.talk()
        self.harness.shared.traced = frozenset({"a\nb"})
        self.harness.connect("other").send(Pingreq())
        self.assertEqual(self.lines, [])
        self.assertEqual(self.talk(), plain)
        alone = list(self.lines)
        self.lines.clear()
        self.harness.shared.traced = frozenset()
        self.harness.shared.tracing = True
        self.talk()
        self.assertEqual(
            [line.split("'")[2:] for line in alone], [line.split("'")[2:] for line in self.lines]
        )

    def test_a_traced_client_that_does_not_read_is_held_as_any_other(self) -> None:
        """Row 261: the transport tells the outbox that has taken the place of the first."""
        self.harness.shared.traced = frozenset({"slow"})
        client = self.harness.connect("slow")
        producer: Any = client.transport.producer
        producer.pauseProducing()
        self.assertTrue(producer.congested)

    def test_it_begins_and_ends_with_new_connections(self) -> None:
        before = self.harness.connect("before")
        self.harness.shared.tracing = True
        during = self.harness.connect("during")
        self.harness.shared.tracing = False
        self.lines.clear()
        for client in (before, during, self.harness.connect("after")):
            client.send(Pingreq())
        self.assertEqual(len(self.lines), 2)
        self.assertEqual({line.split("'")[1] for line in self.lines}, {"during"})
