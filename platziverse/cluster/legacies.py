"""Legacies: dead daemons whose Sessions are ours, until nothing of theirs is left. ADR 0171, 0220, 0229."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import Settled
from platziverse.cluster.crossings import Crossing
from platziverse.cluster.frames import OPEN, Owed
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.legacy import Legacy
from platziverse.cluster.peers import Peer, Peers

#: Seconds in which all daemons say how much they owe, and we have taken it; then they are asked again: at
#: first, as a question may be lost, and at most.
ASK: Final = 1.0
PATIENCE: Final = 8.0
#: Seconds after which rows are looked for that were there a moment ago: at first, and at most.
SOON: Final = 0.1
LATE: Final = 1.0

#: Of no daemon is it said up to where something counts: all of it does.
EVERYTHING: Final[Mapping[int, int]] = {}

_Steps = Generator["Deferred[Any]", Any, Any]


@define
class _Known:
    """A _Known is a dead daemon, or one that has come back.

    :ivar steady: we know of all others from where on they owe us what is for its Sessions, and nobody has
        come, and nothing was inherited, since this was found out.
    """

    legacy: Legacy
    steady: bool = False


class Legacies:
    """Legacies take what is owed to dead daemons, settle their Sessions, and then tell everybody. ADR 0220.

    1. Each of the others says up to where it owes what is for them to the dead daemon alone.
    2. All of that is taken, from the link to the dead one; and what is for our others, from that to us.
    3. The store notes that the Sessions are settled: from then on they are owed what is owed to us.
    4. The others are told to owe nothing more to the dead one; what is there is owed to us too, and deleted.
       If it has come back it has waited for the third step, and does that itself. ADR 0229.

    :param catch_up: takes what others have published; it is given what a :class:`Mark` says of dead daemons.
    :param stored: its Deferred fires when what we owe ourselves to these daemons is in the store.
    :param crossings: returns those of all others.
    :param has_read_what_is_left: returns whether we have read all that daemons owe us which are not there.
    """

    def __init__(
        self,
        durable: Durable,
        peers: Peers,
        clock: IReactorTime,
        heirs: Heirs,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[Failure], None],
        catch_up: Callable[[Sequence[int]], "Deferred[Mapping[int, int]]"],
        stored: Callable[[Iterable[int]], "Deferred[Any]"],
        crossings: Callable[[], Iterable[Crossing]],
        has_read_what_is_left: Callable[[], bool],
    ) -> None:
        self.heirs = heirs
        self._durable, self._peers, self._clock = durable, peers, clock
        self._route, self._complain = route, complain
        self._catch_up, self._stored, self._crossings = catch_up, stored, crossings
        self._has_read_what_is_left = has_read_what_is_left
        self._known: dict[int, _Known] = {}
        self._settles: Deferred[None] | None = None
        self._patience = ASK

    @property
    def daemons(self) -> list[int]:
        """Return the daemons to which something may be owed that is for Sessions of ours."""
        return list(self._known)

    def add(self, daemon: int) -> None:
        """Take what is owed to a dead daemon whose Sessions are ours now, and in memory."""
        self.put_off()
        if daemon not in self._known:
            legacy = Legacy(daemon, self.heirs, self._durable, self._route, self._complain)
            self._known[daemon] = _Known(legacy)
        if self._settles is None or self._settles.called:
            self._settles = self._settle()
            self._settles.addErrback(_ignore).addErrback(self._complain)

    def put_off(self) -> None:
        """Settle nothing in this round, as somebody has come: what was read was not all, for all we knew."""
        for known in self._known.values():
            known.steady = False

    def clear(self) -> None:
        """Forget all: others own what was ours."""
        self._known.clear()
        self.heirs.clear()
        if self._settles is not None:
            self._settles.cancel()

    def marked(self, peer: Peer, position: int) -> None:
        """Note up to which position another daemon has published, or we have taken it."""
        for daemon, known in self._known.items():
            if daemon != peer.number:
                last = max(position, known.legacy.last(peer.number))
                self.heirs.marked(daemon, peer.number, last, peer.ready)

    @property
    def _others(self) -> dict[int, int]:
        return {number: peer.incarnation for number, peer in self._peers.items()}

    # -- until nothing is left -------------------------------------------------------------------

    @property
    def _settled(self) -> list[int]:
        return [daemon for daemon in self._known if self.heirs.is_settled(daemon)]

    @inlineCallbacks
    def _settle(self) -> _Steps:
        """Go on until nothing is left of any of them."""
        pause = SOON
        while self._known:
            before = len(self._known), len(self._settled)
            yield from self._go_on()
            is_further = (len(self._known), len(self._settled)) != before
            pause = SOON if is_further else min(2 * pause, LATE)
            if self._known and not is_further:
                yield deferLater(self._clock, pause)

    def _go_on(self) -> _Steps:
        """Take the four steps, of each dead daemon as far as it has come."""
        self._leave_to_those_who_are_back()
        settled, others = self._settled, self._others
        open_ = [daemon for daemon in self._known if daemon not in settled]
        for daemon in open_:
            self._known[daemon].steady = self.heirs.knows(daemon, others)
        asked: Deferred[Any] = self._catch_up([*settled, *map(OPEN.__add__, open_)]).addTimeout(
            self._patience, self._clock
        )
        asked.addErrback(_not_answered)
        yield from self._read(open_)
        serials: Mapping[int, int] | None = yield asked
        if serials is None:
            self._patience = min(2 * self._patience, PATIENCE)
            return
        self._patience = ASK
        for crossing in self._crossings():
            yield crossing.when_done(crossing.last)
        yield self._stored(open_)
        if not self._has_read_what_is_left():  # when all is settled nobody knows any more who has what of it
            return
        empty = yield from self._read(open_)
        yield from self._save(daemon for daemon in empty if self._known[daemon].steady)
        for daemon in (yield from self._read(settled, serials)):
            self._forget(daemon)

    def _leave_to_those_who_are_back(self) -> None:
        """Forget daemons that have come back, and whose Sessions are settled: what is left is theirs."""
        for daemon in self._settled:
            if daemon in self._peers:
                self._forget(daemon)

    def _forget(self, daemon: int) -> None:
        del self._known[daemon]
        self.heirs.forget(daemon)

    def _read(self, daemons: Iterable[int], through: Mapping[int, int] = EVERYTHING) -> _Steps:
        """Take what is owed to these daemons; return those of which nothing is left.

        :param through: origin → up to which position; otherwise everything.
        """
        empty: list[int] = []
        for daemon in daemons:
            known = self._known.get(daemon)  # or it was forgotten meanwhile
            if known is not None and not (yield known.legacy.read(through)):
                empty.append(daemon)
        return empty

    def _save(self, empty: Iterable[int]) -> _Steps:
        """Have the store note that Sessions are settled; from now on we act as if it had."""
        daemons, sessions = self.heirs.to_settle(empty)
        if daemons:
            for daemon in daemons:
                self.heirs.settle(daemon)
            saved = self._durable.save(Settled(tuple(sessions)))
            if not (yield saved.addCallbacks(lambda _: True, self._not_saved)):
                for daemon in daemons:
                    self.heirs.settle(daemon, False)

    def _not_saved(self, failure: Failure) -> bool:
        """Say it; the next round tries again."""
        if not failure.check(CancelledError):
            self._complain(failure)
        return False


def _not_answered(failure: Failure) -> None:
    """Do nothing: a daemon has gone, or does not answer."""
    failure.trap(CancelledError, TimeoutError)


def _ignore(failure: Failure) -> None:
    """Do nothing: we were taken for dead."""
    failure.trap(CancelledError)
