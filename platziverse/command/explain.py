"""``platziverse acl explain``: which rule decides what a client may do with a topic."""

import argparse
import sys
from typing import Final

from platziverse.access.acl import AccessRules, Decision
from platziverse.access.authority import explain
from platziverse.agents.recorder import ANNOUNCEMENTS
from platziverse.config import Config
from platziverse.daemon.logins import access_rules, has_logins
from platziverse.errors import Unusable
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import check_topic_filter
from platziverse.settings import ConfigError

EPILOG: Final = """\
With a Topic Name the answers are for "publish" and for "receive", with a Topic Filter that has wildcards for
"subscribe". Exit code: 0, all of them are allowed; 1, one is denied; 2, there is no answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_explain(commands.add_parser("explain", help="which rule decides"))


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help="this ACL file, not the configured one")
    parser.add_argument("--only", choices=("publish", "receive", "subscribe"), help="this answer alone")
    parser.add_argument("client", metavar="CLIENT", help="Client Identifier")
    parser.add_argument("user", metavar="USER", help="user name; - or '' for an anonymous client")
    parser.add_argument("topic", metavar="TOPIC", help="Topic Name or Topic Filter")
    parser.set_defaults(run=run, refused=refused)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG


def refused(error: Unusable, options: argparse.Namespace) -> int:
    """There is no answer."""
    print(f"platziverse: {error}", file=sys.stderr)
    return 2


def run(config: Config, options: argparse.Namespace) -> int:
    """One line for each answer. :raises ConfigError: the file or the topic cannot be used."""
    rules = _rules(config, options)
    user = options.user if options.user not in ("", "-") else None
    if user is not None and rules is not None and not options.file and not has_logins(config):
        print("no logins are configured, so to the rules every client is anonymous", file=sys.stderr)
        user = None
    found = [
        answer
        for answer in explain(rules, options.client, user, options.topic, ANNOUNCEMENTS)
        if options.only in (None, answer.action)
    ]
    if not found:
        raise ConfigError(f"a client cannot {options.only} {options.topic!r}; leave --only away")
    for answer in found:
        print(f"{answer.action}: {_in_words(answer.decision, rules)}")
    return 0 if all(answer.decision.allowed for answer in found) else 1


def _in_words(decision: Decision, rules: AccessRules | None) -> str:
    verdict = "allowed" if decision.allowed else "denied"
    if decision.rule is None or rules is None:
        return f"{verdict}, {decision.reason}"
    return f"{verdict} by {rules.path}:{decision.rule.line}: {decision.rule.text}"


def _rules(config: Config, options: argparse.Namespace) -> AccessRules | None:
    try:
        check_topic_filter(options.topic)
        return AccessRules.load(options.file) if options.file else access_rules(config.access)
    except MalformedPacket as error:
        raise ConfigError(f"{options.topic!r} is no topic: {error.reason}") from None
