"""Each version of PostgreSQL that the schema is for takes what the daemon and its commands write and ask.

A little of everything, in one database; ``make test-postgres`` runs all tests of the database on each.
"""

import contextlib
import io
from collections.abc import Generator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.trial.unittest import SkipTest, TestCase

from platziverse.agents.model import Series
from platziverse.broker.records import (
    Absent,
    Acknowledged,
    Back,
    Begun,
    Cleared,
    Delivery,
    Ended,
    Forget,
    Freed,
    Kept,
    Present,
    Queued,
    Received,
    Release,
    Subscribed,
    Trimmed,
    Unsubscribed,
    WillGone,
    WillLeft,
    link,
)
from platziverse.command.cli import main
from platziverse.durable.store import PostgresSessionStore
from platziverse.postgres import pruning
from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.migrate import migrate
from platziverse.postgres.reader import Reader
from platziverse.web.interfaces import Export, Range
from tests.ingest.entries import delivery, key, report
from tests.postgres.rolled import Rolled
from tests.postgres.test_migrate import KNOWN, NEW_AGENT, NEW_METRIC, NEWEST, ORIGINAL, TYPES
from tests.servers import Cluster, lone_lease
from tests.versions import version_dir

Steps = Generator["Deferred[Any]", Any, None]
RULES = """
[[rule]]
topic = "old/{device}"
agent = "old:{device}"
time = "$.at"
"""


class Versions(TestCase):
    timeout = 180

    @inlineCallbacks
    def understood(self, version: int) -> Steps:
        """Start a server, and let each part of the daemon write and read there."""
        programs = version_dir(version)
        if programs is None:
            raise SkipTest(f"there is no PostgreSQL {version}: npm ci in tests/postgres/versions fetches it")
        self.server = Cluster(programs)
        self.addCleanup(self.server.remove)
        ((found,),) = self.server.execute("SHOW server_version_num")
        self.assertEqual(int(found) // 10_000, version)
        self.dsn = self.server.database("template0")
        yield self.the_tables_of_the_original_become_ours()
        self.batches_are_stored_and_rolled_up()
        yield self.charts_and_exports_are_read()
        yield self.months_are_kept_up()
        yield self.sessions_outlive_the_daemon()
        self.files_are_imported_and_exported()

    def sql(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.server.execute(sql, parameters or None, self.dsn)

    @inlineCallbacks
    def the_tables_of_the_original_become_ours(self) -> Steps:
        self.sql(ORIGINAL)
        self.sql(NEW_AGENT)
        self.sql(NEW_METRIC)
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)
        self.sql(NEW_METRIC)
        self.assertEqual(self.sql(TYPES, "new"), [("memory",)])
        self.assertEqual(len(self.sql(NEWEST, "new", "memory")), 2)

    def batches_are_stored_and_rolled_up(self) -> None:
        self.rolled = Rolled(self.dsn)
        self.rolled.measure("1", "2", "warm")
        late = report("3", uuid="late", arrived=self.rolled.open - 7200, series=(Series("m", "°C", "rule"),))
        self.rolled.batch(late)
        known = key(at=self.rolled.open)
        for _ in range(2):
            self.rolled.batch(
                report("7", uuid="once", key=known, arrived=self.rolled.open - 600),
                report("8", uuid="twice", delivery=delivery(1, dup=True), arrived=self.rolled.open - 600),
            )
        self.assertEqual(self.sql("SELECT count(*) FROM metrics WHERE value IN ('7', '8')"), [(2,)])
        self.assertGreater(self.rolled.roll_up(), 2)
        self.assertEqual((self.rolled.wrong(), self.rolled.marks()), ([], 0))
        self.assertIn((2, 1.0, 2.0, 3.0, 2.0), self.rolled.buckets())

    @inlineCallbacks
    def charts_and_exports_are_read(self) -> Steps:
        reader = Reader(reactor, RuntimeError)
        self.addCleanup(reader.stop)
        reader.dsn = self.dsn
        until = int(self.rolled.open // 3600) * 3_600_000
        for step, source in (60_000, "raw"), (300_000, "5m"), (3_600_000, "1h"), (0, "raw"):
            asked = Range(
                until - 6 * 3_600_000,
                until,
                step,
                source=source,
                now=until,
                limit=10,
                aggregates=("avg", "last", "count") if step else (),
            )
            (row,) = yield reader.series(["late"], ["m"], asked)
            self.assertIn("3", row["points"], source)
        newest = yield reader.latest([], None, None, 0, "", 10, until)
        self.assertIn("late", [row["uuid"] for row in newest])
        self.assertEqual(len((yield reader.agents(None))), 4)
        self.assertEqual((yield reader.types("late")), [{"type": "m"}])
        for form, source in ("csv", "raw"), ("ndjson", "raw"), ("csv", "5m"), ("ndjson", "1h"):
            page = yield reader.export(Export(("late",), (), 0, until, form, source), None, 10)
            self.assertIn("late", page["text"])
        function = "SELECT avg, n FROM platziverse_series('late', 'm', now() - interval '1 day', now(), %s)"
        for each in "1 min", "5 min", "1 hour":
            self.assertEqual(self.sql(function, each), [(3.0, 1)])

    @inlineCallbacks
    def months_are_kept_up(self) -> Steps:
        self.sql("SELECT platziverse_add_partitions(now() - interval '40 months')")
        yield Maintenance(self.dsn, reactor, pruning.Kept(months=2, months_5m=3, months_1h=4)).run()
        self.assertEqual(self.rolled.wrong(), [])

    @inlineCallbacks
    def sessions_outlive_the_daemon(self) -> Steps:
        lease = lone_lease(reactor)
        self.addCleanup(lease.stop)
        store = PostgresSessionStore(reactor, lambda: lease.holding, lease.start)
        yield store.start(self.dsn)
        self.addCleanup(store.stop)

        def save(*records: Any) -> "Deferred[Any]":
            return gatherResults([store.save(record) for record in records])

        one, two, three = Begun("one", "login", 0), Begun("two", None, 60), Begun("three", None, 0)
        yield save(one, two, three)
        a, b, c = one.session, two.session, three.session
        rows = {a: (2, 2), b: (1, 1)}
        yield save(
            Subscribed(a, (("t/#", 1), ("u", 2)), ("u",)),
            Queued("t", b"\x00p", 1.0, {a: (1, 1)}, Delivery("one", 7, False, b"d" * 16)),
            Queued("t", b"q", 1.0, dict(rows)),
            Queued("t", b"r", 1.0, {a: (3, 1), link(1, 2): (1, 1)}),
            Kept("kept", b"k", 1, "one", None),
            Kept("gone", b"k", 1, "one", None),
            WillLeft("one", None, 1, "will", b"w", 1, False),
            WillLeft("two", None, 2, "will", b"w", 1, False),
        )
        yield save(
            Unsubscribed(a, ("t/#",)),
            Acknowledged(a, 1),
            Received(a, 2),
            Trimmed(b, 0, 1),
            Release("one", 7),
            Cleared("gone"),
            WillGone("two", 2),
            Absent(b, 1),
            Present(b, "back"),
            Freed(c, 0),
        )
        yield save(Back(c), Forget("one"))
        yield save(Ended(c, "three"))
        page = yield store.page(a, 0, 2**62, 10)
        self.assertEqual([(each.position, each.received) for each in page], [(2, True), (3, False)])
        sessions = yield store.sessions(0, 10)
        self.assertEqual([(each.client_id, each.messages) for each in sessions], [("one", 2), ("two", 0)])
        self.assertEqual((sessions[0].subscriptions, sessions[1].username), ({"u": 2}, "back"))
        self.assertEqual([each.topic for each in (yield store.retained("", 10))], ["kept"])
        self.assertEqual([each.client_id for each in (yield store.wills())], ["one"])
        self.assertEqual((yield store.links(2)), [link(1, 2)])
        self.assertEqual((yield store.find("two")).session, b)

    def files_are_imported_and_exported(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        rules, given, written = (folder / name for name in ("rules.toml", "given.csv", "written.csv"))
        rules.write_text(RULES)
        given.write_text("at,temp,door\n2019-07-01 12:00:00,21.5,open\n2019-07-01 12:00:10,22,closed\n")
        command = ["import", "--rules", str(rules), "--topic", "old/x", str(given)]
        self.assertIn("4 metrics stored, 0 were there", self.run_command(*command))
        self.assertIn("0 metrics stored, 4 were there", self.run_command(*command, "--from-start"))
        self.run_command("export", "--agent", "old:x", str(written))
        self.assertEqual(len(written.read_text().splitlines()), 5)
        self.run_command("roll-up", "--all")
        self.assertEqual(self.rolled.wrong(), [])
        self.run_command("agents", "rename", "old:x", "a name")
        self.assertIn("a name", self.run_command("agents", "list"))
        self.run_command("agents", "delete", "a name", "--yes")
        self.assertNotIn("a name", self.run_command("agents", "list"))

    def run_command(self, *arguments: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            self.assertEqual(main(["--database", self.dsn, *arguments]), 0, out.getvalue())
        return out.getvalue()

    def test_13(self) -> "Deferred[Any]":
        return self.understood(13)

    def test_14(self) -> "Deferred[Any]":
        return self.understood(14)

    def test_16(self) -> "Deferred[Any]":
        return self.understood(16)

    def test_17(self) -> "Deferred[Any]":
        return self.understood(17)

    def test_18(self) -> "Deferred[Any]":
        return self.understood(18)
