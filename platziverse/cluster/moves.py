"""Moves: durable Sessions come to us with their clients, and go to other daemons. ADR 0153."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred

from platziverse.broker.broker import Broker
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.delaying import Delaying
from platziverse.cluster.frames import Aborted, Closed, Followed, Free, LetGo, Mine, Moved, Refused
from platziverse.cluster.identifiers import Identifiers
from platziverse.cluster.leaving import Leaving
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peer, Peers
from platziverse.cluster.taking import Taking
from platziverse.cluster.way import Way


class Moves:
    """Moves hands on what is said about Sessions on their way.

    :ivar leaving: those that go.
    :ivar taking: those that come.
    """

    def __init__(
        self, way: Way, later: "Callable[[Iterator[None]], Deferred[Any]]", identifiers: Identifiers
    ) -> None:
        self.leaving, self.taking = Leaving(way), Taking(way, later, identifiers.came)

    @classmethod
    def of(
        cls,
        broker: Broker,
        peers: Peers,
        linking: Linking | None,
        delaying: Delaying,
        announcing: Announcing,
        later: "Callable[[Iterator[None]], Deferred[Any]]",
        identifiers: Identifiers,
    ) -> "Moves | None":
        """Return those of a broker; ``None``: it has no durable Sessions."""
        moving, durable = broker.moving, broker.durable
        if linking is None or moving is None or durable is None:
            return None
        way = Way(broker, moving, durable, peers, linking, delaying, announcing, durable.clock)
        return cls(way, later, identifiers)

    def hear(self, peer: Peer, frame: Mine) -> None:
        """Note that a client has connected elsewhere."""
        self.taking.hear(peer, frame)

    def left(self, number: int) -> None:
        """Note that a daemon has gone."""
        self.taking.left(number)
        self.leaving.left(number)


def _of_leaving(method: "Callable[[Leaving, Peer, Any], None]") -> "Callable[[Moves, Peer, Any], None]":
    return lambda moves, peer, frame: method(moves.leaving, peer, frame)


def _of_taking(method: "Callable[[Taking, Peer, Any], None]") -> "Callable[[Moves, Peer, Any], None]":
    return lambda moves, peer, frame: method(moves.taking, peer, frame)


#: What a frame of another daemon does here.
MOVES: Final[dict[type, Callable[[Moves, Peer, Any], None]]] = {
    LetGo: _of_leaving(Leaving.asked),
    **dict.fromkeys((Followed, Moved, Aborted), _of_leaving(Leaving.came)),
    **dict.fromkeys((Closed, Free, Refused), _of_taking(Taking.came)),
}
