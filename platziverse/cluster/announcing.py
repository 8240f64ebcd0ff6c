"""Announcing: the others are told what our clients listen to, and SUBACK waits until they know it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from platziverse.broker.interfaces import Answer
from platziverse.broker.session import Session
from platziverse.broker.shares import is_shared
from platziverse.cluster.frames import LIVE, Changes, Snapshot
from platziverse.cluster.interest import OwnInterest
from platziverse.cluster.peers import Peer, Peers

#: Seconds after which a daemon that has not answered is not waited for.
ANSWER: Final = 2.0
#: What is wrong when a daemon lives, and nothing comes from it: most often two that have never met.
UNHEARD: Final = (
    "Daemon {number} lives, as the database says, and is not heard on the bus: nothing but what is stored"
    " goes from one to the other; has it the same bus.url, and is its bus there?"
)
#: Characters of keys in one frame.
LONG: Final = 32_768


class Announcing:
    """An Announcing has the interest of our own clients.

    :param durable: Sessions that outlive their connection are durable.
    :param later: is given the steps of work that can wait.
    :param complain: is told of daemons that do not answer.
    :ivar is_loaded: all our durable Sessions are in memory. Until then the others know from the store what
        they listen to; and if we have been dead, our former ones may be another daemon's.
    :ivar unanswered: how often a daemon was not waited for any more.
    """

    def __init__(
        self,
        peers: Peers,
        durable: bool,
        clock: IReactorTime,
        later: Callable[[Iterator[None]], object],
        complain: Callable[[str, str, int], None],
    ) -> None:
        self.own, self.unanswered, self.is_loaded = OwnInterest(), 0, False
        self._peers, self._durable, self._clock = peers, durable, clock
        self._later, self._complain = later, complain
        self._number = 0
        self._soon: IDelayedCall | None = None
        # What SUBACKs wait for: the number, until when, and what fires then.
        self._waiting: deque[tuple[int, float, Deferred[object]]] = deque()

    # -- our clients -----------------------------------------------------------------------------

    def subscribed(self, session: Session, topic_filter: str) -> None:
        """Note that a Session has a Subscription that it did not have."""
        durable = self._durable and session.persistent
        if durable or not is_shared(topic_filter):
            self._add(topic_filter, durable)

    def _add(self, topic_filter: str, durable: bool) -> None:
        self.own.add(topic_filter, durable)
        if self._soon is None and self.own.is_changed:
            self._soon = self._clock.callLater(0, self._tell)

    def present(self, topic_filter: str, there: bool) -> None:
        """Note that a group has members that are connected, or has none any more. ADR 0193."""
        if there:
            self._add(topic_filter, False)
        else:
            self.own.remove(topic_filter, False)

    def unsubscribed(self, session: Session, topic_filter: str) -> None:
        """Note that a Session has this Subscription no more."""
        durable = self._durable and session.persistent
        if durable or not is_shared(topic_filter):
            self.own.remove(topic_filter, durable)

    def told(self) -> Answer:
        """Return a Deferred that fires when all others know what was noted so far; ``None``: they do."""
        self._tell()
        if self._lowest() >= self._number:
            return None
        waits: Deferred[object] = Deferred()
        self._waiting.append((self._number, self._clock.seconds() + ANSWER, waits))
        return waits

    @property
    def number(self) -> int:
        """Return the number of what was told last."""
        return self._number

    def is_known(self, number: int) -> bool:
        """Return whether really all others, those that are late too, know what was told up to a number."""
        return all(peer.ready >= number for peer in self._peers.values())

    def _tell(self) -> None:
        """Tell the others what is new."""
        if self._soon is not None and self._soon.active():
            self._soon.cancel()
        self._soon = None
        self._announce(self.own.changes())

    def _announce(self, interests: "list[tuple[str, int]]") -> None:
        if not self.is_loaded:
            interests = [(key, bits & LIVE) for key, bits in interests]
        for some in pieces(interests):
            self._number += 1
            self._peers.send(self._peers.everybody, Changes(self._number, some))

    # -- the others ------------------------------------------------------------------------------

    def introduce(self, peer: Peer) -> None:
        """Send a daemon all of our interest; once more, if that is under way."""
        if peer.introducing:
            peer.again = True
        else:
            peer.introducing = True
            self._later(self._introduction(peer))

    def _introduction(self, peer: Peer) -> Iterator[None]:
        self._tell()
        first = True
        for part in self.own.parts():
            for some in pieces(part):
                self._peers.tell(peer.number, Snapshot(self._number, first, False, some))
                first = False
            yield
            if self._peers.get(peer.number) is not peer:
                return
        self._peers.tell(peer.number, Snapshot(self._number, first, True, ()))
        peer.introducing = False
        if peer.again:
            peer.again = False
            self.introduce(peer)

    def ready(self, peer: Peer, number: int) -> None:
        """Note that a daemon routes by what was said up to ``number``."""
        if number <= self._number:
            peer.ready, peer.late = max(peer.ready, number), False
            self.answered()

    def answered(self) -> None:
        """Let all go on that wait for nobody any more."""
        lowest = self._lowest()
        while self._waiting and self._waiting[0][0] <= lowest:
            self._waiting.popleft()[2].callback(None)

    def _lowest(self) -> int:
        return min([peer.ready for peer in self._peers.values() if not peer.late], default=self._number)

    def look(self) -> None:
        """Tell what is over, and wait no longer for daemons that do not answer; called every second."""
        for number in self._peers.look():
            self._complain("a daemon that is not heard", UNHEARD, number)
        self._announce(self.own.faded())
        now = self._clock.seconds()
        overdue = [number for number, until, _ in self._waiting if until <= now]
        if not overdue:
            return
        for peer in self._peers.values():
            if not peer.late and peer.ready < overdue[-1]:
                self._is_late(peer)
        self.answered()

    def _is_late(self, peer: Peer) -> None:
        """Wait for a daemon no longer; it gets a snapshot, as it may have missed what was said."""
        peer.late = True
        self.unanswered += 1
        text = "Daemon {number} does not say that it knows our Subscriptions; SUBACK does not wait for it"
        self._complain("a daemon that does not answer", text, peer.number)
        self.introduce(peer)


def pieces(interests: "Iterable[tuple[str, int]]") -> "Iterator[tuple[tuple[str, int], ...]]":
    """Return the interests in frames that are not too long; none for none."""
    some: list[tuple[str, int]] = []
    length = 0
    for key, bits in interests:
        some.append((key, bits))
        length += len(key)
        if length >= LONG:
            yield tuple(some)
            some, length = [], 0
    if some:
        yield tuple(some)
