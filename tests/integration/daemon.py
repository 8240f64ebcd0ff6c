"""A real daemon in a process of its own, and the real clients that talk to it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.trial.unittest import SynchronousTestCase

from tests.commandline import NOTHING
from tests.crash.counters import books, scrape
from tests.postgres.scratch import scratch_server

ROOT = Path(__file__).parent.parent.parent
NODE = Path(__file__).parent / "node_modules" / ".bin"

#: The program that runs the daemon.
TWISTD: Final = os.path.join(os.path.dirname(sys.executable), "twistd")
#: Runs the command ``platziverse``, with the arguments behind it.
COMMAND: Final = (
    sys.executable,
    "-c",
    "import sys; from platziverse.command.cli import main; sys.exit(main())",
)

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what would configure a daemon or libpq."""
    unwanted = re.compile("(PLATZIVERSE_|DB_|PG|XDG_|STATE_DIRECTORY)")
    kept = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
    return kept | {"PYTHONUNBUFFERED": "1"} | variables


def find_program(name: str) -> str | None:
    """Path of a program of the machine or of the Node modules here."""
    return shutil.which(name, path=f"{NODE}:{os.environ.get('PATH', '')}:/usr/sbin")


def without_reader(command: str) -> str:
    """Run a command of the shell whose output nobody reads; what it says of that, and its exit code."""
    done = subprocess.run(
        ["sh", "-c", f"({command}; echo $? >&2) | true"],
        cwd=ROOT,
        env=clean_environment(),
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


class Program:
    """A process whose output is read as it comes, line by line."""

    def __init__(
        self, *command: str, cwd: str | None = None, stdin: int = subprocess.DEVNULL, **environ: str
    ) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment(**environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._reading = False
            self._news.notify_all()

    _reading = True

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, since: int = 0) -> "re.Match[str]":
        """The first line of the output, from number ``since`` on, in which ``pattern`` is found."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                for line in self.lines[since:]:
                    if found := re.search(pattern, line):
                        return found
                since = len(self.lines)
                left = deadline - time.monotonic()
                if not self._reading or left <= 0 or not self._news.wait(left):
                    raise AssertionError(f"no line with {pattern!r} in the output:\n{self.output}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """The end, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Daemon(Program):
    """``twistd -n platziverse`` with ``arguments``.

    :param state_dir: kept by the caller; others may pass through it, as the embedded database wants as root.
    :param twistd: what twistd is told instead of ``-n --pidfile= platziverse``.
    :param before: a program that runs the command which follows it, with its own arguments.
    """

    def __init__(
        self,
        *arguments: str,
        state_dir: str,
        twistd: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
        cwd: str = str(ROOT),
        stdin: int = subprocess.DEVNULL,
        environ: Mapping[str, str] = NOTHING,
    ) -> None:
        if any("/nonexistent" in argument for argument in arguments):
            # Or all messages at QoS 1 and 2 would wait until the database says who is absent. ADR 0116.
            environ = {"PLATZIVERSE_SESSIONS_DURABLE": "false", **environ}
        command = [*before, TWISTD, *(twistd or ("-n", "--pidfile=", "platziverse")), *arguments]
        super().__init__(*command, cwd=cwd, stdin=stdin, **{"PLATZIVERSE_STATE_DIR": state_dir, **environ})

    def port(self) -> int:
        """The first port it listens on."""
        return int(self.wait_for(r"listens for MQTT on \S*?:(\d+)[,;]")[1])

    def books(self) -> "dict[str, float | None] | None":
        """What became of the messages, ``None`` for a daemon without a page of counters."""
        ports = [
            found for line in self.lines if (found := re.search(r"listens for MQTT on \S*?:(\d+)[,;]", line))
        ]
        scraped = scrape(int(ports[0][1])) if ports and self.process.poll() is None else None
        return None if scraped is None else books(scraped)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait; the exit code. The books must balance before."""
        if (found := self.books()) is not None:
            received, *others = (value or 0.0 for value in found.values())
            if None in found.values() or received != sum(others):
                raise AssertionError(f"the books do not balance: {found}")
        return super().stop(number)

    def ready(self) -> int:
        """Wait until the database is ready as well; the port."""
        self.wait_for("the database is ready")
        return self.port()


def embedded_pid(state_dir: str) -> int | None:
    """The process id of the embedded server that runs there, if any."""
    data = Path(state_dir, "postgres", "data")
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n")[0])
        return pid if os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(data) else None
    except (OSError, ValueError):
        return None


def put_away(state_dir: str) -> None:
    """Stop the embedded server that a killed daemon has left behind, and remove everything."""
    if (pid := embedded_pid(state_dir)) is not None:
        os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + PATIENCE
    while embedded_pid(state_dir) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    shutil.rmtree(state_dir, ignore_errors=True)


class DaemonTestCase(SynchronousTestCase):
    """Tests that start daemons; whatever they leave behind is put away."""

    def state_dir(self) -> str:
        path = tempfile.mkdtemp(prefix="platziverse-test-")
        os.chmod(path, 0o711)
        self.addCleanup(put_away, path)
        return path

    def daemon(
        self,
        *arguments: str,
        state_dir: str | None = None,
        listen: bool = True,
        environ: Mapping[str, str] = NOTHING,
    ) -> Daemon:
        """A daemon on a random port of 127.0.0.1, unless ``arguments`` say where to listen."""
        if listen:
            arguments = ("--listen", "tcp:0:interface=127.0.0.1", *arguments)
        daemon = Daemon(*arguments, state_dir=state_dir or self.state_dir(), environ=environ)
        self.addCleanup(daemon.kill)
        return daemon

    def paho_client(self, port: int) -> paho.Client:
        """A client that is connected until the test ends, as agents of the original are."""
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("localhost", port)
        client.loop_start()
        self.addCleanup(client.loop_stop)
        self.addCleanup(client.disconnect)
        return client

    def shared_database(self) -> tuple[str, str]:
        """Options for a new database of the server that all tests share: one of its own takes its time."""
        server = scratch_server()
        return "--database", server.dsn(server.create())

    def program(self, name: str) -> str:
        """Path of a program, or the end of the test."""
        if (path := find_program(name)) is None:
            self.skipTest(f"{name} is not installed")
        return str(path)

    def start_program(self, name: str, *arguments: str) -> Program:
        """A program that runs until the test is over; C's stdio would keep its lines back from a pipe."""
        program = Program(self.program("stdbuf"), "-oL", self.program(name), *arguments)
        self.addCleanup(program.kill)
        return program

    def run_program(self, name: str, *arguments: str, **environ: str) -> str:
        """Output of a program that has to succeed."""
        done = subprocess.run(
            [self.program(name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(**environ),
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout
