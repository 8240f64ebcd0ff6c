"""The command as a whole."""

import shlex
import signal
import socket
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.command.cli import COMMANDS
from tests.commandline import run
from tests.crash.waiting import poll
from tests.integration.daemon import COMMAND, PATIENCE, ROOT, Program, without_reader
from tests.servers import MISSING, cluster, execute, holding

#: What a command that asks a running daemon has no use for.
HEAVY = ("platziverse.broker.broker", "platziverse.net", "platziverse.ingest", "twisted.internet.tcp")
LOADED = """import sys
from platziverse.command.cli import main
main(["clients", "list", "--config", "/nonexistent"])
print(*sys.modules)"""


class OptionTests(SynchronousTestCase):
    def test_options_of_all_commands_stand_before_and_behind(self) -> None:
        """Row 255."""
        for arguments in (
            ("-c", "/no/such.toml", "rejected", "list"),
            ("rejected", "-c", "/no/such.toml", "list"),
            ("rejected", "list", "--config", "/no/such.toml"),
        ):
            done = run(self, *arguments)
            self.assertEqual(done.code, 1)
            self.assertIn("/no/such.toml: cannot be read", done.err)

    def test_help_names_the_daemon(self) -> None:
        """Row 255."""
        self.assertIn("twistd -n platziverse", run(self, "--help").out)

    def test_ctrl_c_ends_it_without_a_traceback(self) -> None:
        """Row 264: here while it waits for a database that does not answer."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            dsn = f"host=127.0.0.1 port={server.getsockname()[1]} dbname=x user=x"
            command = Program(*COMMAND, "--database", dsn, "rejected", "list", cwd=str(ROOT))
            self.addCleanup(command.kill)
            server.settimeout(PATIENCE)
            connection, _ = server.accept()
            command.process.send_signal(signal.SIGINT)
            connection.close()
            self.assertEqual((command.ended(), command.output), (130, ""))

    def test_ctrl_c_ends_a_statement_that_goes_on(self) -> None:
        """Row 264: libpq would wait for its end."""
        if MISSING:
            raise SkipTest(MISSING)
        dsn = cluster().database()
        with holding(dsn, "LOCK TABLE metrics_marks"):
            command = Program(*COMMAND, "--database", dsn, "roll-up", "--all", cwd=str(ROOT))
            self.addCleanup(command.kill)
            waits = """SELECT 1 FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND datname = current_database()"""
            poll(lambda: execute(dsn, waits), PATIENCE, "the statement")
            command.process.send_signal(signal.SIGINT)
            self.assertEqual((command.ended(), command.output), (130, ""))
            poll(lambda: not execute(dsn, waits), PATIENCE, "the end of the statement")

    def test_a_reader_that_goes_gets_no_traceback(self) -> None:
        """Row 255."""
        said = without_reader(f"{shlex.join(COMMAND)} --database host=/nonexistent check")
        self.assertEqual(said, "141\n")


class CommandLineTests(SynchronousTestCase):
    def test_each_command_has_its_help(self) -> None:
        for name, (_, text) in COMMANDS.items():
            ran = run(self, name, "--help")
            self.assertEqual((ran.code, ran.err), (0, ""))
            self.assertRegex(ran.out, f"^usage: \\S+ {name} ")
            self.assertIn(text, " ".join(run(self, "--help").out.split()))

    def test_a_command_imports_what_it_needs_alone(self) -> None:
        """An operator's look takes a third of a second, not a whole one."""
        done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
        self.assertIn("/nonexistent", done.stderr)
        loaded = done.stdout.split()
        self.assertIn("platziverse.command.clients", loaded)
        self.assertEqual([name for name in loaded if name.startswith(HEAVY)], [])
