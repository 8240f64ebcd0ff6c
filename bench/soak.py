"""Millions of metrics through one daemon: rows per second, and whether its memory stays flat.

    python -m bench.soak [--rows 10000000] [--metrics 20] [--clients 10] [--window 100]

Starts a PostgreSQL of its own, with fsync, and a daemon that is configured to use it.
"""

import argparse
import time

from bench.accounting import resident
from bench.generator import Flow, Job
from bench.peers import Platziverse, Running
from tests.servers import Cluster

#: Seconds between two lines.
PAUSE = 10.0


def load(running: Running, options: argparse.Namespace) -> None:
    """Publish until all rows are acknowledged."""
    flow = Flow(
        Job(
            port=running.ports["mqtt"],
            publishers=options.clients,
            qos=1,
            window=options.window,
            messages="reports",
            metrics=options.metrics,
        )
    )
    flow.start()
    began, rows = time.monotonic(), 0
    while rows < options.rows:
        flow.run(PAUSE)
        flow.tally.latencies.clear()
        rows = flow.tally.acknowledged * options.metrics
        rate, mib = rows / (time.monotonic() - began), resident(running.pid) / 2**20
        print(f"{rows:>12,} metrics  {rate:>9,.0f}/s  {mib:7.1f} MiB", flush=True)
    flow.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (("rows", 10_000_000), ("metrics", 20), ("clients", 10), ("window", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    cluster = Cluster(fsync="on", full_page_writes="on", autovacuum="on", max_wal_size="4GB")
    dsn = cluster.database("template1")
    try:
        with Platziverse("platziverse", dsn).running() as running:
            print(f"{resident(running.pid) / 2**20:.1f} MiB before the load")
            load(running, options)
            # What was under way when the load ended is committed as well before the daemon is.
        ((stored,),) = cluster.execute("SELECT count(*) FROM metrics", dsn=dsn)
        print(f"{stored:,} rows in metrics")
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
