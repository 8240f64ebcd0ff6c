"""Store: the SessionStore in PostgreSQL."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.broker.places import StoredInterest, StoredPlace
from platziverse.broker.records import (
    Acknowledged,
    Begun,
    SessionRecord,
    StoredMessage,
    StoredRetained,
    StoredSession,
    StoredWill,
)
from platziverse.durable.reading import SessionReader
from platziverse.durable.statements import KINDS, SessionStatements
from platziverse.ingest.errors import StoreStopped
from platziverse.ingest.store import CONNECTING, READY, PostgresStore
from platziverse.ingest.writer import BatchWriter

T = TypeVar("T")
_Steps = Generator["Deferred[Any]", Any, Any]


class PostgresSessionStore:
    """A PostgresSessionStore is a ``SessionStore`` with one writer, and connections of its own to read over.

    :param holding: returns number and incarnation of this daemon, as its row of ``mqtt_daemons`` has them.
    :param prepare: called, with the connection string, before the first batch and again after tables were
        found missing; afterwards ``holding`` returns them.
    :param deadline: seconds for a statement, and for connecting.
    :param setup_pause: seconds between tries when rights, tables or logins are wrong.
    :param max_entries: most records of a batch.
    :param observe: called with the number of records and the seconds of each batch.
    :param away: returns whether another store has found the database away, and told the log.
    :ivar connections: where batches are committed; its ``state`` says how the database is.
    :ivar writer: the group commit; it knows what waits.
    :ivar reader: knows what could not be read.
    """

    def __init__(
        self,
        reactor: Any,
        holding: Callable[[], tuple[int, int] | None],
        prepare: "Callable[[str], Deferred[Any]]",
        *,
        deadline: float = 10.0,
        setup_pause: float = 3.0,
        max_entries: int = 500,
        observe: Callable[[int, float], None] = lambda entries, seconds: None,
        away: Callable[[], bool] = lambda: False,
    ) -> None:
        self._away = away
        self._statements, self._prepare_tables = SessionStatements(holding), prepare
        self._connect = partial(
            PostgresStore,
            reactor,
            lambda: self._statements,
            slots=1,
            prepare=self._prepare,
            deadline=deadline,
            setup_pause=setup_pause,
            name="the database, for Sessions,",
            judges=False,
            told=away,
        )
        self._begin = partial(
            BatchWriter, clock=reactor, kinds=KINDS, max_entries=max_entries, observe=observe
        )
        self.connections = self._connect()
        self.writer = self._begin(self.connections)
        self.reader = SessionReader(reactor, lambda: self._statements.daemon[0], self._lost_message)

    @property
    def available(self) -> bool:
        """Return whether what is saved now is likely to be committed soon; at a start too."""
        connections = self.connections
        return connections.state in (READY, CONNECTING) and not connections.stopped and not self._away()

    def start(self, dsn: str) -> "Deferred[None]":
        """Connect, and stay connected. Records may be saved before; they wait.

        Fires when ready for the first time; errbacks, once, with what ``prepare`` raised when that says that
        waiting is useless.
        """
        return self.connections.start(dsn)

    def give_up(self) -> None:
        """Errback what is not committed, and all that is saved from now on: another daemon has fenced us.

        It would be written in the name of our new incarnation, for Sessions that may be somebody else's.
        """
        self.writer.stop()
        self.connections.stop()

    def begin_anew(self) -> None:
        """Take what is saved from now on, after ``give_up``."""
        dsn, self.connections = self.connections.dsn, self._connect()
        self.writer = self._begin(self.connections)
        self.connections.start(dsn).addErrback(lambda _: None)

    def drain(self) -> "Deferred[None]":
        """Return a Deferred that fires when all records, also those saved meanwhile, are committed."""
        return self.writer.drain()

    def stop(self) -> "Deferred[Any]":
        """Close all connections; what waits errbacks ``StoreStopped``."""
        self.writer.stop()
        self.reader.stop()
        return self.connections.stop()

    # -- the port --------------------------------------------------------------------------------

    def save(self, record: SessionRecord) -> "Deferred[None]":
        """Save one record; the Deferred fires on commit, and errbacks when there never will be one."""
        saved = self.writer.save(record)
        return saved.addCallback(self._numbered, record) if type(record) is Begun else saved

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        """Return the first messages that wait for a Session, in order."""
        return self.reader.page(session, after, through, limit)

    def links(self, target: int) -> "Deferred[list[int]]":
        """Return the numbers of the links to daemon ``target`` in which messages wait."""
        return self.reader.links(target)

    def elsewhere(self, after: int, limit: int) -> "Deferred[list[StoredInterest]]":
        """Return the Sessions of daemons that share our clients, whose number is higher than ``after``."""
        return self.reader.elsewhere(after, limit)

    def heirs(self, daemon: int) -> "Deferred[set[int]]":
        """Return the daemons that have Sessions for which something may be owed to ``daemon``."""
        return self.reader.heirs(daemon)

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        """Return the Sessions of this daemon whose number is higher than ``after``, in order of numbers."""
        return self.reader.sessions(after, limit)

    def retained(self, after: str, limit: int) -> "Deferred[list[StoredRetained]]":
        """Return the Retained Messages whose Topic Name is behind ``after``, in order of the code points."""
        return self.reader.retained(after, limit)

    def inherited(self, numbers: Sequence[int]) -> "Deferred[list[StoredSession]]":
        """Return the Sessions with these numbers, which were another daemon's until now."""
        return self.reader.inherited(numbers)

    def find(self, client_id: str) -> "Deferred[StoredPlace | None]":
        """Return where the Session of a client is; ``None``: there is none."""
        return self.reader.find(client_id)

    def shared(self, limit: int) -> "Deferred[Iterable[tuple[int, int]]]":
        """Return the numbers of messages that rows refer to, each with how many do."""
        return self.reader.shared(limit)

    def wills(self) -> "Deferred[list[StoredWill]]":
        """Return the Wills that connections of this daemon have left, and those that it has inherited."""
        return self.reader.wills()

    def inherited_wills(self) -> "Deferred[list[StoredWill]]":
        """Return the Wills that it has inherited from other daemons."""
        return self.reader.wills(inherited=True)

    # --------------------------------------------------------------------------------------------

    @inlineCallbacks
    def _prepare(self, dsn: str) -> _Steps:
        """Number messages above those that are there: what an earlier run has sent is fenced by now."""
        yield self._prepare_tables(dsn)
        self.reader.start(dsn)
        try:
            last = yield self.reader.last_message()
        except StoreStopped as stopped:
            # The database is not to blame, and nothing that waiting would not help.
            raise psycopg2.OperationalError(str(stopped)) from None
        self._statements.last = max(self._statements.last, last)

    def _numbered(self, _: None, begun: Begun) -> "Deferred[None] | None":
        """Ask for the number of a Session of which only the commit is known, as its answer was lost."""
        if begun.session:
            return None

        def found(number: int) -> None:
            begun.session = number

        return self.reader.number(begun.client_id).addCallback(found)

    def _lost_message(self, session: int, position: int) -> None:
        """Delete a row whose message is missing."""
        self.writer.save(Acknowledged(session, position)).addErrback(lambda _: None)
