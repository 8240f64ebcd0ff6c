"""Rediscluster: the bus over sharded Pub/Sub; the channel of each daemon belongs to one node of a cluster."""

from binascii import crc_hqx
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from platziverse.broker.ports import Membership
from platziverse.bus.distant import DistantBus
from platziverse.bus.kept import READY, BusState, Gone, Steps, using
from platziverse.bus.pubsub import Publisher, Subscriber, channel
from platziverse.bus.server import Server

Place = tuple[str, int]

#: How many there are in each cluster.
SLOTS: Final = 16_384
#: Seconds between two looks at the connections, and looks after which the nodes are asked in any case.
LOOK: Final = 0.25
LOOKS: Final = 40


def slot(name: bytes) -> int:
    """Return the slot of a channel: that of the text in braces, if there is any."""
    _, _, rest = name.partition(b"{")
    tag, brace, _ = rest.partition(b"}")
    return crc_hqx(tag if tag and brace else name, 0) % SLOTS


class Nodes:
    """Nodes knows which node of a cluster has which slot, as far as one of them has told.

    :param seeds: host and port of some nodes.
    """

    def __init__(self, server: Server, seeds: tuple[Place, ...]) -> None:
        self._server, self._seeds = server, seeds
        self._ranges: list[tuple[int, int, Place]] = []

    @property
    def masters(self) -> list[Place]:
        """Return host and port of each node that has slots."""
        return list(dict.fromkeys(place for _, _, place in self._ranges))

    def owner(self, name: bytes) -> Place | None:
        """Return host and port of the node that has a channel; ``None``: nobody knows."""
        number = slot(name)
        return next((place for first, last, place in self._ranges if first <= number <= last), None)

    @inlineCallbacks
    def ask(self) -> Steps:
        """Ask the nodes, one after the other, until one has answered.

        :raises Gone: none did.
        """
        reasons = []
        for place in dict.fromkeys((*self._seeds, *self.masters)):
            try:
                connection = yield self._server.open(place)
                answer = yield using(connection, connection.command(b"CLUSTER", b"SLOTS"))
                self._ranges = [_range(row, place[0]) for row in answer]
                return
            except Gone as error:
                reasons.append(str(error))
            except (AttributeError, IndexError, TypeError, ValueError):
                reasons.append(f"{place[0]}:{place[1]} is no node of a cluster")
        raise Gone("no node of the cluster helps: " + "; ".join(reasons))


def _range(row: list[Any], asked: str) -> tuple[int, int, Place]:
    first, last, (host, port, *_) = row[:3]
    return first, last, (host.decode() if host else asked, port)


class RedisClusterBus(DistantBus):
    """A RedisClusterBus is the :class:`~platziverse.broker.ports.MessageBus` over a cluster.

    There is no channel of all: its messages would pass those on the channel of one daemon, which another node
    carries. So a frame for all is sent to each.

    :param name: of the set.
    :param seeds: host and port of some nodes.
    :param max_pending: bytes that one node has not taken yet; what is sent to it beyond is dropped.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        members: Membership,
        server: Server,
        seeds: tuple[Place, ...],
        state: BusState,
        max_pending: int,
    ) -> None:
        super().__init__(reactor, name, members, state, everyone=False)
        self._server, self._nodes = server, Nodes(server, seeds)
        self._subscriber = Subscriber(
            reactor, name, self._open_ours, state, self.inbox, members, b"SSUBSCRIBE", everyone=False
        )
        self._publishers: dict[Place, Publisher] = {}
        shared: dict[str, Any] = {"state": state, "complaints": self._complaints, "max_pending": max_pending}
        shared |= {"doubt": self._outbox.doubt, "command": b"SPUBLISH", "moved": self._ask}
        self._make_publisher: Callable[..., Publisher] = partial(Publisher, reactor, name, **shared)
        self._lost = self._looks = 0
        self._asking: Deferred[None] | None = None
        self._started: Deferred[None] = Deferred()
        self._stopped = False
        self._look = LoopingCall(self._look_after)
        self._look.clock = reactor

    @property
    def lost(self) -> int:
        """Return how many frames are known to be lost."""
        there = sum(publisher.lost for publisher in self._publishers.values())
        return self._lost + there + self._outbox.homeless

    @property
    def pending(self) -> int:
        """Return the bytes that are sent, and that the server has not taken yet."""
        return sum(publisher.pending for publisher in self._publishers.values())

    def _connect(self) -> "Deferred[Any]":
        self._subscriber.start()
        self._look.start(LOOK)
        return self._started

    @inlineCallbacks
    def _disconnect(self) -> Steps:
        self._stopped = True
        if self._look.running:
            self._look.stop()
        if self._asking is not None:
            self._asking.cancel()
            yield self._asking
        ends: list[Subscriber | Publisher] = [self._subscriber, *self._publishers.values()]
        yield gatherResults([end.stop() for end in ends])

    def _post(self, target: int, message: bytes, frames: int) -> None:
        publisher = self._publishers.get(self._nodes.owner(channel(self._name, target)) or ("", 0))
        if publisher is None:
            self._lost += frames
            self._outbox.doubt(target)
        else:
            publisher.publish(target, message, frames)

    @inlineCallbacks
    def _open_ours(self, message: Callable[[bytes, bytes], None] | None) -> Steps:
        yield self._nodes.ask()
        ours = self._members.ours
        place = None if ours is None else self._nodes.owner(channel(self._name, ours[0]))
        if place is None:
            raise Gone("no node of the cluster has our channel")
        return (yield self._server.open(place, message))

    def _look_after(self) -> None:
        self._looks += 1
        if self.state != READY or self._looks >= LOOKS:
            self._ask()
        ends: list[Subscriber | Publisher] = [self._subscriber, *self._publishers.values()]
        if not self._started.called and len(ends) > 1 and all(end.ready.called for end in ends):
            self._started.callback(None)

    def _ask(self) -> None:
        """Ask the nodes which of them has what, unless they are being asked."""
        if self._asking is None and not self._stopped:
            self._looks = 0
            self._asking = self._nodes.ask()
            self._asking.addCallbacks(self._use_nodes, self._nobody_tells)

    def _use_nodes(self, _: object) -> None:
        self._asking = None
        self._state.note("nodes", READY)
        masters = self._nodes.masters
        for place in self._publishers.keys() - set(masters):
            publisher = self._publishers.pop(place)
            self._lost += publisher.lost
            publisher.stop()
        for place in masters:
            if place not in self._publishers and not self._stopped:
                opener, part = partial(self._server.open, place), f"sending to {place[0]}:{place[1]}"
                self._publishers[place] = self._make_publisher(open=opener, part=part)
                self._publishers[place].start()

    def _nobody_tells(self, failure: Failure) -> None:
        self._asking = None
        if failure.trap(Gone, CancelledError) is Gone:
            self._state.note("nodes", f"away: {failure.getErrorMessage()}")
