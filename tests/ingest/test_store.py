"""Faults of a real PostgreSQL: nothing lost, nothing twice, nothing acknowledged before its time."""

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.agents.model import Agent, Departure, Entry
from platziverse.ingest.batch import Batch
from platziverse.ingest.recovery import Backoff
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.slot import Slot
from platziverse.ingest.store import READY, PostgresStore
from platziverse.ingest.writer import BatchWriter
from platziverse.postgres.sqlstate import Action
from tests.crash.waiting import poll
from tests.ingest.entries import key, rejection, report
from tests.logs import observe_log
from tests.servers import MISSING, Cluster, cluster, execute, holding

Steps = Generator["Deferred[Any]", Any, None]

OTHERS = "pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"


class StoreCase(TestCase):
    """A store with its writer on a database of its own."""

    skip = MISSING or None
    timeout = 180
    slots = 2
    deadline = 2.0

    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        self.server = self.make_server()
        self.dsn = self.server.database()
        self.states: list[str] = []  # as the log has them
        observe_log(self, self.note_state)
        self.store, self.writer = yield self.make_store()

    def note_state(self, event: LogEvent) -> None:
        if event["log_namespace"] == "platziverse.store" and "state" in event:
            self.states.append(event["state"])

    def make_server(self) -> Cluster:
        return cluster()

    @inlineCallbacks
    def make_store(self, **given: Any) -> Generator["Deferred[Any]", Any, tuple[PostgresStore, BatchWriter]]:
        instance: UUID = given.pop("instance", None) or uuid4()
        store = PostgresStore(
            reactor,
            lambda: ReportStatements(instance),
            slots=self.slots,
            deadline=self.deadline,
            setup_pause=0.2,
            **given,
        )
        self.addCleanup(store.stop)
        yield store.start(self.dsn)
        return store, BatchWriter(store, reactor, KINDS)

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return execute(self.dsn, sql, parameters or None)

    def save(self, entries: Sequence[Entry]) -> "Deferred[Any]":
        return gatherResults([self.writer.save(entry) for entry in entries], consumeErrors=True)

    def reports(self, count: int, first: int = 0, agents: int = 20) -> list[Entry]:
        """Reports without a key, so that only the ticket prevents storing them twice."""
        return [report(str(number), uuid=f"a{number % agents}") for number in range(first, first + count)]

    def assert_stored(self, count: int) -> None:
        """Everything once, and in order for each agent."""
        rows = self.execute('SELECT "agentId", value::integer FROM metrics ORDER BY id')
        self.assertEqual(sorted(value for _, value in rows), list(range(count)))
        for agent in {agent for agent, _ in rows}:
            values = [value for found, value in rows if found == agent]
            self.assertEqual(values, sorted(values))
        writer = self.writer
        self.assertEqual(
            (writer.received, writer.stored, writer.duplicates, writer.pending), (count, count, 0, 0)
        )

    @inlineCallbacks
    def under_load(self, fault: Any, count: int = 2000, step: int = 50) -> Steps:
        """Save ``count`` reports, and let ``fault`` happen in the middle; everything is stored once."""
        saved = []
        for first in range(0, count, step):
            saved += [self.writer.save(entry) for entry in self.reports(step, first)]
            if first == count // 2 // step * step:
                yield fault()
            yield deferLater(reactor, 0.002)
        yield gatherResults(saved)
        self.assert_stored(count)
        self.assertEqual(self.store.state, READY)


class Data(StoreCase):
    """Row 110: one bad row never costs another."""

    @inlineCallbacks
    def test_poison_among_a_thousand_reports_is_found(self) -> Steps:
        """rows 96, 97, 100, 110"""
        good = [report(str(number), uuid=str(number % 50)) for number in range(1000)]
        poison = {
            17: report("a\0b", payload=b"nul"),
            311: report("\ud800", payload=b"surrogate"),
            312: report("1", payload=b"pid", uuid="big"),
            640: report("1", payload=b"uuid", uuid="x" * 256),
        }
        poison[312].agent = type(poison[312].agent)("big", "u", "n", "h", 2**31)
        entries = [poison.get(number, entry) for number, entry in enumerate(good)]
        yield self.save(entries)
        self.assertEqual(self.execute("SELECT count(*) FROM metrics"), [(996,)])
        kept = self.execute("SELECT payload, reason FROM rejected_messages")
        self.assertEqual({bytes(payload) for payload, _ in kept}, {b"nul", b"surrogate", b"pid", b"uuid"})
        self.assertTrue(all(reason.startswith("the database refused it: ") for _, reason in kept))
        self.assertEqual((self.writer.stored, self.writer.rejected, self.writer.pending), (996, 4, 0))
        self.assertEqual((self.store.refused, self.store.internal_errors), (4, 2))

    @inlineCallbacks
    def test_hostile_texts_are_only_texts(self) -> Steps:
        """row 97"""
        texts = ["'); drop table metrics; --", "%s %(x)s", '{"a"}', "\\", "\\'", "NULL", "🐘", " ", ""]
        yield self.save([report(text, uuid=f"u{text}") for text in texts])
        rows = self.execute('SELECT value, uuid FROM metrics JOIN agents ON agents.id = "agentId"')
        self.assertEqual(sorted(rows), sorted((text, f"u{text}") for text in texts))

    @inlineCallbacks
    def test_a_rejection_that_no_table_can_hold_is_held_until_it_can(self) -> Steps:
        """row 111"""
        self.execute("ALTER TABLE rejected_messages ADD CONSTRAINT no CHECK (payload <> 'no')")
        saved = self.writer.save(rejection("ñ", payload=b"no"))
        yield deferLater(reactor, 0.5)
        self.assertFalse(saved.called)
        self.assertTrue(self.store.state.startswith("away: "), self.store.state)
        self.execute("ALTER TABLE rejected_messages DROP CONSTRAINT no")
        yield saved
        self.assertEqual(self.execute("SELECT reason FROM rejected_messages"), [("ñ",)])
        self.assertEqual(self.store.state, READY)

    @inlineCallbacks
    def test_an_agent_deleted_by_hand_comes_back(self) -> Steps:
        yield self.save(self.reports(10, agents=2))
        self.execute("DELETE FROM agents WHERE uuid = 'a0'")
        self.assertEqual(self.execute('SELECT count(*) FROM metrics WHERE "agentId" IS NULL'), [(5,)])
        yield self.save(self.reports(10, first=10, agents=2))
        sql = 'SELECT count(*) FROM metrics LEFT JOIN agents ON agents.id = "agentId" WHERE agents.id IS NULL'
        self.assertEqual(self.execute(sql), [(5,)])
        self.assertEqual(self.execute("SELECT count(*) FROM rejected_messages"), [(0,)])
        self.assertEqual(self.writer.stored, 20)

    @inlineCallbacks
    def test_an_agent_disconnected_by_hand_connects_again(self) -> Steps:
        yield self.save([report(uuid="a")])
        self.execute("UPDATE agents SET connected = false")
        yield self.save([report(uuid="a")])
        self.assertEqual(self.execute("SELECT connected FROM agents"), [(True,)])


class TooMuchAtOnce(StoreCase):
    slots = 1
    deadline = 1.0

    @inlineCallbacks
    def test_a_batch_that_takes_longer_than_a_statement_may_is_stored_in_halves(self) -> Steps:
        """row 106"""
        self.execute(
            """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.05); RETURN new; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION slow()"""
        )
        yield self.save(self.reports(24))
        self.assert_stored(24)
        self.assertIn("away: the database canceled the statement", self.states)


class TwoDaemons(StoreCase):
    """Row 125: two writers on one database."""

    @inlineCallbacks
    def test_a_key_is_stored_once_through_either(self) -> Steps:
        _, other = yield self.make_store()
        entries = [report(str(n), uuid=f"a{n % 7}", key=key(n)) for n in range(300)]
        yield gatherResults([writer.save(e) for e in entries for writer in (self.writer, other)])
        self.assertEqual(self.execute("SELECT count(*), count(DISTINCT value) FROM metrics"), [(300, 300)])
        self.assertEqual(self.writer.stored + other.stored, 300)
        self.assertEqual(self.writer.duplicates + other.duplicates, 300)

    @inlineCallbacks
    def test_an_agent_that_moved_is_not_disconnected_by_its_old_daemon(self) -> Steps:
        """row 25"""
        _, other = yield self.make_store()
        yield self.writer.save(report(uuid="a"))
        yield other.save(report(uuid="a"))
        yield self.writer.save(Departure("a"))
        self.assertEqual(self.execute("SELECT connected FROM agents"), [(True,)])
        yield other.save(Departure("a"))
        self.assertEqual(self.execute("SELECT connected FROM agents"), [(False,)])


class Away(StoreCase):
    """The connection, the server, or the right to write is gone for a while."""

    def test_terminated_backends(self) -> "Deferred[None]":
        """rows 104, 105"""

        def fault() -> "Deferred[None]":
            self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
            return succeed(None)

        return self.under_load(fault)

    def test_a_lock_held_on_metrics(self) -> "Deferred[None]":
        """row 106: longer than a statement may take."""

        @inlineCallbacks
        def fault() -> Steps:
            with holding(self.dsn, "LOCK TABLE metrics"):
                yield deferLater(reactor, self.deadline * 1.2)

        return self.under_load(fault)

    def test_a_read_only_switch(self) -> "Deferred[None]":
        """row 107"""

        @inlineCallbacks
        def fault() -> Steps:
            name = self.execute("SELECT current_database()")[0][0]
            self.server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
            yield deferLater(reactor, 1.0)
            self.assertIn("read-only", self.store.state)
            self.server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

        return self.under_load(fault)

    def test_rights_taken_away(self) -> "Deferred[None]":
        """row 117: a matter of set-up, nobody's data is rejected for it."""

        @inlineCallbacks
        def fault() -> Steps:
            self.execute("ALTER TABLE metrics RENAME TO elsewhere")
            yield deferLater(reactor, 0.5)
            self.execute("ALTER TABLE elsewhere RENAME TO metrics")
            self.assertEqual(self.execute("SELECT count(*) FROM rejected_messages"), [(0,)])

        return self.under_load(fault)

    @inlineCallbacks
    def test_a_lock_on_one_agent_does_not_stop_the_other_shard(self) -> Steps:
        """row 106"""
        yield self.writer.save(report("0", uuid="x"))
        other = next(str(n) for n in range(100) if (hash(str(n)) - hash("x")) % self.slots)
        with holding(self.dsn, "SELECT FROM agents WHERE uuid = 'x' FOR UPDATE"):
            changed = self.writer.save(report("1", agent=Agent("x", "u", "new", "h", 2)))
            for number in range(10):
                yield deferLater(reactor, 0.01)
                yield self.writer.save(report(str(number), uuid=other))
            self.assertFalse(changed.called)
        yield changed
        self.assertEqual(self.writer.stored, 12)

    @inlineCallbacks
    def test_idle_connections_are_made_anew(self) -> Steps:
        """Row 158: quietly."""
        pids = f"SELECT pid FROM pg_stat_activity WHERE {OTHERS}"
        looked = f"{pids} AND state = 'idle' AND query LIKE '%%fsync%%'"
        while len(before := self.execute(looked)) < 2:  # a slot is connecting
            yield deferLater(reactor, 0.02)
        yield deferLater(reactor, 0.5)  # and reads the answer
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
        while len(after := self.execute(pids)) != 2 or set(after) & set(before):
            yield deferLater(reactor, 0.02)
        self.assertEqual(self.store.state, READY)
        self.assertEqual(self.states, [])


class ServerGone(StoreCase):
    """The same on a server that the test may stop."""

    def make_server(self) -> Cluster:
        server = Cluster()
        self.addCleanup(server.remove)
        return server

    def restart(self, number: int) -> Any:
        @inlineCallbacks
        def fault() -> Steps:
            self.server.stop(number)
            yield deferLater(reactor, 0.5)
            self.server.start()
            since = reactor.seconds()
            while self.store.state != READY or self.writer.pending:
                yield deferLater(reactor, 0.02)
                self.assertLess(reactor.seconds() - since, 60, "not back")

        return fault

    def test_a_fast_shutdown(self) -> "Deferred[None]":
        """row 108"""
        return self.under_load(self.restart(signal.SIGINT))

    def test_an_immediate_shutdown(self) -> "Deferred[None]":
        """row 105"""
        return self.under_load(self.restart(signal.SIGQUIT))

    def test_a_killed_server(self) -> "Deferred[None]":
        """row 105"""
        return self.under_load(self.restart(signal.SIGKILL))

    @inlineCallbacks
    def test_a_frozen_server(self) -> Steps:
        """row 106: what the frozen backends were doing happens once all the same."""
        yield self.save(self.reports(500))
        self.server.signal_all(signal.SIGSTOP)
        saved = self.save(self.reports(500, 500))
        yield deferLater(reactor, self.deadline + 1)
        self.assertFalse(saved.called)
        self.assertIn("away", self.store.state)
        self.server.signal_all(signal.SIGCONT)
        yield saved
        self.assert_stored(1000)


class Promise(StoreCase):
    """An acknowledgement is a promise about the disk."""

    @inlineCallbacks
    def test_synchronous_commit_is_switched_on_where_it_is_off(self) -> Steps:
        name = self.execute("SELECT current_database()")[0][0]
        self.server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        self.execute(
            """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.type := current_setting('synchronous_commit') || current_setting('statement_timeout');
            RETURN NEW; END $$;
            CREATE TRIGGER note BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION note()"""
        )
        _, writer = yield self.make_store()
        yield writer.save(report())
        self.assertEqual(self.execute("SELECT type FROM metrics"), [("on1800ms",)])

    @inlineCallbacks
    def test_nothing_is_left_behind_in_a_session(self) -> Steps:
        """row 116: a pooler may give the session to somebody else."""
        slot = Slot(self.store, Backoff(), ReportStatements(uuid4()))
        self.addCleanup(slot.stop)
        batch = Batch([report()], [Deferred()], lambda entries, outcome: None)
        yield slot.write(batch)
        sql = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
        ((statement, lock),) = yield slot.connection.runQuery(sql)
        self.assertEqual((statement, lock), ("0", "0"))
        ((prepared,),) = yield slot.connection.runQuery("SELECT count(*) FROM pg_prepared_statements")
        self.assertEqual(prepared, 0)


class Beginning(StoreCase):
    @inlineCallbacks
    def test_entries_saved_before_the_start_wait_for_it(self) -> Steps:
        """row 103"""
        store = PostgresStore(reactor, partial(ReportStatements, uuid4()))
        self.addCleanup(store.stop)
        saved = BatchWriter(store, reactor, KINDS).save(report("early"))
        yield deferLater(reactor, 0.1)
        self.assertEqual((saved.called, store.state), (False, "connecting"))
        yield store.start(self.dsn)
        yield saved
        self.assertEqual(self.execute("SELECT value FROM metrics"), [("early",)])

    @inlineCallbacks
    def test_a_store_that_is_stopped_before_its_start_ends(self) -> Steps:
        store = PostgresStore(reactor, partial(ReportStatements, uuid4()))
        saved = BatchWriter(store, reactor, KINDS).save(report())
        yield deferLater(reactor, 0.01)
        yield store.stop()
        yield self.assertFailure(saved, Exception)

    @inlineCallbacks
    def test_preparation_comes_first_once_and_until_it_succeeds(self) -> Steps:
        calls: list[str] = []

        def prepare(dsn: str) -> "Deferred[None]":
            calls.append(dsn)
            if len(calls) < 3:
                raise psycopg2.OperationalError("not yet")
            return succeed(None)

        _, writer = yield self.make_store(prepare=prepare)
        yield writer.save(report())
        self.assertEqual(calls, [self.dsn] * 3)

    @inlineCallbacks
    def test_a_preparation_that_is_hopeless_is_reported_once(self) -> Steps:
        """row 113"""

        def prepare(dsn: str) -> "Deferred[None]":
            raise LookupError("the tables are of a newer version")

        yield self.assertFailure(self.make_store(prepare=prepare), LookupError)
        self.assertIn("newer version", self.states[-1])


class Exhausted(StoreCase):
    """Row 108: too many connections is no reason to lose anything."""

    def make_server(self) -> Cluster:
        server = Cluster(max_connections="6", superuser_reserved_connections="0")
        self.addCleanup(server.remove)
        return server

    @inlineCallbacks
    def test_too_many_connections(self) -> Steps:
        # The connection that asks for them may be among those that the next one finds, for a moment.
        found: list[tuple[Any, ...]] = []
        while len(found) != 2:
            yield deferLater(reactor, 0.02)
            found = self.execute(f"SELECT pid FROM pg_stat_activity WHERE {OTHERS}")
        with ExitStack() as stack:
            while self.take_one(stack):
                pass
            os.kill(found[0][0], signal.SIGTERM)
            # While we wait here the reactor stands still: the place is ours before the store asks for it.
            poll(lambda: self.take_one(stack), 10, "the place of the connection that was ended")
            saved = self.save(self.reports(20))
            yield self.until(lambda: any("too many clients" in state for state in self.states))
        yield saved
        self.assert_stored(20)

    def take_one(self, stack: ExitStack) -> bool:
        """Whether there was room for one connection more."""
        try:
            stack.enter_context(holding(self.dsn, "SELECT 1"))
        except psycopg2.OperationalError:
            return False
        return True

    @inlineCallbacks
    def until(self, condition: Callable[[], bool]) -> Steps:
        """Let the reactor turn until it is so; the time limit is that of the test."""
        while not condition():
            yield deferLater(reactor, 0.01)


class OneTrouble(SynchronousTestCase):
    """Two stores on one database: the log has each trouble once."""

    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, lambda event: self.lines.append(f"{event['log_level'].name} {formatEvent(event)}"))
        self.clock = Clock()
        self.first = self.store(name="the first")
        self.second = self.store(name="the second", told=lambda: self.first.state.startswith("away"))
        self.slots = {
            store: Slot(store, Backoff(), ReportStatements(uuid4())) for store in (self.first, self.second)
        }
        self.change(self.first, self.second)
        self.lines.clear()

    def store(self, **given: Any) -> PostgresStore:
        return PostgresStore(self.clock, lambda: ReportStatements(uuid4()), **given)

    def change(self, *stores: PostgresStore, reason: str = "") -> None:
        for store in stores:
            slot = self.slots[store]
            if reason:
                store.in_trouble(slot, reason, Action.RECONNECT)
            else:
                store.well(slot)

    def test_what_the_other_has_told_is_not_told_again(self) -> None:
        self.change(self.first, self.second, reason="refused")
        self.clock.advance(3)
        self.change(self.second, reason="starting up")
        self.change(self.second, self.first)
        told = "the first is away: refused; what has to be stored is not acknowledged until it is back"
        self.assertEqual(self.lines, [f"warn {told}", "info the first is ready after 3.0 s"])
        self.assertEqual(self.second.state, READY)

    def test_trouble_that_outlasts_that_of_the_other_is_told_then(self) -> None:
        self.change(self.first, self.second, reason="refused")
        self.change(self.first)
        self.lines.clear()
        self.change(self.second, reason="refused")
        self.change(self.second, reason="refused")
        self.change(self.second, reason="permission denied")
        self.clock.advance(2)
        self.change(self.second)
        told = "the second is away: refused; what has to be stored is not acknowledged until it is back"
        still, ready = "the second is still away: permission denied", "the second is ready after 2.0 s"
        self.assertEqual(self.lines, [f"warn {told}", f"info {still}", f"info {ready}"])
