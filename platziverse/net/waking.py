"""Waking: after a pause of the process we listen to other daemons first, then to clients. ADR 0232."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.turn import Turn
from platziverse.net.flow import ASLEEP, Source

log = Logger()


class Held(Protocol):
    """A Held is a Network Connection of which nothing is handled for a moment."""

    @property
    def reading(self) -> Source: ...

    def connectionLost(self, reason: Failure) -> None: ...


class Waking:
    """A Waking handles nothing that clients have sent until we know that we are still who we were.

    A process that was stopped for seconds (``SIGSTOP``, a paused container, a suspended machine) finds in its
    sockets what clients sent long ago. Many of them have given up, and are somewhere else; another daemon may
    have taken over everything. What they sent again there would be handled twice, or the older message last.

    :param connections: all that are open.
    :ivar confirm: returns a Deferred that fires when the database has said whether we are, or is away;
        ``None``: nobody else takes anything over.
    :ivar is_asleep: that is being asked.
    """

    def __init__(self, connections: Iterable[Held], clock: IReactorTime) -> None:
        self.confirm: Callable[[], Deferred[Any]] | None = None
        self.is_asleep = False
        self._connections, self._clock, self._turn = connections, clock, Turn(clock)
        self._lost: deque[tuple[Held, Failure]] = deque()

    def overslept(self) -> None:
        """Hold all connections: time has passed in which nothing of ours ran."""
        if self.confirm is None or self.is_asleep:
            return
        self.is_asleep = True
        log.warn("This process was stopped for some seconds; clients wait until the database knows us again")
        for connection in self._connections:
            connection.reading.hold_reading(ASLEEP)
        self.confirm().addBoth(self._go_on)

    def lost(self, connection: Held, reason: Failure) -> None:
        """Note that a connection has ended meanwhile."""
        self._lost.append((connection, reason))

    def _go_on(self, _: object) -> None:
        self.is_asleep = False
        self._resume(deque(self._connections))

    def _resume(self, held: deque[Held]) -> None:
        """End the connections that are lost, and go on with the others; some in each turn of the reactor.

        A client may have been lost, and have come again: what it has sent before comes first. If there is
        another pause meanwhile, all wait for what the database says then.
        """
        if self.is_asleep:
            return
        while self._lost or held:
            if self._lost:
                connection, reason = self._lost.popleft()
                connection.connectionLost(reason)
            else:
                held.popleft().reading.resume_reading(ASLEEP)
            if self._turn.is_over:
                self._clock.callLater(0, self._resume, held)
                return
