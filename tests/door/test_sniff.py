"""One port: the first byte decides what a connection is."""

import string
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.door.sniff import SniffingFactory
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from platziverse.testing import BrokerHarness
from tests.logs import observe_log

CONNECT = encode(Connect("sniffed"))
CONNACK = bytes.fromhex("20020000")


class Recorder(Protocol):
    """An HTTP side that keeps what it is given."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class Recorders(Factory[Recorder]):
    """Builds recorders and keeps them."""

    def __init__(self) -> None:
        self.built: list[Recorder] = []

    def buildProtocol(self, addr: IAddress | None) -> Recorder:
        self.built.append(Recorder())
        return self.built[-1]


class Abortable(StringTransportWithDisconnection):
    """Ends as a socket does: also when it is aborted, and never while it delivers."""

    delivering = False

    def loseConnection(self) -> None:
        if self.delivering:
            self.connected = False
        else:
            super().loseConnection()

    def unregisterProducer(self) -> None:
        self.producer = None  # a socket does not mind being told twice

    def abortConnection(self) -> None:
        self.disconnected = True
        self.loseConnection()


DEFAULTS = Limits()


class Shared:
    """A shared port in front of a real broker, without sockets."""

    def __init__(self, http: bool = True, limits: Limits = DEFAULTS, **options: Any) -> None:
        self.harness = BrokerHarness(limits=limits)
        self.http = Recorders()
        self.factory = SniffingFactory(self.harness.factory, self.http if http else None, **options)

    def open(self) -> Abortable:
        address = IPv4Address("TCP", "192.0.2.1", 40_000)
        transport = Abortable(peerAddress=address)
        transport.protocol = self.factory.buildProtocol(address)
        transport.protocol.makeConnection(transport)
        return transport

    @property
    def errors(self) -> dict[str, int]:
        return self.harness.broker.traffic.protocol_errors


def deliver(transport: Abortable, *chunks: bytes) -> None:
    for chunk in chunks:
        if transport.connected:
            transport.delivering = True
            transport.protocol.dataReceived(chunk)
            transport.delivering = False
            if not transport.connected:
                transport.connected = True
                transport.loseConnection()


class TestFirstByte(SynchronousTestCase):
    def setUp(self) -> None:
        self.shared = Shared()

    def test_0x10_is_mqtt(self) -> None:
        transport = self.shared.open()
        deliver(transport, CONNECT)
        self.assertEqual(transport.value(), CONNACK)

    def test_row_65_connect_may_come_as_one_byte_and_the_rest(self) -> None:
        transport = self.shared.open()
        deliver(transport, CONNECT[:1], CONNECT[1:])
        self.assertEqual(transport.value(), CONNACK)

    def test_every_letter_is_http_and_loses_no_byte(self) -> None:
        for letter in sorted(string.ascii_letters.encode()):
            transport = self.shared.open()
            deliver(transport, bytes([letter]), b"ET / HTTP/1.1\r\n")
            self.assertEqual(self.shared.http.built[-1].received, bytes([letter]) + b"ET / HTTP/1.1\r\n")

    def test_row_211_packets_whose_first_byte_is_a_letter_are_no_http(self) -> None:
        """Row 211: PUBREC, PUBREL, PUBCOMP before CONNECT are closed at once and counted."""
        for raw in (b"\x50\x02\x00\x01", b"\x62\x02\x00\x01", b"\x70\x02\x00\x01"):
            transport = self.shared.open()
            deliver(transport, raw)
            self.assertFalse(transport.connected, raw.hex())
            self.assertEqual(transport.value(), b"")
        self.assertEqual(self.shared.errors, {"first byte": 3})
        self.assertEqual(self.shared.http.built, [])

    def test_every_other_byte_is_refused_at_once_and_counted(self) -> None:
        others = [
            first for first in range(256) if first != 0x10 and first not in string.ascii_letters.encode()
        ]
        for first in others:
            transport = self.shared.open()
            deliver(transport, bytes([first]) + CONNECT)
            self.assertFalse(transport.connected, hex(first))
            self.assertEqual(transport.value(), b"")
        self.assertEqual(self.shared.errors, {"first byte": len(others)})
        self.assertFalse(self.shared.factory.undecided)

    def test_http_is_refused_where_there_is_none(self) -> None:
        transport = Shared(http=False).open()
        deliver(transport, b"GET / HTTP/1.1\r\n")
        self.assertFalse(transport.connected)

    def test_a_port_for_tls_alone_refuses_plain_bytes(self) -> None:
        shared = Shared(plain=False)
        for data in (CONNECT, b"GET /"):
            transport = shared.open()
            deliver(transport, data)
            self.assertFalse(transport.connected)

    @given(st.lists(st.integers(1, len(CONNECT) - 1), max_size=6).map(sorted))
    @settings(max_examples=50, deadline=None)
    def test_every_split_gives_the_same_answer(self, cuts: list[int]) -> None:
        transport = Shared().open()
        edges = [0, *cuts, len(CONNECT)]
        deliver(transport, *(CONNECT[a:b] for a, b in pairwise(edges) if a < b))
        self.assertEqual(transport.value(), CONNACK)


class TestHandOver(SynchronousTestCase):
    def test_nothing_of_the_sniffer_stays_on_the_way(self) -> None:
        shared = Shared()
        transport = shared.open()
        deliver(transport, CONNECT)
        self.assertIn(transport.protocol, shared.harness.shared.connections)

    def test_the_end_is_told_to_the_new_protocol(self) -> None:
        shared = Shared()
        transport = shared.open()
        deliver(transport, b"G")
        transport.loseConnection()
        self.assertTrue(shared.http.built[0].lost)

    def test_a_transport_that_keeps_its_protocol_is_served_through_the_sniffer(self) -> None:
        shared = Shared()
        transport = shared.open()
        sniffer = transport.protocol
        deliver(transport, b"G")
        sniffer.dataReceived(b"ET /")
        sniffer.connectionLost(None)  # type: ignore[arg-type]
        self.assertEqual(shared.http.built[0].received, b"GET /")
        self.assertTrue(shared.http.built[0].lost)

    def test_factories_behind_it_are_started_and_stopped_with_it(self) -> None:
        shared = Shared()
        shared.factory.doStart()
        self.assertEqual((shared.harness.factory.numPorts, shared.http.numPorts), (1, 1))
        shared.factory.doStop()
        self.assertEqual((shared.harness.factory.numPorts, shared.http.numPorts), (0, 0))


class TestDeadline(SynchronousTestCase):
    def setUp(self) -> None:
        self.shared = Shared()
        self.transport = self.shared.open()

    def test_a_silent_peer_is_closed_at_the_connect_deadline(self) -> None:
        self.shared.harness.advance(9.5)
        self.assertTrue(self.transport.connected)
        self.shared.harness.advance(1.5)
        self.assertFalse(self.transport.connected)
        self.assertEqual(self.shared.errors, {"silent": 1})

    def test_the_first_byte_does_not_buy_more_time_for_connect(self) -> None:
        self.shared.harness.advance(9)
        deliver(self.transport, CONNECT[:5])
        self.shared.harness.advance(2)
        self.assertFalse(self.transport.connected)

    def test_a_decided_connection_is_left_alone(self) -> None:
        deliver(self.transport, CONNECT)
        self.shared.harness.advance(60)
        self.assertTrue(self.transport.connected)

    def test_a_peer_that_leaves_first_is_forgotten(self) -> None:
        self.transport.loseConnection()
        self.assertFalse(self.shared.factory.undecided)
        self.shared.harness.advance(20)
        self.assertEqual(self.shared.errors, {})

    def test_stopping_cuts_the_undecided(self) -> None:
        self.shared.factory.close_all()
        self.assertFalse(self.transport.connected)

    def test_log_lines_are_limited(self) -> None:
        events: list[Any] = []
        observe_log(self, events.append)
        for _ in range(500):
            deliver(self.shared.open(), b"\x00")
        self.assertLessEqual(len(events), 20)
        self.assertEqual(self.shared.errors["first byte"], 500)
