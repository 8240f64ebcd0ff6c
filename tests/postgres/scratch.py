"""A throw-away PostgreSQL for tests: one server for all of them, a database for each."""

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import psycopg2
from twisted.trial.unittest import SkipTest

from platziverse.embedded.binaries import system_dirs, wheel_dirs
from platziverse.embedded.places import Owner, choose_owner, reachable
from tests.servers import execute
from tests.versions import asked_for


def open_dir() -> str:
    """A temporary directory whose path the user that PostgreSQL runs as can walk, for root's sake."""
    path = tempfile.mkdtemp(prefix="platziverse-test-")
    os.chmod(path, 0o711)
    return os.path.realpath(path)


def dropper(owner: Owner) -> Callable[[], None]:
    """Becomes ``owner`` between fork and exec."""

    def drop() -> None:
        os.setsid()
        if not owner.is_us:
            os.setgroups([owner.gid])
            os.setgid(owner.gid)
            os.setuid(owner.uid)

    return drop


def binary_dirs() -> list[str]:
    """All servers of this machine that the tests can run, one directory for each."""
    owner, wanted = choose_owner("/nonexistent"), asked_for()
    found = [*system_dirs(), *wheel_dirs()] if wanted is None else wanted
    return list(dict.fromkeys(path for path in found if reachable(os.path.join(path, "postgres"), owner)))


class ScratchServer:
    """A server without durability, in a session of its own, gone with the process."""

    def __init__(self, binaries: str) -> None:
        self.owner = choose_owner("/nonexistent")
        self.home = open_dir()
        self.data = os.path.join(self.home, "data")
        os.mkdir(self.data, 0o700)
        os.chown(self.data, self.owner.uid, self.owner.gid)
        initdb = [
            "initdb",
            "-N",
            "-D",
            self.data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
        ]
        self._run(binaries, initdb).wait()
        flags = [
            "-F",
            "-c",
            "full_page_writes=off",
            "-c",
            "synchronous_commit=off",
            "-h",
            "",
            "-k",
            self.data,
        ]
        self.process = self._run(binaries, ["postgres", "-D", self.data, *flags])
        self._databases = itertools.count()
        atexit.register(self.stop)
        self._wait()

    def _run(self, binaries: str, command: list[str]) -> "subprocess.Popen[bytes]":
        with open(os.path.join(self.home, "log"), "ab") as log:
            return subprocess.Popen(
                [os.path.join(binaries, command[0]), *command[1:]],
                preexec_fn=dropper(self.owner),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"LC_ALL": "C"},
                cwd="/",
            )

    def _wait(self) -> None:
        give_up = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(self.dsn("postgres")).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > give_up or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def dsn(self, database: str, user: str = "postgres") -> str:
        return f"host={self.data} user={user} dbname={database}"

    def execute(self, database: str, sql: str, *parameters: Any) -> list[Any]:
        """Run ``sql`` in a connection of its own; the rows, if it has any."""
        return execute(self.dsn(database), sql, parameters)

    def create(self) -> str:
        """The name of a new, empty database."""
        name = f"scratch{next(self._databases)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return name

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


@cache
def scratch_server() -> ScratchServer:
    """The server shared by all tests of this process."""
    dirs = binary_dirs()
    if not dirs:
        raise SkipTest("no PostgreSQL server is installed: apt install postgresql")
    return ScratchServer(dirs[0])
