"""Lease: daemons that share a database give signs of life, and the agents of dead ones are marked."""

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.postgres.clocks import WallClock
from platziverse.postgres.connection import Connection, connect, force_close, timed

log = Logger("platziverse.database")

#: Seconds between two signs of life, and without one until a daemon is dead.
BEAT: Final = 2.0
DEAD: Final = 10.0
#: Seconds for a statement. Rows of one portion: another daemon whose agents come meanwhile waits for no more.
DEADLINE: Final = 5.0
PORTION: Final = 500

_LIMITS: Final = f"SET LOCAL statement_timeout = {int(DEADLINE * 900)};"
_REGISTER: Final = """INSERT INTO mqtt_daemons AS known (id, instance)
    SELECT n, %s FROM generate_series(1, 32767) AS n
    WHERE NOT EXISTS (SELECT FROM mqtt_daemons WHERE id = n) LIMIT 1
    ON CONFLICT (instance) DO UPDATE SET incarnation = known.incarnation + 1, "seenAt" = now()
    RETURNING id, incarnation"""
_BEAT: Final = """UPDATE mqtt_daemons SET "seenAt" = clock_timestamp() WHERE id = %s AND incarnation = %s
    RETURNING extract(epoch FROM clock_timestamp())"""
_SILENT: Final = f"""SELECT instance, incarnation, "seenAt" FROM mqtt_daemons
    WHERE "seenAt" < now() - interval '{DEAD} s'
    AND pg_postmaster_start_time() < now() - interval '{DEAD} s'"""
_FENCE: Final = """UPDATE mqtt_daemons SET incarnation = incarnation + 1
    WHERE instance = %s AND incarnation = %s AND "seenAt" = %s RETURNING 1"""
_CLEAR: Final = f"""WITH gone AS (
    UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now() WHERE id = ANY (ARRAY(
        SELECT id FROM agents WHERE connected AND "connectedBy" = %s LIMIT {PORTION} FOR UPDATE SKIP LOCKED))
    RETURNING uuid) SELECT uuid FROM gone"""

_Steps = Generator["Deferred[Any]", Any, Any]


class Lease:
    """A Lease renews the row of this daemon in ``mqtt_daemons``, and looks at those of others. See ADR 0084.

    A daemon that gave no sign of life for ``DEAD`` seconds, by the clock of the database, is dead: another
    one that notices marks the agents that it has left connected. A daemon that could not reach the database
    itself during that time takes none for dead, and none is taken for dead right after a start of the
    database.

    :param instance: identity of this daemon.
    :param clock: is compared with that of the database at every sign of life.
    :param gone: called with the uuids of agents of a dead daemon that were connected until now.
    """

    def __init__(
        self, reactor: Any, instance: UUID, clock: WallClock, gone: Callable[[Sequence[str]], None]
    ) -> None:
        self._reactor, self._instance = reactor, str(instance)
        self._clock, self._gone = clock, gone
        self._dsn = ""
        self._connection: Connection | None = None
        self._number: tuple[int, int] | None = None
        self._well_since: float | None = None
        self._buried: dict[str, datetime] = {}
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None

    @inlineCallbacks
    def start(self, dsn: str) -> _Steps:
        """Register this daemon, and begin with signs of life. Harmless when repeated.

        The Deferred fires when it is registered.

        :raises psycopg2.Error: it could not be registered; call again.
        """
        self._dsn = dsn
        if self._number is None:
            yield self._sign()
        if not self._loop.running:
            self._loop.start(BEAT, now=False)

    def stop(self) -> "Deferred[Any]":
        """Close the connection; the Deferred fires when nothing is under way any more. The row stays."""
        if self._loop.running:
            self._loop.stop()
        self._close()
        return self._running or succeed(None)

    @inlineCallbacks
    def beat(self) -> _Steps:
        """Give one sign of life, and look for daemons that have given none.

        :raises psycopg2.Error: the database is away, or a statement took too long.
        """
        yield self._sign()
        since = self._well_since
        if since is not None and self._reactor.seconds() - since > DEAD:
            for silent in (yield self._ask(_SILENT)):
                yield self._bury(*silent)

    @inlineCallbacks
    def _sign(self) -> _Steps:
        rows: list[Any] = []
        if self._number is not None:
            rows = yield self._beat()
        if not rows:
            if self._number is not None:
                text = "another daemon took this one for dead, after {dead:.0f} s without a sign of life;"
                text += " each of our agents counts as connected again with its next message"
                log.warn(text, dead=DEAD)
            self._number = (yield self._ask(_REGISTER, (self._instance,)))[0]
            yield self._beat()
        if self._well_since is None:
            self._well_since = self._reactor.seconds()

    @inlineCallbacks
    def _beat(self) -> _Steps:
        asked = self._clock.ours()
        rows = yield self._ask(_BEAT, self._number)
        if rows:
            self._clock.compare(float(rows[0][0]), asked)
        return rows

    @inlineCallbacks
    def _bury(self, instance: str, incarnation: int, seen: datetime) -> _Steps:
        """Mark the agents of a dead daemon, unless another did so before, or it has come to life.

        :param seen: the time of its last sign of life.
        """
        if instance == self._instance or self._buried.get(instance) == seen:
            return
        if not (yield self._ask(_FENCE, (instance, incarnation, seen))):
            return
        agents = 0
        while rows := (yield self._ask(_CLEAR, (instance,))):
            agents += len(rows)
            self._gone([uuid for (uuid,) in rows])
        self._buried[instance] = seen
        if agents:
            text = "{agents} agents were connected to a daemon that is silent since {seen}; corrected"
            log.info(text, agents=agents, seen=seen.isoformat(" ", "seconds"))

    def _look(self) -> "Deferred[None]":
        self._running = self.beat().addErrback(self._failed)
        return self._running

    def _failed(self, failure: Any) -> None:
        """Begin anew the next time; the store tells the log that the database is away."""
        self._well_since = None
        self._close()
        if not failure.check(psycopg2.Error):
            log.failure("Bug: a sign of life", failure)

    @inlineCallbacks
    def _ask(self, sql: str, parameters: Any = ()) -> _Steps:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = yield connect(self._dsn, self._reactor, DEADLINE)
        return (yield timed(connection, connection.runQuery(_LIMITS + sql, parameters), DEADLINE))

    def _close(self) -> None:
        if self._connection is not None:
            force_close(self._connection)
            self._connection = None
