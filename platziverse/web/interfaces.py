"""The ports of this room: what it reads of the daemon. Nothing here is called for a message."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.interfaces import Client

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
    """What the API asks the database. Every Deferred errbacks with ``Unavailable`` when it is away."""

    def agents(self, username: str | None) -> "Deferred[list[Row]]":
        """The connected agents, all or of one username."""

    def agent(self, uuid: str) -> "Deferred[Row | None]":
        """One agent, connected or not."""

    def types(self, uuid: str) -> "Deferred[list[Row]]":
        """The types of metric an agent has: ``[{"type": ...}]``."""

    def metrics(
        self, uuid: str, type: str, since: datetime | None, until: datetime | None, limit: int
    ) -> "Deferred[list[Row]]":
        """The newest ``limit`` metrics of one type, in the time from ``since`` to before ``until``."""


class Session(Protocol):
    """A Session of the broker."""

    @property
    def client(self) -> Client | None: ...
    @property
    def connection(self) -> object | None: ...
    @property
    def subscriptions(self) -> Mapping[str, int]: ...
    @property
    def queued(self) -> int: ...
    @property
    def inflight(self) -> int: ...


class Sessions(Protocol):
    """All Sessions, and how many of them have no connection."""

    @property
    def absent(self) -> int: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Session]: ...


class Traffic(Protocol):
    """What the broker counts; sequences are indexed by QoS."""

    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def messages_received(self) -> int: ...
    @property
    def messages_sent(self) -> int: ...
    @property
    def publish_received(self) -> Sequence[int]: ...
    @property
    def publish_sent(self) -> Sequence[int]: ...
    @property
    def publish_bytes_received(self) -> Sequence[int]: ...
    @property
    def publish_bytes_sent(self) -> Sequence[int]: ...
    @property
    def publish_dropped(self) -> int: ...
    @property
    def leftovers_dropped(self) -> int: ...
    @property
    def publish_denied(self) -> int: ...
    @property
    def unknown_acknowledgements(self) -> int: ...
    @property
    def connections_opened(self) -> int: ...
    @property
    def connections_refused(self) -> Mapping[str, int]: ...
    @property
    def connections_delayed(self) -> int: ...
    @property
    def rate_holds(self) -> int: ...
    @property
    def receivers_dropped(self) -> int: ...
    @property
    def receiver_holds(self) -> int: ...
    @property
    def receivers_too_slow(self) -> int: ...
    @property
    def connects_accepted(self) -> int: ...
    @property
    def sessions_expired(self) -> int: ...
    @property
    def protocol_errors(self) -> Mapping[str, int]: ...
    @property
    def connects_refused(self) -> Mapping[str, int]: ...
    @property
    def internal_errors(self) -> int: ...


class Retained(Protocol):
    """The Retained Messages."""

    @property
    def bytes(self) -> int: ...
    def __len__(self) -> int: ...


class Broker(Protocol):
    """The broker's state."""

    @property
    def connected(self) -> int: ...
    @property
    def traffic(self) -> Traffic: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def subscriptions(self) -> Sized: ...
    @property
    def retained(self) -> Retained: ...


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


class Connections(Protocol):
    """The network side: ``Shared`` of net."""

    @property
    def connections(self) -> Collection[object]: ...
    @property
    def flow(self) -> Flow: ...
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


class Database(Protocol):
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
    """What became of messages that report; ``rejected`` is by kind."""

    @property
    def rejected(self) -> Mapping[str, int]: ...
    @property
    def partly_rejected(self) -> int: ...
    @property
    def redelivered(self) -> int: ...
    @property
    def presence(self) -> Presence: ...
