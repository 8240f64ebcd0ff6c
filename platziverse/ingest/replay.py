"""Replay: rejected messages are tried again, from a command: plain psycopg2, a transaction for each."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from platziverse.agents.model import Report
from platziverse.postgres.literals import number

#: Another command may be at it; the row is locked for the transaction.
_CLAIM: Final = """SELECT 1 FROM rejected_messages WHERE id = %s AND "replayedAt" IS NULL
    FOR UPDATE SKIP LOCKED"""
#: Whether an agent is connected is the daemon's knowledge; an agent not seen before is not.
_AGENT: Final = """INSERT INTO agents
    (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
    SELECT %s, %s, %s, %s, %s, false, now(), now() WHERE NOT EXISTS (SELECT FROM agents WHERE uuid = %s)
    ON CONFLICT (uuid) DO NOTHING"""
_AGENT_ID: Final = "SELECT id FROM agents WHERE uuid = %s"
_KEY: Final = "INSERT INTO message_keys (key) VALUES (%s) ON CONFLICT DO NOTHING"
# Before schema 6 "createdAt" was the arrival of all of them.
_STORED: Final = """SELECT type, value FROM metrics WHERE "agentId" = %s
    AND "createdAt" IN (to_timestamp(%s), to_timestamp(%s)) AND "updatedAt" = to_timestamp(%s)"""
_MARK: Final = """INSERT INTO metrics_marks (bucket, "agentId")
    SELECT platziverse_bucket(to_timestamp(%s)), %s"""
_METRIC: Final = """INSERT INTO metrics
    (type, value, "createdAt", "updatedAt", "agentId", "timestamp", "timestampAdjusted", number)
    VALUES (%s, %s, to_timestamp(%s), to_timestamp(%s), %s, to_timestamp(%s), %s, %s)"""
_DONE: Final = """UPDATE rejected_messages SET "replayedAt" = now() WHERE id = %s"""
#: By agent and moment: type and value of each metric.
_Stored: TypeAlias = dict[tuple[int, float], list[tuple[str, str]]]


def replay(connection: Any, row: int, reports: Sequence[Report]) -> int | None:
    """Store the metrics of Reports, read again from ``rejected_messages``, that are not in the tables yet.

    The usable metrics of a partly usable message were stored when it came, and are not stored again; nor is a
    message whose key is known from another delivery.

    :param connection: of psycopg2, in a transaction or about to begin one; it is committed.
    :param row: id in ``rejected_messages``.
    :return: how many metrics were added; ``None``: another command has the row, or it was replayed before.
    :raises psycopg2.Error: the database refused it again; nothing has changed.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_CLAIM, (row,))
        if cursor.fetchone() is None:
            return None
        stored: _Stored = {}
        added = sum([_add(cursor, report, stored) for report in reports])
        cursor.execute(_DONE, (row,))
        return added


def _add(cursor: Any, report: Report, stored: _Stored) -> int:
    """Store what is missing of a Report; return how many metrics.

    :param stored: what was stored of the message when it came; what is found there is taken out.
    """
    agent = report.agent
    fields = agent.uuid, agent.username, agent.name, agent.hostname, agent.pid
    cursor.execute(_AGENT, (*fields, agent.uuid))
    cursor.execute(_AGENT_ID, (agent.uuid,))
    (agent_id,) = cursor.fetchone()
    moment = report.moment
    if (agent_id, moment) not in stored:
        cursor.execute(_STORED, (agent_id, moment, report.arrived, report.arrived))
        stored[agent_id, moment] = cursor.fetchall()
    missing = _missing(cursor, report, stored[agent_id, moment])
    measured = report.measured, report.measured_adjusted
    for kind, value in missing:
        finite = number(value)
        values = kind, value, moment, report.arrived, agent_id, *measured
        cursor.execute(_METRIC, (*values, None if finite == "NULL" else finite))
    cursor.execute(_MARK, (moment, agent_id))
    return len(missing)


def _missing(cursor: Any, report: Report, stored: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return type and value of each metric that is not in the tables."""
    if report.key is not None:
        cursor.execute(_KEY, (report.key.hex(),))
        if not cursor.rowcount and not stored:
            return []
    missing = []
    for metric in report.metrics:
        pair = metric.type, metric.value
        if pair in stored:
            stored.remove(pair)
        else:
            missing.append(pair)
    return missing
