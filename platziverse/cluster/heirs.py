"""Heirs: Sessions that were dead daemons' and are ours, while others may still owe something to the dead.

Others owe to a dead daemon what its Sessions listen to until its heir says that it has taken everything, and
to the heir as soon as they know what it listens to: for some moments one message is owed to both. It has the
same position in both links, so it is known again. Decided in ADR 0171, 0220 and 0229.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import TypeAlias

from attrs import define, field

from platziverse.broker.records import ends_of, link
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.cluster.links import ALL, POSITIONS

#: Link and position of a message that is owed.
Place: TypeAlias = tuple[int, int]


@define
class _Estate:
    """An _Estate is what a dead daemon has left.

    :ivar ended: the position above all that it had given when it died; ``ALL``: nobody knows.
    :ivar sessions: numbers of those that were its → the position above all that it had given by then.
    :ivar announced: number of what we have said when all of them were in memory; ``None``: they are not.
    :ivar both: origin and its incarnation → position from which on it owes to the dead and to us: it knows
        what they listen to, and what is for them is taken from the link to us.
    :ivar settled: the store says so, or is about to: what is for them is owed to us.
    """

    ended: int = ALL
    sessions: dict[int, int] = field(factory=dict)
    announced: int | None = None
    both: dict[tuple[int, int], int] = field(factory=dict)
    settled: bool = False

    def owes_both(self, origin: int, position: int) -> bool:
        """Return whether a message at this position is owed to us as well, if it is for them."""
        return position > self.both.get((origin, position // POSITIONS), ALL)

    def keeps(self, session: int, is_origin: bool, origin: int, position: int) -> bool:
        """Return whether a message for a Session of its is in the link to it alone, or was.

        :param is_origin: it has published it itself, and has written it for them as well.
        """
        if is_origin:
            return position < self.sessions.get(session, 0)
        return not (self.settled or self.owes_both(origin, position))


class Heirs:
    """Heirs knows which of our Sessions get a message that is owed, and which rows theirs take the place of.

    What is for Sessions that a daemon has died with is in the link to that one, until the daemon that owes
    has said that it knows what they listen to here as well. From then on each such message is owed to both,
    is taken from the link to us, and takes the place of both rows. Whoever inherits from us meanwhile finds
    both, or none. A Session may have been several daemons', one after the other: what is for it is where the
    first one was owed it. That may be ourselves: it has come home, and gets what is owed to us.

    Nobody else takes these rows: a daemon that has come back waits until its former Sessions are settled.

    :param ours: returns our number.
    """

    def __init__(self, ours: Callable[[], int]) -> None:
        self._ours = ours
        self._estates: dict[int, _Estate] = {}
        # Number of a Session → daemons that have died with it, the first one first.
        self._before: dict[int, Sequence[int]] = {}

    # -- what becomes of an estate ---------------------------------------------------------------

    def expect(self, daemon: int, incarnation: int) -> None:
        """Note that Sessions of a dead daemon are going to be ours.

        :param incarnation: the one that has died; 0: nobody knows.
        """
        self._estate(daemon).ended = (incarnation + 1) * POSITIONS if incarnation else ALL

    def _estate(self, daemon: int) -> _Estate:
        estate = self._estates.get(daemon)
        if estate is None:
            estate = self._estates[daemon] = _Estate()
        return estate

    def inherited(self, session: int, daemons: Sequence[int]) -> None:
        """Note a Session that is about to be in memory, and the daemons that have died with it."""
        for daemon in daemons:
            if daemon == self._ours():
                continue
            estate = self._estate(daemon)
            if estate.announced is not None:  # it has died again
                estate = self._begin_again(daemon, estate)
            estate.sessions[session] = estate.ended
        self._before[session] = tuple(daemons)

    def _begin_again(self, daemon: int, before: _Estate) -> _Estate:
        estate = self._estates[daemon] = _Estate(before.ended, before.sessions)
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
        if not self._estate(daemon).sessions:
            del self._estates[daemon]

    def complete(self, announced: int) -> None:
        """Note that all Sessions of all dead daemons are in memory.

        :param announced: number of what the others were told last.
        """
        for daemon in self.incomplete:
            self._estates[daemon].announced = announced

    def marked(self, daemon: int, origin: int, position: int, ready: int) -> None:
        """Note that another daemon owes to us too what it publishes for Sessions of a dead one.

        :param position: behind which that holds.
        :param ready: up to which number it knew then what we have said.
        """
        estate = self._estates[daemon]
        if estate.announced is not None and ready >= estate.announced:
            estate.both.setdefault((origin, position // POSITIONS), position)

    def knows(self, daemon: int, others: Mapping[int, int]) -> bool:
        """Return whether we know of all others from where on they owe us what is for its Sessions.

        :param others: number → incarnation. The daemon itself, if it is back, publishes nothing yet.
        """
        estate = self._estates[daemon]
        known = (other in estate.both for other in others.items() if other[0] != daemon)
        return estate.announced is not None and all(known)

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
        over = {*over, self._ours()}
        return any(not over >= set(self._before[session]) for session in self._estates[daemon].sessions)

    def settle(self, daemon: int, settled: bool = True) -> None:
        """Note whether the store is about to say that the Sessions of a dead daemon are settled.

        As soon as it says so the daemon may have come back, and others owe it what is its own by then: so
        from now on no message takes the place of what is owed to it. What we write behind that is committed
        after it, or never.
        """
        self._estates[daemon].settled = settled

    def is_settled(self, daemon: int) -> bool:
        """Return whether what is for the Sessions of a dead daemon is owed to us."""
        return self._estates[daemon].settled

    def forget(self, daemon: int) -> None:
        """Forget a daemon to which nothing is owed any more that is for Sessions of ours."""
        for session in self._estates.pop(daemon).sessions:
            if self._estates.keys().isdisjoint(self._before.get(session, ())):
                self._before.pop(session, None)

    def clear(self) -> None:
        """Forget all of them: ours are somebody else's."""
        self._estates.clear()
        self._before.clear()

    # -- who gets them ---------------------------------------------------------------------------

    def of_row(self, row: Place, receivers: "Match[Session]") -> "tuple[Match[Session], tuple[Place, ...]]":
        """Return the receivers of a message that is owed, and the rows that it takes the place of."""
        if not self._estates:
            return receivers, (row,)
        (origin, target), position = ends_of(row[0]), row[1]
        if target != self._ours():
            receivers = tuple(one for one in receivers if target in self._before.get(_number(one[0]), ()))
        found = tuple(one for one in receivers if self._gets(one[0], target, origin, position))
        if target != self._ours():
            return found, (row,)
        rows = [row]
        for daemon, estate in self._estates.items():
            if daemon != origin and not estate.settled and estate.owes_both(origin, position):
                rows.append((link(origin, daemon), position))
        return found, tuple(rows)

    def _gets(self, session: Session, target: int, origin: int, position: int) -> bool:
        """Return whether a message is for a Session in the link to a daemon: a dead one, or us."""
        for daemon in self._before.get(number := _number(session), ()):
            if daemon == target:
                return True
            if daemon == self._ours():
                return False
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
        return copy or estate.settled or not estate.owes_both(origin, position)


def _number(session: Session) -> int:
    return session.window.number if session.window is not None else 0
