"""Rows per second through the BatchWriter, beside the same statement run straight and psql's \\copy.

    python -m bench.ingest_store [DSN] [--seconds 5] [--agents 1000] [--metrics 4]

Without a DSN it starts a PostgreSQL of its own, with fsync. The database must have our tables.
"""

import argparse
import gc
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg2
from psycopg2.extensions import parse_dsn
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import react

from platziverse.agents.model import Agent, Metric, Rejection, Report
from platziverse.store.postgres import PostgresStore
from platziverse.store.statement import build
from platziverse.store.writer import BatchWriter

BATCH = 500


def reports(agents: int, metrics: int) -> Iterator[Report]:
    """Reports of ``agents`` agents in turn, each with a key, for ever."""
    known = [Agent(f"agent-{number}", "platzi", "platzi", "here", number) for number in range(agents)]
    types = [f"type{number}" for number in range(metrics)]
    number = 0
    while True:
        now = time.time()
        number += 1
        values = [Metric(type_, f"{number % 1000}.{index}") for index, type_ in enumerate(types)]
        source = Rejection("agent/message", "client", b"x" * 300, "", now)
        key = int(now * 1000).to_bytes(6, "big") + os.urandom(10)
        yield Report(known[number % agents], values, now, source, measured=now, key=key)


class Meter:
    """Rows, and CPU time of this process and of the server's backends, since it was made."""

    def __init__(self, name: str, dsn: str) -> None:
        self._name, self._dsn = name, dsn
        self._since, self._cpu, self._server = time.monotonic(), time.process_time(), self._server_cpu()

    def _server_cpu(self) -> float:
        with psycopg2.connect(self._dsn) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
            pids = [row[0] for row in cursor.fetchall()]
        connection.close()
        spent = [psutil.Process(pid).cpu_times() for pid in pids]
        return sum(times.user + times.system for times in spent)

    def report(self, rows: int, made: float = 0.0) -> float:
        """Print the figures; ``made`` is CPU time that went into making the data."""
        seconds = time.monotonic() - self._since
        ours = (time.process_time() - self._cpu - made) / rows * 1e6
        server = (self._server_cpu() - self._server) / rows * 1e6
        rate = rows / seconds
        print(f"{self._name:28} {rate:9,.0f} rows/s   ours {ours:5.2f}   server {server:5.2f} us/row")
        return rate


def straight(dsn: str, given: list[Report], seconds: float) -> float:
    """The same statement, one connection, one after the other."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    cursor = connection.cursor()
    known: dict[str, tuple[int, Agent]] = {}
    instance, writer = str(uuid.uuid4()), str(uuid.uuid4())
    batches = [given[start : start + BATCH] for start in range(0, len(given), BATCH)]
    cursor.execute("TRUNCATE metrics, message_keys")
    meter, end, rows, number = Meter("same statement, straight", dsn), time.monotonic() + seconds, 0, 0
    for number, batch in enumerate(batches, 1):
        statement = build(batch, known, instance, writer, number)
        cursor.execute(statement.sql, statement.parameters)
        statement.remember(cursor.fetchone(), known)
        rows += len(statement.rows.types)
        if time.monotonic() > end:
            break
    rate = meter.report(rows)
    connection.close()
    return rate


@inlineCallbacks
def through_writer(reactor: Any, dsn: str, given: list[Report], slots: int, seconds: float) -> Any:
    """The BatchWriter with as many reports waiting as two rounds take."""
    store = PostgresStore(reactor, uuid.uuid4(), slots=slots)
    writer = BatchWriter(store, reactor)
    yield store.start(dsn)
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE metrics, message_keys")
    connection.close()
    source, done = iter(given), Deferred()
    end, under_way, rows = time.monotonic() + seconds, 0, 0

    def feed(_: None = None) -> None:
        nonlocal under_way, rows
        under_way -= 1
        while under_way < 2 * slots * BATCH and time.monotonic() < end:
            report = next(source, None)
            if report is None:
                break
            under_way += 1
            rows += len(report.metrics)
            writer.save(report).addCallback(feed)
        if not under_way and not done.called:
            done.callback(None)

    meter = Meter(f"BatchWriter, {slots} slots", dsn)
    under_way = 1
    feed()
    yield done
    rate = meter.report(rows)
    assert writer.received == writer.stored, "the books do not balance"
    print(f"{'':28} {writer.received / writer.batches:9.0f} reports per batch")
    yield store.stop()
    return rate


def copy(dsn: str, count: int) -> None:
    """psql's \\copy of as many rows, into the same table."""
    line = "type0\t12.5\tnow\tnow\t1\tnow\tf\t12.5\n"
    columns = '"type",value,"createdAt","updatedAt","agentId","timestamp","timestampAdjusted",number'
    since = time.monotonic()
    command = ["psql", "-q", "-d", dsn, "-c", f"\\copy metrics({columns}) from stdin"]
    subprocess.run(command, input=line * count, text=True, check=True)
    print(f"{'psql copy, no keys':28} {count / (time.monotonic() - since):9,.0f} rows/s")


@inlineCallbacks
def main(reactor: Any, *argv: str) -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn", nargs="?")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=4)
    options = parser.parse_args(argv)
    dsn = options.dsn
    if dsn is None:
        from tests.postgres import Cluster

        dsn = Cluster(fsync="on", full_page_writes="on", autovacuum="on").database()
    else:
        parse_dsn(dsn)
    source = reports(options.agents, options.metrics)
    rates = []
    for slots in (0, 1, 2):
        given = [next(source) for _ in range(int(options.seconds * 40_000))]
        # The daemon has no hundred thousand reports in memory for the collector to walk through.
        gc.collect()
        gc.freeze()
        if slots:
            rate = yield through_writer(reactor, dsn, given, slots, options.seconds)
        else:
            rate = straight(dsn, given, options.seconds)
        rates.append(rate)
        gc.unfreeze()
    copy(dsn, int(options.seconds * 60_000))
    print(
        f"BatchWriter / straight: {rates[1] / rates[0]:.0%} with one slot, {rates[2] / rates[0]:.0%} with two"
    )


if __name__ == "__main__":
    import sys

    react(main, sys.argv[1:])
