"""Meanings: how a record that is imported becomes Reports, by a rule or as platziverse writes it itself."""

import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from hashlib import blake2b
from typing import Any, Final, Protocol

from msgspec import DecodeError
from msgspec.json import decode, encode

from platziverse.agents.careful import MAX_VALUE, number_text
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent, InvalidReport, Metric, Rejection, Report, Series
from platziverse.agents.payload import parse, use_time
from platziverse.command.rules import Somebody
from platziverse.command.sources import CSV, INFLUX, Record
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import check_topic_name
from platziverse.rules.formats import find_format
from platziverse.rules.metrics import wrong_type
from platziverse.rules.rule import MAX_TEXT, Rule, TopicRule
from platziverse.rules.ruleset import RuleSet
from platziverse.rules.templates import Template, Unfilled
from platziverse.settings import ConfigError
from platziverse.times import milliseconds

#: Seconds since the epoch. Readings before it are of devices whose clock was not set.
OLDEST: Final = datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp()
#: Seconds after which the next record is expected, more or less.
SOON: Final = 900.0
NO_TIME: Final = "no time, and a reading without one cannot be imported"
WRONG_TIME: Final = "no time from the year 2000 until now"


class Ignored(Exception):
    """A rule ignores a record."""


class PastTimes:
    """A PastTimes takes times of any age; those that may still come over MQTT have the same keys as there.

    :param now: seconds since the epoch.
    """

    def __init__(self, now: float) -> None:
        self._now = now

    def __call__(self, report: Report, milliseconds: int | float, hashed: blake2b) -> None:
        """Set the time of a reading; one that cannot be right is marked as adjusted."""
        report.arrived = self._now
        use_time(report, milliseconds, hashed)
        if report.measured_adjusted and OLDEST <= milliseconds / 1000 < self._now:
            report.measured, report.measured_adjusted = milliseconds / 1000, False


class Meaning(Protocol):
    """A Meaning makes Reports of records.

    :ivar identity: another one if the same records could mean something else.
    """

    @property
    def identity(self) -> str: ...

    def reports(self, record: Record) -> list[Report]:
        """Return the Reports of a record, each ``measured``; ``arrived`` is what ``"createdAt"`` will be.

        :raises InvalidReport: nothing of it can be stored.
        :raises Ignored: nothing of it is meant to be.
        """

    def problems(self) -> list[str]:
        """Return what could not be stored of the last record, while the rest is."""

    def series(self, report: Report, kinds: Sequence[str]) -> tuple[Series, ...]:
        """Return what is known of types of a Report that are new."""


def _timed(reports: list[Report]) -> list[Report]:
    """Return Reports whose rows get the time of the reading. :raises InvalidReport: one has none."""
    for report in reports:
        if report.measured is None or report.measured_adjusted:
            raise InvalidReport("fields", NO_TIME if report.measured is None else WRONG_TIME)
        report.arrived = report.measured
    return reports


class OfRules:
    """An OfRules reads records as messages to a topic that has a rule.

    :param topic: its holes are filled from the record.
    :param form: of the records.
    :param sender: stands for the client.
    :raises ConfigError: the topic has no rule, or one that can import nothing.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        limits: AgentLimits,
        topic: Template,
        form: str,
        sender: Somebody,
        now: float,
    ) -> None:
        self._rules = RuleSet(rules, limits, PastTimes(now))
        self._topic, self._form, self._sender = topic, form, sender
        #: Reads a record as a payload; most rules would read it in the same way.
        self._read = find_format(INFLUX if form == INFLUX else "json")
        self._near = now
        self._problems: list[str] = []
        self.identity = f"{topic.text}\0{[rule.table for rule in rules]!r}"
        if not topic.holes:
            try:
                self._find(topic.text)
            except InvalidReport as error:
                raise ConfigError(error.reason) from None

    def reports(self, record: Record) -> list[Report]:
        """Return the Reports of a record."""
        try:
            payload = encode(record) if isinstance(record, dict) else record
            document = self._document(record)
            topic = self._topic.fill({}, self._point(document)) if self._topic.holes else self._topic.text
        except (UnicodeEncodeError, IndexError) as error:
            raise InvalidReport("syntax", str(error)) from None
        except Unfilled as error:
            raise InvalidReport("fields", f"no topic: {error}") from None
        found = self._find(topic)
        if found.rule.ignore:
            raise Ignored
        try:
            known = document if found.rule.read is self._read else None
            readings = found.read(Publish(topic, payload, 1), self._sender, self._near, known)
        except InvalidReport:
            if found.rule.lenient:
                raise Ignored from None
            raise
        self._problems = [error.reason for error in readings.errors]
        reports = _timed(readings.reports)
        # Of a local time that comes twice that is meant which follows the record before.
        self._near = reports[-1].arrived + SOON
        return reports

    def _document(self, record: Record) -> Any:
        """Return what a record is as a payload, where that is known or has to be; else ``None``.

        :raises InvalidReport: it cannot be read.
        """
        if isinstance(record, dict):
            return record
        return self._read("", record, sys.maxsize) if self._topic.holes else None

    def _point(self, document: Any) -> Any:
        return document["metrics"][0] if self._form == INFLUX else document

    def _find(self, topic: str) -> TopicRule:
        """Return the rule of a topic. :raises InvalidReport: there is none, or it can import nothing."""
        found = self._rules.find(topic)
        if found is None:
            try:
                check_topic_name(topic)
            except MalformedPacket as error:
                raise InvalidReport("fields", f"{topic[:80]!r} is no Topic Name: {error.reason}") from None
            raise InvalidReport("fields", f"there is no rule for the topic {topic[:80]!r}")
        rule = found.rule
        if rule.words is not None or (rule.time is None and not rule.ignore):
            raise InvalidReport("fields", f"{rule.name}: it has no time, so nothing can be imported by it")
        if self._form == CSV and rule.table.format != "json":
            raise InvalidReport("fields", f"{rule.name}: a row of CSV is an object, so its format is json")
        return found

    def problems(self) -> list[str]:
        """Return what could not be stored of the last record."""
        return self._problems

    def series(self, report: Report, kinds: Sequence[str]) -> tuple[Series, ...]:
        """Return the units that the rule says."""
        rule = report.described
        assert rule is not None
        return tuple([Series(kind, rule.unit(kind), rule.name) for kind in kinds])


class Agents:
    """An Agents reads records that are ``agent/message``."""

    identity: Final = "agent/message"

    def __init__(self, limits: AgentLimits, now: float) -> None:
        self._limits, self._now, self._times = limits, now, PastTimes(now)
        self._problems: list[str] = []

    def reports(self, record: Record) -> list[Report]:
        """Return the Report of a record."""
        payload = encode(record) if isinstance(record, dict) else record
        report = parse(Publish("agent/message", payload), "import", self._now, self._limits, self._times)
        self._problems = [rejection.reason for rejection in report.rejections]
        return _timed([report])

    def problems(self) -> list[str]:
        """Return what could not be stored of the last record."""
        return self._problems

    def series(self, report: Report, kinds: Sequence[str]) -> tuple[Series, ...]:
        """Return types without units."""
        return tuple([Series(kind) for kind in kinds])


class Own:
    """An Own reads what ``platziverse export`` writes: one metric in each record."""

    identity: Final = "export"

    def __init__(self, now: float) -> None:
        self._now = now
        self._unit: str | None = None
        # Of the record before; most are of the same agent and moment.
        self._names: tuple[Any, ...] = ()
        self._agent = Agent("", "", "", "", 0)
        self._written, self._moment = "", 0.0

    def reports(self, record: Record) -> list[Report]:
        """Return the Report of a record."""
        fields: Any = record
        if not isinstance(record, dict):
            try:
                fields = decode(record)
            except (DecodeError, UnicodeDecodeError) as error:
                raise InvalidReport("syntax", str(error)) from None
        if not isinstance(fields, dict):
            raise InvalidReport("fields", "no object")
        kind, value = _text(fields, "type", ...), _text(fields, "value", "")
        if problem := wrong_type(kind):
            raise InvalidReport("fields", problem)
        if "\0" in value or len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE:
            raise InvalidReport("fields", f"value has a NUL, or more than {MAX_VALUE} bytes")
        unit = _text(fields, "unit", "")
        self._unit = unit[:32] or None
        measured = self._time(fields, "measured")
        stored = self._time(fields, "stored") if fields.get("stored") else measured
        return [Report(self._who(fields), [Metric(kind, value)], stored, _NOWHERE, measured)]

    def _who(self, fields: "dict[str, Any]") -> Agent:
        names = tuple([fields.get(name) for name in ("uuid", "username", "name", "hostname")])
        if names != self._names:
            uuid = _text(fields, "uuid", ...)
            texts = [_text(fields, name, "") for name in ("username", "name", "hostname")]
            if any(len(text) > MAX_TEXT or "\0" in text for text in (uuid, *texts)):
                raise InvalidReport(
                    "fields", f"a text of the agent has more than {MAX_TEXT} characters, or a NUL"
                )
            self._names, self._agent = names, Agent(uuid, texts[0], texts[1] or uuid, texts[2], 0)
        return self._agent

    def _time(self, fields: "dict[str, Any]", name: str) -> float:
        """Return a time in seconds since the epoch. :raises InvalidReport: there is none."""
        written = fields.get(name)
        if written == self._written and isinstance(written, str):
            return self._moment
        if written is None or isinstance(written, bool) or not isinstance(written, int | float | str):
            raise InvalidReport("fields", f"{name}: {NO_TIME}")
        moment = milliseconds(written)[0] / 1000
        if not OLDEST <= moment <= self._now + 600:
            raise InvalidReport("fields", f"{name}: {WRONG_TIME}: {str(written)[:40]!r}")
        if isinstance(written, str):
            self._written, self._moment = written, moment
        return moment

    def problems(self) -> list[str]:
        """Return nothing: a record is one metric."""
        return []

    def series(self, report: Report, kinds: Sequence[str]) -> tuple[Series, ...]:
        """Return the unit of the record."""
        return tuple([Series(kind, self._unit) for kind in kinds])


_NOWHERE: Final = Rejection("", "", b"", "", 0.0)


def _text(fields: "dict[str, Any]", name: str, default: Any) -> str:
    """Return a text, or a number as one. :raises InvalidReport: it is neither, or not UTF-8, or missing."""
    value = fields.get(name)
    if value is None or value == "":
        if default is ...:
            raise InvalidReport("fields", f"{name} is missing")
        return str(default)
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise InvalidReport("fields", f"{name} is no text")
    try:
        text = value if isinstance(value, str) else number_text(value)
        text.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise InvalidReport("fields", f"{name}: {error}") from None
    return text
