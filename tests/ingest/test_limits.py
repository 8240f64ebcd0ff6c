"""Each limit of ``[ingest]`` that is met is counted, and said with the name of its setting."""

from typing import Any, Final
from uuid import UUID, uuid4

from psycopg2.extensions import QueryCanceledError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.ingest.limits import WINDOW, LimitsMet
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.store import PostgresStore
from platziverse.ingest.writer import BatchWriter
from platziverse.postgres.connection import DeadlinePassed
from tests.ingest.entries import rejection, report
from tests.ingest.test_slot import SlotCase
from tests.ingest.test_writer import FakeStore
from tests.logs import observe_log

OFTEN: Final = 50


class IngestLimits(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[Any] = []
        observe_log(self, self.events.append)
        self.clock = Clock()
        self.met = LimitsMet(self.clock.seconds)

    def lines(self, setting: str) -> list[Any]:
        return [event for event in self.events if f"(ingest.{setting})" in formatEvent(event)]

    def check(self, setting: str, count: int, level: LogLevel) -> None:
        """It was counted, and one line said it."""
        self.assertEqual(self.met.counts[setting], count)
        (line,) = self.lines(setting)
        self.assertEqual(line["log_level"], level)

    def test_a_line_comes_once_in_a_window(self) -> None:
        for _ in range(OFTEN):
            self.met.note("batch", "it is full")
        self.check("batch", OFTEN, LogLevel.debug)
        self.clock.advance(WINDOW)
        self.met.note("batch", "it is full")
        self.assertEqual(
            [formatEvent(line) for line in self.lines("batch")],
            [f"it is full (ingest.batch); so far: {count}" for count in (1, OFTEN + 1)],
        )

    def test_full_batches_and_those_that_wait(self) -> None:
        store = FakeStore(1)
        writer = BatchWriter(store, self.clock, KINDS, max_entries=10, met=self.met)
        for _ in range(25):
            writer.save(report())
        self.clock.advance(0)
        while store.writing:
            store.commit_all()
            self.clock.advance(0)
        self.check("batch", 2, LogLevel.debug)
        self.check("slots", 2, LogLevel.debug)
        self.assertEqual(writer.limits_met, {"batch": 2, "slots": 2})

    def test_payloads_that_are_kept_in_part(self) -> None:
        """Counted when they are committed, however often that is tried."""
        statements = ReportStatements(uuid4(), kept_bytes=10, met=self.met)
        entries = [rejection(payload=b"x" * size) for size in (10, 11, 12)]
        for _ in range(2):
            statement = statements.build(entries, str(uuid4()), 1)
        statements.committed(statement, None)
        self.check("keep_rejected_payload", 2, LogLevel.info)

    def test_statements_that_are_given_up(self) -> None:
        store = PostgresStore(MemoryReactorClock(), lambda: ReportStatements(UUID(int=1)), met=self.met)
        for _ in range(OFTEN):
            store.gave_up()
        self.check("statement_deadline", OFTEN, LogLevel.warn)


class GivenUp(SlotCase):
    def test_a_statement_without_an_answer_in_time_is_given_up(self) -> None:
        """Rows 112 and 113: by us, or by the server."""
        _, (saved,) = self.write(report())
        for error in DeadlinePassed("late"), QueryCanceledError("canceled"):
            self.connection.fails(error)
            self.advance(0.1)
        self.assertEqual(self.database.given_up, 2)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)
