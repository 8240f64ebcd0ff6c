"""Redis: the bus over Pub/Sub of one Redis server, or of the one that Sentinels name."""

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from platziverse.broker.ports import Membership
from platziverse.bus.distant import DistantBus
from platziverse.bus.kept import BusState
from platziverse.bus.pubsub import Opener, Publisher, Subscriber


class RedisBus(DistantBus):
    """A RedisBus is the :class:`~platziverse.broker.ports.MessageBus` over Redis.

    :param name: of the set.
    :param open: connects to the server.
    :param max_pending: bytes that the server has not taken yet; what is sent beyond is dropped.
    """

    def __init__(
        self, reactor: Any, name: str, members: Membership, open: Opener, state: BusState, max_pending: int
    ) -> None:
        super().__init__(reactor, name, members, state)
        doubt = self._outbox.doubt
        self._publisher = Publisher(reactor, name, open, state, self._complaints, max_pending, doubt)
        self._subscriber = Subscriber(reactor, name, open, state, self.inbox, members)

    @property
    def lost(self) -> int:
        """Return how many frames are known to be lost."""
        return self._publisher.lost + self._outbox.homeless

    @property
    def pending(self) -> int:
        """Return the bytes that are sent, and that the server has not taken yet."""
        return self._publisher.pending

    def _connect(self) -> "Deferred[Any]":
        self._publisher.start()
        self._subscriber.start()
        return gatherResults([self._publisher.ready, self._subscriber.ready])

    def _disconnect(self) -> "Deferred[Any]":
        return gatherResults([self._publisher.stop(), self._subscriber.stop()])

    def _post(self, target: int, message: bytes, frames: int) -> None:
        self._publisher.publish(target, message, frames)
