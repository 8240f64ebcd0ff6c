"""``platziverse rules``: what rules make of messages, before a device sends them."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from typing import Final

from attrs import evolve, frozen

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport, Report
from platziverse.config import Config
from platziverse.daemon.recording import load_rules
from platziverse.errors import Unusable
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import check_topic_name
from platziverse.rules.loading import load, preset, presets
from platziverse.rules.rule import Readings, Rule, TopicRule
from platziverse.rules.ruleset import RuleSet
from platziverse.rules.settings import RecordSettings
from platziverse.rules.values import why
from platziverse.settings import ConfigError

TRY: Final = """\
Nothing is stored. The rules are those of the configuration, or those of --rules and --preset.
Exit code: 0, stored or ignored by a rule; 1, rejected; 2, there is no rule; 3, there is no answer.
With --stdin it is 1 if any message is rejected, else 2 if any has no rule."""
#: What `mosquitto_sub -v` prints for a message without a payload, which clears a Retained Message.
NOTHING: Final = b"(null)"
#: Exit codes of ``try``, by outcome; the gravest of many decides.
CODES: Final = {"stored": 0, "ignored": 0, "no rule": 2, "rejected": 1}


@frozen
class Somebody:
    """Somebody stands for the client of a message that is tried."""

    client_id: str
    username: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands and what they take."""
    commands = parser.add_subparsers(required=True, metavar="command")
    trying = commands.add_parser("try", help="what becomes of a message, or of many")
    trying.add_argument("topic", metavar="TOPIC", nargs="?", help="Topic Name")
    trying.add_argument("payload", metavar="PAYLOAD", nargs="?", help="the payload as text")
    trying.add_argument("--file", metavar="FILE", help="the payload is in this file, byte by byte")
    trying.add_argument(
        "--stdin", action="store_true", help="lines of `mosquitto_sub -v`, or with a tab behind the topic"
    )
    trying.add_argument("--client", default="client", help="Client Identifier (client)")
    trying.add_argument("--user", help="user name (none)")
    add_rules(trying)
    trying.set_defaults(run=try_messages, refused=no_answer)
    trying.formatter_class, trying.epilog = argparse.RawDescriptionHelpFormatter, TRY
    checking = commands.add_parser("check", help="whether all rules can be used, and what they depend on")
    add_rules(checking)
    checking.set_defaults(run=check)
    show = commands.add_parser("show", help="a preset, to be copied and changed")
    show.add_argument("preset", metavar="PRESET", nargs="?", help="its name; none: all names")
    show.set_defaults(run=show_preset)


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add the options that name rules."""
    parser.add_argument("--rules", metavar="FILE", action="append", default=[], help="rules of this file")
    parser.add_argument(
        "--preset", metavar="PRESET", action="append", default=[], help="rules of this preset"
    )


def no_answer(error: Unusable, options: argparse.Namespace) -> int:
    """There is no answer."""
    print(f"platziverse: {error}", file=sys.stderr)
    return 3


def show_preset(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rules show``: the TOML of a preset, or the names of all."""
    if options.preset is None:
        print("\n".join(presets()))
    else:
        print(preset(options.preset), end="")
    return 0


def check(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rules check``: one line for each rule; those that depend on the payload say so."""
    found = chosen_rules(config, options)
    for rule in found.rules:
        print(f"{rule.name:<16} {rule.pattern.text:<40} {_purpose(rule)}")
    print(f"{len(found.rules)} rules, all of them can be used")
    return 0


def _purpose(rule: Rule) -> str:
    if rule.ignore:
        return "ignored"
    depends = (
        "  (the payload or the client names it, so access.binding is asked)"
        if rule.agent.from_message
        else ""
    )
    return f"{rule.agent.uuid.text}{depends}"


def chosen_rules(config: Config, options: argparse.Namespace) -> RuleSet:
    """Return the rules that the options name, or the configured ones.

    :raises RuleError: one cannot be used.
    """
    if options.rules or options.preset:
        config = evolve(config, record=RecordSettings(tuple(options.preset), tuple(options.rules)))
    return load_rules(config)


# -- try -------------------------------------------------------------------------------------------


def try_messages(config: Config, options: argparse.Namespace) -> int:
    """``platziverse rules try``: all about one message, or a line about each of many."""
    rules, client = chosen_rules(config, options), Somebody(options.client, options.user)
    if options.stdin:
        outcomes = Counter(_try_line(rules, client, message) for message in _messages())
        print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()) or "no messages")
        return next((CODES[one] for one in ("rejected", "no rule") if outcomes[one]), 0)
    message = _message(options)
    found = rules.find(message.topic)
    outcome, readings, reason = _outcome(found, client, message)
    if found is not None:
        print(f"rule     {found.rule.name}  {found.rule.pattern.text}")
    for line in _lines(found, readings) if readings is not None and found is not None else ():
        print(line)
    if outcome != "stored":
        print(f"{outcome:<8} {_printable(reason)}")
    return CODES[outcome]


def _message(options: argparse.Namespace) -> Publish:
    """Return the message of the command line. :raises ConfigError: there is none."""
    if options.topic is None or (options.payload is None) == (options.file is None):
        raise ConfigError("name a TOPIC, and a PAYLOAD or --file FILE; or --stdin alone")
    try:
        check_topic_name(options.topic)
        if options.file is None:
            return Publish(options.topic, options.payload.encode("utf-8", "surrogateescape"))
        with open(options.file, "rb") as file:
            return Publish(options.topic, file.read())
    except MalformedPacket as error:
        raise ConfigError(f"{options.topic!r} is no Topic Name: {error.reason}") from None
    except OSError as error:
        raise ConfigError(f"{options.file}: cannot be read: {error.strerror}") from None


def _messages() -> Iterator[Publish]:
    """Yield the messages of standard input: a line each, the topic up to the first tab, else blank."""
    for line in sys.stdin.buffer:
        topic, _, payload = line.rstrip(b"\r\n").partition(b"\t" if b"\t" in line else b" ")
        if topic:
            empty = payload == NOTHING
            yield Publish(topic.decode("utf-8", "replace"), b"" if empty else payload, retain=empty)


def _outcome(
    found: TopicRule | None, client: Somebody, message: Publish
) -> "tuple[str, Readings | None, str]":
    """Return an outcome, with what was read, or with the reason."""
    if found is None:
        return "no rule", None, f"for {message.topic}{_preset_of(message.topic)}"
    if found.rule.ignore:
        return "ignored", None, "by ignore = true"
    if message.retain and not message.payload:
        return "ignored", None, "it is empty, and so clears a Retained Message"
    try:
        return "stored", found.read(message, client, time.time()), ""
    except InvalidReport as error:
        return (
            ("ignored", None, f"{error} (unmatched)")
            if found.rule.lenient
            else ("rejected", None, str(error))
        )


def _preset_of(topic: str) -> str:
    """Return for people which presets have a rule of a topic, as nobody has asked for them."""
    names = [name for name, rules in _preset_rules().items() if rules.find(topic) is not None]
    return f"; there is one in preset {', '.join(names)}" if names else ""


@cache
def _preset_rules() -> dict[str, RuleSet]:
    return {name: load(RecordSettings((name,)), AgentLimits(), False) for name in presets()}


def _try_line(rules: RuleSet, client: Somebody, message: Publish) -> str:
    """Print a line about a message; return its outcome."""
    found = rules.find(message.topic)
    outcome, readings, reason = _outcome(found, client, message)
    if readings is not None and found is not None:
        reports = readings.reports
        agents = ", ".join(sorted({report.agent.uuid for report in reports})) or _gone(readings)
        count = sum(len(report.metrics) for report in reports)
        reason = f"{found.rule.name}: {agents}, {count} metrics" if count else f"{found.rule.name}: {agents}"
    print(f"{outcome:<8} {_printable(message.topic)}  {_printable(reason)}")
    return outcome


def _lines(found: TopicRule, readings: Readings) -> Iterator[str]:
    """Yield what a message brings, in words."""
    rule = found.rule
    for report in readings.reports:
        agent = report.agent
        yield f"agent    {_printable(agent.uuid)}  name {_printable(agent.name)}"
        if rule.words is not None:
            yield "presence online"
            continue
        yield _time(rule, report)
        for metric in report.metrics:
            unit = rule.unit(metric.type)
            value = f"{metric.value} {unit}" if unit else metric.value
            yield f"metric   {_printable(metric.type)} = {_printable(value)}"
    if readings.departed is not None:
        yield f"agent    {_printable(_gone(readings))}"
        yield "presence offline"
    for key, value in readings.ignored:
        hint = " → strings = true, or states = { … }" if isinstance(value, str) else ""
        yield f"ignored  {_printable(key)}: {_printable(why(value))}{hint}"
    for error in readings.errors:
        yield f"rejected {_printable(str(error))}"


def _gone(readings: Readings) -> str:
    return "" if readings.departed is None else readings.departed.uuid


def _time(rule: Rule, report: Report) -> str:
    table = rule.table
    if report.measured is None:
        return "time     that of the arrival" + (
            f"  (there is nothing at {table.time})" if table.time else ""
        )
    if report.measured_adjusted:
        return f"time     that of the arrival  ({table.time} is no time from 7 days ago to 10 minutes ahead)"
    moment = datetime.fromtimestamp(report.measured, timezone.utc).isoformat().replace("+00:00", "Z")
    return f"time     {moment}  (from {table.time}, {table.time_zone})"


def _printable(text: str) -> str:
    """Return a text that can do nothing to a terminal."""
    return text if text.isprintable() else repr(text)
