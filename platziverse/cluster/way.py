"""Way: what moving a Session needs at each end."""

from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.broker import Broker
from platziverse.broker.durable import Durable
from platziverse.broker.moving import Moving
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.delaying import Delaying
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peers

T = TypeVar("T")


@frozen
class Way:
    """A Way has the parts of one daemon that Sessions on their way have to do with."""

    broker: Broker
    moving: Moving
    durable: Durable
    peers: Peers
    linking: Linking
    delaying: Delaying
    announcing: Announcing
    clock: IReactorTime


def shielded(deferred: "Deferred[T]") -> "Deferred[T]":
    """Return a Deferred that fires with the result of another one, which goes on if this one is cancelled."""
    waits: Deferred[T] = Deferred()

    def fire(result: object) -> None:
        if not waits.called:
            waits.callback(result)  # type: ignore[arg-type]

    deferred.addBoth(fire)
    return waits
