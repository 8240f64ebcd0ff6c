"""Distant: the part that buses over a server have in common: envelopes, counters, start and stop."""

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.broker.complaints import Complaints
from platziverse.broker.ports import FrameReceiver, Membership
from platziverse.bus.envelope import Inbox, Outbox
from platziverse.bus.kept import BusState, Steps


class DistantBus:
    """A DistantBus is a :class:`~platziverse.broker.ports.MessageBus` over a server; a subclass knows which.

    The subclass has the properties ``lost``, the frames known to be lost, and ``pending``, the bytes that are
    sent and that the server has not taken yet.

    :param name: of the set.
    :param everyone: there is a way to post to ``ALL``.
    """

    def __init__(
        self, reactor: Any, name: str, members: Membership, state: BusState, everyone: bool = True
    ) -> None:
        self._reactor, self._name, self._members, self._state = reactor, name, members, state
        self._complaints = Complaints(reactor, "bus")
        self._outbox = Outbox(reactor, name, members, self._post, everyone)
        self.inbox = Inbox(name, self._outbox.mark, members, self._complaints, state.where)
        self.send = self._outbox.send

    @property
    def missed(self) -> int:
        """Return how many messages of others are known not to have come."""
        return self.inbox.missed

    @property
    def refused(self) -> int:
        """Return how many messages were not of this set."""
        return self.inbox.refused.total()

    @property
    def state(self) -> str:
        """Return ``"connecting"``, ``"ready"`` or ``"away: <reason>"``."""
        return str(self._state)

    def start(self, receiver: FrameReceiver) -> "Deferred[Any]":
        """Connect, and stay connected; the Deferred fires when frames can be sent and can arrive."""
        self.inbox.receiver = receiver
        self._outbox.start()
        return self._connect()

    @inlineCallbacks
    def stop(self) -> Steps:
        """Close the connections; frames sent in this turn do not leave."""
        self.inbox.receiver = None
        self._outbox.stop()
        yield self._disconnect()
        self._complaints.stop()

    def _post(self, target: int, message: bytes, frames: int) -> None:
        """Send a message with so many frames to a daemon or to ``ALL``; if that is impossible, drop it."""
        raise NotImplementedError

    def _connect(self) -> "Deferred[Any]":
        """Begin to connect; the Deferred fires when all connections were ready once."""
        raise NotImplementedError

    def _disconnect(self) -> "Deferred[Any]":
        """Close the connections; the Deferred fires when they are closed."""
        raise NotImplementedError
