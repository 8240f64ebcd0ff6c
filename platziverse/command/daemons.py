"""``platziverse daemons``: which daemons use the database, and an end of one that loses nothing."""

import argparse
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from platziverse.command.database import connected, find_dsn
from platziverse.config import Config
from platziverse.errors import Unusable
from platziverse.postgres.daemons import LIST
from platziverse.postgres.requests import DRAIN, carry_out
from platziverse.settings import ConfigError

_LIST: Final = LIST.format(seen='"seenAt"')
_LEFT: Final = 'SELECT "leftAt" IS NOT NULL, coalesce(heir, 0) FROM mqtt_daemons WHERE id = %s'
#: Seconds: a hundred thousand clients go in less.
PATIENCE: Final = 180.0


@frozen
class Row:
    """A Row is one daemon; see ``postgres.daemons.LISTED``."""

    number: int
    name: str
    version: str
    bus: str
    incarnation: int
    state: str
    seen: datetime
    heir: int | None
    sessions: int

    @property
    def host(self) -> str:
        """Return the name without the number of a worker."""
        return self.name.partition("/")[0]

    def __str__(self) -> str:
        state = self.state
        if state != "alive":
            state += f" since {self.seen.isoformat('T', 'seconds')}"
        if self.heir is not None:
            state += f", daemon {self.heir} has taken over"
        bus = f"bus {self.bus!r}" if self.bus else "no bus"
        return f"{self.number} {self.name} {self.version}, {bus}, {state}, {self.sessions} Sessions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below ``platziverse daemons``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="one line for each, by number")
    listing.set_defaults(run=list_daemons)
    drain = commands.add_parser("drain", help="have one let its clients go, leave its Sessions, and stop")
    drain.add_argument("name", metavar="NAME", help="its number, or the name of its host, of a worker HOST/2")
    drain.set_defaults(run=drain_daemon)


def list_daemons(config: Config, options: argparse.Namespace) -> int:
    """``platziverse daemons list``: one line each."""
    with connected(find_dsn(config)) as connection:
        for row in _rows(connection):
            print(row)
    return 0


def drain_daemon(config: Config, options: argparse.Namespace) -> int:
    """``platziverse daemons drain``: ask the daemon, and wait until it has left."""
    with connected(find_dsn(config)) as connection, connection.cursor() as cursor:
        row = _named(_rows(connection), options.name)

        def has_left() -> bool:
            cursor.execute(_LEFT, (row.number,))
            has_left, heir = cursor.fetchone()
            if heir and not has_left:
                raise Unusable(f"daemon {row.number} has died instead; daemon {heir} has taken over")
            return bool(has_left)

        carry_out(connection, DRAIN, "", row.number, "SELECT", has_left, PATIENCE)
    print(f"daemon {row.number} has left")
    return 0


def _rows(connection: Any) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(_LIST)
        return [Row(*row) for row in cursor]


def _named(rows: list[Row], name: str) -> Row:
    """Return the daemon that is alive and has this number or host.

    :raises ConfigError: there is none, or several.
    """
    found = [row for row in rows if row.state == "alive" and name in (str(row.number), row.name, row.host)]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " or ".join(str(row.number) for row in found)
        raise ConfigError(f"{len(found)} daemons run on {name!r}; say which: {numbers}")
    raise ConfigError(f"no daemon {name!r} is alive; see platziverse daemons list")
