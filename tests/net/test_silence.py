"""Keep Alive and the other deadlines of a connection."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Pingreq,
    Publish,
)
from platziverse.testing import BrokerHarness, OpenAuthority
from tests.net.doubles import Store


class SlowAuthority(OpenAuthority):
    """Answers a login when it is told to."""

    def __init__(self) -> None:
        self.answer: Deferred[str | None] = Deferred()

    def login(
        self, connect: Connect, address: str, certificate_user: str | None, near: bool
    ) -> "Deferred[str | None] | None":
        return self.answer


class Deadlines(SynchronousTestCase):
    def test_the_time_of_a_login_is_not_the_clients(self) -> None:
        """Rows 14, 23: CONNECT came in time, and from then on we hold reading."""
        authority = SlowAuthority()
        harness = BrokerHarness(authority=authority)
        client = harness.open()
        harness.advance(9)
        client.send(Connect("one", keep_alive=1))
        harness.advance(9)
        authority.answer.callback(None)
        self.assertEqual(client.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])
        harness.advance(1.4)
        self.assertFalse(client.closed)

    def test_a_login_that_never_ends_does_not_keep_its_connection(self) -> None:
        """Row 14."""
        harness = BrokerHarness(authority=SlowAuthority())
        client = harness.open()
        client.send(Connect("one"))
        harness.advance(9.9)
        self.assertFalse(client.closed)
        harness.advance(1.1)
        self.assertTrue(client.closed)
        self.assertEqual(harness.broker.traffic.protocol_errors, {"no login in time": 1})

    def test_a_packet_that_begins_with_the_daemon_has_its_deadline_too(self) -> None:
        """Row 281: the steady time of deadlines begins at 0."""
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=0)
        client.send_bytes(b"\x30\x05\x00")
        self.assertEqual(harness.shared.deadlines.now, 0.0)
        harness.advance(29.5)
        self.assertFalse(client.closed)
        harness.advance(1.5)
        self.assertTrue(client.closed)
        self.assertEqual(harness.broker.traffic.protocol_errors, {"an incomplete packet": 1})

    def test_silence_is_closed_after_one_and_a_half_keep_alives(self) -> None:
        """rows 26 and 27 [MQTT-3.1.2-24]"""
        for keep_alive in (1, 4, 10, 60):
            harness = BrokerHarness()
            client = harness.connect("one", keep_alive=keep_alive)
            harness.advance(keep_alive * 1.5 - 0.01)
            self.assertFalse(client.closed, keep_alive)
            harness.advance(1.01)
            self.assertTrue(client.closed, keep_alive)

    def test_any_packet_keeps_the_connection(self) -> None:
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=4)
        for _ in range(20):
            harness.advance(4)
            client.send(Pingreq())
        self.assertFalse(client.closed)

    def test_keep_alive_0_is_off(self) -> None:
        """row 26"""
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=0)
        harness.advance(20_000)
        self.assertFalse(client.closed)

    def test_keep_alive_rests_while_we_hold_reading(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=2))
        client = harness.connect("one", keep_alive=4)
        client.send(Publish("t", b"1"), Publish("t", b"2"))
        self.assertTrue(client.held)
        harness.advance(60)
        self.assertFalse(client.closed)
        store.commit()
        self.assertFalse(client.held)
        harness.advance(5.9)
        self.assertFalse(client.closed)
        harness.advance(1.1)
        self.assertTrue(client.closed)

    def test_a_suspended_machine_closes_nobody(self) -> None:
        """row 121"""
        harness = BrokerHarness()
        client = harness.connect("one", keep_alive=10)
        harness.clock.advance(3600)
        self.assertFalse(client.closed)
        harness.advance(16)
        self.assertTrue(client.closed)

    def test_half_a_packet_is_not_waited_for_for_ever(self) -> None:
        """row 4"""
        harness = BrokerHarness()
        client = harness.connect("one")
        harness.advance(100)
        client.send_bytes(b"\x30\x7f\x00")
        for _ in range(28):
            harness.advance(1)
            client.send_bytes(b"\x00")
        self.assertFalse(client.closed)
        for _ in range(32):
            harness.advance(1)
            if client.closed:
                break
        self.assertTrue(client.closed)

    def test_a_client_that_does_not_read_is_cut_after_the_write_deadline(self) -> None:
        """row 54"""
        harness = BrokerHarness()
        client = harness.connect("one")
        harness.advance(7)
        client.stop_reading()
        harness.advance(59)
        self.assertFalse(client.closed)
        harness.advance(2)
        self.assertTrue(client.closed)
