"""Messages of each family of devices, as their makers document them, read by the presets."""

from pathlib import Path
from typing import Any

from msgspec.toml import decode
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport
from platziverse.mqtt.packets import Publish
from platziverse.rules.loading import load, presets
from platziverse.rules.rule import Rule, TopicRule
from platziverse.rules.ruleset import RuleSet
from platziverse.rules.settings import RecordSettings
from tests.agents.doubles import FakeClient
from tests.rules.reading import NOW

MESSAGES = Path(__file__).parent / "messages"


def outcome(found: TopicRule | None, message: Publish) -> dict[str, Any]:
    """What becomes of a message, in the words of the files."""
    if found is None:
        return {"no_rule": True}
    if found.rule.ignore:
        return {"ignored": True}
    try:
        readings = found.read(message, FakeClient("bridge"), NOW)
    except InvalidReport as error:
        return {"ignored": True} if found.rule.lenient else {"rejected": error.reason}
    if readings.departed is not None:
        return {"departed": readings.departed.uuid}
    assert not readings.errors, readings.errors
    (report,) = readings.reports
    metrics = {metric.type: metric.value for metric in report.metrics}
    return {"agent": report.agent.uuid, "metrics": metrics, "time": report.measured}


def units(rule: Rule, kinds: "dict[str, str]") -> dict[str, str | None]:
    return {kind: rule.units.find(kind) for kind in kinds}


class PresetTests(SynchronousTestCase):
    maxDiff = None

    def check(self, rules: RuleSet, one: dict[str, Any]) -> None:
        message = Publish(one["topic"], one["payload"].encode())
        found = rules.find(message.topic)
        made = outcome(found, message)
        if "time" not in one:
            made.pop("time", None)
        expected = {key: value for key, value in one.items() if key not in ("topic", "payload", "units")}
        self.assertEqual(made, expected, one)
        if "units" in one:
            assert found is not None
            self.assertEqual(units(found.rule, one["units"]), one["units"])

    def test_every_preset_has_messages(self) -> None:
        self.assertEqual(sorted(path.stem for path in MESSAGES.glob("*.toml")), presets())

    def test_messages_of_devices_mean_what_they_should(self) -> None:
        for name in presets():
            rules = load(RecordSettings((name,)), AgentLimits(), True)
            for one in decode((MESSAGES / f"{name}.toml").read_text())["message"]:
                self.check(rules, one)

    def test_all_presets_together_are_the_same_for_those_that_share_no_topics(self) -> None:
        rules = load(
            RecordSettings(("tasmota", "zigbee2mqtt", "ttn", "telegraf", "rtl_433")), AgentLimits(), True
        )
        for name in ("tasmota", "zigbee2mqtt", "ttn", "telegraf", "rtl_433"):
            for one in decode((MESSAGES / f"{name}.toml").read_text())["message"]:
                self.check(rules, one)

    def test_an_empty_batch_without_fields_is_read_too(self) -> None:
        rules = load(RecordSettings(("telegraf",)), AgentLimits(), True)
        found = rules.find("telegraf/a/b")
        for payload in (b"{}", b'{"name":"x","tags":5}', b"\xff"):
            self.assertIn("rejected", outcome(found, Publish("telegraf/a/b", payload)))
