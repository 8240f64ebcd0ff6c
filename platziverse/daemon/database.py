"""Database: the PostgreSQL of this daemon, configured or embedded, and the store in front of it."""

import re
import shlex
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, inlineCallbacks, succeed
from twisted.logger import Logger

from platziverse import __version__
from platziverse.access.passwords import LoginsUnavailable
from platziverse.agents.model import move
from platziverse.config import Config, without_secrets
from platziverse.daemon.machine import memory
from platziverse.daemon.process import fail, within
from platziverse.daemon.starting import DATA, EMBEDDED, GIVEN, SERVER, TABLES, Stage
from platziverse.daemon.statedir import Instance
from platziverse.durable.heir import Heir
from platziverse.durable.members import Members
from platziverse.durable.store import PostgresSessionStore
from platziverse.embedded.server import EmbeddedPostgres
from platziverse.errors import Unusable
from platziverse.ingest.limits import LimitsMet
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.store import CONNECTING, READY, PostgresStore
from platziverse.ingest.writer import BatchWriter
from platziverse.postgres.clocks import WallClock
from platziverse.postgres.daemons import IS_THERE, DaemonRow, Registration
from platziverse.postgres.lease import Lease
from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.migrate import migrate
from platziverse.postgres.presence import reset_presence
from platziverse.postgres.pruning import Kept
from platziverse.postgres.reader import Reader
from platziverse.postgres.requests import ASK_OTHERS
from platziverse.postgres.rollups import RollUps
from platziverse.postgres.sqlstate import one_line
from platziverse.postgres.users import DatabaseUsers
from platziverse.web.interfaces import Unavailable

log = Logger("platziverse.database")

#: Seconds for a fast stop of the embedded server, then for an immediate one: together they fit into a stop.
GRACE: Final = (5.0, 2.0)
#: What a server answers at the start that no further attempt will change. A server that does not speak
#: English is asked again and again, and the log says what it answers.
HOPELESS: Final = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry"
    '|(database|role) ".*" does not exist'
)
#: The last line of the log of a daemon whose row in the database is that of another process.
CLONED: Final = (
    "platziverse: the database says that another process, on {host}, has the identity in"
    " {state_dir}/instance. If the state directory was copied, delete that file in the copy; if a backup of"
    " the database was restored, start this daemon again"
)


#: Seconds that the database has for an answer when clients wait for it after a pause.
CONFIRM: Final = 2.0


def _nothing() -> object:
    """Do nothing."""


class Database:
    """Found or started, migrated, and cleared of what a crashed run left behind.

    :raises Unusable: the state directory cannot be used.
    :ivar store: the connections; its ``state`` says how the database is.
    :param observe: called with the entries and the seconds of every batch that is committed.
    :param left_behind: called with the uuids of agents that a daemon which has died left connected.
    :param ours: returns seconds since the epoch, as this machine has them.
    :param asked: called with each request of an operator, and its argument.
    :ivar clock: what time it is, for what is stored.
    :ivar users: the table of users, whether it is used or not.
    :ivar writer: the ``ReportStore``; takes entries at any time.
    :ivar members: the daemons that share our clients.
    :ivar heir: takes over what dead ones have left.
    :ivar roll_ups: the job that makes them; ``None`` until the database is there.
    :ivar leaves: when it stops, others may take over at once, also those that come later.
    :ivar sessions: keeps what must outlive the daemon; ``None``: nothing does (``[sessions] durable``).
    """

    roll_ups: RollUps | None = None
    _tables: Stage | None = None

    def __init__(
        self,
        config: Config,
        reactor: Any,
        observe: Callable[[int, float], None] = lambda entries, seconds: None,
        left_behind: Callable[[Sequence[str]], None] = lambda uuids: None,
        ours: Callable[[], float] = time.time,
        asked: Callable[[str, str], None] = lambda request, argument: None,
    ) -> None:
        self._config, self._reactor = config, reactor
        self._bus = config.bus.name if config.bus.url else ""
        self.instance = Instance(config.state_dir)
        self._embedded = None if config.database else embedded(config, reactor)
        self._prepares, self._met = DeferredLock(), LimitsMet(reactor.seconds)
        self.store = self._report_connections()
        self.writer = self._make_writer(observe)
        self.sessions = self._session_store() if config.sessions.durable else None
        # Whoever looks at a chart waits for no export, and whoever logs in for neither.
        self.reader, self.exports = Reader(reactor, Unavailable), Reader(reactor, Unavailable, 1)
        self._user_reader = Reader(reactor, LoginsUnavailable, connections=1, deadline=3.0)
        self.users = DatabaseUsers(self._user_reader)
        self.clock = WallClock(self._clock_moved, ours)
        self._lease = self._make_lease(asked)
        inherit = self._inherit if self.sessions is not None else None
        self.members = Members(self._bus, lambda: self._lease.holding)
        self.heir = Heir(self._lease, self.members, left_behind, inherit)
        #: Called with the number of a dead daemon, and what fires with those of its Sessions; see ``Heir``.
        self.inherit: Callable[[int, Deferred[Sequence[int]]], object] = lambda daemon, taken: None
        #: Called first of all when others have taken over from us: what is owed to us is for them. Then, when
        #: they have taken over our Sessions and Wills, and what was not committed never will be. And when the
        #: tables were looked at once more: what only we remember may not be in them any more.
        self.overtaken = self.fenced = self.prepared_again = _nothing
        self._was_prepared = self.leaves = False
        self._maintenance: Maintenance | None = None

    def _make_writer(self, observe: Callable[[int, float], None]) -> BatchWriter:
        most, met = self._config.ingest.batch, self._met
        return BatchWriter(self.store, self._reactor, KINDS, max_entries=most, met=met, observe=observe)

    def _make_lease(self, asked: Callable[[str, str], None]) -> Lease:
        def cloned(host: str) -> None:
            fail(self._reactor, CLONED.format(host=host, state_dir=self._config.state_dir))

        number, host = self._config.workers.number, socket.gethostname()
        name = f"{host}/{number}" if number else host
        registration = Registration(self.instance.id, __version__, self._bus, name)
        looked, fenced = self._looked, self._was_fenced
        return Lease(self._reactor, registration, self.clock, looked, fenced, cloned, asked)

    def _looked(self, rows: Sequence[DaemonRow], well: bool) -> "Deferred[Any]":
        """Take note of the other daemons that use the database."""
        self.members.looked(rows)
        return self.heir.looked(rows, well)

    def _inherit(self, row: DaemonRow, taken: "Deferred[Sequence[int]]") -> None:
        self.inherit(row.number, taken)

    def ask_others(self, request: str, argument: str) -> "Deferred[Sequence[str]]":
        """Ask the other daemons of the database for something; fires with their names.

        The workers of this machine are not among them: they are asked over their sockets.
        """
        host = socket.gethostname() if self._config.workers.number else ""
        asked = self.reader.rows(ASK_OTHERS, str(self.instance.id), host, request, argument)
        return asked.addCallback(lambda rows: [name for (name,) in rows])

    @property
    def others(self) -> int:
        """How many daemons share our clients."""
        return len(self.members.others)

    @property
    def inherited(self) -> Mapping[str, int]:
        """How much was taken over from dead daemons, by kind."""
        return {"daemons": self.heir.daemons, "sessions": self.heir.sessions, "wills": self.heir.wills}

    @inlineCallbacks
    def confirm(self) -> Generator["Deferred[Any]", Any, None]:
        """Fire when the database has said that nobody has taken over from us, or ``fenced`` was called.

        :raises Exception: it has not answered in time.
        """
        asked = self.reader.rows(IS_THERE, *(self._lease.holding or (0, 0)))
        ((is_there,),) = yield asked.addTimeout(CONFIRM, self._reactor)
        if not is_there:
            yield self._lease.confirm()

    def _was_fenced(self) -> None:
        if not self._bus:  # nobody has taken anything over but the agents
            return
        self.overtaken()
        if self.sessions is not None:
            self.sessions.give_up()
        self.fenced()
        self.writer.fenced()  # once all clients are closed, and their Wills forgotten
        if self.sessions is not None:
            self.sessions.begin_anew()
        self.members.fenced()

    def _report_connections(self) -> PostgresStore:
        ingest, kept = self._config.ingest, self._config.ingest.keep_rejected_payload
        holding = (lambda: self._lease.holding) if self._bus else None
        return PostgresStore(
            self._reactor,
            partial(ReportStatements, self.instance.id, kept, met=self._met, holding=holding),
            slots=ingest.slots,
            prepare=self._prepare_alone,
            deadline=ingest.statement_deadline,
            bound=self._config.access.binding == "username",
            met=self._met,
        )

    def _session_store(self) -> PostgresSessionStore:
        ingest = self._config.ingest
        return PostgresSessionStore(
            self._reactor,
            lambda: self._lease.holding,
            self._prepare_alone,
            deadline=ingest.statement_deadline,
            max_entries=ingest.batch,
            away=lambda: self.store.state not in (READY, CONNECTING),
        )

    def _clock_moved(self, seconds: float) -> None:
        for entry in self.writer.unfinished():
            move(entry, seconds)

    @inlineCallbacks
    def start(self) -> Generator["Deferred[Any]", Any, None]:
        """Fires when the database is ready for the first time, however long that takes.

        :raises Unusable: waiting would not help.
        :raises Stopped: ``stop`` was called meanwhile.
        """
        dsn: str = self._config.database or (yield self._embedded.start())  # type: ignore[union-attr]
        yield self.store.start(dsn)
        if self.sessions is not None:
            yield self.sessions.start(dsn)

    def _prepare_alone(self, dsn: str) -> "Deferred[Any]":
        """Prepare for one of the two stores; the other one waits."""
        return self._prepares.run(self._prepare, dsn)

    @inlineCallbacks
    def _prepare(self, dsn: str) -> Generator["Deferred[Any]", Any, None]:
        """Our tables; the first time also: nobody is connected yet, whatever a crash has left there."""
        try:
            yield migrate(dsn, self._reactor, make=not self._was_prepared, begin=self._changing_tables)
            yield self._lease.start(dsn)
            if not self._was_prepared:
                left = yield reset_presence(dsn, self._reactor, self.instance.id)
                if left:
                    log.info("{count} agents were still marked connected; corrected", count=len(left))
            else:
                self.prepared_again()
        except psycopg2.OperationalError as error:
            reason = one_line(error)
            if not self._was_prepared and HOPELESS.search(reason):
                raise Unusable(
                    f"the database refuses us: {reason}; correct it or the connection string"
                ) from None
            raise
        self._was_prepared = True
        self.reader.dsn = self.exports.dsn = self._user_reader.dsn = dsn
        if self._maintenance is None:
            self._look_after(dsn)

    def _changing_tables(self, version: int, last: int) -> None:
        text = f"the tables, step {version} of {last}"
        self._tables = Stage(self.stages, TABLES, text, (version - 1) / last)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a start, in their order."""
        return GIVEN if self._embedded is None else EMBEDDED

    @property
    def stage(self) -> Stage | None:
        """The stage that the start has come to; ``None``: the database is ready."""
        if self._tables is not None and not self._was_prepared:
            return self._tables
        if self._embedded is not None and self.state == CONNECTING:
            return stage_of_server(self.stages, self._embedded)
        return Stage(self.stages, SERVER, self.trouble) if self.trouble else None

    def _look_after(self, dsn: str) -> None:
        """Begin with what is done in the background."""
        ingest = self._config.ingest
        kept = Kept(
            ingest.keep_months,
            ingest.keep_rejected_days,
            ingest.keep_rejected_bytes,
            ingest.keep_5m_months,
            ingest.keep_1h_months,
        )
        self._maintenance = Maintenance(
            dsn, self._reactor, kept, wall_clock=self.clock.ours, rejected=lambda: self.writer.rejected
        )
        self._maintenance.start()
        self.roll_ups = RollUps(dsn, self._reactor, lambda: self.writer.waiting > ingest.batch)
        self.roll_ups.start()

    @property
    def apart(self) -> float | None:
        """Seconds that our clock is ahead of that of the database; ``None``: nobody knows."""
        return self.clock.apart

    @property
    def deleted(self) -> Mapping[str, int]:
        """Rejected messages, and months of metrics, that were deleted, by the setting that says so."""
        return {} if self._maintenance is None else self._maintenance.deleted

    @property
    def trouble(self) -> str:
        """The reason that nothing can be stored now; empty when it can."""
        return "" if self.state == READY else f"the database is {self.state}"

    @property
    def is_away(self) -> bool:
        """Return whether it was asked and did not answer."""
        return self.state not in (READY, CONNECTING)

    @property
    def state(self) -> str:
        """``"ready"``, or the state of the first store that is not."""
        return next((store.state for store in self._stores() if store.state != READY), READY)

    def _stores(self) -> "list[PostgresStore]":
        return [self.store] if self.sessions is None else [self.store, self.sessions.connections]

    @property
    def waiting(self) -> int:
        """How many entries and records are not yet committed."""
        return self.writer.waiting + (0 if self.sessions is None else self.sessions.writer.waiting)

    @property
    def departures(self) -> int:
        """How many of them say that an agent has gone; see ``Backlog``."""
        return self.writer.departures

    def drain(self) -> "Deferred[Any]":
        """Fires when all that was saved is committed; at once while the database is away."""
        if self.trouble:
            return succeed(None)
        if (sessions := self.sessions) is None:
            return self.writer.drain()
        # Once more: a Will whose message is committed is forgotten only then.
        both = DeferredList([self.writer.drain(), sessions.drain()])
        return both.addCallback(lambda _: sessions.drain())

    @inlineCallbacks
    def stop(self) -> Generator["Deferred[Any]", Any, None]:
        """Close the connections, stop the embedded server, let another daemon have the state directory."""
        self.writer.stop()
        self.reader.stop()
        self.exports.stop()
        self._user_reader.stop()
        if self._maintenance is not None:
            yield within(self._reactor, self._maintenance.stop(), 1.0)
        if self.roll_ups is not None:
            yield within(self._reactor, self.roll_ups.stop(), 1.0)
        if self.sessions is not None:
            yield within(self._reactor, self.sessions.stop(), 1.0)
        if self.leaves or self.members.others:
            yield within(self._reactor, self._lease.leave(), 1.0)
        yield within(self._reactor, self._lease.stop(), 1.0)
        yield within(self._reactor, self.store.stop(), 1.0)  # a server that hangs does not say goodbye
        if self._embedded is not None:
            yield self._embedded.stop()
        self.instance.release()

    @property
    def psql_commands(self) -> list[str]:
        """Return commands to paste into a terminal; the database has been ready before."""
        if self._embedded is None:
            return [shlex.join(["psql", without_secrets(self._config.database)])]
        local = self._embedded.psql_command
        return [local, self._embedded.tcp_psql_command] if self._config.embedded.tcp else [local]


def stage_of_server(stages: tuple[str, ...], server: EmbeddedPostgres) -> Stage:
    """Return where the start of a private PostgreSQL has come to."""
    if not server.has_data:
        return Stage(stages, DATA, "a PostgreSQL of its own is made (initdb)")
    return Stage(stages, SERVER, "PostgreSQL is starting")


def embedded(config: Config, reactor: Any) -> EmbeddedPostgres:
    """Return the private server of a configuration that names no database; it does not run yet."""
    given = config.embedded
    return EmbeddedPostgres(
        config.state_dir, reactor, tcp=given.tcp, port=given.port, grace=GRACE, memory=memory()
    )
