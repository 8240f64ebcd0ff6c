"""What every MessageBus does; one more subclass for each further one."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from platziverse.broker.ports import MessageBus
from platziverse.bus.local import LocalBus, LocalHub

ALL = 0b111


class Receiver:
    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.gaps: list[int] = []

    def frame(self, origin: int, frame: bytes) -> None:
        self.frames.append((origin, frame))

    def lost(self, origin: int) -> None:
        self.gaps.append(origin)


class MessageBusContract:
    """Mixed into a TestCase that makes the buses of three daemons, and lets what was sent arrive."""

    buses: list[MessageBus]
    receivers: list[Receiver]
    arrived: Callable[[], "Deferred[Any]"]
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
            return self.arrived()

        def check(_: object) -> None:
            self.assertEqual(self.frames(), [[], [(0, b"to one"), (0, b"to all")], [(0, b"to all")]])

        return self.begin().addCallback(send).addCallback(check)

    def test_the_frames_of_one_daemon_arrive_in_order(self) -> "Deferred[Any]":
        sent = [str(number).encode() for number in range(500)]

        def send(_: object) -> "Deferred[Any]":
            for frame in sent:
                self.buses[0].send(ALL, frame)
                self.buses[1].send(ALL, frame)
            return self.arrived()

        def check(_: object) -> None:
            for origin in (0, 1):
                self.assertEqual([frame for by, frame in self.receivers[2].frames if by == origin], sent)
            self.assertEqual([bus.lost for bus in self.buses], [0, 0, 0])

        return self.begin().addCallback(send).addCallback(check)

    def test_a_frame_may_hold_any_bytes_and_be_large(self) -> "Deferred[Any]":
        frames = [b"", bytes(range(256)), b"\r\n", b"x" * 1_048_576]

        def send(_: object) -> "Deferred[Any]":
            for frame in frames:
                self.buses[1].send(0b001, frame)
            return self.arrived()

        def check(_: object) -> None:
            self.assertEqual([frame for _, frame in self.receivers[0].frames], frames)

        return self.begin().addCallback(send).addCallback(check)

    def test_whoever_has_stopped_gets_nothing_and_harms_nobody(self) -> "Deferred[Any]":
        def stop(_: object) -> "Deferred[None]":
            return self.buses[1].stop()

        def send(_: object) -> "Deferred[Any]":
            self.buses[0].send(ALL, b"late")
            return self.arrived()

        def check(_: object) -> None:
            self.assertEqual(self.frames(), [[], [], [(0, b"late")]])

        return self.begin().addCallback(stop).addCallback(send).addCallback(check)


class Local(MessageBusContract, TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        hub = LocalHub(self.clock)
        self.buses = [LocalBus(hub, daemon) for daemon in range(3)]
        self.arrived = self._turn

    def _turn(self) -> "Deferred[Any]":
        self.clock.advance(0)
        return succeed(None)
