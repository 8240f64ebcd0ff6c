"""Kept: connections of a bus that are made again whenever they end, and what is said about them."""

import random
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

log = Logger("platziverse.bus")

CONNECTING: Final = "connecting"
READY: Final = "ready"
#: Seconds between two lines of the log about a bus that is away for another reason than before.
ANOTHER_REASON: Final = 10.0
#: Seconds before the first and at most before any try, of which half is by chance.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 3.0

Steps = Generator["Deferred[Any]", Any, Any]


class Gone(Exception):
    """A connection has ended, or cannot be made. The text says why, and what to do if anything."""


class Closable(Protocol):
    """A Closable is a connection of any kind."""

    def give_up(self, reason: str) -> None:
        """Close it at once, for ``reason``."""

    def when_finished(self) -> "Deferred[str]":
        """Return a Deferred that fires with the reason when it has ended."""


class Ending:
    """An Ending is the end of one connection, with its reason.

    :ivar reason: why the connection is closed, once that is known; the end itself may come later.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._has_come = False
        self._waiters: list[Deferred[str]] = []

    def wait(self) -> "Deferred[str]":
        """Return a Deferred that fires with the reason when the connection has ended."""
        if self._has_come:
            return succeed(self.reason)
        waiter: Deferred[str] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    def come(self, reason: str) -> None:
        """Tell all who wait that the connection has ended, for ``reason`` unless another one is known."""
        self.reason, self._has_come = self.reason or reason, True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(self.reason)


class BusState:
    """A BusState says once when a connection of a bus is away, and once when all are back.

    :param where: the bus, as log lines call it.
    """

    def __init__(self, where: str, seconds: Callable[[], float]) -> None:
        self.where = where
        self._seconds, self._since, self._told = seconds, 0.0, 0.0
        self._parts: dict[str, str] = {}
        self._said = ""

    def __str__(self) -> str:
        """Return ``"connecting"``, ``"ready"`` or ``"away: <reason>"``."""
        reasons = [state for state in self._parts.values() if state != READY]
        return next((reason for reason in reasons if reason != CONNECTING), (reasons or [READY])[0])

    def note(self, part: str, state: str) -> None:
        """Note the state of one connection; ``CONNECTING`` only before it was ready first."""
        self._parts[part] = state
        now = str(self)
        if now == self._said:
            return
        if now == READY:
            after = f" again, after {self._seconds() - self._since:.1f} s" if self._is_away() else ""
            log.info("the bus {where} is there{after}", where=self.where, after=after)
        elif now != CONNECTING:
            moment = self._seconds()
            if self._is_away() and moment - self._told < ANOTHER_REASON:
                return
            self._told, self._since = moment, self._since if self._is_away() else moment
            log.warn("the bus {where} is {state}", where=self.where, state=now)
        self._said = now

    def forget(self, part: str) -> None:
        """Forget a connection that is no longer needed."""
        self._parts.pop(part, None)

    def _is_away(self) -> bool:
        return self._said not in ("", READY, CONNECTING)


@inlineCallbacks
def using(connection: Closable, use: "Deferred[Any]", keep: bool = False) -> Steps:
    """Wait for ``use`` of a connection and close it; the Deferred fires with the result when it is closed.

    :param keep: close it only when ``use`` fails.
    """
    done = False
    try:
        result = yield use
        done = True
        return result
    finally:
        if not done or not keep:
            connection.give_up("we have closed the connection")
            yield connection.when_finished()


class KeptConnection:
    """A KeptConnection is one connection, made again with pauses whenever it ends.

    :param open: connects.
    :param prepare: makes a new connection fit for its use; it may raise ``Gone``.
    :param part: its name in ``state``.
    :ivar connection: the connection while it is ready, else ``None``.
    :ivar ready: fires when it is ready for the first time.
    """

    def __init__(
        self,
        reactor: Any,
        open: Callable[[], "Deferred[Any]"],
        prepare: Callable[[Any], "Deferred[Any]"],
        state: BusState,
        part: str,
    ) -> None:
        self.connection: Any | None = None
        self.ready: Deferred[None] = Deferred()
        self._reactor, self._open, self._prepare = reactor, open, prepare
        self._state, self._part = state, part
        self._pause = 0.0
        self._running: Deferred[Any] = succeed(None)
        self._stopped = False
        self._state.note(part, CONNECTING)

    def start(self) -> None:
        """Connect, and stay connected."""
        self._running = self._keep()
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._running.addErrback(lambda failure: log.failure("Bug: a connection of the bus", failure))

    @inlineCallbacks
    def stop(self) -> Steps:
        """Close the connection; the Deferred fires when it is closed."""
        self._stopped = True
        self._state.forget(self._part)
        yield deferLater(self._reactor, 0)  # we may have been called by what is to be cancelled
        self._running.cancel()
        yield self._running

    @inlineCallbacks
    def _keep(self) -> Steps:
        while not self._stopped:
            try:
                connection = yield self._open()
                reason = yield using(connection, self._use(connection))
            except Gone as error:
                reason = str(error)
            except CancelledError:
                raise
            except Exception:
                log.failure("Bug: a connection of the bus")
                reason = "a bug of ours, see the log"
            if self._stopped:  # a connection that is being made says only that it has failed
                return
            self._state.note(self._part, f"away: {reason}")
            self._pause = min(max(FIRST_PAUSE, self._pause * 2), LONGEST_PAUSE)
            yield deferLater(self._reactor, self._pause * (0.5 + random.random() / 2))

    @inlineCallbacks
    def _use(self, connection: Any) -> Steps:
        try:
            yield self._prepare(connection)
            self._pause = 0.0
            self.connection = connection
            self._state.note(self._part, READY)
            if not self.ready.called:
                self.ready.callback(None)
            return (yield connection.when_finished())
        finally:
            self.connection = None
