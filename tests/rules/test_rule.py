"""Whole messages: agents, items, presence, and whatever bytes there may be."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent
from platziverse.mqtt.packets import Publish
from tests.agents.doubles import FakeClient
from tests.rules.reading import HEAD, NOW, metrics, read, refusal, rules

LIST = """
[[rule]]
topic = "plc/{line}"
agent = "plc:{line}"
each = "$.values"
time = "@.t"
metrics = { "{@.id}" = { path = "@.v", text = true } }
"""
RTL = """
[[rule]]
topic = "RTL_433/JSON"
agent = "rtl433:{$.model}:{$.id}"
time = "$.time"
include = ["temperature_C", "humidity", "battery"]
states = { OK = 1, LOW = 0 }
"""
PRESENCE = """
[[rule]]
topic = "z/{device...}/availability"
agent = "zigbee:{device}"
presence = { path = "$.state", online = ["online", "true"], offline = ["offline", "false"] }
"""


class AgentTests(SynchronousTestCase):
    def test_the_topic_and_the_login_name_the_agent(self) -> None:
        toml = f'{HEAD}name = "{{device}}!"\nhostname = "{{client}}"'
        (report,) = read(toml, {"a": 1}, client=FakeClient("bridge", username="ana")).reports
        self.assertEqual(report.agent, Agent("x:kitchen", "ana", "kitchen!", "bridge", 0))
        (report,) = read(HEAD, {"a": 1}).reports
        self.assertEqual(report.agent, Agent("x:kitchen", "", "x:kitchen", "", 0))

    def test_two_clients_on_one_topic_are_told_apart(self) -> None:
        found = rules(f'{HEAD}hostname = "{{client}}"').find("t/a")
        assert found is not None
        clients = [FakeClient("one", username="ana"), FakeClient("two"), FakeClient("one", username="ana")]
        agents = [found.read(Publish("t/a", b"1"), client, NOW).reports[0].agent for client in clients]
        self.assertEqual(
            [(agent.username, agent.hostname) for agent in agents],
            [("ana", "one"), ("", "two"), ("ana", "one")],
        )

    def test_the_payload_may_name_the_agent(self) -> None:
        payload = {
            "time": "2026-11-28 16:20:38",
            "model": "Nexus-TH",
            "id": 42,
            "battery": "OK",
            "temperature_C": 21.3,
        }
        (report,) = read(RTL, payload, "RTL_433/JSON").reports
        self.assertEqual(report.agent.uuid, "rtl433:Nexus-TH:42")
        self.assertEqual(metrics(RTL, payload, "RTL_433/JSON"), {"battery": "1", "temperature_C": "21.3"})
        (rule,) = rules(RTL).rules
        self.assertTrue(rule.agent.from_message)
        (rule,) = rules(HEAD).rules
        self.assertFalse(rule.agent.from_message)

    def test_an_agent_that_cannot_be_stored_is_refused(self) -> None:
        for payload, reason in (
            ({"id": 1, "battery": 1}, "no agent: nothing at $['model']"),
            ({"id": {}, "model": "x", "battery": 1}, "no agent: no text at $['id']"),
            (
                {"id": "x" * 256, "model": "x", "battery": 1},
                f"'rtl433:x:{'x' * 31}' is longer than 255 characters, or has a NUL",
            ),
            (
                {"id": "x\0", "model": "x", "battery": 1},
                "'rtl433:x:x\\x00' is longer than 255 characters, or has a NUL",
            ),
        ):
            error = refusal(RTL, payload, "RTL_433/JSON")
            self.assertEqual((error.kind, error.reason), ("fields", f"rules.toml#1: {reason}"))
        error = refusal('[[rule]]\ntopic = "t/+"\nagent = "{user}"', {"a": 1})
        self.assertEqual(error.reason, "rules.toml#1: no agent: its uuid is empty")

    def test_an_empty_level_names_nobody(self) -> None:
        error = refusal(HEAD, {"a": 1}, "t/")
        self.assertEqual(
            (error.kind, error.reason), ("fields", "rules.toml#1: the level {device} of the topic is empty")
        )


class ItemTests(SynchronousTestCase):
    def test_each_moment_is_a_report(self) -> None:
        values = [
            {"id": "a", "v": 1, "t": NOW},
            {"id": "b", "v": "on it", "t": NOW},
            {"id": "a", "v": 2, "t": NOW + 1},
        ]
        readings = read(LIST, {"values": values}, "plc/7")
        self.assertEqual(
            [
                (one.measured, [(metric.type, metric.value) for metric in one.metrics])
                for one in readings.reports
            ],
            [(NOW, [("a", "1"), ("b", "on it")]), (NOW + 1, [("a", "2")])],
        )
        self.assertEqual(len({report.key for report in readings.reports}), 2)

    def test_items_without_a_time_and_with_an_unusable_one_are_reports_of_their_own(self) -> None:
        values = [
            {"id": "a", "v": 1},
            {"id": "b", "v": 1, "t": "x"},
            {"id": "c", "v": 1, "t": "y"},
            {"id": "d", "v": 1},
        ]
        readings = read(LIST, {"values": values}, "plc/7")
        found = [(len(report.metrics), report.measured_adjusted, report.key) for report in readings.reports]
        self.assertEqual(found, [(2, False, None), (2, True, None)])

    def test_each_item_may_be_another_agents(self) -> None:
        toml = (
            '[[rule]]\ntopic = "gw"\nagent = "gw:{@.mac}"\nname = "{$.gw}"\neach = "$.l"\nexclude = ["mac"]'
        )
        readings = read(
            toml, {"gw": "roof", "l": [{"mac": "A", "x": 1}, {"mac": "B", "x": 2}, {"x": 3}]}, "gw"
        )
        self.assertEqual([one.agent.uuid for one in readings.reports], ["gw:A", "gw:B"])
        self.assertEqual([one.agent.name for one in readings.reports], ["roof", "roof"])
        self.assertEqual(readings.errors[0].reason, "rules.toml#1: no agent: nothing at @['mac'] of item 2")

    def test_a_message_without_an_array_is_refused(self) -> None:
        payloads: tuple[object, ...] = ({}, {"values": {}}, [], 5)
        for payload in payloads:
            error = refusal(LIST, payload, "plc/7")
            self.assertEqual(
                (error.kind, error.reason), ("fields", "rules.toml#1: there is no array at each")
            )

    def test_a_message_without_a_usable_item_is_refused(self) -> None:
        self.assertEqual(refusal(LIST, {"values": []}, "plc/7").reason, "rules.toml#1: no metric")
        self.assertEqual(
            refusal(LIST, {"values": [{"v": 1}]}, "plc/7").reason,
            "rules.toml#1: nothing at @['id'] - at @.v of item 0",
        )

    def test_all_items_together_have_at_most_as_many_metrics_as_a_message(self) -> None:
        payload = {"values": [{"id": "a", "v": 1, "t": NOW + index} for index in range(4)]}
        error = refusal(LIST, payload, "plc/7", limits=AgentLimits(max_metrics=3))
        self.assertEqual(error.reason, "rules.toml#1: 4 metrics, 3 are allowed (max_metrics)")

    def test_what_is_ignored_of_all_items_is_told(self) -> None:
        readings = read(f'{HEAD}each = "$"', [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])
        self.assertEqual(readings.ignored, [("b", "x"), ("b", "y")])


def departed(toml: str, payload: Any, topic: str = "t/kitchen") -> str:
    """The uuid of the agent that has gone."""
    agent = read(toml, payload, topic).departed
    assert agent is not None
    return agent.uuid


class PresenceTests(SynchronousTestCase):
    TOPIC = "z/floor/lamp/availability"

    def test_a_word_says_whether_the_agent_is_there(self) -> None:
        for payload in (b"online", b'"online"', b'{"state":"online"}', b"Online\n", b"true"):
            (report,) = read(PRESENCE, payload, self.TOPIC).reports
            self.assertEqual((report.agent.uuid, report.metrics, report.key), ("zigbee:floor/lamp", [], None))
            self.assertEqual(report.source.payload, payload)
        for payload in (b"offline", b'"offline"', b'{"state":"offline"}', b"false"):
            readings = read(PRESENCE, payload, self.TOPIC)
            assert readings.departed is not None
            self.assertEqual((readings.reports, readings.departed.uuid), ([], "zigbee:floor/lamp"))

    def test_an_unknown_word_is_refused(self) -> None:
        for payload, word in (
            (b"away", "'away'"),
            (b"", "''"),
            (b'{"state":"away"}', "'away'"),
            (b"{}", "nothing"),
            (b"[1]", "[1]"),
            (b"1", "1"),
            (b"\xff", "'\ufffd'"),
            (b'{"state":[]}', "[]"),
        ):
            error = refusal(PRESENCE, payload, self.TOPIC)
            self.assertEqual(error.reason, f"rules.toml#1: no word of presence: {word}")

    def test_an_object_needs_a_path(self) -> None:
        toml = f'{HEAD}presence = {{ online = ["Online"], offline = ["Offline"] }}'
        self.assertEqual(departed(toml, b"Offline"), "x:kitchen")
        self.assertEqual(
            refusal(toml, {"state": "Online"}).reason, "rules.toml#1: no word of presence: nothing"
        )

    def test_the_payload_may_name_who_is_there(self) -> None:
        toml = (
            '[[rule]]\ntopic = "p"\nagent = "p:{$.id}"\n'
            'presence = { path = "$.s", online = ["up"], offline = ["down"] }'
        )
        self.assertEqual(departed(toml, {"id": 5, "s": "down"}, "p"), "p:5")
