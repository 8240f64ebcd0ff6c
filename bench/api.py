"""The read API of a daemon at ten million metrics: charts, newest values, exports and event streams.

``python -m bench.api [--agents 250] [--hours 28]``: four types of each agent, a reading each ten seconds, in
a PostgreSQL of its own with the settings that the daemon has here. Milliseconds are medians of what a client
waits, and of the CPU that the daemon and its database take meanwhile; the CPU of streams is the daemon's, for
a message, beside the same messages without streams. At the end PUBACKs are timed, by turns alone and beside
event streams, charts, lists and an export.
"""

import argparse
import http.client
import itertools
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final

import psycopg2

from bench.accounting import cpu_seconds, tree_cpu_seconds
from bench.generator import Job
from bench.measure import generate
from bench.peers import PLATZIVERSE_SETTINGS, Platziverse
from platziverse.daemon.machine import memory
from platziverse.embedded.cluster import tuned
from tests.servers import Cluster

TYPES: Final = 4
FILL: Final = """
INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
SELECT 'agent-' || n, 'platzi', 'platzi', 'here', n, true, now(), now() FROM generate_series(1, %(agents)s) n;
INSERT INTO series ("agentId", type) SELECT id, 'type' || n FROM agents, generate_series(1, %(types)s) n;
INSERT INTO metrics (type, value, number, "createdAt", "updatedAt", "agentId")
SELECT 'type' || type, (n %% 1000)::text, n %% 1000, at, at, agent
FROM (SELECT n, now() - n * interval '10 s' AS at FROM generate_series(%(last)s, 1, -1) n) moments,
    generate_series(1, %(agents)s) agent, generate_series(1, %(types)s) type;
INSERT INTO metrics_marks (bucket) SELECT DISTINCT platziverse_bucket("createdAt") FROM metrics;
"""
#: A year of hours of one series, which no metrics are left of.
YEAR: Final = """INSERT INTO metrics_1h SELECT 1, 'type1', at, 360, 0, 999, 180000, 1
FROM generate_series(
    platziverse_bucket(now(), 3600) - interval '1 year', now() - interval '30 h', interval '1 h') at
ON CONFLICT DO NOTHING"""
DAY: Final = 86_400_000
#: Messages a second while PUBACKs are timed.
RATE: Final = 500


def fill(dsn: str, agents: int, hours: int) -> int:
    """Fill the tables; return how many metrics there are."""
    last = hours * 360
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT platziverse_add_partitions(now() - interval '1 month')")
        cursor.execute(FILL, {"agents": agents, "types": TYPES, "last": last})
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("SELECT platziverse_roll_up(platziverse_bucket(now()), 100000)")
        cursor.execute(YEAR)
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    return last * agents * TYPES


class Api:
    """An Api asks a daemon, over one connection.

    :param pid: of the daemon.
    :param server: process of its database.
    """

    def __init__(self, port: int, pid: int, server: int) -> None:
        self._connection = http.client.HTTPConnection("localhost", port, timeout=120)
        self._pid, self._server = pid, server

    def ask(self, path: str) -> bytes:
        """Return the body of an answer."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    def _used(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds([self._pid]), tree_cpu_seconds(self._server)

    def tell(self, name: str, path: str, times: int = 15) -> None:
        """Print the medians of what some answers took."""
        took, size = [], 0
        for _ in range(times + 1):
            before = self._used()
            size = len(self.ask(path))
            took.append([(now - then) * 1000 for now, then in zip(self._used(), before, strict=True)])
        waited, own, server = map(statistics.median, zip(*took[1:], strict=True))
        cpu = f"CPU {own:.1f} + {server:.1f} ms of the database"
        print(f"{name:45} {waited:8.1f} ms, worst {max(took[1:])[0]:.1f}; {cpu}; {size:,} bytes")

    def export(self) -> None:
        """Print how fast all rows come, and what the daemon takes for it."""
        before = most = resident(self._pid)
        began, lines = self._used(), 0
        self._connection.request("GET", "/api/export?type=type1")
        answer = self._connection.getresponse()
        while piece := answer.read(1 << 20):
            lines += piece.count(b"\n")
            most = max(most, resident(self._pid))
        seconds, own, server = (now - then for now, then in zip(self._used(), began, strict=True))
        cpu = f"CPU for 100,000: {own / lines * 1e8:.0f} + {server / lines * 1e8:.0f} ms of the database"
        name = f"export of {lines:,} rows"
        print(f"{name:45} {lines / seconds:8,.0f} rows/s, {most - before:+} KiB; {cpu}")


def resident(pid: int) -> int:
    """Return the KiB of memory that a process takes."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@contextmanager
def streams(port: int, count: int) -> Iterator[list[int]]:
    """Keep so many event streams open, and read them; the list has how many bytes came."""
    selector, came, over = selectors.DefaultSelector(), [0], threading.Event()
    opened = []
    for _ in range(count):
        stream = socket.create_connection(("localhost", port))
        stream.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        opened.append(stream)
        selector.register(stream, selectors.EVENT_READ)

    def drain() -> None:
        while not over.is_set():
            for key, _ in selector.select(0.1):
                came[0] += len(key.fileobj.recv(1 << 20))  # type: ignore[union-attr]

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield came
    finally:
        over.set()
        reader.join()
        for stream in opened:
            stream.close()


def message_cost(running: Any) -> float:
    """Return the µs of CPU that the daemon takes for a message of four metrics."""
    outcome = generate(job(running, seconds=4.0))
    print(f"    {outcome['messages'] / outcome['seconds']:,.0f} messages/s")
    return float(outcome["cpu"] / outcome["messages"] * 1e6)


def job(running: Any, seconds: float, rate: int = 0) -> Job:
    """Return messages of four metrics, of ten clients."""
    return Job(
        port=running.ports["mqtt"],
        pids=[running.pid],
        publishers=10,
        qos=1,
        window=100,
        messages="reports",
        metrics=TYPES,
        rate=rate,
        seconds=seconds,
        warm=1.0,
    )


def compare(running: Any, rounds: int) -> None:
    """Print what event streams cost, by turns with and without them."""
    port = running.ports["mqtt"]
    for count in (1, 100):
        without, beside = [], []
        for _ in range(rounds):
            without.append(message_cost(running))
            with streams(port, count) as came:
                beside.append(message_cost(running))
        more = min(beside) / min(without) - 1
        name = f"{count} event streams beside {min(without):.1f} µs a message"
        print(f"{name:45} {100 * more:8.1f} %, {came[0] / count:,.0f} bytes each")


def charts(now: int) -> list[tuple[str, str]]:
    """Return the questions whose answers are timed, with their names."""
    one = "/api/series?agent=agent-1&type=type1"
    many = "&".join(f"agent=agent-{number}" for number in range(1, 21))
    return [
        ("/api/series, an hour", one),
        ("/api/series, 24 h of rows", f"{one}&from={now - DAY}&points=2000"),
        ("/api/series, 24 h of 5 minutes", f"{one}&from={now - DAY}"),
        ("/api/series, a year", f"{one}&from={now - 365 * DAY}"),
        ("/api/series, 24 h of 20 series", f"/api/series?{many}&type=type1&from={now - DAY}"),
        ("/api/latest, 1,000 series", "/api/latest?limit=1000"),
        ("/api/broker", "/api/broker"),
    ]


@contextmanager
def everything(port: int, asked: list[tuple[str, str]]) -> Iterator[None]:
    """Let 100 event streams, two clients with a question each half second, and an export go on."""
    over = threading.Event()

    def ask(offset: int) -> None:
        connection = http.client.HTTPConnection("localhost", port, timeout=120)
        for _, path in itertools.islice(itertools.cycle(asked), offset, None):
            connection.request("GET", path)
            connection.getresponse().read()
            if over.wait(0.5):
                return

    def export() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection("localhost", port, timeout=120)
            connection.request("GET", "/api/export?type=type1")
            answer = connection.getresponse()
            while not over.is_set() and answer.read(1 << 16):
                pass
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 3)]
    threads.append(threading.Thread(target=export))
    with streams(port, 100):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def acknowledged(running: Any, rounds: int, asked: list[tuple[str, str]]) -> None:
    """Print how long PUBACKs take, by turns alone and beside everything."""
    took: dict[str, list[tuple[float, float]]] = {"alone": [], "beside everything": []}
    for _ in range(rounds):
        for name, found in took.items():
            with nullcontext() if name == "alone" else everything(running.ports["mqtt"], asked):
                outcome = generate(job(running, 8.0, RATE))
            found.append((outcome["p50"] * 1000, outcome["p99"] * 1000))
    for name, found in took.items():
        half, most = (statistics.median(column) for column in zip(*found, strict=True))
        shown = f"PUBACK of {RATE:,} messages a second, {name}"
        each = ", ".join(f"{p99:.1f}" for _, p99 in found)
        print(f"{shown:45} {half:8.1f} ms, p99 {most:.1f} ms (of {each})")


def measure(running: Any, server: int, rounds: int) -> None:
    """Measure a daemon whose tables are full, and print."""
    api = Api(running.ports["mqtt"], running.pid, server)
    asked = charts(int(time.time() * 1000))
    for name, path in asked:
        api.tell(name, path)
    api.export()
    compare(running, rounds)
    acknowledged(running, rounds, asked)


def main() -> None:
    """Fill, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=250)
    parser.add_argument("--hours", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cluster = Cluster(autovacuum="on", max_wal_size="4GB", jit="off", **tuned(memory()))
    try:
        dsn = cluster.database("template1")
        with Platziverse("platziverse", dsn, PLATZIVERSE_SETTINGS).running() as running:
            rows = fill(dsn, options.agents, options.hours)
            print(f"{rows:,} metrics, {options.agents * TYPES} series")
            measure(running, cluster.pid, options.rounds)
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
