"""Recording: the handler of all topics that have a rule."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from msgspec.json import encode
from twisted.internet.defer import Deferred

from platziverse.agents.interfaces import Client
from platziverse.agents.model import InvalidReport, Report
from platziverse.agents.pending import Redeliveries, refused_or
from platziverse.agents.recorder import Recorder
from platziverse.broker.records import Delivery
from platziverse.mqtt.packets import Publish
from platziverse.rules.rule import Readings, Rule, TopicRule
from platziverse.rules.ruleset import RuleSet

#: What becomes of a message, in the metric ``platziverse_rule_messages_total``.
STORED, REJECTED, IGNORED = "stored", "rejected", "ignored"


class Tell(Protocol):
    """A Tell sends a message of the server's own to subscribers, and to no handler."""

    def __call__(self, topic: str, make: Callable[[], bytes]) -> None:
        """Send what ``make`` makes, if somebody would get it."""


class RuleHandler:
    """A RuleHandler records the messages that have a rule, as their senders' own.

    :param rules: those in force; others may take their place at any time.
    :param tell: sends what is recorded as ``agent/message``; ``None``: nobody is told.
    :ivar outcomes: messages by rule and outcome.
    :ivar ignored_values: values by rule that were no numbers.
    """

    def __init__(self, recorder: Recorder, rules: RuleSet, tell: Tell | None = None) -> None:
        self.rules, self.tell = rules, tell
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.ignored_values: Counter[str] = Counter()
        self._recorder = recorder
        self._redeliveries = Redeliveries()

    @property
    def table(self) -> "Mapping[str, Callable[[Publish, Client], Deferred[Any] | None]]":
        """Topic Filter → this handler, for every rule."""
        return dict.fromkeys(self.rules.topic_filters, self)

    def __call__(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Save what a message brings; the Deferred fires when it is stored, as rows or as a Rejection."""
        found = self.rules.find(message.topic)
        if found is None:
            return None
        if found.rule.ignore or (message.retain and not message.payload):  # which clears the Retained Message
            self._ignore(found)
            return None
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                self._recorder.redelivered += 1
                return answer.addCallback(refused_or, self.repeated, message, client)
        saved = self._save(found, message, client)
        if outlives and saved is not None:
            self._redeliveries.watch(message, client, saved)
        return saved

    def repeated(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Let the connection speak for the agents of a message that is stored, and has come again over it."""
        found = self.rules.find(message.topic)
        if found is None or found.rule.ignore:
            return None
        try:
            readings = found.read(message, client, self._recorder.wall_clock())
        except InvalidReport:  # as when it came first
            return None
        return self._recorder.arrive_all(readings.reports, client, found.rule.agent.from_message)

    def _ignore(self, found: TopicRule) -> None:
        self.outcomes[found.rule.name, IGNORED] += 1

    def _save(self, found: TopicRule, message: Publish, client: Client) -> "Deferred[Any] | None":
        rule, recorder = found.rule, self._recorder
        arrived = recorder.wall_clock()
        try:
            readings = found.read(message, client, arrived)
            if readings.departed is not None:
                gone = recorder.depart(readings.departed, client, rule.agent.from_message)
                self.outcomes[rule.name, STORED] += 1
                return gone
        except InvalidReport as error:
            if rule.lenient:
                self._ignore(found)
                return None
            self.outcomes[rule.name, REJECTED] += 1
            return recorder.reject(message, client, rule.named_error(error), arrived)
        if readings.ignored:
            self.ignored_values[rule.name] += len(readings.ignored)
        return self._record(found, message, client, arrived, readings)

    def _record(
        self, found: TopicRule, message: Publish, client: Client, arrived: float, readings: Readings
    ) -> "Deferred[Any]":
        rule, recorder = found.rule, self._recorder
        if not readings.errors and len(readings.reports) == 1:
            return self._record_one(rule, message, client, arrived, readings.reports[0])
        admitted, refused = recorder.admit_all(readings.reports, client, rule.agent.from_message)
        refused = [*readings.errors, *map(rule.named_error, refused)]
        self.outcomes[rule.name, STORED if admitted else REJECTED] += 1
        for report, _ in admitted:
            self._tell(report)
        return recorder.save_all(message, client, arrived, admitted, refused)

    def _record_one(
        self, rule: Rule, message: Publish, client: Client, arrived: float, report: Report
    ) -> "Deferred[Any]":
        """Save the only Report of a message, as nearly all have one."""
        recorder = self._recorder
        try:
            known = recorder.admit(report, client, rule.agent.from_message)
        except InvalidReport as error:
            self.outcomes[rule.name, REJECTED] += 1
            return recorder.reject(message, client, rule.named_error(error), arrived)
        self.outcomes[rule.name, STORED] += 1
        if client.persistent and message.qos == 2:
            report.delivery = Delivery.of(message, client.client_id)
        self._tell(report)
        return recorder.save(report, client, known)

    def _tell(self, report: Report) -> None:
        if self.tell is not None and report.metrics:
            self.tell("agent/message", partial(as_message, report))


def as_message(report: Report) -> bytes:
    """Return a Report as an ``agent/message``, with the time of its reading or of its arrival."""
    moment = round(report.moment * 1000)
    return encode({"agent": report.agent, "metrics": report.metrics, "timestamp": moment})
