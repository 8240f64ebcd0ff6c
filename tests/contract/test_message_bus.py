"""What every MessageBus does; one more subclass for each further one."""

from collections.abc import Callable, Generator
from typing import Any
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from platziverse.broker.ports import MessageBus
from platziverse.bus.local import LocalBus, LocalHub
from platziverse.bus.making import make_bus
from platziverse.bus.settings import BusSettings
from tests import servers
from tests.doubles.membership import Members
from tests.doubles.receiver import Receiver
from tests.redis import MISSING_REDIS, cluster, redis, sentinels
from tests.servers import MISSING

ALL = 0b111


class MessageBusContract:
    """Mixed into a TestCase that makes the buses of three daemons, and lets what was sent arrive.

    ``arrived`` is given how many frames each of them is to receive.
    """

    buses: list[MessageBus]
    receivers: list[Receiver]
    arrived: Callable[[list[int]], "Deferred[Any]"]
    assertEqual: Callable[..., None]

    def begin(self) -> "Deferred[Any]":
        self.receivers = [Receiver() for _ in self.buses]
        started = [bus.start(receiver) for bus, receiver in zip(self.buses, self.receivers, strict=True)]
        return gatherResults(started)

    def frames(self) -> list[list[tuple[int, bytes]]]:
        return [receiver.frames for receiver in self.receivers]

    def test_a_frame_goes_to_those_whose_bit_is_set_and_never_back(self) -> "Deferred[Any]":
        def send(_: object) -> "Deferred[Any]":
            self.buses[0].send(0b010, b"to one")
            self.buses[0].send(ALL, b"to all")
            self.buses[2].send(0b100, b"to itself")
            return self.arrived([0, 2, 1])

        def check(_: object) -> None:
            self.assertEqual(self.frames(), [[], [(0, b"to one"), (0, b"to all")], [(0, b"to all")]])

        return self.begin().addCallback(send).addCallback(check)

    def test_the_frames_of_one_daemon_arrive_in_order(self) -> "Deferred[Any]":
        sent = [str(number).encode() for number in range(500)]

        def send(_: object) -> "Deferred[Any]":
            for frame in sent:
                self.buses[0].send(ALL, frame)
                self.buses[1].send(ALL, frame)
            return self.arrived([500, 500, 1000])

        def check(_: object) -> None:
            for origin in (0, 1):
                self.assertEqual([frame for by, frame in self.receivers[2].frames if by == origin], sent)
            self.assertEqual([(bus.lost, bus.missed, bus.refused) for bus in self.buses], [(0, 0, 0)] * 3)
            self.assertEqual([bus.state for bus in self.buses], ["ready"] * 3)

        return self.begin().addCallback(send).addCallback(check)

    def test_a_frame_may_hold_any_bytes_and_be_large(self) -> "Deferred[Any]":
        frames = [b"", bytes(range(256)), b"\r\n", b"x" * 1_048_576]

        def send(_: object) -> "Deferred[Any]":
            for frame in frames:
                self.buses[1].send(0b001, frame)
            return self.arrived([len(frames), 0, 0])

        def check(_: object) -> None:
            self.assertEqual([frame for _, frame in self.receivers[0].frames], frames)

        return self.begin().addCallback(send).addCallback(check)

    def test_whoever_has_stopped_gets_nothing_and_harms_nobody(self) -> "Deferred[Any]":
        def stop(_: object) -> "Deferred[None]":
            return self.buses[1].stop()

        def send(_: object) -> "Deferred[Any]":
            self.buses[0].send(ALL, b"late")
            return self.arrived([0, 0, 1])

        def check(_: object) -> None:
            self.assertEqual(self.frames(), [[], [], [(0, b"late")]])

        return self.begin().addCallback(stop).addCallback(send).addCallback(check)


class Local(MessageBusContract, TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        hub = LocalHub(self.clock)
        self.buses = [LocalBus(hub, daemon) for daemon in range(3)]
        self.arrived = self._turn

    def _turn(self, frames: list[int]) -> "Deferred[Any]":
        self.clock.advance(0)
        return succeed(None)


class Distant(TestCase):
    """A TestCase with the buses of three daemons of a new set, over a server at ``url``."""

    receivers: list[Receiver]

    def make(self, url: str, database: str = "", **settings: Any) -> None:
        members = Members()
        all_settings = BusSettings(url=url, name=f"test-{uuid4().hex[:12]}", **settings)
        self.buses: list[MessageBus] = []
        for member in [members.join(number) for number in range(3)]:
            bus = make_bus(all_settings, reactor, member, lambda: database)
            assert bus is not None
            self.buses.append(bus)
            self.addCleanup(bus.stop)

    @inlineCallbacks
    def arrived(self, frames: list[int]) -> Generator["Deferred[Any]", Any, None]:
        """Wait for so many frames, and a moment for more than these."""
        counts = [-1]
        while any(have < wanted for have, wanted in zip(counts, frames, strict=False)):
            yield deferLater(reactor, 0.01)
            counts = [len(receiver.frames) for receiver in self.receivers]
        yield deferLater(reactor, 0.03)


class Redis(MessageBusContract, Distant):
    skip = MISSING_REDIS or None
    timeout = 20

    def setUp(self) -> None:
        self.make(redis().url)


class RedisSocket(MessageBusContract, Distant):
    skip = MISSING_REDIS or None
    timeout = 20

    def setUp(self) -> None:
        self.make(f"unix://{redis().path}")


class RedisSentinel(MessageBusContract, Distant):
    skip = MISSING_REDIS or None
    timeout = 20

    def setUp(self) -> None:
        self.make(sentinels().url)


class RedisCluster(MessageBusContract, Distant):
    skip = MISSING_REDIS or None
    timeout = 20

    def setUp(self) -> None:
        self.make(cluster().url)


class Postgres(MessageBusContract, Distant):
    skip = MISSING or None
    timeout = 20

    def setUp(self) -> None:
        self.make("postgresql:", database=servers.cluster().dsn())
