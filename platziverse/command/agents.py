"""``platziverse agents``: a list of them, another uuid for one, and the end of one."""

import argparse
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import psycopg2
from attrs import frozen

from platziverse.command.database import connected, find_dsn
from platziverse.command.progress import Progress
from platziverse.config import Config
from platziverse.settings import ConfigError

#: Rows of one statement: whoever waits for one of them waits for no more.
PORTION: Final = 5000

_LIST: Final = """SELECT id, uuid, name, username, connected, "updatedAt",
    (SELECT count(*) FROM series WHERE "agentId" = agents.id) FROM agents"""
_PAGE: Final = f"{_LIST} WHERE uuid > %s AND (connected OR NOT %s) ORDER BY uuid LIMIT %s"
_ONE: Final = f"{_LIST} WHERE uuid = %s"
_RENAME: Final = "UPDATE agents SET uuid = %s WHERE id = %s AND NOT connected"
_DELETE: Final = "DELETE FROM agents WHERE id = %s AND NOT connected"
#: A row number is that of one partition, so each has statements of its own.
_PARTITIONS: Final = """SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = ANY(%s::regclass[]) ORDER BY relname"""
_PORTION: Final = "SELECT platziverse_delete(%s, %s, %s)"
_METRICS, _ROLL_UPS = ["metrics"], ["metrics_5m", "metrics_1h"]


@frozen
class Row:
    """A Row is one agent.

    :param updated: when it came, or went.
    :param types: how many types of metrics it has.
    """

    number: int
    uuid: str
    name: str
    username: str
    connected: bool
    updated: datetime
    types: int

    def __str__(self) -> str:
        state = "connected" if self.connected else f"gone since {self.updated.isoformat('T', 'seconds')}"
        return f"{self.uuid!r} name {self.name!r} user {self.username!r} {state}, {self.types} types"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``platziverse agents``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, by uuid")
    listing.add_argument("--connected", action="store_true", help="only those that are connected")
    listing.add_argument("--after", default="", help="only uuids behind this one")
    listing.add_argument("--limit", type=int, default=1000, help="at most so many (1000)")
    listing.set_defaults(run=list_agents)
    rename = commands.add_parser(
        "rename", help="give one that is gone another uuid; its metrics stay with it"
    )
    rename.add_argument("uuid", metavar="UUID")
    rename.add_argument("new", metavar="NEW")
    rename.set_defaults(run=rename_agent)
    delete = commands.add_parser("delete", help="forget one that is gone, and all that it has measured")
    delete.add_argument("uuid", metavar="UUID")
    delete.add_argument("--keep-metrics", action="store_true", help="its metrics stay, and belong to nobody")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.set_defaults(run=delete_agent)


def list_agents(config: Config, options: argparse.Namespace) -> int:
    """``platziverse agents list``: one line each."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        cursor.execute(_PAGE, (options.after, options.connected, options.limit))
        for row in cursor:
            print(Row(*row))
    return 0


def rename_agent(config: Config, options: argparse.Namespace) -> int:
    """``platziverse agents rename``: an agent that is connected would go on under its old uuid."""
    if not 0 < len(options.new) <= 255:
        raise ConfigError("a uuid has 1 to 255 characters")
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        row = _gone(cursor, options.uuid)
        try:
            cursor.execute(_RENAME, (options.new, row.number))
        except psycopg2.errors.UniqueViolation:
            raise ConfigError(f"there is an agent {options.new!r} already; nothing has changed") from None
        _check_done(cursor, options.uuid)
    print(f"the agent {options.uuid!r} is {options.new!r} now")
    return 0


def delete_agent(config: Config, options: argparse.Namespace) -> int:
    """``platziverse agents delete``: in portions, the agent last; what is interrupted is given again."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        row = _gone(cursor, options.uuid)
        if not options.yes and not _agreed(row, options.keep_metrics):
            print("nothing was deleted")
            return 1
        rows = _delete_rows(cursor, row.number, _ROLL_UPS if options.keep_metrics else _METRICS + _ROLL_UPS)
        cursor.execute(_DELETE, (row.number,))
        _check_done(cursor, options.uuid)
    print(f"the agent {options.uuid!r} is gone, with {rows:,} metrics and roll-ups")
    return 0


def _gone(cursor: Any, uuid: str) -> Row:
    """Return an agent. :raises ConfigError: there is none of this uuid, or it is connected."""
    cursor.execute(_ONE, (uuid,))
    found = cursor.fetchone()
    if found is None:
        raise ConfigError(f"there is no agent {uuid!r}")
    row = Row(*found)
    if row.connected:
        raise ConfigError(f"the agent {uuid!r} is connected; stop it first")
    return row


def _check_done(cursor: Any, uuid: str) -> None:
    """Check that the row was there. :raises ConfigError: the agent has come back meanwhile."""
    if not cursor.rowcount:
        raise ConfigError(f"the agent {uuid!r} has connected meanwhile; stop it, then give the command again")


def _agreed(row: Row, keep_metrics: bool) -> bool:
    """Return whether the person at the terminal agrees. :raises ConfigError: there is none to ask."""
    if not sys.stdin.isatty():
        raise ConfigError("this cannot be undone; give --yes")
    what = "its roll-ups" if keep_metrics else "all that it has measured"
    return input(f"{row}\nDelete it, and {what}? [y/N] ").strip().lower() in ("y", "yes")


def _delete_rows(cursor: Any, number: int, tables: list[str]) -> int:
    """Delete what an agent has in these tables; return how many rows."""
    cursor.execute(_PARTITIONS, (tables,))
    parts = [name for (name,) in cursor.fetchall()]
    progress, total = Progress("rows", len(parts)), 0
    try:
        for done, part in enumerate(parts):
            for rows in _portions(cursor, part, number):
                total += rows
                progress.show(total, done)
    finally:
        progress.end()
    return total


def _portions(cursor: Any, part: str, number: int) -> Iterator[int]:
    rows = -1
    while rows:
        cursor.execute(_PORTION, (part, f'"agentId" = {number}', PORTION))
        (rows,) = cursor.fetchone()
        yield rows
