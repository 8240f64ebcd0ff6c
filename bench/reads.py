"""The reads of the API at ten million metrics: as the original asks them, and as ours does.

    python -m bench.reads [--rows 10000000] [--months 6] [--agents 1000]

Starts a PostgreSQL of its own, with the settings that the daemon's has here, and fills its tables with SQL;
milliseconds are medians over random agents.
"""

import argparse
import random
import statistics
import time
from contextlib import closing
from typing import Any

import psycopg2

from platziverse.daemon.machine import memory
from platziverse.embedded.cluster import tuned
from platziverse.postgres import reader
from tests.servers import Cluster

FILL = """
INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
SELECT 'agent-' || n, 'platzi', 'platzi', 'here', n, true, now(), now() FROM generate_series(1, %(agents)s) n;
INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId")
SELECT 'type' || n %% 4, (n %% 1000)::text, at, at, 1 + n / 4 %% %(agents)s FROM (
    SELECT n, now() - (%(rows)s - n) * (interval '1 month' * %(months)s / %(rows)s) AS at
    FROM generate_series(1, %(rows)s) n) numbered
"""
ORIGINAL_TYPES = """SELECT type FROM metrics JOIN agents ON agents.id = metrics."agentId"
    WHERE uuid = %s GROUP BY type"""
ORIGINAL_NEWEST = """SELECT metrics.id, type, value, metrics."createdAt" FROM metrics
    JOIN agents ON agents.id = metrics."agentId" WHERE type = %s AND uuid = %s
    ORDER BY metrics."createdAt" DESC LIMIT 20"""
OUR_NEWEST = reader._METRICS + ' ORDER BY "createdAt" DESC LIMIT 20'


def fill(cursor: Any, rows: int, months: int, agents: int) -> None:
    """Partitions for the months, then the rows."""
    for month in range(months + 1):
        cursor.execute("SELECT platziverse_add_partitions(now() - interval '1 month' * %s)", (month,))
    cursor.execute(FILL, {"rows": rows, "months": months, "agents": agents})
    cursor.execute("VACUUM ANALYZE")
    cursor.execute("CHECKPOINT")  # in a life of months what is read was written long ago


def median(cursor: Any, question: str, parameters: Any, agents: int) -> tuple[float, float]:
    """(median, worst) milliseconds over 200 agents, after one question to warm up."""
    times = []
    for _ in range(201):
        asked = parameters(f"agent-{random.randint(1, agents)}")
        began = time.perf_counter()
        cursor.execute(question, asked)
        assert cursor.fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[1:]), max(times[1:])


def all_types(agent: str) -> tuple[str]:
    return (agent,)


def one_type(agent: str) -> tuple[str, str]:
    return ("type1", agent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--months", type=int, default=6)
    parser.add_argument("--agents", type=int, default=1000)
    options = parser.parse_args()
    cluster = Cluster(autovacuum="on", max_wal_size="4GB", jit="off", **tuned(memory()))
    try:
        with closing(psycopg2.connect(cluster.database())) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            fill(cursor, options.rows, options.months, options.agents)
            print(f"{options.rows:,} metrics of {options.agents} agents over {options.months} months")
            for name, question, parameters in (
                ("types of an agent, as the original asks", ORIGINAL_TYPES, all_types),
                ("types of an agent, as our API asks", reader._TYPES, all_types),
                ("newest 20 of a type, as the original asks", ORIGINAL_NEWEST, one_type),
                ("newest 20 of a type, as our API asks", OUR_NEWEST, one_type),
            ):
                middle, worst = median(cursor, question, parameters, options.agents)
                print(f"{name:45} {middle:7.2f} ms, worst {worst:.2f}")
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
