-- What asks the clock of the database, and what routine work uses up; see docs/adr/0082 to 0084.

-- A number that the original's driver reads as a number: bigint would reach its readers as a text. Exact up to
-- 2^53, which lasts 2,800 years at 100,000 metrics a second.
ALTER TABLE metrics ALTER COLUMN id TYPE double precision;

-- Long payloads are cut; NULL where the payload is whole. The digest is SHA-256 of all of it.
ALTER TABLE rejected_messages ADD COLUMN "fullSize" integer, ADD COLUMN "fullDigest" bytea;

-- The daemons that share this database.
CREATE TABLE mqtt_daemons (
    id smallint PRIMARY KEY,
    -- The identity in the state directory; agents name it in "connectedBy".
    instance uuid NOT NULL UNIQUE,
    -- One more at every start, and when another daemon takes this one for dead.
    incarnation integer NOT NULL DEFAULT 1,
    batch bigint NOT NULL DEFAULT 0,
    -- The last sign of life, by the clock of the database.
    "seenAt" timestamptz NOT NULL DEFAULT now(),
    address text
) WITH (fillfactor = 20);

-- The partitions that a moment needs and that are not there, as platziverse_add_partition takes them.
CREATE FUNCTION platziverse_missing_partitions(moment timestamptz DEFAULT now())
RETURNS TABLE (parent text, part text, key text, lower text, upper text) LANGUAGE sql STABLE AS $$
    SELECT * FROM (
        SELECT 'metrics', to_char(since, '"metrics_"YYYY_MM'), 'createdAt',
            (since AT TIME ZONE 'UTC')::text, ((since + interval '1 month') AT TIME ZONE 'UTC')::text
        FROM generate_series(0, 2) AS month,
            LATERAL (SELECT date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => month)) AS m (since)
        UNION ALL
        SELECT 'message_keys', to_char(since, '"message_keys_"YYYY_MM_DD'), 'key',
            platziverse_first_key(since AT TIME ZONE 'UTC')::text,
            platziverse_first_key((since + interval '1 day') AT TIME ZONE 'UTC')::text
        FROM generate_series(-8, 2) AS day,
            LATERAL (SELECT date_trunc('day', moment AT TIME ZONE 'UTC') + make_interval(days => day)) AS d (since)
    ) AS wanted (parent, part, key, lower, upper)
    WHERE to_regclass(quote_ident(wanted.part)) IS NULL
$$;

-- The months of metrics that may be dropped: they ended before a moment, which is never later than now, and at
-- least as many months that have rows remain as lie between that moment and now. So a clock that is years ahead
-- costs one month at most, whoever's it is; see docs/adr/0082.
CREATE FUNCTION platziverse_old_months(moment timestamptz) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
DECLARE
    today timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    since timestamp := least(date_trunc('month', moment AT TIME ZONE 'UTC'), today);
    wanted integer := extract(year FROM age(today, since)) * 12 + extract(month FROM age(today, since)) + 1;
    kept integer := 0;
    part text;
    filled boolean;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'metrics'::regclass AND relname ~ '^metrics_\d{4}_\d\d$'
        AND right(relname, 7) <= to_char(today, 'YYYY_MM') ORDER BY relname DESC
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', part) INTO filled;
        IF right(part, 7) < to_char(since, 'YYYY_MM') AND (kept >= wanted OR NOT filled) THEN
            RETURN NEXT part;
        ELSIF filled THEN
            kept := kept + 1;
        END IF;
    END LOOP;
END $$;

-- Before this moment metrics without a month of their own may be deleted: the same rule.
CREATE FUNCTION platziverse_oldest_kept(moment timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT least(
        date_trunc('month', least(moment, now()) AT TIME ZONE 'UTC'),
        (SELECT min(to_date(right(relname, 7), 'YYYY_MM')) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'metrics'::regclass AND relname ~ '^metrics_\d{4}_\d\d$'
            AND relname NOT IN (SELECT platziverse_old_months(moment))),
        (SELECT date_trunc('month', max("createdAt") AT TIME ZONE 'UTC') FROM metrics_default
            WHERE "createdAt" <= now())
    ) AT TIME ZONE 'UTC'
$$;

-- For hands: drops the months that ended before a moment. Returns how many.
CREATE OR REPLACE FUNCTION platziverse_drop_months(moment timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := platziverse_oldest_kept(moment);
    part text;
    dropped integer := 0;
BEGIN
    FOR part IN SELECT platziverse_old_months(moment) LOOP
        EXECUTE format('DROP TABLE %I', part);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM metrics_default WHERE "createdAt" < oldest;
    RETURN dropped;
END $$;

-- The days of keys that may be dropped: eight are kept.
CREATE FUNCTION platziverse_old_days(moment timestamptz DEFAULT now()) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'message_keys'::regclass AND relname ~ '^message_keys_\d{4}_\d\d_\d\d$'
    AND right(relname, 10) < to_char(
        date_trunc('day', least(moment, now()) AT TIME ZONE 'UTC') - interval '8 days', 'YYYY_MM_DD')
    ORDER BY 1
$$;

-- Before this moment rejected messages are too old: no more than one day of them, so that a clock that is wrong for
-- an hour costs one day and not all of them.
CREATE FUNCTION platziverse_rejected_before(days integer, moment timestamptz DEFAULT now()) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT least(least(moment, now()) - make_interval(days => days), min("createdAt") + interval '1 day')
    FROM rejected_messages
$$;

-- Forgets keys, QoS 2 messages and writers that have been silent for eight days, and daemons after one: at most so
-- many rows of each table. Returns how many.
CREATE FUNCTION platziverse_forget(moment timestamptz, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := (date_trunc('day', least(moment, now()) AT TIME ZONE 'UTC') - interval '8 days')
        AT TIME ZONE 'UTC';
    forgotten integer := 0;
    rows integer;
BEGIN
    DELETE FROM message_keys_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM message_keys_default WHERE key < platziverse_first_key(oldest) LIMIT most));
    GET DIAGNOSTICS rows = ROW_COUNT;
    forgotten := forgotten + rows;
    DELETE FROM ingest_batches WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ingest_batches WHERE "updatedAt" < oldest LIMIT most));
    GET DIAGNOSTICS rows = ROW_COUNT;
    forgotten := forgotten + rows;
    DELETE FROM qos2_messages WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM qos2_messages WHERE "createdAt" < oldest LIMIT most));
    GET DIAGNOSTICS rows = ROW_COUNT;
    forgotten := forgotten + rows;
    DELETE FROM mqtt_daemons WHERE "seenAt" < least(moment, now()) - interval '1 day'
        AND NOT EXISTS (SELECT FROM agents WHERE connected AND "connectedBy" = instance);
    RETURN forgotten;
END $$;

-- For hands: all of that, days of keys, and rejected messages after keep_rejected_days (0: never). Returns how many
-- days of keys.
DROP FUNCTION platziverse_prune(timestamptz);
CREATE FUNCTION platziverse_prune(moment timestamptz DEFAULT now(), keep_rejected_days integer DEFAULT 90)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    rejected timestamptz := platziverse_rejected_before(keep_rejected_days, moment);
    part text;
    dropped integer := 0;
BEGIN
    FOR part IN SELECT platziverse_old_days(moment) LOOP
        EXECUTE format('DROP TABLE %I', part);
        dropped := dropped + 1;
    END LOOP;
    PERFORM platziverse_forget(moment, 1000000000);
    DELETE FROM rejected_messages WHERE keep_rejected_days > 0 AND "createdAt" < rejected;
    RETURN dropped;
END $$;

-- The last of the rejected messages that have no room in so many bytes, counted from the newest; NULL: all have.
CREATE FUNCTION platziverse_rejected_beyond(bytes bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT id FROM (
        SELECT id, sum(100 + octet_length(payload) + octet_length(topic) + octet_length("clientId")
            + octet_length(reason)) OVER (ORDER BY id DESC) AS total
        FROM rejected_messages
    ) AS counted WHERE total > bytes ORDER BY id DESC LIMIT 1
$$;

-- Deletes agents that have gone before a moment and have no metrics any more: at most so many. Returns how many.
CREATE FUNCTION platziverse_prune_agents(moment timestamptz, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := platziverse_oldest_kept(moment);
    rows integer;
BEGIN
    DELETE FROM agents WHERE id = ANY (ARRAY(
        SELECT id FROM agents WHERE NOT connected AND "updatedAt" < oldest
        -- Not NOT EXISTS: that would read all metrics.
        AND (SELECT true FROM metrics WHERE "agentId" = agents.id LIMIT 1) IS NULL
        LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;
