"""Leaving: durable Sessions go to the daemons that their clients have gone to."""

from collections.abc import Generator
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.logger import Logger

from platziverse.broker.reasons import Reason
from platziverse.broker.records import Back
from platziverse.broker.session import Session
from platziverse.cluster.delaying import Delay
from platziverse.cluster.frames import (
    ANOTHER,
    BUSY,
    NEWER,
    Aborted,
    Closed,
    Followed,
    Free,
    LetGo,
    Moved,
    Refused,
)
from platziverse.cluster.identifiers import MOVED
from platziverse.cluster.peers import Peer
from platziverse.cluster.way import Way, shielded

log = Logger()

#: Seconds in which a Session moves, or its client is refused.
PATIENCE: Final = 3.0
#: Seconds after which the store is asked who has a Session, when the daemon that wants it does not say so.
ASK: Final = 1.0
#: Seconds in which messages that wait for other Sessions are delivered.
SHORT: Final = 0.2
LONG: Final = 1.0

_Steps = Generator["Deferred[Any]", Any, Any]


class Ended(Exception):
    """There is no such Session any more."""


class Leaving:
    """A Leaving lets Sessions go. What is said about each, and why in this order, is in ADR 0153.

    While one goes, whoever comes with its Client Identifier waits.

    :ivar moved: how many have gone.
    """

    def __init__(self, way: Way) -> None:
        self.moved = 0
        self._way, self._moving, self._peers = way, way.moving, way.peers
        self._clock, self._sessions = way.clock, way.broker.sessions
        # Daemon and its number of the Session → what it says next.
        self._said: dict[tuple[int, int], Deferred[object]] = {}

    def asked(self, peer: Peer, frame: LetGo) -> None:
        """Let a Session go, when it is its turn."""
        until = self._clock.seconds() + PATIENCE
        self._moving.in_turn(frame.client_id, partial(self._let_go, peer, frame, until))

    def came(self, peer: Peer, frame: Followed | Moved | Aborted) -> None:
        """Go on with a Session, or do not."""
        said = self._said.get((peer.number, frame.number))
        if said is not None and not said.called:
            said.callback(frame)

    def left(self, number: int) -> None:
        """Wait for a daemon no longer."""
        for (daemon, _), said in list(self._said.items()):
            if daemon == number and not said.called:
                said.callback(None)

    @inlineCallbacks
    def _let_go(self, peer: Peer, frame: LetGo, until: float) -> _Steps:
        refusal = self._refusal(peer, frame)
        if refusal is not None:
            self._peers.tell(peer.number, refusal)
        if refusal is not None or self._clock.seconds() >= until:
            return
        session = self._sessions.get(frame.client_id)
        assert session is not None
        self._part(session, peer)
        next_ = self._next(peer, frame.number, PATIENCE)
        try:
            yield self._moving.left(session)
            if self._way.linking.is_behind:  # from now on messages wait there
                yield self._caught_up(until)
            self._check_here(session)
            self._peers.tell(peer.number, Closed(frame.number))
            if isinstance((yield next_), Followed):
                yield from self._catch_up(session, peer, frame, until)
        except Exception as error:
            # The client comes again, and so does the daemon that it has gone to.
            text = "The Session of {client_id!r} stays: {reason!r}"
            log.info(text, client_id=frame.client_id, reason=error)
            self._peers.tell(peer.number, Refused(frame.number, BUSY))
        finally:
            self._said.pop((peer.number, frame.number), None)
            self._way.broker.shares.stay(session)  # unless it is gone, and no member any more

    def _catch_up(self, session: Session, peer: Peer, frame: LetGo, until: float) -> _Steps:
        """Have the Session get what others have published before they followed, and free it."""
        way = self._way
        serials = yield self._caught_up(until)
        # Two Sessions that go past each other may wait for each other: one of them gives up first.
        patience = SHORT if self._peers.number < peer.number else LONG
        yield way.delaying.when_clear(session.subscriptions).addTimeout(patience, self._clock)
        self._check_here(session)
        delay = way.delaying.begin(session.subscriptions)
        yield from self._free(session, peer, frame, way.linking.cuts(serials), delay)

    def _caught_up(self, until: float) -> "Deferred[Any]":
        left = max(until - self._clock.seconds(), SHORT)
        return self._way.linking.catch_up().addTimeout(left, self._clock)

    def _refusal(self, peer: Peer, frame: LetGo) -> Refused | None:
        """Return why a Session does not go."""
        broker, session = self._way.broker, self._sessions.get(frame.client_id)
        if session is None or not session.number or broker.loading is not None:
            return Refused(frame.number, BUSY)
        client = session.client if session.connection is not None else None
        if client is not None and (client.since, self._peers.number) > (frame.since, peer.number):
            return Refused(frame.number, NEWER)
        if session.owner == frame.username:
            return None
        if session.owner is not None and broker.authority.checks_names:
            return Refused(frame.number, ANOTHER, session.owner)
        # As on one daemon, another login begins a new one.
        broker.drop(session, Reason.TAKEN_OVER, "another login has come with its Client Identifier")
        return Refused(frame.number, BUSY)

    def _part(self, session: Session, peer: Peer) -> None:
        broker, client = self._way.broker, session.client
        if session.connection is not None and client is not None:
            broker.traffic.takeovers += 1
            cause, text = "a Client Identifier that is connected", "Closing {address} {client_id!r}: " + MOVED
            fields = {"client_id": client.client_id, "number": peer.number}
            broker.complaints.warn(cause, text, address=client.address, **fields)
        self._moving.part(session, Reason.TAKEN_OVER, MOVED.format(number=peer.number))
        broker.shares.depart(session)

    def _next(self, peer: Peer, number: int, seconds: float) -> "Deferred[object]":
        """Return a Deferred that fires with what a daemon says next, or with ``None`` when it is silent."""
        said = self._said[peer.number, number] = Deferred()
        timed = said.addTimeout(seconds, self._clock, onTimeoutCancel=lambda result, timeout: None)
        return timed.addErrback(lambda failure: failure.trap(CancelledError, TimeoutError) and None)

    def _check_here(self, session: Session) -> None:
        if not self._is_here(session):
            raise Ended("it has ended meanwhile")

    def _is_here(self, session: Session) -> bool:
        return self._sessions.get(session.client_id) is session

    def _free(self, session: Session, peer: Peer, frame: LetGo, cuts: dict[int, int], delay: Delay) -> _Steps:
        """Let a Session go that gets nothing any more, up to these cuts."""
        next_ = self._next(peer, frame.number, PATIENCE)
        durable, number = self._way.durable, session.number
        try:
            yield shielded(self._moving.settle(session)).addTimeout(PATIENCE, self._clock)
            self._check_here(session)
            if next_.called:
                return
            yield self._moving.free(session)
            self._peers.tell(peer.number, Free(frame.number, tuple(cuts.items()), session.identifiers))
            next_ = self._next(peer, frame.number, ASK)
            if not isinstance((yield next_), Moved):
                yield durable.save(Back(number))
                place = yield durable.find(session.client_id)
                if place is not None and (place.session, place.daemon) == (number, self._peers.number):
                    return
            self._let_it_be_gone(session, peer)
        finally:
            self._way.delaying.end(delay)

    def _let_it_be_gone(self, session: Session, peer: Peer) -> None:
        if self._is_here(session):
            self._moving.let_go(session)
        self.moved += 1
