"""Taking: a client has come to us, and its durable Session is another daemon's."""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.places import StoredPlace
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import unavailable
from platziverse.cluster.approach import Approach, Elsewhere
from platziverse.cluster.frames import Closed, Frame, Free, LetGo, Mine, Refused
from platziverse.cluster.leaving import PATIENCE
from platziverse.cluster.peers import Peer
from platziverse.cluster.way import Way
from platziverse.mqtt.errors import ConnectRefused

log = Logger()

#: Seconds until the owner of a Session is looked up again.
AGAIN: Final = 0.1
#: Why a client may not come now.
FULL: Final = "too many messages wait for Sessions on their way (max_unfinished_total)"
STAYS: Final = "its Session is at another daemon, which does not let it go now"
BEHIND: Final = "what other daemons owe to our Sessions is being read"

_Steps = Generator["Deferred[Any]", Any, Any]


class Taking:
    """A Taking moves Sessions here when their clients come. Why in this order is in ADR 0153.

    :param later: is given steps that can wait; the Deferred fires after the last one.
    :param mine: see :meth:`Identifiers.came`.
    :ivar moved: how many have come.
    :ivar refused: how many have not, as too many messages wait for others.
    """

    def __init__(
        self,
        way: Way,
        later: "Callable[[Iterator[None]], Deferred[Any]]",
        mine: "Callable[[Peer, Mine], None]",
    ) -> None:
        self.moved = self.refused = self._number = 0
        self._way, self._clock, self._later, self._mine = way, way.clock, later, mine
        # Client Identifier → those who wait for its Session; and what others say meanwhile of its client.
        self._waiting: dict[str, list[Deferred[Session | None]]] = {}
        self._others: dict[str, tuple[Peer, Mine]] = {}
        # Number of ours → daemon that is asked, and what it says next.
        self._asked: dict[int, tuple[int, Deferred[Frame]]] = {}
        # What has begun and can still be given up → the daemon that it depends on.
        self._approaching: dict[Deferred[Any], int] = {}
        way.moving.come_to(self.take)

    def take(self, client_id: str, username: str | None, since: float) -> "Deferred[Session | None]":
        """Have the Session of a client; see :class:`SessionRecords`."""
        waits: Deferred[Session | None] = Deferred()
        waiting = self._waiting.get(client_id)
        if waiting is not None:
            waiting.append(waits)
        else:
            self._waiting[client_id] = [waits]
            self._take(client_id, username, since).addBoth(self._took, client_id)
        # What was written may not be known by then: it goes on, and the client comes again.
        return waits.addTimeout(PATIENCE + AGAIN, self._clock).addErrback(self._not_in_time)

    def _not_in_time(self, failure: Failure) -> Failure:
        return failure if failure.check(ConnectRefused) else Failure(unavailable(STAYS))

    def _took(self, result: "Session | Failure | None", client_id: str) -> None:
        for waits in self._waiting.pop(client_id):
            if not waits.called:
                waits.callback(result)
        if (other := self._others.pop(client_id, None)) is not None:
            self._mine(*other)

    # -- what others say -------------------------------------------------------------------------

    def came(self, peer: Peer, frame: Closed | Free | Refused) -> None:
        """Go on with a Session."""
        daemon, answer = self._asked.pop(frame.number, (0, None))
        if answer is not None and daemon == peer.number:
            answer.callback(frame)

    def hear(self, peer: Peer, frame: Mine) -> None:
        """Note that a client has connected elsewhere whose Session is on its way to us."""
        if frame.client_id in self._waiting and not frame.durable:
            self._others[frame.client_id] = peer, frame

    def left(self, number: int) -> None:
        """Give up what depends on a daemon that has gone: an heir will have its Sessions, perhaps we."""
        for approach, daemon in list(self._approaching.items()):
            if daemon == number:
                approach.cancel()

    # -- one Session -----------------------------------------------------------------------------

    @inlineCallbacks
    def _take(self, client_id: str, username: str | None, since: float) -> _Steps:
        """Look for a Session until it is here, or there is none; or it is too late."""
        way, until = self._way, self._clock.seconds() + PATIENCE
        while True:
            if way.broker.loading is None:
                if (session := way.broker.sessions.get(client_id)) is not None:
                    return session
                place: StoredPlace | None = yield way.durable.find(client_id)
                if place is None or place.daemon == 0:
                    return None
                try:
                    self._check_ready()
                    return (yield self._from(place, LetGo(0, client_id, username, since), until))
                except Elsewhere as reason:
                    text = "The Session of {client_id!r} does not come yet: {reason}"
                    log.debug(text, client_id=client_id, reason=reason)
            if self._clock.seconds() + AGAIN >= until:
                raise self._refusal(client_id)
            yield deferLater(self._clock, AGAIN)

    def _check_ready(self) -> None:
        """Raise ``Elsewhere`` if no message may wait for a Session now."""
        if self._way.delaying.is_full:
            raise Elsewhere(FULL)
        linking = self._way.linking
        if linking.is_behind or linking.legacies.daemons:
            raise Elsewhere(BEHIND)

    def _refusal(self, client_id: str) -> ConnectRefused:
        if not self._way.delaying.is_full:
            return unavailable(STAYS)
        self.refused += 1
        cause, text = "Sessions that do not come", "The Session of {client_id!r} does not come: " + FULL
        self._way.broker.complaints.warn(cause, text, address="", client_id=client_id)
        return unavailable(FULL)

    @inlineCallbacks
    def _from(self, place: StoredPlace, wanted: LetGo, until: float) -> _Steps:
        """Take a Session from where it is.

        :raises Elsewhere: it does not come now.
        """
        peer = self._way.peers.get(place.daemon)
        if peer is None and place.daemon != self._way.peers.number:
            raise Elsewhere("its daemon is not there")
        self._number = number = self._number + 1
        ask = partial(self._ask, number, place.daemon)
        approach = Approach(self._way, self._later, place, ask)
        try:
            if peer is not None:  # otherwise it is ours, and nobody has had it in memory
                asked = LetGo(number, wanted.client_id, wanted.username, wanted.since)
                yield from self._near(approach, asked, place.daemon, until)
            session = yield approach.take(wanted.client_id)
            if peer is not None:
                self._say_moved(session, peer)
            return session
        finally:
            self._asked.pop(number, None)
            approach.end()

    def _near(self, approach: Approach, asked: LetGo, daemon: int, until: float) -> _Steps:
        near = approach.near(asked)
        self._approaching[near] = daemon
        try:
            yield near.addTimeout(max(until - self._clock.seconds(), AGAIN), self._clock)
        except (CancelledError, TimeoutError):
            raise Elsewhere("it took too long, or its daemon has gone") from None
        finally:
            del self._approaching[near]

    def _ask(self, number: int, daemon: int, frame: Frame) -> "Deferred[Frame]":
        """Say something about a Session; the Deferred fires with the answer."""
        answer: Deferred[Frame] = Deferred()
        self._asked[number] = daemon, answer
        self._way.peers.tell(daemon, frame)
        return answer

    def _say_moved(self, session: Session, peer: Peer) -> None:
        self.moved += 1
        text = "The Session of {client_id!r} has moved from daemon {before} to daemon {now}, with its client"
        log.info(text, client_id=session.client_id, before=peer.number, now=self._way.peers.number)
