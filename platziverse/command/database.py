"""The database of a daemon, as one command opens it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from select import select
from typing import Any

import psycopg2
from psycopg2.errors import UndefinedColumn, UndefinedFunction, UndefinedTable
from psycopg2.extensions import POLL_OK, POLL_READ, set_wait_callback

from platziverse.config import Config
from platziverse.embedded.cluster import local_dsn, locate
from platziverse.embedded.places import SYSTEM_HOME
from platziverse.settings import ConfigError


def find_dsn(config: Config) -> str:
    """Return the connection string of the daemon's database, configured or embedded and running.

    :raises Unusable: there is none.
    """
    if config.database:
        return config.database
    started_once = os.path.isdir(os.path.join(config.state_dir, "postgres"))
    cluster = locate(config.state_dir, SYSTEM_HOME) if started_once else None
    server = cluster.pid_file() if cluster and cluster.running() else None
    if not server:
        raise ConfigError(
            f"no embedded database runs in {config.state_dir}; start the daemon, or name --database"
        )
    return local_dsn(server.socket_dir, server.port)


@contextmanager
def connected(dsn: str, copies: bool = False) -> Iterator[Any]:
    """Open a connection for one command. Ctrl-C ends its statement, and the command.

    :param copies: there will be COPY, which Ctrl-C ends only once some of it has come or gone.
    :raises ConfigError: the database refuses it, cannot be reached, or is of another version.
    """
    try:
        with closing(
            psycopg2.connect(dsn, connect_timeout=10, fallback_application_name="platziverse")
        ) as connection:
            connection.autocommit = True
            set_wait_callback(None if copies else _wait)
            try:
                yield connection
            finally:
                set_wait_callback(None)
    except (UndefinedTable, UndefinedColumn, UndefinedFunction) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"the database is not as this version of platziverse makes it; start the daemon once: {reason}"
        ) from None
    except psycopg2.Error as error:
        raise ConfigError(" ".join(str(error).split())) from None


def _wait(connection: Any) -> None:
    """Wait for the server here: libpq does so in C, where Python learns of Ctrl-C when it is over."""
    try:
        while (state := connection.poll()) != POLL_OK:
            reading = state == POLL_READ
            select([connection] if reading else [], [] if reading else [connection], [])
    except KeyboardInterrupt:
        connection.cancel()
        raise
