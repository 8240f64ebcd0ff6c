"""What others fell into with MQTT 5, on a whole broker."""

import gc
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    PublishProperties,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.properties import ALLOWED, MAX_USER_PROPERTIES, PACKETS, PROPERTIES
from platziverse.mqtt.reasoncodes import REASON_CODES
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.mqtt.test_codec5 import Codes, Matrix

#: What only a Server sends.
SERVERS = {"CONNACK", "SUBACK", "UNSUBACK"}


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness()

    def connect(self, client_id: str = "five", **fields: Any) -> FakeClient:
        return self.harness.connect(client_id, protocol_level=5, **fields)

    def end(self, client: FakeClient) -> "int | None":
        """Code of the last packet of a connection that is closed, 0: there is none; ``None``: it is open."""
        packets = client.received()
        if not client.closed or not packets:
            return 0 if client.closed else None
        last = packets[-1]
        assert isinstance(last, (Connack, Disconnect))
        return last.return_code if isinstance(last, Connack) else last.reason_code


class Pairs(Case):
    """Every packet with every Property, and every Reason Code, sent to a broker."""

    def sent(self, packet: str, data: bytes) -> "int | None":
        """How the connection ends when ``data`` comes."""
        client = self.harness.open(5)
        if packet not in ("CONNECT", "WILL"):
            client.send(Connect("five", protocol_level=5))
            client.received()
        client.send_bytes(data)
        ended = self.end(client)
        if packet in ("CONNECT", "WILL"):
            client.send(Disconnect(0))
        else:
            client.lose()
        return ended

    def test_a_property_that_does_not_belong_to_the_packet_ends_the_connection(self) -> None:
        """[MQTT5-4.13.1-1]"""
        matrix = Matrix()
        for packet in PACKETS:
            for row in PROPERTIES:
                data = bytes((row.identifier,)) + matrix.VALUES[row.kind]
                ended = self.sent(packet, matrix.build(packet, data))
                if row.identifier not in ALLOWED[packet]:
                    self.assertEqual(ended, 0x81, (packet, row.name))
                elif packet in SERVERS:
                    self.assertEqual(ended, 0x82, (packet, row.name))
        self.assertEqual(self.harness.broker.traffic.internal_errors, 0)
        self.assertEqual(self.harness.broker.connected, 0)

    def test_a_reason_code_that_does_not_belong_to_the_packet_ends_the_connection(self) -> None:
        """[MQTT5-4.13.1-1]"""
        for code in range(256):
            for kind, data in Codes().packets(code):
                ended = self.sent(kind.__name__.upper(), data)
                if code not in REASON_CODES[kind] or kind.__name__.upper() in SERVERS:
                    self.assertEqual(ended, 0x82, (kind, code))
        self.assertEqual(self.harness.broker.traffic.internal_errors, 0)


class Bounds(Case):
    def test_user_properties_by_the_thousand_take_a_turn_and_no_more(self) -> None:
        """Row 503: in CONNECT, in its Will, in PUBLISH; 5,000 are refused after the first 1,000"""
        for packet in ("CONNECT", "WILL", "PUBLISH", "SUBSCRIBE", "DISCONNECT"):
            for count, ended in ((MAX_USER_PROPERTIES, False), (5 * MAX_USER_PROPERTIES, True)):
                data = Matrix().build(packet, b"\x26\0\1n\0\1v" * count)
                client = self.harness.open(5)
                if packet not in ("CONNECT", "WILL"):
                    client.send(Connect("five", protocol_level=5))
                    client.received()
                took = time.process_time()
                client.send_bytes(data)
                took = time.process_time() - took
                self.assertLess(took, 0.1)  # of a machine that has others to serve; about 2 ms alone
                if ended:
                    self.assertEqual(self.end(client), 0x97, packet)
                client.lose()

    def test_a_length_of_properties_that_lies_is_malformed_at_once(self) -> None:
        """Row 501: up to 268,435,455 bytes that never come"""
        for length in (1, 127, 16_383, 268_435_455):
            client = self.connect()
            content = b"\0\1t\0\7" + encode_length(length)
            client.send_bytes(b"\x32" + bytes((len(content),)) + content)
            self.assertEqual(self.end(client), 0x81, length)

    def test_subscription_identifiers_have_an_end(self) -> None:
        """Row 501: 268,435,455 is the last one that can be written"""
        for data in (b"\x0b\xff\xff\xff\xff\x7f", b"\x0b\xff\xff\xff\xff\x01", b"\x0b\x80\x80\x80\x80\x01"):
            client = self.connect()
            client.send_bytes(Matrix().build("SUBSCRIBE", data))
            self.assertEqual(self.end(client), 0x81)

    def test_auth_before_connect_is_not_answered(self) -> None:
        """Row 507."""
        client = self.harness.open(5)
        client.send(Auth(0x18, Properties(authentication_method="X")))
        self.assertEqual((client.received(), client.closed), ([], True))

    def test_nothing_stays_of_a_will_with_a_wrong_property(self) -> None:
        """Row 542."""
        bad = Publish("w", b"\xff" * 1000, properties=PublishProperties(1))
        unknown = Matrix().build("WILL", b"\x23\0\1")
        good = encode5(Connect("five", protocol_level=5, will=bad))

        def refused(count: int) -> int:
            for _ in range(count):
                for data in (unknown, good):
                    client = self.harness.open(5)
                    client.send_bytes(data)
                    self.assertTrue(client.closed)
            gc.collect()
            return len(gc.get_objects())

        before = refused(10)
        self.assertLess(refused(200) - before, 100)
        broker = self.harness.broker
        self.assertEqual((len(broker.sessions), len(broker.clients.farewells.delayed)), (0, 0))


class Connections(Case):
    def test_a_receive_maximum_ends_with_its_connection_also_when_that_is_taken_over(self) -> None:
        """Row 513: neither kept nor off by one"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            publisher = self.harness.connect("publisher")
            client = self.connect(properties=Properties(session_expiry_interval=9, receive_maximum=1))
            client.subscribe("t", 1)
            for number in range(1, 10):
                publisher.publish("t", b"", 1, number)
            self.harness.advance(1)
            self.assertEqual(len(client.received()), 1)
            for most in (4, 2, None):
                asked = Properties(session_expiry_interval=9, receive_maximum=most)
                old, client = client, self.connect(clean_session=False, properties=asked)
                self.harness.advance(1)
                self.assertTrue(old.closed)
                found = [one for one in client.connack + client.received() if isinstance(one, Publish)]
                self.assertEqual(len(found), most or 9)
            client.send(*(Puback(one.packet_id or 0) for one in found))

    def test_a_session_expiry_goes_on_while_the_daemon_is_away(self) -> None:
        """Row 515: a restart does not begin it anew"""
        store = MemorySessionStore(lambda: self.harness.now())
        self.harness = BrokerHarness(sessions=store, wall_clock=1_000.0)
        client = self.connect(properties=Properties(session_expiry_interval=50))
        self.harness.advance(1)
        client.lose()
        for seconds, there in ((20, True), (20, True), (20, False)):
            self.harness.advance(1)
            self.harness = BrokerHarness(sessions=store, wall_clock=self.harness.now() + seconds)
            self.harness.advance(1)
            self.harness.broker.expire()
            self.assertEqual(self.harness.broker.sessions.get("five") is not None, there, seconds)

    def test_what_waits_comes_to_a_client_that_keeps_its_session_no_longer(self) -> None:
        """Row 544. [MQTT5-3.1.2-5]"""
        for sessions in (None, MemorySessionStore()):
            self.harness = BrokerHarness(sessions=sessions)
            publisher = self.harness.connect("publisher")
            client = self.connect(properties=Properties(session_expiry_interval=50))
            client.subscribe("t", 1)
            self.harness.advance(1)
            client.lose()
            publisher.publish("t", b"waits", 1, 1)
            self.harness.advance(1)
            client = self.connect(clean_session=False)
            self.harness.advance(1)
            _, message = client.connack + client.received()
            assert isinstance(message, Publish)
            self.assertEqual(message.payload, b"waits")

    def test_unsuback_has_a_code_for_each_filter(self) -> None:
        """Row 543."""
        client = self.connect()
        client.send(Subscribe(1, [Subscription("a", 0)]))
        client.received()
        client.send(Unsubscribe(2, ["b", "a", "a"]), Pingreq())
        self.assertEqual(client.received(), [Unsuback(2, [0x11, 0, 0x11]), Pingresp()])

    def test_a_duplicate_property_is_never_the_last_one(self) -> None:
        """Row 500."""
        twice = Matrix().build("PUBLISH", b"\x03\0\1a\x03\0\1b")
        watcher, client = self.connect("watcher"), self.connect()
        watcher.subscribe("#")
        client.send_bytes(twice)
        self.assertEqual((self.end(client), watcher.received()), (0x82, []))

    def test_limits_of_connect_hold_for_its_properties(self) -> None:
        """Row 503: max_connect_size"""
        self.harness = BrokerHarness(limits=Limits(max_connect_size=1000))
        client = self.harness.open(5)
        client.send_bytes(Matrix().build("CONNECT", b"\x26\0\1n\0\1v" * 200))
        self.assertTrue(client.closed)
        self.assertEqual(self.harness.broker.connected, 0)
