"""AgentHandlers: what ``agent/message`` means, and what becomes of the agents when a connection ends."""

from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from msgspec.json import encode
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.agents.careful import MAX_REASON, InvalidReport
from platziverse.agents.interfaces import Client, Publisher, ReportStore, Warn
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent, Departure, Rejection, Report
from platziverse.agents.payload import parse
from platziverse.agents.pending import EndedSessions, Redeliveries
from platziverse.agents.presence import Presence
from platziverse.agents.vocabulary import Vocabulary
from platziverse.broker.records import Delivery, Release
from platziverse.mqtt.packets import Publish

log = Logger()


class AgentHandlers:
    """Rows of the handler table, and an observer of connections and Sessions.

    :param store: where Reports go.
    :param publish: sends ``agent/connected`` and ``agent/disconnected``.
    :param wall_clock: seconds since the epoch.
    :param may_speak_for: whether a client may report as the agent with this uuid and username.
    :param warn: tells the log about rejected messages.
    """

    def __init__(
        self,
        store: ReportStore,
        publish: Publisher,
        wall_clock: Callable[[], float],
        limits: AgentLimits | None = None,
        may_speak_for: Callable[[Client, str, str], bool] = lambda client, uuid, username: True,
        warn: Warn = lambda cause, format, /, **fields: log.warn(format, **fields),
    ) -> None:
        self.limits = limits or AgentLimits()
        self.presence = Presence(self.limits.max_agents)
        self.table: Mapping[str, Callable[[Publish, Client], Deferred[Any]]] = {"agent/message": self.message}
        #: Messages that came again before their first copy was stored.
        self.redelivered = 0
        #: Messages that became a Rejection and nothing else, by kind; see :class:`InvalidReport`.
        self.rejected: Counter[str] = Counter()
        #: Messages stored without some of their metrics.
        self.partly_rejected = 0
        self._sessions = EndedSessions(store, self._not_saved)
        self._redeliveries = Redeliveries()
        self._vocabulary = Vocabulary(self.limits.max_types)
        self._warn = warn
        self._publish = publish
        self._wall_clock = wall_clock
        self._may_speak_for = may_speak_for

    # -- messages --------------------------------------------------------------------------------

    def message(self, message: Publish, client: Client, /) -> "Deferred[Any]":
        """``agent/message``: the Deferred fires when it is stored, as rows or as a Rejection."""
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                self.redelivered += 1
                return answer
        now = self._wall_clock()
        try:
            report = parse(message, client.client_id, now, self.limits)
            known = self._admit(report, client)
        except InvalidReport as error:
            answer = self._reject(message, client, error, now)
        else:
            if outlives and message.qos == 2:
                report.delivery = _delivery(message, client)
            if not known and self.presence.heard(client, report.agent.uuid):
                self._publish("agent/connected", _connected(report.agent))
            answer = self._save(report, client, known)
        if outlives:
            self._redeliveries.watch(message, client, answer)
        return answer

    def _admit(self, report: Report, client: Client) -> bool:
        """Whether the agent has been heard before on this connection, which is open.

        :raises InvalidReport: the client may not speak for it, or not of that.
        """
        agent = report.agent
        if not self._may_speak_for(client, agent.uuid, agent.username):
            raise InvalidReport("binding", "its user may not speak for this agent")
        known = self.presence.has_heard(client, agent.uuid)
        if not known:
            self.presence.check(client, agent.uuid)
        self._admit_types(report)
        return known

    def _save(self, report: Report, client: Client, known: bool) -> "Deferred[None]":
        for rejection in report.rejections:
            self.partly_rejected += 1
            source = report.source
            self._complain(client, source.topic, rejection.reason)
        answer = self._sessions.save(client.client_id, report)
        uuid = report.agent.uuid
        if not known and not self.presence.is_open(client) and not self.presence.is_connected(uuid):
            # A Will, or a message that came out of its connection last: the rows say connected now.
            self._depart(uuid, client)
        return answer

    def _reject(self, message: Publish, client: Client, error: InvalidReport, now: float) -> "Deferred[None]":
        self.rejected[error.kind] += 1
        self._complain(client, message.topic, error.reason)
        rejection = Rejection(message.topic, client.client_id, message.payload, error.reason, now)
        return self._sessions.save(client.client_id, rejection)

    def _complain(self, client: Client, topic: str, reason: str) -> None:
        self._warn(
            "rejected",
            "Rejected a message of {address} {client_id!r} to {topic!r}: {reason}",
            address=client.address,
            client_id=client.client_id,
            topic=topic,
            reason=reason,
        )

    def _not_saved(self, failure: Failure) -> None:
        """What nobody waits for: at the end of a daemon without its database there may be many."""
        reason = failure.getErrorMessage() or failure.value.__class__.__name__
        self._warn("not saved", "An entry could not be saved: {reason}", address="", reason=reason)

    def _admit_types(self, report: Report) -> None:
        metrics, others = self._vocabulary.admit(report.agent.uuid, report.metrics)
        if not others:
            return
        reason = f"{len(others)} metrics of new types, the agent has {self.limits.max_types} already"
        if not metrics:
            raise InvalidReport("types", reason)
        source = report.source
        reasons = [rejection.reason for rejection in report.rejections]
        reason = "; ".join([reason, *reasons])[:MAX_REASON]
        report.metrics = metrics
        report.rejections = [
            Rejection(source.topic, source.client_id, source.payload, reason, report.arrived)
        ]

    # -- connections and Sessions ----------------------------------------------------------------

    def client_connected(self, client: Client) -> None:
        """A connection begins, right after the end of the one it has taken over."""
        self.presence.begin(client)

    def client_disconnected(self, client: Client, taken_over: bool) -> None:
        """A connection has ended, and with it the agents that only it spoke for."""
        for uuid in self.presence.end(client, taken_over):
            self._publish("agent/disconnected", encode({"agent": {"uuid": uuid}}))
            self._depart(uuid, client)

    def _depart(self, uuid: str, client: Client) -> None:
        self._sessions.save(client.client_id, Departure(uuid)).addErrback(self._not_saved)

    def message_released(self, client: Client, packet_id: int) -> "Deferred[Any]":
        """PUBREL came: PUBCOMP waits until the Packet Identifier is forgotten."""
        return self._sessions.save(client.client_id, Release(client.client_id, packet_id))

    def session_ended(self, client_id: str) -> None:
        """A persistent Session is gone, and with it its Packet Identifiers."""
        self._sessions.forget(client_id)


def _connected(agent: Agent) -> bytes:
    return encode(
        {
            "agent": {
                "uuid": agent.uuid,
                "username": agent.username,
                "name": agent.name,
                "hostname": agent.hostname,
                "pid": agent.pid,
                "connected": True,
            }
        }
    )


def _delivery(message: Publish, client: Client) -> Delivery:
    digest = blake2b(message.topic.encode(), digest_size=16)
    digest.update(b"\0" + message.payload)
    assert message.packet_id is not None
    return Delivery(client.client_id, message.packet_id, message.dup, digest.digest())
