"""The command line as a whole."""

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.cli import COMMANDS
from tests.commandline import run

#: What a command that asks a running daemon has no use for.
HEAVY = ("platziverse.broker.broker", "platziverse.net", "platziverse.ingest", "twisted.internet.tcp")
LOADED = """import sys
from platziverse.command.cli import main
main(["clients", "list", "--config", "/nonexistent"])
print(*sys.modules)"""


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
