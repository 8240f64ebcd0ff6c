"""A database with metrics, and what its roll-ups ought to be."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

from platziverse.agents.model import Metric, Report
from platziverse.ingest.reports import ReportStatements
from tests.ingest.entries import agent
from tests.servers import execute

#: Buckets of every series, made of nothing but the metrics, and compared with those that the job has made.
_WRONG: Final = """WITH ours AS (SELECT "agentId", type, bucket, n, min, max, sum, last FROM {table}),
theirs AS (SELECT "agentId", type, platziverse_bucket("createdAt", {seconds}) AS bucket,
        count(*)::integer AS n, min(number), max(number), sum(number),
        (array_agg(number ORDER BY "createdAt" DESC, id DESC))[1] AS last
    FROM metrics WHERE number IS NOT NULL AND "agentId" IS NOT NULL GROUP BY 1, 2, 3)
SELECT * FROM ((TABLE ours EXCEPT TABLE theirs) UNION ALL (TABLE theirs EXCEPT TABLE ours)) AS wrong"""


class Rolled:
    """A Rolled writes batches as a daemon does, and rolls up.

    :param dsn: of a database with our tables.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._statements, self._writer, self._number = ReportStatements(uuid4()), str(uuid4()), 0
        ((now,),) = self.sql("SELECT extract(epoch FROM platziverse_bucket(now()))")
        #: Where the bucket begins that is open.
        self.open = float(now)

    def sql(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return execute(self.dsn, sql, parameters or None)

    def batch(self, *reports: Report) -> None:
        """Commit a batch."""
        self._number += 1
        statement = self._statements.build(reports, self._writer, self._number)
        (answer,) = execute(self.dsn, statement.sql, statement.parameters)
        self._statements.committed(statement, answer)

    def measure(self, *values: str, ago: float = 1.0, uuid: str = "a", kind: str = "m") -> None:
        """Commit a reading of so many seconds before the open bucket begins; it arrives now."""
        metrics = [Metric(kind, value) for value in values]
        self.batch(Report(agent(uuid), metrics, self.open + 1, measured=self.open - ago))

    def roll_up(self, most: int = 1000) -> int:
        """Return how many buckets were made."""
        ((done,),) = self.sql("SELECT platziverse_roll_up(to_timestamp(%s), %s)", self.open, most)
        return int(done)

    def buckets(self, table: str = "metrics_5m") -> list[tuple[Any, ...]]:
        """Return n, min, max, sum and last of all buckets, the oldest first."""
        return self.sql(f'SELECT n, min, max, sum, last FROM {table} ORDER BY bucket, "agentId", type')

    def marks(self) -> int:
        ((count,),) = self.sql("SELECT count(*) FROM metrics_marks")
        return int(count)

    def wrong(self) -> Sequence[tuple[Any, ...]]:
        """Return the buckets that are not what the metrics say."""
        return wrong_buckets(self.sql)


def wrong_buckets(sql: Callable[[str], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """Return the buckets of a database that are not what its metrics say.

    :param sql: runs a statement, and returns its rows.
    """
    found: list[tuple[Any, ...]] = []
    for table, seconds in ("metrics_5m", 300), ("metrics_1h", 3600):
        found += sql(_WRONG.format(table=table, seconds=seconds))
    return found
