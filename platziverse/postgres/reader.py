"""Reader: the API and the logins read over connections of their own, so no question waits for a batch."""

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final, cast

import psycopg2
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, inlineCallbacks
from twisted.internet.error import ConnectionClosed

from platziverse.postgres.connection import Connection, connect, force_close, timed
from platziverse.postgres.daemons import LIST, LISTED
from platziverse.postgres.exports import KNOWN, PAGE, Export, of_export
from platziverse.postgres.series import LATEST, SERIES, Range, milliseconds, of_latest, of_range, with_spark
from platziverse.postgres.sqlstate import one_line

#: Questions that may wait for a connection; more are turned away.
MAX_WAITING: Final = 100

_ISO: Final = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
_AGENT: Final = ("id", "uuid", "username", "name", "hostname", "pid", "connected", "createdAt", "updatedAt")
_METRIC: Final = ("id", "type", "value", "createdAt")
_SESSION: Final = ("clientId", "username", "absentSince", "createdAt", "oldest")


def _columns(names: Sequence[str]) -> str:
    return ", ".join(_ISO.format(f'"{name}"') if name.endswith("At") else f'"{name}"' for name in names)


_AGENTS: Final = f"SELECT {_columns(_AGENT)} FROM agents WHERE id > %s"
_ONE: Final = f"SELECT {_columns(_AGENT)} FROM agents WHERE uuid = %s"
# A subquery where the original joins: the agent is one row, and the index answers in its own order.
_ID: Final = "(SELECT id FROM agents WHERE uuid = %s)"
# From one type to the next in the index; grouping would read every metric of the agent.
_TYPES: Final = f"""WITH RECURSIVE agent AS MATERIALIZED (SELECT {_ID} AS id), types AS (
    (SELECT type FROM metrics WHERE "agentId" = (SELECT id FROM agent) ORDER BY type LIMIT 1)
    UNION ALL SELECT (SELECT type FROM metrics WHERE "agentId" = (SELECT id FROM agent)
        AND type > types.type ORDER BY type LIMIT 1) FROM types WHERE type IS NOT NULL
) SELECT type FROM types WHERE type IS NOT NULL"""
# The first message alone is looked up, behind a bound that leaves out what was deleted a moment ago.
_SESSIONS: Final = f"""SELECT {_columns(_SESSION[:-1])}, (
        SELECT {_ISO.format('coalesce(queue."publishedAt", message."publishedAt")')}
        FROM mqtt_queue AS queue LEFT JOIN mqtt_messages AS message ON message.id = queue.message
        WHERE session = mqtt_sessions.id AND seq > head ORDER BY seq LIMIT 1)
    FROM mqtt_sessions WHERE "clientId" > %s ORDER BY "clientId" LIMIT %s"""
_DAEMONS: Final = LIST.format(seen=_ISO.format('"seenAt"'))
_REJECTED: Final = ("id", "topic", "client", "address", "reason", "size", "fullSize", "time", "replayed")
_REJECTIONS: Final = f"""SELECT id, topic, "clientId", address, reason, octet_length(payload), "fullSize",
    {milliseconds('"createdAt"')}, {milliseconds('"replayedAt"')}{{payload}} FROM rejected_messages WHERE """
_SHORT: Final = _REJECTIONS.format(payload="")
_HASHES: Final = 'SELECT username, "passwordHash" FROM mqtt_users WHERE username = ANY(%s::text[])'
# The column is a double precision, for the readers of the original; see docs/adr/0083.
_METRICS: Final = (
    f"""SELECT id::bigint, {_columns(_METRIC[1:])} FROM metrics WHERE type = %s AND "agentId" = {_ID}"""
)


class Reader:
    """A Reader asks PostgreSQL, and gives up on questions that take too long.

    :param unavailable: makes the exception that says, in one line, that there is no answer now.
    :param connections: how many questions are asked at a time.
    :param deadline: seconds for a question, and for connecting.
    :param target: which server may answer, as libpq's ``target_session_attrs`` has it; a standby may be late.
    :ivar dsn: connection string; ``None`` until the database is there.
    """

    def __init__(
        self,
        reactor: Any,
        unavailable: Callable[[str], Exception],
        connections: int = 2,
        deadline: float = 5.0,
        target: str = "any",
    ) -> None:
        self.dsn: str | None = None
        self._reactor, self._unavailable, self._deadline = reactor, unavailable, deadline
        self._target = target
        self._prefix = f"SET LOCAL statement_timeout = {max(1, int(deadline * 900))};"
        self._turn = DeferredSemaphore(connections)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._stopped = False

    def agents(
        self,
        username: str | None = None,
        connected: bool | None = True,
        after: int = 0,
        limit: int = 1000,
    ) -> "Deferred[list[dict[str, Any]]]":
        """The first ``limit`` agents with an id above ``after``, all or of one username, in order of id."""
        sql, values = _AGENTS, cast("list[object]", [after])
        if connected is not None:
            sql += " AND connected" if connected else " AND NOT connected"
        if username is not None:
            sql += " AND username = %s"
            values.append(username)
        return self._ask(_AGENT, sql + " ORDER BY id LIMIT %s", *values, limit)

    def agent(self, uuid: str) -> "Deferred[dict[str, Any] | None]":
        """Fire with one agent, or ``None``."""
        return self._ask(_AGENT, _ONE, uuid).addCallback(lambda rows: rows[0] if rows else None)

    def types(self, uuid: str) -> "Deferred[list[dict[str, Any]]]":
        """Fire with the types of metric that an agent has: ``[{"type": ...}]``."""
        return self._ask(("type",), _TYPES, uuid)

    def metrics(
        self, uuid: str, type: str, since: datetime | None, until: datetime | None, limit: int
    ) -> "Deferred[list[dict[str, Any]]]":
        """Fire with the newest ``limit`` metrics of one type, from ``since`` to before ``until``."""
        sql, values = _METRICS, [type, uuid]
        for bound, condition in ((since, '"createdAt" >= %s'), (until, '"createdAt" < %s')):
            if bound is not None:
                sql += f" AND {condition}::timestamptz"
                values.append(_utc(bound))
        return self._ask(_METRIC, sql + ' ORDER BY "createdAt" DESC LIMIT %s', *values, limit)

    def series(
        self, uuids: Sequence[str], types: Sequence[str], asked: Range
    ) -> "Deferred[list[dict[str, Any]]]":
        """Fire with numbers over time of every agent and type, as ``web.interfaces.ReadStore`` says."""
        return self._ask_named(SERIES, *of_range(uuids, types, asked))

    def latest(
        self,
        uuids: Sequence[str],
        username: str | None,
        connected: bool | None,
        agent: int,
        type: str,
        limit: int,
        now: int,
    ) -> "Deferred[list[dict[str, Any]]]":
        """Fire with a page of the newest values, as ``web.interfaces.ReadStore`` says."""
        found = self._ask_named(LATEST, *of_latest(uuids, username, connected, agent, type, limit, now))
        return found.addCallback(lambda rows: [with_spark(row) for row in rows])

    def known(self, uuids: Sequence[str]) -> "Deferred[list[str]]":
        """Fire with those of the agents that there are."""
        found: Deferred[list[dict[str, str]]] = self._ask(("uuid",), KNOWN, list(uuids))
        return found.addCallback(lambda rows: [row["uuid"] for row in rows])

    def export(
        self, export: Export, place: "Sequence[Any] | None", rows: int
    ) -> "Deferred[dict[str, Any] | None]":
        """Fire with the first lines of an export behind a place, as ``web.interfaces.ExportStore`` says."""
        page = self._ask_named(PAGE, *of_export(export, place, rows))
        return page.addCallback(lambda found: found[0] if found else None)

    def rejected(self, before: int | None, limit: int) -> "Deferred[list[dict[str, Any]]]":
        """Fire with the newest ``limit`` rejected messages with an id below ``before``, if that is given."""
        condition, values = ("id < %s", (before,)) if before is not None else ("true", ())
        return self._ask(_REJECTED, f"{_SHORT}{condition} ORDER BY id DESC LIMIT %s", *values, limit)

    def rejected_since(self, after: int | None, limit: int) -> "Deferred[list[dict[str, Any]]]":
        """Fire with the first ``limit`` rejected messages with an id above ``after``, or with the newest."""
        if after is None:
            return self.rejected(None, 1)
        return self._ask(_REJECTED, f"{_SHORT}id > %s ORDER BY id LIMIT %s", after, limit)

    def rejection(self, number: int) -> "Deferred[dict[str, Any] | None]":
        """Fire with one rejected message and its payload, or ``None``."""
        names = (*_REJECTED, "payload", "properties")
        sql = _REJECTIONS.format(payload=", payload, properties") + "id = %s"
        return self._ask(names, sql, number).addCallback(lambda rows: rows[0] if rows else None)

    def sessions(self, after: str, limit: int) -> "Deferred[list[dict[str, Any]]]":
        """Fire with the first ``limit`` durable Sessions behind a Client Identifier, in order of it.

        Each has the time of its oldest message that waits, if any does.
        """
        return self._ask(_SESSION, _SESSIONS, after, limit)

    def daemons(self) -> "Deferred[list[dict[str, Any]]]":
        """Fire with all daemons that the database knows, by number."""
        return self._ask(LISTED, _DAEMONS)

    def password_hashes(self, usernames: Sequence[str]) -> "Deferred[dict[str, str]]":
        """Fire with user name → hash of the password, for all ``usernames`` that exist; none holds a NUL."""
        answer: Deferred[list[dict[str, str]]] = self._ask(("name", "hash"), _HASHES, list(usernames))
        return answer.addCallback(lambda rows: {row["name"]: row["hash"] for row in rows})

    def stop(self) -> None:
        """Close all connections; questions under way errback."""
        self._stopped = True
        for connection in [*self._idle, *self._busy]:
            force_close(connection)

    def rows(self, sql: str, *values: Any) -> "Deferred[list[Any]]":
        """Ask any question, however many wait; the Deferred fires with the rows."""
        return self._turn.run(self._run, sql, values)

    def _ask(self, names: Sequence[str], sql: str, *values: Any) -> "Deferred[Any]":
        return self._ask_named(names, sql, values)

    def _ask_named(
        self, names: Sequence[str], sql: str, values: "Sequence[Any] | Mapping[str, Any]"
    ) -> "Deferred[Any]":
        if len(self._turn.waiting) >= MAX_WAITING:
            return fail(self._unavailable("too many questions at a time"))
        answer: Deferred[list[Any]] = self._turn.run(self._run, sql, values)
        return answer.addCallback(lambda rows: [dict(zip(names, row, strict=True)) for row in rows])

    @inlineCallbacks
    def _run(
        self, sql: str, values: "Sequence[Any] | Mapping[str, Any]"
    ) -> Generator["Deferred[Any]", Any, Any]:
        if self.dsn is None or self._stopped:
            raise self._unavailable("it is not there" if self._stopped else "it is being started")
        try:
            connection = yield from self._connection()
        except (psycopg2.Error, ConnectionClosed) as error:
            raise self._unavailable(one_line(error)) from error
        if self._stopped:
            force_close(connection)
            raise self._unavailable("it is not there")
        self._busy.add(connection)
        try:
            rows = yield timed(connection, connection.runQuery(self._prefix + sql, values), self._deadline)
        except (psycopg2.Error, ConnectionClosed) as error:
            force_close(connection)
            raise self._unavailable(one_line(error)) from error
        finally:
            self._busy.discard(connection)
        self._idle.append(connection)
        return rows

    def _connection(self) -> Generator["Deferred[Any]", Any, Connection]:
        while self._idle:
            idle = self._idle.pop()
            if not idle.closed:
                return idle
        assert self.dsn is not None
        connection: Connection = yield connect(
            self.dsn, self._reactor, self._deadline, client_encoding="UTF8", target_session_attrs=self._target
        )
        return connection


def _utc(moment: datetime) -> str:
    """Return a time in UTC, as PostgreSQL takes no large offsets; infinity where Python has no such year."""
    try:
        return moment.astimezone(timezone.utc).isoformat()
    except OverflowError:
        return "-infinity" if moment.year == 1 else "infinity"
