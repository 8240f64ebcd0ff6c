"""The server that a daemon without a configured database starts, seen from outside."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg2
from attrs import frozen

from tests.servers import execute


@frozen
class EmbeddedServer:
    """:param state_dir: of its daemon."""

    state_dir: str

    def _pid_file(self) -> list[str]:
        path = os.path.join(self.state_dir, "postgres", "data", "postmaster.pid")
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()

    @property
    def pid(self) -> int:
        return int(self._pid_file()[0])

    @property
    def dsn(self) -> str:
        """:raises psycopg2.OperationalError: no server says where it listens."""
        try:
            lines = self._pid_file()
            return f"host={lines[4]} port={lines[3]} user=postgres dbname=platziverse"
        except (OSError, IndexError) as error:
            raise psycopg2.OperationalError(f"there is no server: {error}") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows, if any, of one statement on a connection of its own."""
        return execute(self.dsn, sql, parameters, application_name="harness", connect_timeout=10)

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1 FROM metrics LIMIT 1")
        except psycopg2.Error:
            return False
        return True

    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (OSError, IndexError, ValueError):
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the server a signal; harmless when there is none."""
        with suppress(OSError):
            os.kill(self.pid, number)
