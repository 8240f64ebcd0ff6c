-- Every row of the original into the tables of 001.sql. The original made several rows for one uuid:
-- the lowest id stays, the newest attributes stay, all metrics point to what stays.

INSERT INTO agents (id, uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
SELECT DISTINCT ON (uuid)
    min(id) OVER same, uuid, username, name, hostname, pid,
    bool_or(connected) OVER same, min("createdAt") OVER same, "updatedAt"
FROM platziverse_original.agents
WINDOW same AS (PARTITION BY uuid)
ORDER BY uuid, "updatedAt" DESC, id DESC;

-- A partition for every month that occurs; impossible dates stay in the default partition.
DO $$
DECLARE
    since timestamp;
BEGIN
    FOR since IN
        SELECT DISTINCT date_trunc('month', "createdAt" AT TIME ZONE 'UTC') FROM platziverse_original.metrics
        WHERE "createdAt" >= '2000-01-01' AND "createdAt" < '2100-01-01'
    LOOP
        PERFORM platziverse_add_partition(
            'metrics', to_char(since, '"metrics_"YYYY_MM'), 'createdAt',
            (since AT TIME ZONE 'UTC')::text, ((since + interval '1 month') AT TIME ZONE 'UTC')::text);
    END LOOP;
END $$;

INSERT INTO metrics (id, type, value, "createdAt", "updatedAt", "agentId", number)
SELECT m.id, m.type, m.value, m."createdAt", m."updatedAt", kept.id,
    CASE
        WHEN length(m.value) <= 300 AND m.value ~ '^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?$'
        THEN m.value::numeric::double precision
    END
FROM platziverse_original.metrics m
LEFT JOIN platziverse_original.agents old ON old.id = m."agentId"
LEFT JOIN agents kept ON kept.uuid = old.uuid;

DO $$
DECLARE
    name text;
    last bigint;
    before record;
BEGIN
    IF (SELECT count(*) FROM metrics) <> (SELECT count(*) FROM platziverse_original.metrics)
        OR (SELECT count(*) FROM agents) <> (SELECT count(DISTINCT uuid) FROM platziverse_original.agents)
        OR (SELECT count("agentId") FROM metrics) <> (SELECT count("agentId") FROM platziverse_original.metrics)
    THEN
        RAISE EXCEPTION 'rows were lost in the conversion';
    END IF;

    -- Numbers that were given out are never given out again.
    FOREACH name IN ARRAY ARRAY['agents', 'metrics'] LOOP
        EXECUTE format('SELECT max(id) FROM platziverse_original.%I', name) INTO last;
        IF last IS NOT NULL THEN
            PERFORM setval(pg_get_serial_sequence(name, 'id'), last);
        END IF;
        IF pg_get_serial_sequence('platziverse_original.' || name, 'id') IS NOT NULL THEN
            EXECUTE format('SELECT last_value, is_called FROM %s',
                pg_get_serial_sequence('platziverse_original.' || name, 'id')) INTO before;
            IF before.is_called AND before.last_value > coalesce(last, 0) THEN
                PERFORM setval(pg_get_serial_sequence(name, 'id'), before.last_value);
            END IF;
        END IF;
    END LOOP;

    -- Who could read and write them still can.
    FOR before IN
        SELECT relname, acl.privilege_type,
            CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END AS grantee
        FROM pg_class, aclexplode(coalesce(relacl, acldefault(
            CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, relowner))) acl
        WHERE relnamespace = 'platziverse_original'::regnamespace
        AND relname IN ('agents', 'metrics', 'agents_id_seq', 'metrics_id_seq')
        AND acl.grantee <> current_user::regrole
    LOOP
        EXECUTE format('GRANT %s ON %s %I TO %s', before.privilege_type,
            CASE WHEN before.relname LIKE '%\_id\_seq' THEN 'SEQUENCE' ELSE 'TABLE' END,
            before.relname, before.grantee);
    END LOOP;
END $$;

-- Not CASCADE: a view that somebody made on them stops the conversion instead of vanishing.
DROP TABLE platziverse_original.metrics, platziverse_original.agents;
DROP SCHEMA platziverse_original;

ANALYZE agents;
ANALYZE metrics;
