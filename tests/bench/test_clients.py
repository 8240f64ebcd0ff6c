"""The clients of the load generator against a server that says what it was told to say."""

import select
import socket
import threading
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from bench.clients import Publisher, Subscriber, Tally, Unexpected, exactly
from bench.generator import Job, measure_flow, percentiles
from bench.relay import Relay
from bench.rings import same_topic
from bench.wire5 import with_properties
from tests.crash import wire

CONNACK = b"\x20\x02\x00\x00"


class ScriptedServer:
    """Accepts one client in a thread and answers its CONNECT; the rest is said step by step."""

    def __init__(self, connack: bytes = CONNACK) -> None:
        self._connack = connack
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = ("127.0.0.1", self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        self.client, _ = self._listener.accept()
        self.client.settimeout(10)
        first = exactly(self.client, 2)
        exactly(self.client, first[1])
        self.client.sendall(self._connack)

    def says(self, data: bytes) -> None:
        self.client.sendall(data)

    def close(self) -> None:
        self._thread.join()
        self.client.close()
        self._listener.close()


class FiveTests(SynchronousTestCase):
    def test_acknowledgements_of_mqtt_5_may_have_five_bytes(self) -> None:
        poll = select.epoll()
        self.addCleanup(poll.close)
        for answer in (b"\x40\x02\x00", b"\x40\x03\x00\x01\x10"):
            server = ScriptedServer(b"\x20\x03\x00\x00\x00")
            self.addCleanup(server.close)
            tally = Tally(0, 1)
            ring = same_topic("t", 4, 1, properties=b"\x01\x01")
            client = Publisher(server.address, "p", tally, ring, 1, 4, b"", protocol=5)
            client.start(poll)
            self.addCleanup(client.socket.close)
            server.says((answer + b"\x01")[: 2 + answer[1]] * 3)
            self.assertTrue(poll.poll(10))
            client.publish()
            client.readable()
            self.assertEqual(tally.acknowledged, 3)

    def test_what_comes_before_the_start_is_acknowledged(self) -> None:
        server = ScriptedServer(b"\x20\x03\x00\x00\x00")
        self.addCleanup(server.close)
        client = Subscriber(server.address, "s", Tally(1, 1), 1, 1, 1, b"", protocol=5)
        self.addCleanup(client.socket.close)
        first, second = (with_properties(wire.publish("t", b"x", 1, number), b"") for number in (7, 8))
        server.says(first + second)
        client.receive(2)
        self.assertEqual(exactly(server.client, 8), wire.puback(7) + wire.puback(8))


class ClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.addCleanup(self.server.close)
        self.poll = select.epoll()
        self.addCleanup(self.poll.close)

    def subscriber(self, qos: int) -> tuple[Subscriber, Tally]:
        tally = Tally(1, 1)
        size = len(self.message(qos, 1))
        client = Subscriber(self.server.address, "s", tally, size, size - 4 - 2, qos, b"")
        client.start(self.poll)
        self.addCleanup(client.socket.close)
        return client, tally

    def publisher(self, qos: int, window: int) -> tuple[Publisher, Tally]:
        tally = Tally(0, 1)
        client = Publisher(self.server.address, "p", tally, same_topic("t", 4, qos), qos, window, b"")
        client.start(self.poll)
        self.addCleanup(client.socket.close)
        return client, tally

    def heard(self, expected: bytes) -> None:
        self.assertEqual(exactly(self.server.client, len(expected)), expected)

    @staticmethod
    def message(qos: int, number: int) -> bytes:
        return wire.publish("t", b"abcd", qos, number)

    def fed(self, client: Publisher | Subscriber, data: bytes, until: Callable[[], bool]) -> None:
        """Say it byte by byte, so that everything is cut everywhere."""
        for byte in data:
            self.server.says(bytes((byte,)))
            self.assertTrue(self.poll.poll(10))
            client.readable()
        self.assertTrue(until())

    def test_qos_1_is_acknowledged_with_its_own_identifiers(self) -> None:
        client, tally = self.subscriber(1)
        self.fed(client, self.message(1, 7) + self.message(1, 65535), lambda: tally.delivered == 2)
        self.heard(b"\x40\x02\x00\x07\x40\x02\xff\xff")

    def test_qos_2_counts_when_it_is_released(self) -> None:
        client, tally = self.subscriber(2)
        self.fed(client, self.message(2, 7) + self.message(2, 8), lambda: tally.delivered == 0)
        self.heard(b"\x50\x02\x00\x07\x50\x02\x00\x08")
        self.fed(client, wire.pubrel(7) + self.message(2, 9), lambda: tally.delivered == 1)
        self.heard(b"\x70\x02\x00\x07\x50\x02\x00\x09")

    def test_what_is_no_delivery_is_not_counted(self) -> None:
        client, _ = self.subscriber(0)
        self.server.says(b"\xd0\x00" * 20)
        self.assertTrue(self.poll.poll(10))
        self.assertRaises(Unexpected, client.readable)

    def test_a_publisher_keeps_its_window(self) -> None:
        client, tally = self.publisher(1, 2)
        client.publish()
        client.publish()
        self.heard(self.sent(1, 1, 2))
        self.fed(client, wire.puback(1), lambda: tally.acknowledged == 1)
        self.heard(self.sent(1, 3))
        self.assertEqual(len(tally.latencies), 1)

    def test_a_publisher_releases_what_was_received(self) -> None:
        client, tally = self.publisher(2, 1)
        client.publish()
        self.heard(self.sent(2, 1))
        self.fed(client, b"\x50\x02\x00\x01", lambda: tally.acknowledged == 0)
        self.heard(wire.pubrel(1))
        self.fed(client, b"\x70\x02\x00\x01", lambda: tally.acknowledged == 1)
        self.heard(self.sent(2, 2))

    def test_a_lost_connection_ends_the_measurement(self) -> None:
        client, _ = self.publisher(1, 1)
        self.server.client.shutdown(socket.SHUT_WR)
        self.assertTrue(self.poll.poll(10))
        self.assertRaises(Unexpected, client.readable)

    @staticmethod
    def sent(qos: int, *numbers: int) -> bytes:
        return b"".join(wire.publish("t", b"xxxx", qos, number) for number in numbers)


class FlowTests(SynchronousTestCase):
    """The whole generator against the relay, which runs in a thread here."""

    def measured(self, **job: object) -> dict[str, float]:
        relay = Relay(0)
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        self.addCleanup(relay.stop)
        return measure_flow(Job(port=relay.port, warm=0.02, seconds=0.05, **job))  # type: ignore[arg-type]

    def test_every_subscriber_gets_every_message(self) -> None:
        found = self.measured(subscribers=[["bench/+"]] * 3, deliveries=3, publishers=2, window=50)
        self.assertGreater(found["messages"], 0)

    def test_latency_is_measured_where_there_are_acknowledgements(self) -> None:
        found = self.measured(publishers=2, qos=1)
        self.assertGreater(found["messages"], 0)
        self.assertTrue(0 < found["p50"] <= found["p99"] < 1, found)

    def test_percentiles(self) -> None:
        self.assertEqual(percentiles([]), {})
        self.assertEqual(percentiles([n / 100 for n in range(100, 0, -1)]), {"p50": 0.51, "p99": 1.0})
