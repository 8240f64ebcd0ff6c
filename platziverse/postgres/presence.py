"""Presence: the agents that a daemon has left connected when it crashed."""

from collections.abc import Generator
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.postgres.connection import connect, force_close, timed

_RESET = """UPDATE agents SET connected = false, "connectedBy" = NULL, "updatedAt" = now()
    WHERE connected AND ("connectedBy" = %s OR "connectedBy" IS NULL
    OR NOT EXISTS (SELECT FROM mqtt_daemons WHERE instance = "connectedBy")) RETURNING uuid"""


@inlineCallbacks
def reset_presence(dsn: str, reactor: Any, instance: UUID) -> Generator["Deferred[Any]", Any, list[str]]:
    """Mark the agents that ``instance``, or no known daemon, left connected. Fires with their uuids.

    Agents connected through another daemon of ``mqtt_daemons`` stay as they are; a
    :class:`~platziverse.postgres.lease.Lease` finds out whether it lives.

    :raises psycopg2.OperationalError: the database is away; try again later.
    """
    connection = yield connect(dsn, reactor)
    try:
        rows = yield timed(connection, connection.runQuery(_RESET, (str(instance),)), 60)
    finally:
        force_close(connection)
    return [row[0] for row in rows]
