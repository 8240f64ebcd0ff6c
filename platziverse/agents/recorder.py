"""Recorder: saves Reports for their senders, and Departures when a connection ends."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import evolve
from msgspec.json import encode
from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.agents.interfaces import Client, ReportStore, Warn
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import (
    MAX_REASON,
    Agent,
    Arrival,
    Departure,
    InvalidReport,
    Rejection,
    Report,
    Series,
)
from platziverse.agents.pending import EndedSessions
from platziverse.agents.presence import Presence, Spoken
from platziverse.agents.vocabulary import Vocabulary
from platziverse.broker.reasons import Reason, Refused
from platziverse.broker.records import Delivery, Release
from platziverse.errors import ComesAgain
from platziverse.mqtt.packets import Publish

log = Logger("platziverse.agents.handlers")  # the name that users may have in log_level

#: What the server alone announces; in the original any client could announce any agent.
CONNECTED: Final = "agent/connected"
DISCONNECTED: Final = "agent/disconnected"
ANNOUNCEMENTS: Final = frozenset({CONNECTED, DISCONNECTED})
#: Why a message becomes a Rejection, by kind; any other is a fault of its payload.
REASONS: Final = {
    "binding": Reason.NOT_AUTHORIZED,
    "login": Reason.NOT_AUTHORIZED,
    "agents": Reason.QUOTA,
    "types": Reason.QUOTA,
}


class Recorder:
    """A Recorder saves Reports, asks who may speak for an agent, and knows which agents are connected.

    It observes connections and Sessions, too. ``agent/message`` and all other handlers share one Recorder, so
    a connection speaks for its agents in whichever form it reports them.

    :param store: where Reports go.
    :param publish: sends ``agent/connected`` and ``agent/disconnected``.
    :param wall_clock: seconds since the epoch.
    :param may_speak_for: returns whether a client may report as the agent with this uuid and username.
    :param warn: tells the log about rejected messages.
    """

    def __init__(
        self,
        store: ReportStore,
        publish: Callable[[str, bytes], None],
        wall_clock: Callable[[], float],
        limits: AgentLimits | None = None,
        may_speak_for: Callable[[Client, str, str], bool] = lambda client, uuid, username: True,
        warn: Warn = lambda cause, format, /, **fields: log.warn(format, **fields),
    ) -> None:
        self.limits = limits or AgentLimits()
        self.wall_clock = wall_clock
        self.presence = Presence(self.limits.max_agents)
        #: Messages that came again before their first copy was stored.
        self.redelivered = 0
        #: Messages that became a Rejection and nothing else, by kind; see :class:`InvalidReport`.
        self.rejected: Counter[str] = Counter()
        #: What handlers have failed with, by name and kind: raised, deadline, busy or loop.
        self.handler_failures: Counter[tuple[str, str]] = Counter()
        #: Messages stored without some of their metrics.
        self.partly_rejected = 0
        #: Messages whose ``timestamp`` was not usable, so that the time of their arrival was stored.
        self.times_adjusted = 0
        #: Messages whose ``timestamp`` was understood and not in milliseconds, by what it was in.
        self.times_converted: Counter[str] = Counter()
        #: Called with each Report that is saved, while somebody watches.
        self.observe: Callable[[Report], None] | None = None
        self._sessions = EndedSessions(store, self._not_saved)
        self._vocabulary = Vocabulary(self.limits.max_types)
        # Made when the first handler of a table records: most daemons have none.
        self._spoken: Spoken | None = None
        #: The number of the newest connection, and that of the newest one whose Session another daemon has.
        self._newest = self._taken_over = 0
        self._warn, self._publish, self._may_speak_for = warn, publish, may_speak_for

    # -- messages --------------------------------------------------------------------------------

    def record(
        self,
        message: Publish,
        client: Client,
        arrived: float,
        reports: Sequence[Report],
        errors: Sequence[InvalidReport] = (),
    ) -> "Deferred[Any]":
        """Save all Reports of one message; the Deferred fires when every one of them is committed.

        Without a Report and without an error nothing is saved.

        :param arrived: seconds since the epoch, wall clock.
        :param errors: what is wrong with further Reports of the message. When none can be saved, the message
            becomes a Rejection; else the first one saved brings the Rejection along.
        """
        if client.number <= self._taken_over and client.persistent and message.qos == 2:
            return fail(ComesAgain("another daemon has its Session now, and stores it"))
        admitted, refused = self.admit_all(reports, client)
        if admitted:
            self._spoken = self._spoken or Spoken()
            self._spoken.note(message, client, [report.agent for report, _ in admitted])
        return self.save_all(message, client, arrived, admitted, [*errors, *refused])

    def save_all(
        self,
        message: Publish,
        client: Client,
        arrived: float,
        admitted: "Sequence[tuple[Report, bool]]",
        refused: Sequence[InvalidReport],
    ) -> "Deferred[Any]":
        """Save what :meth:`admit_all` has returned; the Deferred fires when all of it is committed."""
        if not admitted:
            return self.reject(message, client, _one_of(refused), arrived) if refused else succeed(None)
        if refused:
            _add_rejection(admitted[0][0], _one_of(refused).reason)
        if client.persistent and message.qos == 2:
            admitted[-1][0].delivery = Delivery.of(message, client.client_id)
        return together([self.save(report, client, known) for report, known in admitted])

    def admit_all(
        self, reports: Sequence[Report], client: Client, asks: bool = True
    ) -> tuple[list[tuple[Report, bool]], list[InvalidReport]]:
        """Return the Reports that may be saved, each as :meth:`save` takes it, and why the others may not.

        :param asks: as of :meth:`admit`.
        """
        admitted, refused = [], []
        for report in reports:
            try:
                known = self.admit(report, client, asks)
            except InvalidReport as error:
                refused.append(error)
                continue
            if not known:  # heard at once: the next may be one agent too many
                self._hear(report.agent, client)
            admitted.append((report, known))
        return admitted, refused

    def admit(self, report: Report, client: Client, asks: bool = True) -> bool:
        """Return whether the agent was heard before on this connection, which is open.

        Metrics of types that the agent may not send any more are taken out of the report.

        :param asks: whether the client may speak for the agent; false where the topic names it, so that the
            access rules have decided.
        :raises InvalidReport: the client may not speak for the agent, or the agent not of these types.
        """
        agent = report.agent
        if asks:
            self._check_speaker(client, agent)
        known = self.presence.has_heard(client, agent.uuid)
        if not known:
            self.presence.check(client, agent.uuid)
        metrics, others, learnt = self._vocabulary.admit(agent.uuid, report.metrics)
        if learnt:
            report.series = _series(report, learnt)
        if others:
            most = self.limits.max_types
            reason = f"{len(others)} metrics of new types, the agent has {most} already (max_types)"
            if not metrics:
                raise InvalidReport("types", reason)
            report.metrics = metrics
            _add_rejection(report, reason)
        return known

    def _check_speaker(self, client: Client, agent: Agent) -> None:
        """Check who speaks. :raises InvalidReport: the client may not speak for the agent."""
        if not self._may_speak_for(client, agent.uuid, agent.username):
            raise InvalidReport("binding", "its user may not speak for this agent")

    def save(self, report: Report, client: Client, known: bool) -> "Deferred[None]":
        """Save a Report that was admitted; the Deferred fires when it is committed.

        :param known: as :meth:`admit` returned it.
        """
        uuid = report.agent.uuid
        if not known:
            self._hear(report.agent, client)
        if report.measured_adjusted:
            self._note_adjusted(report, client)
        elif report.time_form:
            self.times_converted[report.time_form] += 1
        report.source.address = client.address
        for rejection in report.rejections:
            self.partly_rejected += 1
            rejection.address = client.address
            self._complain(client, report.source.topic, rejection.reason)
        if self.observe is not None:
            self.observe(report)
        answer = self._sessions.save(client.client_id, report)
        if not known and not self.presence.is_open(client) and not self.presence.is_connected(uuid):
            # A Will, or a message that came out of its connection last: the rows say connected now.
            self._depart(uuid, client)
        return answer

    def repeated(self, message: Publish, client: Client) -> "Deferred[Any] | None":
        """Let the connection speak for the agents of a message that :meth:`record` got, and has come again.

        :return: as of :meth:`arrive`.
        """
        agents = self._spoken.find(message, client) if self._spoken is not None else ()
        return self.arrive_all([Report(agent, []) for agent in agents], client)

    def arrive_all(
        self, reports: Iterable[Report], client: Client, asks: bool = True
    ) -> "Deferred[Any] | None":
        """Let the connection speak for all agents of a message that is stored, as :meth:`arrive` for one."""
        answers = [answer for report in reports if (answer := self.arrive(report, client, asks)) is not None]
        return together(answers) if answers else None

    def arrive(self, report: Report, client: Client, asks: bool = True) -> "Deferred[None] | None":
        """Let the connection speak for the agent of a Report that is stored; the Deferred fires on commit.

        :param asks: as of :meth:`admit`.
        :return: ``None`` when nothing changes: it has spoken for the agent, it may not, or it has ended.
        """
        try:
            if not self.presence.is_open(client) or self.admit(report, client, asks):
                return None
        except InvalidReport:  # as when it came first; or its next message of this agent is rejected with it
            return None
        self._hear(report.agent, client)
        return self._sessions.save(client.client_id, Arrival(report.agent))

    def depart(self, agent: Agent, client: Client, asks: bool) -> "Deferred[None] | None":
        """Let an agent go of which a message says that it has gone, whoever speaks for it.

        :param asks: as of :meth:`admit`.
        :return: ``None`` when nobody speaks for it, else a Deferred that fires when that is committed.
        :raises InvalidReport: the client may not speak for the agent.
        """
        if asks:
            self._check_speaker(client, agent)
        if not self.presence.depart(client, agent.uuid):
            return None
        self._publish(DISCONNECTED, _disconnected(agent.uuid))
        return self._sessions.save(client.client_id, Departure(agent.uuid))

    def reject(
        self, message: Publish, client: Client, error: InvalidReport, arrived: float
    ) -> "Deferred[Any]":
        """Keep a message that can never become rows; the Deferred fires when that is committed, with why."""
        self.rejected[error.kind] += 1
        self._complain(client, message.topic, error.reason)
        who, reason = client.client_id, error.reason
        about = message.topic, who, message.payload, reason, arrived, client.address
        rejection = Rejection(*about, message.properties)
        refused = Refused(REASONS.get(error.kind, Reason.PAYLOAD_INVALID), reason)
        return self._sessions.save(who, rejection).addCallback(lambda _: refused)

    def describe_again(self) -> None:
        """Write the series of all types again when they come next: units have changed, or the table has."""
        self._vocabulary = Vocabulary(self.limits.max_types)

    def _hear(self, agent: Agent, client: Client) -> None:
        if self.presence.heard(client, agent.uuid):
            self._publish(CONNECTED, _connected(agent))

    def _note_adjusted(self, report: Report, client: Client) -> None:
        self.times_adjusted += 1
        self._warn(
            "timestamp",
            "The timestamp of a message of {address} {client_id!r} to {topic!r} is not used, as it is no time"
            " from 7 days ago to 10 minutes from now; the time of its arrival is stored",
            address=client.address,
            client_id=client.client_id,
            topic=report.source.topic,
        )

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
        """Tell the log of an entry that was not saved, for which nobody waits."""
        reason = failure.getErrorMessage() or failure.value.__class__.__name__
        self._warn("not saved", "An entry could not be saved: {reason}", address="", reason=reason)

    # -- connections and Sessions ----------------------------------------------------------------

    def client_connected(self, client: Client) -> None:
        """Begin a connection, right after the end of the one that it has taken over."""
        self._newest = max(self._newest, client.number)
        self.presence.begin(client)

    def client_disconnected(self, client: Client, taken_over: bool) -> None:
        """End a connection, and let the agents depart for which only it spoke."""
        for uuid in self.presence.end(client, taken_over):
            self._publish(DISCONNECTED, _disconnected(uuid))
            self._depart(uuid, client)

    def taken_over(self) -> None:
        """Take note that other daemons have all Sessions, and have told everybody that the agents are gone.

        A handler may finish only now with what a client had sent at QoS 2: that comes again, there. ADR 0230.
        """
        self.presence.forget()
        self._taken_over = self._newest

    def left_behind(self, uuids: Sequence[str]) -> None:
        """Announce agents of a daemon that has died, but for those that have come to this one meanwhile."""
        for uuid in uuids:
            if not self.presence.is_connected(uuid):
                self._publish(DISCONNECTED, _disconnected(uuid))

    def _depart(self, uuid: str, client: Client) -> None:
        self._sessions.save(client.client_id, Departure(uuid)).addErrback(self._not_saved)

    def message_released(self, client: Client, packet_id: int) -> "Deferred[Any]":
        """Save a Release: PUBCOMP waits until the Packet Identifier is forgotten."""
        if self._spoken is not None:
            self._spoken.forget(client.client_id, packet_id)
        return self._sessions.save(client.client_id, Release(client.client_id, packet_id))

    def session_ended(self, client_id: str) -> None:
        """Save a Forget: a persistent Session is gone, and with it its Packet Identifiers."""
        self._sessions.forget(client_id)


def together(answers: "Sequence[Deferred[Any]]") -> "Deferred[Any]":
    """Return one Deferred for all ``answers``; it fires when they have, and fails as the first that does."""
    if len(answers) == 1:
        return answers[0]
    return gatherResults(answers, consumeErrors=True).addErrback(_first_failure)


def _series(report: Report, kinds: Sequence[str]) -> tuple[Series, ...]:
    """Return what is known of the types of a Report."""
    described = report.described
    if described is None:
        return tuple([Series(kind) for kind in kinds])
    return tuple([Series(kind, described.unit(kind), described.name) for kind in kinds])


def _first_failure(failure: Failure) -> Failure:
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure


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


def _disconnected(uuid: str) -> bytes:
    return encode({"agent": {"uuid": uuid}})


def _add_rejection(report: Report, reason: str) -> None:
    """Let the report bring one Rejection along, whose reason begins with ``reason``."""
    source = report.source
    reasons = [rejection.reason for rejection in report.rejections]
    reason = "; ".join([reason, *reasons])[:MAX_REASON]
    report.rejections = [evolve(source, reason=reason, arrived=report.arrived)]


def _one_of(errors: Sequence[InvalidReport]) -> InvalidReport:
    """Return one error with the texts of all, of the kind of the first."""
    return InvalidReport(errors[0].kind, "; ".join(error.reason for error in errors)[:MAX_REASON])
