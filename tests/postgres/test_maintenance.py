"""Partitions: made ahead, filled from the default one, dropped when old."""

import datetime
from collections.abc import Generator
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.postgres.maintenance import Maintenance
from tests.ingest.entries import key
from tests.servers import MISSING, cluster, execute, holding

Steps = Generator["Deferred[Any]", Any, None]
DAY = 86_400.0
#: Far from any day on which the tests run, for which there are partitions already.
NOW = datetime.datetime(2099, 11, 24, tzinfo=datetime.timezone.utc).timestamp()


class Partitioned:
    """A database, and what its partitions are called."""

    dsn: str

    def parts(self, table: str) -> list[str]:
        sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
        return [row[0].removeprefix(f"{table}_") for row in execute(self.dsn, sql, (table,))]

    def insert(self, *days: float) -> None:
        """A metric and a key for each of these days after now."""
        for day in days:
            moment = datetime.datetime.fromtimestamp(NOW + day * DAY, datetime.timezone.utc)
            execute(
                self.dsn,
                'INSERT INTO metrics (type, value, "createdAt", "updatedAt") VALUES (%s, %s, %s, %s)',
                ("t", str(day), moment, moment),
            )
            execute(self.dsn, "INSERT INTO message_keys VALUES (%s)", (key(at=NOW + day * DAY).hex(),))


class Functions(Partitioned, SynchronousTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database()

    def call(self, function: str, day: float = 0) -> int:
        sql = f"SELECT platziverse_{function}(to_timestamp(%s))"
        return int(execute(self.dsn, sql, (NOW + day * DAY,))[0][0])

    def test_this_month_and_the_next_two_have_a_partition(self) -> None:
        self.call("add_partitions")
        self.assertLessEqual({"2099_11", "2099_12", "2100_01", "default"}, set(self.parts("metrics")))
        self.assertLessEqual({"2099_11_16", "2099_11_24", "2099_11_26"}, set(self.parts("message_keys")))
        self.assertEqual(self.call("add_partitions"), 0)

    def test_qos_2_messages_that_nobody_released_are_forgotten(self) -> None:
        sql = "INSERT INTO qos2_messages VALUES (%s, 1, %s, to_timestamp(%s))"
        for client, day in ("gone", -10), ("there", -7):
            execute(self.dsn, sql, (client, b"", NOW + day * DAY))
        self.call("prune")
        self.assertEqual(execute(self.dsn, 'SELECT "clientId" FROM qos2_messages'), [("there",)])

    def test_rows_of_the_default_partition_move_into_a_new_one(self) -> None:
        self.call("add_partitions")
        self.insert(200, 231, 500)
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM metrics_default"), [(3,)])
        self.call("add_partitions", 200)
        self.assertEqual(execute(self.dsn, "SELECT value FROM metrics_default"), [("500",)])
        self.assertEqual(execute(self.dsn, "SELECT value FROM metrics_2100_06"), [("200",)])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM metrics"), [(3,)])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM message_keys"), [(3,)])

    def test_a_new_partition_has_the_indexes_of_its_table(self) -> None:
        self.call("add_partitions", 100)
        sql = "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass AND indisvalid"
        self.assertEqual(execute(self.dsn, sql, ("metrics_2100_03",)), [(2,)])
        self.insert(100)
        self.assertEqual(execute(self.dsn, "SELECT id FROM metrics_2100_03"), [(1,)])

    def test_keys_older_than_eight_days_are_dropped(self) -> None:
        self.call("add_partitions")
        self.insert(-100, -8, 0, 1)
        self.call("add_partitions", 3)
        self.call("prune", 3)
        oldest = min(name for name in self.parts("message_keys") if name != "default")
        self.assertEqual(oldest, "2099_11_19")
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM message_keys"), [(2,)])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM metrics"), [(4,)])

    def test_writers_that_are_long_gone_are_forgotten(self) -> None:
        sql = """INSERT INTO ingest_batches SELECT gen_random_uuid(), 1, to_timestamp(%s)"""
        for day in -20.0, -1.0:
            execute(self.dsn, sql, (NOW + day * DAY,))
        self.call("prune")
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM ingest_batches"), [(1,)])


class Months(SynchronousTestCase):
    """Which months may go, in a database whose clock is right."""

    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database()

    def fill(self, *months: int) -> None:
        """A metric in the midst of each month, this many months ago."""
        for ago in months:
            moment = f"date_trunc('month', now()) - interval '{ago} months' + interval '1 minute'"
            execute(self.dsn, f"SELECT platziverse_add_partitions({moment})")
            row = f"'t', '{ago}', {moment}, now()"
            execute(self.dsn, f'INSERT INTO metrics (type, value, "createdAt", "updatedAt") SELECT {row}')

    def drop(self, moment: str) -> list[str]:
        """The values that are left when the months before ``moment`` are gone."""
        execute(self.dsn, f"SELECT platziverse_drop_months({moment})")
        return [value for (value,) in execute(self.dsn, "SELECT value FROM metrics ORDER BY value::integer")]

    def test_months_that_ended_before_a_moment_are_dropped_and_no_others(self) -> None:
        self.fill(5, 4, 3, 2, 1, 0)
        self.assertEqual(self.drop("now() - interval '2 months'"), ["0", "1", "2"])
        self.assertEqual(self.drop("now() - interval '2 months'"), ["0", "1", "2"])

    def test_a_moment_that_has_not_come_yet_drops_no_more_than_the_past(self) -> None:
        """Row 140: a caller's clock that is ten years ahead."""
        self.fill(2, 1, 0)
        self.assertEqual(self.drop("now() + interval '10 years'"), ["0"])

    def test_months_without_rows_do_not_count(self) -> None:
        """Row 141: when all clocks are ten years ahead, what was recorded last is as old as they say."""
        self.fill(124, 123, 122, 121, 120)
        self.assertEqual(self.drop("now() - interval '2 months'"), ["120", "121", "122"])
        self.fill(0)
        self.assertEqual(self.drop("now() - interval '2 months'"), ["0", "120", "121"])

    def test_the_month_of_the_newest_row_is_never_dropped(self) -> None:
        self.fill(30)
        self.assertEqual(self.drop("now()"), ["30"])

    def test_rows_of_the_default_partition_are_never_all_dropped(self) -> None:
        """Row 142: recorded by a clock that was years behind."""
        insert = """INSERT INTO metrics (type, value, "createdAt", "updatedAt")
            SELECT 't', ago, now() - make_interval(months => ago), now()
            FROM unnest(ARRAY[200, 130, 130]) ago"""
        execute(self.dsn, insert)
        self.assertEqual(self.drop("now() - interval '1 month'"), ["130", "130"])


class Hourly(Partitioned, TestCase):
    skip = MISSING or None
    timeout = 30

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.now = NOW + 60 * DAY

    def maintenance(self, **given: Any) -> Maintenance:
        made = Maintenance(self.dsn, reactor, lambda: self.now, **given)
        self.addCleanup(made.stop)
        return made

    @inlineCallbacks
    def test_the_wall_clock_decides_what_is_due(self) -> Steps:
        maintenance, before = self.maintenance(), self.parts("message_keys")
        yield maintenance.run()
        metrics, keys = self.parts("metrics"), self.parts("message_keys")
        self.assertIn("2100_03", metrics)
        self.assertIn("2100_01_23", keys)
        self.assertEqual(set(before) & set(keys), {"default"})  # the days around the one on which this runs
        yield maintenance.run()
        self.assertEqual((self.parts("metrics"), self.parts("message_keys")), (metrics, keys))

    @inlineCallbacks
    def test_it_waits_for_nobody_longer_than_two_seconds(self) -> Steps:
        """row 115"""
        with holding(self.dsn, "LOCK TABLE metrics_default"):
            yield self.assertFailure(self.maintenance().run(), psycopg2.errors.LockNotAvailable)
        self.assertNotIn("2100_03", self.parts("metrics"))

    @inlineCallbacks
    def test_it_begins_at_once_and_comes_again(self) -> Steps:
        maintenance = self.maintenance(interval=0.2, retry=0.1)
        maintenance.start()
        yield deferLater(reactor, 0.3)
        self.assertIn("2100_03", self.parts("metrics"))
        self.now += 31 * DAY
        yield deferLater(reactor, 0.5)
        self.assertIn("2100_04", self.parts("metrics"))
        yield maintenance.stop()
