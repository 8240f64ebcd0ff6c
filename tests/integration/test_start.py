"""Starting and stopping a real process."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from platziverse.daemon.statedir import Instance, InstanceError
from tests.crash.waiting import poll
from tests.integration.bad_inputs import connect
from tests.integration.daemon import (
    PATIENCE,
    ROOT,
    TWISTD,
    Daemon,
    DaemonTestCase,
    clean_environment,
    embedded_pid,
)
from tests.postgres.scratch import scratch_server


class RefusalTests(DaemonTestCase):
    """What cannot work is said in one line, with exit code 1 and without a traceback."""

    def refusal(self, *arguments: str, listen: bool = True, **environ: str) -> str:
        daemon = self.daemon(*arguments, listen=listen, environ=environ)
        self.assertEqual(daemon.ended(), 1, daemon.output)
        self.assertNotIn("Traceback", daemon.output)
        (line,) = [line for line in daemon.lines if "platziverse: " in line or " critical " in line]
        return line

    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            line = self.refusal("--listen", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        self.assertIn("it is in use; stop what holds it, or name another with --listen", line)

    def test_a_connection_string_that_is_none(self) -> None:
        line = self.refusal("--database", "hunter2")
        self.assertIn("command line: database: is not a PostgreSQL connection string", line)
        self.assertNotIn("hunter2", line)

    def test_a_database_that_does_not_exist(self) -> None:
        line = self.refusal("--database", scratch_server().dsn("nonsense"))
        self.assertIn("the database refuses us: ", line)
        self.assertIn('"nonsense" does not exist', line)

    def test_a_file_that_is_missing(self) -> None:
        self.assertIn("/no/such.toml: cannot be read", self.refusal("--config", "/no/such.toml"))

    def test_a_handler_that_is_missing(self) -> None:
        line = self.refusal(PLATZIVERSE_HANDLERS="nonsense:table")
        self.assertIn("handlers: nonsense:table: No module named 'nonsense'", line)

    def test_a_state_directory_that_cannot_be(self) -> None:
        self.assertIn("/proc/nonsense", self.refusal("--state-dir", "/proc/nonsense"))


class BackgroundTests(DaemonTestCase):
    """Row 251: a start that fails in the background reaches the twistd that waits for it."""

    def start(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        self.folder = Path(self.state_dir())
        files = (f"--pidfile={self.folder / 'pid'}", f"--logfile={self.folder / 'log'}")
        return subprocess.run(
            [TWISTD, *files, *arguments],
            env=clean_environment(PLATZIVERSE_STATE_DIR=str(self.folder), **environ),
            cwd=ROOT,
            timeout=PATIENCE,
            capture_output=True,
            text=True,
            check=False,
        )

    def assert_over(self) -> None:
        """Another daemon may have the state directory, and there is no pid file."""
        poll(lambda: not (self.folder / "pid").exists(), PATIENCE, "there is no pid file")
        poll(self.is_free, PATIENCE, "the state directory is free")

    def is_free(self) -> bool:
        try:
            Instance(str(self.folder)).release()
        except InstanceError:
            return False
        return True

    def test_a_taken_port(self) -> None:
        """Row 251."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            done = self.start("platziverse", "--listen", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("it is in use; stop what holds it, or name another with --listen\n", done.stderr)
        self.assert_over()

    def test_a_taken_port_with_an_application_file(self) -> None:
        """Row 251: twistd's own answer."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            done = self.start("-y", str(ROOT / "platziverse.tac"), PLATZIVERSE_LISTEN=listen)
        self.assertEqual(done.returncode, 1)
        self.assertIn("CannotListen: cannot listen on", done.stderr)
        self.assert_over()

    def test_a_database_that_refuses_us(self) -> None:
        """Row 251: a wrong name, as a wrong password, is known when the database has answered."""
        dsn = scratch_server().dsn("nonsense")
        done = self.start("platziverse", "--listen", "tcp:0:interface=127.0.0.1", "--database", dsn)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the database refuses us: ", done.stderr)
        self.assertIn("correct it or the connection string\n", done.stderr)
        self.assert_over()
        ours = [line for line in (self.folder / "log").read_text().splitlines() if " twisted: " not in line]
        self.assertIn("the database refuses us: ", ours[-1])

    def test_a_start_that_works_returns_with_0(self) -> None:
        """Row 251."""
        server = scratch_server()
        done = self.start(
            "platziverse", "--listen", "tcp:0:interface=127.0.0.1", "--database", server.dsn(server.create())
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertIn("the database is ready", (self.folder / "log").read_text())
        os.kill(int((self.folder / "pid").read_text()), signal.SIGTERM)
        self.assert_over()


class ConfiguredDatabaseTests(DaemonTestCase):
    def test_a_configured_database_is_used_and_left_running(self) -> None:
        server, state_dir = scratch_server(), self.state_dir()
        name = server.create()
        daemon = self.daemon("--database", server.dsn(name), state_dir=state_dir)
        port = str(daemon.ready())
        self.run_program("mqtt", "pub", "-h", "localhost", "-p", port, "-t", "agent/message", "-m", "Hello")
        daemon.wait_for("Rejected a message")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertIsNone(embedded_pid(state_dir))
        self.assertEqual(len(server.execute(name, "SELECT 1 FROM rejected_messages")), 1)

    def test_listeners_are_up_while_the_database_is_away(self) -> None:
        daemon = self.daemon("--database", "host=/nonexistent dbname=x")
        port = str(daemon.port())
        daemon.wait_for("the database is away")
        self.run_program("mosquitto_pub", "-p", port, "-t", "elsewhere", "-q", "1", "-m", "x")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", daemon.output)


class StopTests(DaemonTestCase):
    def test_ctrl_c_stops_everything(self) -> None:
        """row 123: the database is stopped as well, clients are told, and the exit code is 0."""
        state_dir = self.state_dir()
        daemon = self.daemon(state_dir=state_dir)
        client = socket.create_connection(("127.0.0.1", daemon.ready()), timeout=PATIENCE)
        self.addCleanup(client.close)
        client.sendall(connect("told"))
        self.assertEqual(client.recv(4), b"\x20\x02\x00\x00")
        self.assertIsNotNone(embedded_pid(state_dir))
        self.assertEqual(daemon.stop(signal.SIGINT), 0)
        self.assertIsNone(embedded_pid(state_dir))
        self.assertNotIn("Traceback", daemon.output)
        self.assertEqual(client.recv(1), b"")

    def test_a_second_signal_ends_it_at_once(self) -> None:
        """row 123: whoever asks twice does not want to wait; the next start adopts the database."""
        state_dir = self.state_dir()
        daemon = self.daemon(state_dir=state_dir)
        daemon.ready()
        server = embedded_pid(state_dir)
        assert server is not None
        os.kill(server, signal.SIGSTOP)  # it cannot stop now, so the daemon waits for it
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for("SIGTERM came; stopping")
        self.assertEqual(daemon.stop(signal.SIGTERM), 128 + signal.SIGTERM)
        os.kill(server, signal.SIGCONT)

    def test_a_killed_daemon_leaves_a_database_that_the_next_one_finds(self) -> None:
        state_dir = self.state_dir()
        first = self.daemon(state_dir=state_dir)
        first.ready()
        server = embedded_pid(state_dir)
        self.assertEqual(first.stop(signal.SIGKILL), -signal.SIGKILL)
        self.assertEqual(embedded_pid(state_dir), server)
        second = self.daemon(state_dir=state_dir)
        second.ready()
        self.assertEqual(embedded_pid(state_dir), server)
        self.assertEqual(second.stop(), 0)
        self.assertIsNone(embedded_pid(state_dir))

    def test_two_daemons_do_not_share_a_state_directory(self) -> None:
        """row 128."""
        state_dir = self.state_dir()
        self.daemon(state_dir=state_dir).ready()
        other = self.daemon(state_dir=state_dir)
        self.assertEqual(other.ended(), 1)
        self.assertIn(f"another daemon is using the state directory {state_dir}", other.output)

    def test_sigterm_before_the_database_is_ready(self) -> None:
        daemon = self.daemon()
        daemon.port()
        self.assertEqual(daemon.stop(signal.SIGTERM), 0, daemon.output)
        self.assertNotIn("Traceback", daemon.output)

    def test_an_application_file_works_too(self) -> None:
        daemon = Daemon(
            state_dir=self.state_dir(),
            twistd=("-n", "--pidfile=", "-y", os.path.join(ROOT, "platziverse.tac")),
            environ={"PLATZIVERSE_LISTEN": "tcp:0:interface=127.0.0.1"},
        )
        self.addCleanup(daemon.kill)
        daemon.ready()
        self.assertEqual(daemon.stop(), 0)
