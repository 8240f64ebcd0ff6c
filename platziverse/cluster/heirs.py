"""Heirs: Sessions that were a dead daemon's and are ours, while others may still owe something to the dead.

Others owe to the dead daemon what its Sessions listen to until they have heard of its heir, and to the heir
as soon as they know what it listens to: for some moments one message is owed to both. It has the same
position in both links, so it is known again. Decided in ADR 0171.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from attrs import define, field

from platziverse.broker.records import ends_of, link
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match

#: Link and position of a message that is owed.
Place: TypeAlias = tuple[int, int]


@define
class _Estate:
    """An _Estate is what a dead daemon has left.

    :ivar present: numbers of our own Sessions when we began to take over.
    :ivar sessions: numbers of those that were its.
    :ivar announced: number of what we have said when all of them were in memory; ``None``: they are not.
    :ivar bounds: it has come back: origin → position up to which what it was owed is for them; ``None``: it
        is dead, and all is.
    """

    present: frozenset[int]
    sessions: frozenset[int] = field(factory=frozenset)
    announced: int | None = None
    bounds: Mapping[int, int] | None = None


class Heirs:
    """Heirs knows which of our Sessions get a message that is owed, and which rows theirs take the place of.

    A message that is owed to us is not for Sessions of a dead daemon while some of them are not in memory: it
    waits for all of them in the link to the dead one. From then on it is for them too, and theirs takes the
    place of both rows.

    :param ours: returns our number.
    """

    def __init__(self, ours: Callable[[], int]) -> None:
        self._ours = ours
        self._estates: dict[int, _Estate] = {}

    def expect(self, daemon: int, present: Iterable[int]) -> None:
        """Note that Sessions of a dead daemon are going to be ours.

        :param present: numbers of those that are ours already.
        """
        if daemon not in self._estates:
            self._estates[daemon] = _Estate(frozenset(present))

    def take(self, daemon: int, sessions: Iterable[int]) -> None:
        """Note the numbers of the Sessions that are ours now; some that were before may be among them."""
        estate = self._estates.get(daemon)
        if estate is not None:
            estate.sessions |= frozenset(sessions) - estate.present
            estate.announced = estate.bounds = None

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

    def bound(self, daemon: int, bounds: Mapping[int, int]) -> None:
        """Note that a daemon has come back, and what it was owed before; see :class:`_Estate`."""
        if daemon in self._estates:
            self._estates[daemon].bounds = bounds

    def settle(self, daemon: int) -> None:
        """Forget a daemon to which nothing is owed any more that is for Sessions of ours."""
        self._estates.pop(daemon, None)

    def clear(self) -> None:
        """Forget all of them: ours are somebody else's."""
        self._estates.clear()

    def of_row(self, row: Place, receivers: "Match[Session]") -> "tuple[Match[Session], tuple[Place, ...]]":
        """Return the receivers of a message that is owed, and the rows that it takes the place of."""
        if not self._estates:
            return receivers, (row,)
        (origin, target), position = ends_of(row[0]), row[1]
        if target != self._ours():
            estate = self._estates.get(target)
            heirs = estate.sessions if estate is not None else frozenset[int]()
            return tuple(one for one in receivers if _number(one[0]) in heirs), (row,)
        hidden, rows = set[int](), [row]
        for daemon, estate in self._estates.items():
            if estate.announced is None:
                hidden |= estate.sessions
            elif estate.bounds is None or position <= estate.bounds.get(origin, 0):
                rows.append((link(origin, daemon), position))
        return _without(receivers, hidden), tuple(rows)

    def of_message(self, receivers: "Match[Session]", ready: int) -> "Match[Session]":
        """Return the receivers of a message at QoS 1 or 2 that is owed to none of our Sessions.

        Those of a dead daemon are owed it there, if its publisher does not know yet what they listen to.

        :param ready: up to which number the daemon that has sent it knew what we have said.
        """
        hidden = set[int]()
        for estate in self._estates.values():
            if estate.announced is None or estate.announced > ready:
                hidden |= estate.sessions
        return _without(receivers, hidden)


def _number(session: Session) -> int:
    return session.window.number if session.window is not None else 0


def _without(receivers: "Match[Session]", hidden: set[int]) -> "Match[Session]":
    return tuple(one for one in receivers if _number(one[0]) not in hidden) if hidden else receivers
