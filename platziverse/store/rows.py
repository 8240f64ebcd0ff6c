"""The entries of one batch, sorted into the columns of the tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from platziverse.agents.model import Agent, Delivery, Departure, Entry, Forget, Rejection, Release, Report
from platziverse.store.literals import number


class Rows:
    """Columns of literals, and the agents in the state the last entry leaves them in.

    :ivar messages: how many reports may be stored; ``repeated`` are those that came twice in this batch.
    :ivar rejected: how many rejections came on their own, not with a report.
    :ivar upserts: agents to write, with whether they are connected, by uuid.
    :ivar remembered: ids of agents that need no writing.
    """

    def __init__(self, entries: Sequence[Entry], known: Mapping[str, tuple[int, Agent]]) -> None:
        self.messages = self.repeated = self.rejected = 0
        self._uuids: list[str] = []
        self.arrived: list[str] = []
        self.measured: list[str] = []
        self.adjusted: list[str] = []
        self.keys: list[str] = []
        self.metric_message: list[int] = []
        self.types: list[str] = []
        self.values: list[str] = []
        self.numbers: list[str] = []
        self.rejections: list[tuple[int, Rejection]] = []
        self.deliveries: list[tuple[int, Delivery]] = []
        self.releases: list[Release] = []
        self.forgotten: list[str] = []
        self._states: dict[str, tuple[Agent | None, bool]] = {}
        self._seen: set[bytes] = set()
        for entry in entries:
            _ADD[type(entry)](self, entry)
        self._settle_agents(known)

    def agents(self) -> list[int]:
        """For each message the id of its agent; -1 for the first agent of ``upserts``, -2 for the second …"""
        references = self._references
        return [references[uuid] for uuid in self._uuids]

    def _settle_agents(self, known: Mapping[str, tuple[int, Agent]]) -> None:
        self.upserts: dict[str, tuple[Agent, bool]] = {}
        self.departed: list[str] = []
        self.remembered: list[int] = []
        self._references: dict[str, int] = {}
        for uuid, (agent, connected) in self._states.items():
            if agent is None:
                self.departed.append(uuid)
                continue
            found = known.get(uuid)
            if connected and found is not None and (found[1] is agent or found[1] == agent):
                self.remembered.append(found[0])
                self._references[uuid] = found[0]
            else:
                self.upserts[uuid] = agent, connected
                self._references[uuid] = -len(self.upserts)

    def _report(self, report: Report) -> None:
        self._states[report.agent.uuid] = report.agent, True
        key = report.key
        repeated = key in self._seen
        message = 0 if repeated else self.messages + 1
        if report.delivery is not None:
            self.deliveries.append((message, report.delivery))
        if repeated:
            self.repeated += 1
            return
        if key is not None:
            self._seen.add(key)
        self.messages = message
        self._uuids.append(report.agent.uuid)
        self.arrived.append(repr(report.arrived))
        self.measured.append("NULL" if report.measured is None else repr(report.measured))
        self.adjusted.append("t" if report.measured_adjusted else "f")
        self.keys.append("NULL" if key is None else key.hex())
        for metric in report.metrics:
            self.metric_message.append(message)
            self.types.append(metric.type)
            self.values.append(metric.value)
            self.numbers.append(number(metric.value))
        for rejection in report.rejections:
            self.rejections.append((message, rejection))

    def _rejection(self, rejection: Rejection) -> None:
        self.rejected += 1
        self.rejections.append((0, rejection))

    def _departure(self, departure: Departure) -> None:
        agent, _ = self._states.get(departure.uuid, (None, False))
        self._states[departure.uuid] = agent, False

    def _release(self, release: Release) -> None:
        self.releases.append(release)

    def _forget(self, forget: Forget) -> None:
        self.forgotten.append(forget.client_id)


_ADD: Final[dict[type, Callable[[Rows, Any], None]]] = {
    Report: Rows._report,
    Rejection: Rows._rejection,
    Departure: Rows._departure,
    Release: Rows._release,
    Forget: Rows._forget,
}
