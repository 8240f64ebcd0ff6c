"""``platziverse agents`` and ``platziverse roll-up`` against a real database."""

import contextlib
import io
import sys
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.cli import main
from tests.postgres.rolled import Rolled
from tests.servers import MISSING, cluster, holding

DAY = 86_400.0


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


class CommandCase(SynchronousTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.rolled = Rolled(cluster().database())

    def run_command(self, *arguments: str, code: int = 0) -> str:
        """Run the command; return what it prints on either output."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            self.assertEqual(main(["--database", self.rolled.dsn, *arguments]), code, out.getvalue())
        return out.getvalue()

    def leave(self, uuid: str) -> None:
        self.rolled.sql("UPDATE agents SET connected = false WHERE uuid = %s", uuid)

    def counts(self, *tables: str) -> list[int]:
        found = [self.rolled.sql(f'SELECT count("agentId") FROM {table}')[0][0] for table in tables]
        return [int(count) for count in found]


class OtherDatabaseTests(CommandCase):
    def test_a_database_without_tables_is_no_puzzle(self) -> None:
        self.rolled.dsn = cluster().database("template1")
        for command in (("agents", "list"), ("roll-up", "--all"), ("rejected", "list")):
            self.assertIn("start the daemon once: ", self.run_command(*command, code=1))


class Agents(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        for uuid in "a", "b":
            for ago in 1.0, DAY:
                self.rolled.measure("1", "2", ago=ago, uuid=uuid)
        self.rolled.sql("INSERT INTO series (\"agentId\", type) SELECT id, 'm' FROM agents")
        while self.rolled.roll_up():
            pass
        self.leave("a")

    def test_each_is_a_line(self) -> None:
        first, second = self.run_command("agents", "list").splitlines()
        self.assertRegex(first, r"^'a' name 'platzi' user 'platzi' gone since 20\S+, 1 types$")
        self.assertEqual(second, "'b' name 'platzi' user 'platzi' connected, 1 types")
        self.assertEqual(self.run_command("agents", "list", "--connected").splitlines(), [second])
        self.assertEqual(self.run_command("agents", "list", "--limit", "1").splitlines(), [first])
        self.assertEqual(self.run_command("agents", "list", "--after", "a").splitlines(), [second])

    def test_one_that_is_renamed_keeps_its_metrics(self) -> None:
        self.assertIn("'a' is 'c' now", self.run_command("agents", "rename", "a", "c"))
        sql = """SELECT count(*) FROM metrics JOIN agents ON agents.id = "agentId" WHERE uuid = 'c'"""
        self.assertEqual(self.rolled.sql(sql), [(4,)])

    def test_a_uuid_that_is_taken_or_impossible_is_refused(self) -> None:
        """Row 457."""
        self.assertIn("'b' already", self.run_command("agents", "rename", "a", "b", code=1))
        self.assertIn("1 to 255", self.run_command("agents", "rename", "a", "", code=1))
        self.assertIn("1 to 255", self.run_command("agents", "rename", "a", "x" * 256, code=1))
        self.assertIn("no agent 'z'", self.run_command("agents", "rename", "z", "y", code=1))

    def test_one_that_is_connected_is_neither_renamed_nor_deleted(self) -> None:
        """Row 457: the daemon knows it by its number, and would go on."""
        for arguments in ("rename", "b", "c"), ("delete", "b", "--yes"):
            self.assertIn("'b' is connected; stop it", self.run_command("agents", *arguments, code=1))
        self.assertEqual(self.counts("metrics", "metrics_5m"), [8, 4])

    def test_one_that_is_deleted_takes_everything_along(self) -> None:
        """Row 456."""
        said = self.run_command("agents", "delete", "a", "--yes")
        self.assertEqual(said, "the agent 'a' is gone, with 8 metrics and roll-ups\n")
        self.assertEqual(self.counts("metrics", "metrics_5m", "metrics_1h", "series"), [4, 2, 2, 1])
        self.assertEqual(self.rolled.sql("SELECT uuid FROM agents"), [("b",)])
        self.assertEqual(self.rolled.sql("SELECT count(*) FROM metrics"), [(4,)])
        self.assertIn("no agent 'a'", self.run_command("agents", "delete", "a", "--yes", code=1))

    def test_its_metrics_may_stay(self) -> None:
        self.run_command("agents", "delete", "a", "--yes", "--keep-metrics")
        self.assertEqual(self.counts("metrics", "metrics_5m", "metrics_1h"), [4, 2, 2])
        self.assertEqual(self.rolled.sql("SELECT count(*) FROM metrics"), [(8,)])

    def test_nothing_is_deleted_unless_somebody_agrees(self) -> None:
        self.patch(sys, "stdin", io.StringIO())
        self.assertIn("give --yes", self.run_command("agents", "delete", "a", code=1))
        for answer in "\n", "no\n":
            self.patch(sys, "stdin", Terminal(answer))
            self.assertIn("nothing was deleted", self.run_command("agents", "delete", "a", code=1))
        self.assertEqual(self.counts("metrics"), [8])
        self.patch(sys, "stdin", Terminal("y\n"))
        self.assertIn("'a' is gone", self.run_command("agents", "delete", "a"))

    def test_whatever_was_chosen_as_a_uuid_cannot_forge_a_line(self) -> None:
        self.rolled.sql("UPDATE agents SET uuid = E'x\\n\\u001b[2J', name = E'\\r' WHERE uuid = 'a'")
        lines = self.run_command("agents", "list").splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn(r"'x\n\x1b[2J' name '\r'", lines[1])


class RollUp(CommandCase):
    def test_all_that_is_marked_is_made(self) -> None:
        for ago in range(1, 30_000, 300):
            self.rolled.measure("1", ago=ago)
        self.assertRegex(self.run_command("roll-up"), r"^100 buckets were made in \d+\.\d s\n$")
        self.assertEqual(self.rolled.wrong(), [])
        self.assertRegex(self.run_command("roll-up"), "^0 buckets were made")

    def test_all_that_is_there_is_made(self) -> None:
        self.rolled.measure("1")
        self.rolled.measure("2", ago=DAY)
        self.rolled.sql("TRUNCATE metrics_marks")
        said = self.run_command("roll-up", "--all")
        self.assertEqual(self.rolled.wrong(), [], said)

    def test_it_waits_for_a_daemon_that_is_at_it(self) -> None:
        """Row 454."""
        self.rolled.measure("1")
        with holding(self.rolled.dsn, "SELECT platziverse_roll_up(now(), 1)") as job:
            running = threading.Thread(target=self.run_command, args=("roll-up",))
            running.start()
            running.join(0.5)
            self.assertTrue(running.is_alive())
            job.rollback()
            running.join(30)
        self.assertEqual(self.rolled.wrong(), [])

    def test_a_terminal_sees_how_far_it_is(self) -> None:
        for ago in range(1, 15_000, 300):
            self.rolled.measure("1", ago=ago)
        screen: Any = Terminal()
        with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(io.StringIO()):
            main(["--database", self.rolled.dsn, "roll-up"])
        self.assertIn("buckets", screen.getvalue())
        self.assertIn("%", screen.getvalue())
        self.assertTrue(screen.getvalue().endswith("\r\x1b[K"))
