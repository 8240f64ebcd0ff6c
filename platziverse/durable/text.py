"""Text: the SQL of a batch of records, in parts.

A statement is atomic. Its first part is the ticket: the row of this daemon, which must be as we have left it,
with a lower number of the batch. Without it nothing else happens. No part sees what another one writes.
"""

from operator import attrgetter
from typing import Final

from platziverse.durable.columns import AWAY, HERE, PROPERTIES, PUBREC, UNCHANGED, SessionColumns
from platziverse.ingest.kinds import Part, always

#: Rows of an ended Session, and of all that end in one batch, that go with it; maintenance deletes the rest.
OF_ONE, OF_ALL = 1000, 5000

TICKET: Final = """ticket AS (
    UPDATE mqtt_daemons SET batch = %(batch)s, "seenAt" = now()
    WHERE id = %(daemon)s AND incarnation = %(incarnation)s AND batch < %(batch)s RETURNING 1)"""
_IF: Final = "EXISTS (SELECT FROM ticket)"

#: Ends the chances of the batch with this number, unless it is written already: then says so.
FENCE: Final = """UPDATE mqtt_daemons SET batch = %(batch)s + 1
    WHERE id = {daemon} AND incarnation = {incarnation} AND batch < %(batch)s;
    SELECT coalesce((SELECT batch = %(batch)s FROM mqtt_daemons
        WHERE id = {daemon} AND incarnation = {incarnation}), platziverse_fenced())"""
# No ticket: either the batch was written before, or the row is not ours any more.
_FENCED: Final = f"""CASE WHEN NOT {_IF} AND NOT EXISTS (SELECT FROM mqtt_daemons
    WHERE id = %(daemon)s AND incarnation = %(incarnation)s AND batch >= %(batch)s)
    THEN platziverse_fenced() END"""

_PACKED: Final = """{name}_given AS MATERIALIZED (SELECT decode(%({prefix}data)s, 'hex') AS data)"""
_PIECE: Final = "substring((SELECT data FROM {name}_given) FROM at FOR size)"

_DELETED: Final = f"""gone AS MATERIALIZED (
    SELECT * FROM unnest(%(gone_session)s::integer[], %(gone_seq)s::bigint[]) AS gone (session, seq)
    WHERE {_IF}),
deleted AS (
    DELETE FROM mqtt_queue USING gone WHERE mqtt_queue.session = gone.session AND mqtt_queue.seq = gone.seq),
over AS (
    DELETE FROM mqtt_messages WHERE id = ANY(%(over)s::bigint[]) AND {_IF})"""

_TRIMS: Final = f"""trim AS MATERIALIZED (
    SELECT * FROM unnest(%(t_session)s::integer[], %(t_after)s::bigint[], %(t_count)s::bigint[])
    AS trim (session, after, count) WHERE {_IF}),
trimmed AS (
    DELETE FROM mqtt_queue USING trim, LATERAL (
        SELECT seq FROM mqtt_queue AS waiting
        WHERE waiting.session = trim.session AND waiting.seq > trim.after {{and_not_gone}}
        ORDER BY waiting.seq LIMIT trim.count) AS first
    WHERE mqtt_queue.session = trim.session AND mqtt_queue.seq = first.seq RETURNING mqtt_queue.session)"""
_NOT_GONE: Final = "AND (waiting.session, waiting.seq) NOT IN (SELECT session, seq FROM gone)"

_MESSAGES: Final = f"""{_PACKED.format(name="message", prefix="")},
message AS MATERIALIZED (
    SELECT n, id, topic, {_PIECE.format(name="message")} AS payload, published
    FROM unnest(%(id)s::bigint[], %(topic)s::text[], %(at)s::integer[], %(size)s::integer[],
        %(published)s::float8[])
    WITH ORDINALITY AS message (id, topic, at, size, published, n) WHERE {_IF})"""
_SHARED: Final = """shared AS (
    INSERT INTO mqtt_messages (id, topic, payload, "publishedAt")
    SELECT id, topic, payload, to_timestamp(published) FROM message WHERE id > 0)"""
_QUEUED: Final = """queued AS (
    INSERT INTO mqtt_queue (session, seq, flags, message, topic, payload, "publishedAt")
    SELECT queue.session, queue.seq, queue.flags, nullif(id, 0), CASE id WHEN 0 THEN topic END,
        CASE id WHEN 0 THEN payload END, CASE id WHEN 0 THEN to_timestamp(published) END
    FROM {queue} JOIN message ON n = queue.message)"""
_QUEUE: Final = """unnest(%(session)s::integer[], %(seq)s::bigint[], %(flags)s::smallint[],
    %(message)s::integer[]) AS queue (session, seq, flags, message)"""
# What is to be dropped and was not in the table is among the first rows of this very batch.
_LEFT_OF_QUEUE: Final = f"""(
    SELECT ordered.* FROM (
        SELECT queue.*, row_number() OVER (PARTITION BY session ORDER BY seq) AS nth FROM {_QUEUE}) AS ordered
    LEFT JOIN trim ON trim.session = ordered.session
    WHERE trim.session IS NULL OR ordered.nth > trim.count - (
        SELECT count(*) FROM trimmed WHERE trimmed.session = trim.session)) AS queue"""

_RECEIVED: Final = f"""received AS (
    UPDATE mqtt_queue SET flags = flags | {PUBREC}, topic = NULL, payload = NULL
    FROM unnest(%(r_session)s::integer[], %(r_seq)s::bigint[]) AS received (session, seq)
    WHERE mqtt_queue.session = received.session AND mqtt_queue.seq = received.seq AND {_IF})"""

_DELIVERIES: Final = f"""deliveries AS (
    INSERT INTO mqtt_incoming ("clientId", "packetId") SELECT client, packet
    FROM unnest(%(d_client)s::text[], %(d_packet)s::integer[]) AS delivery (client, packet)
    WHERE {_IF} ORDER BY client, packet
    ON CONFLICT ("clientId", "packetId") DO UPDATE SET "createdAt" = now())"""
_RELEASES: Final = f"""releases AS (
    DELETE FROM mqtt_incoming
    USING unnest(%(q_client)s::text[], %(q_packet)s::integer[]) AS released (client, packet)
    WHERE "clientId" = client AND "packetId" = packet AND {_IF})"""
# Not when the Session has moved to another daemon meanwhile.
_FORGOTTEN: Final = f"""forgotten AS (
    DELETE FROM mqtt_incoming WHERE "clientId" = ANY(%(forgotten)s::text[]) AND {_IF}
    AND NOT EXISTS (SELECT FROM mqtt_sessions AS moved
        WHERE moved."clientId" = mqtt_incoming."clientId" AND moved.daemon <> %(daemon)s))"""

# A Session of this client that nobody has ended: one with another number takes its place, so that whatever it
# left behind is nobody's. Where clients are shared its owner lets it go, and none begins: ADR 0153.
_BEGUN: Final = f"""begin AS MATERIALIZED (
    SELECT * FROM unnest(%(b_client)s::text[], %(b_username)s::text[], %(b_expiry)s::bigint[])
    WITH ORDINALITY AS begin (client, username, expiry, n) WHERE {_IF}),
begun AS (
    INSERT INTO mqtt_sessions ("clientId", username, daemon, expiry)
    SELECT client, username, %(daemon)s, expiry FROM begin ORDER BY client
    ON CONFLICT ("clientId") DO UPDATE SET id = excluded.id, username = excluded.username,
        daemon = excluded.daemon, version = excluded.version, expiry = excluded.expiry, "absentSince" = NULL,
        head = 0, "createdAt" = now(), "inheritedFrom" = NULL
        WHERE NOT EXISTS (
            SELECT FROM mqtt_daemons AS ours JOIN mqtt_daemons AS theirs ON theirs.bus = ours.bus
            WHERE ours.id = %(daemon)s AND theirs.id = abs(mqtt_sessions.daemon))
    RETURNING id, "clientId")"""
_NUMBERS: Final = """(SELECT array_agg(coalesce(begun.id, 0) ORDER BY n)
    FROM begin LEFT JOIN begun ON client = "clientId")"""

_STATES: Final = f"""states AS (
    UPDATE mqtt_sessions SET head = greatest(mqtt_sessions.head, state.head),
        "absentSince" = CASE absence WHEN {HERE} THEN NULL WHEN {AWAY} THEN now() ELSE "absentSince" END,
        username = CASE WHEN login THEN state.username ELSE mqtt_sessions.username END,
        expiry = CASE state.expiry WHEN {UNCHANGED} THEN mqtt_sessions.expiry ELSE state.expiry END
    FROM unnest(%(s_session)s::integer[], %(s_head)s::bigint[], %(s_absence)s::integer[],
        %(s_login)s::boolean[], %(s_username)s::text[], %(s_expiry)s::bigint[])
        AS state (session, head, absence, login, username, expiry)
    WHERE id = session AND daemon = %(daemon)s AND {_IF})"""

# From one daemon to another: in between the number of its owner is negative. ADR 0153.
_FREED: Final = f"""freed AS (
    UPDATE mqtt_sessions SET daemon = -%(daemon)s, "absentSince" = now(),
        head = greatest(mqtt_sessions.head, free.head)
    FROM unnest(%(l_session)s::integer[], %(l_head)s::bigint[]) AS free (session, head)
    WHERE id = session AND daemon = %(daemon)s AND {_IF})"""
_BACK: Final = f"""back AS (
    UPDATE mqtt_sessions SET daemon = %(daemon)s
    WHERE id = ANY(%(back)s::integer[]) AND daemon = -%(daemon)s AND {_IF})"""
_TAKEN: Final = f"""taken AS (
    UPDATE mqtt_sessions SET daemon = %(daemon)s
    FROM unnest(%(m_session)s::integer[], %(m_before)s::integer[], %(m_since)s::float8[])
        AS move (session, before, since)
    WHERE id = session AND daemon = -before AND extract(epoch FROM "absentSince")::float8 = since
    AND {_IF})"""
_SETTLED: Final = f"""settled AS (
    UPDATE mqtt_sessions SET "inheritedFrom" = NULL
    WHERE id = ANY(%(settled)s::integer[]) AND daemon = %(daemon)s AND {_IF})"""

_ENDED: Final = f"""ended AS (
    DELETE FROM mqtt_sessions WHERE id = ANY(%(ended)s::integer[]) AND daemon = %(daemon)s AND {_IF}
    RETURNING id, head),
ended_filters AS (
    DELETE FROM mqtt_subscriptions WHERE session = ANY(%(ended)s::integer[]) AND {_IF}
    AND NOT EXISTS (
        SELECT FROM mqtt_sessions AS moved WHERE moved.id = session AND moved.daemon <> %(daemon)s)),
ended_queue AS (
    DELETE FROM mqtt_queue USING (
        SELECT found.session, found.seq FROM ended, LATERAL (
            SELECT session, seq FROM mqtt_queue AS waiting
            WHERE waiting.session = ended.id AND waiting.seq > ended.head
            ORDER BY seq LIMIT {OF_ONE}) AS found
        LIMIT {OF_ALL}) AS found
    WHERE mqtt_queue.session = found.session AND mqtt_queue.seq = found.seq)"""

_FILTERS: Final = f"""subscribed AS (
    INSERT INTO mqtt_subscriptions (session, filter, options, replay, identifier)
    SELECT * FROM unnest(%(f_session)s::integer[], %(f_filter)s::text[], %(f_options)s::smallint[],
        %(f_replay)s::boolean[], %(f_identifier)s::integer[])
    WHERE {_IF} ORDER BY 1, 2
    ON CONFLICT (session, filter) DO UPDATE SET options = excluded.options, replay = excluded.replay,
        identifier = excluded.identifier),
unsubscribed AS (
    DELETE FROM mqtt_subscriptions
    USING unnest(%(n_session)s::integer[], %(n_filter)s::text[]) AS gone_filter (of, name)
    WHERE session = of AND filter = name AND {_IF})"""

# Daemons that share their clients give versions, so it does not matter whose transaction is the last; without
# one a message is the newest, and gets a number of its own, below 0 where nothing was. ADR 0137.
_RETAINED: Final = f"""{_PACKED.format(name="kept", prefix="k_")},
kept AS (
    INSERT INTO mqtt_retained AS there (topic, payload, flags, "clientId", username, version)
    SELECT topic, {_PIECE.format(name="kept")}, flags, client, username,
        CASE version WHEN 0 THEN -nextval('mqtt_retained_version') ELSE version END
    FROM unnest(%(k_topic)s::text[], %(k_at)s::integer[], %(k_size)s::integer[], %(k_flags)s::smallint[],
        %(k_client)s::text[], %(k_username)s::text[], %(k_version)s::bigint[])
        AS kept (topic, at, size, flags, client, username, version)
    WHERE {_IF} ORDER BY topic
    ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload, flags = excluded.flags,
        "clientId" = excluded."clientId", username = excluded.username, "updatedAt" = now(),
        version = CASE WHEN excluded.version < 0 THEN abs(there.version) + 1 ELSE excluded.version END
        WHERE excluded.version < 0 OR there.version <= excluded.version),
cleared AS (
    DELETE FROM mqtt_retained AS there
    USING unnest(%(cleared)s::text[], %(c_version)s::bigint[], %(c_over)s::text[])
        AS clear (name, version, over)
    WHERE topic = name AND (clear.version = 0 OR there.version <= clear.version)
    AND (over = '' OR flags & {PROPERTIES} <> 0
        AND substring(there.payload FROM 1 FOR length(over) / 2) = decode(over, 'hex')) AND {_IF})"""

# A row that is written anew is left alone, as no statement may change it twice. An inherited one is another.
_WILLS: Final = f"""{_PACKED.format(name="wills", prefix="w_")},
wills_left AS (
    INSERT INTO mqtt_wills ("clientId", username, daemon, connection, topic, payload, flags, "dueAt")
    SELECT client, username, %(daemon)s, connection, topic, {_PIECE.format(name="wills")}, flags,
        to_timestamp(due)
    FROM unnest(%(w_client)s::text[], %(w_username)s::text[], %(w_connection)s::bigint[], %(w_topic)s::text[],
        %(w_at)s::integer[], %(w_size)s::integer[], %(w_flags)s::smallint[], %(w_due)s::float8[])
        AS left_by (client, username, connection, topic, at, size, flags, due)
    WHERE {_IF} ORDER BY client
    ON CONFLICT ("clientId", daemon) DO UPDATE SET username = excluded.username,
        connection = excluded.connection, topic = excluded.topic, payload = excluded.payload,
        flags = excluded.flags, "dueAt" = excluded."dueAt"),
wills_gone AS (
    DELETE FROM mqtt_wills WHERE {_IF} AND ("clientId" = ANY(%(x_client)s::text[]) AND daemon = %(daemon)s
    OR ("clientId", connection) IN (
        SELECT * FROM unnest(%(y_client)s::text[], %(y_connection)s::bigint[]))
        AND (daemon <> %(daemon)s OR "clientId" <> ALL(%(w_client)s::text[]))))"""


def _trims(present: frozenset[str]) -> str:
    return _TRIMS.format(and_not_gone=_NOT_GONE if "deleted" in present else "")


def _queued(present: frozenset[str]) -> str:
    return _QUEUED.format(queue=_LEFT_OF_QUEUE if "trims" in present else _QUEUE)


_Columns = SessionColumns
DELETED: Final = Part("deleted", attrgetter("deleted"), always(_DELETED), _Columns.of_deleted)
TRIMS: Final = Part("trims", attrgetter("trims"), _trims, _Columns.of_trims)
MESSAGES: Final = Part("messages", attrgetter("messages"), always(_MESSAGES), _Columns.of_messages)
SHARED: Final = Part("shared", attrgetter("shared"), always(_SHARED))
QUEUED: Final = Part("queued", attrgetter("messages"), _queued)
RECEIVED: Final = Part("received", attrgetter("received"), always(_RECEIVED), _Columns.of_received)
DELIVERIES: Final = Part("deliveries", attrgetter("deliveries"), always(_DELIVERIES), _Columns.of_deliveries)
RELEASES: Final = Part("releases", attrgetter("releases"), always(_RELEASES), _Columns.of_releases)
FORGOTTEN: Final = Part("forgotten", attrgetter("forgotten"), always(_FORGOTTEN), _Columns.of_forgotten)
BEGUN: Final = Part("begun", attrgetter("begun"), always(_BEGUN), _Columns.of_begun)
STATES: Final = Part("states", attrgetter("states"), always(_STATES), _Columns.of_states)
FREED: Final = Part("freed", attrgetter("freed"), always(_FREED), _Columns.of_freed)
BACK: Final = Part("back", attrgetter("back"), always(_BACK), _Columns.of_back)
TAKEN: Final = Part("taken", attrgetter("taken"), always(_TAKEN), _Columns.of_taken)
SETTLED: Final = Part("settled", attrgetter("settled"), always(_SETTLED), _Columns.of_settled)
ENDED: Final = Part("ended", attrgetter("ended"), always(_ENDED), _Columns.of_ended)
FILTERS: Final = Part("filters", attrgetter("filters"), always(_FILTERS), _Columns.of_filters)
RETAINED: Final = Part("retained", attrgetter("retained"), always(_RETAINED), _Columns.of_retained)
WILLS: Final = Part("wills", lambda given: given.wills or given.over, always(_WILLS), _Columns.of_wills)


def answer(present: frozenset[str]) -> str:
    """Return the columns that the statement selects, in one row.

    They are the numbers of the Sessions that begin, in the order of their records, and one that only raises
    an error, when the row of the daemon is not ours any more.
    """
    return f"{_NUMBERS if 'begun' in present else 'NULL'}, {_FENCED}"
