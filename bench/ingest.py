"""Reports into PostgreSQL: the daemon, beside the ways that are as fast as PostgreSQL itself."""

import os
import random
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from bench.accounting import tree_cpu_seconds
from bench.clients import exactly
from bench.generator import Job, percentiles
from bench.peers import Running
from bench.rings import reports as report_ring
from bench.scenarios import WINDOW
from platziverse.agents.model import Agent, Metric, Rejection, Report
from platziverse.ingest.reports import ReportStatements
from tests.crash import wire
from tests.servers import Cluster

BATCH = 500
AGENTS = 10
#: How many clients publish, each with a window of its own.
LOADS = {"platziverse": 10, "clients-5": 5, "clients-1": 1}
COLUMNS = 'type,value,"createdAt","updatedAt","agentId","timestamp","timestampAdjusted",number'
EMPTY = "TRUNCATE metrics, message_keys"
SINGLE = f"INSERT INTO metrics ({COLUMNS}) VALUES (%s, %s, now(), now(), %s, now(), false, %s)"

Outcome = dict[str, float]


def job(running: Running, cluster: Cluster, metrics: int, seconds: float, clients: int) -> Job:
    """What the load generator does to the daemon."""
    return Job(
        port=running.ports["mqtt"],
        pids=[running.pid],
        server=cluster.pid,
        publishers=clients,
        qos=1,
        window=WINDOW,
        messages="reports",
        metrics=metrics,
        seconds=seconds,
        warm=1.0,
    )


def reports(metrics: int) -> Iterator[Report]:
    """Reports of ten agents in turn, each with a key, for ever."""
    known = [Agent(f"agent-{number}", "platzi", "platzi", "here", number) for number in range(AGENTS)]
    types, number = [f"type{number}" for number in range(metrics)], 0
    while True:
        now = time.time()
        number += 1
        values = [Metric(type_, f"{number % 1000}.{index}") for index, type_ in enumerate(types)]
        source = Rejection("agent/message", "client", b"x" * 300, "", now)
        key = int(now * 1000).to_bytes(6, "big") + os.urandom(10)
        yield Report(known[number % AGENTS], values, now, source, measured=now, key=key)


class Straight:
    """The statement of the daemon, over one connection, one batch after the other."""

    def __init__(self, dsn: str, statements: type[ReportStatements] = ReportStatements) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()
        self._statements = statements(uuid.uuid4())
        self._writer, self._number = str(uuid.uuid4()), 0

    def write(self, batch: list[Report]) -> int:
        """Commit; the number of rows."""
        self._number += 1
        statement = self._statements.build(batch, self._writer, self._number)
        self._cursor.execute(statement.sql, statement.parameters)
        self._statements.committed(statement, self._cursor.fetchall()[0])
        return len(statement.columns.types)

    def close(self) -> None:
        self._connection.close()


def straight(cluster: Cluster, dsn: str, metrics: int, seconds: float) -> Outcome:
    """Rows and seconds of one stream of the daemon's own statement; making the reports is not in it."""
    source, stream = reports(metrics), Straight(dsn)
    with closing(stream), metered(cluster) as outcome:
        outcome["seconds"] = 0.0
        while outcome["seconds"] < seconds:
            batch = [next(source) for _ in range(BATCH)]
            began = time.perf_counter()
            outcome["messages"] += stream.write(batch)
            outcome["seconds"] += time.perf_counter() - began
    return outcome


def single(cluster: Cluster, dsn: str, seconds: float) -> Outcome:
    """One INSERT, and one commit, for each row."""
    with closing(psycopg2.connect(dsn)) as connection, metered(cluster) as outcome:
        connection.autocommit = True
        began = time.perf_counter()
        with connection.cursor() as cursor:
            while (passed := time.perf_counter() - began) < seconds:
                cursor.execute(SINGLE, ("type0", "12.5", 1, 12.5))
                outcome["messages"] += 1
        outcome["seconds"] = passed
    return outcome


def copy(cluster: Cluster, dsn: str, rows: int) -> Outcome:
    """psql's \\copy of as many rows, into the same table, in one transaction."""
    data = "type0\t12.5\tnow\tnow\t1\tnow\tf\t12.5\n" * rows
    command = ["psql", "-q", "-d", dsn, "-c", f"\\copy metrics ({COLUMNS}) from stdin"]
    with metered(cluster) as outcome:
        began = time.perf_counter()
        subprocess.run(command, input=data, text=True, check=True)
        outcome |= {"messages": rows, "seconds": time.perf_counter() - began}
    return outcome


@contextmanager
def metered(cluster: Cluster) -> Iterator[Outcome]:
    """CPU time of the server meanwhile, its backends that have ended included."""
    outcome: Outcome = {"messages": 0}
    before = tree_cpu_seconds(cluster.pid)
    yield outcome
    outcome["server_cpu"] = tree_cpu_seconds(cluster.pid) - before


def latency(running: Running, dsn: str, seconds: float, rate: float = 50.0) -> dict[str, Outcome]:
    """One message at a time, ``rate`` a second, and after each a like report straight into the database.

    The two alternate, so that whatever else the machine does meets both alike.
    """
    source, stream = reports(4), Straight(dsn)
    ring = report_ring("paced", 4)
    answered: list[float] = []
    committed: list[float] = []
    with socket.create_connection(("127.0.0.1", running.ports["mqtt"])) as client, closing(stream):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(wire.connect("paced", True, 0))
        exactly(client, 4)
        began = time.perf_counter()
        for number in range(int(seconds * rate)):
            # Not in step with anybody's timer.
            time.sleep(max(0.0, began + (number + random.random() / 4) / rate - time.perf_counter()))
            message, report = ring.take(1), [next(source)]
            sent = time.perf_counter()
            client.sendall(message)
            exactly(client, 4)
            answered.append(time.perf_counter() - sent)
            time.sleep(0.4 / rate)
            sent = time.perf_counter()
            stream.write(report)
            committed.append(time.perf_counter() - sent)
    return {"platziverse": percentiles(answered[10:]), "straight": percentiles(committed[10:])}
