"""ImmediateServer over a real socket: at once when the kernel takes it, queued when it does not."""

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from platziverse.door.port import ImmediateServer, guard
from platziverse.testing import BrokerHarness


class Sink(Protocol):
    def __init__(self) -> None:
        self.paused = 0
        self.made: Deferred[Sink] = Deferred()

    def connectionMade(self) -> None:
        self.made.callback(self)


class Immediate(TestCase):
    def setUp(self) -> Any:
        self.sink = Sink()
        self.client = socket.socket()
        self.addCleanup(self.client.close)

        def listening(port: Any) -> "Deferred[Sink]":
            guard(port, BrokerHarness().crowd)
            self.addCleanup(port.stopListening)
            self.client.connect(("127.0.0.1", port.getHost().port))
            self.client.setblocking(False)
            return self.sink.made

        endpoint: Any = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        return endpoint.listen(Factory.forProtocol(lambda: self.sink)).addCallback(listening)

    def test_small_data_is_sent_within_the_call(self) -> None:
        transport: Any = self.sink.transport
        self.assertIsInstance(transport, ImmediateServer)
        transport.write(b"answer")
        self.assertEqual(transport.dataBuffer, b"")
        self.client.settimeout(60)  # it has left; the kernel may take its time
        self.assertEqual(self.client.recv(100), b"answer")

    def test_what_the_kernel_does_not_take_follows_in_order(self) -> "Deferred[None]":
        transport: Any = self.sink.transport
        total = 30 * 1024 * 1024
        block = bytes(range(256)) * 4096
        for _ in range(total // len(block)):
            transport.write(block)
        transport.write(b"end")
        self.assertTrue(transport.dataBuffer or transport._tempDataBuffer)
        done: Deferred[None] = Deferred()
        received = bytearray()

        def read() -> None:
            try:
                while len(received) < total + 3:
                    received.extend(self.client.recv(1 << 20))
            except BlockingIOError:
                reactor.callLater(0, read)
                return
            done.callback(None)

        read()

        def check(_: None) -> None:
            self.assertEqual(bytes(received), block * (total // len(block)) + b"end")

        return done.addCallback(check)

    def test_writing_to_a_reset_connection_ends_it_in_the_usual_way(self) -> "Deferred[None]":
        lost: Deferred[None] = Deferred()
        self.sink.connectionLost = lambda reason: lost.callback(None)  # type: ignore[method-assign,assignment,misc]
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()
        transport: Any = self.sink.transport
        for _ in range(5):
            transport.write(b"x" * 1000)
        return lost
