"""Agents, their metrics, and the Report that brings both.

Authors of topic handlers make Reports, see ``examples/devices.py``; the names in ``__all__`` are theirs.

What is made for every message is a Struct, which is decoded and made three times faster than a class of
attrs, and is not looked at by the garbage collector; no cycle can lead through one.
"""

from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeAlias

from attrs import define, field, frozen
from msgspec import Meta, Struct
from msgspec import field as struct_field

from platziverse.agents.kept import as_json
from platziverse.broker.records import Delivery, Record
from platziverse.mqtt.packets import PublishProperties

__all__ = ["Agent", "InvalidReport", "Metric", "Report"]

#: What fits a ``varchar(255)``; a name that says something.
Text: TypeAlias = Annotated[str, Meta(max_length=255)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
#: Text. The decoder, which reads annotations at run time, may bring a number; ``payload`` writes it out.
if TYPE_CHECKING:
    Value: TypeAlias = str
else:
    Value = str | int | float
#: What fits an ``integer``.
Pid: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]


#: How far an agent's clock may be behind and ahead of ours, in seconds.
PAST: Final = 7 * 86_400.0
FUTURE: Final = 600.0
#: Characters of a reason.
MAX_REASON: Final = 500


class InvalidReport(Exception):
    """An InvalidReport says that no part of a message can become rows; a handler may raise it, too.

    The message is kept in ``rejected_messages``, and acknowledged.

    :param kind: one word to count by: size, encoding, syntax, depth, duplicate, fields, metrics, agents,
        types, binding or login.
    :ivar reason: one line that names the path, e.g. ``"Expected `int` - at `$.agent.pid`"``; never more of
        the payload than a key.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Agent(Struct, frozen=True, gc=False):
    """An Agent is the one who measured. ``pid`` is a process id; the texts hold no NUL."""

    uuid: Name
    username: Text
    name: Text
    hostname: Text
    pid: Pid


class Metric(Struct, gc=False):
    """A Metric is one reading; ``value`` has at most 4 KiB, numbers as their shortest decimal text."""

    type: Name
    value: Value


@define
class Rejection:
    """A Rejection is a message, or one metric of it, that can never become rows, kept with its bytes.

    :ivar payload: the raw bytes of the whole message.
    :ivar reason: what is wrong, in one line, naming the path, e.g. ``"Expected `int` - at `$.agent.pid`"``.
    :ivar arrived: seconds since the epoch, wall clock.
    :ivar address: of the sender, as the log has it; empty: of nobody.
    :ivar properties: that MQTT 5 has sent with the message.
    """

    topic: str
    client_id: str
    payload: bytes = field(repr=False)
    reason: str
    arrived: float
    address: str = ""
    properties: PublishProperties | None = None

    def properties_within(self, most: int) -> str | None:
        """Return the Properties as JSON; see :func:`kept.as_json`."""
        return None if self.properties is None else as_json(self.properties, most)


class Describes(Protocol):
    """A Describes is where Reports come from, and knows more of their types than Reports say: a rule.

    :ivar name: of the rule, as people write it.
    """

    @property
    def name(self) -> str: ...

    def unit(self, kind: str) -> str | None:
        """Return in what metrics of a type are measured."""


class Series(Struct, frozen=True, gc=False):
    """A Series is what is known of all metrics of one type of an agent, written when the first comes."""

    type: str
    unit: str | None = None
    rule: str | None = None


_NO_SOURCE: Final = Rejection("", "", b"", "", 0.0)


class Report(Struct, gc=False):
    """A Report is all that one message says of one agent at one moment, and can become rows.

    A topic handler gives ``agent``, ``metrics`` and, if it knows the time, ``measured``; the rest is added
    when the Report is recorded.

    :param measured: the agent's own time, seconds since the epoch; ``None`` when it gave none.
    :param measured_adjusted: the agent's time was unusable, ``measured`` is the time of arrival.
    :ivar arrived: time of arrival, seconds since the epoch, wall clock.
    :ivar time_form: how that time was written if not in milliseconds, as ``platziverse.times`` names it.
    :param key: 16 bytes that recognise a redelivery, or ``None`` when the message has no usable timestamp.
    :param rejections: the unusable parts of this message, in the same transaction: empty, or one
        Rejection that names every unusable metric (one for each would multiply the bytes of the message).
    :ivar series: of the types that the agent has not sent before, as far as this daemon remembers.
    :ivar described: knows their units; ``None``: nobody does.
    :param source: the raw message, in case the database refuses a report that validation let through.
    """

    agent: Agent
    metrics: list[Metric]
    arrived: float = 0.0
    source: Rejection = _NO_SOURCE
    measured: float | None = None
    measured_adjusted: bool = False
    time_form: str = ""
    key: bytes | None = None
    delivery: Delivery | None = None
    series: tuple[Series, ...] = ()
    described: Describes | None = None
    rejections: list[Rejection] = struct_field(default_factory=list)

    @property
    def moment(self) -> float:
        """The agent's own time, or else that of its arrival."""
        return self.arrived if self.measured is None else self.measured


@frozen
class Departure:
    """A Departure says that the last connection that spoke for this agent has ended."""

    uuid: str


def usable(measured: float, arrived: float) -> bool:
    """Return whether a message that arrived at one time can have been measured at another."""
    return arrived - PAST <= measured <= arrived + FUTURE


def move(entry: object, seconds: float) -> None:
    """Correct the time of arrival of an entry, if it has one: the clock was behind by so many seconds."""
    if isinstance(entry, Report):
        entry.arrived += seconds
        for rejection in (entry.source, *entry.rejections):
            rejection.arrived = entry.arrived
        if entry.measured is not None and not usable(entry.measured, entry.arrived):
            entry.measured_adjusted = True  # the agent's clock was as wrong as ours
        if entry.measured_adjusted:
            entry.measured = entry.arrived
    elif isinstance(entry, Rejection):
        entry.arrived += seconds


@frozen
class Arrival:
    """An Arrival says that a connection speaks for an agent whose message was saved before it began."""

    agent: Agent


#: Everything that the handlers of agents save; ``ingest/reports.py`` has a kind for each.
Entry: TypeAlias = Report | Rejection | Departure | Arrival | Record
