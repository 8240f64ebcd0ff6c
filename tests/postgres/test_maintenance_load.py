"""The tables are looked after while batches come, and while somebody reads for long.

The server says in its log which statement has waited for a lock for 100 ms. Several rounds: a machine that is
busy elsewhere can make one of them slow; a statement that holds others up does so in each.
"""

import re
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import LoopingCall

from platziverse.ingest.store import READY
from platziverse.postgres.maintenance import Maintenance
from platziverse.postgres.pruning import Kept
from tests.ingest.entries import key, report
from tests.ingest.test_store import StoreCase
from tests.servers import Cluster, holding

Steps = Generator["Deferred[Any]", Any, None]

ROUNDS: Final = 3
#: A line of the server: a statement has waited for a lock, and goes on to wait.
WAITING: Final = re.compile(r"still waiting for (.*) after [\d.]+ ms")
SETTINGS: Final = {"log_lock_waits": "on", "deadlock_timeout": "100ms"}

#: Something of everything that is to be deleted or made: months, rows beside them, keys, rejected messages,
#: agents, writers; and next month's partition is missing.
OLD: Final = """
SELECT platziverse_add_partitions(now() - make_interval(months => n)) FROM generate_series(2, 4) n;
INSERT INTO metrics (type, value, "createdAt", "updatedAt")
    SELECT 't', n, now() - make_interval(months => n % 4), now() FROM generate_series(1, 8000) n;
INSERT INTO metrics (type, value, "createdAt", "updatedAt")
    SELECT 't', n, now() - interval '5 years', now() FROM generate_series(1, 8000) n;
INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
    SELECT 't', 'c', sha512(n::text::bytea), n, now() - make_interval(days => n % 2)
    FROM generate_series(1, 20000) n;
INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
    SELECT 'old' || n, 'u', 'n', 'h', 1, false, now(), now() - interval '1 year'
    FROM generate_series(1, 500) n ON CONFLICT DO NOTHING;
INSERT INTO ingest_batches SELECT gen_random_uuid(), 1, now() - interval '1 year'
    FROM generate_series(1, 8000);
DO $$ BEGIN EXECUTE 'DROP TABLE ' || (SELECT max(inhrelid::regclass::text) FROM pg_inherits
    WHERE inhparent = 'metrics'::regclass AND inhrelid::regclass::text < 'metrics_default'); END $$
"""
#: Partitions that are still missing, or still there.
LEFT: Final = """SELECT 'missing' FROM platziverse_missing_partitions()
    UNION ALL SELECT 'old' FROM platziverse_old_months(now() - interval '1 month')"""
#: What a backup or a long question holds.
READING: Final = "SELECT (SELECT count(*) FROM metrics), (SELECT count(*) FROM message_keys)"


class Upkeep(StoreCase):
    timeout = 120
    looked_at = 0

    def make_server(self) -> Cluster:
        server = Cluster(**SETTINGS)
        self.addCleanup(server.remove)
        return server

    def stalls(self) -> list[str]:
        """What has waited for a lock, since the last look."""
        text = Path(self.server.directory, "log").read_text(errors="replace")
        new, self.looked_at = text[self.looked_at :], len(text)
        return WAITING.findall(new)

    def begin_load(self) -> None:
        """Save some reports every few milliseconds."""
        self.saved: list[Deferred[None]] = []
        self.load = LoopingCall(self.save_some)
        self.load.start(0.01)
        self.addCleanup(self.end_load)

    def end_load(self) -> None:
        if self.load.running:
            self.load.stop()

    def save_some(self) -> None:
        now = time.time()
        for number in range(10):
            one = report("1", uuid=f"a{number}", arrived=now, measured=now, key=key(at=now))
            self.saved.append(self.writer.save(one))

    @inlineCallbacks
    def look_after(self, reading: bool) -> Steps:
        """One run of everything; with a long reader it says that it cannot do all."""
        self.execute(OLD)
        self.stalls()
        kept = Kept(months=1, rejected_days=1, rejected_bytes=1_000_000)
        with ExitStack() as stack:
            if reading:
                stack.enter_context(holding(self.dsn, READING))
            try:
                yield Maintenance(self.dsn, reactor, kept).run()
            except (psycopg2.errors.LockNotAvailable, psycopg2.extensions.QueryCanceledError):
                self.assertTrue(reading)
            else:
                self.assertEqual((reading, self.execute(LEFT)), (False, []))

    @inlineCallbacks
    def check(self, reading: bool) -> Steps:
        self.begin_load()
        stalls = []
        for _ in range(ROUNDS):
            yield self.look_after(reading)
            stalls.append(self.stalls())
            if not stalls[-1]:
                break
        self.end_load()
        yield gatherResults(self.saved)
        self.assertIn([], stalls)
        writer = self.writer
        self.assertEqual((writer.rejected, writer.duplicates, writer.pending), (0, 0, 0))
        self.assertEqual(writer.stored, len(self.saved))
        self.assertEqual(self.store.state, READY)

    def test_no_batch_waits_for_a_tenth_of_a_second_or_rejects_a_message(self) -> "Deferred[None]":
        """Row 284: every statement of the upkeep, under load."""
        return self.check(reading=False)

    def test_nor_while_somebody_reads_for_long(self) -> "Deferred[None]":
        """Row 284: the upkeep cannot lock what is read, and nobody waits behind it for long."""
        return self.check(reading=True)

    def test_the_server_tells_of_who_waits(self) -> None:
        """Or the others would show nothing."""
        with holding(self.dsn, READING):
            sql = "SET lock_timeout = 300; LOCK TABLE metrics"
            self.assertRaises(psycopg2.errors.LockNotAvailable, self.execute, sql)
        (stall,) = self.stalls()
        self.assertIn("AccessExclusiveLock", stall)
