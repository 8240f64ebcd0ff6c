"""Heirs: Sessions that were dead daemons' and are ours, while others may still owe something to the dead.

Others owe to a dead daemon what its Sessions listen to until its heir says that it has taken everything, and
to the heir as soon as they know what it listens to: for some moments one message is owed to both. It has the
same position in both links, so it is known again. Decided in ADR 0171 and 0220.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain, takewhile
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred

from platziverse.broker.records import ends_of, link
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.cluster.links import ALL, POSITIONS

#: Link and position of a message that is owed.
Place: TypeAlias = tuple[int, int]


@define
class _Estate:
    """An _Estate is what a dead daemon has left.

    :ivar expected: its Sessions are about to be ours, and in memory.
    :ivar ended: the position above all that it had given when it died; ``ALL``: nobody knows yet.
    :ivar sessions: numbers of those that were its → the position above all that it had given by then.
    :ivar earlier: daemons that some of these Sessions were of before.
    :ivar announced: number of what we have said when all of them were in memory; ``None``: they are not.
    :ivar both: origin and its incarnation → position from which on it owes to the dead and to us: it knows
        what they listen to, and what is for them is taken from the link to us.
    :ivar bounds: it has come back: origin → position up to which what it was owed is for them; ``None``: it
        is dead, and all is.
    :ivar answered: it has said so since.
    :ivar settled: the store says so: what is for them is owed to us.
    """

    expected: bool = False
    ended: int = ALL
    sessions: dict[int, int] = field(factory=dict)
    earlier: set[int] = field(factory=set)
    announced: int | None = None
    both: dict[tuple[int, int], int] = field(factory=dict)
    bounds: Mapping[int, int] | None = None
    answered: bool = False
    settled: bool = False

    def come_back(self, bounds: Mapping[int, int], incarnation: int) -> None:
        """Note what it was owed before, and what it comes back as; what was said first counts."""
        self.bounds = {**bounds, **(self.bounds or {})}
        self.answered = self.answered or bool(bounds)
        if self.ended == ALL:
            self.ended = incarnation * POSITIONS
            self.sessions = dict.fromkeys(self.sessions, self.ended)

    def owes_both(self, origin: int, position: int) -> bool:
        """Return whether a message at this position is owed to us too, if it is for them."""
        return self.settled or position > self.both.get((origin, position // POSITIONS), ALL)

    def reaches(self, origin: int, position: int) -> bool:
        """Return whether a row at this position of a link to it is for them."""
        return self.bounds is None or position <= self.bounds.get(origin, 0)

    def keeps(self, session: int, is_origin: bool, origin: int, position: int) -> bool:
        """Return whether a message for a Session of its is in the link to it alone, or was.

        :param is_origin: it has published it itself, and has written it for them as well.
        """
        if is_origin:
            return position < self.sessions.get(session, 0)
        is_back = self.bounds is not None and position > self.bounds.get(origin, ALL)
        return not (is_back or self.owes_both(origin, position))


class Heirs:
    """Heirs knows which of our Sessions get a message that is owed, and which rows theirs take the place of.

    What is for Sessions that a daemon has died with is in the link to that one, until the daemon that owes
    has said that it knows what they listen to here as well. From then on each such message is owed to both,
    is taken from the link to us, and takes the place of both rows. Whoever inherits from us meanwhile finds
    both, or none. A Session may have been several daemons', one after the other: what is for it is where the
    first one was owed it. One that was ours before, and has come home, is no exception.

    A message is *undecided* while a daemon that was dead is back, and has not said whether what it is owed at
    this position is for these Sessions, or for its own. It is kept, with all that come after it from there:
    for a second at most, if all answer. ADR 0184.

    :param ours: returns our number.
    :param lives: returns the incarnation of the daemon with a number, ours too; 0: it is not there.
    """

    def __init__(self, ours: Callable[[], int], lives: Callable[[int], int]) -> None:
        self._ours, self._lives = ours, lives
        self._estates: dict[int, _Estate] = {}
        # Number of a Session → daemons that have died with it, the first one first.
        self._before: dict[int, Sequence[int]] = {}
        # By the daemon that they were published to.
        self._undecided: dict[int, deque[tuple[Place, Callable[[], Any], Deferred[object]]]] = {}

    # -- what becomes of an estate ---------------------------------------------------------------

    def expect(self, daemon: int, incarnation: int) -> None:
        """Note that Sessions of a dead daemon are going to be ours.

        :param incarnation: the one that has died; 0: nobody knows.
        """
        estate = self._estate(daemon)
        estate.expected, estate.ended = True, (incarnation + 1) * POSITIONS if incarnation else ALL

    def _estate(self, daemon: int) -> _Estate:
        estate = self._estates.get(daemon)
        if estate is None:
            estate = self._estates[daemon] = _Estate()
            if incarnation := self._lives(daemon):
                estate.come_back({}, incarnation)
        return estate

    def inherited(self, session: int, daemons: Sequence[int]) -> None:
        """Note a Session that is about to be in memory, and the daemons that have died with it."""
        for at, daemon in enumerate(daemons):
            estate = self._estate(daemon)
            if estate.announced is not None:  # it has died again
                estate = self._begin_again(daemon, estate)
            estate.sessions[session] = estate.ended
            estate.earlier.update(daemons[:at])
        self._before[session] = tuple(daemons)

    def _begin_again(self, daemon: int, before: _Estate) -> _Estate:
        sessions, earlier = before.sessions, before.earlier
        estate = self._estates[daemon] = _Estate(before.expected, before.ended, sessions, earlier)
        if before.settled:
            for session in before.sessions:
                self._before.pop(session, None)
            estate.sessions = {}
        return estate

    @property
    def incomplete(self) -> list[int]:
        """Return the dead daemons whose Sessions were not in memory, or not all of them."""
        return [daemon for daemon, one in self._estates.items() if one.sessions and one.announced is None]

    def came(self, daemon: int) -> None:
        """Note that the Sessions of a dead daemon are in memory, if any are ours."""
        estate = self._estate(daemon)
        estate.expected = False
        if not estate.sessions:
            del self._estates[daemon]
        self.decide()

    def complete(self, announced: int) -> None:
        """Note that all Sessions of all dead daemons are in memory.

        :param announced: number of what the others were told last.
        """
        for daemon in self.incomplete:
            self._estates[daemon].announced = announced
        self.decide()

    def marked(self, daemon: int, origin: int, position: int, ready: int) -> None:
        """Note that another daemon owes to us too what it publishes for Sessions of a dead one.

        :param position: behind which that holds.
        :param ready: up to which number it knew then what we have said.
        """
        estate = self._estates[daemon]
        if estate.announced is not None and ready >= estate.announced:
            estate.both.setdefault((origin, position // POSITIONS), position)

    def bound(self, daemon: int, bounds: Mapping[int, int], incarnation: int) -> None:
        """Note that a daemon has come back, and what it was owed before; see :class:`_Estate`.

        What it has said first counts: when it dies and comes back again, that holds for these Sessions.

        :param incarnation: the one that it has come back as.
        """
        if daemon in self._estates:
            self._estates[daemon].come_back(bounds, incarnation)
        self.decide()

    def left(self, daemon: int, others: Mapping[int, int]) -> None:
        """Note that a daemon has died, again perhaps; it will never say what it was owed before.

        :param others: see :meth:`knows`.
        """
        if daemon in self._estates and not self.knows(daemon, others):
            self._estates[daemon].bounds = None
        self.decide()

    def knows(self, daemon: int, others: Mapping[int, int]) -> bool:
        """Return whether we know of all others from where on they owe us what is for its Sessions.

        :param others: number → incarnation.
        """
        estate = self._estates[daemon]
        if estate.announced is None:
            return False
        if estate.bounds is not None:
            return {self._ours(), *others} - {daemon} <= estate.bounds.keys()
        return all(other in estate.both for other in others.items())

    def to_settle(self, daemons: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return those of these dead daemons whose Sessions may be settled, and the numbers of these.

        A Session that was several daemons' may be when nothing is open of any of them.
        """
        over = {*daemons, *(daemon for daemon, estate in self._estates.items() if estate.settled)}
        while open_ := [daemon for daemon in over if self._is_open_beside(daemon, over)]:
            over.difference_update(open_)
        new = [daemon for daemon in over if not self._estates[daemon].settled]
        return new, list(dict.fromkeys(chain(*(self._estates[daemon].sessions for daemon in new))))

    def _is_open_beside(self, daemon: int, over: Set[int]) -> bool:
        return any(not over >= set(self._before[session]) for session in self._estates[daemon].sessions)

    def settle(self, daemon: int) -> None:
        """Note that the store says that the Sessions of a dead daemon are settled."""
        self._estates[daemon].settled = True
        self.decide()

    def is_settled(self, daemon: int) -> bool:
        """Return whether what is for the Sessions of a dead daemon is owed to us."""
        return self._estates[daemon].settled

    def forget(self, daemon: int) -> None:
        """Forget a daemon to which nothing is owed any more that is for Sessions of ours."""
        for session in self._estates.pop(daemon).sessions:
            if self._estates.keys().isdisjoint(self._before.get(session, ())):
                self._before.pop(session, None)
        self.decide()

    def clear(self) -> None:
        """Forget all of them, and answer nobody: ours are somebody else's."""
        self._estates.clear()
        self._before.clear()
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
                open_ = self._is_unbound(estate, origin)
            if open_:
                return True
        return False

    def _is_unbound(self, estate: _Estate, origin: int) -> bool:
        """Return whether a daemon that is back has still to say what another one owed to it before."""
        if estate.bounds is None or estate.settled:
            return False
        if estate.announced is None:
            return True
        return origin not in estate.bounds and (not estate.answered or bool(self._lives(origin)))

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
        if self._is_of_the_dead(target, origin, position):
            found = (one for one in receivers if target in self._before.get(_number(one[0]), ()))
            return tuple(one for one in found if self._gets(one[0], target, origin, position)), (row,)
        rows = [row]
        for daemon, estate in self._estates.items():
            if daemon != origin and estate.owes_both(origin, position) and estate.reaches(origin, position):
                rows.append((link(origin, daemon), position))
        return tuple(one for one in receivers if self._gets(one[0], 0, origin, position)), tuple(rows)

    def _is_of_the_dead(self, target: int, origin: int, position: int) -> bool:
        """Return whether a row is of a link to a dead daemon; we may have been it."""
        home = self._estates.get(target) if target == self._ours() else None
        return target != self._ours() if home is None else home.reaches(origin, position)

    def _gets(self, session: Session, target: int, origin: int, position: int) -> bool:
        """Return whether a message is for a Session in the link to a dead daemon; 0: in that to us."""
        before = self._before.get(number := _number(session), ())
        for daemon in takewhile(lambda one: one != target, before):
            estate = self._estates.get(daemon)
            if estate is not None and estate.keeps(number, daemon == origin, origin, position):
                return False
        return True

    def is_due(self, daemon: int, origin: int, position: int, copy: bool) -> bool:
        """Return whether a row of a link to a dead daemon is to be taken now; or deleted, when it is settled.

        Of a message that is owed to us too it may be on its way out.

        :param copy: it is that of a group, which is owed to one daemon alone.
        """
        estate = self._estates[daemon]
        if not estate.reaches(origin, position) or self._waits(estate, origin):
            return False
        return copy or estate.settled or not estate.owes_both(origin, position)

    def _waits(self, estate: _Estate, origin: int) -> bool:
        """Return whether a daemon that had some of its Sessions before has still to say what is for them."""
        earlier = [self._estates[one] for one in estate.earlier if one != origin and one in self._estates]
        return any(self._is_unbound(one, origin) for one in earlier)


def _number(session: Session) -> int:
    return session.window.number if session.window is not None else 0
