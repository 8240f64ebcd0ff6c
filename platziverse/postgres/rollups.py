"""RollUps: the job that makes roll-ups of the buckets that batches have marked. Decided in ADR 0162."""

import time
from collections.abc import Callable, Generator
from typing import Any, Final

import psycopg2
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from platziverse.postgres.connection import Connection, connect, force_close, timed
from platziverse.postgres.failures import Failures
from platziverse.postgres.sqlstate import one_line

log = Logger("platziverse.store")

#: Seconds between two runs, and between two looks at ranges of the index that are not summarised yet.
INTERVAL: Final = 60.0
SUMMARISE: Final = 3600.0
#: Buckets of one statement at most, and the seconds that it should take: it ends a transaction.
MOST: Final = 50
LONG: Final = 0.1
#: How many times as long as it has worked the job rests, and while batches wait; and the longest rest.
REST, REST_OF_BUSY, LONGEST = 4.0, 19.0, 30.0
#: Seconds for one statement: one bucket of a million series.
DEADLINE: Final = 600.0
#: Buckets of a run that are worth a line.
MANY: Final = 100

_OPEN: Final = "platziverse_bucket(now())"
_ROLL_UP: Final = f"SELECT platziverse_roll_up({_OPEN}, %s)"
_WAITING: Final = f"SELECT count(DISTINCT bucket) FROM metrics_marks WHERE bucket < {_OPEN}"
_LIMITS: Final = f"SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '{DEADLINE:.0f}s';"
# The months that are written to, in which autovacuum may not have come by yet.
_MONTHS: Final = """SELECT DISTINCT to_regclass(
        to_char(moment AT TIME ZONE 'UTC', '"metrics_"YYYY_MM')) AS part
    FROM unnest(ARRAY[now(), now() - interval '7 days']) AS moment"""
_SUMMARISE: Final = f"""SET LOCAL lock_timeout = 50; SELECT brin_summarize_new_values(indexrelid)
    FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid
    WHERE inhparent = 'metrics_created_brin'::regclass AND indrelid IN ({_MONTHS})"""
#: Bytes of a month from which on it matters how it is read.
LARGE: Final = 1 << 20
_UNKNOWN: Final = f"""SELECT part::text FROM ({_MONTHS}) AS months
    JOIN pg_class ON oid = part WHERE pg_relation_size(part) > {LARGE} AND NOT EXISTS (
        SELECT FROM pg_stats WHERE schemaname = relnamespace::regnamespace::text
        AND tablename = relname AND attname = 'createdAt')"""
_ANALYSE: Final = 'SET LOCAL lock_timeout = 50; ANALYZE {} ("createdAt")'

_Steps = Generator["Deferred[Any]", Any, Any]


class RollUps:
    """RollUps works every minute until nothing is marked, in short statements with rests between them.

    Several daemons may do so: one has the lock, and a daemon that finds it taken ends its run.

    :param busy: returns whether batches wait to be committed.
    :param clock: returns the seconds of a steady clock.
    :ivar waiting: how many buckets are marked and over, as far as this daemon works on them.
    :ivar buckets: how many were made.
    :ivar seconds: how long the statements took.
    """

    def __init__(
        self,
        dsn: str,
        reactor: Any,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting = self.buckets = 0
        self.seconds = 0.0
        self._dsn, self._reactor, self._busy, self._clock = dsn, reactor, busy, clock
        self._most, self._summarised = 1, 0.0
        self._failures = Failures(
            log,
            "Bug: roll-ups could not be made",
            "roll-ups are made later, after {failures} attempts: {reason}",
        )
        self._stopped = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None
        self._resting: Deferred[None] = succeed(None)

    def start(self) -> None:
        """Begin; the first run is a minute later, when the daemon has done what is more urgent."""
        self._summarised = self._clock() - SUMMARISE
        self._loop.start(INTERVAL, now=False)

    def stop(self) -> "Deferred[None]":
        """Begin no further statement; the Deferred fires when the last one has ended."""
        self._stopped = True
        if self._loop.running:
            self._loop.stop()
        self._resting.cancel()
        return self._running or succeed(None)

    @inlineCallbacks
    def run(self) -> _Steps:
        """Make buckets until none is due, or another daemon is at it.

        :raises psycopg2.Error: the database is away, or refuses.
        """
        connection = yield connect(self._dsn, self._reactor)
        try:
            yield self._summarise(connection)
            yield self._roll_up(connection)
        finally:
            force_close(connection)

    @inlineCallbacks
    def _roll_up(self, connection: Connection) -> _Steps:
        made, done = 0, -1
        while done and not self._stopped:
            began = self._clock()
            ((done,),) = yield self._ask(connection, _ROLL_UP, (self._most,))
            took = self._clock() - began
            if done and not made:
                yield self._look_ahead(connection, done)
            made += done
            self._count(done, took)
            if done:
                yield self._rest(took)
        say = log.info if made >= MANY else log.debug
        say("roll-ups of {made} buckets were made", made=made)

    @inlineCallbacks
    def _look_ahead(self, connection: Connection, done: int) -> _Steps:
        """Count the buckets that are left behind the first ones."""
        ((left,),) = yield self._ask(connection, _WAITING)
        self.waiting = left + done
        if left >= MANY:
            log.info("roll-ups of {left} buckets are to be made, the newest first", left=left)

    def _count(self, done: int, took: float) -> None:
        self.buckets += done
        self.waiting = max(0, self.waiting - done) if done else 0
        self.seconds += took
        if took > LONG:
            self._most = max(1, self._most // 2)
        elif took < LONG / 2 and done == self._most:
            self._most = min(MOST, self._most * 2)

    def _rest(self, took: float) -> "Deferred[None]":
        rest = took * (REST_OF_BUSY if self._busy() else REST)
        self._resting = deferLater(self._reactor, min(rest, LONGEST), lambda: None)
        return self._resting.addErrback(lambda failure: failure.trap(CancelledError) and None)

    @inlineCallbacks
    def _summarise(self, connection: Connection) -> _Steps:
        """Summarise the index of the months that are written to, unless something is in the way.

        And let PostgreSQL know how a month is sorted, or it may read another index, all of it.
        """
        if self._clock() - self._summarised < SUMMARISE:
            return
        self._summarised = self._clock()
        try:
            yield timed(connection, connection.runQuery(_SUMMARISE), DEADLINE)
            for (part,) in (yield timed(connection, connection.runQuery(_UNKNOWN), DEADLINE)):
                yield timed(connection, connection.runOperation(_ANALYSE.format(part)), DEADLINE)
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.InsufficientPrivilege) as error:
            log.debug("the index of metrics is summarised later: {reason}", reason=one_line(error))

    def _ask(
        self, connection: Connection, sql: str, parameters: tuple[Any, ...] = ()
    ) -> "Deferred[list[Any]]":
        return timed(connection, connection.runQuery(_LIMITS + sql, parameters), DEADLINE)

    def _look(self) -> "Deferred[None]":
        self._running = self.run().addCallbacks(self._done, self._failed)
        return self._running

    def _done(self, _: object) -> None:
        self._running = None
        self._failures.ended()

    def _failed(self, failure: Any) -> None:
        self._running = None
        self._failures.add(failure)
