"""The job that makes roll-ups, beside writers, crashes and other daemons; and how long roll-ups are kept."""

import itertools
import random
import signal
import threading
from collections.abc import Generator
from contextlib import closing
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.agents.model import Metric, Report
from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.pruning import Kept
from platziverse.postgres.rollups import RollUps
from tests.ingest.entries import agent
from tests.logs import observe_log
from tests.postgres.rolled import Rolled
from tests.servers import MISSING, Cluster, cluster, holding

Steps = Generator["Deferred[Any]", Any, None]
DAY = 86_400.0
#: Of the concurrency run.
BATCHES, WRITERS, AGENTS = 40, 3, 20


class Writer(threading.Thread):
    """A daemon that commits batches; a fifth of its readings is up to a day late."""

    def __init__(self, dsn: str, number: int) -> None:
        super().__init__()
        self._rolled, self._number = Rolled(dsn), number
        self._chance = random.Random(number)

    def run(self) -> None:
        for _ in range(BATCHES):
            self._rolled.batch(*(self._report() for _ in range(50)))

    def _report(self) -> Report:
        late = self._chance.random() < 0.2
        ago = self._chance.uniform(0, DAY) if late else self._chance.uniform(0, 600)
        metrics = [Metric(kind, str(self._chance.randrange(1000))) for kind in "xyz"]
        who = agent(f"{self._number}-{self._chance.randrange(AGENTS)}")
        return Report(who, metrics, self._rolled.open, measured=self._rolled.open - ago)


class Concurrency(SynchronousTestCase):
    skip = MISSING or None

    def test_no_bucket_is_wrong_whatever_comes_while_the_job_runs(self) -> None:
        """Row 451: three writers and the job; then all buckets are compared with the metrics."""
        rolled = Rolled(cluster().database())
        writers = [Writer(rolled.dsn, number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        made = 0
        while any(writer.is_alive() for writer in writers):
            made += rolled.roll_up(20)
        for writer in writers:
            writer.join()
        self.assertGreater(made, 0)
        while rolled.roll_up():
            pass
        self.assertEqual(rolled.wrong(), [])
        self.assertGreater(len(rolled.buckets()), 1000)


class Crashes(SynchronousTestCase):
    """Row 455: kill -9 of the server, with everything on that makes it durable."""

    skip = MISSING or None

    def setUp(self) -> None:
        self.server = Cluster(fsync="on", full_page_writes="on")
        self.addCleanup(self.server.remove)
        self.rolled = Rolled(self.server.database())

    def crash(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server.start()

    def test_between_a_batch_and_the_job(self) -> None:
        self.rolled.measure("1", "2")
        self.crash()
        self.assertEqual((self.rolled.roll_up(), self.rolled.wrong()), (1, []))
        self.assertEqual(len(self.rolled.buckets()), 1)

    def test_within_the_job(self) -> None:
        self.rolled.measure("1")
        self.rolled.roll_up()
        self.rolled.measure("2")
        with closing(psycopg2.connect(self.rolled.dsn)) as job, job.cursor() as cursor:
            cursor.execute("SELECT platziverse_roll_up(now(), 1)")
            self.crash()
        self.assertEqual((self.rolled.marks(), len(self.rolled.wrong())), (1, 4))
        self.assertEqual((self.rolled.roll_up(), self.rolled.wrong()), (1, []))


class Hurried:
    """The reactor, but for what it is asked to call later: that comes at once, unless it is a deadline.

    :ivar delays: the seconds, of all but the deadlines.
    """

    DEADLINES = 9.0, 11.0, 600.0

    def __init__(self) -> None:
        self.delays: list[float] = []

    def callLater(self, seconds: float, function: Any, *arguments: Any) -> Any:
        connecting, longer, statement = self.DEADLINES
        if connecting < seconds < longer or seconds == statement:
            return reactor.callLater(seconds, function, *arguments)
        self.delays += [seconds] * bool(seconds)
        return reactor.callLater(0.01, function, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class JobCase(TestCase):
    skip = MISSING or None
    timeout = 180

    def setUp(self) -> None:
        self.rolled = Rolled(cluster().database())
        self.hurried = Hurried()
        self.lines: list[str] = []
        observe_log(self, lambda event: self.lines.append(formatEvent(event)))

    def job(self, **given: Any) -> RollUps:
        made = RollUps(self.rolled.dsn, given.pop("on", self.hurried), **given)
        self.addCleanup(made.stop)
        return made

    def fill(self, buckets: int) -> None:
        reports = [
            Report(agent(), [Metric("m", str(n))], self.rolled.open, measured=self.rolled.open - 1 - 300 * n)
            for n in range(buckets)
        ]
        self.rolled.batch(*reports)


class Job(JobCase):
    @inlineCallbacks
    def test_a_run_makes_all_that_is_due_and_counts_it(self) -> Steps:
        self.fill(130)
        job = self.job()
        yield job.run()
        self.assertEqual((self.rolled.marks(), self.rolled.wrong()), (0, []))
        self.assertEqual((job.buckets, job.waiting), (130, 0))
        self.assertGreater(job.seconds, 0)
        self.assertIn("roll-ups of 130 buckets were made", self.lines)
        self.assertIn("roll-ups of 129 buckets are to be made, the newest first", self.lines)

    @inlineCallbacks
    def test_statements_that_are_quick_get_more_buckets_up_to_fifty(self) -> Steps:
        for took, fewest, most in (0.001, 7, 9), (0.2, 100, 105):
            self.fill(100)
            self.hurried.delays.clear()
            ticks = itertools.count(0.0, took)
            yield self.job(clock=lambda ticks=ticks: next(ticks)).run()
            self.assertTrue(fewest <= len(self.hurried.delays) <= most, len(self.hurried.delays))

    @inlineCallbacks
    def test_a_daemon_that_finds_another_at_it_ends_its_run(self) -> Steps:
        """Row 454."""
        self.fill(3)
        job = self.job()
        with holding(self.rolled.dsn, "SELECT platziverse_roll_up(now(), 1)"):
            yield job.run()
        self.assertEqual((job.buckets, job.waiting, self.rolled.marks()), (0, 0, 3))

    @inlineCallbacks
    def test_it_rests_longer_while_batches_wait(self) -> Steps:
        for busy in False, True:
            self.fill(1)
            ticks = itertools.count(0.0, 1.5)
            yield self.job(busy=lambda busy=busy: busy, clock=lambda ticks=ticks: next(ticks)).run()
        self.assertEqual(self.hurried.delays, [6.0, 28.5])

    @inlineCallbacks
    def test_it_stops_in_the_midst_of_a_rest(self) -> Steps:
        self.fill(3)
        ticks = itertools.count(0.0, 100.0)
        job = self.job(on=reactor, clock=lambda: next(ticks))
        running = job.run()
        while not job.buckets:
            yield deferLater(reactor, 0.02, lambda: None)
        job.stop()
        yield running
        self.assertEqual((job.buckets, self.rolled.marks()), (1, 2))

    @inlineCallbacks
    def test_what_autovacuum_has_not_summarised_is_summarised(self) -> Steps:
        summarise = """SELECT sum(brin_summarize_new_values(inhrelid))::integer FROM pg_inherits
            WHERE inhparent = 'metrics_created_brin'::regclass"""
        insert = """INSERT INTO metrics (type, value, "createdAt", "updatedAt")
            SELECT 't', n, now(), now() FROM generate_series(1, 6000) n"""
        self.rolled.sql(insert)
        job = self.job()
        job.start()
        yield job.run()
        self.assertEqual(self.rolled.sql(summarise), [(0,)])
        self.rolled.sql(insert)
        yield job.run()  # only once an hour
        self.assertGreater(self.rolled.sql(summarise)[0][0], 0)

    @inlineCallbacks
    def test_a_large_month_without_statistics_is_analysed(self) -> Steps:
        statistics = "SELECT count(*) FROM pg_stats WHERE tablename ~ '^metrics_2' AND attname = 'createdAt'"
        self.rolled.sql(
            """INSERT INTO metrics (type, value, "createdAt", "updatedAt")
            SELECT 't', n, now(), now() FROM generate_series(1, 20000) n"""
        )
        self.assertEqual(self.rolled.sql(statistics), [(0,)])
        job = self.job()
        job.start()
        yield job.run()
        self.assertEqual(self.rolled.sql(statistics), [(1,)])

    def test_a_month_without_statistics_is_not_read_as_a_whole(self) -> None:
        insert = """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId", number)
            SELECT 't', n, now() - n * interval '1 s', now(), 1, n FROM generate_series(1, 20000) n"""
        self.rolled.sql(insert)
        self.rolled.sql("INSERT INTO metrics_marks SELECT platziverse_bucket(now() - interval '1 h')")
        scans = """SELECT sum(pg_stat_get_xact_numscans(inhrelid)) FROM pg_inherits
            WHERE inhparent = 'metrics'::regclass"""
        with closing(psycopg2.connect(self.rolled.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT platziverse_roll_up(now(), 1)")
            self.assertEqual(cursor.fetchone(), (1,))
            cursor.execute(scans)
            self.assertEqual(cursor.fetchone(), (0,))

    @inlineCallbacks
    def test_a_database_that_refuses_is_said_and_asked_again(self) -> Steps:
        self.rolled.sql("ALTER FUNCTION platziverse_roll_up(timestamptz, integer) RENAME TO elsewhere")
        self.fill(1)
        job = self.job()
        job.start()
        while not any("made later, after 30 attempts" in line for line in self.lines):
            yield deferLater(reactor, 0.02, lambda: None)
        self.rolled.sql("ALTER FUNCTION elsewhere(timestamptz, integer) RENAME TO platziverse_roll_up")
        while not job.buckets:
            yield deferLater(reactor, 0.02, lambda: None)
        yield job.stop()
        self.assertEqual(self.rolled.wrong(), [])


class Ends(JobCase):
    """What the hourly maintenance drops of roll-ups."""

    def fill_months(self, *months: int) -> None:
        """A metric so many months ago, rolled up."""
        for ago in months:
            moment = f"date_trunc('month', now()) - interval '{ago} months' + interval '1 minute'"
            self.rolled.sql(f"SELECT platziverse_add_partitions({moment})")
            self.rolled.sql(
                f"""INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId", number)
                SELECT 't', '1', {moment}, now(), 1, {ago}"""
            )
        self.rolled.sql('INSERT INTO metrics_marks SELECT platziverse_bucket("createdAt") FROM metrics')
        while self.rolled.roll_up():
            pass

    def left(self, table: str) -> set[int]:
        """Return how many months ago the rows of a table are."""
        column = "number" if table == "metrics" else "last"
        return {int(ago) for (ago,) in self.rolled.sql(f"SELECT {column} FROM {table}")}

    @inlineCallbacks
    def maintain(self, **kept: int) -> Steps:
        maintenance = Maintenance(self.rolled.dsn, reactor, Kept(**kept))
        yield maintenance.run()
        self.deleted = maintenance.deleted

    @inlineCallbacks
    def test_each_level_has_its_own_end(self) -> Steps:
        self.fill_months(30, 5, 4, 3, 2, 1, 0)
        yield self.maintain(months=1, months_5m=3)
        self.assertEqual(self.left("metrics"), {1, 0})
        self.assertEqual(self.left("metrics_5m"), {3, 2, 1, 0})
        self.assertEqual(self.left("metrics_1h"), {30, 5, 4, 3, 2, 1, 0})
        self.assertEqual(self.deleted.keys(), {"keep_months", "keep_5m_months"})

    @inlineCallbacks
    def test_a_year_of_hours_goes_when_all_of_it_is_older(self) -> Steps:
        self.fill_months(60, 40, 25, 13, 0)
        yield self.maintain(months_1h=14)
        self.assertEqual(self.deleted.keys(), {"keep_1h_months"})
        left = self.left("metrics_1h")
        self.assertLessEqual({13, 0}, left)
        self.assertEqual(left & {60, 40}, set())
        self.assertEqual(self.left("metrics_5m"), {60, 40, 25, 13, 0})

    @inlineCallbacks
    def test_a_month_that_is_not_rolled_up_waits_for_the_job_and_no_longer_than_a_month(self) -> Steps:
        self.fill_months(4, 3, 2, 1, 0)
        self.rolled.sql(
            "INSERT INTO metrics_marks SELECT platziverse_bucket(date_trunc('month', now()) - ago)"
            " FROM unnest('{4 months,2 months}'::interval[]) AS ago"
        )
        yield self.maintain(months=1, months_5m=1)
        for table in "metrics", "metrics_5m":
            self.assertEqual(self.left(table), {2, 1, 0}, table)
        while self.rolled.roll_up():
            pass
        yield self.maintain(months=1, months_5m=1)
        for table in "metrics", "metrics_5m":
            self.assertEqual(self.left(table), {1, 0}, table)

    @inlineCallbacks
    def test_an_agent_stays_while_a_roll_up_of_it_does(self) -> Steps:
        self.rolled.sql(
            """INSERT INTO agents (uuid, username, name, hostname, pid, "createdAt", "updatedAt")
            SELECT uuid, 'u', 'n', 'h', 1, now(), now() - interval '20 months'
            FROM unnest('{a,b}'::text[]) AS uuid"""
        )
        self.fill_months(15, 1, 0)  # of the first one
        yield self.maintain(months=1)
        self.assertEqual(self.rolled.sql("SELECT uuid FROM agents"), [("a",)])

    @inlineCallbacks
    def test_months_without_rows_do_not_count_and_the_newest_stays(self) -> Steps:
        """Row 141: all clocks are ten years ahead."""
        self.fill_months(124, 123, 122, 121, 120)
        yield self.maintain(months_5m=2, months_1h=2)
        self.assertEqual(self.left("metrics_5m"), {122, 121, 120})
        self.assertIn(120, self.left("metrics_1h"))
