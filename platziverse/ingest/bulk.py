"""Bulk: many Reports of the past are stored by a command: plain psycopg2, a transaction for each portion."""

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from operator import add
from typing import Any, Final, TypeAlias
from uuid import UUID

import psycopg2

from platziverse.agents.model import Agent, Report
from platziverse.postgres.literals import number_array

#: What is stored of metrics, without their numbers, as COPY reads it → the value of each.
Rows: TypeAlias = dict[str, str]

_POSITION: Final = "SELECT batch FROM ingest_batches WHERE writer = %s"
#: As that of the daemon's batches: a portion is stored once, whoever else is at the same source.
_TICKET: Final = """INSERT INTO ingest_batches AS known (writer, batch, "updatedAt")
    VALUES (%s, %s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1"""
#: Whether an agent is connected, and how it is called, is the daemon's knowledge; a new one is not.
_AGENTS: Final = """INSERT INTO agents
    (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
    SELECT uuid, username, name, hostname, pid, false, now(), now()
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::integer[])
        AS given (uuid, username, name, hostname, pid)
    WHERE NOT EXISTS (SELECT FROM agents WHERE agents.uuid = given.uuid) ORDER BY uuid
    ON CONFLICT (uuid) DO NOTHING"""
_AGENT_IDS: Final = "SELECT uuid, id FROM agents WHERE uuid = ANY(%s)"
_KEYS: Final = """INSERT INTO message_keys (key) SELECT unnest(%s::uuid[]) ORDER BY 1
    ON CONFLICT DO NOTHING RETURNING replace(key::text, '-', '')"""
_COLUMNS: Final = 'type, value, "createdAt", "updatedAt", "agentId", "timestamp", number'
_TABLE: Final = f"""CREATE TEMPORARY TABLE platziverse_portion ON COMMIT DELETE ROWS
    AS SELECT {_COLUMNS} FROM metrics LIMIT 0"""
_COPY: Final = f"COPY {{}} ({_COLUMNS}) FROM STDIN (FORMAT csv)"
_KNOWN: Final = """SELECT EXISTS (SELECT
    FROM unnest(%s::integer[], %s::text[], %s::timestamptz[], %s::timestamptz[])
        AS given (agent, type, first, last)
    WHERE EXISTS (SELECT FROM metrics WHERE "agentId" = agent AND metrics.type = given.type
        AND "createdAt" BETWEEN first AND last))"""
# Each row is looked up in the index of its series: a join of other kinds would read whole months. What is
# switched off costs so much in plans that PostgreSQL would compile them, which takes three seconds.
_LOOK_UP: Final = """SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off"""
_METRICS: Final = f"""INSERT INTO metrics ({_COLUMNS}) SELECT {_COLUMNS} FROM platziverse_portion AS given
    WHERE NOT EXISTS (SELECT FROM metrics WHERE metrics."agentId" = given."agentId"
        AND metrics.type = given.type AND metrics."createdAt" = given."createdAt"
        AND metrics.value = given.value)"""
_SERIES: Final = """INSERT INTO series AS known ("agentId", type, unit, rule)
    SELECT * FROM unnest(%s::integer[], %s::text[], %s::text[], %s::text[]) ORDER BY 1, 2
    ON CONFLICT ("agentId", type) DO UPDATE SET unit = excluded.unit, rule = excluded.rule
    WHERE excluded.rule IS NOT NULL
    AND (known.unit, known.rule) IS DISTINCT FROM (excluded.unit, excluded.rule)"""
#: As the daemon's batches leave them, for what comes late.
_MARKS: Final = """INSERT INTO metrics_marks (bucket, "agentId")
    SELECT DISTINCT platziverse_bucket(moment), agent
    FROM unnest(%s::timestamptz[], %s::integer[]) AS given (moment, agent)"""
# The months of a moment that are missing, of metrics and of what is made of them.
_MONTH: Final = """SELECT platziverse_add_partition(parent, part, key, lower, upper)
    FROM platziverse_missing_partitions(%(moment)s) WHERE CASE WHEN parent <> 'message_keys'
    THEN lower::timestamptz <= %(moment)s AND upper::timestamptz > %(moment)s ELSE false END"""
#: A batch of the daemon stands behind it for no longer; tries, and seconds between them.
_BRIEFLY: Final = "SET LOCAL lock_timeout = 50; SET LOCAL statement_timeout = 2000"
TRIES, PAUSE = 20, 0.25
#: Seconds; a bucket is that of the smaller roll-ups.
DAY: Final = 86_400
BUCKET: Final = 300


class Bulk:
    """A Bulk stores the Reports of one source in portions, each metric once.

    A metric is there already if its agent has the same value of this type at this moment; and a whole Report
    if its key is known. ``"createdAt"`` is the ``arrived`` of its Report.

    :param connection: of psycopg2, and not in autocommit.
    :param writer: recognises the source.
    :ivar added: metrics that were stored; ``known``: those that were there.
    """

    def __init__(self, connection: Any, writer: UUID) -> None:
        self.added = self.known = 0
        self._connection, self._writer = connection, str(writer)
        self._agents: dict[str, int] = {}
        self._months: set[int] = set()
        with connection, connection.cursor() as cursor:
            cursor.execute(_TABLE)

    def position(self) -> int:
        """Return where the last portion that was stored ends; 0: none was, or more than eight days ago."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_POSITION, (self._writer,))
            found = cursor.fetchone()
            return 0 if found is None else int(found[0])

    def store(self, reports: Sequence[Report], end: int) -> None:
        """Store a portion, in one transaction.

        :param end: where it ends in the source; larger than that of the portion before.
        :raises psycopg2.Error: nothing of it is stored.
        """
        self._add_months(map(_month, {report.arrived // DAY for report in reports}))
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_TICKET, (self._writer, end))
            if cursor.fetchone() is None:
                return
            self._write_agents(cursor, {report.agent.uuid: report.agent for report in reports})
            fresh = _fresh(cursor, reports)
            added = self._write_metrics(cursor, fresh) if fresh else 0
            self.added += added
            self.known += sum(len(report.metrics) for report in reports) - added

    def _add_months(self, months: Iterable[int]) -> None:
        """Add the partitions of months, numbered from the year 0, or leave their rows to the default one."""
        for month in sorted(set(months) - self._months):
            self._months.add(month)
            moment = datetime(month // 12, month % 12 + 1, 1, tzinfo=timezone.utc)
            for _ in range(TRIES):
                try:
                    with self._connection, self._connection.cursor() as cursor:
                        cursor.execute(_BRIEFLY)
                        cursor.execute(_MONTH, {"moment": moment})
                    break
                except (psycopg2.errors.LockNotAvailable, psycopg2.errors.QueryCanceled):
                    time.sleep(PAUSE)

    def _write_agents(self, cursor: Any, agents: "dict[str, Agent]") -> None:
        new = [agent for uuid, agent in agents.items() if uuid not in self._agents]
        if new:
            fields = ("uuid", "username", "name", "hostname", "pid")
            cursor.execute(_AGENTS, [[getattr(agent, field) for agent in new] for field in fields])
            cursor.execute(_AGENT_IDS, ([agent.uuid for agent in new],))
            self._agents.update(cursor.fetchall())

    def _write_metrics(self, cursor: Any, reports: Sequence[Report]) -> int:
        """Store the metrics that are not there; return how many."""
        agents = [self._agents[report.agent.uuid] for report in reports]
        moments = list(zip(_texts_of(reports), agents, strict=True))
        rows = _rows(reports, moments)
        if not rows:
            return 0
        numbers = number_array(list(rows.values()))[1:-1].replace("NULL", "").split(",")
        text = io.StringIO("\n".join(map(add, rows, numbers)))
        if self._are_known(cursor, reports, moments):
            cursor.copy_expert(_COPY.format("platziverse_portion"), text)
            cursor.execute(_METRICS)
        else:  # usually; three times as fast
            cursor.copy_expert(_COPY.format("metrics"), text)
        added = int(cursor.rowcount)
        self._write_series(cursor, reports)
        # One moment of each bucket of each agent.
        marks = {
            (report.arrived // BUCKET, agent): moment
            for report, (moment, agent) in zip(reports, moments, strict=True)
        }
        cursor.execute(_MARKS, (list(marks.values()), [agent for _, agent in marks]))
        return added

    def _are_known(
        self, cursor: Any, reports: Iterable[Report], moments: "Sequence[tuple[str, int]]"
    ) -> bool:
        """Return whether anything is stored of a series between the first and the last row of its agent."""
        # Texts of one form are in the order of their times.
        first: dict[int, str] = {}
        last: dict[int, str] = {}
        for moment, agent in moments:
            first[agent] = min(moment, first.get(agent, moment))
            last[agent] = max(moment, last.get(agent, moment))
        series = {
            (agent, metric.type)
            for report, (_, agent) in zip(reports, moments, strict=True)
            for metric in report.metrics
        }
        agents, kinds = [agent for agent, _ in series], [kind for _, kind in series]
        cursor.execute(_LOOK_UP)
        cursor.execute(_KNOWN, (agents, kinds, [first[one] for one in agents], [last[one] for one in agents]))
        return bool(cursor.fetchone()[0])

    def _write_series(self, cursor: Any, reports: Iterable[Report]) -> None:
        found = {
            (self._agents[report.agent.uuid], one.type): one for report in reports for one in report.series
        }
        if found:
            agents, kinds = [agent for agent, _ in found], [kind for _, kind in found]
            series = found.values()
            columns = agents, kinds, [one.unit for one in series], [one.rule for one in series]
            cursor.execute(_SERIES, columns)


def _rows(reports: Sequence[Report], moments: "Iterable[tuple[str, int]]") -> Rows:
    """Return the rows of Reports; one that comes twice in them only once."""
    rows: Rows = {}
    for report, (created, agent) in zip(reports, moments, strict=True):
        moment = report.measured
        measured = created if moment == report.arrived else "" if moment is None else _text_of(moment)
        rest = f'",{created},now,{agent},{measured},'
        for metric in report.metrics:
            kind, value = metric.type, metric.value
            if '"' in kind or '"' in value:
                kind, quoted = kind.replace('"', '""'), value.replace('"', '""')
                rows[f'"{kind}","{quoted}{rest}'] = value
            else:
                rows[f'"{kind}","{value}{rest}'] = value
    return rows


def _month(day: float) -> int:
    """Return the month of a day since the epoch, numbered from the year 0."""
    moment = datetime.fromtimestamp(day * DAY, timezone.utc)
    return moment.year * 12 + moment.month - 1


def _texts_of(reports: Iterable[Report]) -> Iterator[str]:
    """Yield ``"createdAt"`` of each as PostgreSQL reads it; several of one moment follow each other."""
    last, text = float("nan"), ""
    for report in reports:
        if report.arrived != last:
            last = report.arrived
            text = _text_of(last)
        yield text


def _text_of(moment: float) -> str:
    """Return a moment in seconds since the epoch as PostgreSQL reads it, to the microsecond."""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="microseconds")


def _fresh(cursor: Any, reports: Sequence[Report]) -> list[Report]:
    """Return the Reports that have no key, or one that nobody has written before; each key once."""
    keys = [report.key.hex() for report in reports if report.key is not None]
    if not keys:
        return list(reports)
    cursor.execute(_KEYS, (keys,))
    new = {key for (key,) in cursor.fetchall()}
    fresh = []
    for report in reports:
        if report.key is not None:
            if report.key.hex() not in new:
                continue
            new.remove(report.key.hex())
        fresh.append(report)
    return fresh
