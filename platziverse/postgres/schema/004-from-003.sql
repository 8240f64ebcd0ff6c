-- What outlives the daemon: Sessions, messages that wait for them, Retained Messages and Wills; see docs/adr/0111.
-- No foreign keys, as for metrics (docs/adr/0009): rows that nobody needs go with the hourly maintenance.

ALTER TABLE mqtt_daemons
    -- The run of the process that holds the incarnation; see docs/adr/0112.
    ADD COLUMN run uuid,
    -- Of its host, and of platziverse.
    ADD COLUMN name text,
    ADD COLUMN version text,
    -- The daemons with this bus share their clients; NULL: with nobody. See docs/adr/0140.
    ADD COLUMN bus text,
    -- The daemon that takes over what this one has left behind, until this one comes back; see docs/adr/0141.
    ADD COLUMN heir smallint,
    -- When it has stopped and left everything to the others.
    ADD COLUMN "leftAt" timestamptz;

CREATE TABLE mqtt_sessions (
    id serial PRIMARY KEY,
    "clientId" text NOT NULL UNIQUE,
    -- The login, which is asked again before anything is delivered.
    username text,
    -- The owner.
    daemon smallint NOT NULL,
    -- Of the protocol: 4 is MQTT 3.1.1.
    version smallint NOT NULL DEFAULT 4,
    -- Seconds that it is kept while its client is absent; 0: for ever.
    expiry bigint NOT NULL,
    -- NULL while its client is connected.
    "absentSince" timestamptz,
    -- A hint: nothing waits at or below this position.
    head bigint NOT NULL DEFAULT 0,
    "createdAt" timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE INDEX mqtt_sessions_daemon_idx ON mqtt_sessions (daemon, id);

CREATE TABLE mqtt_subscriptions (
    session integer NOT NULL,
    filter text COLLATE "C" NOT NULL,
    -- The QoS in the two lowest bits; the others are for MQTT 5, as is the next column.
    options smallint NOT NULL,
    identifier integer,
    -- Retained Messages are still owed.
    replay boolean NOT NULL DEFAULT false,
    PRIMARY KEY (session, filter)
);

-- What several receivers wait for.
CREATE TABLE mqtt_messages (
    -- The number of the daemon times 2^48, and a number of the message.
    id bigint PRIMARY KEY,
    topic text NOT NULL,
    payload bytea NOT NULL,
    properties bytea,
    "expiresAt" timestamptz,
    "publishedAt" timestamptz NOT NULL,
    flags smallint NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- A row for each receiver of each message that waits.
CREATE TABLE mqtt_queue (
    -- Above 0 a Session, below 0 a link: minus (the daemon that owes times 2^15, and the one that is owed).
    session integer NOT NULL,
    -- Position in the queue; the Packet Identifier is (seq - 1) % 65535 + 1.
    seq bigint NOT NULL,
    -- The QoS in the two lowest bits; 4: RETAIN; 8: PUBREC came, so nothing but the row is kept.
    flags smallint NOT NULL,
    -- Either the message, in mqtt_messages …
    message bigint,
    -- … or, for a single receiver, here.
    topic text,
    payload bytea,
    properties bytea,
    "expiresAt" timestamptz,
    "publishedAt" timestamptz,
    PRIMARY KEY (session, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Packet Identifiers of QoS 2 messages that are routed and not yet released by PUBREL. Those that have become rows
-- of metrics are in qos2_messages: another writer commits them, and a crash may come between the two; docs/adr/0119.
CREATE TABLE mqtt_incoming (
    "clientId" text NOT NULL,
    "packetId" integer NOT NULL,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("clientId", "packetId")
);

CREATE SEQUENCE mqtt_retained_version;

CREATE TABLE mqtt_retained (
    topic text COLLATE "C" PRIMARY KEY,
    payload bytea NOT NULL,
    -- The QoS in the two lowest bits.
    flags smallint NOT NULL,
    properties bytea,
    "expiresAt" timestamptz,
    -- Who has published it.
    "clientId" text,
    username text,
    -- The higher one is the newer one.
    version bigint NOT NULL DEFAULT nextval('mqtt_retained_version'),
    "updatedAt" timestamptz NOT NULL DEFAULT now()
);

ALTER SEQUENCE mqtt_retained_version OWNED BY mqtt_retained.version;

CREATE TABLE mqtt_wills (
    "clientId" text NOT NULL,
    username text,
    -- Whose client has left it; the negative number of its heir: to be published by that one.
    daemon smallint NOT NULL,
    -- The connection that has left it.
    connection bigint NOT NULL,
    topic text NOT NULL,
    payload bytea NOT NULL,
    -- The QoS in the two lowest bits; 4: RETAIN.
    flags smallint NOT NULL,
    properties bytea,
    -- MQTT 5, Will Delay Interval: set when the connection ends.
    "dueAt" timestamptz,
    PRIMARY KEY ("clientId", daemon)
);

CREATE INDEX mqtt_wills_daemon_idx ON mqtt_wills (daemon);

-- What an operator asks of a daemon that runs, which takes its rows with its next sign of life; see docs/adr/0118.
CREATE TABLE mqtt_requests (
    daemon smallint NOT NULL,
    request text NOT NULL,
    argument text NOT NULL,
    "requestedAt" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (daemon, request, argument)
);

-- Ends a batch whose daemon does not hold its row of mqtt_daemons any more.
CREATE FUNCTION platziverse_fenced() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this daemon was taken for dead, or its identity is used by another one' USING ERRCODE = 'PV003';
END $$;

-- Deletes at most so many rows of a table, of those for which the condition holds. Returns how many.
CREATE FUNCTION platziverse_delete(name text, condition text, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    rows integer;
BEGIN
    EXECUTE format('DELETE FROM %1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$I WHERE %2$s LIMIT %3$s))',
        name, condition, most);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;

-- Deletes what Sessions that are gone have left behind, and messages that nobody waits for: at most so many rows of
-- each table. Returns how many. A message and the rows that refer to it are written by one statement, so this one sees
-- both or neither; the hour is for whoever moves rows from one queue to another.
CREATE FUNCTION platziverse_forget_sessions(most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone integer[];
    forgotten integer;
BEGIN
    -- From one Session to the next in the index; grouping would read every message.
    gone := ARRAY(WITH RECURSIVE waiting AS (
        (SELECT session FROM mqtt_queue WHERE session > 0 ORDER BY session LIMIT 1)
        UNION ALL SELECT (SELECT queue.session FROM mqtt_queue AS queue WHERE queue.session > waiting.session
            ORDER BY queue.session LIMIT 1) FROM waiting WHERE session IS NOT NULL
    ) SELECT session FROM waiting WHERE session IS NOT NULL
        AND NOT EXISTS (SELECT FROM mqtt_sessions WHERE id = waiting.session) LIMIT 1000);
    forgotten := platziverse_delete('mqtt_queue', format('session = ANY (%L::integer[])', gone), most);
    forgotten := forgotten + platziverse_delete('mqtt_subscriptions',
        'NOT EXISTS (SELECT FROM mqtt_sessions WHERE id = mqtt_subscriptions.session)', most);
    RETURN forgotten + platziverse_delete('mqtt_messages', '"publishedAt" < now() - interval ''1 hour''
        AND NOT EXISTS (SELECT FROM mqtt_queue WHERE message = mqtt_messages.id)', most);
END $$;

-- Forgets keys, QoS 2 messages and writers that have been silent for eight days, and daemons after one that own
-- nothing: at most so many rows of each table. Returns how many.
CREATE OR REPLACE FUNCTION platziverse_forget(moment timestamptz, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz := (date_trunc('day', least(moment, now()) AT TIME ZONE 'UTC') - interval '8 days')
        AT TIME ZONE 'UTC';
BEGIN
    DELETE FROM mqtt_daemons WHERE "seenAt" < least(moment, now()) - interval '1 day'
        AND NOT EXISTS (SELECT FROM agents WHERE connected AND "connectedBy" = instance)
        AND NOT EXISTS (SELECT FROM mqtt_sessions WHERE daemon = mqtt_daemons.id)
        AND NOT EXISTS (SELECT FROM mqtt_wills WHERE daemon IN (mqtt_daemons.id, -mqtt_daemons.id))
        AND NOT EXISTS (SELECT FROM mqtt_queue WHERE session < 0
            AND mqtt_daemons.id IN (-session >> 15, -session & 32767));
    RETURN platziverse_delete('message_keys_default', format('key < %L', platziverse_first_key(oldest)), most)
        + platziverse_delete('ingest_batches', format('"updatedAt" < %L', oldest), most)
        + platziverse_delete('qos2_messages', format('"createdAt" < %L', oldest), most)
        + platziverse_delete('mqtt_incoming', format('"createdAt" < %L', oldest), most);
END $$;

-- For hands: all of that, days of keys, and rejected messages after keep_rejected_days (0: never). Returns how many
-- days of keys.
CREATE OR REPLACE FUNCTION platziverse_prune(moment timestamptz DEFAULT now(), keep_rejected_days integer DEFAULT 90)
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
    WHILE platziverse_forget_sessions(1000000000) > 0 LOOP
    END LOOP;
    DELETE FROM rejected_messages WHERE keep_rejected_days > 0 AND "createdAt" < rejected;
    RETURN dropped;
END $$;
