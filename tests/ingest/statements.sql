-- everything
WITH ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1), given AS (
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
    SELECT given.uuid, upsert.id, -given.n AS n FROM upsert JOIN given ON given.uuid = upsert.uuid), departures AS (
    UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now()
    WHERE uuid = ANY(%(departed)s::text[]) AND connected AND "connectedBy" = %(instance)s
    AND EXISTS (SELECT FROM ticket)), message AS MATERIALIZED (
    SELECT agent, to_timestamp(coalesce(measured, arrived)) AS moment, to_timestamp(arrived) AS arrived,
        to_timestamp(measured) AS measured, adjusted, key, n
    FROM unnest(%(agent)s::integer[], %(arrived)s::float8[], %(measured)s::float8[],
        %(adjusted)s::boolean[], %(key)s::uuid[])
    WITH ORDINALITY AS message (agent, arrived, measured, adjusted, key, n)
    WHERE EXISTS (SELECT FROM ticket)), keys AS (
    INSERT INTO message_keys (key) SELECT key FROM message WHERE key IS NOT NULL ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key), delivery AS (
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
    WHERE (client, packet) NOT IN (SELECT "clientId", "packetId" FROM new_delivery)), fresh AS (SELECT * FROM message WHERE (key IS NULL OR key IN (SELECT key FROM keys)) AND n NOT IN (SELECT message FROM known_delivery)), metric AS (
    INSERT INTO metrics
        (type, value, "createdAt", "updatedAt", "agentId", "timestamp", "timestampAdjusted", number)
    SELECT metric.type, metric.value, fresh.moment, fresh.arrived, CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END,
        fresh.measured, fresh.adjusted, metric.number
    FROM unnest(%(message)s::integer[], %(type)s::text[], %(value)s::text[], %(number)s::float8[])
        WITH ORDINALITY AS metric (message, type, value, number, n)
    JOIN fresh ON fresh.n = metric.message LEFT JOIN upserted ON upserted.n = fresh.agent
    ORDER BY metric.n), marks AS (
    INSERT INTO metrics_marks (bucket, "agentId")
    SELECT to_timestamp(bucket * 300), agent FROM (
        SELECT DISTINCT floor(date_part('epoch', fresh.moment) / 300) AS bucket,
            CASE WHEN fresh.moment < now() - interval '10 min' THEN CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END END AS agent
        FROM fresh LEFT JOIN upserted ON upserted.n = fresh.agent) AS touched), rejections AS (
    INSERT INTO rejected_messages
        (topic, "clientId", address, payload, reason, "createdAt", "fullSize", "fullDigest", properties)
    SELECT topic, client, address, decode(payload, 'hex'), reason, to_timestamp(arrived), size,
        decode(digest, 'hex'), properties::jsonb
    FROM unnest(%(r_message)s::integer[], %(r_topic)s::text[], %(r_client)s::text[], %(r_address)s::text[],
        %(r_payload)s::text[], %(r_reason)s::text[], %(r_arrived)s::float8[], %(r_size)s::integer[],
        %(r_digest)s::text[], %(r_properties)s::text[]) WITH ORDINALITY
        AS rejected (message, topic, client, address, payload, reason, arrived, size, digest, properties, n)
    WHERE EXISTS (SELECT FROM ticket) AND (message = 0 OR message IN (SELECT n FROM fresh))
    ORDER BY n), releases AS (
    DELETE FROM qos2_messages
    USING unnest(%(q_client)s::text[], %(q_packet)s::integer[]) AS released (client, packet)
    WHERE "clientId" = client AND "packetId" = packet AND EXISTS (SELECT FROM ticket)), forgets AS (
    DELETE FROM qos2_messages WHERE "clientId" = ANY(%(forgotten)s::text[])
    AND EXISTS (SELECT FROM ticket)) SELECT (SELECT count(*) FROM ticket), (SELECT count(*) FROM fresh), (SELECT array_agg(uuid ORDER BY n) FROM upserted), (SELECT array_agg(id ORDER BY n) FROM upserted), (CASE WHEN EXISTS (SELECT FROM ticket)
    AND (SELECT count(*) FROM upsert) < (SELECT count(*) FROM given)
    THEN 'a trigger or rule keeps rows out of agents' ELSE '0' END)::integer;
-- a report of a known agent
WITH ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1), message AS MATERIALIZED (
    SELECT agent, to_timestamp(coalesce(measured, arrived)) AS moment, to_timestamp(arrived) AS arrived,
        to_timestamp(measured) AS measured, adjusted, key, n
    FROM unnest(%(agent)s::integer[], %(arrived)s::float8[], %(measured)s::float8[],
        %(adjusted)s::boolean[], %(key)s::uuid[])
    WITH ORDINALITY AS message (agent, arrived, measured, adjusted, key, n)
    WHERE EXISTS (SELECT FROM ticket)), keys AS (
    INSERT INTO message_keys (key) SELECT key FROM message WHERE key IS NOT NULL ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key), fresh AS (SELECT * FROM message WHERE (key IS NULL OR key IN (SELECT key FROM keys))), metric AS (
    INSERT INTO metrics
        (type, value, "createdAt", "updatedAt", "agentId", "timestamp", "timestampAdjusted", number)
    SELECT metric.type, metric.value, fresh.moment, fresh.arrived, fresh.agent,
        fresh.measured, fresh.adjusted, metric.number
    FROM unnest(%(message)s::integer[], %(type)s::text[], %(value)s::text[], %(number)s::float8[])
        WITH ORDINALITY AS metric (message, type, value, number, n)
    JOIN fresh ON fresh.n = metric.message 
    ORDER BY metric.n), marks AS (
    INSERT INTO metrics_marks (bucket, "agentId")
    SELECT to_timestamp(bucket * 300), agent FROM (
        SELECT DISTINCT floor(date_part('epoch', fresh.moment) / 300) AS bucket,
            CASE WHEN fresh.moment < now() - interval '10 min' THEN fresh.agent END AS agent
        FROM fresh ) AS touched) SELECT (SELECT count(*) FROM ticket), (SELECT count(*) FROM fresh), NULL, NULL, CASE WHEN (SELECT count(*) FROM agents WHERE id = ANY(%(remembered)s::integer[])
    AND connected AND "connectedBy" = %(instance)s) < %(remembered_count)s
    THEN platziverse_stale_agents() END;
-- a report of a new agent
WITH ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1), given AS (
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
    SELECT given.uuid, upsert.id, -given.n AS n FROM upsert JOIN given ON given.uuid = upsert.uuid), message AS MATERIALIZED (
    SELECT agent, to_timestamp(coalesce(measured, arrived)) AS moment, to_timestamp(arrived) AS arrived,
        to_timestamp(measured) AS measured, adjusted, key, n
    FROM unnest(%(agent)s::integer[], %(arrived)s::float8[], %(measured)s::float8[],
        %(adjusted)s::boolean[], %(key)s::uuid[])
    WITH ORDINALITY AS message (agent, arrived, measured, adjusted, key, n)
    WHERE EXISTS (SELECT FROM ticket)), fresh AS (SELECT * FROM message WHERE true), metric AS (
    INSERT INTO metrics
        (type, value, "createdAt", "updatedAt", "agentId", "timestamp", "timestampAdjusted", number)
    SELECT metric.type, metric.value, fresh.moment, fresh.arrived, CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END,
        fresh.measured, fresh.adjusted, metric.number
    FROM unnest(%(message)s::integer[], %(type)s::text[], %(value)s::text[], %(number)s::float8[])
        WITH ORDINALITY AS metric (message, type, value, number, n)
    JOIN fresh ON fresh.n = metric.message LEFT JOIN upserted ON upserted.n = fresh.agent
    ORDER BY metric.n), marks AS (
    INSERT INTO metrics_marks (bucket, "agentId")
    SELECT to_timestamp(bucket * 300), agent FROM (
        SELECT DISTINCT floor(date_part('epoch', fresh.moment) / 300) AS bucket,
            CASE WHEN fresh.moment < now() - interval '10 min' THEN CASE WHEN fresh.agent > 0 THEN fresh.agent ELSE upserted.id END END AS agent
        FROM fresh LEFT JOIN upserted ON upserted.n = fresh.agent) AS touched) SELECT (SELECT count(*) FROM ticket), (SELECT count(*) FROM fresh), (SELECT array_agg(uuid ORDER BY n) FROM upserted), (SELECT array_agg(id ORDER BY n) FROM upserted), (CASE WHEN EXISTS (SELECT FROM ticket)
    AND (SELECT count(*) FROM upsert) < (SELECT count(*) FROM given)
    THEN 'a trigger or rule keeps rows out of agents' ELSE '0' END)::integer;
-- rejections
WITH ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1), rejections AS (
    INSERT INTO rejected_messages
        (topic, "clientId", address, payload, reason, "createdAt", "fullSize", "fullDigest", properties)
    SELECT topic, client, address, decode(payload, 'hex'), reason, to_timestamp(arrived), size,
        decode(digest, 'hex'), properties::jsonb
    FROM unnest(%(r_message)s::integer[], %(r_topic)s::text[], %(r_client)s::text[], %(r_address)s::text[],
        %(r_payload)s::text[], %(r_reason)s::text[], %(r_arrived)s::float8[], %(r_size)s::integer[],
        %(r_digest)s::text[], %(r_properties)s::text[]) WITH ORDINALITY
        AS rejected (message, topic, client, address, payload, reason, arrived, size, digest, properties, n)
    WHERE EXISTS (SELECT FROM ticket) AND (message = 0)
    ORDER BY n) SELECT (SELECT count(*) FROM ticket), 0, NULL, NULL;
-- departures and releases
WITH ticket AS (
    INSERT INTO ingest_batches AS known (writer, batch, "updatedAt") VALUES (%(writer)s, %(batch)s, now())
    ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, "updatedAt" = now()
    WHERE known.batch < excluded.batch RETURNING 1), departures AS (
    UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now()
    WHERE uuid = ANY(%(departed)s::text[]) AND connected AND "connectedBy" = %(instance)s
    AND EXISTS (SELECT FROM ticket)), releases AS (
    DELETE FROM qos2_messages
    USING unnest(%(q_client)s::text[], %(q_packet)s::integer[]) AS released (client, packet)
    WHERE "clientId" = client AND "packetId" = packet AND EXISTS (SELECT FROM ticket)) SELECT (SELECT count(*) FROM ticket), 0, NULL, NULL;
