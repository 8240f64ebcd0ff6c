"""Columns: the entries of one batch of reports, sorted into the columns of the tables."""

from collections.abc import Mapping
from hashlib import sha256

from platziverse.agents.model import Agent, Arrival, Departure, Rejection, Report, Series
from platziverse.broker.records import Delivery, Forget, Release
from platziverse.postgres.literals import Column, array, nullable_text_array, number_array, text_array


class Columns:
    """Columns are all that a statement writes, with agents in the state in which the last entry leaves them.

    Entries are added one by one, then :meth:`settle` is called. A batch has hundreds of reports and thousands
    of metrics, so their columns are made by one comprehension each, not piece by piece.

    :param kept_bytes: of the payload of a rejection; what is longer is cut.
    :param known: id and fields of the agents that are in the table as connected, by uuid.
    :param may_be_fenced: another daemon may take Sessions over from this one.
    :ivar reports: the ones that may be stored; ``repeated`` counts those that came twice in this batch.
    :ivar keys: of those that have one.
    :ivar rejections: each with the number of its report, counted from 1; 0: it came on its own.
    :ivar rejected: how many rejections came on their own.
    :ivar cut: how many rejections have a payload that was cut.
    :ivar deliveries: each with the number of its report; 0: its report is a repeated one.
    :ivar upserts: agents to write, with whether they are connected, by uuid.
    :ivar departed: uuids of agents to mark as gone, of which nothing else is known here.
    :ivar remembered: ids of agents that need no writing.
    """

    def __init__(
        self, kept_bytes: int, known: Mapping[str, tuple[int, Agent]], may_be_fenced: bool = False
    ) -> None:
        self._kept_bytes, self._known, self._may_be_fenced = kept_bytes, known, may_be_fenced
        self.repeated = self.rejected = self.cut = 0
        self.reports: list[Report] = []
        self.keys: set[bytes] = set()
        self.rejections: list[tuple[int, Rejection]] = []
        self.deliveries: list[tuple[int, Delivery]] = []
        self.releases: list[Release] = []
        self.forgotten: list[str] = []
        self.upserts: dict[str, tuple[Agent, bool]] = {}
        self.departed: list[str] = []
        self.remembered: list[int] = []
        self.types: list[str] = []
        #: Uuid and type → number of the report, and what is known of its type.
        self.series: dict[tuple[str, str], tuple[int, Series]] = {}
        self._states: dict[str, tuple[Agent | None, bool]] = {}
        # Uuid → id of the agent; -1 for the first of ``upserts``, -2 for the second …
        self._references: dict[str, int] = {}

    def add_report(self, report: Report) -> None:
        """Add a report, with the rejections and the delivery that it brings."""
        agent, key = report.agent, report.key
        self._states[agent.uuid] = agent, True
        repeated = key in self.keys
        if repeated:
            self.repeated += 1
        else:
            if key is not None:
                self.keys.add(key)
            self.reports.append(report)
        message = 0 if repeated else len(self.reports)
        if report.delivery is not None:
            self.deliveries.append((message, report.delivery))
        if report.series and not repeated:
            self.series |= {(agent.uuid, one.type): (message, one) for one in report.series}
        if report.rejections and not repeated:
            self.rejections += [(message, rejection) for rejection in report.rejections]

    def add_rejection(self, rejection: Rejection) -> None:
        """Add a rejection that came on its own."""
        self.rejected += 1
        self.rejections.append((0, rejection))

    def add_departure(self, departure: Departure) -> None:
        """Add the departure of an agent."""
        agent, _ = self._states.get(departure.uuid, (None, False))
        self._states[departure.uuid] = agent, False

    def add_arrival(self, arrival: Arrival) -> None:
        """Add the arrival of an agent."""
        self._states[arrival.agent.uuid] = arrival.agent, True

    def add_release(self, release: Release) -> None:
        """Add the release of a Packet Identifier."""
        self.releases.append(release)

    def add_forget(self, forget: Forget) -> None:
        """Add a client whose Packet Identifiers are to be forgotten."""
        self.forgotten.append(forget.client_id)

    @property
    def fenced(self) -> bool:
        """All of this is of one incarnation of the daemon, for what is in it of QoS 2."""
        return self._may_be_fenced and bool(self.deliveries or self.releases or self.forgotten)

    def settle(self) -> None:
        """Decide what is written of the agents."""
        known = self._known
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
        self.types = [metric.type for report in self.reports for metric in report.metrics]

    # -- the parameters of each part of the statement --------------------------------------------

    def of_agents(self) -> dict[str, Column]:
        """Return the agents to write."""
        agents = [agent for agent, _ in self.upserts.values()]
        return {
            "uuid": (text_array, [agent.uuid for agent in agents]),
            "username": (text_array, [agent.username for agent in agents]),
            "name": (text_array, [agent.name for agent in agents]),
            "hostname": (text_array, [agent.hostname for agent in agents]),
            "pid": (array, [agent.pid for agent in agents]),
            "connected": (array, [connected for _, connected in self.upserts.values()]),
        }

    def of_departures(self) -> dict[str, Column]:
        """Return the agents that have gone."""
        return {"departed": (text_array, self.departed)}

    def of_messages(self) -> dict[str, Column]:
        """Return one row for each report."""
        reports, references = self.reports, self._references
        return {
            "agent": (array, [references[report.agent.uuid] for report in reports]),
            "arrived": (array, [report.arrived for report in reports]),
            "measured": (array, [report.measured for report in reports]),
            "adjusted": (array, [report.measured_adjusted for report in reports]),
            "key": (array, [report.key.hex() if report.key is not None else None for report in reports]),
        }

    def of_metrics(self) -> dict[str, Column]:
        """Return one row for each metric, with the number of its report."""
        values = [metric.value for report in self.reports for metric in report.metrics]
        return {
            "message": (array, [n for n, report in enumerate(self.reports, 1) for _ in report.metrics]),
            "type": (text_array, self.types),
            "value": (text_array, values),
            "number": (number_array, values),
        }

    def of_series(self) -> dict[str, Column]:
        """Return one row for each type that an agent has not sent before, with the number of its report."""
        series = [one for _, one in self.series.values()]
        return {
            "s_message": (array, [message for message, _ in self.series.values()]),
            "s_type": (text_array, [one.type for one in series]),
            "s_unit": (nullable_text_array, [one.unit for one in series]),
            "s_rule": (nullable_text_array, [one.rule for one in series]),
        }

    def of_deliveries(self) -> dict[str, Column]:
        """Return one row for each QoS 2 message of a Session that outlives its connection."""
        deliveries = [delivery for _, delivery in self.deliveries]
        return {
            "d_message": (array, [message for message, _ in self.deliveries]),
            "d_packet": (array, [delivery.packet_id for delivery in deliveries]),
            "d_digest": (array, [delivery.digest.hex() for delivery in deliveries]),
            "d_dup": (array, [delivery.dup for delivery in deliveries]),
            "d_client": (text_array, [delivery.client_id for delivery in deliveries]),
        }

    def of_rejections(self) -> dict[str, Column]:
        """Return one row for each rejection, with the number of its report; size and digest if it is cut."""
        rejections = [rejection for _, rejection in self.rejections]
        payloads, kept = [rejection.payload for rejection in rejections], self._kept_bytes
        cut = [payload if len(payload) > kept else None for payload in payloads]
        self.cut = len(cut) - cut.count(None)
        digests = [None if payload is None else sha256(payload).hexdigest() for payload in cut]
        return {
            "r_message": (array, [message for message, _ in self.rejections]),
            "r_payload": (array, [payload[:kept].hex() for payload in payloads]),
            "r_arrived": (array, [rejection.arrived for rejection in rejections]),
            "r_size": (array, [None if payload is None else len(payload) for payload in cut]),
            "r_digest": (array, digests),
            "r_topic": (text_array, [rejection.topic for rejection in rejections]),
            "r_client": (text_array, [rejection.client_id for rejection in rejections]),
            "r_address": (nullable_text_array, [rejection.address or None for rejection in rejections]),
            "r_properties": (nullable_text_array, [one.properties_within(kept) for one in rejections]),
            "r_reason": (text_array, [rejection.reason for rejection in rejections]),
        }

    def of_releases(self) -> dict[str, Column]:
        """Return one row for each Packet Identifier that is free again."""
        return {
            "q_client": (text_array, [release.client_id for release in self.releases]),
            "q_packet": (array, [release.packet_id for release in self.releases]),
        }

    def of_forgets(self) -> dict[str, Column]:
        """Return the clients whose Packet Identifiers are forgotten."""
        return {"forgotten": (text_array, self.forgotten)}

    def of_remembered(self) -> dict[str, Column]:
        """Return the agents that have to be as we remember them."""
        return {"remembered": (array, self.remembered), "remembered_count": (len, self.remembered)}
