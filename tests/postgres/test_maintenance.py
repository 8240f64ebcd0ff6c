"""Partitions: made ahead, filled from the default one, dropped when old."""

import datetime
import time
from collections.abc import Generator
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.pruning import Kept
from tests.ingest.entries import key
from tests.logs import observe_log
from tests.servers import MISSING, cluster, execute, holding

Steps = Generator["Deferred[Any]", Any, None]
DAY = 86_400.0
#: Far from any day on which the tests run, for which there are partitions already.
NOW = datetime.datetime(2009, 11, 24, tzinfo=datetime.timezone.utc).timestamp()


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
        self.assertLessEqual({"2009_11", "2009_12", "2010_01", "default"}, set(self.parts("metrics")))
        self.assertLessEqual({"2009_11_16", "2009_11_24", "2009_11_26"}, set(self.parts("message_keys")))
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
        self.assertEqual(execute(self.dsn, "SELECT value FROM metrics_2010_06"), [("200",)])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM metrics"), [(3,)])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM message_keys"), [(3,)])

    def test_a_new_partition_has_the_indexes_of_its_table(self) -> None:
        self.call("add_partitions", 100)
        sql = "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass AND indisvalid"
        self.assertEqual(execute(self.dsn, sql, ("metrics_2010_03",)), [(3,)])
        self.insert(100)
        self.assertEqual(execute(self.dsn, "SELECT id FROM metrics_2010_03"), [(1,)])

    def test_vacuum_comes_to_each_month_after_a_million_rows(self) -> None:
        self.call("add_partitions", 100)
        sql = """SELECT reloptions FROM pg_inherits JOIN pg_class ON oid = inhrelid
            WHERE inhparent = %s::regclass"""
        wanted = ["autovacuum_vacuum_insert_threshold=1000000", "autovacuum_vacuum_insert_scale_factor=0"]
        found = execute(self.dsn, sql, ("metrics",))
        self.assertEqual(found, [(wanted,)] * len(self.parts("metrics")))
        self.assertIn("2010_03", self.parts("metrics"))

    def test_keys_older_than_eight_days_are_dropped(self) -> None:
        self.call("add_partitions")
        self.insert(-100, -8, 0, 1)
        self.call("add_partitions", 3)
        self.call("prune", 3)
        oldest = min(name for name in self.parts("message_keys") if name != "default")
        self.assertEqual(oldest, "2009_11_19")
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


class Pruned(SynchronousTestCase):
    """What `platziverse_prune` and its neighbours delete."""

    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database()

    def reject(self, days: float, size: int = 3) -> None:
        """A rejected message of so many days ago."""
        sql = """INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
            SELECT 't', 'c', decode(repeat('00', %s), 'hex'), %s, now() - make_interval(secs => %s)"""
        execute(self.dsn, sql, (size, str(days), days * DAY))

    def rejected(self) -> list[str]:
        return [why for (why,) in execute(self.dsn, "SELECT reason FROM rejected_messages ORDER BY id")]

    def test_rejected_messages_are_kept_ninety_days(self) -> None:
        """Row 143."""
        for days in 400, 89, 1:
            self.reject(days)
        execute(self.dsn, "SELECT platziverse_prune(now(), 0)")
        self.assertEqual(self.rejected(), ["400", "89", "1"])
        execute(self.dsn, "SELECT platziverse_prune()")
        self.assertEqual(self.rejected(), ["89", "1"])

    def test_no_more_than_one_day_of_rejected_messages_goes_at_a_time(self) -> None:
        """Row 141: an hour with a wrong clock costs a day."""
        for days in 400, 399.5, 300, 200:
            self.reject(days)
        execute(self.dsn, "SELECT platziverse_prune()")
        self.assertEqual(self.rejected(), ["300", "200"])

    def test_rejected_messages_that_have_no_room_are_the_oldest(self) -> None:
        for days in 5, 4, 3, 2, 1:
            self.reject(days, 1000)
        (found,) = execute(
            self.dsn, "SELECT platziverse_rejected_beyond(2500), platziverse_rejected_beyond(9999)"
        )
        self.assertEqual(found, (3, None))

    def test_agents_without_metrics_go_when_they_have_been_silent_for_longer_than_those_are_kept(
        self,
    ) -> None:
        sql = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
            SELECT %s, 'u', 'n', 'h', 1, %s, now(), now() - make_interval(months => %s)"""
        for uuid, connected, months in (
            ("old", False, 20),
            ("there", True, 20),
            ("new", False, 1),
            ("m", False, 20),
        ):
            execute(self.dsn, sql, (uuid, connected, months))
        execute(
            self.dsn,
            """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId")
            SELECT 't', '1', now(), now(), id FROM agents WHERE uuid = 'm'""",
        )
        execute(self.dsn, "SELECT platziverse_prune_agents(now() - interval '12 months', 10)")
        left = execute(self.dsn, "SELECT uuid FROM agents ORDER BY id")
        self.assertEqual(left, [("there",), ("new",), ("m",)])

    def test_daemons_are_forgotten_after_a_day_without_a_sign_of_life(self) -> None:
        sql = """INSERT INTO mqtt_daemons (id, instance, "seenAt")
            SELECT %s, gen_random_uuid(), now() - make_interval(secs => %s)"""
        for number, days in (1, 1.1), (2, 0.9), (3, 1.1), (4, 1.1), (5, 1.1), (6, 1.1), (7, 1.1):
            execute(self.dsn, sql, (number, days * DAY))
        execute(self.dsn, "INSERT INTO mqtt_sessions (\"clientId\", daemon, expiry) VALUES ('c', 3, 0)")
        execute(
            self.dsn,
            'INSERT INTO mqtt_wills ("clientId", daemon, connection, topic, payload, flags)'
            " VALUES ('c', 4, 1, 't', '', 0)",
        )
        # A link, 6 owes to 7, and a Will that 5 has inherited.
        execute(self.dsn, "INSERT INTO mqtt_queue (session, seq, flags) VALUES (-(6 << 15 | 7), 1, 1)")
        execute(
            self.dsn,
            'INSERT INTO mqtt_wills ("clientId", daemon, connection, topic, payload, flags)'
            " VALUES ('c', -5, 2, 't', '', 0)",
        )
        execute(self.dsn, "SELECT platziverse_prune()")
        left = [number for (number,) in execute(self.dsn, "SELECT id FROM mqtt_daemons ORDER BY id")]
        self.assertEqual(left, [2, 3, 4, 5, 6, 7])

    def test_what_sessions_that_are_gone_left_behind_goes_in_portions(self) -> None:
        """Row 301."""
        execute(
            self.dsn,
            """INSERT INTO mqtt_sessions (id, "clientId", daemon, expiry) VALUES (2, 'there', 1, 0);
            INSERT INTO mqtt_subscriptions (session, filter, options)
                SELECT session, filter, 1
                FROM generate_series(1, 3) AS session, unnest('{a,b}'::text[]) AS filter;
            INSERT INTO mqtt_queue (session, seq, flags, message)
                SELECT session, seq, 1, 10 * session + seq
                FROM unnest('{-1,1,2,3}'::int[]) AS session, generate_series(1, 5) AS seq""",
        )
        counted: list[int] = []
        while not counted or counted[-1]:
            counted += [rows for (rows,) in execute(self.dsn, "SELECT platziverse_forget_sessions(4)")]
        self.assertEqual(counted, [8, 4, 2, 0])
        for table, left in ("mqtt_queue", {-1, 2}), ("mqtt_subscriptions", {2}):
            rows = execute(self.dsn, f"SELECT DISTINCT session FROM {table}")
            self.assertEqual({session for (session,) in rows}, left, table)

    def test_messages_that_nobody_waits_for_go_after_an_hour(self) -> None:
        execute(
            self.dsn,
            """INSERT INTO mqtt_sessions (id, "clientId", daemon, expiry) VALUES (1, 'there', 1, 0);
            INSERT INTO mqtt_queue (session, seq, flags, message) VALUES (1, 1, 1, 1), (-1, 1, 1, 2);
            INSERT INTO mqtt_messages (id, topic, payload, "publishedAt")
                SELECT id, 't', '', now() - make_interval(mins => CASE id WHEN 5 THEN 59 ELSE 61 END)
                FROM generate_series(1, 5) AS id""",
        )
        execute(self.dsn, "SELECT platziverse_prune()")
        left = execute(self.dsn, "SELECT id FROM mqtt_messages ORDER BY id")
        self.assertEqual(left, [(1,), (2,), (5,)])


class Hourly(TestCase):
    skip = MISSING or None
    timeout = 120

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.ahead = 0.0
        self.lines: list[str] = []
        observe_log(self, lambda event: self.lines.append(formatEvent(event)))

    def maintenance(self, kept: Kept | None = None, **given: Any) -> Maintenance:
        clock = given.pop("wall_clock", lambda: time.time() + self.ahead)
        made = Maintenance(self.dsn, reactor, kept or Kept(), wall_clock=clock, **given)
        self.addCleanup(made.stop)
        return made

    def months(self) -> set[str]:
        sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'metrics'::regclass"
        return {name for (name,) in execute(self.dsn, sql)}

    def fill(self) -> None:
        """A metric of this month and one of each of the three before, and a year-old rejected message."""
        for ago in 3, 2, 1, 0:
            moment = f"date_trunc('month', now()) - interval '{ago} months' + interval '1 minute'"
            execute(self.dsn, f"SELECT platziverse_add_partitions({moment})")
            row = f"'t', '{ago}', {moment}, now()"
            execute(self.dsn, f'INSERT INTO metrics (type, value, "createdAt", "updatedAt") SELECT {row}')
        execute(
            self.dsn,
            """INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
            SELECT 't', 'c', '', 'r', now() - interval '1 year'""",
        )

    def left(self) -> tuple[int, int]:
        """How many metrics and rejected messages there are."""
        sql = "SELECT (SELECT count(*) FROM metrics), (SELECT count(*) FROM rejected_messages)"
        ((metrics, rejected),) = execute(self.dsn, sql)
        return metrics, rejected

    @inlineCallbacks
    def test_what_is_old_goes_and_what_is_missing_comes(self) -> Steps:
        before = self.months()
        self.fill()
        execute(self.dsn, f"DROP TABLE {max(before - {'metrics_default'})}")
        maintenance = self.maintenance(Kept(months=1))
        yield maintenance.run()
        self.assertEqual(self.left(), (2, 0))
        self.assertLessEqual(before, self.months())
        self.assertEqual(maintenance.deleted, {"keep_rejected_days": 1, "keep_months": 2})
        lines = [line for line in self.lines if "keep_" in line]
        self.assertEqual([setting in "".join(lines) for setting in maintenance.deleted], [True, True])

    @inlineCallbacks
    def test_everything_is_kept_for_ever_if_asked(self) -> Steps:
        self.fill()
        yield self.maintenance(Kept(rejected_days=0, rejected_bytes=0)).run()
        self.assertEqual(self.left(), (4, 1))

    @inlineCallbacks
    def test_nothing_old_goes_while_our_clock_and_that_of_the_database_differ(self) -> Steps:
        """Rows 140 and 142: whichever is wrong."""
        self.fill()
        for self.ahead in 10 * 365 * DAY, -10 * 365 * DAY, 61.0, -61.0:
            yield self.maintenance(Kept(months=1)).run()
            self.assertEqual(self.left(), (4, 1))
        self.ahead = 50.0
        yield self.maintenance(Kept(months=1)).run()
        self.assertEqual(self.left(), (2, 0))

    @inlineCallbacks
    def test_rejected_messages_stay_within_their_bytes(self) -> Steps:
        """Row 143: a client that never sends anything else."""
        sql = """INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
            SELECT 't', 'c', sha512(n::text::bytea), n, now() FROM generate_series(1, 20000) AS n"""
        execute(self.dsn, sql)
        maintenance = self.maintenance(Kept(rejected_bytes=1_000_000))
        yield maintenance.run(everything=False)
        _, left = self.left()
        self.assertTrue(4000 < left < 6000, left)
        self.assertEqual(maintenance.deleted, {"keep_rejected_bytes": 20_000 - left})
        self.assertIn("keep_rejected_bytes", self.lines[-1])
        ((oldest,),) = execute(self.dsn, "SELECT min(id) FROM rejected_messages")
        self.assertEqual(oldest, 20_001 - left)

    @inlineCallbacks
    def test_it_waits_for_a_reader_less_than_a_tenth_of_a_second_at_a_time(self) -> Steps:
        """Row 115: what comes meanwhile stands behind it."""
        newest = max(self.months() - {"metrics_default"})
        execute(self.dsn, f"DROP TABLE {newest}")
        with holding(self.dsn, "LOCK TABLE metrics_default IN ACCESS SHARE MODE"):
            running = self.maintenance().run()
            running.addErrback(lambda failure: failure)
            slowest = 0.0
            while not running.called:
                began = time.monotonic()
                execute(self.dsn, "SELECT count(*) FROM metrics_default")
                slowest = max(slowest, time.monotonic() - began)
                yield deferLater(reactor, 0)
            yield self.assertFailure(running, psycopg2.errors.LockNotAvailable)
        self.assertLess(slowest, 5.0)  # 0.05 on a machine with nothing else to do; without a bound for ever
        self.assertNotIn(newest, self.months())

    @inlineCallbacks
    def test_numbers_that_run_out_are_told_in_time(self) -> Steps:
        """Row 144."""
        execute(self.dsn, "SELECT setval('agents_id_seq', 1700000000)")
        yield self.maintenance().run()
        self.assertEqual(self.lines, [])
        execute(self.dsn, "SELECT setval('agents_id_seq', 1800000000)")
        yield self.maintenance().run()
        self.assertEqual([line[:43] for line in self.lines], ["agents_id_seq has given out 84 % of its num"])

    @inlineCallbacks
    def test_it_begins_at_once_and_comes_again(self) -> Steps:
        newest = max(self.months() - {"metrics_default"})
        maintenance = self.maintenance(interval=0.2, retry=0.1)
        maintenance.start()
        for _ in range(2):
            execute(self.dsn, f"DROP TABLE {newest}")
            yield deferLater(reactor, 0.8)
            self.assertIn(newest, self.months())
        yield maintenance.stop()
