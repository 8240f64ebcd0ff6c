"""What a message costs that waits for durable Sessions, and how fast a page of them is read.

    python -m bench.sessions [--deliveries 300000] [--queued 1000000] [--json]

Starts a PostgreSQL of its own, with the settings that the daemon's has here, and writes through the store of
the daemon in batches of 500 rows: every message is acknowledged by its receivers four batches later. Then
pages are read from a long queue while a snapshot is held, as by a backup, which keeps every deleted row.
"""

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing
from typing import Any, Final
from uuid import uuid4

import psycopg2
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import react

from bench.accounting import tree_cpu_seconds
from platziverse.broker.records import Acknowledged, Begun, Queued, SessionRecord
from platziverse.daemon.machine import memory
from platziverse.durable.store import PostgresSessionStore
from platziverse.embedded.cluster import tuned
from tests.servers import Cluster, lone_lease

_Steps = Generator["Deferred[Any]", Any, Any]

BATCH: Final = 500
PAYLOAD: Final = bytes(range(256)) + bytes(44)
#: Sessions, and to how many of them each message goes.
SHAPES: Final = ((1, 1), (10, 10), (1000, 1), (1000, 1000))


@inlineCallbacks
def begin(store: PostgresSessionStore, count: int) -> _Steps:
    """Begin Sessions; fires with their numbers."""
    begun = [Begun(str(uuid4()), None, 0) for _ in range(count)]
    yield gatherResults([store.save(one) for one in begun])
    return [one.session for one in begun]


@inlineCallbacks
def write(store: PostgresSessionStore, sessions: list[int], fan_out: int, deliveries: int) -> _Steps:
    """Write deliveries in batches, and delete each four batches later."""
    waiting: deque[list[Queued]] = deque()
    per_batch = max(1, BATCH // fan_out)
    for position in range(1, deliveries // fan_out + 1, per_batch):
        messages = [
            Queued("site/7/line/3", PAYLOAD, 1.7e9, dict.fromkeys(chosen(sessions, fan_out, n), (n, 1)))
            for n in range(position, position + per_batch)
        ]
        records: list[SessionRecord] = [*messages]
        waiting.append(messages)
        if len(waiting) > 4:
            records += acknowledgements(waiting.popleft())
        for record in records:
            store.save(record)
        yield store.drain()


def chosen(sessions: list[int], fan_out: int, number: int) -> list[int]:
    """The Sessions that a message goes to."""
    first = number * fan_out % len(sessions)
    return sessions[first : first + fan_out]


def acknowledgements(messages: list[Queued]) -> list[SessionRecord]:
    """All receivers own these messages now."""
    records: list[SessionRecord] = []
    for message in messages:
        *others, last = message.rows.items()
        records += [Acknowledged(session, position) for session, (position, _) in others]
        records.append(Acknowledged(last[0], last[1][0], message.number, last[1][0]))
    return records


@inlineCallbacks
def costs(store: PostgresSessionStore, server: Cluster, deliveries: int) -> _Steps:
    """Print microseconds of CPU for each delivery."""
    print("Sessions  fan-out  client µs  server µs")
    for count, fan_out in SHAPES:
        yield write(store, (yield begin(store, count)), fan_out, deliveries // 20)
        sessions = yield begin(store, count)
        client, theirs = time.process_time(), tree_cpu_seconds(server.pid)
        yield write(store, sessions, fan_out, deliveries)
        client, theirs = time.process_time() - client, tree_cpu_seconds(server.pid) - theirs
        print(f"{count:8}  {fan_out:7}  {client / deliveries * 1e6:9.1f}  {theirs / deliveries * 1e6:9.1f}")


@inlineCallbacks
def pages(store: PostgresSessionStore, dsn: str, queued: int) -> _Steps:
    """Fires with milliseconds for a page, when half of a queue is deleted under a held snapshot."""
    (session,) = yield begin(store, 1)
    for first in range(1, queued + 1, 10_000):
        saved = [
            store.save(Queued("t", PAYLOAD, 1.7e9, {session: (n, 1)})) for n in range(first, first + 10_000)
        ]
        yield gatherResults(saved)
    with closing(psycopg2.connect(dsn)) as backup, backup.cursor() as cursor:
        backup.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM mqtt_queue")
        for first in range(1, queued // 2 + 1, 10_000):
            gone = range(first, first + 10_000)
            yield gatherResults([store.save(Acknowledged(session, n, head=n)) for n in gone])
        figures: dict[str, float] = {"queued": queued}
        for name, after in ("bounded", queued // 2), ("unbounded", 0):
            yield store.page(session, after, 2**62, 100)  # which connects
            times = []
            for _ in range(200 if after else 10):
                began = time.perf_counter()
                assert len((yield store.page(session, after, 2**62, 100))) == 100
                times.append((time.perf_counter() - began) * 1000)
            figures[f"{name}_ms"] = statistics.median(times)
            figures[f"{name}_most_ms"] = sorted(times)[-len(times) // 10]
        cursor.execute("SELECT pg_table_size('mqtt_queue') >> 20, pg_indexes_size('mqtt_queue') >> 20")
        ((figures["table_mib"], figures["index_mib"]),) = cursor.fetchall()
    return figures


def told(figures: dict[str, float]) -> None:
    """Print what :func:`pages` has found."""
    print(f"{figures['queued']:,} messages, half of them deleted under a held snapshot; a page of 100:")
    for name, title in ("bounded", "with its lower bound"), ("unbounded", "without one"):
        middle, most = figures[f"{name}_ms"], figures[f"{name}_most_ms"]
        print(f"  {title}: median {middle:.2f} ms, nine in ten within {most:.2f}")
    print(f"  table {figures['table_mib']} MiB, index {figures['index_mib']} MiB")


@inlineCallbacks
def main(reactor: Any, *argv: str) -> _Steps:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deliveries", type=int, default=300_000)
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="only the pages, as JSON")
    given = parser.parse_args(argv)
    durable = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB"}
    server = Cluster(**tuned(memory()), **durable, autovacuum="on", autovacuum_naptime="10s", jit="off")
    lease = lone_lease(reactor)
    store = PostgresSessionStore(reactor, lambda: lease.holding, lease.start, max_entries=4 * BATCH)
    try:
        dsn = server.database()
        yield store.start(dsn)
        if not given.json:
            yield costs(store, server, given.deliveries)
        figures = yield pages(store, dsn, given.queued)
        print(json.dumps(figures)) if given.json else told(figures)
    finally:
        yield store.stop()
        yield lease.stop()
        server.remove()


if __name__ == "__main__":
    react(main, sys.argv[1:])
