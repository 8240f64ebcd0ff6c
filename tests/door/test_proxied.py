"""PROXY headers as HAProxy, nginx and the balancers of clouds send them, and as nobody should."""

import struct
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.door.proxied import BadHeader, HeaderReader, Told
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.door.test_crowd import SocketCase
from tests.door.test_sniff import CONNACK, CONNECT
from tests.logs import observe_log
from tests.web.test_guard import Page

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.9 192.0.2.2 5555 1883\r\n"
#: AWS's VPC endpoint, a checksum, padding and an SSL TLV with its own inside.
TLVS = b"\xea\x00\x05\x01vpce\x03\x00\x04\xde\xad\xbe\xef\x04\x00\x03\0\0\0\x20\x00\x05\x01\0\0\0\0"
CLIENT, SERVER = IPv4Address("TCP", "203.0.113.9", 5555), IPv4Address("TCP", "192.0.2.2", 1883)


def v2(command: int, family: int, addresses: bytes = b"", tlvs: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses + tlvs)) + addresses + tlvs


def packed(client: str, server: str) -> bytes:
    return ip_address(client).packed + ip_address(server).packed + struct.pack("!HH", 5555, 1883)


IN4, IN6 = packed("203.0.113.9", "192.0.2.2"), packed("2001:db8::9", "2001:db8::2")
UNIX = b"/run/app.sock".ljust(108, b"\0") + b"/run/mqtt.sock".ljust(108, b"\0")
TOLD4 = Told(CLIENT, SERVER)
TOLD6 = Told(IPv6Address("TCP", "2001:db8::9", 5555), IPv6Address("TCP", "2001:db8::2", 1883))
LONGEST = b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n"

GOOD: "list[tuple[bytes, Told]]" = [
    (V1, TOLD4),
    (b"PROXY TCP6 2001:db8::9 2001:db8::2 5555 1883\r\n", TOLD6),
    (b"PROXY UNKNOWN\r\n", Told()),
    (b"PROXY UNKNOWN ffff::1 whatever it says 1 2\r\n", Told()),
    (v2(0x21, 0x11, IN4), TOLD4),
    (v2(0x21, 0x11, IN4, TLVS), TOLD4),
    (v2(0x21, 0x11, IN4, b"\xe0\xff\xfc" + bytes(65_000)), TOLD4),
    (v2(0x21, 0x12, IN4), TOLD4),
    (v2(0x21, 0x21, IN6), TOLD6),
    (v2(0x21, 0x21, IN6, TLVS), TOLD6),
    (v2(0x21, 0x31, UNIX), Told(UNIXAddress(b"/run/app.sock"), UNIXAddress(b"/run/mqtt.sock"))),
    (v2(0x20, 0x00), Told(relayed=False)),
    (v2(0x20, 0x00, tlvs=TLVS), Told(relayed=False)),
    (v2(0x20, 0x11, IN4), Told(relayed=False)),
    (v2(0x20, 0x21, IN6, TLVS), Told(relayed=False)),
    (v2(0x21, 0x00), Told()),
    (v2(0x21, 0x00, tlvs=TLVS), Told()),
    (v2(0x21, 0x01, IN4), Told()),
    (v2(0x21, 0x10, IN4), Told()),
]

BAD = [
    CONNECT,
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"PROXX",
    b"proxy TCP4 203.0.113.9 192.0.2.2 5555 1883\r\n",
    b"PROXY \r\n",
    b"PROXY\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 1.2.3.4\r\n",
    b"PROXY TCP5 203.0.113.9 192.0.2.2 5555 1883\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.2 5555 65536\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.2 05555 1883\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.2 -1 1883\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.2 a b\r\n",
    b"PROXY TCP4 203.0.113.256 192.0.2.2 5555 1883\r\n",
    b"PROXY TCP4  203.0.113.9 192.0.2.2 5555 1883\r\n",
    b"PROXY TCP4 203.0.113.9 192.0.2.2 5555 1883 \r\n",
    b"PROXY TCP4 2001:db8::9 2001:db8::2 5555 1883\r\n",
    b"PROXY TCP6 203.0.113.9 192.0.2.2 5555 1883\r\n",
    b"PROXY TCP4 \xff\xfe 192.0.2.2 5555 1883\r\n",
    b"PROXY " + b"x" * 102,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    v2(0x11, 0x11, IN4),
    v2(0x31, 0x11, IN4),
    v2(0x22, 0x11, IN4),
    v2(0x21, 0x41, IN4),
    v2(0x21, 0x13, IN4),
    v2(0x21, 0x11, IN4[:-1]),
    v2(0x21, 0x21, IN4),
    v2(0x21, 0x31, IN6),
]


class GrammarTests(SynchronousTestCase):
    """Row 235."""

    def test_every_header_is_understood_and_takes_no_byte_too_many(self) -> None:
        self.assertEqual(len(LONGEST), 104)
        for header, told in [*GOOD, (LONGEST, None)]:
            reader = HeaderReader()
            self.assertEqual(reader.feed(header + CONNECT), CONNECT, header[:40])
            self.assertEqual(reader.told, told or reader.told, header[:40])

    def test_what_is_no_header_is_named(self) -> None:
        for data in BAD:
            with self.assertRaises(BadHeader, msg=data[:60]):
                HeaderReader().feed(data)

    def test_it_is_seen_at_the_first_byte_that_cannot_be_one(self) -> None:
        for data in (b"\x10", b"G", b"\x16", b"PRI * HTTP/2.0", b"\r\n\r\nG", b"PROXY\t"):
            reader = HeaderReader()
            with self.assertRaises(BadHeader, msg=data):
                for number in range(len(data)):
                    reader.feed(data[number : number + 1])
                reader.feed(b" TCP4\r\n")

    @given(st.sampled_from(GOOD), st.lists(st.integers(1, 300), max_size=6).map(sorted))
    @settings(max_examples=200, deadline=None)
    def test_it_may_come_in_any_pieces(self, entry: "tuple[bytes, Told]", cuts: list[int]) -> None:
        header, told = entry
        data = header + CONNECT
        edges = [0, *[cut for cut in cuts if cut < len(data)], len(data)]
        reader, rest = HeaderReader(), b""
        for begin, end in pairwise(edges):
            piece = data[begin:end]
            rest += reader.feed(piece) if reader.told is None else piece
        self.assertEqual((rest, reader.told), (CONNECT, told))


class ListenerTests(SocketCase):
    """Rows 75 and 235: at a listener whose endpoint begins with ``haproxy:``."""

    limits = Limits(max_connections_per_address=9)

    def setUp(self) -> None:
        super().setUp()
        self.events: list[Any] = []
        observe_log(self, self.events.append)
        site = make_site(reactor, WebSettings(), lambda: "", [("page", Page())])
        self.listen("haproxy:tcp:0:interface=127.0.0.1", site)

    def test_the_client_behind_the_proxy_is_the_peer(self) -> "Deferred[Any]":
        for number, header in enumerate((V1, v2(0x21, 0x21, IN6, TLVS), v2(0x21, 0x31, UNIX))):
            self.open(header + encode(Connect(f"behind {number}")))

        def check(_: None) -> None:
            self.assertEqual(self.answers(), [CONNACK] * 3)
            found = {connection.address for connection in self.harness.shared.connections}
            self.assertEqual(found, {"203.0.113.9:5555", "[2001:db8::9]:5555", "unix"})

        return self.turns().addCallback(check).addCallback(self.leave)

    def test_a_missing_doubled_or_broken_header_closes_and_is_said(self) -> "Deferred[Any]":
        for data in (*BAD[:4], V1 + V1 + CONNECT, V1 + v2(0x20, 0) + CONNECT):
            self.open(data)

        def check(_: None) -> None:
            answers = self.answers()
            self.assertEqual([*answers[:4], answers[5]], [b""] * 5)
            self.assertTrue((answers[4] or b"").startswith(b"HTTP/1.1 400"))
            self.assertFalse(self.harness.shared.connections)
            self.assertEqual(self.harness.broker.traffic.protocol_errors["PROXY header"], 4)
            reasons = [event["reason"] for event in self.events if event.get("cause") == "PROXY header"]
            self.assertEqual(len(reasons), 4)
            self.assertIn("not with a PROXY header; its endpoint in listen begins with haproxy:", reasons[0])

        return self.turns().addCallback(check).addCallback(self.leave)

    def test_checks_of_a_balancer_leave_no_line(self) -> "Deferred[Any]":
        """HAProxy connects, says LOCAL, or UNKNOWN in version 1, and leaves again or asks over HTTP."""
        probe = b"OPTIONS /readyz HTTP/1.0\r\n\r\n"
        for header in (v2(0x20, 0), b"PROXY UNKNOWN\r\n"):
            self.open(header)
            self.open(header + probe)

        def check(_: None) -> None:
            silent, probed, also_silent, also_probed = self.answers()
            self.assertEqual((silent, also_silent), (None, None))
            for answer in (probed, also_probed):
                self.assertTrue((answer or b"").startswith(b"HTTP/1.0 200"), answer)

        def gone(_: None) -> None:
            self.assertEqual([event for event in self.events if "cause" in event], [])
            self.assertEqual(self.harness.broker.traffic.protocol_errors, {})

        return self.turns().addCallback(check).addCallback(self.leave).addCallback(gone)

    def test_whom_the_proxy_does_not_name_is_no_client_of_this_machine(self) -> "Deferred[Any]":
        """The page is for clients of this machine, so for one that a proxy here calls its neighbour."""
        strangers = (V1, b"PROXY UNKNOWN\r\n", v2(0x21, 0))
        neighbours = (v2(0x20, 0), v2(0x21, 0x11, packed("127.0.0.1", "127.0.0.1")), v2(0x21, 0x31, UNIX))
        for header in (*strangers, *neighbours):
            self.open(header + b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def check(_: None) -> None:
            codes = [(answer or b"? ?").split(b" ")[1] for answer in self.answers()]
            self.assertEqual(codes, [b"403"] * 3 + [b"200"] * 3)

        return self.turns().addCallback(check).addCallback(self.leave)
