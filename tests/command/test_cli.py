"""The command as a whole."""

import shlex
import signal
import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.commandline import run
from tests.integration.daemon import COMMAND, PATIENCE, ROOT, Program, without_reader


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

    def test_a_reader_that_goes_gets_no_traceback(self) -> None:
        """Row 255."""
        said = without_reader(f"{shlex.join(COMMAND)} --database host=/nonexistent check")
        self.assertEqual(said, "141\n")
