"""Every vector against the broker: whole, byte by byte, in one segment, and over a real socket."""

import json
import random
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import ServerFactory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.broker.broker import Broker
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.limits import Limits
from platziverse.door.port import guard
from platziverse.net.connection import Connection
from platziverse.net.factory import MQTTFactory
from platziverse.net.shared import Shared
from platziverse.testing import BrokerHarness, FakeClient, OpenAuthority
from tests.vectors.build import CONNECTED, connect
from tests.vectors.generate import FILES, contents, load

#: Bytes above which a vector is not sent byte by byte: its length is what it is about.
LARGE = 20_000


def conversation(vector: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """(sent, expected) pairs of a vector, its CONNECT included."""
    pairs = [(connect(), CONNECTED)] if vector["connect"] else []
    for step in vector["steps"]:
        if "send" in step:
            pairs.append((bytes.fromhex(step["send"]), b""))
        else:
            sent, expected = pairs[-1]
            pairs[-1] = (sent, expected + bytes.fromhex(step["expect"]))
    return pairs


def pieces(pairs: list[tuple[bytes, bytes]], way: str) -> Iterator[tuple[list[bytes], bytes]]:
    """What to feed, and what must have come after it."""
    if way == "in one segment":
        yield [b"".join(sent for sent, _ in pairs)], b"".join(expected for _, expected in pairs)
        return
    if way == "split anywhere":
        for number, (sent, expected) in enumerate(pairs):
            chance = random.Random(sent + bytes((number % 256,)))
            cuts = sorted(chance.randrange(len(sent) + 1) for _ in range(chance.randrange(4)))
            yield [sent[at:to] for at, to in pairwise([0, *cuts, len(sent)])], expected
        return
    for sent, expected in pairs:
        whole = way == "whole" or len(sent) > LARGE
        yield [sent] if whole else [sent[at : at + 1] for at in range(len(sent))], expected


class FakeTransports(SynchronousTestCase):
    def run_one(self, vector: dict[str, Any], way: str) -> str | None:
        """What went wrong, if anything."""
        harness = BrokerHarness()
        client = harness.open()
        for chunks, expected in pieces(conversation(vector), way):
            for chunk in chunks:
                if not client.closed:
                    client.send_bytes(chunk)
                    self.settle(harness, client)
            if (got := client.received_bytes()) != expected:
                return f"{vector['name']} {way}: {got.hex()} in place of {expected.hex()}"
        if client.closed != vector["closed"]:
            return f"{vector['name']} {way}: {'closed' if client.closed else 'left open'}"
        if harness.broker.traffic.internal_errors:
            return f"{vector['name']} {way}: internal error"
        return None

    @staticmethod
    def settle(harness: BrokerHarness, client: FakeClient) -> None:
        while client.held and not client.closed:
            harness.turn()

    def check(self, way: str) -> None:
        wrong = [
            error for name in FILES for vector in load(f"{name}.json") if (error := self.run_one(vector, way))
        ]
        self.assertEqual(wrong, [])

    def test_whole(self) -> None:
        self.check("whole")

    def test_byte_by_byte(self) -> None:
        """row 5"""
        self.check("byte by byte")

    def test_split_anywhere(self) -> None:
        """Row 5: in up to four pieces, which are the same each time"""
        self.check("split anywhere")

    def test_in_one_segment(self) -> None:
        """row 65"""
        self.check("in one segment")

    def test_there_are_enough_and_they_are_what_the_generator_writes(self) -> None:
        vectors = [vector for name in FILES for vector in load(f"{name}.json")]
        self.assertGreaterEqual(len(vectors), 600)
        self.assertEqual(len({(vector["name"], str(vector["steps"])) for vector in vectors}), len(vectors))
        for file_name, content in contents().items():
            self.assertEqual(load(file_name), json.loads(content), file_name)


class FreshBrokers(ServerFactory):
    """A broker of its own for every connection, so that no vector finds what another has left."""

    def __init__(self) -> None:
        self.factories: list[MQTTFactory] = []

    def buildProtocol(self, addr: Any) -> Connection:
        clock: Any = reactor
        broker = Broker(Limits(), TopicDispatcher(), OpenAuthority(), clock, clock.seconds)
        self.factories.append(MQTTFactory(Shared(broker, clock)))
        return self.factories[-1].buildProtocol(addr)

    def stop(self) -> None:
        for factory in self.factories:
            factory.shared.stop()


class RealSockets(TestCase):
    timeout = 300

    def test_over_a_real_socket(self) -> "Deferred[None]":
        """[MQTT5-4.2-1]"""
        endpoint: Any = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        brokers = FreshBrokers()
        self.addCleanup(brokers.stop)

        def listening(port: Any) -> "Deferred[None]":
            guard(port, BrokerHarness().crowd)
            self.addCleanup(port.stopListening)
            return deferToThread(self.run_all, port.getHost().port).addCallback(self.assertEqual, [])

        listen: Deferred[Any] = endpoint.listen(brokers)
        return listen.addCallback(listening)

    def run_all(self, port: int) -> list[str]:
        return [
            error
            for name in FILES
            for vector in load(f"{name}.json")
            if (error := self.run_one(vector, port))
        ]

    def run_one(self, vector: dict[str, Any], port: int) -> str | None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for sent, expected in conversation(vector):
                try:
                    client.sendall(sent)
                    got = self.receive(client, len(expected))
                except ConnectionError:
                    got = b""
                if got != expected:
                    return f"{vector['name']}: {got.hex()} in place of {expected.hex()}"
            if vector["closed"] and self.receive(client, 1):
                return f"{vector['name']}: something came in place of the end"
        return None

    @staticmethod
    def receive(client: socket.socket, count: int) -> bytes:
        data = b""
        try:
            while len(data) < count and (more := client.recv(count - len(data))):
                data += more
        except ConnectionError:
            return data
        return data
