"""Reports: the kinds of entries that reports bring about, and the statements that commit them."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast
from uuid import UUID

from attrs import evolve

from platziverse.agents.model import Agent, Departure, Rejection, Report
from platziverse.broker.records import Forget, Release
from platziverse.ingest import text
from platziverse.ingest.batch import Outcome
from platziverse.ingest.columns import Columns
from platziverse.ingest.kinds import EVERYTHING, Kind, Kinds, Touch
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


# -- the five kinds ------------------------------------------------------------------------------


def _weight_of_report(report: Report) -> int:
    """Return how many rows a report has; a KiB of payload counts as one."""
    return len(report.metrics) + (len(report.source.payload) >> 10)


def _weight_of_rejection(rejection: Rejection) -> int:
    return 1 + (len(rejection.payload) >> 10)


def _touches_of_report(report: Report) -> tuple[Touch, ...]:
    delivery = report.delivery
    return () if delivery is None else ((delivery.client_id, delivery.packet_id),)


_PARTS_OF_REPORT: Final = (
    text.AGENTS,
    text.MESSAGES,
    text.KEYS,
    text.DELIVERIES,
    text.FRESH,
    text.METRICS,
    text.REMEMBERED,
)

#: Everything that handlers of agents save. The order of the parts is the order of the statement.
KINDS: Final[Kinds] = {
    Departure: Kind(
        shard=lambda departure: cast(str, departure.uuid),
        add=Columns.add_departure,
        parts=(text.AGENTS, text.DEPARTURES),
        instead=_left_out,
        departure=True,
    ),
    Report: Kind(
        shard=lambda report: cast(str, report.agent.uuid),
        add=Columns.add_report,
        parts=_PARTS_OF_REPORT,
        instead=_as_rejection,
        weight=_weight_of_report,
        touches=_touches_of_report,
        message=True,
    ),
    Rejection: Kind(
        shard=lambda rejection: cast(str, rejection.client_id),
        add=Columns.add_rejection,
        parts=(text.REJECTIONS,),
        instead=_in_ascii,
        weight=_weight_of_rejection,
        message=True,
    ),
    Release: Kind(
        shard=lambda release: cast(str, release.client_id),
        add=Columns.add_release,
        parts=(text.RELEASES,),
        instead=_left_out,
        touches=lambda release: ((release.client_id, release.packet_id),),
        last=True,
    ),
    Forget: Kind(
        shard=lambda forget: cast(str, forget.client_id),
        add=Columns.add_forget,
        parts=(text.FORGETS,),
        instead=_left_out,
        touches=lambda forget: ((forget.client_id, EVERYTHING),),
        last=True,
    ),
}


_TEMPLATE: Final = Template(KINDS, text.TICKET, text.answer)


class ReportStatements:
    """ReportStatements makes those of one slot, and remembers the agents that it has left connected.

    The agents of the slot's shard are in no other shard, so what is remembered of them is true unless another
    daemon, or a person, has written their rows: then the statement says so and writes nothing.

    :param instance: identity of this daemon, which owns the agents that are connected to it.
    :param kept_bytes: of the payload of a message that is rejected.
    :param max_known: how many agents are remembered.
    :ivar known: id and fields of those agents, by uuid.
    """

    fence: Final = text.FENCE

    def __init__(self, instance: UUID, kept_bytes: int = 64 * 1024, max_known: int = 100_000) -> None:
        self.known: dict[str, tuple[int, Agent]] = {}
        self._instance, self._kept_bytes, self._max_known = str(instance), kept_bytes, max_known

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        """Return the statement that commits ``entries`` under the ticket ``writer``, ``batch``."""
        columns = Columns(self._kept_bytes)
        _TEMPLATE.collect(entries, columns)
        columns.settle(self.known)
        return _TEMPLATE.filled(columns, instance=self._instance, writer=writer, batch=batch)

    def committed(self, statement: Statement, answer: Sequence[Any] | None) -> Outcome:
        """Return the outcome of a statement, and remember the agents as they are now.

        :param answer: the row that the statement returned; ``None``: an earlier try had been committed.
        """
        columns: Columns = statement.columns
        written, fresh, uuids, identifiers = (0, 0, None, None) if answer is None else answer[:4]
        self._remember(columns, zip(uuids or (), identifiers or (), strict=True))
        messages = len(columns.reports)
        # A ticket that was known means that an earlier try had been committed after all.
        stored = fresh if written else messages
        return Outcome(stored, messages - stored + columns.repeated, columns.rejected)

    def stale(self) -> None:
        """Forget the agents, so that every one is written anew."""
        self.known.clear()

    def trial(self) -> Sequence[object]:
        """Return entries that any database with our tables takes."""
        return largest()

    def instead(self, entry: object, reason: str) -> "Sequence[object] | None":
        """Return the entries to commit in the place of one that the database refuses for its data."""
        return KINDS[type(entry)].instead(entry, reason)

    def _remember(self, columns: Columns, upserted: Iterable[tuple[str, int]]) -> None:
        known = self.known
        for uuid in columns.departed:
            known.pop(uuid, None)
        for uuid, identifier in upserted:
            agent, connected = columns.upserts[uuid]
            known.pop(uuid, None)
            if connected:
                known[uuid] = identifier, agent
        while len(known) > self._max_known:
            del known[next(iter(known))]
