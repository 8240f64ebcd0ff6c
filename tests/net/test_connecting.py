"""CONNECT and CONNACK: who is let in, when, and under which Client Identifier."""

from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Pingreq,
    Publish,
)
from platziverse.testing import BrokerHarness
from tests.logs import observe_log
from tests.net.doubles import Store


class Connecting(SynchronousTestCase):
    def test_connack_says_whether_a_session_was_there(self) -> None:
        """[MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.1.2-4] [MQTT-3.1.2-6] [MQTT-3.1.4-3]"""
        harness = BrokerHarness()
        first = harness.connect("one", clean_session=False)
        self.assertEqual(first.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])
        first.send(Disconnect())
        second = harness.connect("one", clean_session=False)
        self.assertEqual(second.connack, [Connack(True, ConnectReturnCode.ACCEPTED)])
        second.send(Disconnect())
        clean = harness.connect("one")
        self.assertEqual(clean.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])
        clean.send(Disconnect())
        again = harness.connect("one", clean_session=False)
        self.assertEqual(again.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_an_empty_client_id_gets_a_unique_one(self) -> None:
        """[MQTT-3.1.3-6]"""
        harness = BrokerHarness()
        first, second = harness.connect(""), harness.connect("")
        self.assertFalse(first.closed or second.closed)
        self.assertEqual(len({session.client_id for session in harness.broker.sessions}), 2)

    def test_an_empty_client_id_with_clean_session_0_is_refused(self) -> None:
        """row 18 [MQTT-3.1.3-8] [MQTT-3.1.3-9]"""
        client = BrokerHarness().connect("", clean_session=False)
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])
        self.assertTrue(client.closed)

    def test_nothing_behind_a_refused_connect_is_handled(self) -> None:
        """[MQTT-3.1.4-5]"""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.open()
        client.send(Connect("", clean_session=False), Publish("t", b"x"), Pingreq())
        self.assertEqual(client.received(), [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])
        self.assertEqual(store.messages, [])

    def test_a_too_long_client_id_is_refused(self) -> None:
        """row 19"""
        harness = BrokerHarness()
        for client_id in (":", "../", "'", "a b", "\U0001f600", "x" * 1024):
            self.assertFalse(harness.connect(client_id).closed)
        client = harness.connect("x" * 1025)
        self.assertEqual(client.connack, [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])

    def test_second_connect_closes_the_connection(self) -> None:
        """row 13 [MQTT-3.1.0-2]"""
        harness = BrokerHarness()
        client = harness.connect("one")
        client.send(Connect("one"))
        self.assertTrue(client.closed)
        self.assertEqual(harness.broker.traffic.protocol_errors, {"MQTT-3.1.0-2": 1})

    def test_silence_is_closed_at_the_connect_deadline(self) -> None:
        """row 14"""
        harness = BrokerHarness()
        client = harness.open()
        harness.advance(9.5)
        self.assertFalse(client.closed)
        harness.advance(1.5)
        self.assertTrue(client.closed)
        self.assertEqual(client.received_bytes(), b"")

    def test_the_deadline_is_for_the_whole_connect(self) -> None:
        """row 14"""
        harness = BrokerHarness()
        client = harness.open()
        for byte in encode(Connect("slow"))[:-1]:
            client.send_bytes(bytes([byte]))
            harness.advance(1.5)
            if client.closed:
                break
        self.assertTrue(client.closed)
        self.assertLessEqual(harness.clock.seconds(), 12.0)

    def test_a_new_connection_takes_the_client_id_over(self) -> None:
        """row 24 [MQTT-3.1.4-2] [MQTT-3.1.3-2]"""
        harness = BrokerHarness()
        watcher = harness.connect("watcher")
        watcher.subscribe("will")
        old = harness.connect("one", will=Publish("will", b"gone"))
        new = harness.connect("one")
        self.assertTrue(old.closed)
        self.assertFalse(new.closed)
        self.assertEqual(watcher.received(), [Publish("will", b"gone")])
        self.assertEqual(harness.broker.connected, 2)

    def test_ten_thousand_take_overs_leave_one_session(self) -> None:
        """row 24"""
        harness = BrokerHarness(limits=Limits(connect_delay=0))
        for _ in range(10_000):
            client = harness.connect("one", clean_session=False)
        self.assertFalse(client.closed)
        self.assertEqual((len(harness.broker.sessions), len(harness.shared.connections)), (1, 1))

    def test_a_flapping_client_is_delayed_and_never_banned(self) -> None:
        """rows 24 and 30"""
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=2))
        for _ in range(3):
            self.assertTrue(harness.connect("flap").connack)
        third = harness.connect("flap")
        self.assertEqual(third.connack, [])
        self.assertEqual(harness.broker.traffic.takeovers_delayed, 1)
        other = harness.connect("other")
        self.assertTrue(other.connack)
        harness.advance(1)
        self.assertEqual(third.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])
        harness.advance(61)
        self.assertTrue(harness.connect("flap").connack)

    def test_a_long_delay_is_not_taken_for_a_slow_connect(self) -> None:
        """Row 24."""
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=1, connect_delay=30))
        harness.connect("flap")
        harness.connect("flap")
        late = harness.connect("flap")
        harness.advance(31)
        self.assertEqual(late.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_whoever_comes_often_one_after_the_other_is_not_delayed(self) -> None:
        """Row 213: health checks and cron jobs with one Client Identifier."""
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=2))
        for _ in range(100):
            client = harness.connect("check")
            self.assertTrue(client.connack)
            client.lose()
        self.assertEqual(harness.broker.traffic.takeovers_delayed, 0)

    def test_a_second_connect_that_could_be_refused_has_no_second_connack(self) -> None:
        """Row 214: without a Client Identifier and with Clean Session 0. [MQTT-3.1.0-2]"""
        client = BrokerHarness().connect("one")
        client.send_bytes(bytes.fromhex("100c00044d5154540400003c0000"))
        self.assertEqual((client.received_bytes(), client.closed), (b"", True))

    def test_packets_sent_right_behind_connect_are_handled(self) -> None:
        """row 45, as ``mqtt pub`` sends them; section 3.1.4"""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.open()
        client.send(Connect("one"), Publish("t", b"x"), Disconnect())
        self.assertEqual([message.payload for message in store.messages], [b"x"])
        self.assertTrue(client.closed)
        store.commit()
        self.assertEqual(harness.shared.flow.unfinished, 0)


class Told(SynchronousTestCase):
    """Row 234: what an operator has to know of a client that cannot stay is in the log, with its name."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        observe_log(self, self.events.append)
        self.harness = BrokerHarness()

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events if "cause" in event]

    def test_a_version_that_is_not_ours_is_named_with_its_client_and_what_to_do(self) -> None:
        four, six, rest = b"\0\4MQTT", b"\0\6MQIsdp", b"\2\0\x3c"
        for body, client_id in (
            (four + b"\6" + rest + b"\0" + b"\0\3new", "new"),
            (four + b"\6" + rest + b"\5\x11\0\0\x0e\x10" + b"\0\3new", "new"),
            (four + b"\6" + rest + b"\0" + b"\0\2v6", "v6"),
            (six + b"\4" + rest + b"\0\3old", "old"),
            (six + b"\4" + rest + b"\0", ""),
            (four + b"\6", ""),
            (four + b"\6" + rest + b"\xff\xff\xff\xff\xff", ""),
            (four + b"\6" + rest + b"\x7f", ""),
        ):
            self.events.clear()
            self.harness = BrokerHarness()
            client = self.harness.open()
            client.send_bytes(bytes((0x10, len(body))) + body)
            refused = ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION
            self.assertEqual(client.received(), [Connack(False, refused)], body)
            [line] = self.lines()
            self.assertIn(f"client {client_id!r}; set the client to MQTT 5 or 3.1.1", line)
            self.assertRegex(line, r"^Closing 127\.0\.0\.1:\d+ ")
            refusals = self.harness.broker.traffic.connects_refused
            self.assertEqual(refusals, {"unacceptable_protocol_version": 1})

    def test_a_take_over_names_both_addresses(self) -> None:
        first = self.harness.connect("twin", clean_session=False)
        self.harness.connect("twin", clean_session=False)
        self.assertTrue(first.closed)
        self.assertEqual(self.harness.broker.traffic.takeovers, 1)
        [line] = self.lines()
        self.assertRegex(line, r"^Closing \S+:\d+ 'twin': \S+:\d+ has connected with its Client Identifier$")

    def test_a_client_that_comes_back_is_no_news(self) -> None:
        self.harness.connect("one", clean_session=False).lose()
        self.harness.connect("one", clean_session=False)
        self.assertEqual((self.lines(), self.harness.broker.traffic.takeovers), ([], 0))
