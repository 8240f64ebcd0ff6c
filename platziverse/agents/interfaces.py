"""The ports of this room: the store below it, and what it sees of the broker beside it."""

from typing import Protocol

from twisted.internet.defer import Deferred

from platziverse.agents.model import Entry, Report
from platziverse.mqtt.packets import Publish

__all__ = [
    "Client",
    "Publisher",
    "Record",
    "ReportStore",
    "Warn",
]


class ReportStore(Protocol):
    """Commits entries; the firing of a Deferred *is* the acknowledgement."""

    def save(self, entry: Entry) -> "Deferred[None]":
        """Fires when the transaction with this entry has committed.

        Entries of one agent, and of one client, are committed in the order of the calls. What the
        database refuses for its data becomes a row of ``rejected_messages`` and fires as well.
        While the database is away the Deferred waits. It errbacks only when the store is stopped.
        """


class Publisher(Protocol):
    """Sends a message of the server's own to whoever subscribed."""

    def __call__(self, topic: str, payload: bytes) -> None: ...


class Record(Protocol):
    """Saves Reports of a message as its sender's."""

    def __call__(self, message: Publish, client: "Client", /, *reports: Report) -> "Deferred[object]":
        """Fires when they are committed; see :meth:`platziverse.agents.rows.Recording.record`."""


class Warn(Protocol):
    """Writes a warning about a client to the log, unless there have been too many for the same cause."""

    def __call__(self, cause: str, format: str, /, *, address: str, **fields: object) -> None: ...


class Client(Protocol):
    """Who sent a message: one Network Connection of one Client Identifier.

    ``number`` is another for every connection; ``persistent``: the Session outlives it;
    ``username`` is the login, ``None`` for an anonymous client.
    """

    @property
    def client_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def username(self) -> str | None: ...
    @property
    def persistent(self) -> bool: ...
