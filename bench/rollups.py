"""Roll-ups: what marks cost a batch, what a bucket costs the job, and what the job costs those who wait.

The figures are stored in bench/results/rollups.json.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg2
from attrs import evolve

from bench.accounting import cpu_seconds
from bench.generator import Job
from bench.ingest import BATCH, Outcome, Straight, metered, reports
from bench.measure import alternating, generate
from bench.peers import PLATZIVERSE_SETTINGS, Platziverse
from bench.results import Results, provenance, simple_table, three_digits
from platziverse.ingest import text
from platziverse.ingest.columns import Columns
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.statement import Statement, Template
from tests.integration.daemon import ROOT
from tests.servers import Cluster

#: Agents and types of each, a reading each 10 s, and hours of them that are there.
AGENTS, TYPES, HOURS = 250, 4, 4
#: Buckets that are timed, and late readings.
BUCKETS, LATE = 20, 50
#: Messages a second, by ten clients, while PUBACKs are timed.
RATE: Final = 500

_FILL: Final = """INSERT INTO agents (uuid, username, name, hostname, pid, "createdAt", "updatedAt")
    SELECT 'filled-' || n, 'u', 'n', 'h', 1, now(), now() FROM generate_series(1, %(agents)s) n;
    INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId", number)
    SELECT 'type' || kind, '21.5', moment + id * interval '7 ms', now(), id, 20 + random()
    FROM generate_series(platziverse_bucket(now()) - %(hours)s * interval '1 hour',
            platziverse_bucket(now()) - interval '1 s', interval '10 s') AS moment,
        agents, generate_series(1, %(types)s) AS kind WHERE uuid LIKE 'filled-%%'"""
_LATE: Final = """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId", number)
    SELECT 'type1', '22', platziverse_bucket(now()) - %(ago)s * interval '5 min', now(), %(agent)s, 22"""
_MARK: Final = """INSERT INTO metrics_marks
    SELECT platziverse_bucket(now()) - %(ago)s * interval '5 min', %(agent)s::integer"""
_ROLL_UP: Final = "SELECT platziverse_roll_up(platziverse_bucket(now()), 1)"
#: What the job does all the time here, and each minute in the daemon.
_JOB: Final = """
import sys
from twisted.internet import reactor
from platziverse.postgres.rollups import RollUps
RollUps(sys.argv[1], reactor).run().addBoth(lambda _: reactor.stop())
reactor.run()
"""

_UNMARKED: Final = Template(
    {
        entry: evolve(kind, parts=tuple(part for part in kind.parts if part is not text.MARKS))
        for entry, kind in KINDS.items()
    },
    text.TICKET,
    text.answer,
)


class Unmarked(ReportStatements):
    """Statements as they were without roll-ups."""

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        columns = Columns(self._kept_bytes, self.known)
        return _UNMARKED.fill(columns, entries, instance=self._instance, writer=writer, batch=batch)


class RollUpBench:
    """A RollUpBench measures everything on databases of one server, in turns."""

    def __init__(self, cluster: Cluster, rounds: int, seconds: float) -> None:
        self._cluster, self._rounds, self._seconds = cluster, rounds, seconds

    def measure(self) -> Results:
        """Return the figures: medians of the rounds, and their least and greatest."""
        hot = self._hot_path()
        print(hot, flush=True)
        dsn = self._filled()
        buckets = self._buckets(dsn)
        print(buckets, flush=True)
        acks = self._acknowledgements(dsn)
        print(acks, flush=True)
        versions = {"platziverse": Platziverse("platziverse").version()}
        return {"versions": versions, "hot": hot, "buckets": buckets, "acks": acks}

    def _hot_path(self) -> Results:
        """CPU µs of the server and bytes of WAL for a metric, in batches of 500 messages of 4 metrics."""
        without = self._cluster.database()
        self._cluster.execute("DROP INDEX metrics_created_brin", dsn=without)
        streams = {"without": Straight(without, Unmarked), "with": Straight(self._cluster.database())}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in streams}
        source = reports(4)
        for name in alternating(self._rounds * 2, list(streams)):
            wal = self._wal()
            with metered(self._cluster) as outcome:
                ends = time.monotonic() + self._seconds
                while time.monotonic() < ends:
                    outcome["messages"] += streams[name].write([next(source) for _ in range(BATCH)])
            metrics = outcome["messages"]
            found[name].append((outcome["server_cpu"] / metrics * 1e6, (self._wal() - wal) / metrics))
        for stream in streams.values():
            stream.close()
        return {
            name: {"cpu_us": _spread(cpu for cpu, _ in runs), "wal": _spread(wal for _, wal in runs)}
            for name, runs in found.items()
        }

    def _wal(self) -> float:
        return float(self._cluster.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")[0][0])

    def _filled(self) -> str:
        dsn = self._cluster.database("template1")
        with Platziverse("platziverse", dsn).running():
            pass  # it makes the tables
        given = {"agents": AGENTS, "types": TYPES, "hours": HOURS}
        self._cluster.execute(_FILL, given, dsn=dsn)
        sql = "SELECT brin_summarize_new_values(inhrelid) FROM pg_inherits WHERE inhparent = %s::regclass"
        self._cluster.execute(sql, ("metrics_created_brin",), dsn=dsn)
        return dsn

    def _buckets(self, dsn: str) -> Results:
        """Milliseconds for a bucket of all series, and for one of one agent that is late."""
        everyone: list[tuple[float, float]] = []
        late: list[tuple[float, float]] = []
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            for ago in range(1, BUCKETS + 1):
                everyone.append(_timed(connection, {"ago": ago, "agent": None}))
            for number in range(LATE):
                given = {"ago": 1 + number % (HOURS * 12), "agent": 1 + number % AGENTS}
                cursor.execute(_LATE, given)
                late.append(_timed(connection, given))
            cursor.execute("SELECT count(*) FROM metrics")
            ((rows,),) = cursor.fetchall()
        found: Results = {"rows": rows, "series": AGENTS * TYPES}
        for name, times in ("all", everyone), ("late", late):
            found[f"{name}_ms"] = _spread(wall for wall, _ in times)
            found[f"{name}_cpu_ms"] = _spread(cpu for _, cpu in times)
        return found

    def _acknowledgements(self, dsn: str) -> Results:
        """Milliseconds from PUBLISH to PUBACK, with the job and without."""
        found: dict[str, list[Outcome]] = {"without": [], "with": []}
        with Platziverse("platziverse", dsn, PLATZIVERSE_SETTINGS).running() as running:
            job = Job(
                port=running.ports["mqtt"],
                pids=[running.pid],
                publishers=10,
                qos=1,
                window=100,
                messages="reports",
                rate=RATE,
                warm=1.0,
                seconds=max(4.0, self._seconds * 3),
            )
            for name in alternating(self._rounds * 2, list(found)):
                with self._working(dsn, name == "with"):
                    found[name].append(generate(job))
        return {
            name: {figure: _spread(run[figure] * 1000 for run in runs) for figure in ("p50", "p99")}
            for name, runs in found.items()
        }

    @contextmanager
    def _working(self, dsn: str, works: bool) -> Iterator[None]:
        """The job makes all buckets anew meanwhile, as after an upgrade; it does not end before."""
        self._cluster.execute("TRUNCATE metrics_marks", dsn=dsn)
        if not works:
            yield
            return
        self._cluster.execute("TRUNCATE metrics_5m, metrics_1h", dsn=dsn)
        self._cluster.execute("SELECT platziverse_mark_all()", dsn=dsn)
        process = subprocess.Popen([sys.executable, "-c", _JOB, dsn], cwd=ROOT)
        try:
            yield
            if process.poll() is not None:
                print("  the job has ended too early", flush=True)
        finally:
            process.terminate()
            process.wait()


def _timed(connection: Any, given: dict[str, Any]) -> tuple[float, float]:
    """Mark a bucket; return the milliseconds until it is made, and those of the server's CPU."""
    with connection.cursor() as cursor:
        cursor.execute(_MARK, given)
        pids = [connection.get_backend_pid()]
        used, began = cpu_seconds(pids), time.perf_counter()
        cursor.execute(_ROLL_UP)
        took = time.perf_counter() - began, cpu_seconds(pids) - used
        assert cursor.fetchall() == [(1,)]
    return took[0] * 1000, took[1] * 1000


def _spread(values: Any) -> Outcome:
    given = sorted(values)
    return {"median": statistics.median(given), "least": given[0], "greatest": given[-1]}


def section(results: Results) -> str:
    """The tables."""
    hot, buckets, acks = results["hot"], results["buckets"], results["acks"]
    both = "without", "with"
    batches = simple_table(
        ["batches of 500 messages of 4 metrics", "database µs a metric", "WAL bytes a metric"],
        [[f"{name} marks and BRIN", _shown(hot[name]["cpu_us"]), _shown(hot[name]["wal"])] for name in both],
    )
    job = simple_table(
        [f"one bucket of 5 minutes and its hour, {buckets['rows']:,} metrics there", "ms", "CPU ms"],
        [
            [title, _shown(buckets[f"{name}_ms"]), _shown(buckets[f"{name}_cpu_ms"])]
            for name, title in (
                ("all", f"of {buckets['series']:,} series"),
                ("late", "of one agent that is late"),
            )
        ],
    )
    waiting = simple_table(
        [f"PUBACK, {RATE} messages a second", "p50 ms", "p99 ms"],
        [[f"{name} the job", _shown(acks[name]["p50"]), _shown(acks[name]["p99"])] for name in both],
    )
    return "\n\n".join([provenance(results), batches, job, waiting])


def _shown(found: Outcome) -> str:
    median, least, greatest = (three_digits(found[name]) for name in ("median", "least", "greatest"))
    return f"{median} ({least} – {greatest})"
