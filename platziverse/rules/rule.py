"""Rule: makes Reports of the messages of one topic pattern."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Protocol

from attrs import field, frozen
from msgspec import Struct

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import MAX_REASON, Agent, InvalidReport, Metric, Rejection, Report
from platziverse.agents.payload import UseTime, check_size, hash_of, use_time
from platziverse.mqtt.packets import Publish
from platziverse.rules.formats import Read, check_values
from platziverse.rules.metrics import Flattening, Found, Named, matcher
from platziverse.rules.moments import Moments
from platziverse.rules.paths import MISSING, Path
from platziverse.rules.patterns import Pattern
from platziverse.rules.tables import RuleTable
from platziverse.rules.templates import Template, Unfilled

#: Characters of the texts of an agent.
MAX_TEXT: Final = 255
#: Values that a message may have for each metric that it may have: the others are names, times and the like.
VALUES: Final = 6


class Sender(Protocol):
    """A Sender is the client of a message."""

    @property
    def client_id(self) -> str: ...
    @property
    def username(self) -> str | None: ...


@frozen
class Words:
    """Words say whether an agent is there.

    :param path: of the word, in a payload that is an object; any other is the word itself.
    """

    path: Path | None
    online: frozenset[str]
    offline: frozenset[str]

    def read(self, document: Any) -> bool:
        """Return whether the agent is there. :raises InvalidReport: it is not said."""
        value = document
        if document.__class__ is dict:
            value = MISSING if self.path is None else self.path.find(document, document)
        word = {True: "true", False: "false"}.get(value) if value.__class__ is bool else value
        word = word.strip().casefold() if word.__class__ is str else None
        if word in self.online:
            return True
        if word in self.offline:
            return False
        raise InvalidReport(
            "fields", f"no word of presence: {'nothing' if value is MISSING else repr(value)[:60]}"
        )


class Readings(Struct):
    """Readings are what one message brought.

    :ivar errors: what of it cannot be stored.
    :ivar departed: an agent of which the message says that it has gone.
    :ivar ignored: key and value of what is no number.
    """

    reports: list[Report] = []
    errors: list[InvalidReport] = []
    departed: Agent | None = None
    ignored: list[tuple[str, Any]] = []


@frozen
class AgentTemplates:
    """AgentTemplates make the agent of a message.

    :ivar from_message: the payload has a part in it, or the Client Identifier, which a client chooses.
    """

    uuid: Template
    name: Template
    username: Template
    hostname: Template
    from_message: bool = field(init=False)

    @from_message.default
    def _is_from_message(self) -> bool:
        return self.uuid.needs("$", "client") or self.username.needs("$", "client")

    @property
    def varies(self) -> bool:
        """Return whether two messages of one client to one topic may have different agents."""
        return any(part.needs("$") for part in (self.uuid, self.name, self.username, self.hostname))

    def make(self, names: Mapping[str, str], message: object, item: object) -> Agent:
        """Return the agent. :raises InvalidReport: a hole has no text, or the agent's texts do not fit."""
        try:
            uuid = self.uuid.fill(names, message, item)
            username = self.username.fill(names, message, item)
            name = self.name.fill(names, message, item)
            hostname = self.hostname.fill(names, message, item)
        except Unfilled as error:
            raise InvalidReport("fields", f"no agent: {error}") from None
        for text in (uuid, username, name, hostname):
            if len(text) > MAX_TEXT or "\0" in text:
                raise InvalidReport(
                    "fields", f"{text[:40]!r} is longer than {MAX_TEXT} characters, or has a NUL"
                )
        if not uuid:
            raise InvalidReport("fields", "no agent: its uuid is empty")
        return Agent(uuid, username, name, hostname, 0)


class Units:
    """Units say in what metrics are measured.

    :param globs: over the type → unit; the first that matches says it.
    :param exact: type → unit, asked first.
    """

    def __init__(self, globs: Mapping[str, str], exact: Mapping[str, str]) -> None:
        self._exact = dict(exact)
        self._globs = [(matcher([glob]).match, unit) for glob, unit in globs.items()]

    def find(self, kind: str) -> str | None:
        """Return the unit of a type of metric."""
        unit = self._exact.get(kind)
        return unit or next((unit for match, unit in self._globs if match(kind)), None)


@frozen
class Rule:
    """A Rule has all of one rule, ready to be used.

    :param name: the file and the number, e.g. ``"rules.toml#3"``.
    :param table: what it was made of.
    :param lenient: a message without a usable metric is counted, and not kept.
    :param around: what stands before and after the key in the type of a flattened metric.
    :param start: where flattening begins; ``named``: then nothing is flattened.
    """

    name: str
    table: RuleTable
    pattern: Pattern
    ignore: bool
    lenient: bool
    agent: AgentTemplates
    read: Read
    words: Words | None
    each: Path | None
    time: Path | None
    moments: Moments
    around: tuple[Template, Template]
    start: Path | None
    flattening: Flattening
    named: tuple[Named, ...]
    units: Units

    def unit(self, kind: str) -> str | None:
        """Return in what metrics of a type are measured."""
        return self.units.find(kind)

    def named_error(self, error: InvalidReport) -> InvalidReport:
        """Return an error whose reason begins with the name of the rule, and can be printed."""
        reason = error.reason
        if reason.startswith(f"{self.name}: "):
            return error
        if not reason.isprintable():  # a key has a control character
            reason = reason.encode("unicode_escape").decode()
        return InvalidReport(error.kind, f"{self.name}: {reason}"[:MAX_REASON])


class TopicRule:
    """A TopicRule is a Rule for one Topic Name.

    :param levels: the levels of the topic that have names.
    :param use_time: sets the time of a reading.
    """

    def __init__(
        self, rule: Rule, levels: Mapping[str, str], limits: AgentLimits, use_time: UseTime = use_time
    ) -> None:
        self.rule, self._use_time = rule, use_time
        self._levels, self._limits, self._most = levels, limits, VALUES * limits.max_metrics
        self._unnamed = next((name for name, level in levels.items() if not level), None)
        self._varies = rule.agent.varies
        before, after = rule.around
        #: A metric of every number of the item, called by its key: what most rules do, in fewer steps.
        self._plain = not rule.named and rule.start is None and not (before.holes or after.holes)
        # Of the client that sent the last message, which is nearly always the same one.
        self._client: Sender | None = None
        self._names: dict[str, str] = {}
        self._agent: Agent | None = None

    def read(self, message: Publish, client: Sender, arrived: float, document: Any = None) -> Readings:
        """Return what a message brings.

        :param arrived: seconds since the epoch, wall clock.
        :param document: of the payload, if somebody has read it.
        :raises InvalidReport: nothing of it can become rows; the reason begins with the name of the rule.
        """
        rule = self.rule
        try:
            check_size(message.payload, self._limits)
            if self._client is not client:
                self._meet(client)
            if rule.words is not None:
                return self._presence(rule.words, message, client, arrived)
            long = len(message.payload) > self._most  # else it cannot have as many values
            if document is None:
                document = rule.read(message.topic, message.payload, self._most)
            if long:
                check_values(document, self._most)
            source = Rejection(
                message.topic, client.client_id, message.payload, "", arrived, "", message.properties
            )
            if rule.each is None:
                return self._one(document, source)
            return self._several(rule.each, document, source)
        except InvalidReport as error:
            raise rule.named_error(error) from None

    def _meet(self, client: Sender) -> None:
        """Prepare what all messages of a client share.

        :raises InvalidReport: they have no agent.
        """
        if self._unnamed is not None:
            raise InvalidReport("fields", f"the level {{{self._unnamed}}} of the topic is empty")
        self._client, self._agent = None, None
        self._names = {**self._levels, "client": client.client_id, "user": client.username or ""}
        if not self._varies:
            self._agent = self.rule.agent.make(self._names, None, None)
        self._client = client

    def _presence(self, words: Words, message: Publish, client: Sender, arrived: float) -> Readings:
        try:
            document = self.rule.read(message.topic, message.payload, self._most)
        except InvalidReport:
            document = message.payload.decode("utf-8", "replace")
        there = words.read(document)
        agent = self._agent or self.rule.agent.make(self._names, document, document)
        if not there:
            return Readings(departed=agent)
        source = Rejection(
            message.topic, client.client_id, message.payload, "", arrived, "", message.properties
        )
        return Readings([Report(agent, [], arrived, source)])

    # -- metrics ---------------------------------------------------------------------------------

    def _one(self, document: Any, source: Rejection) -> Readings:
        """Return what a message brings that is one item."""
        found, rule = Found(), self.rule
        if self._plain:
            rule.flattening.read(document, rule.around[0].text, rule.around[1].text, found)
        else:
            self._read_item(document, document, found)
        metrics = found.metrics
        if not metrics:
            raise InvalidReport("metrics", found.reason or "no metric")
        if len(metrics) > self._limits.max_metrics:
            self._check_count(len(metrics))
        agent = self._agent or rule.agent.make(self._names, document, document)
        report = Report(agent, metrics, source.arrived, source, described=rule)
        if rule.time is not None:
            time = self._time(document, document, source.arrived)
            if time is not None:
                self._use_time(report, time, _hash(source, b"0"))
        return (
            self._finished([report], found) if found.problems else Readings([report], ignored=found.ignored)
        )

    def _several(self, each: Path, document: Any, source: Rejection) -> Readings:
        """Return what a message of several items brings: a Report for each agent and moment."""
        items = each.find(document, document)
        if items.__class__ is not list:
            raise InvalidReport("fields", "there is no array at each")
        if len(items) * len(self.rule.named) > self._most:
            many = f"{len(self.rule.named)} metrics of {len(items)} items"
            raise InvalidReport("size", f"{many}, {VALUES} times max_metrics may be looked for")
        all_found, reports, count = Found(), _Reports(source, self.rule, self._use_time), 0
        for number, item in enumerate(items):
            found = Found()
            try:
                self._read_item(document, item, found)
                if found.metrics:
                    agent = self._agent or self.rule.agent.make(self._names, document, item)
                    reports.add(agent, self._time(document, item, source.arrived), found.metrics)
            except InvalidReport as error:
                found.problems.append(error.reason)
            all_found.ignored += found.ignored
            all_found.problems += [f"{problem} of item {number}" for problem in found.problems]
            count += len(found.metrics)
            self._check_count(count)
        if not reports.all:
            raise InvalidReport("metrics", all_found.reason or "no metric")
        return self._finished(reports.all, all_found)

    def _finished(self, reports: list[Report], found: Found) -> Readings:
        readings = Readings(reports, ignored=found.ignored)
        if found.problems:
            readings.errors.append(self.rule.named_error(InvalidReport("metrics", found.reason)))
        return readings

    def _check_count(self, count: int) -> None:
        """Check how many metrics a message has. :raises InvalidReport: too many."""
        most = self._limits.max_metrics
        if count > most:
            raise InvalidReport("size", f"{count} metrics, {most} are allowed (max_metrics)")

    def _read_item(self, document: Any, item: Any, found: Found) -> None:
        """Add metrics of an item to ``found``. :raises InvalidReport: a hole of the type has no text."""
        rule, names = self.rule, self._names
        if rule.named:
            for named in rule.named:
                named.read(names, document, item, found)
            return
        before, after = rule.around
        try:
            first = before.fill(names, document, item) if before.holes else before.text
            last = after.fill(names, document, item) if after.holes else after.text
        except Unfilled as error:
            raise InvalidReport("fields", f"no type: {error}") from None
        start = item if rule.start is None else rule.start.find(document, item)
        rule.flattening.read(start, first, last, found)

    def _time(self, document: Any, item: Any, arrived: float) -> float | None:
        """Return the milliseconds since the epoch of an item.

        :return: ``None``: it has no time, NaN: no usable one.
        """
        path = self.rule.time
        if path is None:
            return None
        written = path.find(document, item)
        if written is MISSING or written is None:
            return None
        return self.rule.moments.milliseconds(written, arrived)


class _Reports:
    """_Reports are those of one message: one for each agent and moment."""

    def __init__(self, source: Rejection, rule: Rule, use_time: UseTime) -> None:
        self._source, self._known = source, dict[tuple[str, float | None], Report]()
        self._rule, self._use_time = rule, use_time
        self._hash = _hash(source, b"")

    @property
    def all(self) -> list[Report]:
        return list(self._known.values())

    def add(self, agent: Agent, time: float | None, metrics: list[Metric]) -> None:
        """Add metrics of an agent.

        :param time: milliseconds since the epoch, NaN for one that is unusable, ``None`` for none.
        """
        known = self._known.get((agent.uuid, time))
        if known is not None:
            known.metrics += metrics
            return
        report = Report(agent, metrics, self._source.arrived, self._source, described=self._rule)
        if time is not None:
            hashed = self._hash.copy()
            hashed.update(b"%d" % len(self._known))
            self._use_time(report, time, hashed)
        self._known[agent.uuid, time] = report


def _hash(source: Rejection, number: bytes) -> "blake2b":
    """Return the hash that recognises one Report of a message.

    The topic may name the agent: two devices that send equal bytes at one moment are two messages.
    """
    return hash_of(b"\0".join((source.topic.encode(), source.payload, number)))
