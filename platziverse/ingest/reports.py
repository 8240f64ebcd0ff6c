"""Reports: the kinds of entries that reports bring about, and the statements that commit them."""

import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from sys import getsizeof
from typing import Any, Final
from uuid import UUID, uuid4

from attrs import evolve
from twisted.logger import LogLevel

from platziverse.agents.model import Agent, Arrival, Departure, Rejection, Report
from platziverse.broker.records import Forget, Release
from platziverse.ingest import text
from platziverse.ingest.batch import Outcome
from platziverse.ingest.columns import Columns
from platziverse.ingest.kinds import EVERYTHING, Kind, Kinds, Touch, weight_of_payload
from platziverse.ingest.limits import LimitsMet
from platziverse.ingest.statement import Statement, Template
from platziverse.ingest.trial import largest

# -- what becomes of an entry that the database refuses for its data -----------------------------


def _as_rejection(report: Report, reason: str) -> list[object]:
    """Return a rejection with the raw bytes of the report."""
    source = report.source
    topic, client_id = _without_nul(source.topic), _without_nul(source.client_id)
    reason = _without_nul(f"the database refused it: {reason}")
    return [evolve(source, topic=topic, client_id=client_id, reason=reason)]


def _in_ascii(rejection: Rejection, reason: str) -> list[object] | None:
    """Return a rejection that says the same in ASCII, which no database can misunderstand."""
    topic, client_id = _ascii(rejection.topic), _ascii(rejection.client_id)
    plain = evolve(rejection, topic=topic, client_id=client_id, reason=_ascii(rejection.reason))
    return [plain] if plain != rejection else None


def _left_out(entry: object, reason: str) -> list[object]:
    """Return nothing: an entry that is no message is left out, and nothing is lost without it.

    A name that the database cannot even compare, in another encoding than UTF-8, is in none of its rows.
    """
    return []


def _without_nul(given: str) -> str:
    return given.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _ascii(given: str) -> str:
    return given.replace("\0", "\\x00").encode("ascii", "backslashreplace").decode()


def of_delivery(entry: Any) -> tuple[Touch, ...]:
    """Return the Packet Identifier of the QoS 2 message that an entry stands for, if it stands for one."""
    delivery = entry.delivery
    return () if delivery is None else ((delivery.client_id, delivery.packet_id),)


def of_identifier(entry: Any) -> tuple[Touch, ...]:
    """Return the Packet Identifier that an entry is about."""
    return ((entry.client_id, entry.packet_id),)


def of_client(entry: Any) -> tuple[Touch, ...]:
    """Return everything of the client that an entry is about."""
    return ((entry.client_id, EVERYTHING),)


# -- the six kinds -------------------------------------------------------------------------------


def _weight_of_report(report: Report) -> int:
    """Return how many rows a report has; a KiB of payload counts as one."""
    return len(report.metrics) + (len(report.source.payload) >> 10)


_PARTS_OF_REPORT: Final = (
    text.AGENTS,
    text.MESSAGES,
    text.KEYS,
    text.DELIVERIES,
    text.FRESH,
    text.METRICS,
    text.MARKS,
    text.SERIES,
    text.REMEMBERED,
    text.FENCED,
)

#: Everything that handlers of agents save. The order of the parts is the order of the statement.
KINDS: Final[Kinds] = {
    Departure: Kind(
        shard=attrgetter("uuid"),
        add=Columns.add_departure,
        parts=(text.AGENTS, text.DEPARTURES),
        instead=_left_out,
        departure=True,
    ),
    Report: Kind(
        shard=attrgetter("agent.uuid"),
        add=Columns.add_report,
        parts=_PARTS_OF_REPORT,
        instead=_as_rejection,
        weight=_weight_of_report,
        touches=of_delivery,
        message=True,
    ),
    Arrival: Kind(
        shard=attrgetter("agent.uuid"),
        add=Columns.add_arrival,
        parts=(text.AGENTS, text.REMEMBERED),
        instead=_left_out,
    ),
    Rejection: Kind(
        shard=attrgetter("client_id"),
        add=Columns.add_rejection,
        parts=(text.REJECTIONS,),
        instead=_in_ascii,
        weight=weight_of_payload,
        message=True,
    ),
    Release: Kind(
        shard=attrgetter("client_id"),
        add=Columns.add_release,
        parts=(text.RELEASES, text.FENCED),
        instead=_left_out,
        touches=of_identifier,
        last=True,
    ),
    Forget: Kind(
        shard=attrgetter("client_id"),
        add=Columns.add_forget,
        parts=(text.FORGETS, text.FENCED),
        instead=_left_out,
        touches=of_client,
        last=True,
    ),
}


#: Bytes of the names of an agent that is remembered; the rows of one with longer names are written each time.
LARGEST_KNOWN: Final = 640


def _weigh(agent: Agent) -> int:
    return sum(map(getsizeof, (agent.uuid, agent.username, agent.name, agent.hostname)))


_TEMPLATE: Final = Template(KINDS, text.TICKET, text.answer)


class ReportStatements:
    """ReportStatements makes those of one slot, and remembers the agents that it has left connected.

    The agents of the slot's shard are in no other shard, so what is remembered of them is true unless another
    daemon, or a person, has written their rows: then the statement says so and writes nothing.

    :param instance: identity of this daemon, which owns the agents that are connected to it.
    :param kept_bytes: of the payload of a message that is rejected.
    :param max_known: how many agents are remembered.
    :param met: is told of payloads that were cut.
    :param holding: returns number and incarnation of this daemon, which is registered before anything is
        written; ``None``: nobody would take Sessions over from it. What is about a Packet Identifier of
        QoS 2 is written under the incarnation that took it, or never. See ADR 0230.
    :ivar known: id and fields of those agents, by uuid.
    """

    fence: Final = text.FENCE

    def __init__(
        self,
        instance: UUID,
        kept_bytes: int = 64 * 1024,
        max_known: int = 100_000,
        met: LimitsMet | None = None,
        holding: Callable[[], tuple[int, int] | None] | None = None,
    ) -> None:
        self._met = met or LimitsMet(time.monotonic)
        self.known: dict[str, tuple[int, Agent]] = {}
        self._instance, self._kept_bytes, self._max_known = str(instance), kept_bytes, max_known
        self._holding = holding

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        """Return the statement that commits ``entries`` under the ticket ``writer``, ``batch``."""
        columns = Columns(self._kept_bytes, self.known, self._holding is not None)
        given: dict[str, Any] = {"instance": self._instance, "writer": writer, "batch": batch}
        if self._holding is not None:
            holding = self._holding()
            assert holding is not None
            given["daemon"], given["incarnation"] = holding
        return _TEMPLATE.fill(columns, entries, **given)

    def committed(self, statement: Statement, answer: Sequence[Any] | None) -> Outcome:
        """Return the outcome of a statement, and remember the agents as they are now.

        :param answer: the row that the statement returned; ``None``: an earlier try had been committed.
        """
        columns: Columns = statement.columns
        written, fresh, uuids, identifiers = (0, 0, None, None) if answer is None else answer[:4]
        self._remember(columns, zip(uuids or (), identifiers or (), strict=True))
        if columns.cut:
            text = "payloads of rejected messages are kept in part"
            self._met.note("keep_rejected_payload", text, columns.cut, LogLevel.info)
        messages = len(columns.reports)
        # A ticket that was known means that an earlier try had been committed after all.
        stored = fresh if written else messages
        return Outcome(stored, messages - stored + columns.repeated, columns.rejected)

    def stale(self) -> None:
        """Forget the agents, so that every one is written anew."""
        self.known.clear()

    def trial(self) -> Statement:
        """Return a statement that any database with our tables takes."""
        return self.build(largest(), str(uuid4()), 1)

    def instead(self, entry: object, reason: str) -> "Sequence[object] | None":
        """Return the entries to commit in the place of one that the database refuses for its data."""
        return KINDS[type(entry)].instead(entry, reason)

    def fenced(self, entry: object) -> bool:
        """Return whether an entry is about a Packet Identifier, and somebody may have taken that over."""
        return self._holding is not None and bool(KINDS[type(entry)].touches(entry))

    def _remember(self, columns: Columns, upserted: Iterable[tuple[str, int]]) -> None:
        known = self.known
        for uuid in columns.departed:
            known.pop(uuid, None)
        for uuid, identifier in upserted:
            agent, connected = columns.upserts[uuid]
            known.pop(uuid, None)
            if connected and _weigh(agent) <= LARGEST_KNOWN:
                known[uuid] = identifier, agent
        while len(known) > self._max_known:
            del known[next(iter(known))]
