"""Daemons of one process that share their clients, on one clock."""

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from platziverse.broker.broker import Broker
from platziverse.broker.ports import FrameReceiver
from platziverse.bus.local import LocalBus, LocalHub
from platziverse.cluster.cluster import Cluster
from platziverse.testing import BrokerHarness, FakeClient
from tests.doubles.membership import Members

#: More turns of the reactor than anything takes that waits for nobody.
TURNS = 12
#: Seconds since the epoch when it begins.
NOW = 1_700_000_000.0


class Lossy:
    """A FrameReceiver that loses what comes.

    :ivar losing: frames are lost; the receiver is told of the gap before the first one that comes again.
    :ivar deaf: frames are lost, and nobody knows.
    :ivar slow: frames wait until :meth:`hear` is called.
    """

    def __init__(self, receiver: FrameReceiver) -> None:
        self.losing = self.deaf = self.slow = False
        self._receiver = receiver
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._gaps: set[int] = set()

    def frame(self, origin: int, frame: bytes) -> None:
        if self.slow:
            self._waiting.append((origin, frame))
        elif self.losing:
            self._gaps.add(origin)
        elif not self.deaf:
            if origin in self._gaps:
                self._gaps.discard(origin)
                self.lost(origin)
            self._receiver.frame(origin, frame)

    def hear(self, leave: int = 0) -> None:
        """Receive the frames that wait, but the last so many."""
        while len(self._waiting) > leave:
            self._receiver.frame(*self._waiting.popleft())

    def lost(self, origin: int) -> None:
        self._receiver.lost(origin)


class LossyBus(LocalBus):
    """A LocalBus whose receiver is Lossy.

    :ivar ear: the receiver.
    """

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        self.ear = Lossy(receiver)
        return super().start(self.ear)


class Daemon:
    """One daemon: a broker with its cluster."""

    def __init__(self, daemons: "Daemons", number: int, **harness: Any) -> None:
        self.number, self._daemons = number, daemons
        self.membership = daemons.members.join(number)
        self.bus = LossyBus(daemons.hub, number)
        self.harness = BrokerHarness(clock=daemons.clock, wall_clock=NOW, share=self._share, **harness)
        self.broker = self.harness.broker
        self.harness.loaded.addCallback(self.cluster.loaded)

    def _share(self, broker: Broker) -> None:
        """Join the others, as a daemon does, before it loads its Sessions."""
        clock = self._daemons.clock
        self.cluster = Cluster(broker, self.bus, self.membership, clock, lambda: NOW + clock.seconds())
        self.started = self.cluster.start()

    def die(self) -> None:
        """End without a word; the others take it for dead at once."""
        self._daemons.members.leave(self.number, dead=True)
        del self._daemons.hub.receivers[self.number]
        self.cluster.stop()

    def connect(self, client_id: str, **fields: Any) -> FakeClient:
        """Return a client of this daemon, connected; everybody has heard of it."""
        client = self.harness.connect(client_id, **fields)
        self._daemons.turn()
        client.connack += client.received()
        return client

    def listening(self, client_id: str, topic_filter: str, qos: int = 0, **fields: Any) -> FakeClient:
        """Return a client of this daemon that has subscribed; all daemons know it."""
        client = self.connect(client_id, **fields)
        client.subscribe(topic_filter, qos)
        self._daemons.turn()
        client.received()
        return client


class Daemons:
    """Several daemons that know each other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.hub, self.members = LocalHub(self.clock), Members()

    def begin(self, number: int, **harness: Any) -> Daemon:
        """Begin a daemon with this number."""
        daemon = Daemon(self, number, **harness)
        self.turn()
        return daemon

    def turn(self) -> None:
        """Let everything arrive that is on its way."""
        self.clock.pump([0] * TURNS)

    def advance(self, seconds: float) -> None:
        """Let time pass, a tenth of a second at a time."""
        self.clock.pump([0.1] * round(seconds * 10))
        self.turn()
