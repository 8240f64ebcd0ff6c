"""Connections that tell the log what happens on them."""

from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER, Client, Handler
from platziverse.broker.together import Together
from platziverse.mqtt.packets import (
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    PublishProperties,
    Pubrec,
)
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.tracing import trace
from platziverse.testing import BrokerHarness, FakeClient
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
                f"mqtt: from {who}: CONNECT, MQTT 3.1.1, user 'ana', Keep Alive 30 s",
                f"mqtt: to {who}: CONNACK, 4 bytes",
                f"net: Connected {who}, user 'ana'",
                f"mqtt: from {who}: SUBSCRIBE to [('x/#', 1)]",
                f"mqtt: to {who}: SUBACK, 5 bytes",
                f"mqtt: from {who}: PUBLISH to 'x/y', QoS 1, 3 bytes",
                f"mqtt: to {who}: PUBLISH to 'x/y', QoS 1, 12 bytes",
                f"mqtt: to {who}: PUBACK, 4 bytes",
                f"mqtt: from {who}: PUBLISH to 'x/y', QoS 0, 1 bytes",
                f"mqtt: to {who}: PUBLISH to 'x/y', QoS 0, 8 bytes",
                f"mqtt: from {who}: PINGREQ",
                f"mqtt: to {who}: PINGRESP, 2 bytes",
                f"mqtt: from {who}: DISCONNECT",
                f"net: Closing {who}: it has disconnected",
                f"net: Gone {who}",
            ],
        )

    def talk5(self, client: FakeClient) -> None:
        client.subscribe("x/#", 1)
        client.publish("x", b"not UTF-8\xff", qos=1, packet_id=7, properties=PublishProperties(1))
        pairs = tuple((f"name {number}", "v" * 200) for number in range(12))
        properties = PublishProperties(topic_alias=1, user_properties=pairs)
        client.publish("x/y", b"1", qos=1, packet_id=8, properties=properties)
        client.send(Pubrec(9, ReasonCode.UNSPECIFIED_ERROR))
        client.send(Disconnect(ReasonCode.DISCONNECT_WITH_WILL))

    def test_of_mqtt_5_the_properties_and_reason_codes_are_told_by_name(self) -> None:
        self.harness.shared.tracing = True
        properties = Properties(session_expiry_interval=60, user_properties=(("a", "1"), ("b", "2")))
        self.talk5(self.harness.connect("five", protocol_level=5, properties=properties))
        lines = [line.partition("'five'")[2] for line in self.lines if line.startswith("mqtt: ")]
        asked = ", session expiry interval 60, user properties 'a'='1' 'b'='2'"
        self.assertEqual(lines[0], f": CONNECT, MQTT 5, user None, Keep Alive 0 s{asked}")
        self.assertIn(": CONNACK success, receive maximum", lines[1])
        self.assertIn(": SUBACK granted_qos_1, 6 bytes", lines)
        why = "its payload is not UTF-8, as it says"
        self.assertTrue(
            any(f": PUBACK payload_format_invalid, reason string '{why}', " in one for one in lines)
        )
        came, went = [one for one in lines if one.startswith(": PUBLISH to 'x/y', QoS 1, ")]
        self.assertIn(", QoS 1, 1 bytes, topic alias 1, user properties 'name 0'='vvv", came)
        self.assertIn(" and 2 more", came)
        self.assertLess(len(came), 2000)
        self.assertTrue(went.startswith(": PUBLISH to 'x/y', QoS 1, user properties 'name 0'="))
        self.assertRegex(went, "and 2 more, [0-9]+ bytes$")
        self.assertIn(": PUBREC unspecified_error", lines)
        self.assertIn(": DISCONNECT disconnect_with_will", lines)

    def test_a_traced_client_of_mqtt_5_goes_on_as_one(self) -> None:
        """A trace that begins later takes the tables of the client's version."""
        client = self.harness.connect("five", protocol_level=5)
        trace(self.harness.shared, "five", lambda format, fields: None)()
        end = trace(self.harness.shared, "five", lambda format, fields: None)
        self.talk5(client)
        end()
        [refused, *_] = [packet for packet in client.received() if type(packet) is Puback]
        self.assertEqual(refused.reason_code, ReasonCode.PAYLOAD_FORMAT_INVALID)
        self.assertEqual(self.harness.broker.traffic.protocol_errors, {})

    def test_it_makes_no_difference_to_the_client(self) -> None:
        plain = self.talk()
        self.assertEqual(self.lines, [])
        self.harness.shared.tracing = True
        self.assertEqual(self.talk(), plain)
        self.assertIsInstance(plain[-1], Pingresp)
        self.assertIn(Publish, [type(packet) for packet in plain])

    def test_messages_that_come_together_are_told_one_by_one(self) -> None:
        self.harness.shared.tracing = True
        for level in 4, 5:
            client = self.harness.connect(f"level {level}", protocol_level=level)
            client.subscribe("t")
        self.lines.clear()
        broker = self.harness.broker
        broker.router.route_together(Together("t", (b"1", b"22"), 0), broker.subscriptions.match("t"), SERVER)
        self.assertEqual(len(client.received()), 2)
        told = [line.partition("'")[2] for line in self.lines]
        self.assertEqual(
            told,
            [
                f"level {level}': PUBLISH to 't', QoS 0, {size} bytes"
                for level in (4, 5)
                for size in (level + 2, level + 3)
            ],
        )

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


class TraceTests(SynchronousTestCase):
    """An operator hears of one client, whether it is connected already or not."""

    def setUp(self) -> None:
        self.heard: list[str] = []
        self.harness = BrokerHarness()
        self.shared = self.harness.shared

    def hear(self, format: str, fields: Mapping[str, object]) -> None:
        self.heard.append(formatEvent({"log_format": format, **fields}).partition("'plug'")[2])

    def test_a_connection_that_is_there_is_heard_from_now_on_until_the_end(self) -> None:
        client = self.harness.connect("plug")
        other = self.harness.connect("other")
        end = trace(self.shared, "plug", self.hear)
        for one in (client, other):
            one.publish("x", b"12")
            one.send(Pingreq())
        self.assertEqual(client.received(), [Pingresp()])
        self.assertEqual(self.heard, [": PUBLISH to 'x', QoS 0, 2 bytes", ": PINGREQ", ": PINGRESP, 2 bytes"])
        end()
        client.send(Pingreq())
        self.assertEqual(len(self.heard), 3)
        self.assertEqual(self.shared.heard, {})

    def test_the_next_connections_are_heard_from_their_connect_on(self) -> None:
        end = trace(self.shared, "plug", self.hear)
        for _ in range(2):
            self.harness.connect("plug").lose()
        self.harness.connect("other")
        first, second = self.heard[:4], self.heard[4:]
        self.assertEqual(first, second)
        self.assertEqual(first[1:], [": CONNACK, 4 bytes", ", user None", ""])
        end()
        self.harness.connect("plug")
        self.assertEqual(len(self.heard), 8)

    def test_a_puback_that_has_waited_for_a_commit_is_heard_too(self) -> None:
        """Its queue was made before the trace began."""
        waits: list[Deferred[None]] = []

        def handle(message: Publish, client: Client) -> "Deferred[None]":
            waits.append(Deferred())
            return waits[-1]

        self.harness = BrokerHarness({"x": cast(Handler, handle)})
        self.shared = self.harness.shared
        client = self.harness.connect("plug")
        client.publish("x", qos=1, packet_id=1)
        end = trace(self.shared, "plug", self.hear)
        waits[0].callback(None)
        self.harness.turn()
        self.assertEqual(self.heard, [": PUBACK, 4 bytes"])
        end()
        client.publish("x", qos=1, packet_id=2)
        waits[1].callback(None)
        self.assertEqual([type(packet) for packet in client.received()], [Puback, Puback])
        self.assertEqual(len(self.heard), 1)

    def test_two_may_hear_the_same_and_the_log_goes_on_when_both_have_ended(self) -> None:
        self.shared.traced = frozenset({"plug"})
        client = self.harness.connect("plug")
        ends = [trace(self.shared, "plug", self.hear) for _ in range(2)]
        client.send(Pingreq())
        self.assertEqual(len(self.heard), 4)
        for end in ends:
            end()
        lines: list[str] = []
        observe_log(self, lambda event: lines.append(formatEvent(event)))
        client.send(Pingreq())
        self.assertEqual((len(lines), len(self.heard)), (2, 4))
