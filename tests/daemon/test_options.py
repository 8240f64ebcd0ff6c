"""The command line of ``twistd platziverse``."""

import contextlib
import io
import socket
from pathlib import Path

from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.options import Options
from tests.integration.daemon import TWISTD, without_reader


class OptionsTests(SynchronousTestCase):
    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def test_listen_may_be_repeated(self) -> None:
        self.assertEqual(
            self.options("--listen", "tcp:1", "--listen", "unix:/b").config.listen, ("tcp:1", "unix:/b")
        )

    def test_options_reach_the_configuration(self) -> None:
        config = self.options("--database", "host=x", "--state-dir", "/s", "--log-level", "warn").config
        self.assertEqual((config.database, config.state_dir, config.log_level), ("host=x", "/s", "warn"))

    def test_a_wrong_option_ends_the_process_with_one_line(self) -> None:
        stop = self.assertRaises(SystemExit, self.options, "--config", "/no/such.toml")
        self.assertEqual(stop.code, "platziverse: /no/such.toml: cannot be read: No such file or directory")

    def test_a_check_tries_to_listen(self) -> None:
        """Row 260: what can never work is an error; a taken port is not, as the daemon may hold it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            self.assertEqual(self.checked(port), (0, f"platziverse: cannot listen on {port}: it is in use"))
        self.assertEqual(self.checked(port), (0, ""))
        self.assertEqual(self.checked("tcp:x")[0], 1)
        self.assertIn("cannot listen on tcp:x: 'x' is not a whole number", self.checked("tcp:x")[1])

    def checked(self, listen: str) -> tuple[object, str]:
        """Exit code, and the complaint up to its hint."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            stop = self.assertRaises(SystemExit, self.options, "--listen", listen, "--check")
        self.assertIn("listen = ", out.getvalue())
        return stop.code, err.getvalue().split(";")[0]

    def test_no_reader_gets_a_traceback(self) -> None:
        """Row 260."""
        for option in ("--check", "--help", "--version"):
            said = without_reader(f"{TWISTD} platziverse {option} --listen unix:/nowhere")
            self.assertEqual(said, "141\n", option)


class PidFileTests(SynchronousTestCase):
    def pid_file(self, *arguments: str) -> str:
        options = ServerOptions()
        options.parseOptions([*arguments, "platziverse"])
        return str(options["pidfile"])

    def test_row_240_there_is_none_in_the_foreground(self) -> None:
        self.assertEqual(self.pid_file("-n"), "")

    def test_one_that_is_named_is_written(self) -> None:
        self.assertEqual(self.pid_file("-n", "--pidfile=/run/x.pid"), "/run/x.pid")
        self.assertEqual(self.pid_file("-n", "--pidfile=./twistd.pid"), str(Path.cwd() / "twistd.pid"))

    def test_in_the_background_it_is_twistds(self) -> None:
        self.assertEqual(self.pid_file(), str(Path.cwd() / "twistd.pid"))
