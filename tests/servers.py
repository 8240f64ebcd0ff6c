"""A private PostgreSQL for the tests: started when the first test asks, gone when the process ends.

Works as root too, where PostgreSQL refuses to run: then it runs as somebody else. For trial as for pytest.
"""

import atexit
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
from psycopg2.extensions import make_dsn

from platziverse.embedded.binaries import system_dirs, wheel_dirs
from platziverse.postgres.clocks import WallClock
from platziverse.postgres.daemons import Registration
from platziverse.postgres.lease import Lease
from tests.versions import VARIABLE, asked_for

SCHEMA = Path(__file__).parent.parent / "platziverse" / "postgres" / "schema"
#: Its log is kept short, as every test writes a database of 7 MB: the suite filled a disk once.
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "256MB"}
TEMPLATE = "platziverse_template"
#: So many databases of tests are kept, the newest; a test has one or two.
KEPT = 8


def _directory() -> str | None:
    """Where the server's programs are, where others may execute them too."""
    ours = [] if os.getuid() == 0 else wheel_dirs()
    wanted = asked_for()
    for directory in (*system_dirs(), *ours) if wanted is None else wanted:
        if os.access(os.path.join(directory, "initdb"), os.X_OK):
            return directory
    return None


#: A reason to skip, or "".
MISSING = "" if _directory() else f"PostgreSQL {os.environ.get(VARIABLE, '')} is not installed"


class Cluster:
    """A server of its own in a temporary directory.

    :param programs: where those of the server are; ``None``: the machine's.
    :param settings: of ``postgresql.conf``.
    """

    def __init__(self, programs: str | None = None, **settings: str) -> None:
        programs = programs or _directory()
        assert programs is not None
        self._programs, self._settings = programs, {**FAST, **settings}
        self._counter = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = tempfile.mkdtemp(prefix="platziverse-")
        self._owner = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._owner is not None:
            os.chown(self.directory, self._owner.pw_uid, self._owner.pw_gid)
        self.data = os.path.join(self.directory, "data")
        atexit.register(self.remove)
        self._run(
            "initdb", "-N", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"
        )
        self.start()
        self._make_template()

    def dsn(self, database: str = "postgres", **parameters: str) -> str:
        """Connection string, through the Unix socket."""
        return make_dsn(host=self.directory, dbname=database, user="postgres", **parameters)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [os.path.join(self._programs, "postgres"), "-D", self.data, "-h", "", "-k", self.directory]
        with open(os.path.join(self.directory, "log"), "ab") as output:
            self._process = subprocess.Popen(
                [*command, *settings],
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._as_owner(),
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(self.dsn()).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT fast, SIGQUIT immediately, SIGKILL as in a crash."""
        if self._process is not None:
            if number == signal.SIGKILL:
                self.signal_all(signal.SIGKILL)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def signal_all(self, number: int) -> None:
        """A signal for the server and all its backends, e.g. SIGSTOP and SIGCONT."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            with suppress(ProcessLookupError):  # backends come and go
                os.kill(pid, number)

    def remove(self) -> None:
        """Stop it and delete everything."""
        if self._process is not None:
            self.signal_all(signal.SIGCONT)
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def database(self, template: str = TEMPLATE) -> str:
        """Connection string of a new database with our tables, or as another ``template`` has them.

        The one that was made ``KEPT`` databases before goes, with whoever is still connected to it.
        """
        number = next(self._counter)
        self.execute(f"CREATE DATABASE test_{number} TEMPLATE {template}")
        if number >= KEPT:
            self.execute(f"DROP DATABASE IF EXISTS test_{number - KEPT} WITH (FORCE)")
        return self.dsn(f"test_{number}")

    def execute(self, sql: str, parameters: Any = None, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows."""
        return execute(dsn or self.dsn(), sql, parameters)

    def _make_template(self) -> None:
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        for path in sorted(SCHEMA.glob("[0-9][0-9][0-9]*.sql")):
            self.execute(path.read_text(), dsn=self.dsn(TEMPLATE))

    def _run(self, program: str, *arguments: str) -> None:
        command = [os.path.join(self._programs, program), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, **self._as_owner())
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))

    def _as_owner(self) -> dict[str, Any]:
        if self._owner is None:
            return {"cwd": self.directory}
        return {
            "cwd": self.directory,
            "user": self._owner.pw_uid,
            "group": self._owner.pw_gid,
            "extra_groups": [],
        }


def execute(dsn: str, sql: str, parameters: Any = None, **options: Any) -> list[tuple[Any, ...]]:
    """Run one statement over a connection of its own; returns its rows.

    :param parameters: of the statement; without any a per cent sign in it is one.
    :param options: of the connection, e.g. ``connect_timeout=10``.
    """
    with closing(psycopg2.connect(dsn, **options)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def holding(dsn: str, sql: str) -> Iterator[Any]:
    """An open transaction in which ``sql`` was run, e.g. ``LOCK TABLE metrics``."""
    with closing(psycopg2.connect(dsn)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(sql)
        yield connection
        connection.rollback()  # answered when its locks are free; a backend sees a cut connection later


@cache
def cluster() -> Cluster:
    """The server all tests share; those that stop or freeze one make their own ``Cluster``."""
    return Cluster()


def lone_lease(reactor: Any, instance: UUID | None = None, bus: str = "", **more: Any) -> Lease:
    """Return a Lease that looks at no other daemon, and tells nobody that our clock was wrong.

    :param instance: identity of the daemon; ``None``: a new one.
    """
    registration = Registration(instance or uuid4(), bus=bus)
    return Lease(reactor, registration, WallClock(lambda seconds: None), **more)
