"""Beginning: before we serve we know what the clients of all other daemons listen to. ADR 0136, 0229."""

from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from platziverse.cluster.interest import Interest
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peers

log = Logger()

#: Seconds that a start waits for what the others know; and for those that say nothing, as they begin as well.
START: Final = 5.0
QUIET: Final = 1.0


class Beginning:
    """A Beginning waits for what the others know, at a start and when we begin anew; nobody waits for long.

    Before that a client that publishes would miss receivers.

    :param linking: ``None``: there are no durable Sessions.
    """

    def __init__(
        self, peers: Peers, interest: Interest, linking: Linking | None, clock: IReactorTime
    ) -> None:
        self._peers, self._interest, self._linking, self._clock = peers, interest, linking, clock
        self._waiting: list[Deferred[None]] = []
        self._is_on_bus = self._is_knowing = False
        self._until = 0.0

    def begin(self) -> "Deferred[None]":
        """Return a Deferred that fires when we know what all others listen to, or have waited enough.

        What was published a moment ago may be for durable Sessions that are away: these are in the store.
        """
        self._until = self._clock.seconds() + START
        began: Deferred[None] = Deferred()
        self._waiting.append(began)
        self._is_knowing = self._linking is None
        if self._linking is not None:
            self._linking.interest(self._interest).addCallback(self._knows)
        return began

    def when_known(self) -> "Deferred[None]":
        """Return a Deferred that fires when nobody waits for that any more."""
        if not self._waiting:
            return succeed(None)
        self._waiting.append(waits := Deferred[None]())
        return waits

    def _knows(self, _: object) -> None:
        self._is_knowing = True
        self.check()

    def on_bus(self) -> None:
        """Note that frames come and go."""
        self._is_on_bus = True
        self.check()

    def check(self) -> None:
        """Let everybody go on if what is waited for is there, or late."""
        if not self._waiting or not self._is_knowing:
            return
        missing = [number for number in self._peers if number not in self._interest]
        if (missing or not self._is_on_bus) and self._clock.seconds() < self._patience(missing):
            return
        if not self._is_on_bus:
            log.warn("The bus is away; other daemons and their clients are not there until it comes back")
        elif missing:
            log.warn("Daemons {missing} do not answer; it begins without them", missing=missing)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _patience(self, missing: "list[int]") -> float:
        """Return until when a start waits for these daemons.

        Those that begin as well wait for us. What their durable Sessions listen to is in the store.
        """
        talks = any(self._interest.is_coming(number) for number in missing)
        if talks or not self._is_on_bus or self._linking is None:
            return self._until
        return self._until - START + QUIET
