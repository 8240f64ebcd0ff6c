"""``platziverse sessions``: durable Sessions, what waits for them, and the end of one."""

import argparse
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from platziverse.command.database import connected, find_dsn
from platziverse.config import Config
from platziverse.postgres.requests import END_SESSION, carry_out
from platziverse.settings import ConfigError

_SELECT: Final = """SELECT id, "clientId", username, "absentSince", head,
    (SELECT count(*) FROM mqtt_subscriptions WHERE session = id), waiting.*
    FROM mqtt_sessions LEFT JOIN LATERAL (
        SELECT count(*), coalesce(sum(octet_length(coalesce(queue.payload, message.payload))), 0),
            min(coalesce(queue."publishedAt", message."publishedAt"))
        FROM mqtt_queue AS queue LEFT JOIN mqtt_messages AS message ON message.id = queue.message
        WHERE session = mqtt_sessions.id AND seq > head) AS waiting ON true"""
_ALL: Final = """ WHERE "clientId" > %s ORDER BY "clientId" LIMIT %s"""
_ONE: Final = ' WHERE "clientId" = %s'
_FILTERS: Final = "SELECT filter, options & 3 FROM mqtt_subscriptions WHERE session = %s ORDER BY filter"
_END: Final = """WITH gone AS (
    DELETE FROM mqtt_sessions WHERE "clientId" = %(argument)s RETURNING id, "clientId"),
    filters AS (DELETE FROM mqtt_subscriptions USING gone WHERE session = gone.id),
    incoming AS (DELETE FROM mqtt_incoming USING gone WHERE mqtt_incoming."clientId" = gone."clientId"),
    identifiers AS (DELETE FROM qos2_messages USING gone WHERE qos2_messages."clientId" = gone."clientId"),
    waiting AS (DELETE FROM mqtt_queue USING gone WHERE session = gone.id) SELECT count(*) FROM gone"""
_LEFT: Final = 'SELECT count(*) FROM mqtt_sessions WHERE "clientId" = %s'
_OWNER: Final = 'SELECT daemon FROM mqtt_sessions WHERE "clientId" = %s'


@frozen
class Row:
    """A Row is one durable Session.

    :param absent_since: when its client has gone; ``None``: it is connected, or its daemon has died.
    :param messages: how many wait, ``size`` bytes of payloads together, the first of them since ``oldest``.
    """

    number: int
    client_id: str
    username: str | None
    absent_since: datetime | None
    head: int
    subscriptions: int
    messages: int
    size: int
    oldest: datetime | None

    def __str__(self) -> str:
        login = f" user {self.username!r}" if self.username is not None else ""
        here = f"absent since {_moment(self.absent_since)}" if self.absent_since else "connected"
        oldest = f", the oldest of {_moment(self.oldest)}" if self.oldest else ""
        waiting = f"{self.messages} messages wait, {self.size} bytes{oldest}"
        return f"{self.client_id!r}{login} {here}, {self.subscriptions} filters, {waiting}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``platziverse sessions``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, by Client Identifier")
    listing.add_argument("--after", default="", help="only Client Identifiers behind this one")
    listing.add_argument("--limit", type=int, default=1000, help="at most so many (1000)")
    listing.set_defaults(run=list_sessions)
    for name, run, text in (
        ("show", show_session, "one Session and its Topic Filters"),
        ("end", end_session, "give a Session up with all that waits for it; its client is disconnected"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("client_id", metavar="CLIENT", help="its Client Identifier")
        command.set_defaults(run=run)


def list_sessions(config: Config, options: argparse.Namespace) -> int:
    """``platziverse sessions list``: one line each."""
    with connected(find_dsn(config)) as connection:
        for row in _rows(connection, _ALL, options.after, options.limit):
            print(row)
    return 0


def show_session(config: Config, options: argparse.Namespace) -> int:
    """``platziverse sessions show``: its line, then one for each Topic Filter with its QoS."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        rows = _rows(connection, _ONE, options.client_id)
        if not rows:
            raise _missing(options.client_id)
        print(rows[0])
        cursor.execute(_FILTERS, (rows[0].number,))
        for topic_filter, qos in cursor:
            print(f"  {topic_filter!r} QoS {qos}")
    return 0


def end_session(config: Config, options: argparse.Namespace) -> int:
    """``platziverse sessions end``: by its daemon if that runs, else here."""
    client_id = options.client_id
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        cursor.execute(_OWNER, (client_id,))
        row = cursor.fetchone()
        if row is None:
            raise _missing(client_id)
        carry_out(connection, END_SESSION, client_id, row[0], _END, lambda: _is_gone(cursor, client_id))
    print(f"the Session of {client_id!r} has ended")
    return 0


def _rows(connection: Any, condition: str, *parameters: object) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(_SELECT + condition, parameters)
        return [Row(*row) for row in cursor]


def _is_gone(cursor: Any, client_id: str) -> bool:
    cursor.execute(_LEFT, (client_id,))
    return bool(cursor.fetchone() == (0,))


def _missing(client_id: str) -> ConfigError:
    return ConfigError(f"there is no durable Session of {client_id!r}")


def _moment(moment: datetime | None) -> str:
    return moment.isoformat("T", "seconds") if moment is not None else ""
