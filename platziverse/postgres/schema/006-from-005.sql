-- Roll-ups: of each series what was measured in 5 minutes, and in 1 hour. A batch marks the buckets that it touches, in
-- its own transaction, and a job makes marked buckets anew from the metrics; see docs/adr/0161 to 0163.

-- "createdAt" is from now on the time of the reading, where it is usable; "updatedAt" is the arrival.

-- A bucket of all agents is on few pages.
CREATE INDEX metrics_created_brin ON metrics USING brin ("createdAt")
    WITH (pages_per_range = 16, autosummarize = on);

-- Append only: with a unique key a batch could meet a mark that the job is just taking away.
CREATE TABLE metrics_marks (
    bucket timestamptz NOT NULL,
    -- NULL: every agent.
    "agentId" integer
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX metrics_marks_bucket_idx ON metrics_marks (bucket);

CREATE TABLE metrics_5m (
    "agentId" integer NOT NULL,
    type varchar(255) NOT NULL,
    -- Where it begins.
    bucket timestamptz NOT NULL,
    -- How many numbers there are; texts do not count.
    n integer NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    -- A number beyond 1e290 counts as 1e290, so that no sum overflows.
    sum double precision NOT NULL,
    last double precision NOT NULL,
    PRIMARY KEY ("agentId", type, bucket)
) PARTITION BY RANGE (bucket);

CREATE TABLE metrics_5m_default PARTITION OF metrics_5m DEFAULT;

CREATE TABLE metrics_1h (
    "agentId" integer NOT NULL,
    type varchar(255) NOT NULL,
    bucket timestamptz NOT NULL,
    n integer NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    sum double precision NOT NULL,
    last double precision NOT NULL,
    PRIMARY KEY ("agentId", type, bucket)
) PARTITION BY RANGE (bucket);

CREATE TABLE metrics_1h_default PARTITION OF metrics_1h DEFAULT;

-- The bucket of a moment. date_bin would need PostgreSQL 14.
CREATE FUNCTION platziverse_bucket(moment timestamptz, seconds integer DEFAULT 300) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT to_timestamp(floor(extract(epoch FROM moment)::double precision / seconds) * seconds)
$$;

-- What the metrics say of a bucket of 5 minutes, for these agents, or for all if they are NULL.
CREATE FUNCTION platziverse_read_bucket(since timestamptz, agents integer[])
RETURNS TABLE (
    of_agent integer, of_type text, readings bigint, lowest float8, highest float8, total float8, latest float8)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    month timestamptz := date_trunc('month', since AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    next_month timestamptz := (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    IF agents IS NULL THEN
        RETURN QUERY SELECT "agentId", type::text, count(*), min(number), max(number),
            sum(greatest(least(number, 1e290), -1e290)), (array_agg(number ORDER BY "createdAt" DESC, id DESC))[1]
        FROM metrics WHERE "createdAt" >= since AND "createdAt" < since + interval '5 min'
        AND number IS NOT NULL AND "agentId" IS NOT NULL GROUP BY "agentId", type;
        RETURN;
    END IF;
    -- From one type of an agent to the next in the index; see docs/adr/0162.
    RETURN QUERY SELECT agent, kind.type::text, one.*
    FROM unnest(agents) AS agent,
    LATERAL (WITH RECURSIVE types AS (
        (SELECT type FROM metrics WHERE "agentId" = agent
            AND "createdAt" >= month AND "createdAt" < next_month ORDER BY type LIMIT 1)
        UNION ALL SELECT (SELECT metrics.type FROM metrics WHERE "agentId" = agent AND metrics.type > types.type
            AND "createdAt" >= month AND "createdAt" < next_month ORDER BY metrics.type LIMIT 1)
        FROM types WHERE type IS NOT NULL
    ) SELECT type FROM types WHERE type IS NOT NULL) AS kind,
    LATERAL (SELECT count(*) AS counted, min(number), max(number), sum(greatest(least(number, 1e290), -1e290)),
            (array_agg(number ORDER BY "createdAt" DESC, id DESC))[1]
        FROM metrics WHERE "agentId" = agent AND type = kind.type
        AND "createdAt" >= since AND "createdAt" < since + interval '5 min' AND number IS NOT NULL) AS one
    WHERE one.counted > 0;
END $$;

-- Makes one bucket of 5 minutes anew. Returns the series that have changed, as two arrays. Metrics are never taken away
-- but with their month, so a roll-up that has more readings than there are metrics is left alone.
CREATE FUNCTION platziverse_roll_up_bucket(
    since timestamptz, agents integer[], OUT of_agents integer[], OUT of_types text[]) LANGUAGE plpgsql AS $$
BEGIN
    WITH changed AS (
        INSERT INTO metrics_5m AS known ("agentId", type, bucket, n, min, max, sum, last)
        SELECT of_agent, of_type, since, readings, lowest, highest, total, latest
        FROM platziverse_read_bucket(since, agents) AS made
        ON CONFLICT ("agentId", type, bucket) DO UPDATE
        SET n = excluded.n, min = excluded.min, max = excluded.max, sum = excluded.sum, last = excluded.last
        WHERE known.n <= excluded.n AND (known.n, known.min, known.max, known.sum, known.last)
            IS DISTINCT FROM (excluded.n, excluded.min, excluded.max, excluded.sum, excluded.last)
        RETURNING known."agentId", known.type
    ) SELECT array_agg("agentId"), array_agg(type::text) INTO of_agents, of_types FROM changed;
END $$;

-- Makes the hour of these series anew from its buckets of 5 minutes, by the same rule.
CREATE FUNCTION platziverse_roll_up_hour(since timestamptz, of_agents integer[], of_types text[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO metrics_1h AS known ("agentId", type, bucket, n, min, max, sum, last)
    SELECT "agentId", type, since, sum(n), min(min), max(max), sum(sum), (array_agg(last ORDER BY bucket DESC))[1]
    FROM (SELECT DISTINCT agent, kind FROM unnest(of_agents, of_types) AS given (agent, kind)) AS series
    JOIN metrics_5m ON "agentId" = agent AND type = kind AND bucket >= since AND bucket < since + interval '1 hour'
    GROUP BY "agentId", type
    ON CONFLICT ("agentId", type, bucket) DO UPDATE
    SET n = excluded.n, min = excluded.min, max = excluded.max, sum = excluded.sum, last = excluded.last
    WHERE known.n <= excluded.n AND (known.n, known.min, known.max, known.sum, known.last)
        IS DISTINCT FROM (excluded.n, excluded.min, excluded.max, excluded.sum, excluded.last)
$$;

-- The job: takes the marks of at most so many buckets that begin before a moment, the newest first, and makes those
-- buckets anew. Returns how many; 0 also while another daemon is at it. Each statement sees what was committed before
-- it, and a batch that commits later leaves a mark of its own. The newest months have no statistics yet, and plans that
-- are made without them read all of a month: hence the settings.
CREATE FUNCTION platziverse_roll_up(upto timestamptz, most integer) RETURNS integer LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    due timestamptz;
    agents integer[];
    changed record;
    done integer := 0;
    hour timestamptz;
    of_agents integer[];
    of_types text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('platziverse roll-up')) THEN
        RETURN 0;
    END IF;
    FOR due IN
        SELECT bucket FROM metrics_marks WHERE bucket < upto GROUP BY bucket ORDER BY bucket DESC LIMIT most
    LOOP
        WITH gone AS (DELETE FROM metrics_marks WHERE bucket = due RETURNING "agentId")
        SELECT array_agg(DISTINCT "agentId") INTO agents FROM gone;
        -- All agents cost as much as some dozens of single ones.
        IF array_position(agents, NULL) IS NOT NULL OR cardinality(agents) > 50 THEN
            agents := NULL;
        END IF;
        IF hour IS DISTINCT FROM platziverse_bucket(due, 3600) THEN
            PERFORM platziverse_roll_up_hour(hour, of_agents, of_types);
            hour := platziverse_bucket(due, 3600);
            of_agents := NULL;
            of_types := NULL;
        END IF;
        SELECT * INTO changed FROM platziverse_roll_up_bucket(due, agents);
        of_agents := of_agents || changed.of_agents;
        of_types := of_types || changed.of_types;
        done := done + 1;
    END LOOP;
    PERFORM platziverse_roll_up_hour(hour, of_agents, of_types);
    RETURN done;
END $$;

-- The partitions that a moment needs and that are not there, as platziverse_add_partition takes them.
CREATE OR REPLACE FUNCTION platziverse_missing_partitions(moment timestamptz DEFAULT now())
RETURNS TABLE (parent text, part text, key text, lower text, upper text) LANGUAGE sql STABLE AS $$
    WITH months AS (
        SELECT date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => ahead) AS since
        FROM generate_series(0, 2) AS ahead
    ) SELECT * FROM (
        SELECT of.parent, of.parent || to_char(since, '"_"YYYY_MM'), of.key,
            (since AT TIME ZONE 'UTC')::text, ((since + interval '1 month') AT TIME ZONE 'UTC')::text
        FROM (VALUES ('metrics', 'createdAt'), ('metrics_5m', 'bucket')) AS of (parent, key), months
        UNION ALL
        SELECT 'metrics_1h', to_char(since, '"metrics_1h_"YYYY'), 'bucket',
            (since AT TIME ZONE 'UTC')::text, ((since + interval '1 year') AT TIME ZONE 'UTC')::text
        FROM (SELECT DISTINCT date_trunc('year', since) AS since FROM months) AS years
        UNION ALL
        SELECT 'message_keys', to_char(since, '"message_keys_"YYYY_MM_DD'), 'key',
            platziverse_first_key(since AT TIME ZONE 'UTC')::text,
            platziverse_first_key((since + interval '1 day') AT TIME ZONE 'UTC')::text
        FROM generate_series(-8, 2) AS day,
            LATERAL (SELECT date_trunc('day', moment AT TIME ZONE 'UTC') + make_interval(days => day)) AS d (since)
    ) AS wanted (parent, part, key, lower, upper)
    WHERE to_regclass(quote_ident(wanted.part)) IS NULL
$$;

-- For hands: makes them. Returns how many were missing.
CREATE OR REPLACE FUNCTION platziverse_add_partitions(moment timestamptz DEFAULT now()) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    wanted record;
    added integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('platziverse partitions'));
    FOR wanted IN SELECT * FROM platziverse_missing_partitions(moment) LOOP
        added := added + platziverse_add_partition(
            wanted.parent, wanted.part, wanted.key, wanted.lower, wanted.upper)::integer;
    END LOOP;
    RETURN added;
END $$;

-- Marks every bucket in which there are metrics, and makes the partitions for their roll-ups. A month that is larger than
-- a gigabyte is not read for that: all of its buckets are marked. Returns how many marks.
CREATE FUNCTION platziverse_mark_all() RETURNS bigint LANGUAGE plpgsql SET jit = off AS $$
DECLARE
    part text;
    since timestamptz;
    filled boolean;
    marks bigint;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'metrics'::regclass AND relname ~ '^metrics_\d{4}_\d\d$' ORDER BY relname
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', part) INTO filled;
        CONTINUE WHEN NOT filled;
        since := to_date(right(part, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC';
        PERFORM platziverse_add_partition(missing.parent, missing.part, missing.key, missing.lower, missing.upper)
            FROM platziverse_missing_partitions(since) AS missing
            WHERE missing.parent IN ('metrics_5m', 'metrics_1h')
            AND missing.lower::timestamptz <= since AND missing.upper::timestamptz > since;
        IF pg_relation_size(quote_ident(part)::regclass) < 1073741824 THEN
            EXECUTE format('INSERT INTO metrics_marks (bucket) SELECT DISTINCT platziverse_bucket("createdAt") FROM %I', part);
        ELSE
            INSERT INTO metrics_marks (bucket) SELECT bucket FROM generate_series(
                since, (since AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' - interval '5 min',
                interval '5 min') AS bucket WHERE bucket < now();
        END IF;
    END LOOP;
    INSERT INTO metrics_marks (bucket) SELECT DISTINCT platziverse_bucket("createdAt") FROM metrics_default
        WHERE isfinite("createdAt");
    SELECT count(*) INTO marks FROM metrics_marks;
    RETURN marks;
END $$;

-- The partitions of a table that may be dropped. They ended before a moment, which is never later than now, and at least
-- as many that have rows remain as lie between that moment and now; see docs/adr/0082. One with marks waits for the
-- job, but for no longer than a month.
CREATE FUNCTION platziverse_old_parts(parent text, span text, moment timestamptz) RETURNS SETOF text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    form text := CASE span WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY' END;
    today timestamp := date_trunc(span, now() AT TIME ZONE 'UTC');
    since timestamp := least(date_trunc(span, moment AT TIME ZONE 'UTC'), today);
    wanted integer := extract(year FROM today) - extract(year FROM since) + 1;
    kept integer := 0;
    part text;
    filled boolean;
    begins timestamp;
    ends timestamp;
BEGIN
    IF span = 'month' THEN
        wanted := extract(year FROM age(today, since)) * 12 + extract(month FROM age(today, since)) + 1;
    END IF;
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = parent::regclass
        AND relname ~ format('^%s_%s$', parent, CASE span WHEN 'month' THEN '\d{4}_\d\d' ELSE '\d{4}' END)
        AND right(relname, length(form)) <= to_char(today, form) ORDER BY relname DESC
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', part) INTO filled;
        begins := to_date(right(part, length(form)), form);
        ends := begins + ('1 ' || span)::interval;
        IF begins < since AND (kept >= wanted OR NOT filled) THEN
            CONTINUE WHEN ends > since - interval '1 month' AND EXISTS (SELECT FROM metrics_marks
                WHERE bucket >= begins AT TIME ZONE 'UTC' AND bucket < ends AT TIME ZONE 'UTC');
            RETURN NEXT part;
        ELSIF filled THEN
            kept := kept + 1;
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION platziverse_old_months(moment timestamptz) RETURNS SETOF text LANGUAGE sql STABLE AS $$
    SELECT platziverse_old_parts('metrics', 'month', moment)
$$;

-- Before this moment roll-ups beside their partitions may be deleted: the same rule.
CREATE FUNCTION platziverse_oldest_roll_up(parent text, span text, moment timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT least(
        date_trunc(span, least(moment, now()) AT TIME ZONE 'UTC'),
        (SELECT min(to_date(substr(relname, length(parent) + 2), CASE span WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY' END))
            FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = parent::regclass AND relname ~ format('^%s_\d', parent)
            AND relname NOT IN (SELECT platziverse_old_parts(parent, span, moment)))
    ) AT TIME ZONE 'UTC'
$$;

-- Deletes agents that have gone before a moment and of which nothing is left, at most so many. Returns how many.
CREATE OR REPLACE FUNCTION platziverse_prune_agents(moment timestamptz, most integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := platziverse_oldest_kept(moment);
    rows integer;
BEGIN
    DELETE FROM agents WHERE id = ANY (ARRAY(
        SELECT id FROM agents WHERE NOT connected AND "updatedAt" < oldest
        -- Not NOT EXISTS: that would read all metrics.
        AND (SELECT true FROM metrics WHERE "agentId" = agents.id LIMIT 1) IS NULL
        AND (SELECT true FROM metrics_1h WHERE "agentId" = agents.id LIMIT 1) IS NULL
        AND (SELECT true FROM metrics_5m WHERE "agentId" = agents.id LIMIT 1) IS NULL
        LIMIT most FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;

-- What is known of an agent goes with it. The job must not add to it meanwhile.
CREATE OR REPLACE FUNCTION platziverse_forget_series() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('platziverse roll-up'));
    DELETE FROM series USING gone WHERE series."agentId" = gone.id;
    DELETE FROM metrics_5m USING gone WHERE metrics_5m."agentId" = gone.id;
    DELETE FROM metrics_1h USING gone WHERE metrics_1h."agentId" = gone.id;
    RETURN NULL;
END $$;

SELECT platziverse_add_partitions();
-- What is there already is rolled up when there is nothing else to do.
SELECT platziverse_mark_all();
