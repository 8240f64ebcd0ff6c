"""Interfaces: the ports of this room, to the store below it and to the broker beside it."""

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
    """A ReportStore commits entries; the firing of a Deferred *is* the acknowledgement."""

    def save(self, entry: Entry) -> "Deferred[None]":
        """Save an entry; the Deferred fires when the transaction with it has committed.

        Entries of one agent, and of one client, are committed in the order of the calls. An entry that the
        database refuses for its data becomes a row of ``rejected_messages``, and its Deferred fires as well.
        While the database is away the Deferred waits. It errbacks only when the store is stopped.
        """


class Publisher(Protocol):
    """A Publisher sends a message of the server's own to its subscribers."""

    def __call__(self, topic: str, payload: bytes) -> None: ...


class Record(Protocol):
    """A Record saves Reports of a message as its sender's."""

    def __call__(self, message: Publish, client: "Client", /, *reports: Report) -> "Deferred[object]":
        """Save Reports; the Deferred fires when they are committed.

        See :meth:`platziverse.agents.rows.Recording.record`.
        """


class Warn(Protocol):
    """A Warn writes a warning about a client to the log, unless there were too many for the same cause."""

    def __call__(self, cause: str, format: str, /, *, address: str, **fields: object) -> None: ...


class Client(Protocol):
    """A Client is the sender of a message: one Network Connection of one Client Identifier.

    :ivar number: another one for every connection.
    :ivar persistent: the Session outlives the connection (Clean Session 0).
    :ivar username: of its login; ``None`` for an anonymous client.
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
