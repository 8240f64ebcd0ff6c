"""Partitions made ahead of time, and old ones dropped."""

from collections.abc import Generator
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.postgres.connection import connect, force_close, timed
from platziverse.postgres.sqlstate import one_line

log = Logger("platziverse.store")

#: Whoever has a table gets as long as a batch may wait; then we come again.
_LIMITS: Final = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '{deadline}s';"
_ADD: Final = "SELECT platziverse_add_partitions(to_timestamp(%s))"
_PRUNE: Final = "SELECT platziverse_prune(to_timestamp(%s))"
_DROP: Final = "SELECT platziverse_drop_months(to_timestamp(%s) - make_interval(months => %s))"


class Maintenance:
    """Looks after the partitions at once and every hour, and every minute while that fails.

    Several daemons may do so: only what is missing is added. Data waits for none of it, since what
    belongs to no partition goes to the default one.

    :param wall_clock: seconds since the epoch.
    :param keep_months: months of metrics that are kept besides the current one; 0: all of them.
    """

    def __init__(
        self,
        dsn: str,
        reactor: Any,
        wall_clock: Any,
        *,
        keep_months: int = 0,
        interval: float = 3600.0,
        retry: float = 60.0,
    ) -> None:
        self._keep_months = keep_months
        self._dsn, self._reactor, self._wall_clock = dsn, reactor, wall_clock
        self._interval, self._retry = interval, retry
        self._due = 0.0
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
    def run(self, deadline: float = 60.0) -> Generator["Deferred[Any]", Any, None]:
        """Add and drop what is due by the wall clock.

        :raises psycopg2.Error: the database is away, or somebody holds a lock.
        """
        connection = yield connect(self._dsn, self._reactor)
        limits, now = _LIMITS.format(deadline=int(deadline)), self._wall_clock()
        try:
            for query in _ADD, _PRUNE:
                yield timed(connection, connection.runQuery(limits + query, (now,)), deadline)
            if self._keep_months:
                dropping = connection.runQuery(limits + _DROP, (now, self._keep_months))
                ((months,),) = yield timed(connection, dropping, deadline)
                if months:
                    log.info("{months} months of metrics were dropped: they are too old", months=months)
        finally:
            force_close(connection)

    def _look(self) -> "Deferred[None] | None":
        if self._reactor.seconds() < self._due:
            return None
        self._running = self.run().addCallbacks(self._done, self._failed)
        return self._running

    def _done(self, _: object) -> None:
        self._due = self._reactor.seconds() + self._interval - self._retry / 2
        self._running = None

    def _failed(self, failure: Any) -> None:
        self._running = None
        if failure.check(psycopg2.Error):
            log.info("partitions are looked after later: {reason}", reason=one_line(failure.value))
        else:
            log.failure("partitions could not be looked after", failure)
