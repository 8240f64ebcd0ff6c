"""ImmediateServer over a real socket: at once when the kernel takes it, queued when it does not."""

import contextlib
import socket
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from platziverse.broker.limits import MIB, Limits
from platziverse.door.crowd import LEAST_UNSENT, MOST_UNSENT
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
            self.crowd = BrokerHarness(limits=Limits(max_memory=MIB)).crowd
            guard(port, self.crowd)
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

    def test_what_has_come_can_be_acknowledged_at_once(self) -> None:
        """Row 273: else the kernel waits for 40 ms, as we have just answered something."""
        transport: Any = self.sink.transport

        def unacknowledged() -> int:
            return int.from_bytes(ioctl(self.client, TIOCOUTQ, bytes(4)), sys.byteorder)

        for _ in range(100):  # on a busy machine the 40 ms may be over before we look
            self.client.send(b"question")
            transport.doRead()
            transport.write(b"answer")
            self.client.send(b"and nothing to answer")
            transport.doRead()
            if unacknowledged():
                transport.acknowledge_now()
                self.assertEqual(unacknowledged(), 0)
                return
        self.fail("the kernel has never waited")

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

    def test_the_kernel_takes_little_of_a_client_that_reads_nothing(self) -> "Deferred[None]":
        """Row 355: it took 4 MiB of each, and nobody counted them."""
        if sys.platform != "linux":
            raise SkipTest("only Linux has a bound, and says how much it takes")
        transport: Any = self.sink.transport
        self.assertEqual([*self.crowd.sockets], [transport])
        self.assertEqual(transport.kernel_bytes(), 0)
        lost: Deferred[None] = Deferred()
        self.sink.connectionLost = lambda reason: lost.callback(None)  # type: ignore[method-assign,assignment,misc]
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < 2 * MOST_UNSENT:
                taken += transport.socket.send(bytes(LEAST_UNSENT))
        self.assertLess(taken, MOST_UNSENT)
        self.assertGreater(transport.kernel_bytes(), LEAST_UNSENT)
        self.assertLess(transport.kernel_bytes(), 2 * LEAST_UNSENT)
        transport.abortConnection()

        def check(_: None) -> None:
            self.assertEqual((transport.kernel_bytes(), self.crowd.total), (0, 0))

        return lost.addCallback(check)

    def test_writing_to_a_reset_connection_ends_it_in_the_usual_way(self) -> "Deferred[None]":
        lost: Deferred[None] = Deferred()
        self.sink.connectionLost = lambda reason: lost.callback(None)  # type: ignore[method-assign,assignment,misc]
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()
        transport: Any = self.sink.transport
        for _ in range(5):
            transport.write(b"x" * 1000)
        return lost
