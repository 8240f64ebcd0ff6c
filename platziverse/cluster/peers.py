"""Peers: the other daemons, as this one knows them."""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from platziverse.broker.interfaces import Client
from platziverse.broker.ports import MessageBus
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Frame, Message, Several
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import store_properties

#: Bytes of payloads beyond which messages are given to the bus at once.
TOGETHER: Final = 32 * 1024
#: Sets of daemons of which each is counted by itself what was sent to it.
SETS: Final = 1024
#: Looks, one a second, at which nothing has come from a daemon that lives and is asked with each of them.
UNHEARD: Final = 10


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
    :ivar sent: messages, and frames of other sorts, that were sent to it; see :meth:`Peers.sent_to`.
    :ivar gaps: how often frames of it were missing.
    :ivar silent: looks at which nothing had come from it since it joined, or since frames of it were missing;
        -1: it was heard.
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
    sent: int = 0
    gaps: int = 0
    silent: int = 0


class Peers(dict[int, Peer]):
    """Peers has the other daemons by their numbers, and sends frames to them.

    Messages of one publisher for one topic, as they come one after the other in a turn, leave as one frame
    at its end, or before the next frame of another sort: so everything keeps its order. ADR 0190.

    :param daemon: returns our number and incarnation; ``None``: there are none yet.
    :ivar ended: number of a daemon → its last incarnation, which has ended.
    :ivar everybody: their mask on the bus.
    :ivar sent: frames that were given to the bus, and messages of those that have several.
    """

    def __init__(
        self, bus: MessageBus, daemon: Callable[[], tuple[int, int] | None], clock: IReactorTime
    ) -> None:
        super().__init__()
        self._bus, self._daemon, self._clock = bus, daemon, clock
        # What gathered messages have in common: daemons, publisher, first message, and the position that they
        # are behind; and their payloads.
        self._alike: tuple[int, Client, Publish, int] | None = None
        self._payloads: list[bytes] = []
        self._size = 0
        self._turn: IDelayedCall | None = None
        self.ended: dict[int, int] = {}
        self.everybody = self.sent = 0
        # Mask of daemons → how much was sent to all of these, and is not counted for each of them.
        self._counts: dict[int, int] = {}
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
        self._count_each()
        if self.pop(number, None) is not None:
            self.everybody &= ~(1 << number)

    @property
    def unheard(self) -> list[int]:
        """Return the daemons that live, as the membership says, and of which nothing comes over the bus."""
        return [number for number, peer in self.items() if peer.silent >= UNHEARD]

    def look(self) -> list[int]:
        """Return those that have become so since the last look; while the bus is away nobody does."""
        if self._bus.state != "ready":
            return []
        waited = [peer for peer in self.values() if peer.silent >= 0]
        for peer in waited:
            peer.silent += 1
        return [peer.number for peer in waited if peer.silent == UNHEARD]

    def pass_on(
        self,
        mask: int,
        message: Publish,
        client: Client,
        after: int = 0,
        payloads: Sequence[bytes] | None = None,
    ) -> None:
        """Send a message, which is not retained, to those of the daemons in ``mask`` that are here.

        :param after: see :class:`Message`.
        :param payloads: of several messages, which are like this one otherwise.
        """
        mask &= self.everybody
        if not mask:
            return
        if self._alike is None or not self._is_alike(mask, message, client, after):
            self._send_gathered()
            self._alike, self._size = (mask, client, message, after), 0
            if self._turn is None:
                self._turn = self._clock.callLater(0, self._end_turn)
        payloads = payloads or (message.payload,)
        self._payloads += payloads
        self._size += sum(map(len, payloads))
        if self._size > TOGETHER:
            self._send_gathered()

    def _is_alike(self, mask: int, message: Publish, client: Client, after: int) -> bool:
        assert self._alike is not None
        before, publisher, first, position = self._alike
        same = publisher is client and before == mask and first.properties == message.properties
        return same and position == after and first.topic == message.topic and first.qos == message.qos

    def _end_turn(self) -> None:
        self._turn = None
        self._send_gathered()

    def _send_gathered(self) -> None:
        if self._alike is None:
            return
        (mask, client, message, after), payloads = self._alike, self._payloads
        self._alike, self._payloads = None, []
        if len(payloads) == 1:
            self.send(mask, message_of(message, client, after=after))
        else:
            like = message_of(message, client, b"", after=after)
            self.send(mask, Several(like, tuple(payloads)), len(payloads))

    def send(self, mask: int, frame: Frame, count: int = 1) -> None:
        """Send a frame to those of the daemons in ``mask`` that are here; it counts as so many."""
        if self._alike is not None:
            self._send_gathered()
        mask &= self.everybody
        if mask:
            self.sent += count
            self._counts[mask] = self._counts.get(mask, 0) + count
            if len(self._counts) > SETS:
                self._count_each()
            self._bus.send(mask, encode(frame, self.incarnation))

    def _count_each(self) -> None:
        """Count for each daemon what was sent to several: with each frame that would cost too much."""
        counts, self._counts = self._counts, {}
        for mask, count in counts.items():
            for peer in self.values():
                if mask >> peer.number & 1:
                    peer.sent += count

    def sent_to(self) -> dict[int, int]:
        """Return how many messages, and frames of other sorts, were sent to each daemon that is here."""
        self._count_each()
        return {number: peer.sent for number, peer in self.items()}

    def tell(self, number: int, frame: Frame) -> None:
        """Send a frame to one daemon."""
        self.send(1 << number, frame)


def message_of(
    message: Publish, client: Client, payload: bytes | None = None, version: int = 0, after: int = 0
) -> Message:
    """Return the frame of a message of a client; ``payload``: instead of its own."""
    said = message.payload if payload is None else payload
    who, user, bridge = client.client_id, client.username, client.bridge
    properties = store_properties(message.properties)
    return Message(message.topic, said, message.qos, version, who, user, bridge, properties, after)
