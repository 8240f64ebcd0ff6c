"""Interfaces: the ports of this room, to the store below it and to the broker beside it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.agents.model import Entry, Report
from platziverse.mqtt.packets import Publish

__all__ = [
    "Client",
    "Complaints",
    "OnStop",
    "Publisher",
    "Recognising",
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
        While the database is away the Deferred waits. It errbacks only when the store is stopped or, with
        ``ComesAgain``, for what is of QoS 2 when another daemon has taken over the Session.
        """


class Publisher(Protocol):
    """A Publisher sends a message of the server's own at QoS 0, to subscribers and to handlers."""

    def __call__(self, topic: str, payload: bytes, retain: bool = False) -> None: ...


class Record(Protocol):
    """A Record saves Reports of a message as its sender's."""

    def __call__(self, message: Publish, client: "Client", /, *reports: Report) -> "Deferred[object]":
        """Save Reports; the Deferred fires when they are committed.

        See :meth:`platziverse.agents.rows.Recording.record`.
        """


class Warn(Protocol):
    """A Warn writes a warning about a client to the log, unless there were too many for the same cause."""

    def __call__(self, cause: str, format: str, /, *, address: str, **fields: object) -> None: ...


class Complaints(Protocol):
    """Complaints writes to the log, within limits for each cause."""

    @property
    def warn(self) -> Warn: ...

    def fail(
        self, cause: str, failure: Failure, format: str, /, *, address: str, **fields: object
    ) -> None: ...


@runtime_checkable
class Recognising(Protocol):
    """A Recognising is a handler that is told of messages that come again; the broker's has the text."""

    def repeated(self, message: Publish, client: "Client", /) -> "Deferred[Any] | None": ...


class OnStop(Protocol):
    """An OnStop has a function called when the daemon stops."""

    def __call__(self, function: Callable[[], Any], /) -> None:
        """Have ``function`` called while all still works; its Deferred, or coroutine, is waited for."""


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
