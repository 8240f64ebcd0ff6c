"""A private PostgreSQL, with everything on that makes it durable, to be ill-treated."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg2
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.embedded.places import choose_owner
from tests.crash.waiting import poll
from tests.postgres.scratch import binary_dirs, dropper
from tests.servers import execute

#: Bytes of the small disk, which is made smaller to be full.
DISK: Final = 3 * 1024**3
#: Attempts to make it just as small as what is on it, while something may be written.
TRIES: Final = 50

#: How the harness connects: never read-only, and waiting no longer than 20 s.
_PATIENT: Final[dict[str, Any]] = {
    "options": "-c default_transaction_read_only=off -c statement_timeout=20s",
    "application_name": "harness",
    "connect_timeout": 10,
}

#: What a server says that cannot start yet because processes of its predecessor still end.
_NOT_YET: Final = ("pre-existing shared memory block", "lock file")


class Unavailable(Exception):
    """This machine cannot run the server; the reason in one line."""


def find_binaries() -> str:
    """:raises Unavailable: no server is installed that the tests can run."""
    for path in binary_dirs():
        return path
    raise Unavailable("no PostgreSQL server is installed: apt install postgresql")


def private_postgres(test: SynchronousTestCase) -> "Postgres":
    """Return one that is there until the end of a test, and does not run yet; skip the test without one."""
    try:
        postgres = Postgres()
    except Unavailable as error:
        raise SkipTest(str(error)) from None
    test.addCleanup(postgres.destroy)
    return postgres


class Postgres:
    """One cluster; its data on a disk of its own where that is permitted, its WAL beside it.

    :ivar no_disk: why the data has no disk of its own, if so.
    """

    def __init__(self) -> None:
        self._owner = choose_owner("/nonexistent")
        self._binaries = find_binaries()
        self.home = os.path.realpath(tempfile.mkdtemp(prefix="platziverse-crash-"))
        os.chmod(self.home, 0o711)
        self._disk = self._own("disk")
        self.no_disk = self._mount()
        self._data = self._own("disk/data")
        self._socket_dir = self._own("socket")
        self._log = os.path.join(self.home, "postgres.log")
        self._process: subprocess.Popen[bytes] | None = None
        wal = self._own("wal")
        initdb = ("initdb", "-D", self._data, "-X", wal, "-U", "postgres", "-A", "trust")
        if self._run(*initdb, "--locale=C.UTF-8", "-E", "UTF8").wait(60):
            raise Unavailable(f"initdb failed: {self._last_words()}")

    def _own(self, name: str) -> str:
        path = os.path.join(self.home, name)
        os.makedirs(path, 0o700)
        os.chown(path, self._owner.uid, self._owner.gid)
        return path

    def _mount(self) -> str:
        if os.geteuid():
            return "only root may mount a small disk"
        error = self._mount_with(f"size={DISK}")
        if not error:
            os.chown(self._disk, self._owner.uid, self._owner.gid)
        return error

    def _mount_with(self, options: str) -> str:
        command = ["mount", "-t", "tmpfs", "-o", options, "platziverse-crash", self._disk]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"mount is not permitted: {done.stderr.strip()}" if done.returncode else ""

    def _run(self, *command: str) -> "subprocess.Popen[bytes]":
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [os.path.join(self._binaries, command[0]), *command[1:]],
                preexec_fn=dropper(self._owner),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"LC_ALL": "C"},
                cwd="/",
            )

    def _last_words(self) -> str:
        with open(self._log, "rb") as file:
            return file.read()[-2000:].decode(errors="replace")

    # -- life and death --------------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        return f"host={self._socket_dir} user=postgres dbname=postgres"

    def start(self, patience: float = 60.0) -> None:
        """Start it and wait until it takes connections; again while what was killed is in the way."""
        give_up = time.monotonic() + patience
        while True:
            flags = ["-h", "", "-k", self._socket_dir, "-c", "fsync=on", "-c", "synchronous_commit=on"]
            self._process = self._run("postgres", "-D", self._data, *flags, "-c", "shared_buffers=64MB")
            poll(lambda: self.process.poll() is not None or self.answers(), patience, "PostgreSQL answers")
            if self.process.poll() is None:
                return
            if time.monotonic() > give_up or not any(text in self._last_words() for text in _NOT_YET):
                raise AssertionError(f"PostgreSQL does not start:\n{self._last_words()}")

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn, connect_timeout=5).close()
        except psycopg2.OperationalError:
            return False
        return True

    def family(self) -> list[int]:
        """The process ids of the server and its children."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        try:
            with open(path, encoding="ascii") as file:
                return [self.process.pid, *map(int, file.read().split())]
        except FileNotFoundError:
            return []

    def signal_all(self, number: int) -> None:
        """Send a signal to every process of the server."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self, number: int, patience: float = 60.0) -> None:
        """Send the server a signal that ends it, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(patience)

    def destroy(self) -> None:
        """Stop it and remove everything."""
        if self._process is not None:
            self.signal_all(signal.SIGCONT)
            self.end(signal.SIGQUIT)
        if not self.no_disk:
            subprocess.run(["umount", "-l", self._disk], check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    # -- from inside -----------------------------------------------------------------------------

    def connect(self) -> Any:
        """A connection in autocommit mode, never read-only, that waits no longer than 20 s."""
        connection = psycopg2.connect(self.dsn, **_PATIENT)
        connection.autocommit = True
        return connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows, if any, of one statement on a connection of its own."""
        return execute(self.dsn, sql, parameters, **_PATIENT)

    def fill_disk(self) -> None:
        """Leave no room for the data to grow: the disk becomes as small as what is on it.

        What was written since we looked may already be more than that, so it is tried again.
        """
        for _ in range(TRIES):
            used = os.statvfs(self._disk)
            size = (used.f_blocks - used.f_bfree) * used.f_frsize
            error = self._mount_with(f"remount,size={size + 64 * 1024}")
            if not error:
                return
        raise Unavailable(error)

    def free_disk(self) -> None:
        if error := self._mount_with(f"remount,size={DISK}"):
            raise Unavailable(error)
