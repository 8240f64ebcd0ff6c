"""Interfaces: the ports of this room, to parts of the daemon that it reads, never for each message."""

from collections.abc import Collection, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.ports import RetainedStore
from platziverse.broker.sessions import Sessions
from platziverse.broker.traffic import Traffic

#: A row as JSON shows it.
Row: TypeAlias = dict[str, Any]


class Unavailable(Exception):
    """The database cannot answer now; one line that says why."""


class Complaints(Protocol):
    """Tells the log about clients, within limits for each cause."""

    def warn(self, cause: str, format: str, /, *, address: str, **fields: object) -> None: ...

    def fail(self, cause: str, failure: Failure, format: str, /, *, address: str, **more: object) -> None: ...


@frozen
class Range:
    """A Range is a stretch of time, and how the numbers in it are wanted. Times are milliseconds.

    :ivar since: the first moment; ``until``: the first one that is too late.
    :ivar step: of each point, of which ``since`` and ``until`` are multiples; 0: the rows themselves.
    :ivar aggregates: of each step: some of avg, min, max, last and count.
    :ivar source: what answers: ``"raw"``, or the roll-ups ``"5m"`` or ``"1h"``.
    :ivar limit: most rows of a series, with the step 0.
    :ivar now: the present, from which on roll-ups are not made yet.
    """

    since: int
    until: int
    step: int
    aggregates: tuple[str, ...] = ()
    source: str = "raw"
    limit: int = 0
    now: int = 0


@frozen
class Export:
    """An Export says which rows are wanted, and how.

    :ivar agents: their uuids; empty: all.
    :ivar types: of metrics; empty: all that are known.
    :ivar since: in milliseconds since the epoch.
    :ivar until: the first moment that is too late.
    :ivar format: ``"csv"`` or ``"ndjson"``.
    :ivar source: ``"raw"``, or the roll-ups ``"5m"`` or ``"1h"``.
    """

    agents: tuple[str, ...]
    types: tuple[str, ...]
    since: int
    until: int
    format: str
    source: str


class ExportStore(Protocol):
    """An ExportStore reads rows page by page; its Deferreds errback as those of :class:`ReadStore` do."""

    def known(self, uuids: Sequence[str]) -> "Deferred[list[str]]":
        """Fire with those of these agents that there are."""

    def export(self, export: Export, place: "Sequence[Any] | None", rows: int) -> "Deferred[Row | None]":
        """The first lines of an export behind ``place``, in order of agent, type and time; so many at most.

        It has their ``text``, how many ``rows`` they are, and, as the place of the last of them, ``agent``,
        ``type``, ``moment`` and ``id``. ``None``: there are none.
        """


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

    def series(self, uuids: Sequence[str], types: Sequence[str], asked: Range) -> "Deferred[list[Row]]":
        """Numbers over time of every agent and type, in their order; without types those that there are.

        A row has ``agent``, its ``id``, ``None``: there is no such agent; ``type``, ``unit``, whether such
        metrics are ``known``, and ``points``, the JSON of a list of lists: the time, and each aggregate. Of
        more than 20 series only some come, and more than 20.
        """

    def latest(
        self,
        uuids: Sequence[str],
        username: str | None,
        connected: bool | None,
        agent: int,
        type: str,
        limit: int,
        now: int,
    ) -> "Deferred[list[Row]]":
        """The newest value of the first ``limit`` series behind a type of the agent with an id.

        A row has ``uuid``, ``name``, ``connected``, ``type``, ``unit``, ``value``, ``number``, ``time``, the
        agent's ``id``, and ``spark``, the JSON of a list: the averages of the last twelve times five minutes
        that are over.

        :param uuids: of the agents that are wanted; empty: all.
        :param now: milliseconds since the epoch.
        """

    def rejected(self, before: int | None, limit: int) -> "Deferred[list[Row]]":
        """The newest ``limit`` rejected messages with an id below ``before``, without their payloads."""

    def rejected_since(self, after: int | None, limit: int) -> "Deferred[list[Row]]":
        """The first ``limit`` rejected messages with an id above ``after``; ``None``: only the newest one."""

    def rejection(self, number: int) -> "Deferred[Row | None]":
        """One rejected message, with its payload."""

    def sessions(self, after: str, limit: int) -> "Deferred[list[Row]]":
        """The first ``limit`` durable Sessions behind a Client Identifier, in order of it."""

    def daemons(self) -> "Deferred[list[Row]]":
        """All daemons that the database knows, in order of their numbers."""


class Durable(Protocol):
    """Messages for durable Sessions: acknowledged in time, or handed to the store."""

    @property
    def discharged(self) -> int: ...
    @property
    def saved(self) -> int: ...


class Sharing(Protocol):
    """A Sharing counts what a daemon shares with others, which it knows by their numbers.

    :ivar events: how many frames were sent, lost and so on, by what became of them.
    :ivar moved: durable Sessions that came, and went; ``delayed``: messages that waited for such or others.
    :ivar sent: how much went to each; ``received``: how many messages came; ``gaps``: how often some lacked.
    :ivar unanswered: messages for durable Sessions of each that it has not answered, and no row has yet.
    :ivar keys: how many keys they listen to; ``unheard``: how many of them live, and are not heard.
    """

    @property
    def events(self) -> Mapping[str, int]: ...
    @property
    def moved(self) -> Mapping[str, int]: ...
    @property
    def delayed(self) -> int: ...
    @property
    def sent(self) -> Mapping[int, int]: ...
    @property
    def received(self) -> Mapping[int, int]: ...
    @property
    def gaps(self) -> Mapping[int, int]: ...
    @property
    def unanswered(self) -> Mapping[int, int]: ...
    @property
    def keys(self) -> int: ...
    @property
    def unheard(self) -> int: ...


class Broker(Protocol):
    """The broker's state; ``loading`` is not ``None`` while a start loads Sessions."""

    @property
    def durable(self) -> Durable | None: ...
    @property
    def loading(self) -> object: ...

    @property
    def connected(self) -> int: ...
    @property
    def traffic(self) -> Traffic: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def subscriptions(self) -> Sized: ...
    @property
    def retained(self) -> RetainedStore: ...


class Bus(Protocol):
    """A Bus carries what daemons tell each other."""

    @property
    def state(self) -> str: ...
    @property
    def lost(self) -> int: ...
    @property
    def missed(self) -> int: ...
    @property
    def refused(self) -> int: ...


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


class Records(Protocol):
    """Records, or entries of all kinds, that are not yet committed."""

    @property
    def waiting(self) -> int: ...


class Writer(Records, Protocol):
    """The books: received = stored + duplicates + rejected + given_up + pending."""

    @property
    def received(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def given_up(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def limits_met(self) -> Mapping[str, int]: ...


class Store(Protocol):
    """A Store counts what the database refused."""

    @property
    def refused(self) -> int: ...
    @property
    def internal_errors(self) -> int: ...


class Unreadable(Protocol):
    """Rows that could not be read."""

    @property
    def unreadable(self) -> int: ...


class Keeper(Protocol):
    """A Keeper is where durable Sessions are kept."""

    @property
    def writer(self) -> Records: ...
    @property
    def connections(self) -> Store: ...
    @property
    def reader(self) -> Unreadable: ...


class RollUps(Protocol):
    """RollUps count the buckets that are to be made, those that were, and the seconds that it took."""

    @property
    def waiting(self) -> int: ...
    @property
    def buckets(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Upkeep(Protocol):
    """The state of the database, the clocks, and what is deleted because it is old.

    ``state`` is ``"connecting"``, ``"ready"`` or ``"away: <reason>"``; it is ready when all stores are.
    ``apart`` is in seconds, ours minus the database's; ``deleted`` are rejected messages, and months of
    metrics, by setting. ``others`` is how many daemons share our clients, and ``inherited`` what was taken
    over from dead ones: daemons, Sessions, Wills.
    """

    @property
    def others(self) -> int: ...
    @property
    def inherited(self) -> Mapping[str, int]: ...
    @property
    def state(self) -> str: ...
    @property
    def apart(self) -> float | None: ...
    @property
    def deleted(self) -> Mapping[str, int]: ...
    @property
    def roll_ups(self) -> RollUps | None: ...


class Presence(Protocol):
    """How many agents are connected."""

    @property
    def agents(self) -> int: ...


class Rules(Protocol):
    """Rules count what becomes of the messages that have one, by its name."""

    @property
    def outcomes(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def ignored_values(self) -> Mapping[str, int]: ...


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
