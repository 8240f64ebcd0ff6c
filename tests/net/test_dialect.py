"""Dialects: a protocol that can refuse a message and say goodbye does; MQTT 3.1.1 closes."""

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.session import Session
from platziverse.mqtt.errors import ConnectRefused, MQTTError
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Packet,
    Puback,
    Publish,
    Pubrec,
)
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.dialect import MQTT_3_1_1
from platziverse.testing import BrokerHarness, FakeClient
from tests.net.doubles import Store


class Eloquent:
    """A dialect that has bytes for everything: a text in place of a packet."""

    def keep_alive(self, asked: int) -> int:
        return asked

    def accept(self, present: bool, session: Session) -> bytes:
        return b"welcome;"

    def refuse(self, error: MQTTError) -> bytes:
        return b"no entry;"

    def negative(self, packet: Publish, refused: Refused) -> bytes | None:
        return f"{refused.reason.value} {packet.packet_id};".encode() if packet.qos else b""

    def suback(self, packet_id: int, codes: list[int]) -> bytes:
        return b"subscribed;"

    def unsuback(self, packet_id: int, codes: list[int]) -> bytes:
        return b"unsubscribed;"

    def goodbye(self, reason: Reason, text: str, code: ReasonCode | None) -> bytes:
        return f"{reason.value}: {text};".encode()


class DialectCase(SynchronousTestCase):
    def connect(self, harness: BrokerHarness, *packets: Packet) -> FakeClient:
        client = harness.open()
        client.protocol.dialect = Eloquent()
        client.send(Connect("one"), *packets)
        self.assertEqual(client.received_bytes(), b"welcome;")
        return client


class Refusing(DialectCase):
    def test_a_message_that_was_not_handled_is_answered_in_its_place(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = self.connect(harness)
        client.send(*(Publish("t", b"", 1, packet_id=number) for number in (1, 2, 3)))
        store.answers[1].errback(ValueError("no"))
        self.assertEqual(client.received_bytes(), b"")
        store.commit()
        self.assertEqual(client.received_bytes(), b"\x40\2\0\1not handled 2;\x40\2\0\3")
        self.assertEqual((client.closed, harness.shared.flow.unfinished), (False, 0))

    def test_one_of_qos_2_is_a_new_one_when_it_comes_again(self) -> None:
        store = Store()
        client = self.connect(BrokerHarness({"t": store}))
        client.publish("t", b"", 2, 7)
        store.answers[0].errback(ValueError("no"))
        self.assertEqual(client.received_bytes(), b"not handled 7;")
        client.publish("t", b"", 2, 7, dup=True)
        store.commit()
        self.assertEqual((client.received(), len(store.messages)), ([Pubrec(7)], 2))

    def test_at_qos_0_there_is_nobody_to_be_told(self) -> None:
        def refuses(message: Publish, client: Client) -> Deferred[Any]:
            return fail(ValueError("no"))

        client = self.connect(BrokerHarness({"t": refuses}))
        client.publish("t", b"")
        self.assertEqual((client.received_bytes(), client.closed), (b"", False))

    def test_a_connect_is_refused_in_its_words(self) -> None:
        client = BrokerHarness().open()
        client.protocol.dialect = Eloquent()
        client.send(Connect("x" * 2000))
        self.assertEqual(client.received_bytes(), b"no entry;")
        self.assertTrue(client.closed)


class Leaving(DialectCase):
    def test_goodbye_is_the_last_that_is_sent(self) -> None:
        """What is ours by then is acknowledged before it."""
        client = self.connect(BrokerHarness())
        client.send_bytes(b"\x32\5\0\1t\0\7" + b"\xf0\0")
        self.assertTrue(
            client.received_bytes().startswith(b"\x40\2\0\7malformed: a packet of the reserved type")
        )
        self.assertTrue(client.closed)

    def test_each_end_has_its_reason(self) -> None:
        """[MQTT-3.1.4-2] [MQTT-3.1.2-24] [MQTT-3.14.4-3]"""
        harness = BrokerHarness()
        old = self.connect(harness)
        new = self.connect(harness)
        self.assertTrue(old.received_bytes().startswith(b"taken over: "))
        new.send(Connect("one"))
        self.assertTrue(new.received_bytes().startswith(b"protocol error: a second CONNECT"))
        leaving = self.connect(harness)
        leaving.send(Disconnect())
        self.assertTrue(leaving.received_bytes().startswith(b"graceful: "))
        last = self.connect(harness)
        harness.shared.close_all(Reason.SHUTTING_DOWN, "the daemon is stopping")
        self.assertEqual(last.received_bytes(), b"shutting down: the daemon is stopping;")

    def test_a_deadline_is_named(self) -> None:
        harness = BrokerHarness()
        harness.advance(1)
        quiet = harness.open()
        quiet.protocol.dialect = Eloquent()
        quiet.send(Connect("quiet", keep_alive=1))
        slow = self.connect(harness)
        slow.send_bytes(b"\x30")
        harness.advance(61)
        self.assertEqual(quiet.received_bytes(), b"welcome;keep alive: Keep Alive;")
        self.assertEqual(slow.received_bytes(), b"too slow: an incomplete packet;")

    def test_one_that_takes_nothing_is_cut_without_it(self) -> None:
        client = self.connect(BrokerHarness())
        client.stop_reading()
        client.send_bytes(b"\xf0\0")
        self.assertEqual((client.received_bytes(), client.closed), (b"", True))


class ThreeOneOne(SynchronousTestCase):
    def test_it_has_return_codes_in_connack_and_nothing_else(self) -> None:
        refused = ConnectRefused(ConnectReturnCode.NOT_AUTHORIZED, "no")
        self.assertEqual(MQTT_3_1_1.refuse(refused), b"\x20\2\0\5")
        session = BrokerHarness().broker.sessions.make("one", False)
        accepted = [MQTT_3_1_1.accept(present, session) for present in (True, False)]
        self.assertEqual(accepted, [b"\x20\2\1\0", b"\x20\2\0\0"])
        for reason in Reason:
            self.assertEqual(MQTT_3_1_1.goodbye(reason, "text", None), b"")
            refusal = Refused(reason, "text")
            self.assertIsNone(MQTT_3_1_1.negative(Publish("t", b"", 1, packet_id=1), refusal))

    def test_whoever_runs_the_daemon_ends_a_connection_without_a_word(self) -> None:
        client = BrokerHarness().connect()
        self.assertIsInstance(client.connack[0], Connack)
        client.publish("t", b"", 1, 1)
        client.protocol.close(Reason.ADMINISTRATIVE, "a test")
        self.assertEqual((client.received(), client.closed), ([Puback(1)], True))
