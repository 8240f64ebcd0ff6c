"""A daemon that was taken for dead: what it has of QoS 2 is its heir's, and everything else is stored."""

from collections.abc import Generator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.agents.model import Arrival, Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.errors import Fenced
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.store import PostgresStore
from platziverse.ingest.writer import BatchWriter
from platziverse.postgres.lease import Lease
from tests.ingest.entries import agent, delivery, rejection, report
from tests.ingest.test_store import Steps, StoreCase
from tests.servers import execute, holding, lone_lease

FENCE = "UPDATE mqtt_daemons SET incarnation = incarnation + 1 WHERE id = 1"


class FencedCase(StoreCase):
    """Two daemons of one set, each with a lease; the first is taken for dead when the test says so."""

    bus = "bus"

    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        self.leases: list[Lease] = []
        yield super().setUp()
        _, self.heir = yield self.make_store()

    @inlineCallbacks
    def make_store(self, **given: Any) -> Generator["Deferred[Any]", Any, tuple[PostgresStore, BatchWriter]]:
        lease = lone_lease(reactor, bus=self.bus, fenced=lambda: self.writer.fenced() if self.bus else None)
        self.leases.append(lease)
        self.addCleanup(lease.stop)
        holding = (lambda: lease.holding) if self.bus else None
        store = PostgresStore(
            reactor,
            lambda: ReportStatements(uuid4(), holding=holding),
            slots=self.slots,
            deadline=self.deadline,
            setup_pause=0.2,
            prepare=lease.start,
        )
        self.addCleanup(store.stop)
        yield store.start(self.dsn)
        return store, BatchWriter(store, reactor, KINDS)

    def values(self) -> list[str]:
        return [value for (value,) in self.execute("SELECT value FROM metrics ORDER BY value")]

    def identifiers(self) -> list[tuple[str, int]]:
        return self.execute('SELECT "clientId", "packetId" FROM qos2_messages ORDER BY 1, 2')

    def books(self) -> tuple[int, ...]:
        writer = self.writer
        books = writer.stored, writer.duplicates, writer.rejected, writer.given_up, writer.pending
        self.assertEqual(writer.received, sum(books))
        return (*books, writer.waiting)


class WithABus(FencedCase):
    @inlineCallbacks
    def test_what_the_heir_has_stored_is_not_stored_once_more(self) -> Steps:
        """Row 565: the daemon wakes up, and does not know yet that it was taken for dead."""
        self.execute(FENCE)
        yield self.heir.save(report("qos 2", delivery=delivery(1, dup=True)))
        others: list[Entry] = [report("qos 1"), rejection(), Arrival(agent("b")), Departure("c")]
        given_up: list[Entry] = [report("qos 2", uuid="a", delivery=delivery(1)), Release("client", 2)]
        saved = [self.writer.save(entry) for entry in (*given_up[:1], *others, *given_up[1:])]
        yield deferLater(
            reactor, 0.3
        )  # a batch was refused; whoever waits for it is told when the lease knows
        for left in saved[0], saved[-1]:
            self.assertNoResult(left)
        yield self.leases[0].beat()
        yield self.writer.drain()
        for stored in saved[1:-1]:
            self.successResultOf(stored)
        for left in saved[0], saved[-1]:
            self.failureResultOf(left, Fenced)
        self.assertEqual((self.values(), self.identifiers()), (["qos 1", "qos 2"], [("client", 1)]))
        self.assertEqual(self.books(), (1, 0, 1, 1, 0, 0))

    @inlineCallbacks
    def test_what_waits_when_it_finds_out_is_not_stored_under_its_next_incarnation(self) -> Steps:
        """Row 566: nor what was tried before, and is tried again."""
        with holding(self.dsn, "LOCK TABLE qos2_messages IN SHARE MODE"):
            saved = [
                self.writer.save(
                    report(str(number), uuid="a", delivery=delivery(1, digest=b"%016d" % number))
                )
                for number in range(5)
            ]
            late = self.writer.save(report("qos 1", uuid="a"))
            forgotten = self.writer.save(Forget("client"))
            yield deferLater(reactor, 0.3)  # the first is under way, the others touch the same
            self.execute(FENCE)
            yield self.leases[0].beat()
        yield self.writer.drain()
        for left in (*saved, forgotten):
            self.failureResultOf(left, Fenced)
        self.successResultOf(late)
        self.assertEqual((self.values(), self.identifiers()), (["qos 1"], []))
        self.assertEqual(self.books(), (1, 0, 0, 5, 0, 0))
        yield self.writer.save(report("again", uuid="a", delivery=delivery(1)))
        self.assertEqual(self.values(), ["again", "qos 1"])

    @inlineCallbacks
    def test_what_was_committed_before_the_fence_is_acknowledged(self) -> Steps:
        saved = self.writer.save(report("1", delivery=delivery(1)))
        yield saved
        self.execute(FENCE)
        yield self.leases[0].beat()
        self.assertEqual((self.values(), self.books()), (["1"], (1, 0, 0, 0, 0, 0)))

    def test_it_waits_for_no_sign_of_life_and_no_batch_of_sessions(self) -> None:
        statements = ReportStatements(uuid4(), holding=lambda: self.leases[0].holding)
        statement = statements.build([report("1", delivery=delivery(1))], str(uuid4()), 1)
        beat = 'UPDATE mqtt_daemons SET batch = batch + 1, "seenAt" = now() WHERE id = 1'
        with holding(self.dsn, beat):
            execute(self.dsn, "SET lock_timeout = 1000;" + statement.sql, statement.parameters)
        with closing(psycopg2.connect(self.dsn)) as unfinished:
            statement = statements.build([report("2", delivery=delivery(2))], str(uuid4()), 1)
            unfinished.cursor().execute(statement.sql, statement.parameters)
            execute(self.dsn, "SET lock_timeout = 1000;" + beat)
            unfinished.commit()
        self.assertEqual(self.values(), ["1", "2"])


class WithoutABus(FencedCase):
    bus = ""

    @inlineCallbacks
    def test_the_daemon_goes_on_under_its_next_incarnation(self) -> Steps:
        self.execute(FENCE)
        yield self.writer.save(report("1", delivery=delivery(1)))
        yield self.leases[0].beat()
        yield self.writer.save(Release("client", 1))
        self.assertEqual((self.values(), self.identifiers()), (["1"], []))
        self.assertEqual(self.books(), (1, 0, 0, 0, 0, 0))
