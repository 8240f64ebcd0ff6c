"""Cluster: one broker of several daemons, from the point of view of one of them."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator, LoopingCall

from platziverse.broker.broker import Broker
from platziverse.broker.interfaces import Answer
from platziverse.broker.ports import Membership, MessageBus
from platziverse.broker.turn import Turn
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.beginning import Beginning
from platziverse.cluster.codec import decode
from platziverse.cluster.former import FormerSessions
from platziverse.cluster.frames import (
    Changes,
    Frame,
    Kept,
    Message,
    Mine,
    NotYours,
    Owed,
    Ready,
    Said,
    Several,
    Since,
    Snapshot,
    Wanted,
)
from platziverse.cluster.groups import share_groups
from platziverse.cluster.identifiers import Identifiers
from platziverse.cluster.inheriting import Inheriting
from platziverse.cluster.interest import Interest
from platziverse.cluster.linking import LINKS, Linking
from platziverse.cluster.moves import MOVES, Moves
from platziverse.cluster.peers import Peer, Peers
from platziverse.cluster.retaining import Retaining
from platziverse.cluster.routing import Routing

#: Seconds between two looks at what is over, late or missing.
LOOK: Final = 1.0
#: Seconds in which the membership has to name a daemon that speaks for itself.
GUEST: Final = 30.0
#: Seconds in which a Retained Message is committed after it was published.
COMMIT: Final = 60.0


class Cluster:
    """A Cluster lets a broker share its clients with the other daemons of a ``Membership``.

    It makes itself known to the broker, and does nothing until it is started.

    :param bus: carries frames; it may lose some.
    :param membership: which daemons there are.
    :param clock: steady time.
    :param wall_clock: seconds since the epoch, by a clock that all daemons share.
    :ivar peers: the other daemons.
    :ivar inheriting: has the Sessions of dead ones.
    :ivar ignored: frames that were no frames, or of strangers, or of daemons that were taken for dead.
    """

    def __init__(
        self,
        broker: Broker,
        bus: MessageBus,
        membership: Membership,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self.bus, self.ignored = bus, 0
        self.peers = peers = Peers(bus, lambda: membership.ours, clock)
        self._broker, self._membership, self._clock, self._wall_clock = broker, membership, clock, wall_clock
        turn = Turn(clock)
        # Real time is of no use to a clock that tests move by hand.
        cooperator = Cooperator(lambda: lambda: turn.is_over, lambda go_on: clock.callLater(0, go_on))
        self._later: Callable[[Iterator[None]], Deferred[Any]] = cooperator.coiterate
        self.interest = Interest(broker.subscriptions.forget, self._later)
        durable = broker.durable is not None
        self.announcing = Announcing(peers, durable, clock, self._later, self._complain)
        self.retaining = Retaining(broker.retained, lambda: peers.number, wall_clock)
        self.linking = Linking.of(broker.durable, peers, clock, self._cross, self._complain)
        self.routing = Routing(broker, self.interest, peers, self.retaining, self.linking, clock)
        self.beginning = Beginning(peers, self.interest, self.linking, clock)
        self.identifiers = Identifiers(broker, peers)
        known, heirs = self.beginning.when_known, self.routing.heirs
        self.former = FormerSessions(broker.durable, peers, self.interest, heirs, known)
        broker.share(self.routing, self.announcing, self.former)
        share_groups(broker, self.interest, peers, self.linking, self.announcing)
        delaying, told = self.routing.delaying, self.announcing
        self.inheriting = Inheriting(broker, self.linking, peers, self.former, told, heirs)
        self.moves = Moves.of(broker, peers, self.linking, delaying, told, self._later, self.identifiers)
        self._looks = LoopingCall(self._look)
        self._looks.clock = clock
        self._is_started, self._missed_since = False, 0

    def _cross(self, frame: Owed, row: tuple[int, int]) -> Answer:
        return self.routing.cross(frame, row)

    # -- begin and end ---------------------------------------------------------------------------

    def start(self) -> "Deferred[None]":
        """Join the others; the Deferred fires when we know what their clients listen to.

        Before that a client that publishes would miss receivers. Nobody waits for long.
        """
        self._is_started = True
        self.peers.know_ourselves()
        # What was published a moment ago may be committed after we have read what is stored.
        since = self._wall_clock() - COMMIT if self.linking is not None else 0.0
        self._missed_since = self.retaining.version_at(since)
        self._membership.watch(self)
        self._looks.start(LOOK, now=False)
        began = self.beginning.begin()
        self.bus.start(self).addCallback(self._on_bus)
        return began

    def _on_bus(self, _: object) -> None:
        for peer in self.peers.values():
            self._ask(peer)
        self.beginning.on_bus()

    def loaded(self, sessions: int) -> None:
        """Let the others know our durable Sessions, which are in memory now, and take what they are owed.

        :param sessions: how many were read.
        """
        self.announcing.is_loaded = True
        for peer in self.peers.values():
            if peer.wants:
                self.announcing.introduce(peer)
        if self.linking is not None:
            self.linking.loaded(not sessions)
        self.inheriting.loaded()

    def stop(self) -> "Deferred[None]":
        """Leave the others; what they owe us is read at the next start, or by an heir."""
        if self._looks.running:
            self._looks.stop()
        for number in list(self.peers):
            self.peers.remove(number)
        return self.bus.stop() if self._is_started else succeed(None)

    def _look(self) -> None:
        now = self._clock.seconds()
        self.announcing.look()
        if self.linking is not None:
            self.linking.look()
        for number, peer in list(self.peers.items()):
            if peer.guest_since is not None and now - peer.guest_since > GUEST:
                self._complain("a stranger", "Daemon {number} is on the bus, and not in the database", number)
                self._part(number)
                if (incarnation := self._membership.others.get(number)) is not None:
                    self.joined(number, incarnation)
            else:
                self._ask(peer)
        self.beginning.check()

    def _ask(self, peer: Peer) -> None:
        """Ask a daemon for what it has not answered yet."""
        if peer.asked and not self.interest.is_coming(peer.number):
            self.peers.tell(peer.number, Wanted())
        if peer.missing:
            self.peers.tell(peer.number, Since(peer.gaps, self.retaining.missed_after(peer.heard)))

    def _complain(self, cause: str, text: str, number: int) -> None:
        self._broker.complaints.warn(cause, text, address="", number=number)

    # -- who there is ----------------------------------------------------------------------------

    def joined(self, number: int, incarnation: int) -> None:
        """Note that a daemon lives, and ask it what its clients listen to."""
        peer = self.peers.get(number)
        if peer is not None and peer.incarnation == incarnation:
            peer.guest_since = None
        else:
            self._forget(number)
            self._meet(Peer(number, incarnation))

    def _meet(self, peer: Peer) -> None:
        self.peers.add(peer)
        peer.heard = self._missed_since
        peer.asked = peer.missing = True
        self._ask(peer)
        if self.linking is not None:
            self.linking.legacies.put_off()
            self.linking.ask(peer.number)

    def left(self, number: int, dead: bool) -> None:
        """Note that a daemon has gone: nothing is sent to it, and nobody waits for it."""
        peer = self.peers.get(number)
        if peer is not None and peer.guest_since is None:  # or it is its next incarnation
            self._part(number)

    def _part(self, number: int) -> None:
        self.peers.ended[number] = self.peers[number].incarnation
        self._forget(number)
        self.announcing.answered()
        self.beginning.check()

    def _forget(self, number: int) -> None:
        """Let a daemon go, but not what its durable Sessions listen to: they come back, or an heir."""
        self.peers.remove(number)
        if self.linking is None or self.moves is None:
            self.interest.drop(number)
        else:
            self.interest.keep(number)
            self.moves.left(number)
            self.linking.left(number)

    def overtaken(self) -> None:
        """Take nothing more of what others owe us, and tell nobody that we have: it is another one's."""
        if self.linking is not None:
            self.linking.stop_taking()

    def fenced(self) -> None:
        """Begin anew: the others took us for dead, and know us no more."""
        for number in list(self.peers):
            self._forget(number)
        self.announcing.answered()
        self.peers.know_ourselves()
        if self.linking is not None:
            self.announcing.is_loaded = False
            self.routing.delaying.begin_anew()
            self.linking.begin_anew()
            self.former.begin_anew()
            self.beginning.begin()
        for number, incarnation in self._membership.others.items():
            self.joined(number, incarnation)

    # -- what they say ---------------------------------------------------------------------------

    def frame(self, origin: int, frame: bytes) -> None:
        """Do as a frame of another daemon says; one that is none is counted, and said."""
        try:
            incarnation, said = decode(frame)
        except ValueError as error:
            self._ignore(origin, f"a frame that cannot be read: {error}")
            return
        peer = self._peer(origin, incarnation, said)
        if peer is None:
            self._ignore(origin, "a frame, and is no daemon of ours, or was taken for dead")
            return
        peer.silent = -1
        _WHAT_TO_DO[type(said)](self, peer, said)

    def _ignore(self, origin: int, reason: str) -> None:
        self.ignored += 1
        text = "Ignored what daemon {number} has sent on the bus: " + reason
        self._complain("a frame that is ignored", text, origin)

    def _peer(self, origin: int, incarnation: int, said: Frame) -> Peer | None:
        """Return the daemon that has sent a frame of this incarnation; ``None``: it is ignored.

        A daemon that has begun says Wanted first, which may be before the membership tells us of it. What has
        its number and is another installation's is forgotten when it says anything. ADR 0225.
        """
        peer = self.peers.get(origin)
        if peer is not None and peer.incarnation == incarnation:
            return peer
        if incarnation == self._membership.others.get(origin):
            self.joined(origin, incarnation)
            return self.peers[origin]
        known = peer.incarnation if peer is not None else self.peers.ended.get(origin, -1)
        if not isinstance(said, Wanted) or incarnation <= known:
            return None
        self._forget(origin)
        peer = Peer(origin, incarnation, guest_since=self._clock.seconds())
        self._meet(peer)
        return peer

    def lost(self, origin: int) -> None:
        """Ask a daemon again for what may be missing."""
        peer = self.peers.get(origin)
        if peer is not None:
            peer.gaps, peer.silent = peer.gaps + 1, 0
            peer.asked = peer.missing = True
            self.interest.interrupt(origin)
            self._ask(peer)
            if self.linking is not None:
                self.linking.lost(origin)

    def _message(self, peer: Peer, frame: Message) -> None:
        peer.latest = max(peer.latest, frame.version)
        if not peer.missing:
            peer.heard = max(peer.heard, peer.latest)
        self.routing.came(peer, frame)

    def _several(self, peer: Peer, frame: Several) -> None:
        self.routing.came_together(peer, frame)

    def _changes(self, peer: Peer, frame: Changes) -> None:
        self.interest.change(peer.number, frame.interests)
        self.peers.tell(peer.number, Ready(frame.number))

    def _snapshot(self, peer: Peer, frame: Snapshot) -> None:
        if self.interest.snapshot(peer.number, frame.first, frame.last, frame.interests):
            peer.asked = False
            self.peers.tell(peer.number, Ready(frame.number))
            self.beginning.check()

    def _wanted(self, peer: Peer, frame: Wanted) -> None:
        peer.wants = True
        if self.announcing.is_loaded:
            self.announcing.introduce(peer)

    def _ready(self, peer: Peer, frame: Ready) -> None:
        self.announcing.ready(peer, frame.number)

    def _kept(self, peer: Peer, frame: Kept) -> None:
        self.routing.came_again(frame)

    def _since(self, peer: Peer, frame: Since) -> None:
        if self.announcing.is_loaded:  # or nobody else may know what we are about to read; it asks again
            self._later(self.routing.say_again(peer.number, frame))

    def _said(self, peer: Peer, frame: Said) -> None:
        if frame.number == peer.gaps:  # and not an earlier question, of whose answers some may be lost
            peer.missing = False
            peer.heard = max(peer.heard, peer.latest)

    def _mine(self, peer: Peer, frame: Mine) -> None:
        if self.moves is not None:
            self.moves.hear(peer, frame)
        self.identifiers.came(peer, frame)

    def _not_yours(self, peer: Peer, frame: NotYours) -> None:
        self.identifiers.refused(frame)


def _of(part: str, method: "Callable[[Any, Peer, Any], None]") -> "Callable[[Cluster, Peer, Any], None]":
    """Return what to do with a frame about links, or a Session on its way: nothing without a store."""

    def do(cluster: Cluster, peer: Peer, frame: Any) -> None:
        if (there := getattr(cluster, part)) is not None:
            method(there, peer, frame)

    return do


_WHAT_TO_DO: Final[dict[type, Callable[[Cluster, Peer, Any], None]]] = {
    Message: Cluster._message,
    Several: Cluster._several,
    Changes: Cluster._changes,
    Snapshot: Cluster._snapshot,
    Wanted: Cluster._wanted,
    Ready: Cluster._ready,
    Kept: Cluster._kept,
    Since: Cluster._since,
    Said: Cluster._said,
    Mine: Cluster._mine,
    NotYours: Cluster._not_yours,
    **{frame: _of("linking", method) for frame, method in LINKS.items()},
    **{frame: _of("moves", method) for frame, method in MOVES.items()},
}
