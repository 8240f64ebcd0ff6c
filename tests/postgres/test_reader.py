"""What the API reads, from a real server."""

import time
from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.postgres.migrate import migrate
from platziverse.postgres.reader import MAX_WAITING, Reader
from tests.postgres.test_migrate import DatabaseCase
from tests.servers import holding

Steps = Generator["Deferred[Any]", Any, None]

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)

AGENT = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
    VALUES (%s, %s, 'n', 'h', 1, %s, %s, %s) RETURNING id"""
METRIC = """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId")
    SELECT %s, n::text, %s::timestamptz + n * interval '1 second', now(), %s FROM generate_series(0, %s) n"""


class Away(Exception):
    """The database is away."""


class ReaderCase(DatabaseCase):
    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        super().setUp()
        yield migrate(self.dsn, reactor)
        self.reader = self.opened()
        self.reader.dsn = self.dsn

    def opened(self, **given: Any) -> Reader:
        reader = Reader(reactor, Away, **given)
        self.addCleanup(reader.stop)
        return reader

    def agent(self, uuid: str, username: str = "ann", connected: bool = True) -> int:
        [(number,)] = self.execute(AGENT, uuid, username, connected, NOON, NOON)
        return int(number)

    def metrics(self, agent: int, type: str, last: int, since: datetime = NOON) -> None:
        self.execute(METRIC + " RETURNING 1", type, since, agent, last)


class ReaderTests(ReaderCase):
    @inlineCallbacks
    def test_connected_agents_are_read_as_the_original_shows_them(self) -> Steps:
        number = self.agent("a")
        self.agent("b", "bob")
        self.agent("gone", connected=False)
        one, two = yield self.reader.agents(None)
        self.assertEqual(
            one,
            {
                "id": number,
                "uuid": "a",
                "username": "ann",
                "name": "n",
                "hostname": "h",
                "pid": 1,
                "connected": True,
                "createdAt": "2026-11-24T12:00:00.000Z",
                "updatedAt": "2026-11-24T12:00:00.000Z",
            },
        )
        self.assertEqual((yield self.reader.agents("bob")), [two])

    @inlineCallbacks
    def test_one_agent_is_found_connected_or_not(self) -> Steps:
        self.agent("gone", connected=False)
        self.assertEqual((yield self.reader.agent("gone"))["connected"], False)
        self.assertIsNone((yield self.reader.agent("nobody")))

    @inlineCallbacks
    def test_types_are_those_of_this_agent_each_once(self) -> Steps:
        a, b = self.agent("a"), self.agent("b")
        for type in ("temp", "memory", "Zeta", "ñ"):
            self.metrics(a, type, 3)
        self.metrics(a, "temp", 3, NOON - timedelta(days=90))
        self.metrics(b, "other", 3)
        rows = yield self.reader.types("a")
        self.assertEqual(sorted(row["type"] for row in rows), ["Zeta", "memory", "temp", "ñ"])
        self.assertEqual((yield self.reader.types("nobody")), [])

    @inlineCallbacks
    def test_the_newest_metrics_come_first(self) -> Steps:
        agent = self.agent("a")
        self.metrics(agent, "temp", 49)
        self.metrics(agent, "other", 5, NOON + timedelta(hours=1))
        rows = yield self.reader.metrics("a", "temp", None, None, 20)
        self.assertEqual([row["value"] for row in rows], [str(49 - n) for n in range(20)])
        self.assertEqual(rows[0]["createdAt"], "2026-11-24T12:00:49.000Z")
        self.assertEqual(list(rows[0]), ["id", "type", "value", "createdAt"])

    @inlineCallbacks
    def test_a_window_begins_with_its_first_moment_and_ends_before_its_last(self) -> Steps:
        self.metrics(self.agent("a"), "temp", 49)
        since, until = NOON + timedelta(seconds=10), NOON + timedelta(seconds=13)
        rows = yield self.reader.metrics("a", "temp", since, until, 20)
        self.assertEqual([row["value"] for row in rows], ["12", "11", "10"])
        ages = (
            datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
            datetime.max.replace(tzinfo=timezone.utc),
        )
        self.assertEqual(len((yield self.reader.metrics("a", "temp", *ages, 1000))), 50)

    @inlineCallbacks
    def test_text_is_never_sql(self) -> Steps:
        """row 97"""
        hostile = "'); drop table metrics; -- %s %(x)s \\"
        self.metrics(self.agent(hostile), hostile, 0)
        [row] = yield self.reader.metrics(hostile, hostile, None, None, 5)
        self.assertEqual(row["type"], hostile)
        self.assertEqual((yield self.reader.types(hostile)), [{"type": hostile}])

    @inlineCallbacks
    def test_questions_asked_together_are_all_answered(self) -> Steps:
        self.agent("a")
        answers = yield gatherResults([self.reader.agent("a") for _ in range(50)])
        self.assertEqual({answer["uuid"] for answer in answers}, {"a"})
        [(count,)] = self.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'platziverse'",
            self.name,
        )
        self.assertLessEqual(count, 2)


class TroubleTests(ReaderCase):
    @inlineCallbacks
    def test_before_there_is_a_database_it_is_away(self) -> Steps:
        """row 103"""
        yield self.assertFailure(self.opened().agents(None), Away)

    @inlineCallbacks
    def test_a_server_that_is_not_there_is_away(self) -> Steps:
        """row 104"""
        reader = self.opened()
        reader.dsn = "host=/nonexistent dbname=x"
        yield self.assertFailure(reader.agents(None), Away)

    @inlineCallbacks
    def test_a_lost_connection_costs_one_question(self) -> Steps:
        """row 104"""
        self.agent("a")
        yield self.reader.agent("a")
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            self.name,
        )
        yield deferLater(reactor, 0.1)
        self.assertEqual((yield self.reader.agent("a"))["uuid"], "a")

    @inlineCallbacks
    def test_a_question_that_takes_too_long_is_given_up(self) -> Steps:
        """row 106: by the server, and by us if that is frozen."""
        reader = self.opened(connections=1, deadline=0.5)
        reader.dsn = self.dsn
        began = time.monotonic()
        with holding(self.dsn, "LOCK TABLE agents"):
            yield self.assertFailure(reader.agents(None), Away)
        self.assertLess(time.monotonic() - began, 60)
        self.assertEqual((yield reader.agents(None)), [])

    @inlineCallbacks
    def test_too_many_questions_are_turned_away(self) -> Steps:
        reader = self.opened(connections=1)
        reader.dsn = self.dsn
        first = [reader.agents(None) for _ in range(MAX_WAITING + 1)]
        yield self.assertFailure(reader.agents(None), Away)
        yield gatherResults(first)

    @inlineCallbacks
    def test_what_is_under_way_ends_with_the_reader(self) -> Steps:
        with holding(self.dsn, "LOCK TABLE agents"):
            question = self.reader.agents(None)
            yield deferLater(reactor, 0.2)
            self.reader.stop()
            yield self.assertFailure(question, Away)
        yield self.assertFailure(self.reader.agents(None), Away)
