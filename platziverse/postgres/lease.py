"""Lease: daemons that share a database give signs of life, and the agents of dead ones are marked."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final
from uuid import uuid4

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.errors import Unusable
from platziverse.postgres.clocks import WallClock
from platziverse.postgres.connection import Connection, connect, force_close, timed
from platziverse.postgres.daemons import LOOK, DaemonRow, Registration
from platziverse.postgres.requests import DEAD, DRAIN, KICK, TAKE

log = Logger("platziverse.database")

#: Seconds between two signs of life.
BEAT: Final = 2.0
#: Seconds for a statement: another daemon that waits for a row which it has locked waits for no more.
DEADLINE: Final = 5.0

#: Why a daemon cannot be registered.
FULL: Final = (
    "the database knows 32767 daemons, and has no number for another one; each has one for a day after its"
    " last sign of life. Keep the state directory of a daemon when it is started again: it holds the number"
)

_LIMITS: Final = f"SET LOCAL statement_timeout = {int(DEADLINE * 900)};"
#: "plat" and "daem": the advisory lock of those who look for a free number.
_LOCK: Final = (0x706C6174, 0x6461656D)
_FREE: Final = f"SELECT pg_advisory_xact_lock({_LOCK[0]}, {_LOCK[1]});"
# A batch that was sent before is written under the incarnation of then, or never: so another run of the
# process may count its batches from the beginning. One that goes on must not: it would write its last twice.
# With a bus it does not go on, but begins anew; see docs/adr/0143. What it had freed for others is its own
# again, if nobody has taken it: the last batch under the incarnation of before may have freed a Session.
_REGISTER: Final = """INSERT INTO mqtt_daemons AS known (id, instance, run, name, version, bus)
    SELECT n, %(instance)s, %(run)s, %(name)s, %(version)s, %(bus)s FROM generate_series(1, 32767) AS n
    WHERE NOT EXISTS (SELECT FROM mqtt_daemons WHERE id = n) LIMIT 1
    ON CONFLICT (instance) DO UPDATE SET incarnation = known.incarnation + 1, "seenAt" = clock_timestamp(),
        run = excluded.run,
        batch = CASE WHEN known.run = excluded.run AND excluded.bus IS NULL THEN known.batch ELSE 0 END,
        name = excluded.name, version = excluded.version, bus = excluded.bus, heir = NULL, "leftAt" = NULL
    {condition};
    UPDATE mqtt_sessions SET daemon = -daemon WHERE daemon = (
        SELECT -id FROM mqtt_daemons WHERE instance = %(instance)s AND run = %(run)s);
    {more}SELECT id, incarnation FROM mqtt_daemons WHERE instance = %(instance)s AND run = %(run)s"""
# What was asked of the process before this one, or of a daemon that had this number, has no meaning now.
_FORGET: Final = f"""DELETE FROM mqtt_requests WHERE request IN ('{DRAIN}', '{KICK}')
        AND daemon = (SELECT id FROM mqtt_daemons WHERE instance = %(instance)s AND run = %(run)s);
    """
_REGISTER_FIRST: Final = _FREE + _REGISTER.format(condition="", more=_FORGET)
_REGISTER_AGAIN: Final = _FREE + _REGISTER.format(condition="WHERE known.run = excluded.run", more="")
_BEAT: Final = """UPDATE mqtt_daemons SET "seenAt" = clock_timestamp() WHERE id = %s AND incarnation = %s
    RETURNING extract(epoch FROM clock_timestamp())"""
_WHO: Final = "SELECT coalesce(max(name), 'a host without a name') FROM mqtt_daemons WHERE instance = %s"
_LEAVE: Final = """UPDATE mqtt_daemons SET "leftAt" = clock_timestamp() WHERE id = %s AND incarnation = %s
    RETURNING 1"""

_Steps = Generator["Deferred[Any]", Any, Any]


class Lease:
    """A Lease renews the row of this daemon in ``mqtt_daemons``, and looks at those of others. See ADR 0084.

    A daemon that gave no sign of life for ``DEAD`` seconds, by the clock of the database, is dead. Who was
    taken for dead registers again; who finds another run of the process in the row has to end, because both
    would write for the same Sessions. See ADR 0112.

    :param registration: what its row says about this daemon.
    :param clock: is compared with that of the database at every sign of life.
    :param looked: called with the rows of the other daemons after every sign of life, and with whether this
        one has reached the database for so long that it may take another for dead. The next sign of life
        waits for the Deferred that it returns.
    :param fenced: called when another daemon has taken this one for dead, and it is registered again.
    :param cloned: called, once, with the name of its host when another process has registered with our
        identity after us.
    :param asked: called with each request of an operator, and its argument; see ``requests``.
    :ivar holding: number and incarnation of this daemon; ``None``: it is not registered.
    """

    def __init__(
        self,
        reactor: Any,
        registration: Registration,
        clock: WallClock,
        looked: "Callable[[Sequence[DaemonRow], bool], Deferred[Any]]" = lambda rows, well: succeed(None),
        fenced: Callable[[], None] = lambda: None,
        cloned: Callable[[str], None] = lambda host: None,
        asked: Callable[[str, str], None] = lambda request, argument: None,
    ) -> None:
        self.holding: tuple[int, int] | None = None
        self._reactor = reactor
        self._registration, self._run = registration, str(uuid4())
        self._clock, self._looked, self._fenced = clock, looked, fenced
        self._cloned, self._asked = cloned, asked
        self._dsn = ""
        self._connection: Connection | None = None
        self._well_since: float | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None
        self._confirming: list[Deferred[None]] = []

    @inlineCallbacks
    def start(self, dsn: str) -> _Steps:
        """Register this daemon, look at the others, and begin with signs of life. Harmless when repeated.

        The Deferred fires when it is registered.

        :raises psycopg2.Error: it could not be registered; call again.
        :raises Unusable: there is no number for it.
        """
        self._dsn = dsn
        if self.holding is None:
            yield self._sign()
            yield self._look_at_others(may_bury=False)
        if not self._loop.running:
            self._loop.start(BEAT, now=False)

    def stop(self) -> "Deferred[Any]":
        """Close the connection; the Deferred fires when nothing is under way any more. The row stays."""
        if self._loop.running:
            self._loop.stop()
        self._close()
        return self._running or succeed(None)

    @inlineCallbacks
    def leave(self) -> _Steps:
        """Give no further sign of life, and say that this daemon has left everything to the others.

        :raises psycopg2.Error: the database is away; then the others find out.
        """
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            yield self._running
        if self.holding is not None:
            yield self.ask(_LEAVE, self.holding)

    @inlineCallbacks
    def beat(self) -> _Steps:
        """Give one sign of life, take the requests of operators, and look at the other daemons.

        :raises psycopg2.Error: the database is away, or a statement took too long.
        """
        if not (yield self._sign()):
            return
        assert self.holding is not None
        for request, argument in (yield self.ask(TAKE, self.holding[:1])):
            self._asked(request, argument)
        since = self._well_since
        yield self._look_at_others(since is not None and self._reactor.seconds() - since > DEAD)

    @inlineCallbacks
    def ask(self, sql: str, parameters: Any = ()) -> _Steps:
        """Fire with the rows that a statement returns, which takes ``DEADLINE`` seconds at most.

        :raises psycopg2.Error: the database is away, or it took too long.
        """
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = yield connect(self._dsn, self._reactor, DEADLINE)
        return (yield timed(connection, connection.runQuery(_LIMITS + sql, parameters), DEADLINE))

    @inlineCallbacks
    def _look_at_others(self, may_bury: bool) -> _Steps:
        rows = yield self.ask(LOOK, (str(self._registration.instance),))
        yield self._looked([DaemonRow(*row) for row in rows], may_bury)

    @inlineCallbacks
    def _sign(self) -> _Steps:
        """Give a sign of life; fire with whether the row of this daemon is ours."""
        if self.holding is None:
            rows = yield self.ask(_REGISTER_FIRST, self._row())
            if not rows:
                raise Unusable(FULL)
            (self.holding,) = rows
        if not (yield self._beat()) and not (yield self._register_again()):
            return False
        if self._well_since is None:
            self._well_since = self._reactor.seconds()
        return True

    def _row(self) -> dict[str, str | None]:
        ours = self._registration
        names = {"name": ours.name, "version": ours.version, "bus": ours.bus or None}
        return {"instance": str(ours.instance), "run": self._run, **names}

    @inlineCallbacks
    def _register_again(self) -> _Steps:
        """Register once more, and fire with whether that is possible: no other process has our identity."""
        rows = yield self.ask(_REGISTER_AGAIN, self._row())
        if not rows:
            ((host,),) = yield self.ask(_WHO, (str(self._registration.instance),))
            self.stop()
            self._cloned(host)
            return False
        text = "another daemon took this one for dead, after {dead:.0f} s without a sign of life;"
        text += " each of our agents counts as connected again with its next message"
        log.warn(text, dead=DEAD)
        (self.holding,) = rows
        self._fenced()
        yield self._beat()
        return True

    @inlineCallbacks
    def _beat(self) -> _Steps:
        asked = self._clock.ours()
        rows = yield self.ask(_BEAT, self.holding)
        if rows:
            self._clock.compare(float(rows[0][0]), asked)
        return rows

    def confirm(self) -> "Deferred[None]":
        """Return a Deferred that fires when the next sign of life is given, or could not be.

        If others have taken this daemon for dead, ``fenced`` was called before.
        """
        if not self._loop.running:
            return succeed(None)
        self._confirming.append(confirmed := Deferred[None]())
        return confirmed

    def _look(self) -> "Deferred[None]":
        confirming, self._confirming = self._confirming, []
        self._running = self.beat().addErrback(self._failed)
        for confirmed in confirming:
            self._running.addCallback(confirmed.callback)
        return self._running

    def _failed(self, failure: Any) -> None:
        """Begin anew the next time; the store tells the log that the database is away."""
        self._well_since = None
        self._close()
        if not failure.check(psycopg2.Error):
            log.failure("Bug: a sign of life", failure)

    def _close(self) -> None:
        if self._connection is not None:
            force_close(self._connection)
            self._connection = None
