"""Peers: the other daemons, as this one knows them."""

from collections.abc import Callable

from attrs import define

from platziverse.broker.ports import MessageBus
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Frame


@define(eq=False)
class Peer:
    """A Peer is another daemon.

    :ivar incarnation: what it writes under; frames of earlier ones are ignored.
    :ivar guest_since: since when it is here on its own word alone; ``None``: the membership names it.
    :ivar ready: up to which number of ours it routes by what we have said.
    :ivar late: it did not say in time that it does, and is not waited for.
    :ivar wants: a snapshot, which it gets when our Sessions are loaded.
    :ivar introducing: it is being sent a snapshot; ``again``: and then another one.
    :ivar asked: a snapshot of it is on its way.
    :ivar heard: no Retained Message of it up to this version is missing.
    :ivar latest: the highest version of one that came from it.
    :ivar missing: some between the two may be missing, and it was asked for them.
    :ivar received: messages that came from it.
    :ivar gaps: how often frames of it were missing.
    """

    number: int
    incarnation: int
    guest_since: float | None = None
    ready: int = 0
    late: bool = False
    wants: bool = False
    introducing: bool = False
    again: bool = False
    asked: bool = False
    heard: int = 0
    latest: int = 0
    missing: bool = False
    received: int = 0
    gaps: int = 0


class Peers(dict[int, Peer]):
    """Peers has the other daemons by their numbers, and sends frames to them.

    :param daemon: returns our number and incarnation; ``None``: there are none yet.
    :ivar everybody: their mask on the bus.
    :ivar sent: frames that were given to the bus.
    """

    def __init__(self, bus: MessageBus, daemon: Callable[[], tuple[int, int] | None]) -> None:
        super().__init__()
        self._bus, self._daemon = bus, daemon
        self.everybody = self.sent = 0
        self.number = self.incarnation = 0

    def know_ourselves(self) -> None:
        """Take note of our number and incarnation, which every frame says."""
        self.number, self.incarnation = self._daemon() or (0, 0)

    def add(self, peer: Peer) -> None:
        """Add another daemon."""
        self[peer.number] = peer
        self.everybody |= 1 << peer.number

    def remove(self, number: int) -> None:
        """Remove a daemon, if it is there."""
        if self.pop(number, None) is not None:
            self.everybody &= ~(1 << number)

    def send(self, mask: int, frame: Frame) -> None:
        """Send a frame to those of the daemons in ``mask`` that are here."""
        mask &= self.everybody
        if mask:
            self.sent += 1
            self._bus.send(mask, encode(frame, self.incarnation))

    def tell(self, number: int, frame: Frame) -> None:
        """Send a frame to one daemon."""
        self.send(1 << number, frame)
