"""One batch as one statement, built from the parts that the batch needs.

A statement is atomic, so either everything in it is committed or nothing is. Its first part is the
ticket: a writer's number of the batch, which is never written twice. Without it nothing else happens.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from attrs import frozen

from platziverse.agents.model import Agent, Entry
from platziverse.ingest.batch import Outcome
from platziverse.ingest.rows import Rows
from platziverse.postgres.literals import array, number_array, text_array

_TICKET: Final = """ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1)"""

#: Ends the chances of the batch with this number, unless it is written already: then says so.
FENCE: Final = """INSERT INTO ingest_batches AS known (writer, batch, "updatedAt")
    VALUES (%(writer)s, %(batch)s + 1, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < %(batch)s;
    SELECT batch = %(batch)s FROM ingest_batches WHERE writer = %(writer)s"""

#: What the statement of a batch that was written before would answer.
WRITTEN_BEFORE: Final = (0, 0, None, None)

# In the order of uuids, so that two daemons never wait for each other.
_UPSERT: Final = """given AS (
    SELECT * FROM unnest(%(uuid)s::text[], %(username)s::text[], %(name)s::text[], %(hostname)s::text[],
        %(pid)s::integer[], %(connected)s::boolean[])
    WITH ORDINALITY AS given (uuid, username, name, hostname, pid, connected, n)),
upsert AS (
    INSERT INTO agents
        (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt", "connectedBy")
    SELECT uuid, username, name, hostname, pid, connected, now(), now(),
        CASE WHEN connected THEN %(instance)s::uuid END
    FROM given WHERE EXISTS (SELECT FROM ticket) ORDER BY uuid
    ON CONFLICT (uuid) DO UPDATE SET username = excluded.username, name = excluded.name,
        hostname = excluded.hostname, pid = excluded.pid, connected = excluded.connected,
        "updatedAt" = excluded."updatedAt", "connectedBy" = excluded."connectedBy"
    RETURNING id, uuid),
upserted AS (
    SELECT given.uuid, upsert.id, -given.n AS n FROM upsert JOIN given ON given.uuid = upsert.uuid)"""

_DEPARTURES: Final = """departures AS (
    UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now()
    WHERE uuid = ANY(%(departed)s::text[]) AND connected AND "connectedBy" = %(instance)s
    AND EXISTS (SELECT FROM ticket))"""

_MESSAGES: Final = """message AS MATERIALIZED (
    SELECT * FROM unnest(%(agent)s::integer[], %(arrived)s::float8[], %(measured)s::float8[],
        %(adjusted)s::boolean[], %(key)s::uuid[])
    WITH ORDINALITY AS message (agent, arrived, measured, adjusted, key, n)
    WHERE EXISTS (SELECT FROM ticket))"""

_KEYS: Final = """keys AS (
    INSERT INTO message_keys (key) SELECT key FROM message WHERE key IS NOT NULL ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key)"""

_DELIVERIES: Final = """delivery AS (
    SELECT message, client, packet, decode(digest, 'hex') AS digest, dup
    FROM unnest(%(d_message)s::integer[], %(d_client)s::text[], %(d_packet)s::integer[],
        %(d_digest)s::text[], %(d_dup)s::boolean[]) AS delivery (message, client, packet, digest, dup)
    WHERE EXISTS (SELECT FROM ticket)),
new_delivery AS (
    INSERT INTO qos2_messages AS known ("clientId", "packetId", digest)
    SELECT client, packet, digest FROM delivery ORDER BY client, packet
    ON CONFLICT ("clientId", "packetId") DO UPDATE SET digest = excluded.digest, "createdAt" = now()
    WHERE known.digest <> excluded.digest OR NOT EXISTS (
        SELECT FROM delivery WHERE dup AND client = excluded."clientId" AND packet = excluded."packetId")
    RETURNING "clientId", "packetId"),
known_delivery AS (
    SELECT message FROM delivery
    WHERE (client, packet) NOT IN (SELECT "clientId", "packetId" FROM new_delivery))"""

_NEW_KEY: Final = "(key IS NULL OR key IN (SELECT key FROM keys))"
_NEW_DELIVERY: Final = "n NOT IN (SELECT message FROM known_delivery)"

_METRICS: Final = """metric AS (
    INSERT INTO metrics
        (type, value, "createdAt", "updatedAt", "agentId", "timestamp", "timestampAdjusted", number)
    SELECT metric.type, metric.value, to_timestamp(fresh.arrived), to_timestamp(fresh.arrived), {agent},
        to_timestamp(fresh.measured), fresh.adjusted, metric.number
    FROM unnest(%(message)s::integer[], %(type)s::text[], %(value)s::text[], %(number)s::float8[])
        WITH ORDINALITY AS metric (message, type, value, number, n)
    JOIN fresh ON fresh.n = metric.message {join}
    ORDER BY metric.n)"""
_UPSERTED_AGENT: Final = "CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END"
_JOIN_UPSERTED: Final = "LEFT JOIN upserted ON upserted.n = fresh.agent"

_REJECTIONS: Final = """rejections AS (
    INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
    SELECT topic, client, decode(payload, 'hex'), reason, to_timestamp(arrived)
    FROM unnest(%(r_message)s::integer[], %(r_topic)s::text[], %(r_client)s::text[], %(r_payload)s::text[],
        %(r_reason)s::text[], %(r_arrived)s::float8[])
        WITH ORDINALITY AS rejected (message, topic, client, payload, reason, arrived, n)
    WHERE EXISTS (SELECT FROM ticket) AND (message = 0{fresh})
    ORDER BY n)"""
_OF_FRESH: Final = " OR message IN (SELECT n FROM fresh)"

_RELEASES: Final = """releases AS (
    DELETE FROM qos2_messages
    USING unnest(%(q_client)s::text[], %(q_packet)s::integer[]) AS released (client, packet)
    WHERE "clientId" = client AND "packetId" = packet AND EXISTS (SELECT FROM ticket))"""

_FORGETS: Final = """forgets AS (
    DELETE FROM qos2_messages WHERE "clientId" = ANY(%(forgotten)s::text[])
    AND EXISTS (SELECT FROM ticket))"""

# Agents we remember have to be as we remember them, or the whole batch ends here.
_STALE: Final = """CASE WHEN (SELECT count(*) FROM agents WHERE id = ANY(%(remembered)s::integer[])
    AND connected AND "connectedBy" = %(instance)s) < %(remembered_count)s
    THEN platziverse_stale_agents() END"""


@frozen
class Parts:
    """Which parts a statement has."""

    remembered: bool
    upserts: bool
    departures: bool
    messages: bool
    keys: bool
    deliveries: bool
    metrics: bool
    rejections: bool
    releases: bool
    forgets: bool


@frozen
class Statement:
    """The SQL of one batch, its parameters, and what its answer will mean."""

    sql: str
    parameters: dict[str, Any]
    rows: Rows

    def outcome(self, answer: Sequence[Any]) -> Outcome:
        """What became of the messages.

        :param answer: the one row the statement returns.
        """
        written, fresh = answer[:2]
        rows = self.rows
        # A ticket that was known means that an earlier try had been committed after all.
        stored = fresh if written else rows.messages
        return Outcome(stored, rows.messages - stored + rows.repeated, rows.rejected)

    def remember(self, answer: Sequence[Any], known: dict[str, tuple[int, Agent]]) -> None:
        """Bring what is ``known`` of connected agents up to date."""
        for uuid in self.rows.departed:
            known.pop(uuid, None)
        for uuid, identifier in zip(answer[2] or (), answer[3] or (), strict=True):
            agent, connected = self.rows.upserts[uuid]
            known.pop(uuid, None)
            if connected:
                known[uuid] = identifier, agent


def build(
    entries: Sequence[Entry], known: Mapping[str, tuple[int, Agent]], instance: str, writer: str, batch: int
) -> Statement:
    """The statement that commits ``entries``.

    :param known: id and fields of the agents that ``instance`` has left connected, by uuid.
    :param writer: with ``batch`` the ticket.
    """
    rows = Rows(entries, known)
    parameters = {"instance": instance, "writer": writer, "batch": batch, **_columns(rows)}
    parts = Parts(
        remembered=bool(rows.remembered),
        upserts=bool(rows.upserts),
        departures=bool(rows.departed),
        messages=bool(rows.messages),
        keys=any(report.key is not None for report in rows.reports),
        deliveries=bool(rows.deliveries),
        metrics=bool(rows.types),
        rejections=bool(rows.rejections),
        releases=bool(rows.releases),
        forgets=bool(rows.forgotten),
    )
    return Statement(_sql(parts), parameters, rows)


@lru_cache(maxsize=1024)
def _sql(parts: Parts) -> str:
    clauses = [_TICKET]
    clauses += [_UPSERT] * parts.upserts + [_DEPARTURES] * parts.departures + [_MESSAGES] * parts.messages
    clauses += [_KEYS] * parts.keys + [_DELIVERIES] * parts.deliveries
    fresh = [_NEW_KEY] * parts.keys + [_NEW_DELIVERY] * parts.deliveries
    if parts.messages:
        clauses.append(f"fresh AS (SELECT * FROM message WHERE {' AND '.join(fresh) or 'true'})")
    if parts.metrics:
        agent, join = (_UPSERTED_AGENT, _JOIN_UPSERTED) if parts.upserts else ("fresh.agent", "")
        clauses.append(_METRICS.format(agent=agent, join=join))
    if parts.rejections:
        clauses.append(_REJECTIONS.format(fresh=_OF_FRESH if parts.messages else ""))
    clauses += [_RELEASES] * parts.releases + [_FORGETS] * parts.forgets
    answer = ["(SELECT count(*) FROM ticket)"]
    answer.append("(SELECT count(*) FROM fresh)" if parts.messages else "0")
    if parts.upserts:
        answer += [f"(SELECT array_agg({column} ORDER BY n) FROM upserted)" for column in ("uuid", "id")]
    else:
        answer += ["NULL", "NULL"]
    answer += [_STALE] * parts.remembered
    return f"WITH {', '.join(clauses)} SELECT {', '.join(answer)}"


def _columns(rows: Rows) -> dict[str, Any]:
    reports = rows.reports
    columns: dict[str, Any] = {
        "remembered": array(rows.remembered),
        "remembered_count": len(rows.remembered),
        "agent": array(rows.agents()),
        "arrived": array([report.arrived for report in reports]),
        "measured": array([report.measured for report in reports]),
        "adjusted": array([report.measured_adjusted for report in reports]),
        "key": array([report.key.hex() if report.key is not None else None for report in reports]),
        "message": array(rows.metric_message),
        "type": text_array(rows.types),
        "value": text_array(rows.values),
        "number": number_array(rows.values),
        "departed": text_array(rows.departed),
        "forgotten": text_array(rows.forgotten),
    }
    if rows.upserts:
        columns |= _agent_columns(rows)
    if rows.rejections:
        columns |= _rejection_columns(rows)
    if rows.deliveries or rows.releases:
        columns |= _packet_columns(rows)
    return columns


def _agent_columns(rows: Rows) -> dict[str, str]:
    agents = [agent for agent, _ in rows.upserts.values()]
    return {
        "uuid": text_array([agent.uuid for agent in agents]),
        "username": text_array([agent.username for agent in agents]),
        "name": text_array([agent.name for agent in agents]),
        "hostname": text_array([agent.hostname for agent in agents]),
        "pid": array([agent.pid for agent in agents]),
        "connected": array([connected for _, connected in rows.upserts.values()]),
    }


def _rejection_columns(rows: Rows) -> dict[str, str]:
    rejections = [rejection for _, rejection in rows.rejections]
    return {
        "r_message": array([message for message, _ in rows.rejections]),
        "r_topic": text_array([rejection.topic for rejection in rejections]),
        "r_client": text_array([rejection.client_id for rejection in rejections]),
        "r_payload": array([rejection.payload.hex() for rejection in rejections]),
        "r_reason": text_array([rejection.reason for rejection in rejections]),
        "r_arrived": array([rejection.arrived for rejection in rejections]),
    }


def _packet_columns(rows: Rows) -> dict[str, str]:
    deliveries = [delivery for _, delivery in rows.deliveries]
    return {
        "d_message": array([message for message, _ in rows.deliveries]),
        "d_client": text_array([delivery.client_id for delivery in deliveries]),
        "d_packet": array([delivery.packet_id for delivery in deliveries]),
        "d_digest": array([delivery.digest.hex() for delivery in deliveries]),
        "d_dup": array([delivery.dup for delivery in deliveries]),
        "q_client": text_array([release.client_id for release in rows.releases]),
        "q_packet": array([release.packet_id for release in rows.releases]),
    }
