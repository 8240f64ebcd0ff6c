"""Imports and exports beside psql's ``\\copy``, on a server that fsyncs: what a row costs, and memory.

The same metrics as CSV, NDJSON and line protocol, four in each record, of ten devices in each second.
"""

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.accounting import settle
from bench.ingest import COLUMNS, EMPTY, metered
from bench.measure import Outcome
from tests.crash.waiting import poll
from tests.integration.daemon import COMMAND, ROOT, clean_environment
from tests.servers import Cluster

RULES: Final = """
[[rule]]
topic = "file/{device}"
agent = "file:{device}"
time = "$.at"
[[rule]]
topic = "lines/{device}"
agent = "file:{device}"
format = "influx"
each = "$.metrics"
values = "@.fields"
time = "@.timestamp"
"""
_OTHERS: Final = """SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
METRICS: Final = 4
DEVICES: Final = 10
#: Seconds since the epoch: years ago.
FIRST: Final = 1_600_000_000


def csv_of(records: int) -> Iterator[str]:
    yield "at,device,temp,humidity,power,total\n"
    for number in range(records):
        at, device = FIRST + number // DEVICES, number % DEVICES
        yield f"{at},d{device},{number % 400 / 10},{number % 97},{number % 2000}.5,{number}\n"


def ndjson_of(records: int) -> Iterator[str]:
    for number in range(records):
        at, device = FIRST + number // DEVICES, number % DEVICES
        yield (
            f'{{"at":{at},"device":"d{device}","temp":{number % 400 / 10},"humidity":{number % 97},'
            f'"power":{number % 2000}.5,"total":{number}}}\n'
        )


def lines_of(records: int) -> Iterator[str]:
    for number in range(records):
        at, device = FIRST + number // DEVICES, number % DEVICES
        yield (
            f"house,device=d{device} temp={number % 400 / 10},humidity={number % 97}i,"
            f"power={number % 2000}.5,total={number}i {at}000000000\n"
        )


#: Name → ending of the file, what writes it, and the topic of its rule.
FILES: Final[dict[str, tuple[str, Callable[[int], Iterator[str]], str]]] = {
    "import of CSV": ("csv", csv_of, "file/{$.device}"),
    "import of NDJSON": ("ndjson", ndjson_of, "file/{$.device}"),
    "import of line protocol": ("lp", lines_of, "lines/{$.tags.device}"),
}


def spent() -> float:
    """Seconds of CPU that commands have taken so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(cluster: Cluster, records: int) -> dict[str, Outcome]:
    """Rows a second of each way, its CPU µs a row and that of the server, and the memory of its process."""
    with tempfile.TemporaryDirectory(prefix="platziverse-bench-") as name:
        return _Ways(cluster, Path(name), records).measure()


class _Ways:
    """_Ways are measured one after the other; the tables are emptied in between."""

    def __init__(self, cluster: Cluster, folder: Path, records: int) -> None:
        self._cluster, self._folder, self._records = cluster, folder, records
        self._dsn, self._found = cluster.database(), dict[str, Outcome]()

    def measure(self) -> dict[str, Outcome]:
        """All of them."""
        rules, rows = self._folder / "rules.toml", self._records * METRICS
        rules.write_text(RULES)
        for what, (ending, write, topic) in FILES.items():
            path = self._folder / f"file.{ending}"
            with path.open("w") as file:
                file.writelines(write(self._records))
            given = ("import", "--rules", str(rules), "--topic", topic, str(path))
            self._empty()
            self._note(what, lambda given=given: self._run(*given))  # type: ignore[misc]
            ((count,),) = self._cluster.execute("SELECT count(*) FROM metrics", dsn=self._dsn)
            assert count == rows, (what, count)
            if ending == "csv":
                self._copy()
                again = "the same again, all of it there"
                self._note(again, lambda given=given: self._run(*given, "--from-start"))  # type: ignore[misc]
        for ending in "csv", "ndjson":
            path = self._folder / f"out.{ending}"
            self._note(f"export as {ending}", lambda path=path: self._run("export", str(path)))  # type: ignore[misc]
        self._empty()
        self._note("import of what was exported", lambda: self._run("import", str(self._folder / "out.csv")))
        return self._found

    def _copy(self) -> None:
        """Let psql copy the rows that were imported, into the same table."""
        path = self._folder / "rows"
        self._psql(f"\\copy (SELECT {COLUMNS} FROM metrics ORDER BY id) to '{path}'")
        self._cluster.execute(EMPTY, dsn=self._dsn)
        self._note("copy of psql", lambda: self._psql(f"\\copy metrics ({COLUMNS}) from '{path}'"))

    def _psql(self, command: str) -> float:
        subprocess.run(["psql", "-q", "-d", self._dsn, "-c", command], check=True)
        return 0.0

    def _empty(self) -> None:
        self._cluster.execute(f"{EMPTY}, agents, series, metrics_marks", dsn=self._dsn)

    def _run(self, *arguments: str) -> float:
        """Run a command; return its MiB at most."""
        words = [*COMMAND, "--database", self._dsn, *arguments]
        program = subprocess.Popen(words, cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
        assert program.returncode == 0, arguments
        return used.ru_maxrss / 1024

    def _note(self, what: str, run: Callable[[], float]) -> None:
        rows, before, began = self._records * METRICS, spent(), time.perf_counter()
        with metered(self._cluster) as outcome:
            mib = run()
            seconds = time.perf_counter() - began
            # What a server process has used is counted when it has ended.
            poll(lambda: self._cluster.execute(_OTHERS) == [(0,)], 10, "the end of the server's process")
            settle([self._cluster.pid])
        self._found[what] = {
            "rows_per_second": rows / seconds,
            "cpu_us": (spent() - before) / rows * 1e6,
            "server_us": outcome["server_cpu"] / rows * 1e6,
            "mib": mib,
        }
        print(what, self._found[what], flush=True)
