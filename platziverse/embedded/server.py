"""Server: the private PostgreSQL of a machine that has none, and its supervisor.

It is a real server under the state directory, reached through a Unix socket that only its owner can open.
It outlives a crash of the daemon, and is adopted by the next one. Decided in ADR 0030.
"""

import os
import re
import shlex
import signal
from collections.abc import Generator
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from platziverse.embedded.binaries import Binaries, find, made_reachable
from platziverse.embedded.cluster import (
    DATABASE,
    INITDB,
    ROLE,
    SUPERUSER,
    Cluster,
    PidFile,
    free_port,
    kept_password,
    local_dsn,
    locate,
)
from platziverse.embedded.log import ServerLog
from platziverse.embedded.places import SYSTEM_HOME, EmbeddedError, is_known, make_state_dir
from platziverse.embedded.process import Adopted, Child, ServerProcess
from platziverse.postgres.connection import DeadlinePassed

log = Logger("platziverse.store")

#: What a start says while the locks of a killed predecessor are still held; that takes up to 2.4 s.
STILL_LOCKED: Final = re.compile(r'lock file ".*" already exists|pre-existing shared memory block')
#: Seconds between attempts to start again a server that ended; the last one repeats.
RESTART_DELAYS: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)

_Steps = Generator["Deferred[Any]", Any, Any]


class Stopped(Exception):
    """``stop`` was called while the server was starting."""


class EmbeddedPostgres:
    """An EmbeddedPostgres starts a PostgreSQL under ``state_dir``, again when it has ended, and stops it.

    :param tcp: listen on loopback as well, with a generated password in ``password_file``.
    :param port: on loopback, and in the name of the Unix socket; when taken, the next free of ten.
    :param dirs: where to look for PostgreSQL's programs; ``None``: the machine, then the wheel.
    :param system_home: where root's data goes when the state directory is closed to other users.
    :param grace: seconds for a fast stop, which writes a checkpoint, then for an immediate one.
    :param memory: bytes that the machine has, of which the server takes an eighth or less; 0: it is small.
    :ivar has_data: what PostgreSQL keeps there has been made, by this start or an earlier one.
    """

    has_data = False

    cluster: Cluster
    socket_dir: str
    _binaries: Binaries

    def __init__(
        self,
        state_dir: str,
        reactor: Any,
        *,
        tcp: bool = False,
        port: int = 5432,
        dirs: list[str] | None = None,
        system_home: str = SYSTEM_HOME,
        grace: tuple[float, float] = (30.0, 10.0),
        memory: int = 0,
    ) -> None:
        self.state_dir = os.path.abspath(state_dir)
        self.port = port
        self.password_file = os.path.join(self.state_dir, "pgpass")
        self._log = ServerLog(os.path.join(self.state_dir, "postgres.log"))
        self._reactor, self._tcp, self._wanted_port, self._dirs = reactor, tcp, port, dirs
        self._system_home, self._grace, self._memory = system_home, grace, memory
        self._process: ServerProcess | None = None
        self._stopping = False
        self._supervised = False
        self._retry: IDelayedCall | None = None

    @property
    def dsn(self) -> str:
        """The connection string of the database, through the Unix socket."""
        return local_dsn(self.socket_dir, self.port)

    @property
    def psql_command(self) -> str:
        """The psql command for a terminal of the user who runs the daemon."""
        return self._psql(self.socket_dir)

    @property
    def tcp_psql_command(self) -> str:
        """The psql command through loopback, with ``tcp``; its variable names the password."""
        return f"PGPASSFILE={shlex.quote(self.password_file)} {self._psql('localhost')}"

    def _psql(self, host: str) -> str:
        port = [] if self.port == 5432 else ["-p", str(self.port)]
        return shlex.join([self._binaries.psql, "-h", host, *port, "-U", ROLE, DATABASE])

    @inlineCallbacks
    def start(self) -> Generator["Deferred[Any]", Any, str]:
        """Start the server, or adopt the one that runs on our data. Fires with the DSN.

        Recovery after a crash is waited for, which may take minutes. Once the server runs, a further call
        does nothing: it is watched already.

        :raises EmbeddedError: the server cannot run here; one line that says what to do.
        :raises Stopped: ``stop`` was called meanwhile.
        """
        if self._supervised:
            return self.dsn
        self._stopping = False
        make_state_dir(self.state_dir)
        self.cluster = locate(self.state_dir, self._system_home, self._memory)
        owner, beside = self.cluster.owner, os.path.dirname(self.cluster.home)
        found = yield find(self._reactor, owner, self.cluster.major(), self._dirs)
        self._binaries = yield made_reachable(self._reactor, found, owner, beside)
        if not os.path.isdir(self.cluster.data):
            yield self._initialise()
        self.has_data = True
        yield self._bring_up()
        self._supervised = True
        self._log.keep_small(self._reactor)
        return self.dsn

    @inlineCallbacks
    def stop(self) -> Generator["Deferred[Any]", Any, None]:
        """Stop the server, adopted or not; the Deferred fires when it has ended.

        It gets a fast stop, then an immediate one, after which it has to recover, then SIGKILL; see
        ``grace``.
        """
        self._stopping, self._supervised = True, False
        self._log.stop()
        if self._retry and self._retry.active():
            self._retry.cancel()
        if self._process is not None and not os.path.isdir(self.cluster.data):
            self._process.kill_all()  # initdb, whose half of the work is thrown away
        if self._process is not None:
            yield self._end(self._process)

    @inlineCallbacks
    def _end(self, process: ServerProcess) -> _Steps:
        ended = process.ended()
        process.signal(signal.SIGINT)
        process.signal(signal.SIGCONT)  # a frozen one would never hear of it
        later = [
            self._reactor.callLater(self._grace[0], process.signal, signal.SIGQUIT),
            self._reactor.callLater(sum(self._grace), process.signal, signal.SIGKILL),
        ]
        yield ended
        for call in later:
            if call.active():
                call.cancel()

    def _spawn(self, *command: str) -> ServerProcess:
        if self._stopping:
            raise Stopped
        self._log.mark()
        self._process = Child(self._reactor, self.cluster.owner, list(command), self._log.path)
        return self._process

    def _failed(self, what: str) -> Exception:
        return Stopped() if self._stopping else EmbeddedError(f"{what}: {self._log.last_words()}")

    @inlineCallbacks
    def _initialise(self) -> _Steps:
        """Make the data, under another name until it is complete."""
        if not is_known(self.cluster.owner):
            raise EmbeddedError(
                f"user {self.cluster.owner.uid} has no entry in /etc/passwd, and PostgreSQL makes no data"
                " without one; add it, or name a database with --database"
            )
        new = f"{self.cluster.data}.new"
        yield self._spawn("/bin/rm", "-rf", new).ended()
        initdb = self._spawn(self._binaries.program("initdb"), "-D", new, "-U", SUPERUSER, *INITDB)
        ending = yield initdb.ended()
        if ending != "exit code 0":
            raise self._failed("initdb failed")
        os.rename(new, self.cluster.data)

    @inlineCallbacks
    def _bring_up(self) -> _Steps:
        """Adopt or start a server; fires when it answers, and we will notice its end."""
        if not (yield self._adopt()):
            yield self._launch()
        assert self._process is not None
        self._process.ended().addCallback(self._server_ended)

    @inlineCallbacks
    def _adopt(self) -> Generator["Deferred[Any]", Any, bool]:
        pid = self.cluster.running()
        if pid is None:
            self.cluster.forget_strangers()
            return False
        self._process = process = Adopted(self._reactor, pid, self.cluster)
        listening = yield self._until_ready(process)
        if process.running and listening == self._listen_addresses():
            log.info("adopted the embedded PostgreSQL that still runs, pid {pid}", pid=pid)
            return True
        yield self._end(process)
        return False

    def _listen_addresses(self) -> str:
        return "127.0.0.1" if self._tcp else ""

    @inlineCallbacks
    def _launch(self) -> _Steps:
        if not self._supervised:  # else it stays where it was: our DSN has been given away
            self.port = free_port(self._wanted_port) if self._tcp else self._wanted_port
        options = self.cluster.options(self.port, self._listen_addresses())
        give_up = self._reactor.seconds() + 10
        while True:
            process = self._spawn(self._binaries.program("postgres"), *options)
            yield self._until_ready(process)
            if process.running:
                return
            words = self._log.last_words()
            if not STILL_LOCKED.search(words) or self._reactor.seconds() > give_up:
                raise self._failed("PostgreSQL ended at its start")
            yield deferLater(self._reactor, 0.1)

    @inlineCallbacks
    def _until_ready(self, process: ServerProcess) -> _Steps:
        """Wait until the server answers and has our database, or has ended.

        The Deferred fires with its ``listen_addresses``; empty when it has ended.
        """
        since, said = self._reactor.seconds(), False
        while process.running:
            found = self.cluster.pid_file()
            if found and found.pid == process.pid and found.ready:
                try:
                    return (yield self._ask(found))
                except DeadlinePassed as error:
                    place = f"PostgreSQL (pid {process.pid}) on {self.cluster.data}"
                    raise EmbeddedError(f"{place} does not answer; stop it, then start again") from error
                except psycopg2.OperationalError as error:
                    log.debug("not yet: {error}", error=error)
            if not said and self._reactor.seconds() - since > 5:
                said = True
                log.info("the embedded PostgreSQL is not ready yet, perhaps recovering; waiting for it")
            yield deferLater(self._reactor, 0.02)
        return ""

    @inlineCallbacks
    def _ask(self, found: PidFile) -> _Steps:
        self.port, self.socket_dir = found.port, found.socket_dir
        password = kept_password(self.password_file) if self._tcp else None
        return (yield self.cluster.make_database(self._reactor, found, password))

    def _server_ended(self, ending: str) -> None:
        if not self._stopping:
            words = self._log.last_words()
            log.error("the embedded PostgreSQL ended ({ending}): {words}", ending=ending, words=words)
            self._start_again_later(0)

    def _start_again_later(self, attempt: int) -> None:
        delay = RESTART_DELAYS[min(attempt, len(RESTART_DELAYS) - 1)]
        self._retry = self._reactor.callLater(delay, self._start_again, attempt)

    @inlineCallbacks
    def _start_again(self, attempt: int) -> _Steps:
        try:
            yield self._bring_up()
        except Stopped:
            return
        except (EmbeddedError, psycopg2.Error, OSError) as error:
            log.error("the embedded PostgreSQL does not start again: {error}", error=error)
            if not self._stopping:
                self._start_again_later(attempt + 1)
        else:
            log.info("the embedded PostgreSQL runs again")
