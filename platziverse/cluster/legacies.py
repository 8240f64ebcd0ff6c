"""Legacies: dead daemons whose Sessions are ours, until nothing of theirs is left. ADR 0171, 0172."""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.broker.interfaces import Answer
from platziverse.cluster.crossings import Crossing
from platziverse.cluster.frames import Inherited, Owed, Past
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.legacy import Legacy
from platziverse.cluster.peers import Peer, Peers

#: Seconds after which links to a dead daemon are read again, and everybody is told again who its heir is.
READ_AGAIN: Final = 5.0
#: Seconds after which rows are looked for that were there a moment ago.
SOON: Final = 0.1


@define
class _Known:
    """A _Known is a dead daemon, or one that has come back.

    :ivar read: when its links were read last.
    :ivar said: what it has said since it came back, see :class:`Past`.
    """

    legacy: Legacy
    read: float
    said: dict[int, int] = field(factory=dict)


class Legacies:
    """Legacies take what is owed to dead daemons, and tell everybody whose heir we are.

    :param catch_up: see :meth:`Linking.catch_up`.
    :ivar heirs: is told what is over.
    """

    def __init__(
        self,
        durable: Durable,
        peers: Peers,
        clock: IReactorTime,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[Failure], None],
        catch_up: Callable[[], "Deferred[Any]"],
    ) -> None:
        self.heirs: Heirs | None = None
        self._durable, self._peers, self._clock = durable, peers, clock
        self._route, self._complain, self._catch_up = route, complain, catch_up
        self._known: dict[int, _Known] = {}

    @property
    def daemons(self) -> list[int]:
        """Return the daemons to which something may be owed that is for Sessions of ours."""
        return list(self._known)

    def add(self, daemon: int) -> None:
        """Take what is owed to a dead daemon whose Sessions are ours now."""
        if daemon not in self._known:
            ours, durable = self._peers.number, self._durable
            legacy = Legacy(daemon, ours, durable, self._route, self._complain)
            self._known[daemon] = _Known(legacy, 0.0)
        self._known[daemon].legacy.bounds = None
        self._say(daemon)

    def _say(self, daemon: int) -> None:
        known = self._known[daemon]
        known.read = self._clock.seconds()
        self._peers.send(self._peers.everybody, Inherited(daemon))
        known.legacy.read().addErrback(_ignore)
        self._catch_up().addTimeout(READ_AGAIN, self._clock).addErrback(_ignore)

    def look(self) -> None:
        """Say it again, and look again; called every second."""
        now = self._clock.seconds()
        for daemon, known in list(self._known.items()):
            if daemon in self._peers or known.read + READ_AGAIN <= now:
                self._say(daemon)

    def back(self, daemon: int) -> None:
        """Ask a daemon that has come back what it was owed before; it reads the rest itself. ADR 0172."""
        if daemon in self._known:
            self._bound(daemon, {})
            self._peers.tell(daemon, Inherited(daemon))

    def past(self, peer: Peer, frame: Past) -> None:
        """Take what was owed to a daemon before it came back."""
        known = self._known.get(peer.number)
        if known is None:
            return
        if frame.origin:
            known.said[frame.origin] = frame.position
            return
        said, known.said = known.said, {}
        if len(said) == frame.position:  # or some was lost
            self._bound(peer.number, said)
            known.legacy.read().addErrback(_ignore)

    def _bound(self, daemon: int, bounds: dict[int, int]) -> None:
        self._known[daemon].legacy.bounds = bounds
        if self.heirs is not None:
            self.heirs.bound(daemon, bounds)

    def settle(self, daemon: int, crossings: Iterable[Crossing]) -> "Generator[Deferred[Any], Any, None]":
        """Take all that is owed to a daemon, to which nobody owes anything more that is for them.

        :param crossings: what was taken before its Sessions were there is done with first.
        """
        for crossing in crossings:
            yield crossing.when_done(crossing.last)
        while (known := self._known.get(daemon)) is not None:
            if not (yield known.legacy.read()) and self._is_bounded(daemon, known.legacy):
                self._forget(daemon)
            else:  # a row of a message that we have may be on its way out
                yield deferLater(self._clock, SOON)

    def _is_bounded(self, daemon: int, legacy: Legacy) -> bool:
        """Return whether it is dead, or has said of everybody what it was owed."""
        bounds, others = legacy.bounds, {self._peers.number, *self._peers} - {daemon}
        return bounds is None or others <= bounds.keys()

    def _forget(self, daemon: int) -> None:
        known = self._known.pop(daemon, None)  # somebody else may have found the same
        if known is not None:
            known.legacy.stop()
            if self.heirs is not None:
                self.heirs.settle(daemon)

    def clear(self) -> None:
        """Forget all: others own what was ours."""
        for daemon in self.daemons:
            self._forget(daemon)


def _ignore(failure: Failure) -> None:
    """Do nothing: it is tried again."""
    failure.trap(CancelledError, TimeoutError)
