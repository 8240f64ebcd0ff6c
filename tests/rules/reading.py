"""Messages read by rules that a test writes in TOML."""

import json
from typing import Any

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport
from platziverse.mqtt.packets import Publish
from platziverse.rules.loading import read_rules
from platziverse.rules.rule import Readings
from platziverse.rules.ruleset import RuleSet
from tests.agents.doubles import FakeClient

#: 2026-11-28T16:20:58Z.
NOW = 1_795_882_858.0

HEAD = '[[rule]]\ntopic = "t/{device}"\nagent = "x:{device}"\n'


def rules(toml: str, limits: AgentLimits | None = None, bound: bool = False) -> RuleSet:
    return RuleSet(read_rules("rules.toml", "rules.toml", toml, bound), limits or AgentLimits())


def as_bytes(payload: Any) -> bytes:
    """The payload itself, or as JSON."""
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


def read(
    toml: str,
    payload: Any,
    topic: str = "t/kitchen",
    arrived: float = NOW,
    client: FakeClient | None = None,
    limits: AgentLimits | None = None,
) -> Readings:
    """What the rules make of one message."""
    found = rules(toml, limits).find(topic)
    assert found is not None
    message = Publish(topic, as_bytes(payload), 1, packet_id=1)
    return found.read(message, client or FakeClient("bridge"), arrived)


def metrics(toml: str, payload: Any, topic: str = "t/kitchen") -> dict[str, str]:
    """The metrics of a message that is one Report without a problem."""
    readings = read(toml, payload, topic)
    (report,) = readings.reports
    assert not readings.errors, readings.errors
    return {metric.type: metric.value for metric in report.metrics}


def refusal(
    toml: str, payload: Any, topic: str = "t/kitchen", limits: AgentLimits | None = None
) -> InvalidReport:
    """Why nothing of a message can be stored."""
    try:
        readings = read(toml, payload, topic, limits=limits)
    except InvalidReport as error:
        return error
    raise AssertionError(readings)
