"""Store: commits batches into PostgreSQL, each slot over a connection of its own."""

from collections.abc import Callable, Generator
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel

from platziverse.ingest.batch import Batch
from platziverse.ingest.kinds import Statements
from platziverse.ingest.limits import LimitsMet
from platziverse.ingest.recovery import Backoff
from platziverse.ingest.slot import Slot
from platziverse.postgres.connection import Connection, connect, force_close, timed
from platziverse.postgres.sqlstate import Action, one_line

log = Logger("platziverse.store")

_Steps = Generator["Deferred[Any]", Any, Any]

CONNECTING: Final = "connecting"
READY: Final = "ready"
_LOOK: Final = """SELECT current_setting('transaction_read_only') = 'on',
    current_setting('synchronous_commit') IN ('on', 'remote_apply'), current_setting('fsync') = 'on',
    current_setting('array_nulls') = 'on'"""


class PostgresStore:
    """A PostgresStore has slots of one connection each; batches of one shard always take the same slot.

    :param statements: called once for each slot; returns what makes its statements.
    :param slots: batches that may commit at the same time.
    :param prepare: called, with the connection string, before the first batch and again after tables
        were found missing; brings the tables up to date, for example.
    :param deadline: seconds for a statement, and for connecting.
    :param setup_pause: seconds between tries when rights, tables or logins are wrong.
    :param met: is told of statements that were given up.
    :param bound: an agent that is there keeps its username; reports with another are refused.
    :param name: of the database, in the log.
    :param judges: says what is wrong with its settings; one store does so for all.
    :param told: returns whether another store has told the log of its trouble; then this one is silent.
    :ivar state: ``"connecting"``, ``"ready"`` or ``"away: <reason>"``.
    :ivar refused: how many entries the database refused for their data; messages became rejections.
    :ivar internal_errors: how many of them should never have been sent to it.
    """

    def __init__(
        self,
        reactor: Any,
        statements: Callable[[], Statements],
        *,
        slots: int = 2,
        prepare: Callable[[str], "Deferred[Any]"] | None = None,
        deadline: float = 10.0,
        setup_pause: float = 3.0,
        bound: bool = False,
        met: LimitsMet | None = None,
        name: str = "the database",
        judges: bool = True,
        told: Callable[[], bool] = lambda: False,
    ) -> None:
        self.reactor, self._name, self._judges = reactor, name, judges
        self._told_by_another, self._has_told = told, False
        self._met = met or LimitsMet(reactor.seconds)
        self.deadline, self.setup_pause = deadline, setup_pause
        self.state = CONNECTING
        self.refused = self.internal_errors = 0
        self.stopped = False
        self.dsn = ""
        self._dsn_given: Deferred[None] = Deferred()
        # Per transaction, not per session: a pooler between us may share its sessions.
        milliseconds = int(deadline * 1000)
        self._limits = f"SET LOCAL statement_timeout = {max(1, milliseconds * 9 // 10)};"
        self._limits += f"SET LOCAL lock_timeout = {max(1, milliseconds // 2)};"
        self._limits += "SET LOCAL platziverse.bound = on;" if bound else ""
        self.prefix = self._limits
        self._slots = [Slot(self, Backoff(), statements()) for _ in range(slots)]
        self._troubles: dict[Slot, str] = {}
        self._prepare, self._prepared, self._preparing = prepare, False, DeferredLock()
        self._warned: set[str] = set()
        self._away_since = 0.0
        self._watch = LoopingCall(self._keep_connected)
        self._watch.clock = reactor
        self._started: Deferred[None] | None = Deferred()

    @property
    def slots(self) -> int:
        """How many batches may commit at the same time."""
        return len(self._slots)

    def start(self, dsn: str) -> "Deferred[None]":
        """Connect, and stay connected. Batches may be written before; they wait.

        Fires when ready for the first time; errbacks, once, with what ``prepare`` raised when that says
        that waiting is useless. The store goes on trying nevertheless.
        """
        assert self._started is not None
        started = self._started
        self.dsn = dsn
        self._dsn_given.callback(None)
        self._watch.start(1.0)
        return started

    def stop(self) -> "Deferred[Any]":
        """Close all connections at once; batches under way errback ``StoreStopped``."""
        self.stopped = True
        if self._watch.running:
            self._watch.stop()
        if not self._dsn_given.called:
            self._dsn_given.errback(psycopg2.OperationalError("the store was never started"))
            self._dsn_given.addErrback(lambda _: None)
        return DeferredList([slot.stop() for slot in self._slots])

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        """Commit a batch; the Deferred fires when that is done, and errbacks with ``StoreStopped`` only."""
        return self._slots[shard].write(batch)

    def _keep_connected(self) -> None:
        for slot in self._slots:
            slot.keep_connected()

    # What a slot asks for and tells.

    @inlineCallbacks
    def open(self) -> Generator["Deferred[Any]", Any, Connection]:
        """Open a connection for batches; the Deferred fires with it."""
        yield self._preparing.run(self._prepare_once)
        connection: Connection = yield connect(self.dsn, self.reactor, self.deadline, client_encoding="UTF8")
        try:
            ((read_only, synchronous, fsync, nulls),) = yield timed(
                connection, connection.runQuery(_LOOK), self.deadline
            )
            if read_only:
                raise psycopg2.OperationalError("the database takes no writes: it is read-only")
        except Exception:
            force_close(connection)
            raise
        self._check(synchronous, fsync, nulls)
        return connection

    @inlineCallbacks
    def _prepare_once(self) -> _Steps:
        yield self._dsn_given
        if self._prepared or self._prepare is None:
            return
        try:
            yield self._prepare(self.dsn)
        except psycopg2.Error:
            raise
        except Exception as error:
            started, self._started = self._started, None
            if started is not None:
                started.errback(error)
            raise
        self._prepared = True

    def _check(self, synchronous: bool, fsync: bool, nulls: bool) -> None:
        """Insist that a commit is on the disk, as far as a client can: an acknowledgement promises it."""
        self.prefix = self._limits
        if not nulls:
            self.prefix += "SET LOCAL array_nulls = on;"
        if not synchronous:
            self.prefix += "SET LOCAL synchronous_commit = on;"
        if not synchronous:
            self._warn_once("the database has synchronous_commit off; it is switched on for our batches")
        if not fsync:
            self._warn_once("the database has fsync off: what it commits does not survive a power cut")

    def _warn_once(self, text: str) -> None:
        if self._judges and text not in self._warned:
            self._warned.add(text)
            log.warn("{text}", text=text)

    def in_trouble(self, slot: Slot, reason: str, action: Action | None) -> None:
        """Note, and tell the log, that the database keeps ``slot`` from committing."""
        if action is Action.SETUP:
            self._prepared = False
        if not self._troubles:
            self._away_since = self.reactor.seconds()
        self._troubles[slot] = reason
        self._set_state(f"away: {reason}")

    def well(self, slot: Slot) -> None:
        """Note that ``slot`` has connected or committed."""
        self._troubles.pop(slot, None)
        if self._troubles:
            self._set_state(f"away: {next(iter(self._troubles.values()))}")
        elif self.state != READY:
            self._set_state(READY)
            started, self._started = self._started, None
            if started is not None:
                started.callback(None)

    def gave_up(self) -> None:
        """Count a statement that took too long; its batch is tried again."""
        text = "a statement took too long and was given up; it is tried again"
        self._met.note("statement_deadline", text, level=LogLevel.warn)

    def was_refused(self, error: BaseException) -> None:
        """Count an entry that became a rejection, or nothing if it was no message, because of ``error``."""
        self.refused += 1
        if getattr(error, "pgcode", None) is None:
            self.internal_errors += 1
        log.warn("refused by the database for what is in it: {reason}", reason=one_line(error))

    def _set_state(self, state: str) -> None:
        if self.stopped:
            return
        before, self.state = self.state, state
        if state == READY:
            self._say_ready(before)
        elif not self._has_told:
            self._say_away()
        elif state != before:
            log.info("{name} is still {state}", name=self._name, state=state)

    def _say_away(self) -> None:
        """Tell the log of the trouble; unless another store has, as it is mostly the same trouble."""
        if self._told_by_another():
            return
        self._has_told = True
        text = "{name} is {state}; what has to be stored is not acknowledged until it is back"
        log.warn(text, name=self._name, state=self.state)

    def _say_ready(self, before: str) -> None:
        seconds = self.reactor.seconds() - self._away_since
        if self._has_told:
            log.info("{name} is ready after {seconds:.1f} s", name=self._name, seconds=seconds)
        elif before == CONNECTING:
            log.info("{name} is ready", name=self._name)
        self._has_told = False
