"""When partitions are made, and what is old is deleted; :mod:`~platziverse.postgres.pruning` says how."""

import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.postgres.connection import connect, force_close
from platziverse.postgres.pruning import Kept, Pruning
from platziverse.postgres.sqlstate import one_line

log = Logger("platziverse.store")

#: After so many runs that failed, one a minute, somebody should know.
PATIENCE: Final = 30


class Maintenance:
    """Looks after the tables at once and every hour, and every minute while that fails.

    Several daemons may do so: only what is missing is added. Data waits for none of it, since what
    belongs to no partition goes to the default one.

    :param kept: how long rows are kept.
    :param wall_clock: returns seconds since the epoch, as this machine has them.
    :param rejected: returns how many messages this daemon has rejected; after more of them their room is
        looked at within a minute.
    :ivar deleted: rejected messages that were deleted, by the setting that says so.
    """

    def __init__(
        self,
        dsn: str,
        reactor: Any,
        kept: Kept,
        *,
        wall_clock: Callable[[], float] = time.time,
        rejected: Callable[[], int] = lambda: 0,
        interval: float = 3600.0,
        retry: float = 60.0,
    ) -> None:
        self.deleted: Counter[str] = Counter()
        self._dsn, self._reactor, self._kept = dsn, reactor, kept
        self._wall_clock, self._rejected = wall_clock, rejected
        self._interval, self._retry = interval, retry
        self._due, self._failures, self._looked_at = 0.0, 0, 0
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin, with the first run at once."""
        self._due = self._reactor.seconds()
        self._loop.start(min(self._retry, self._interval))

    def stop(self) -> "Deferred[None]":
        """No run begins any more; fires when the last has ended."""
        if self._loop.running:
            self._loop.stop()
        return self._running or succeed(None)

    @inlineCallbacks
    def run(self, everything: bool = True) -> Generator["Deferred[Any]", Any, None]:
        """Add and delete what is due by the clock of the database.

        :param everything: or only what may be due within a minute, the room of rejected messages.
        :raises psycopg2.Error: the database is away, or somebody holds a lock.
        """
        connection = yield connect(self._dsn, self._reactor)
        try:
            pruning = Pruning(connection, self._kept, self._wall_clock, self.deleted)
            yield pruning.run() if everything else pruning.too_many_rejected()
        finally:
            force_close(connection)

    def _look(self) -> "Deferred[None] | None":
        due, rejected = self._reactor.seconds() >= self._due, self._rejected()
        if not due and rejected == self._looked_at:
            return None
        self._looked_at = rejected
        self._running = self.run(due).addCallbacks(self._done, self._failed, callbackArgs=(due,))
        return self._running

    def _done(self, _: object, everything: bool) -> None:
        self._running = None
        if everything:
            self._failures = 0
            self._due = self._reactor.seconds() + self._interval - self._retry / 2

    def _failed(self, failure: Any) -> None:
        self._running = None
        if not failure.check(psycopg2.Error):
            log.failure("tables could not be looked after", failure)
            return
        self._failures += 1
        say = log.warn if self._failures % PATIENCE == 0 else log.info
        text = "tables are looked after later, after {failures} attempts: {reason}"
        say(text, failures=self._failures, reason=one_line(failure.value))
