"""What every ReportStore does, in memory as in PostgreSQL."""

import datetime
from collections.abc import Callable, Generator
from typing import Any, Protocol
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from platziverse.agents.model import Arrival, Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.errors import StoreStopped
from platziverse.ingest.memory import MemoryStore
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.store import PostgresStore
from platziverse.ingest.writer import BatchWriter
from tests.ingest.entries import NOW, agent, delivery, key, rejection, report
from tests.servers import MISSING, cluster, execute, holding

Steps = Generator["Deferred[Any]", Any, None]


class Store(Protocol):
    """A store under test, with the switch that makes it fail and a view of what is in it."""

    received: int
    stored: int
    duplicates: int
    rejected: int
    pending: int

    def save(self, entry: Entry) -> "Deferred[None]": ...
    def drain(self) -> "Deferred[None]": ...
    def stop(self) -> None: ...


class ReportStoreContract:
    """Mixed into a TestCase that makes ``store`` and says what it holds."""

    store: Store
    away: Callable[[], "Deferred[None]"]
    back: Callable[[], "Deferred[None]"]
    values: Callable[[], list[str]]
    reasons: Callable[[], list[str]]
    connected: Callable[[], set[str]]
    assertEqual: Callable[..., None]
    assertFalse: Callable[..., None]
    assertFailure: Callable[..., "Deferred[Any]"]

    def save(self, *entries: Entry) -> "Deferred[list[None]]":
        return gatherResults([self.store.save(entry) for entry in entries], consumeErrors=True)

    def books(self) -> tuple[int, int, int, int, int]:
        store = self.store
        self.assertEqual(store.received, store.stored + store.duplicates + store.rejected + store.pending)
        return store.received, store.stored, store.duplicates, store.rejected, store.pending

    @inlineCallbacks
    def test_a_report_is_stored_with_all_its_metrics_in_order(self) -> Steps:
        yield self.save(report("1", "two", "3.5"), report("4"))
        self.assertEqual(self.values(), ["1", "two", "3.5", "4"])
        self.assertEqual(self.books(), (2, 2, 0, 0, 0))

    @inlineCallbacks
    def test_a_report_connects_and_a_departure_disconnects(self) -> Steps:
        yield self.save(report(uuid="a"), report(uuid="b"))
        self.assertEqual(self.connected(), {"a", "b"})
        yield self.save(Departure("a"))
        self.assertEqual(self.connected(), {"b"})

    @inlineCallbacks
    def test_an_arrival_connects_and_is_no_message(self) -> Steps:
        """Row 351."""
        yield self.save(report(uuid="a"), Departure("a"), Arrival(agent("a")), Arrival(agent("new")))
        self.assertEqual(self.connected(), {"a", "new"})
        yield self.save(Arrival(agent("a")))
        yield self.save(Departure("a"), Arrival(agent("b")), Departure("b"))
        self.assertEqual(self.connected(), {"new"})
        self.assertEqual((self.values(), self.books()), (["1"], (1, 1, 0, 0, 0)))

    @inlineCallbacks
    def test_a_report_that_is_known_connects_its_agent_all_the_same(self) -> Steps:
        """Row 353: a new process knows only from the tables that it is stored."""
        for known in {"delivery": delivery(1, dup=True)}, {"key": key(1)}:
            yield self.save(report(uuid="a", **known), Departure("a"))
            self.assertEqual(self.connected(), set())
            yield self.save(report(uuid="a", **known))
            self.assertEqual(self.connected(), {"a"})
        self.assertEqual((self.values(), self.books()), (["1", "1"], (4, 2, 2, 0, 0)))

    @inlineCallbacks
    def test_the_last_entry_of_an_agent_decides(self) -> Steps:
        yield self.save(report(uuid="a"), Departure("a"), report(uuid="b"), Departure("b"), report(uuid="b"))
        self.assertEqual(self.connected(), {"b"})
        self.assertEqual(len(self.values()), 3)

    @inlineCallbacks
    def test_a_departure_of_nobody_is_no_error(self) -> Steps:
        yield self.save(Departure("nobody"))
        self.assertEqual(self.connected(), set())

    @inlineCallbacks
    def test_a_rejection_is_kept_and_counted(self) -> Steps:
        yield self.save(rejection("first"), rejection("second"))
        self.assertEqual(self.reasons(), ["first", "second"])
        self.assertEqual(self.books(), (2, 0, 0, 2, 0))

    @inlineCallbacks
    def test_one_bad_metric_is_kept_beside_the_good_ones(self) -> Steps:
        """row 102: in the same transaction."""
        yield self.save(report("good", rejections=[rejection("$.metrics[1]")]))
        self.assertEqual((self.values(), self.reasons()), (["good"], ["$.metrics[1]"]))
        self.assertEqual(self.books(), (1, 1, 0, 0, 0))

    @inlineCallbacks
    def test_a_key_is_stored_once(self) -> Steps:
        """row 61"""
        mine = key()
        yield self.save(report("1", key=mine))
        yield self.save(report("1", key=mine, rejections=[rejection()]))
        self.assertEqual((self.values(), self.reasons()), (["1"], []))
        self.assertEqual(self.books(), (2, 1, 1, 0, 0))

    @inlineCallbacks
    def test_a_key_is_stored_once_within_a_batch(self) -> Steps:
        mine = key()
        yield self.save(report("1", key=mine), report("1", key=mine), report("2", key=key()))
        self.assertEqual(self.values(), ["1", "2"])
        self.assertEqual(self.books(), (3, 2, 1, 0, 0))

    @inlineCallbacks
    def test_without_a_key_everything_is_stored(self) -> Steps:
        yield self.save(report("1"), report("1"))
        yield self.save(report("1"))
        self.assertEqual(self.values(), ["1", "1", "1"])

    @inlineCallbacks
    def test_a_redelivery_at_qos_2_is_stored_once(self) -> Steps:
        yield self.save(report("1", delivery=delivery(1)))
        yield self.save(report("1", delivery=delivery(1, dup=True)))
        yield self.save(report("1", delivery=delivery(1, dup=True)))
        self.assertEqual(self.values(), ["1"])
        self.assertEqual(self.books(), (3, 1, 2, 0, 0))

    @inlineCallbacks
    def test_a_redelivery_within_one_batch_is_stored_once(self) -> Steps:
        yield self.save(report("1", delivery=delivery(1)), report("1", delivery=delivery(1, dup=True)))
        self.assertEqual(self.books(), (2, 1, 1, 0, 0))

    @inlineCallbacks
    def test_another_message_under_the_same_identifier_is_new(self) -> Steps:
        yield self.save(report("1", delivery=delivery(1)))
        yield self.save(report("2", delivery=delivery(1, dup=True, digest=b"e" * 16)))
        yield self.save(report("3", delivery=delivery(1, dup=False, digest=b"e" * 16)))
        yield self.save(report("3", delivery=delivery(1, dup=True, digest=b"e" * 16)))
        self.assertEqual(self.values(), ["1", "2", "3"])

    @inlineCallbacks
    def test_a_released_identifier_is_free_again(self) -> Steps:
        yield self.save(report("1", delivery=delivery(1)), report("2", delivery=delivery(2)))
        yield self.save(Release("client", 1))
        yield self.save(report("1", delivery=delivery(1, dup=True)))
        yield self.save(report("2", delivery=delivery(2, dup=True)))
        self.assertEqual(self.values(), ["1", "2", "1"])

    @inlineCallbacks
    def test_a_forgotten_session_leaves_nothing_behind(self) -> Steps:
        other = delivery(1, client_id="other")
        yield self.save(report("1", delivery=delivery(1)), report("2", delivery=other))
        yield self.save(Forget("client"))
        again = delivery(1, dup=True, client_id="other")
        yield self.save(report("3", delivery=delivery(1, dup=True)), report("4", delivery=again))
        self.assertEqual(self.values(), ["1", "2", "3"])

    @inlineCallbacks
    def test_a_release_saved_right_after_its_message_comes_after_it(self) -> Steps:
        yield self.save(*(report(uuid=str(n), delivery=delivery(n)) for n in range(1, 9)), Forget("client"))
        yield self.save(*(report(uuid=str(n), delivery=delivery(n, dup=True)) for n in range(1, 9)))
        self.assertEqual(self.books()[:3], (16, 16, 0))

    @inlineCallbacks
    def test_nothing_fires_while_the_store_is_away(self) -> Steps:
        yield self.away()
        saved = [self.store.save(entry) for entry in (report("1"), rejection(), Departure("a"))]
        yield deferLater(reactor, 0.05)
        self.assertEqual([deferred.called for deferred in saved], [False, False, False])
        self.assertEqual(self.books(), (2, 0, 0, 0, 2))
        yield self.back()
        yield gatherResults(saved)
        self.assertEqual(self.books(), (2, 1, 0, 1, 0))

    @inlineCallbacks
    def test_drain_fires_when_everything_is_committed(self) -> Steps:
        yield self.store.drain()
        yield self.away()
        saved = [self.store.save(report(str(number), uuid=str(number))) for number in range(20)]
        drained = self.store.drain()
        self.assertFalse(drained.called)
        yield self.back()
        yield drained
        self.assertEqual({deferred.called for deferred in saved}, {True})

    @inlineCallbacks
    def test_after_stop_nothing_is_accepted(self) -> Steps:
        self.store.stop()
        yield self.assertFailure(self.store.save(report()), StoreStopped)
        self.assertEqual(self.values(), [])


class InMemory(ReportStoreContract, TestCase):
    """Commits when the test says so."""

    def setUp(self) -> None:
        self.store = self.memory = MemoryStore()

    def away(self) -> "Deferred[None]":
        return maybeDeferred(self.memory.hold)

    def back(self) -> "Deferred[None]":
        return maybeDeferred(self.memory.resume)

    def values(self) -> list[str]:
        return [metric.value for saved in self.memory.reports for metric in saved.metrics]

    def reasons(self) -> list[str]:
        return [saved.reason for saved in self.memory.rejections]

    def connected(self) -> set[str]:
        return self.memory.connected


class InPostgreSQL(ReportStoreContract, TestCase):
    """Away means that somebody else has locked a table."""

    skip = MISSING or None
    timeout = 30

    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        self.dsn = cluster().database()
        instance = uuid4()
        self.postgres = PostgresStore(reactor, lambda: ReportStatements(instance))
        self.store = BatchWriter(self.postgres, reactor, KINDS)
        self._holding: Any = None
        self.addCleanup(self.postgres.stop)
        yield self.postgres.start(self.dsn)

    def away(self) -> "Deferred[None]":
        self._holding = holding(self.dsn, "LOCK TABLE ingest_batches")
        self._holding.__enter__()
        self.addCleanup(self.release)
        return maybeDeferred(lambda: None)

    def release(self) -> None:
        if self._holding is not None:
            self._holding.__exit__(None, None, None)
            self._holding = None

    def back(self) -> "Deferred[None]":
        return maybeDeferred(self.release)

    def query(self, sql: str) -> list[Any]:
        return [row[0] for row in execute(self.dsn, sql)]

    def values(self) -> list[str]:
        return self.query("SELECT value FROM metrics ORDER BY id")

    def reasons(self) -> list[str]:
        return self.query("SELECT reason FROM rejected_messages ORDER BY id")

    def connected(self) -> set[str]:
        return set(self.query("SELECT uuid FROM agents WHERE connected"))

    @inlineCallbacks
    def test_the_rows_say_when_and_by_whom(self) -> Steps:
        measured = NOW - 60.5
        yield self.save(report("1", "on", uuid="u", measured=measured, measured_adjusted=True))
        sql = """SELECT uuid, username, name, hostname, pid, connected, type, value, number,
            extract(epoch FROM metrics."createdAt"), extract(epoch FROM metrics."updatedAt"),
            extract(epoch FROM "timestamp"), "timestampAdjusted"
            FROM metrics JOIN agents ON agents.id = "agentId" ORDER BY metrics.id"""
        who = ("u", "platzi", "platzi", "here", 10, True)
        times = (measured, NOW, measured, True)
        rows = [
            tuple(float(x) if hasattr(x, "as_tuple") else x for x in row) for row in execute(self.dsn, sql)
        ]
        self.assertEqual(rows, [(*who, "m", "1", 1.0, *times), (*who, "m", "on", None, *times)])

    @inlineCallbacks
    def test_a_message_of_any_time_finds_a_partition(self) -> Steps:
        """row 99"""
        for arrived in 0.0, NOW, NOW + 400 * 86_400:
            yield self.save(report(str(arrived), arrived=arrived, key=key(at=arrived)))
        years = self.query('SELECT "createdAt" FROM metrics ORDER BY "createdAt"')
        self.assertEqual([when.astimezone(datetime.timezone.utc).year for when in years], [1970, 2026, 2027])
