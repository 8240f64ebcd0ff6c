"""Faults of a real PostgreSQL: no record is lost or written twice, or acknowledged before its time."""

import signal
from collections.abc import Generator, Sequence
from typing import Any
from uuid import UUID, uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.logger import LogEvent
from twisted.trial.unittest import TestCase

from platziverse.broker.records import (
    Absent,
    Acknowledged,
    Begun,
    Cleared,
    Ended,
    Kept,
    Queued,
    Received,
    SessionRecord,
    Subscribed,
    WillLeft,
)
from platziverse.durable.reading import PART_BYTES
from platziverse.durable.statements import HEAD_AFTER
from platziverse.durable.store import PostgresSessionStore
from platziverse.durable.text import OF_ONE
from platziverse.ingest.errors import EntryRefused, StoreStopped
from platziverse.postgres.lease import Lease
from tests.logs import observe_log
from tests.servers import MISSING, Cluster, cluster, execute, holding, lone_lease

Steps = Generator["Deferred[Any]", Any, None]

FAR = 2**62
OTHERS = "pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
GUARD = """CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{}'; END $$;
    CREATE TRIGGER guard BEFORE INSERT ON mqtt_queue FOR EACH ROW EXECUTE FUNCTION guard()"""
UNGUARD = "DROP TRIGGER guard ON mqtt_queue; DROP FUNCTION guard()"


class SessionStoreCase(TestCase):
    """A store on a database of its own, with a Session."""

    skip = MISSING or None
    timeout = 60
    deadline = 2.0
    bus = ""

    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        self.server = self.make_server()
        self.dsn = self.server.database()
        self.instance = uuid4()
        self.said: list[str] = []
        observe_log(self, self.note)
        self.lease, self.store = yield self.make_store()
        begun = Begun("c", None, 0)
        yield self.store.save(begun)
        self.session = begun.session

    def make_server(self) -> Cluster:
        return cluster()

    def note(self, event: LogEvent) -> None:
        if event["log_namespace"] == "platziverse.store":
            self.said.append(event["log_format"].format_map(event))

    @inlineCallbacks
    def make_store(
        self, instance: UUID | None = None
    ) -> Generator["Deferred[Any]", Any, tuple[Lease, PostgresSessionStore]]:
        lease = lone_lease(reactor, instance or self.instance, self.bus)
        self.addCleanup(lease.stop)
        store = PostgresSessionStore(
            reactor, lambda: lease.holding, lease.start, deadline=self.deadline, setup_pause=0.2
        )
        self.addCleanup(store.stop)
        yield store.start(self.dsn)
        return lease, store

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return execute(self.dsn, sql, parameters or None)

    def save(self, records: Sequence[SessionRecord]) -> "Deferred[Any]":
        return gatherResults([self.store.save(record) for record in records], consumeErrors=True)

    def queued(self, position: int, payload: bytes = b"p", *others: int) -> Queued:
        """A message for the Session, and for ``others``."""
        rows = dict.fromkeys((self.session, *others), (position, 1))
        return Queued(f"t/{position}", payload, 0.0, rows)

    def positions(self) -> list[int]:
        sql = "SELECT seq FROM mqtt_queue WHERE session = %s ORDER BY seq"
        return [seq for (seq,) in self.execute(sql, self.session)]

    @inlineCallbacks
    def under_load(self, fault: Any, count: int = 1500, step: int = 50) -> Steps:
        """Save messages, delete every third, and let ``fault`` happen in the middle."""
        saved = []
        for first in range(1, count + 1, step):
            batch = range(first, first + step)
            saved += [self.store.save(self.queued(n, b"x" * n, *([n + 10_000] * (n % 2)))) for n in batch]
            if first == 1 + count // 2 // step * step:
                yield fault()
            yield deferLater(reactor, 0.002)
        yield gatherResults(saved)
        yield self.save([Acknowledged(self.session, n) for n in range(1, count + 1, 3)])
        self.assertEqual(self.positions(), [n for n in range(1, count + 1) if n % 3 != 1])
        page = yield self.store.page(self.session, 0, FAR, 100)
        self.assertEqual([m.payload for m in page], [b"x" * m.position for m in page])
        self.assertTrue(self.store.available)


class Away(SessionStoreCase):
    def test_terminated_backends(self) -> "Deferred[None]":
        """Rows 104 and 105."""

        def fault() -> "Deferred[None]":
            self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
            return succeed(None)

        return self.under_load(fault)

    def test_a_lock_held_on_the_queue_for_longer_than_a_statement_may_take(self) -> "Deferred[None]":
        """Row 106."""

        @inlineCallbacks
        def fault() -> Steps:
            with holding(self.dsn, "LOCK TABLE mqtt_queue"):
                yield deferLater(reactor, self.deadline * 1.2)

        return self.under_load(fault)

    def test_a_full_disk(self) -> "Deferred[None]":
        """SQLSTATE 53100, as the server says it."""

        @inlineCallbacks
        def fault() -> Steps:
            self.execute(GUARD.format("53100"))
            yield deferLater(reactor, 0.5)
            self.assertIn("not today", self.store.connections.state)
            self.execute(UNGUARD)

        return self.under_load(fault)

    def test_maintenance_meanwhile(self) -> "Deferred[None]":
        """Messages that look old, as the clock of their daemon was wrong, are still waited for."""

        def fault() -> "Deferred[None]":
            for _ in range(20):
                self.execute("SELECT platziverse_forget_sessions(5000)")
            return succeed(None)

        return self.under_load(fault)

    @inlineCallbacks
    def test_reads_are_answered_when_the_connection_is_lost(self) -> Steps:
        yield self.save([self.queued(1), Kept("t", b"", 0, "c", None)])
        yield self.store.page(self.session, 0, FAR, 1)
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
        pages = yield gatherResults([self.store.page(self.session, 0, FAR, 1) for _ in range(200)])
        self.assertEqual({page[0].position for page in pages}, {1})

    @inlineCallbacks
    def test_reads_wait_for_their_tables_until_the_store_is_stopped(self) -> Steps:
        self.execute("ALTER TABLE mqtt_retained RENAME TO elsewhere")
        one = self.store.retained("", 1)
        yield deferLater(reactor, 0.3)
        self.execute("ALTER TABLE elsewhere RENAME TO mqtt_retained")
        self.assertEqual((yield one), [])
        self.execute("ALTER TABLE mqtt_retained RENAME TO elsewhere")
        two = self.store.retained("", 1)
        yield deferLater(reactor, 0.3)
        self.store.reader.stop()
        yield self.assertFailure(two, StoreStopped)


class ServerGone(SessionStoreCase):
    """On a server that the test may stop."""

    def make_server(self) -> Cluster:
        server = Cluster()
        self.addCleanup(server.remove)
        return server

    def test_a_killed_server(self) -> "Deferred[None]":
        """Row 105."""

        @inlineCallbacks
        def fault() -> Steps:
            self.server.stop(signal.SIGKILL)
            yield deferLater(reactor, 0.3)
            self.server.start()

        return self.under_load(fault)

    @inlineCallbacks
    def test_sessions_that_began_in_a_frozen_server_have_their_numbers(self) -> Steps:
        """Row 106: also when the answer was lost."""
        self.server.signal_all(signal.SIGSTOP)
        begun = [Begun(f"client {n}", None, 0) for n in range(20)]
        saved = self.save(begun)
        yield deferLater(reactor, self.deadline + 1)
        self.assertFalse(saved.called)
        self.server.signal_all(signal.SIGCONT)
        yield saved
        rows = self.execute('SELECT id, "clientId" FROM mqtt_sessions WHERE id <> %s', self.session)
        self.assertEqual(sorted(rows), sorted((one.session, one.client_id) for one in begun))


class NeverThere(TestCase):
    @inlineCallbacks
    def test_a_store_that_is_stopped_before_its_tables_were_read_blames_nobody(self) -> Steps:
        """The start goes on waiting; whoever saved something is told."""
        store = PostgresSessionStore(reactor, lambda: (1, 1), lambda dsn: succeed(None))
        started = store.start("host=/nonexistent dbname=none")
        saved = store.save(Cleared("t"))
        yield deferLater(reactor, 0.3)
        yield store.stop()
        yield self.assertFailure(saved, StoreStopped)
        self.assertFalse(started.called)


class Fenced(SessionStoreCase):
    @inlineCallbacks
    def test_a_daemon_that_was_taken_for_dead_goes_on_when_it_has_registered_again(self) -> Steps:
        self.execute("UPDATE mqtt_daemons SET incarnation = incarnation + 1")
        saved = self.save([self.queued(n) for n in range(1, 10)])
        yield deferLater(reactor, 0.3)
        self.assertFalse(saved.called)
        self.assertIn("taken for dead", self.store.connections.state)
        self.assertEqual(self.positions(), [])
        yield self.lease.beat()
        yield saved
        self.assertEqual(self.positions(), list(range(1, 10)))

    @inlineCallbacks
    def test_a_daemon_whose_identity_another_one_has_writes_nothing_more(self) -> Steps:
        """Row 300."""
        _, other = yield self.make_store()
        saved = self.store.save(self.queued(1))
        yield other.save(self.queued(2))
        for number in range(20):  # its batches have higher numbers than ours
            yield other.save(Cleared(str(number)))
        yield deferLater(reactor, 0.3)
        self.assertFalse(saved.called)
        self.assertEqual(self.positions(), [2])
        saved.addErrback(lambda _: None)

    @inlineCallbacks
    def test_the_next_run_numbers_its_messages_above_those_of_the_last_one(self) -> Steps:
        before = [self.queued(n, b"p", 10_000) for n in range(1, 4)]
        yield self.save(before)
        self.lease, self.store = yield self.make_store()
        after = self.queued(4, b"p", 10_000)
        yield self.store.save(after)
        self.assertEqual([one.number - (1 << 48) for one in (*before, after)], [1, 2, 3, 4])
        _, other = yield self.make_store(uuid4())
        theirs = self.queued(5, b"p", 10_000)
        yield other.save(theirs)
        self.assertEqual(theirs.number, (2 << 48) + 1)

    @inlineCallbacks
    def test_each_daemon_reads_its_own_sessions_and_wills(self) -> Steps:
        _, other = yield self.make_store(uuid4())
        yield self.store.save(WillLeft("c", None, 1, "t", b"", 0, False))
        self.assertEqual((yield other.sessions(0, 10)), [])
        self.assertEqual((yield other.wills()), [])
        self.assertEqual([one.session for one in (yield self.store.sessions(0, 10))], [self.session])
        self.assertEqual(len((yield self.store.wills())), 1)


class Refused(SessionStoreCase):
    """What the database refuses for its data holds nobody up, and is not acknowledged."""

    @inlineCallbacks
    def outcomes(self, records: Sequence[SessionRecord]) -> Generator["Deferred[Any]", Any, list[bool]]:
        """Save records at once; returns for each whether it was committed."""
        answers: list[bool] = []

        def refused(failure: Any) -> None:
            failure.trap(EntryRefused)
            answers.append(False)

        saved = [
            self.store.save(record).addCallbacks(lambda _: answers.append(True), refused)
            for record in records
        ]
        yield gatherResults(saved)
        return answers

    @inlineCallbacks
    def test_poison_among_hundreds_of_messages_is_found(self) -> Steps:
        """Row 302."""
        records: list[SessionRecord] = [self.queued(n) for n in range(1, 400)]
        for bad in 17, 311:
            records[bad] = Queued("a\0b", b"", 0.0, {self.session: (bad + 1, 1)})
        answers = yield self.outcomes(records)
        self.assertEqual(sorted(answers), [False] * 2 + [True] * 397)
        self.assertEqual(self.positions(), [n for n in range(1, 400) if n not in (18, 312)])
        self.assertEqual((self.store.connections.refused, self.store.writer.waiting), (2, 0))
        self.assertTrue(self.store.available)
        self.assertEqual(len([line for line in self.said if "refused by the database" in line]), 2)

    @inlineCallbacks
    def test_a_name_that_is_too_long_for_an_index_is_refused(self) -> Steps:
        """Row 302."""
        name = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(2000))
        records: list[SessionRecord] = [
            Subscribed(self.session, ((name, 1), ("a", 1))),
            Kept(name, b"", 0, "c", None),
            Cleared("x"),
        ]
        self.assertEqual(sorted((yield self.outcomes(records))), [False, False, True])

    @inlineCallbacks
    def test_a_position_given_twice_is_refused(self) -> Steps:
        yield self.store.save(self.queued(1))
        answers = yield self.outcomes([self.queued(1, b"another"), self.queued(2)])
        self.assertEqual(sorted(answers), [False, True])
        (first, _) = yield self.store.page(self.session, 0, FAR, 10)
        self.assertEqual(first.payload, b"p")

    @inlineCallbacks
    def test_tables_that_refuse_everything_are_to_blame_and_not_a_record(self) -> Steps:
        """Row 153."""
        self.execute(GUARD.format("22001"))
        saved = self.store.save(self.queued(1))
        yield deferLater(reactor, 0.5)
        self.assertFalse(saved.called)
        self.assertIn("not today", self.store.connections.state)
        self.execute(UNGUARD)
        yield saved
        self.assertEqual(self.positions(), [1])
        for table in "mqtt_messages", "mqtt_retained", "mqtt_wills", "mqtt_subscriptions", "mqtt_incoming":
            self.assertEqual(self.execute(f"SELECT count(*) FROM {table}"), [(0,)], table)


class Rows(SessionStoreCase):
    """What stands in the tables."""

    @inlineCallbacks
    def test_a_message_for_one_is_in_its_row_and_for_two_beside_it(self) -> Steps:
        """ADR 0111."""
        yield self.save([self.queued(1, b"one"), self.queued(2, b"two", 10_000)])
        sql = "SELECT seq, message IS NULL, payload FROM mqtt_queue WHERE session = %s ORDER BY seq"
        rows = [
            (seq, own, payload and bytes(payload)) for seq, own, payload in self.execute(sql, self.session)
        ]
        self.assertEqual(rows, [(1, True, b"one"), (2, False, None)])
        self.assertEqual([bytes(p) for (p,) in self.execute("SELECT payload FROM mqtt_messages")], [b"two"])
        yield self.store.save(Received(self.session, 2))
        sql = "SELECT flags, message IS NULL, topic FROM mqtt_queue WHERE session = %s AND seq = 2"
        self.assertEqual(self.execute(sql, self.session), [(9, False, None)])

    @inlineCallbacks
    def test_the_head_is_noted_with_every_thousandth_deletion(self) -> Steps:
        acknowledged = [
            Acknowledged(self.session, n, head=n - 1 if n % 2 else 0) for n in range(1, HEAD_AFTER)
        ]
        yield self.save(acknowledged)
        sql = "SELECT head FROM mqtt_sessions"
        self.assertEqual(self.execute(sql), [(0,)])
        yield self.save(
            [Acknowledged(self.session, n, head=n - 1) for n in range(HEAD_AFTER, HEAD_AFTER * 2)]
        )
        ((head,),) = self.execute(sql)
        self.assertTrue(HEAD_AFTER - 1 <= head < HEAD_AFTER * 2, head)
        yield self.store.save(Absent(self.session, 3))  # never back
        self.assertEqual(self.execute(sql), [(head,)])

    @inlineCallbacks
    def test_a_session_that_ends_takes_some_messages_along_and_leaves_the_rest_to_maintenance(self) -> Steps:
        yield self.save([self.queued(n) for n in range(1, OF_ONE + 101)])
        yield self.store.save(Ended(self.session, "c"))
        self.assertEqual(len(self.positions()), 100)
        self.execute("SELECT platziverse_forget_sessions(5000)")
        self.assertEqual(self.positions(), [])

    @inlineCallbacks
    def test_a_page_of_large_messages_comes_in_parts_and_is_whole(self) -> Steps:
        large = b"x" * (PART_BYTES // 3)
        yield self.save([self.queued(n, large, 10_000) for n in (1, 2, 3, 4)])
        yield self.save([self.queued(5, large * 4), self.queued(6)])
        for limit, expected in (100, [1, 2, 3, 4, 5, 6]), (4, [1, 2, 3, 4]), (1, [1]):
            page = yield self.store.page(self.session, 0, FAR, limit)
            self.assertEqual([message.position for message in page], expected)
        self.assertEqual(len(page[0].payload), len(large))


class Odd(SessionStoreCase):
    """Rows that we have not written, or not so."""

    @inlineCallbacks
    def test_a_queue_row_without_its_message_is_skipped_and_deleted(self) -> Steps:
        """Row 303."""
        yield self.save([self.queued(n, b"p", 10_000) for n in range(1, 6)])
        self.execute("DELETE FROM mqtt_messages WHERE topic <> 't/4'")
        page = yield self.store.page(self.session, 0, FAR, 2)
        self.assertEqual([message.position for message in page], [4])
        while self.positions() != [4]:
            yield deferLater(reactor, 0.02)
        self.assertEqual(self.store.reader.unreadable, 4)
        self.assertEqual((yield self.store.page(self.session, 4, FAR, 2)), [])
        self.assertEqual(len([line for line in self.said if "is missing" in line]), 1)

    @inlineCallbacks
    def test_a_message_of_another_version_is_skipped_and_stays(self) -> Steps:
        """Row 304."""
        yield self.save([self.queued(n) for n in (1, 2)])
        self.execute("UPDATE mqtt_queue SET flags = flags | 64 WHERE seq = 1")
        page = yield self.store.page(self.session, 0, FAR, 10)
        self.assertEqual([message.position for message in page], [2])
        self.assertEqual((self.positions(), self.store.reader.unreadable), ([1, 2], 1))

    @inlineCallbacks
    def test_a_session_of_another_version_is_left_alone(self) -> Steps:
        """Row 304."""
        other = Begun("other", None, 0)
        yield self.store.save(other)
        self.execute("UPDATE mqtt_sessions SET version = 5 WHERE id = %s", self.session)
        found = yield self.store.sessions(0, 1)
        self.assertEqual([one.session for one in found], [other.session])
        self.assertEqual(self.execute("SELECT count(*) FROM mqtt_sessions"), [(2,)])

    @inlineCallbacks
    def test_a_session_without_its_subscriptions_is_one_that_has_none(self) -> Steps:
        """Row 305."""
        yield self.save([Subscribed(self.session, (("a", 1),)), self.queued(1)])
        self.execute("DELETE FROM mqtt_subscriptions")
        (found,) = yield self.store.sessions(0, 10)
        self.assertEqual((found.subscriptions, found.messages, found.first), ({}, 1, 1))
