"""Marks and roll-ups: the functions of the schema, on what batches leave."""

import threading
from contextlib import closing
from typing import Any

import psycopg2
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.rolled import Rolled
from tests.servers import MISSING, cluster, execute, holding

DAY = 86_400.0


class RolledCase(SynchronousTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.rolled = Rolled(cluster().database())


class Marks(RolledCase):
    def marks(self) -> list[tuple[Any, ...]]:
        sql = 'SELECT %s - extract(epoch FROM bucket)::float8, "agentId" FROM metrics_marks ORDER BY 1'
        return self.rolled.sql(sql, self.rolled.open)

    def test_a_batch_marks_the_buckets_that_it_touches_once(self) -> None:
        for _ in range(2):
            self.rolled.measure("1", "2", ago=1)
        self.assertEqual(self.marks(), [(300.0, None)] * 2)

    def test_what_is_late_is_marked_for_its_agent(self) -> None:
        """Row 451."""
        for ago in 1.0, 700.0, DAY:
            self.rolled.measure("1", ago=ago, uuid="b")
        ((number,),) = self.rolled.sql("SELECT id FROM agents")
        self.assertEqual(self.marks(), [(300.0, None), (900.0, number), (DAY, number)])

    def test_a_time_at_the_very_end_of_a_bucket_marks_the_one_that_it_is_stored_in(self) -> None:
        """PostgreSQL rounds to microseconds."""
        self.rolled.measure("1", ago=0.000_000_2)
        self.rolled.measure("1", ago=0.000_001)
        self.assertEqual(self.marks(), [(0.0, None), (300.0, None)])
        self.assertEqual(self.rolled.roll_up(), 1)
        self.assertEqual(self.rolled.buckets(), [(1, 1.0, 1.0, 1.0, 1.0)])


class RollUps(RolledCase):
    def test_a_bucket_has_what_the_metrics_say(self) -> None:
        for value, ago in ("1", 3), ("4", 2), ("-2.5", 1), ("a text", 1), ("7", 301):
            self.rolled.measure(value, ago=ago)
        self.assertEqual(self.rolled.roll_up(), 2)
        expected = [(1, 7.0, 7.0, 7.0, 7.0), (3, -2.5, 4.0, 2.5, -2.5)]
        self.assertEqual(self.rolled.buckets(), expected)
        self.assertEqual(self.rolled.wrong(), [])

    def test_an_hour_is_made_of_its_buckets(self) -> None:
        for ago in range(100, 9_000, 100):
            self.rolled.measure(str(ago), ago=ago)
        while self.rolled.roll_up(5):
            pass
        self.assertEqual(self.rolled.marks(), 0)
        self.assertGreaterEqual(len(self.rolled.buckets("metrics_1h")), 3)
        self.assertEqual(self.rolled.wrong(), [])

    def test_the_newest_marks_are_taken_first_and_no_more_than_asked(self) -> None:
        for ago in 1, 301, 601:
            self.rolled.measure("1", ago=ago)
        self.assertEqual(self.rolled.roll_up(1), 1)
        self.assertEqual(self.rolled.marks(), 2)
        self.assertEqual(self.rolled.buckets(), [(1, 1.0, 1.0, 1.0, 1.0)])
        ((newest,),) = self.rolled.sql("SELECT extract(epoch FROM bucket)::float8 FROM metrics_5m")
        self.assertEqual(newest, self.rolled.open - 300)

    def test_a_bucket_that_is_open_is_left_alone(self) -> None:
        self.rolled.measure("1", ago=-1)
        self.assertEqual((self.rolled.roll_up(), self.rolled.marks()), (0, 1))

    def test_a_late_reading_is_added_and_the_other_agents_are_not_read(self) -> None:
        """Row 451."""
        for uuid in "a", "b":
            for kind in "x", "y", "z":
                self.rolled.measure("1", ago=DAY, uuid=uuid, kind=kind)
        self.rolled.roll_up()
        # Nobody has marked this one, so nobody looks at it.
        self.rolled.sql(
            "UPDATE metrics SET number = 9 WHERE \"agentId\" = (SELECT id FROM agents WHERE uuid = 'b')"
        )
        self.rolled.measure("5", ago=DAY, kind="y")
        self.rolled.roll_up()
        one = (1, 1.0, 1.0, 1.0, 1.0)
        expected = [one, (2, 1.0, 5.0, 6.0, 5.0), one, one, one, one]
        self.assertEqual(self.rolled.buckets(), expected)
        self.assertEqual(self.rolled.buckets("metrics_1h"), expected)

    def test_many_late_agents_of_one_bucket_are_all_of_them(self) -> None:
        for number in range(60):
            self.rolled.measure(str(number), ago=DAY, uuid=f"agent-{number}")
        self.assertEqual(self.rolled.roll_up(), 1)
        self.assertEqual(len(self.rolled.buckets()), 60)
        self.assertEqual(self.rolled.wrong(), [])

    def test_numbers_at_the_end_of_their_range_end_no_run(self) -> None:
        """Row 452."""
        self.rolled.measure("1.7e308", "1.7e308", "1.7e308", "-5e-324")
        self.rolled.measure("1", uuid="b")
        self.assertEqual(self.rolled.roll_up(), 1)
        (large, other) = self.rolled.buckets()
        self.assertEqual(large, (4, -5e-324, 1.7e308, 3e290, -5e-324))
        self.assertEqual(other, (1, 1.0, 1.0, 1.0, 1.0))

    def test_what_a_dropped_month_has_left_is_not_overwritten(self) -> None:
        """Row 453: a rejected message of that month is replayed."""
        for value in "1", "2":
            self.rolled.measure(value, ago=5)
        self.rolled.roll_up()
        self.rolled.sql("DELETE FROM metrics")
        self.rolled.measure("9", ago=5)
        self.assertEqual(self.rolled.roll_up(), 1)
        for table in "metrics_5m", "metrics_1h":
            self.assertEqual(self.rolled.buckets(table), [(2, 1.0, 2.0, 3.0, 2.0)])

    def test_of_two_that_roll_up_one_works(self) -> None:
        """Row 454."""
        self.rolled.measure("1")
        with holding(self.rolled.dsn, "SELECT platziverse_roll_up(now(), 1)"):
            self.rolled.measure("2")
            self.assertEqual(self.rolled.roll_up(), 0)
        self.assertEqual(self.rolled.roll_up(), 1)
        self.assertEqual(self.rolled.wrong(), [])

    def test_a_batch_that_commits_while_the_job_reads_leaves_its_mark(self) -> None:
        """Row 451."""
        self.rolled.measure("1")
        with closing(psycopg2.connect(self.rolled.dsn)) as job, job.cursor() as cursor:
            cursor.execute("SELECT platziverse_roll_up(now(), 1)")
            self.rolled.measure("2")
            job.commit()
        self.assertEqual((self.rolled.marks(), len(self.rolled.wrong())), (1, 4))
        self.assertEqual((self.rolled.roll_up(), self.rolled.wrong()), (1, []))

    def test_the_buckets_of_an_agent_that_is_deleted_go_with_it(self) -> None:
        for uuid in "a", "b":
            self.rolled.measure("1", uuid=uuid)
        self.rolled.roll_up()
        self.rolled.sql("DELETE FROM agents WHERE uuid = 'a'")
        for table in "metrics_5m", "metrics_1h":
            self.assertEqual(len(self.rolled.buckets(table)), 1)
        self.rolled.measure("1", uuid="b")
        self.rolled.roll_up()
        self.assertEqual(self.rolled.wrong(), [])

    def test_an_agent_that_is_deleted_while_the_job_runs_leaves_nothing(self) -> None:
        """Row 456."""
        self.rolled.measure("1")
        with closing(psycopg2.connect(self.rolled.dsn)) as job, job.cursor() as cursor:
            cursor.execute("SELECT platziverse_roll_up(now(), 1)")
            deletion = threading.Thread(target=execute, args=(self.rolled.dsn, "DELETE FROM agents"))
            deletion.start()
            deletion.join(0.2)
            self.assertTrue(deletion.is_alive())  # it waits for the job
            job.commit()
            deletion.join(10)
        self.assertEqual(self.rolled.buckets() + self.rolled.buckets("metrics_1h"), [])

    def test_everything_is_marked_at_an_upgrade(self) -> None:
        for ago in 1.0, 301.0, DAY:
            self.rolled.measure("1", ago=ago)
        self.rolled.sql("TRUNCATE metrics_marks")
        self.rolled.sql("SELECT platziverse_mark_all()")
        while self.rolled.roll_up():
            pass
        self.assertEqual(self.rolled.wrong(), [])
