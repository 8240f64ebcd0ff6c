"""Database: the PostgreSQL of this daemon, configured or embedded, and the store in front of it."""

import re
import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.logger import Logger

from platziverse.access.passwords import LoginsUnavailable
from platziverse.agents.model import move
from platziverse.config import Config, without_secrets
from platziverse.daemon.machine import memory
from platziverse.daemon.process import within
from platziverse.daemon.statedir import Instance
from platziverse.embedded.server import EmbeddedPostgres
from platziverse.errors import Unusable
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.store import READY, PostgresStore
from platziverse.ingest.writer import BatchWriter
from platziverse.postgres.clocks import WallClock
from platziverse.postgres.lease import Lease
from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.migrate import migrate
from platziverse.postgres.presence import reset_presence
from platziverse.postgres.pruning import Kept
from platziverse.postgres.reader import Reader
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


class Database:
    """Found or started, migrated, and cleared of what a crashed run left behind.

    :raises Unusable: the state directory cannot be used.
    :ivar store: the connections; its ``state`` says how the database is.
    :param observe: called with the entries and the seconds of every batch that is committed.
    :param left_behind: called with the uuids of agents that a daemon which has died left connected.
    :param ours: returns seconds since the epoch, as this machine has them.
    :ivar clock: what time it is, for what is stored.
    :ivar users: the table of users, whether it is used or not.
    :ivar writer: the ``ReportStore``; takes entries at any time.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        observe: Callable[[int, float], None] = lambda entries, seconds: None,
        left_behind: Callable[[Sequence[str]], None] = lambda uuids: None,
        ours: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._reactor = config, reactor
        self.instance = Instance(config.state_dir)
        self._embedded = None if config.database else _embedded(config, reactor)
        ingest = config.ingest
        self.store = PostgresStore(
            reactor,
            partial(ReportStatements, self.instance.id, ingest.keep_rejected_payload),
            slots=ingest.slots,
            prepare=self._prepare,
            deadline=ingest.statement_deadline,
            bound=config.access.binding == "username",
        )
        self.writer = BatchWriter(self.store, reactor, KINDS, max_entries=ingest.batch, observe=observe)
        self.reader = Reader(reactor, Unavailable)
        # Connects when the first login asks.
        self._user_reader = Reader(reactor, LoginsUnavailable, connections=1, deadline=3.0)
        self.users = DatabaseUsers(self._user_reader)
        self.clock = WallClock(self._clock_moved, ours)
        self._lease = Lease(reactor, self.instance.id, self.clock, left_behind)
        self._was_prepared = False
        self._maintenance: Maintenance | None = None

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

    @inlineCallbacks
    def _prepare(self, dsn: str) -> Generator["Deferred[Any]", Any, None]:
        """Our tables; the first time also: nobody is connected yet, whatever a crash has left there."""
        try:
            yield migrate(dsn, self._reactor, make=not self._was_prepared)
            yield self._lease.start(dsn)
            if not self._was_prepared:
                left = yield reset_presence(dsn, self._reactor, self.instance.id)
                if left:
                    log.info("{count} agents were still marked connected; corrected", count=len(left))
        except psycopg2.OperationalError as error:
            reason = one_line(error)
            if not self._was_prepared and HOPELESS.search(reason):
                raise Unusable(
                    f"the database refuses us: {reason}; correct it or the connection string"
                ) from None
            raise
        self._was_prepared = True
        self.reader.dsn = self._user_reader.dsn = dsn
        if self._maintenance is None:
            ingest = self._config.ingest
            kept = Kept(ingest.keep_months, ingest.keep_rejected_days, ingest.keep_rejected_bytes)
            self._maintenance = Maintenance(
                dsn, self._reactor, kept, wall_clock=self.clock.ours, rejected=lambda: self.writer.rejected
            )
            self._maintenance.start()

    @property
    def apart(self) -> float | None:
        """Seconds that our clock is ahead of that of the database; ``None``: nobody knows."""
        return self.clock.apart

    @property
    def deleted(self) -> Mapping[str, int]:
        """Rejected messages that were deleted, by the setting that says so."""
        return {} if self._maintenance is None else self._maintenance.deleted

    @property
    def trouble(self) -> str:
        """The reason that nothing can be stored now; empty when it can."""
        return "" if self.store.state == READY else f"the database is {self.store.state}"

    def drain(self) -> "Deferred[None]":
        """Fires when all that was saved is committed; at once while the database is away."""
        return self.writer.drain() if self.store.state == READY else succeed(None)

    @inlineCallbacks
    def stop(self) -> Generator["Deferred[Any]", Any, None]:
        """Close the connections, stop the embedded server, let another daemon have the state directory."""
        self.writer.stop()
        self.reader.stop()
        self._user_reader.stop()
        if self._maintenance is not None:
            yield within(self._reactor, self._maintenance.stop(), 1.0)
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


def _embedded(config: Config, reactor: Any) -> EmbeddedPostgres:
    given = config.embedded
    return EmbeddedPostgres(
        config.state_dir, reactor, tcp=given.tcp, port=given.port, grace=GRACE, memory=memory()
    )
