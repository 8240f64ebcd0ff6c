"""Maintenance: when partitions are made and old rows deleted, by :mod:`~platziverse.postgres.pruning`."""

import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.postgres.connection import connect, force_close
from platziverse.postgres.failures import Failures
from platziverse.postgres.pruning import Kept, Pruning

log = Logger("platziverse.store")


class Maintenance:
    """Maintenance looks after the tables at once and every hour, and every minute while that fails.

    Several daemons may do so, since only missing partitions are added. Data waits for none of it: rows that
    belong to no partition go to the default one.

    :param kept: how long rows are kept.
    :param wall_clock: returns seconds since the epoch, as this machine has them.
    :param rejected: returns how many messages this daemon has rejected; when they become more, the bytes of
        all rejected messages are looked at within a minute.
    :param interval: seconds between two runs.
    :param retry: seconds after a run that failed.
    :ivar deleted: how many rejected messages, and months of metrics, were deleted, by the setting's name.
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
        self._due, self._looked_at = 0.0, 0
        self._failures = Failures(
            log,
            "tables could not be looked after",
            "tables are looked after later, after {failures} attempts: {reason}",
        )
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin, with the first run at once."""
        self._due = self._reactor.seconds()
        self._loop.start(min(self._retry, self._interval))

    def stop(self) -> "Deferred[None]":
        """Begin no further run; the Deferred fires when the last one has ended."""
        if self._loop.running:
            self._loop.stop()
        return self._running or succeed(None)

    @inlineCallbacks
    def run(self, everything: bool = True) -> Generator["Deferred[Any]", Any, None]:
        """Add partitions and delete rows that are due by the clock of the database.

        :param everything: ``False``: only rejected messages that take too many bytes are deleted.
        :raises psycopg2.Error: the database is away, or another connection holds a lock.
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
            self._failures.ended()
            self._due = self._reactor.seconds() + self._interval - self._retry / 2

    def _failed(self, failure: Any) -> None:
        self._running = None
        self._failures.add(failure)
