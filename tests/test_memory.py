"""What a connection takes of the memory, beside its transport: idle, publishing, or with a window.

The same on every machine, so a tenth more than MEASURED fails, and so does a fifth less: enter the new row.
``python -m tests.test_memory`` prints that of its Python. Clients by the ten thousand are idle: an attribute
here costs a megabyte there, and an object of more than 30 attributes without slots 1.5 KiB each.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Publish
from platziverse.net.connection import Connection
from platziverse.testing import BrokerHarness

#: Bytes of a client by Python version: that has not sent CONNECT, idle, publishing, with a window.
MEASURED: Final = {
    (3, 10): (778, 1486, 1703, 2014),
    (3, 11): (802, 1453, 1668, 1963),
    (3, 12): (786, 1437, 1652, 1947),
    (3, 13): (770, 1421, 1636, 1931),
}
MORE: Final = 1.1
LESS: Final = 1.2

#: Connections that are measured, after some of which the interpreter learns how large their objects are.
#: Sets and dicts grow by leaps: other numbers give other figures.
COUNT: Final = 200
BEFORE: Final = 50
PEER: Final = IPv4Address("TCP", "127.0.0.1", 40_000)
HOST: Final = IPv4Address("TCP", "127.0.0.1", 1883)


class Transport:
    """As little as a transport can be: what is measured is ours."""

    __slots__ = ("producer",)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self.producer = producer

    def getPeer(self) -> IPv4Address:
        return PEER

    def getHost(self) -> IPv4Address:
        return HOST

    def write(self, data: bytes) -> None: ...


def silent(connection: Connection, number: int) -> None:
    """Nothing has come."""


def idle(connection: Connection, number: int) -> None:
    connection.dataReceived(encode(Connect(f"client-{number:04}", keep_alive=60)))


def publishing(connection: Connection, number: int) -> None:
    idle(connection, number)
    connection.dataReceived(encode(Publish("t", b"x", 1, packet_id=1)))


def windowed(connection: Connection, number: int) -> None:
    idle(connection, number)
    messages = [Publish("t", b"x", 1, packet_id=packet_id) for packet_id in range(1, 21)]
    connection.dataReceived(b"".join(map(encode, messages)))


STATES: Final = (silent, idle, publishing, windowed)


class Crowd:
    """Connections of one broker, all in one state."""

    def __init__(self, prepare: Callable[[Connection, int], None]) -> None:
        self._shared = BrokerHarness(limits=Limits(max_connects_per_minute=1_000_000)).shared
        self._prepare = prepare

    def open(self, number: int) -> Connection:
        connection = Connection(self._shared)
        transport: Any = Transport()
        connection.makeConnection(transport)
        self._prepare(connection, number)
        self._shared.flushes.flush()
        return connection


def size(prepare: Callable[[Connection, int], None]) -> int:
    """Bytes that one more connection takes, once everything that is shared is there."""
    crowd = Crowd(prepare)
    before = [crowd.open(number) for number in range(BEFORE)]
    measured: list[Connection | None] = [None] * COUNT
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(COUNT):
            measured[number] = crowd.open(BEFORE + number)
        gc.collect()
        return round(tracemalloc.get_traced_memory()[0] / COUNT)
    finally:
        tracemalloc.stop()
        del before


class Memory(SynchronousTestCase):
    def test_a_connection_takes_what_it_took(self) -> None:
        measured = MEASURED.get(sys.version_info[:2], MEASURED[max(MEASURED)])
        for state, before in zip(STATES, measured, strict=True):
            now = size(state)
            self.assertLessEqual(now, before * MORE, f"{state.__name__} takes more than when it was measured")
            self.assertLessEqual(
                before, now * LESS, f"{state.__name__} takes less: run python -m tests.test_memory"
            )

    def test_it_has_no_attribute_without_a_slot(self) -> None:
        """It would have a dict as well."""
        self.assertEqual(vars(Crowd(windowed).open(1)), {})

    def test_an_attribute_more_is_noticed(self) -> None:
        def fatter(connection: Connection, number: int) -> None:
            idle(connection, number)
            for name in range(31):
                setattr(connection, f"more_{name}", None)

        self.assertGreater(size(fatter), size(idle) * MORE)


if __name__ == "__main__":
    print(f"    {sys.version_info[:2]}: {tuple(map(size, STATES))},")
