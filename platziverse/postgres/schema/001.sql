-- The tables. agents and metrics are those of the original platziverse; every further column is
-- nullable or has a default, so that the original's programs notice nothing.

CREATE TABLE agents (
    id serial PRIMARY KEY,
    uuid varchar(255) NOT NULL,
    username varchar(255) NOT NULL,
    name varchar(255) NOT NULL,
    hostname varchar(255) NOT NULL,
    pid integer NOT NULL,
    connected boolean NOT NULL DEFAULT false,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL,
    -- The daemon whose connection speaks for the agent; only that daemon says that it has gone.
    "connectedBy" uuid,
    CONSTRAINT agents_uuid_key UNIQUE (uuid)
);

CREATE INDEX agents_connected_idx ON agents (username) WHERE connected;

-- "createdAt" is the arrival, "timestamp" the agent's own time. No foreign key: see docs/adr/0009.
CREATE SEQUENCE metrics_id_seq AS bigint;

CREATE TABLE metrics (
    id bigint NOT NULL DEFAULT nextval('metrics_id_seq'),
    type varchar(255) NOT NULL,
    value text NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL,
    "agentId" integer,
    "timestamp" timestamptz,
    "timestampAdjusted" boolean NOT NULL DEFAULT false,
    -- The value, where it is a finite number.
    number double precision,
    CONSTRAINT metrics_pkey PRIMARY KEY (id, "createdAt")
) PARTITION BY RANGE ("createdAt");

ALTER SEQUENCE metrics_id_seq OWNED BY metrics.id;

CREATE INDEX metrics_agent_type_created_idx ON metrics ("agentId", type, "createdAt");

-- So that no clock, however wrong, makes an insert fail.
CREATE TABLE metrics_default PARTITION OF metrics DEFAULT;

CREATE TABLE rejected_messages (
    id bigserial PRIMARY KEY,
    topic text NOT NULL,
    "clientId" text NOT NULL,
    payload bytea NOT NULL,
    reason text NOT NULL,
    "createdAt" timestamptz NOT NULL,
    "replayedAt" timestamptz
);

-- A message that carries a timestamp is stored once: 48 bits of milliseconds, 80 of a hash. The time
-- comes first, so that a day is a range and new keys meet on the same pages.
CREATE TABLE message_keys (key uuid PRIMARY KEY) PARTITION BY RANGE (key);

CREATE TABLE message_keys_default PARTITION OF message_keys DEFAULT;

-- A batch is stored once: each writer numbers its batches, and a number is never written twice, not
-- even by a copy that a frozen server wakes up with much later.
CREATE TABLE ingest_batches (
    writer uuid PRIMARY KEY,
    batch bigint NOT NULL,
    "updatedAt" timestamptz NOT NULL
) WITH (fillfactor = 50);

-- QoS 2 messages that are stored and not yet released by PUBREL, of Sessions that outlive connections.
CREATE TABLE qos2_messages (
    "clientId" text NOT NULL,
    "packetId" integer NOT NULL,
    digest bytea NOT NULL,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("clientId", "packetId")
);

-- What the original's foreign key did when an agent was deleted.
CREATE FUNCTION platziverse_agent_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE metrics SET "agentId" = NULL WHERE "agentId" = OLD.id;
    RETURN NULL;
END $$;

CREATE TRIGGER agent_deleted AFTER DELETE ON agents
    FOR EACH ROW EXECUTE FUNCTION platziverse_agent_deleted();

-- Ends a batch whose writer remembers agents that are no longer as it left them.
CREATE FUNCTION platziverse_stale_agents() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'agents were changed by somebody else' USING ERRCODE = 'PV001';
END $$;

-- The smallest key of a moment.
CREATE FUNCTION platziverse_first_key(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Adds one partition, with the rows of the default partition that belong to it.
CREATE FUNCTION platziverse_add_partition(parent text, part text, key text, lower text, upper text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(quote_ident(part)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Attached rather than created in place: that would lock out readers and writers.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format(
        'WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *)'
        ' INSERT INTO %5$I SELECT * FROM moved', parent || '_default', key, lower, upper, part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, lower, upper);
    RETURN true;
END $$;

-- Makes the partitions around a moment: metrics for its month and the next two, keys for eight days
-- back and two ahead. Returns how many were missing.
CREATE FUNCTION platziverse_add_partitions(moment timestamptz DEFAULT now()) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    utc timestamp := moment AT TIME ZONE 'UTC';
    since timestamp;
    added integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('platziverse partitions'));
    FOR month IN 0..2 LOOP
        since := date_trunc('month', utc) + make_interval(months => month);
        added := added + platziverse_add_partition(
            'metrics', to_char(since, '"metrics_"YYYY_MM'), 'createdAt',
            (since AT TIME ZONE 'UTC')::text, ((since + interval '1 month') AT TIME ZONE 'UTC')::text)::integer;
    END LOOP;
    FOR day IN -8..2 LOOP
        since := date_trunc('day', utc) + make_interval(days => day);
        added := added + platziverse_add_partition(
            'message_keys', to_char(since, '"message_keys_"YYYY_MM_DD'), 'key',
            platziverse_first_key(since AT TIME ZONE 'UTC')::text,
            platziverse_first_key((since + interval '1 day') AT TIME ZONE 'UTC')::text)::integer;
    END LOOP;
    RETURN added;
END $$;

-- Drops the months of metrics that ended before a moment. Returns how many; a month takes as long as its file.
CREATE FUNCTION platziverse_drop_months(moment timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    since timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    part text;
    dropped integer := 0;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'metrics'::regclass
        AND relname ~ '^metrics_\d{4}_\d\d$' AND right(relname, 7) < to_char(since, 'YYYY_MM')
    LOOP
        EXECUTE format('DROP TABLE %I', part);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM metrics_default WHERE "createdAt" < since AT TIME ZONE 'UTC';
    RETURN dropped;
END $$;

-- Forgets keys and QoS 2 messages older than eight days, and writers that have not written for as long.
CREATE FUNCTION platziverse_prune(moment timestamptz DEFAULT now()) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamp := date_trunc('day', moment AT TIME ZONE 'UTC') - interval '8 days';
    part text;
    dropped integer := 0;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'message_keys'::regclass
        AND relname ~ '^message_keys_\d{4}_\d\d_\d\d$' AND right(relname, 10) < to_char(oldest, 'YYYY_MM_DD')
    LOOP
        EXECUTE format('DROP TABLE %I', part);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM message_keys_default WHERE key < platziverse_first_key(oldest AT TIME ZONE 'UTC');
    DELETE FROM ingest_batches WHERE "updatedAt" < oldest AT TIME ZONE 'UTC';
    DELETE FROM qos2_messages WHERE "createdAt" < oldest AT TIME ZONE 'UTC';
    RETURN dropped;
END $$;

SELECT platziverse_add_partitions();
