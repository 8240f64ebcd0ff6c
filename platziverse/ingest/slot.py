"""Slot: one connection, and the patience to bring a batch into the database whatever happens to it."""

from collections.abc import Generator, Mapping
from typing import Any, Final, Protocol
from uuid import uuid4

from psycopg2.extensions import QueryCanceledError
from twisted.internet.defer import Deferred, DeferredLock, inlineCallbacks
from twisted.python.failure import Failure

from platziverse.ingest.batch import Batch
from platziverse.ingest.errors import Fenced, StoreStopped
from platziverse.ingest.kinds import Statement, Statements
from platziverse.ingest.recovery import Backoff, Recovery, Step
from platziverse.postgres.connection import DeadlinePassed, force_close, timed
from platziverse.postgres.sqlstate import Action, ConnectFailed, classify, one_line

_Steps = Generator["Deferred[Any]", Any, Any]

#: Batches under one name in ``ingest_batches``: a row updated for ever is slow while a long transaction runs.
BATCHES_PER_NAME: Final = 1000
#: The SQLSTATE of a trial that the tables pass, and SQL that ends it with that: nothing of it is left.
FITS: Final = "PV002"
TAKE_BACK: Final = f"""; SET CONSTRAINTS ALL IMMEDIATE; DO $$ BEGIN
    RAISE EXCEPTION 'a trial of the tables: they take what they should' USING ERRCODE = '{FITS}'; END $$"""
NOTHING: Final = Batch([], [], lambda entries, outcome: None)


class Database(Protocol):
    """A Database is what a slot needs from its store.

    :ivar prefix: SQL in front of every statement.
    :ivar deadline: seconds for a statement.
    :ivar setup_pause: seconds between tries when rights, tables or logins are wrong.
    """

    reactor: Any
    deadline: float
    setup_pause: float
    prefix: str
    stopped: bool

    def open(self) -> "Deferred[Any]": ...
    def in_trouble(self, slot: "Slot", reason: str, action: Action | None) -> None: ...
    def well(self, slot: "Slot") -> None: ...
    def was_refused(self, error: BaseException) -> None: ...
    def gave_up(self) -> None: ...


class Slot:
    """A Slot commits one batch at a time over one connection at a time.

    :param statements: makes the statements of this slot, and of no other.
    """

    def __init__(self, database: Database, backoff: Backoff, statements: Statements) -> None:
        self._database, self._backoff, self._statements = database, backoff, statements
        self.connection: Any = None
        self._turn = DeferredLock()
        self._name, self._number = str(uuid4()), 0
        self._pausing: tuple[Any, Deferred[None]] | None = None

    @property
    def connected(self) -> bool:
        return self.connection is not None and not self.connection.closed

    def write(self, batch: Batch) -> "Deferred[None]":
        """Commit a batch; the Deferred fires when that is done, and errbacks with ``StoreStopped`` only."""
        return self._turn.run(self._write, batch)

    def keep_connected(self) -> None:
        """Connect, if there is no connection and the slot has nothing else to do."""
        if not self.connected and not self._turn.locked:
            # Nobody waits for it: no trouble, unless no other can be made.
            self._turn.run(self._reconnect).addErrback(Failure.trap, StoreStopped)

    def stop(self) -> "Deferred[Any]":
        """Close the connection; an unfinished batch errbacks. Fires when nothing is under way any more."""
        if self._pausing is not None:
            (call, waiting), self._pausing = self._pausing, None
            call.cancel()
            waiting.callback(None)
        self._close()
        return self._turn.acquire()

    @inlineCallbacks
    def _write(self, batch: Batch) -> _Steps:
        todo = [batch]
        try:
            while todo:
                self._number_next()
                todo[-1:] = reversed((yield self._commit(todo[-1])))
        except Exception:  # the store was stopped; or there is a bug, and nobody may wait for ever
            for left in todo:
                left.abandoned(StoreStopped())
            raise

    @inlineCallbacks
    def _commit(self, batch: Batch) -> Generator["Deferred[Any]", Any, tuple[Batch, ...]]:
        """Commit the batch, or fire with the batches to commit in its place, in order."""
        recovery: Recovery | None = None  # for most batches there is none
        instead = None
        while True:
            try:
                if not self.connected:
                    yield self._connect()
                if instead is None:
                    statement = self._build_within(batch)
                    answer = yield self._ask(statement.sql, statement.parameters)
                elif (yield self._was_written()):
                    statement, answer = self._build(batch), None
                else:
                    return instead
            except Exception as error:
                recovery = recovery or self._recovery(batch)
                step = self._after(error, recovery)
                if step.refused:
                    step = yield self._judge(error, step, recovery)
            else:
                self._done(batch, statement, answer)
                return ()
            instead = instead or step.instead
            if instead is not None and not recovery.unknown:
                return instead
            yield self._pause(step.pause)

    @inlineCallbacks
    def _reconnect(self) -> _Steps:
        while not self._database.stopped and not self.connected:
            try:
                yield self._connect()
            except Exception as error:
                yield self._pause(self._after(error, self._recovery(NOTHING)).pause)
            else:
                self._backoff.pause = 0.0
                self._database.well(self)

    @inlineCallbacks
    def _connect(self) -> _Steps:
        if self._database.stopped:
            raise StoreStopped
        self._close()
        try:
            self.connection = yield self._database.open()
        except Exception as error:
            raise ConnectFailed from error
        if self._database.stopped:
            self._close()
            raise StoreStopped

    @inlineCallbacks
    def _was_written(self) -> Generator["Deferred[Any]", Any, bool]:
        """Fire with whether an earlier try of the batch was committed; if not, none ever will be.

        The batches in its place have numbers of their own, so a copy that a frozen server still holds must
        not wake up beside them. Decided in ADR 0010.
        """
        (written,) = yield self._ask(self._statements.fence, {"writer": self._name, "batch": self._number})
        return bool(written)

    @inlineCallbacks
    def _ask(self, sql: str, parameters: Mapping[str, Any]) -> Generator["Deferred[Any]", Any, Any]:
        """Fire with the one row that a statement returns."""
        database = self._database
        query = self.connection.runQuery(database.prefix + sql, parameters)
        (answer,) = yield timed(self.connection, query, database.deadline)
        return answer

    def _build_within(self, batch: Batch) -> Statement:
        """Return the statement of a batch.

        :raises Fenced: it has entries that only an incarnation which is over might have written.
        """
        if batch.incarnation.over and any(map(self._statements.fenced, batch.entries)):
            raise Fenced
        return self._build(batch)

    def _build(self, batch: Batch) -> Statement:
        return self._statements.build(batch.entries, self._name, self._number)

    def _recovery(self, batch: Batch) -> Recovery:
        statements = self._statements
        pause = self._database.setup_pause
        return Recovery(batch, self._backoff, pause, statements.instead, statements.fenced)

    def _number_next(self) -> None:
        self._number += 2  # the number between is that of the fence
        if self._number % (2 * BATCHES_PER_NAME) == 0:
            self._name = str(uuid4())

    def _done(self, batch: Batch, statement: Statement, answer: Any) -> None:
        self._backoff.pause = 0.0
        self._database.well(self)
        batch.committed(self._statements.committed(statement, answer))

    @inlineCallbacks
    def _judge(
        self, error: Exception, step: Step, recovery: Recovery
    ) -> Generator["Deferred[Any]", Any, Step]:
        """Fire with ``step`` if the tables take good entries, so that one is to blame; else with another."""
        trial = self._statements.trial()
        try:
            yield self._ask(trial.sql + TAKE_BACK, trial.parameters)
        except Exception as refusal:
            if getattr(refusal, "pgcode", None) != FITS:
                return self._after(refusal, recovery, innocent=True)
        if recovery.forget_set_up():
            return Step()  # repaired between the entry's try and the trial, perhaps: it has another. ADR 0085
        self._database.was_refused(error)
        return step

    def _after(self, error: Exception, recovery: Recovery, innocent: bool = False) -> Step:
        """Decide what comes after a failure, and close the connection if it is of no use.

        :param innocent: the entries that failed were good for certain.
        """
        if self._database.stopped:
            return Step()
        if isinstance(error, DeadlinePassed | QueryCanceledError):
            self._database.gave_up()
        action = classify(error, closed=not self.connected)
        if innocent and action in (Action.BAD_ROW, Action.UNKNOWN):
            action = Action.SETUP
        step = recovery.next(action, error)
        if action is Action.STALE:
            self._statements.stale()
        if step.anew:
            self._close()
        if step.trouble:
            self._database.in_trouble(self, one_line(error), action)
        return step

    def _close(self) -> None:
        if self.connection is not None:
            force_close(self.connection)
            self.connection = None

    @inlineCallbacks
    def _pause(self, seconds: float) -> _Steps:
        if seconds > 0 and not self._database.stopped:
            waiting: Deferred[None] = Deferred()
            self._pausing = self._database.reactor.callLater(seconds, waiting.callback, None), waiting
            yield waiting
            self._pausing = None
        if self._database.stopped:
            raise StoreStopped
