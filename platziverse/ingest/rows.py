"""The entries of one batch, sorted into the columns of the tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from platziverse.agents.model import Agent, Departure, Entry, Rejection, Report
from platziverse.broker.records import Delivery, Forget, Release


class Rows:
    """What a statement writes, and the agents in the state the last entry leaves them in.

    A batch has hundreds of reports and thousands of metrics, so their columns are made by one
    comprehension each, not piece by piece.

    :ivar reports: the ones that may be stored; ``repeated`` are those that came twice in this batch.
    :ivar rejected: how many rejections came on their own, not with a report.
    :ivar upserts: agents to write, with whether they are connected, by uuid.
    :ivar remembered: ids of agents that need no writing.
    """

    def __init__(self, entries: Sequence[Entry], known: Mapping[str, tuple[int, Agent]]) -> None:
        self.repeated = self.rejected = 0
        self.reports: list[Report] = []
        self.rejections: list[tuple[int, Rejection]] = []
        self.deliveries: list[tuple[int, Delivery]] = []
        self.releases: list[Release] = []
        self.forgotten: list[str] = []
        self._states: dict[str, tuple[Agent | None, bool]] = {}
        self._seen: set[bytes] = set()
        for entry in entries:
            _ADD[type(entry)](self, entry)
        self._settle_agents(known)
        reports = self.reports
        self.metric_message = [n for n, report in enumerate(reports, 1) for _ in report.metrics]
        metrics = [metric for report in reports for metric in report.metrics]
        self.types = [metric.type for metric in metrics]
        self.values = [metric.value for metric in metrics]

    @property
    def messages(self) -> int:
        """How many reports may be stored."""
        return len(self.reports)

    def agents(self) -> list[int]:
        """For each message the id of its agent; -1 for the first agent of ``upserts``, -2 for the second …"""
        references = self._references
        return [references[report.agent.uuid] for report in self.reports]

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
        agent, key = report.agent, report.key
        self._states[agent.uuid] = agent, True
        repeated = key in self._seen
        if repeated:
            self.repeated += 1
        else:
            if key is not None:
                self._seen.add(key)
            self.reports.append(report)
        message = 0 if repeated else len(self.reports)
        if report.delivery is not None:
            self.deliveries.append((message, report.delivery))
        if report.rejections and not repeated:
            self.rejections += [(message, rejection) for rejection in report.rejections]

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
