"""Heirs: Sessions that were a dead daemon's and are ours, while others may still owe something to the dead.

Others owe to the dead daemon what its Sessions listen to until they have heard of its heir, and to the heir
as soon as they know what it listens to: for some moments one message is owed to both. It has the same
position in both links, so it is known again. Decided in ADR 0171.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred

from platziverse.broker.records import ends_of, link
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.cluster.links import POSITIONS

#: Link and position of a message that is owed.
Place: TypeAlias = tuple[int, int]


@define
class _Estate:
    """An _Estate is what a dead daemon has left.

    :ivar present: numbers of our own Sessions when we began to take over.
    :ivar ended: the position above all that it had given when it died.
    :ivar sessions: numbers of those that were its → the position above all that it had given by then.
    :ivar announced: number of what we have said when all of them were in memory; ``None``: they are not.
    :ivar bounds: it has come back: origin → position up to which what it was owed is for them; ``None``: it
        is dead, and all is.
    """

    present: frozenset[int]
    ended: int
    sessions: dict[int, int] = field(factory=dict)
    announced: int | None = None
    bounds: Mapping[int, int] | None = None


class Heirs:
    """Heirs knows which of our Sessions get a message that is owed, and which rows theirs take the place of.

    A message that is owed to us is not for Sessions of a dead daemon while some of them are not in memory: it
    waits for all of them in the link to the dead one. From then on it is for them too, and theirs takes the
    place of both rows.

    A message is *undecided* while a daemon that was dead is back, and has not said whether what it is owed at
    this position is for these Sessions, or for its own. It is kept, with all that come after it from there:
    for a second at most, if all answer. ADR 0184.

    :param ours: returns our number.
    :param lives: returns whether the daemon with a number is there.
    """

    def __init__(self, ours: Callable[[], int], lives: Callable[[int], bool]) -> None:
        self._ours, self._lives = ours, lives
        self._estates: dict[int, _Estate] = {}
        # By the daemon that they were published to.
        self._undecided: dict[int, deque[tuple[Place, Callable[[], Any], Deferred[object]]]] = {}

    def expect(self, daemon: int, incarnation: int, present: Iterable[int]) -> None:
        """Note that Sessions of a dead daemon are going to be ours.

        :param incarnation: the one that has died; 0: nobody knows.
        :param present: numbers of those that are ours already.
        """
        ended = (incarnation + 1) * POSITIONS if incarnation else 0
        if daemon not in self._estates:
            self._estates[daemon] = _Estate(frozenset(present), ended)
        self._estates[daemon].ended = ended

    def take(self, daemon: int, sessions: Iterable[int]) -> None:
        """Note the numbers of the Sessions that are ours now; some that were before may be among them."""
        estate = self._estates.get(daemon)
        if estate is not None:
            estate.sessions |= dict.fromkeys(frozenset(sessions) - estate.present, estate.ended)
            estate.announced = estate.bounds = None
        self.decide()

    def has(self, daemon: int) -> bool:
        """Return whether any Session of a daemon is ours."""
        estate = self._estates.get(daemon)
        return estate is not None and bool(estate.sessions)

    def complete(self, daemon: int, announced: int) -> None:
        """Note that all of them are in memory.

        :param announced: number of what the others were told last.
        """
        estate = self._estates.get(daemon)
        if estate is not None:
            estate.announced = announced
        self.decide()

    def bound(self, daemon: int, bounds: Mapping[int, int]) -> None:
        """Note that a daemon has come back, and what it was owed before; see :class:`_Estate`."""
        if daemon in self._estates:
            self._estates[daemon].bounds = bounds
        self.decide()

    def settle(self, daemon: int) -> None:
        """Forget a daemon to which nothing is owed any more that is for Sessions of ours."""
        self._estates.pop(daemon, None)
        self.decide()

    def clear(self) -> None:
        """Forget all of them, and answer nobody: ours are somebody else's."""
        self._estates.clear()
        undecided, self._undecided = self._undecided, {}
        for _, _, answer in chain(*undecided.values()):
            answer.cancel()

    # -- messages that are undecided -------------------------------------------------------------

    def is_undecided(self, row: Place) -> bool:
        """Return whether it is not known yet for which of our Sessions a message is that is owed to us."""
        if not self._estates:
            return False
        (origin, target), position = ends_of(row[0]), row[1]
        return origin in self._undecided or (target == self._ours() and self._is_open(origin, position))

    def _is_open(self, origin: int, position: int) -> bool:
        for daemon, estate in self._estates.items():
            if daemon == origin:  # it is back, and owes to the Sessions that were its own
                open_ = estate.announced is None and any(position >= end for end in estate.sessions.values())
            else:
                bounds = estate.bounds if estate.announced is not None else None
                open_ = bounds is not None and origin not in bounds and self._lives(origin)
            if open_:
                return True
        return False

    @property
    def decided(self) -> bool:
        """Return whether no message is undecided."""
        return not self._undecided

    def keep(self, row: Place, deliver: Callable[[], Any]) -> "Deferred[object]":
        """Call ``deliver`` when it is decided for whom a message is; return its answer."""
        answer: Deferred[object] = Deferred()
        self._undecided.setdefault(ends_of(row[0])[0], deque()).append((row, deliver, answer))
        return answer

    def decide(self) -> None:
        """Deliver what is decided by now, in its order."""
        for origin in list(self._undecided):
            waiting = self._undecided.get(origin)  # an answer may have decided more
            if waiting and not self._is_open(origin, waiting[0][0][1]):
                del self._undecided[origin]
                for _, deliver, answer in waiting:
                    maybeDeferred(deliver).chainDeferred(answer)

    # -- who gets them ---------------------------------------------------------------------------

    def of_row(self, row: Place, receivers: "Match[Session]") -> "tuple[Match[Session], tuple[Place, ...]]":
        """Return the receivers of a message that is owed, and the rows that it takes the place of."""
        if not self._estates:
            return receivers, (row,)
        (origin, target), position = ends_of(row[0]), row[1]
        if target != self._ours():
            estate = self._estates.get(target)
            heirs = estate.sessions if estate is not None else {}
            return tuple(one for one in receivers if _number(one[0]) in heirs), (row,)
        hidden, rows = set[int](), [row]
        for daemon, estate in self._estates.items():
            if daemon == origin:  # what it has published itself it has written for them as well
                hidden |= {number for number, ended in estate.sessions.items() if position < ended}
            elif estate.announced is None:
                hidden |= estate.sessions.keys()
            elif estate.bounds is None or position <= estate.bounds.get(origin, 0):
                rows.append((link(origin, daemon), position))
        return _without(receivers, hidden), tuple(rows)


def _number(session: Session) -> int:
    return session.window.number if session.window is not None else 0


def _without(receivers: "Match[Session]", hidden: set[int]) -> "Match[Session]":
    return tuple(one for one in receivers if _number(one[0]) not in hidden) if hidden else receivers
