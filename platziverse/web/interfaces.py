"""Interfaces: the ports of this room, to parts of the daemon that it reads, never for each message."""

from collections.abc import Collection, Mapping, Sized
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.ports import RetainedStore, SessionStore
from platziverse.broker.traffic import Traffic

#: A row as JSON shows it.
Row: TypeAlias = dict[str, Any]


class Unavailable(Exception):
    """The database cannot answer now; one line that says why."""


class Complaints(Protocol):
    """Tells the log about clients, within limits for each cause."""

    def warn(self, cause: str, format: str, /, *, address: str, **fields: object) -> None: ...

    def fail(
        self, cause: str, failure: Failure, format: str, /, *, address: str, **fields: object
    ) -> None: ...


class ReadStore(Protocol):
    """A ReadStore answers the API; every Deferred errbacks with ``Unavailable`` when the database is away."""

    def agents(
        self, username: str | None, connected: bool | None, after: int, limit: int
    ) -> "Deferred[list[Row]]":
        """The first ``limit`` agents with an id above ``after``, all or of one username, in order of id.

        :param connected: whether they are; ``None``: either.
        """

    def agent(self, uuid: str) -> "Deferred[Row | None]":
        """One agent, connected or not."""

    def types(self, uuid: str) -> "Deferred[list[Row]]":
        """The types of metric an agent has: ``[{"type": ...}]``."""

    def metrics(
        self, uuid: str, type: str, since: datetime | None, until: datetime | None, limit: int
    ) -> "Deferred[list[Row]]":
        """The newest ``limit`` metrics of one type, in the time from ``since`` to before ``until``."""


class Broker(Protocol):
    """The broker's state."""

    @property
    def connected(self) -> int: ...
    @property
    def traffic(self) -> Traffic: ...
    @property
    def sessions(self) -> SessionStore: ...
    @property
    def subscriptions(self) -> Sized: ...
    @property
    def retained(self) -> RetainedStore: ...


class Flow(Protocol):
    """Publishes that the store has not finished."""

    @property
    def unfinished(self) -> int: ...
    @property
    def unfinished_bytes(self) -> int: ...
    @property
    def held(self) -> int: ...


class Crowd(Protocol):
    """Open sockets, of HTTP too."""

    @property
    def total(self) -> int: ...


class Pressure(Protocol):
    """Bytes that sessions and messages take, and may take."""

    @property
    def used(self) -> int: ...
    @property
    def budget(self) -> int: ...


class Deadlines(Protocol):
    """The timer of all connections."""

    @property
    def suspensions(self) -> int: ...


class Partials(Protocol):
    """Bytes of incomplete packets."""

    @property
    def total(self) -> int: ...


class Connections(Protocol):
    """The network side: ``Shared`` of net."""

    @property
    def connections(self) -> Collection[object]: ...
    @property
    def deadlines(self) -> Deadlines: ...
    @property
    def flow(self) -> Flow: ...
    @property
    def partials(self) -> Partials: ...
    @property
    def pressure(self) -> Pressure: ...


class Writer(Protocol):
    """The books: received = stored + duplicates + rejected + pending."""

    @property
    def received(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Store(Protocol):
    """``state`` is ``"connecting"``, ``"ready"`` or ``"away: <reason>"``."""

    @property
    def state(self) -> str: ...
    @property
    def refused(self) -> int: ...
    @property
    def internal_errors(self) -> int: ...


class Upkeep(Protocol):
    """The clocks, and what is deleted because it is old.

    ``apart`` is in seconds, ours minus the database's; ``deleted`` are rejected messages, by setting.
    """

    @property
    def apart(self) -> float | None: ...
    @property
    def deleted(self) -> Mapping[str, int]: ...


class Presence(Protocol):
    """How many agents are connected."""

    @property
    def agents(self) -> int: ...


class Handlers(Protocol):
    """Handlers counts messages; ``rejected`` is by kind, ``handler_failures`` by name and kind."""

    @property
    def rejected(self) -> Mapping[str, int]: ...
    @property
    def handler_failures(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def partly_rejected(self) -> int: ...
    @property
    def times_adjusted(self) -> int: ...
    @property
    def times_converted(self) -> Mapping[str, int]: ...
    @property
    def redelivered(self) -> int: ...
    @property
    def presence(self) -> Presence: ...
