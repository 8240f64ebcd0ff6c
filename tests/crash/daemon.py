"""The daemon under test, in a process of its own, again and again on the same port and state directory."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.crash.counters import scrape
from tests.crash.waiting import poll
from tests.integration.daemon import ROOT, TWISTD, clean_environment
from tests.ports import free_port

#: Lines that no log may hold. What a database that is away says is no internal error.
GRAVE: Final = re.compile(r"Traceback|Unhandled|internal error|\bcritical\b", re.IGNORECASE)

#: Has imported everything when it is told to begin.
_SPARE: Final = """import sys, platziverse.daemon.service, platziverse.service
from twisted.scripts.twistd import run
sys.stdin.readline()
run()"""

#: The rule of agents that are devices. What it records is told to nobody: receivers know what was sent.
RECORD: Final = {
    "PLATZIVERSE_RECORD_FILES": str(Path(__file__).parent / "devices.toml"),
    "PLATZIVERSE_RECORD_REPUBLISH": "never",
}


class Daemon:
    """``twistd -n platziverse`` on one port of 127.0.0.1.

    :param home: existing directory for its state and its log.
    :param arguments: further arguments of the command line, e.g. ``("--database", dsn)``.
    :param settings: further variables of the environment.
    """

    def __init__(self, home: str, *arguments: str, **settings: str) -> None:
        self.port = free_port()
        self.state_dir = os.path.join(home, "state")
        self.log_path = os.path.join(home, "daemon.log")
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        self._command = [TWISTD, "-n", "--pidfile=", "platziverse", "--listen", listen, *arguments]
        self._environ = clean_environment(PLATZIVERSE_STATE_DIR=self.state_dir, **RECORD, **settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._spare: subprocess.Popen[bytes] | None = None
        self._log_read = 0
        self.started_at = 0.0

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it, without waiting for anything."""
        spare, self._spare = self._spare, None
        if spare is not None:
            assert spare.stdin is not None
            spare.stdin.close()
        self._process = spare or self._spawn(self._command, subprocess.DEVNULL)
        self.started_at = time.monotonic()

    def prepare(self) -> None:
        """Have a process at hand for the next start: on a busy machine others take a slow one for dead."""
        if self._spare is None:
            self._spare = self._spawn([sys.executable, "-c", _SPARE, *self._command[1:]], subprocess.PIPE)

    def _spawn(self, command: list[str], stdin: int) -> "subprocess.Popen[bytes]":
        with open(self.log_path, "ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environ,
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_listening(self, patience: float = 60.0) -> float:
        """Seconds from the start of the process; raises if it has ended."""

        def answers() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
            return self.listening()

        poll(answers, patience, "the daemon listens")
        return time.monotonic() - self.started_at

    def kill(self) -> None:
        """SIGKILL, from any thread; harmless when it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        if self._spare is not None:
            self._spare.kill()
            self._spare.communicate()
            self._spare = None
        if self._process is not None:
            self.kill()
            self.wait()

    def wait(self, patience: float = 60.0) -> int:
        return self.process.wait(patience)

    def stop(self, patience: float = 40.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)

    def resident(self) -> int:
        """Bytes of resident memory."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def new_lines(self) -> list[str]:
        """What the log has got since the last call."""
        with open(self.log_path, "rb") as file:
            file.seek(self._log_read)
            data = file.read()
        self._log_read += len(data)
        return data.decode(errors="replace").splitlines()

    def tail(self) -> str:
        with open(self.log_path, "rb") as file:
            return file.read()[-4000:].decode(errors="replace")

    def scrape(self) -> "dict[str, float] | None":
        """``/metrics`` by name and labels, or ``None`` while the daemon has no such page."""
        return scrape(self.port)
