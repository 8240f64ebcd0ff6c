"""Replays: rejected messages, as they are kept, and how one is tried again, by a command or the daemon."""

from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any, Final

import psycopg2
from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock, inlineCallbacks
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from platziverse.agents.kept import from_json
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport, Report
from platziverse.agents.payload import parse
from platziverse.ingest.replay import replay
from platziverse.mqtt.packets import Publish
from platziverse.postgres.sqlstate import one_line
from platziverse.rules.ruleset import RuleSet
from platziverse.web.interfaces import Unavailable
from platziverse.web.rejections import NotReplayed

log = Logger("platziverse.service")

#: Seconds for connecting, and milliseconds for a statement, of a thread of the daemon.
CONNECT: Final = 5
STATEMENT: Final = "-c statement_timeout=5000"

_SELECT: Final = """SELECT id, "createdAt", topic, "clientId", payload, reason, "replayedAt", "fullSize",
    address, properties FROM rejected_messages"""


@frozen
class Row:
    """A Row is one row of ``rejected_messages``.

    :param full_size: bytes of the payload as it came; ``None``: all of them are kept.
    :param address: of the sender; ``None``: nobody knows it.
    :param properties: that MQTT 5 has sent with it, as ``agents.kept`` writes them; ``None``: there are none.
    """

    id: int
    arrived: datetime
    topic: str
    client_id: str
    payload: bytes
    reason: str
    replayed: datetime | None
    full_size: int | None
    address: str | None
    properties: dict[str, Any] | None
    #: Of the sender; it is not kept.
    username: None = None

    def __str__(self) -> str:
        reason = f"replayed; {self.reason}" if self.replayed else self.reason
        reason = f"{reason}; {self.cut}" if self.cut else reason
        sender = f"{self.client_id!r} {self.address}" if self.address else f"{self.client_id!r}"
        return f"{self.id} {self.arrived.isoformat('T', 'seconds')} {sender} {self.topic!r} {reason}"

    @property
    def cut(self) -> str:
        """Words for the part of a long payload that is kept; empty when all of it is."""
        return f"only {len(self.payload)} of {self.full_size} bytes are kept" if self.full_size else ""


def rows(connection: Any, condition: str, *parameters: object) -> list[Row]:
    """Return rows of ``rejected_messages``, by a connection of psycopg2."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} {condition}", parameters)
        return [
            Row(number, arrived, topic, client_id, bytes(payload), *more)
            for number, arrived, topic, client_id, payload, *more in cursor
        ]


def reports_of(row: Row, limits: AgentLimits, rules: RuleSet) -> list[Report]:
    """Return the Reports of a message, by the rule of its topic if there is one now.

    :raises InvalidReport: a part of it cannot become rows.
    """
    if row.cut:
        raise InvalidReport("size", row.cut)
    properties, arrived = from_json(row.properties), row.arrived.timestamp()
    message = Publish(row.topic, row.payload, 1, properties=properties)
    found = rules.find(row.topic)
    if found is None or found.rule.ignore:
        reports = [parse(message, row.client_id, arrived, limits)]
        errors = [InvalidReport("metrics", one.reason) for report in reports for one in report.rejections]
    else:
        readings = found.read(message, row, arrived)
        reports, errors = readings.reports, readings.errors
    if errors:
        raise errors[0]
    return reports


class Replays:
    """Replays tries messages again for operators, one at a time, with connections of its own in a thread.

    :param rules: returns those of this moment.
    :param dsn: returns the connection string; ``None``: the database is not there yet.
    """

    def __init__(
        self,
        reactor: Any,
        limits: AgentLimits,
        rules: Callable[[], RuleSet],
        dsn: Callable[[], str | None],
    ) -> None:
        self._reactor, self._limits, self._rules, self._dsn = reactor, limits, rules, dsn
        self._lock = DeferredLock()

    def replay(self, number: int, by: str) -> "Deferred[int]":
        """Try a message again; see ``web.rejections.Replays``."""
        return self._lock.run(self._replay, number, by)

    @inlineCallbacks
    def _replay(self, number: int, by: str) -> "Generator[Deferred[Any], Any, int]":
        row = yield self._in_thread(_find, number)
        try:
            reports = reports_of(row, self._limits, self._rules())
        except InvalidReport as error:
            raise NotReplayed(str(error)) from None
        added = yield self._in_thread(replay, number, reports)
        if added is None:
            raise NotReplayed("somebody else is at it")
        text = "{by} has replayed the rejected message {number}: {added} metrics were added"
        log.info(text, by=by, number=number, added=added)
        return int(added)

    def _in_thread(self, function: Callable[..., Any], *arguments: object) -> "Deferred[Any]":
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, _connected, self._dsn(), function, *arguments)


def _connected(dsn: str | None, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function with a connection.

    :raises Unavailable: the database is away.
    :raises NotReplayed: it refuses the message once more.
    """
    if dsn is None:
        raise Unavailable("it is being started")
    try:
        connection = psycopg2.connect(dsn, connect_timeout=CONNECT, options=STATEMENT)
        try:
            return function(connection, *arguments)
        finally:
            connection.close()
    except (psycopg2.DataError, psycopg2.IntegrityError) as error:
        raise NotReplayed(one_line(error)) from None
    except psycopg2.Error as error:
        raise Unavailable(one_line(error)) from None


def _find(connection: Any, number: int) -> Row:
    """Return a row. :raises NotReplayed: it is not there, or was replayed before."""
    found = rows(connection, 'WHERE id = %s AND "replayedAt" IS NULL', number)
    if not found:
        raise NotReplayed("it was replayed before")
    return found[0]
