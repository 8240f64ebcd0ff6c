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

-- The partitions that a moment needs and that are not there: as platziverse_add_partition takes them.
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
-- costs nothing, whoever's it is; see docs/adr/0082.
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
