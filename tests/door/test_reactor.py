"""ServingReactor does as Twisted would; a connection that has ended leaves nothing behind."""

import gc
import socket
import subprocess
import sys
import weakref
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from platziverse.door.port import ImmediateServer, guard
from platziverse.door.reactor import MAX_EVENTS, ServingReactor
from platziverse.door.sniff import SniffingFactory
from platziverse.door.upgrade import WebSocketResource
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Puback, Publish
from platziverse.testing import BrokerHarness
from tests.door.test_frames import BINARY, frame
from tests.door.test_websocket import Root
from tests.door.test_websocket import request as websocket_request


class Peer(Protocol):
    """Keeps what it gets; ``b"bug"`` is one."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if data == b"bug":
            raise ZeroDivisionError

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason


class ReactorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = ServingReactor()
        self.addCleanup(self.put_away)
        self.peers: list[Peer] = []
        self.port = self.reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        guard(self.port, BrokerHarness().crowd)

    def factory(self) -> Any:
        return Factory.forProtocol(self.accept)

    def accept(self) -> Peer:
        self.peers.append(Peer())
        return self.peers[-1]

    def put_away(self) -> None:
        for reader in (*self.reactor.removeAll(), *self.reactor._internalReaders):
            reader.connectionLost(Failure(ConnectionDone()))
        self.reactor._poller.close()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port.getHost().port))
        self.addCleanup(client.close)
        self.reactor.doPoll(5)
        return client


class Serving(ReactorCase):
    def test_a_read_reaches_the_protocol(self) -> None:
        client = self.connect()
        client.sendall(b"hello")
        self.reactor.doPoll(5)
        self.assertIsInstance(self.peers[0].transport, ImmediateServer)
        self.assertEqual(self.peers[0].received, b"hello")

    def test_the_end_of_the_stream_ends_the_connection(self) -> None:
        self.connect().close()
        self.reactor.doPoll(5)
        lost = self.peers[0].lost
        assert lost is not None
        self.assertTrue(lost.check(ConnectionDone))
        self.assertNotIn(self.peers[0].transport, self.reactor.getReaders())

    def test_a_bug_is_logged_and_ends_only_its_connection(self) -> None:
        first, second = self.connect(), self.connect()
        first.sendall(b"bug")
        self.reactor.doPoll(5)
        second.sendall(b"still here")
        self.reactor.doPoll(5)
        lost = self.peers[0].lost
        assert lost is not None
        self.assertTrue(lost.check(ZeroDivisionError))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.peers[1].received, self.peers[1].lost), (b"still here", None))

    def test_more_events_than_are_taken_at_once_come_in_the_next_turn(self) -> None:
        clients = [self.connect() for _ in range(MAX_EVENTS + 20)]
        for client in clients:
            client.sendall(b"x")
        self.reactor.doPoll(5)
        self.assertEqual(sum(len(peer.received) for peer in self.peers), MAX_EVENTS)
        self.reactor.doPoll(5)
        self.assertEqual(sum(len(peer.received) for peer in self.peers), MAX_EVENTS + 20)

    def test_what_waits_to_be_written_is_written(self) -> None:
        client = self.connect()
        transport: Any = self.peers[0].transport
        transport.write(b"x" * 20_000_000)
        left = 20_000_000
        while left:
            left -= len(client.recv(1_000_000))
            self.reactor.doPoll(0)
        self.assertEqual((transport.dataBuffer, transport._tempDataBuffer), (b"", []))


class Garbage(ReactorCase):
    """The garbage collector hardly ever looks at what has lived for a while: see collect_rarely."""

    def factory(self) -> Any:
        self.harness = BrokerHarness()
        self.addCleanup(gc.enable)
        site = Site(Root(WebSocketResource(self.harness.factory)), reactor=self.harness.clock)
        return SniffingFactory(self.harness.factory, site)

    def talk(self, client: socket.socket, data: bytes, answer: bytes) -> None:
        client.sendall(data)
        self.reactor.doPoll(5)
        received = client.recv(1000)
        self.assertIn(answer, received)

    def assert_nothing_is_left(self, client: socket.socket) -> None:
        protocol: Any
        [protocol] = self.harness.shared.connections
        left: list[weakref.ref[Any]] = [weakref.ref(protocol), weakref.ref(protocol.transport)]
        del protocol
        gc.collect()
        gc.disable()
        client.close()
        self.reactor.doPoll(5)
        self.assertEqual([each() for each in left], [None, None])

    def test_a_connection_that_has_ended_is_freed_at_once(self) -> None:
        client = self.connect()
        self.talk(client, encode(Connect("client")), b"\x20\2\0\0")
        self.talk(client, encode(Publish("topic", b"", 1, packet_id=7)), encode(Puback(7)))
        self.assert_nothing_is_left(client)

    def test_so_is_one_that_was_traced(self) -> None:
        self.harness.shared.tracing = True
        client = self.connect()
        self.talk(client, encode(Connect("client")), b"\x20\2\0\0")
        self.talk(client, encode(Publish("topic", b"", 1, packet_id=7)), encode(Puback(7)))
        self.assert_nothing_is_left(client)

    def test_a_websocket_that_has_ended_is_freed_at_once(self) -> None:
        client = self.connect()
        self.talk(client, websocket_request(), b"101")
        self.talk(client, frame(BINARY, encode(Connect("client"))), b"\x20\2\0\0")
        self.assert_nothing_is_left(client)


class Choice(SynchronousTestCase):
    def reactor_after(self, first: str) -> str:
        code = f"{first}; from platziverse.daemon.process import choose_reactor; choose_reactor()\n"
        code += "from twisted.internet import reactor; print(type(reactor).__name__)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()

    def test_the_daemon_chooses_it_before_anyone_needs_a_reactor(self) -> None:
        self.assertEqual(self.reactor_after("import platziverse.service"), "ServingReactor")

    def test_a_reactor_that_was_chosen_before_stays(self) -> None:
        chosen = "from twisted.internet.pollreactor import install; install()"
        self.assertEqual(self.reactor_after(chosen), "PollReactor")
