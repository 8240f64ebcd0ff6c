"""Crowd: how many may be connected, over real sockets of every kind."""

import os
import socket
import tempfile
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.broker.limits import Limits
from platziverse.daemon.listening import Listeners, divided, is_proxied, readable
from platziverse.door.crowd import Crowd, origin
from platziverse.door.sniff import SniffingFactory
from platziverse.door.upgrade import WebSocketResource
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from platziverse.testing import BrokerHarness
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.door.test_sniff import CONNACK
from tests.memory import objects_kept

CONNECT = encode(Connect(""))
HEADER = b"PROXY TCP4 203.0.113.%d 192.0.2.2 5555 1883\r\n"
WEBSOCKET = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)


class CountTests(SynchronousTestCase):
    def crowd(self, per_address: int = 0) -> Crowd:
        self.broker = BrokerHarness().broker
        limits = Limits(max_connections_per_address=per_address)
        return Crowd(limits, self.broker.traffic, self.broker.complaints)

    def come(self, crowd: Crowd, address: Any) -> bool:
        place = origin(address)
        if not crowd.admits(address, place):
            return False
        crowd.entered(object())
        crowd.came_from(place)
        return True

    def test_an_ipv6_site_is_one_address(self) -> None:
        crowd = self.crowd(per_address=2)
        hosts = ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")
        addresses = [IPv6Address("TCP", host, 1) for host in hosts]
        self.assertEqual([self.come(crowd, address) for address in addresses], [True, True, False, True])
        self.assertEqual(self.broker.traffic.connections_refused, {"address": 1})

    def test_unix_sockets_have_no_address(self) -> None:
        crowd = self.crowd(per_address=1)
        self.assertTrue(all(self.come(crowd, UNIXAddress("/run/m.sock")) for _ in range(10)))

    def test_without_a_limit_everybody_comes_in(self) -> None:
        crowd = self.crowd()
        address = IPv4Address("TCP", "192.0.2.1", 1)
        self.assertTrue(all(self.come(crowd, address) for _ in range(10_000)))

    def test_whoever_leaves_is_forgotten(self) -> None:
        crowd = self.crowd(per_address=3)
        before = objects_kept(crowd)
        for _ in range(3):
            self.come(crowd, IPv4Address("TCP", "192.0.2.1", 1))
        for gone in list(crowd.sockets):
            crowd.left(gone, "192.0.2.1")
        self.assertEqual((crowd.total, objects_kept(crowd)), (0, before))


LOCAL = IPv4Address("TCP", "127.0.0.1", 1)


class SocketCase(TestCase):
    limits = Limits()

    def setUp(self) -> None:
        self.harness = BrokerHarness(limits=self.limits)
        self.crowd = self.harness.crowd
        time = LoopingCall(self.harness.advance, 0.001)  # the harness has a clock of its own
        time.start(0.001)
        self.addCleanup(time.stop)
        self.listeners = Listeners(reactor, self.crowd)
        self.addCleanup(self.listeners.stop)
        self.clients: list[socket.socket] = []

    def listen(self, description: str = "tcp:0:interface=127.0.0.1", site: Any = None) -> None:
        self.factory = SniffingFactory(self.harness.factory, site, proxied=is_proxied(description))
        self.listeners.listen(divided(description)[0], self.factory)

    def open(self, data: bytes = b"") -> socket.socket:
        where = readable(self.listeners.ports[-1])
        if where.startswith("/"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(where)
        else:
            client = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
        if data:
            client.sendall(data)
        client.setblocking(False)
        self.clients.append(client)
        self.addCleanup(client.close)
        return client

    @inlineCallbacks
    def turns(self, result: Any = None, seconds: float = 0.05) -> Generator["Deferred[None]", None, Any]:
        """Let the reactor have a turn in each millisecond, on a busy machine in more time than that."""
        for _ in range(round(seconds * 1000)):
            yield deferLater(reactor, 0.001, lambda: None)
        return result

    def answer(self, client: socket.socket) -> "bytes | None":
        """What came; empty if the connection was closed, ``None`` if it is open and silent."""
        try:
            return client.recv(4096)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    def answers(self) -> "list[bytes | None]":
        return [self.answer(client) for client in self.clients]

    def leave(self, result: Any = None) -> "Deferred[Any]":
        for client in self.clients:
            client.close()
        return self.turns().addCallback(lambda _: self.assert_nobody_is_counted())

    def assert_nobody_is_counted(self) -> None:
        self.assertEqual(self.crowd.total, 0)
        for _ in range(self.limits.max_connections_per_address):
            self.assertTrue(self.crowd.admits_origin(LOCAL, LOCAL.host))
            self.crowd.came_from(LOCAL.host)


class TotalTests(SocketCase):
    limits = Limits(max_connections=3)

    def test_one_too_many_is_closed_at_once_and_whoever_leaves_makes_room(self) -> "Deferred[Any]":
        """Row 118."""
        self.listen()
        for _ in range(4):
            self.open()

        def full(_: None) -> "Deferred[Any]":
            self.assertEqual(self.answers(), [None, None, None, b""])
            self.assertEqual(self.harness.broker.traffic.connections_refused, {"total": 1})
            self.clients[0].close()
            return self.turns()

        def room(_: None) -> "Deferred[Any]":
            self.open(CONNECT)
            return self.turns()

        def served(_: None) -> None:
            self.assertEqual(self.answer(self.clients[-1]), CONNACK)

        return self.turns().addCallback(full).addCallback(room).addCallback(served).addCallback(self.leave)


class KindTests(SocketCase):
    limits = Limits(max_connections=4)

    def test_every_kind_of_connection_counts_for_all_ports(self) -> "Deferred[Any]":
        """A silent one, HTTP, a WebSocket and MQTT, over TCP and a Unix socket."""
        websocket = WebSocketResource(self.harness.factory)
        self.listen(site=make_site(reactor, WebSettings(), lambda: "", (), websocket))
        self.open()
        self.open(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.open(WEBSOCKET)
        path = os.path.join(tempfile.mkdtemp(), "mqtt.sock")
        self.listen(f"unix:{path}")
        self.open(CONNECT)
        self.open(CONNECT)

        def check(_: None) -> None:
            silent, web, websocket, mqtt, refused = self.answers()
            self.assertEqual((silent, mqtt, refused), (None, CONNACK, b""))
            self.assertTrue((web or b"").startswith(b"HTTP/1.1 200"))
            self.assertTrue((websocket or b"").startswith(b"HTTP/1.1 101"))
            self.assertEqual(self.crowd.total, 4)

        return self.turns(seconds=0.2).addCallback(check).addCallback(self.leave)


class HTTPTests(SocketCase):
    def test_http_has_a_limit_of_its_own_that_is_counted(self) -> "Deferred[Any]":
        traffic = self.harness.broker.traffic
        settings = WebSettings(max_connections=1)
        self.listen(site=make_site(reactor, settings, lambda: "", (), None, traffic=traffic))
        self.open(b"G")
        self.open(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def check(_: None) -> None:
            first, second = self.answers()
            self.assertIsNone(first)
            self.assertTrue((second or b"").startswith(b"HTTP/1.1 503 "))
            self.assertEqual(traffic.connections_refused, {"http": 1})

        return self.turns().addCallback(check).addCallback(self.leave)


class AddressTests(SocketCase):
    limits = Limits(max_connections_per_address=2)

    def test_one_address_may_have_so_many(self) -> "Deferred[Any]":
        self.listen()
        for _ in range(3):
            self.open(CONNECT)

        def check(_: None) -> None:
            self.assertEqual(self.answers(), [CONNACK, CONNACK, b""])

        return self.turns().addCallback(check).addCallback(self.leave)


class ProxyTests(SocketCase):
    """Row 75: a listener whose description begins with ``haproxy:``."""

    limits = Limits(max_connections_per_address=2, max_connections=7)

    def setUp(self) -> None:
        super().setUp()
        self.listen("haproxy:tcp:0:interface=127.0.0.1:protocol=mqtt")

    def test_the_addresses_in_the_headers_are_counted(self) -> "Deferred[Any]":
        for number in (1, 1, 1, 2, 2, 2):
            self.open(HEADER % number + CONNECT)

        def check(_: None) -> None:
            self.assertEqual(self.answers(), [CONNACK, CONNACK, b""] * 2)
            hosts = sorted(connection.address for connection in self.harness.shared.connections)
            self.assertEqual(hosts, ["203.0.113.1:5555"] * 2 + ["203.0.113.2:5555"] * 2)

        return self.turns().addCallback(check).addCallback(self.leave)

    def test_one_too_many_is_closed_before_its_header(self) -> "Deferred[Any]":
        for number in range(8):
            self.open(HEADER % number + CONNECT)

        def check(_: None) -> None:
            self.assertEqual(self.answers(), [CONNACK] * 7 + [b""])
            self.assertEqual(self.harness.broker.traffic.connections_refused, {"total": 1})

        return self.turns().addCallback(check).addCallback(self.leave)

    def test_a_header_anywhere_else_closes(self) -> "Deferred[Any]":
        self.listen(site=make_site(reactor, WebSettings(), lambda: "", (), None))
        second_version = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
        for header in (HEADER % 1, second_version):
            self.open(header + CONNECT)

        def check(_: None) -> None:
            for answer in self.answers():
                self.assertIn((answer or b"").partition(b"\r\n")[0], (b"", b"HTTP/1.1 400 Bad Request"))
            self.assertFalse(self.harness.shared.connections)

        return self.turns().addCallback(check).addCallback(self.leave)
