"""Text: the SQL of a batch of reports, in parts.

A statement is atomic, so either everything in it is committed or nothing is. Its first part is the
ticket: a writer's number of the batch, which is never written twice. Without it nothing else happens.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Final

from platziverse.ingest.columns import Columns
from platziverse.ingest.kinds import Part, always

TICKET: Final = """ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1)"""

#: Ends the chances of the batch with this number, unless it is written already: then says so.
FENCE: Final = """INSERT INTO ingest_batches AS known (writer, batch, "updatedAt")
    VALUES (%(writer)s, %(batch)s + 1, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < %(batch)s;
    SELECT batch = %(batch)s FROM ingest_batches WHERE writer = %(writer)s"""

# In the order of uuids, so that two daemons never wait for each other. An agent that is there keeps its id:
# without one, a conflict would use up a number of the sequence at every reconnection; see docs/adr/0083.
_UPSERT: Final = """given AS (
    SELECT * FROM unnest(%(uuid)s::text[], %(username)s::text[], %(name)s::text[], %(hostname)s::text[],
        %(pid)s::integer[], %(connected)s::boolean[])
    WITH ORDINALITY AS given (uuid, username, name, hostname, pid, connected, n)),
upsert AS (
    INSERT INTO agents
        (id, uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt", "connectedBy")
    SELECT coalesce((SELECT id FROM agents WHERE agents.uuid = given.uuid), nextval('agents_id_seq')),
        uuid, username, name, hostname, pid, connected, now(), now(),
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

# The moment is that of the reading, where it gave one that is usable; see docs/adr/0161.
_MESSAGES: Final = """message AS MATERIALIZED (
    SELECT agent, to_timestamp(coalesce(measured, arrived)) AS moment, to_timestamp(arrived) AS arrived,
        to_timestamp(measured) AS measured, adjusted, key, n
    FROM unnest(%(agent)s::integer[], %(arrived)s::float8[], %(measured)s::float8[],
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
    SELECT metric.type, metric.value, fresh.moment, fresh.arrived, {agent},
        fresh.measured, fresh.adjusted, metric.number
    FROM unnest(%(message)s::integer[], %(type)s::text[], %(value)s::text[], %(number)s::float8[])
        WITH ORDINALITY AS metric (message, type, value, number, n)
    JOIN fresh ON fresh.n = metric.message {join}
    ORDER BY metric.n)"""
_UPSERTED_AGENT: Final = "CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END"
_JOIN_UPSERTED: Final = "LEFT JOIN upserted ON upserted.n = fresh.agent"

# Of what is marked here a job makes roll-ups; what is late is marked for its agent alone. See docs/adr/0162.
# The bucket is that of platziverse_bucket, which costs more than all else here if it is called for each row.
_MARKS: Final = """marks AS (
    INSERT INTO metrics_marks (bucket, "agentId")
    SELECT to_timestamp(bucket * 300), agent FROM (
        SELECT DISTINCT floor(date_part('epoch', fresh.moment) / 300) AS bucket,
            CASE WHEN fresh.moment < now() - interval '10 min' THEN {agent} END AS agent
        FROM fresh {join}) AS touched)"""

# One that is known stays as it is, unless a rule says more of it now.
_SERIES: Final = """series AS (
    INSERT INTO series AS known ("agentId", type, unit, rule)
    SELECT {agent}, new.type, new.unit, new.rule
    FROM unnest(%(s_message)s::integer[], %(s_type)s::text[], %(s_unit)s::text[], %(s_rule)s::text[])
        AS new (message, type, unit, rule)
    JOIN message AS fresh ON fresh.n = new.message {join}
    ORDER BY 1, 2
    ON CONFLICT ("agentId", type) DO UPDATE SET unit = excluded.unit, rule = excluded.rule
    WHERE excluded.rule IS NOT NULL
    AND (known.unit, known.rule) IS DISTINCT FROM (excluded.unit, excluded.rule))"""

_REJECTIONS: Final = """rejections AS (
    INSERT INTO rejected_messages
        (topic, "clientId", address, payload, reason, "createdAt", "fullSize", "fullDigest", properties)
    SELECT topic, client, address, decode(payload, 'hex'), reason, to_timestamp(arrived), size,
        decode(digest, 'hex'), properties::jsonb
    FROM unnest(%(r_message)s::integer[], %(r_topic)s::text[], %(r_client)s::text[], %(r_address)s::text[],
        %(r_payload)s::text[], %(r_reason)s::text[], %(r_arrived)s::float8[], %(r_size)s::integer[],
        %(r_digest)s::text[], %(r_properties)s::text[]) WITH ORDINALITY
        AS rejected (message, topic, client, address, payload, reason, arrived, size, digest, properties, n)
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

# Whoever has fenced this daemon has its Sessions, whose clients send again what is not acknowledged. No lock,
# as signs of life and batches of Sessions write the same row all the time. See docs/adr/0230.
_FENCED: Final = """CASE WHEN NOT EXISTS (SELECT FROM mqtt_daemons
    WHERE id = %(daemon)s AND incarnation = %(incarnation)s) THEN platziverse_fenced() END"""

# A trigger that returns nothing leaves rows out without an error, and their metrics would be nobody's. This
# text is no number, so the batch fails with it, and is held like all that the set-up refuses.
_LEFT_OUT: Final = """(CASE WHEN EXISTS (SELECT FROM ticket)
    AND (SELECT count(*) FROM upsert) < (SELECT count(*) FROM given)
    THEN 'a trigger or rule keeps rows out of agents' ELSE '0' END)::integer"""


def _fresh(present: frozenset[str]) -> str:
    conditions = [_NEW_KEY] * ("keys" in present) + [_NEW_DELIVERY] * ("deliveries" in present)
    return f"fresh AS (SELECT * FROM message WHERE {' AND '.join(conditions) or 'true'})"


def _of_agents(sql: str) -> Callable[[frozenset[str]], str]:
    """Return ``text`` of a part that needs the ids of agents, which those that are written have only then."""

    def text(present: frozenset[str]) -> str:
        agent, join = (_UPSERTED_AGENT, _JOIN_UPSERTED) if "agents" in present else ("fresh.agent", "")
        return sql.format(agent=agent, join=join)

    return text


def _rejections(present: frozenset[str]) -> str:
    return _REJECTIONS.format(fresh=_OF_FRESH if "messages" in present else "")


AGENTS: Final = Part("agents", attrgetter("upserts"), always(_UPSERT), Columns.of_agents)
DEPARTURES: Final = Part("departures", attrgetter("departed"), always(_DEPARTURES), Columns.of_departures)
MESSAGES: Final = Part("messages", attrgetter("reports"), always(_MESSAGES), Columns.of_messages)
KEYS: Final = Part("keys", attrgetter("keys"), always(_KEYS))
DELIVERIES: Final = Part("deliveries", attrgetter("deliveries"), always(_DELIVERIES), Columns.of_deliveries)
FRESH: Final = Part("fresh", attrgetter("reports"), _fresh)
METRICS: Final = Part("metrics", attrgetter("types"), _of_agents(_METRICS), Columns.of_metrics)
MARKS: Final = Part("marks", attrgetter("types"), _of_agents(_MARKS))
SERIES: Final = Part("series", attrgetter("series"), _of_agents(_SERIES), Columns.of_series)
REJECTIONS: Final = Part("rejections", attrgetter("rejections"), _rejections, Columns.of_rejections)
RELEASES: Final = Part("releases", attrgetter("releases"), always(_RELEASES), Columns.of_releases)
FORGETS: Final = Part("forgets", attrgetter("forgotten"), always(_FORGETS), Columns.of_forgets)
#: No expressions of their own, but conditions in the answer.
FENCED: Final = Part("fenced", attrgetter("fenced"), always(""))
REMEMBERED: Final = Part("remembered", attrgetter("remembered"), always(""), Columns.of_remembered)


def answer(present: frozenset[str]) -> str:
    """Return the columns that the statement selects, in one row.

    They are 1 or 0: the ticket is new or known; the number of new messages; uuids and ids of the upserted
    agents; and those that only raise an error, when there are upserted or remembered agents, or when all was
    to be written under one incarnation.
    """
    columns = ["(SELECT count(*) FROM ticket)"]
    columns.append("(SELECT count(*) FROM fresh)" if "fresh" in present else "0")
    if "agents" in present:
        columns += [f"(SELECT array_agg({column} ORDER BY n) FROM upserted)" for column in ("uuid", "id")]
    else:
        columns += ["NULL", "NULL"]
    columns += [_LEFT_OUT] * ("agents" in present)
    columns += [_STALE] * ("remembered" in present)
    return ", ".join(columns + [_FENCED] * ("fenced" in present))
