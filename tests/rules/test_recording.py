"""Messages with a rule: what is saved, published, answered and counted."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Arrival, Departure, Rejection, Report
from platziverse.agents.recorder import Recorder
from platziverse.broker.records import Delivery
from platziverse.mqtt.packets import Publish
from platziverse.rules.recording import RuleHandler
from tests.agents.doubles import FakeClient, HeldStore
from tests.rules.reading import NOW, rules

RULES = """
[[rule]]
topic = "quiet/{x}"
ignore = true
[[rule]]
topic = "tele/{device}/SENSOR"
agent = "tasmota:{device}"
time = "$.Time"
[[rule]]
topic = "tele/{device}/LWT"
agent = "tasmota:{device}"
presence = { online = ["Online"], offline = ["Offline"] }
[[rule]]
topic = "rtl"
agent = "rtl:{$.id}"
exclude = ["id"]
[[rule]]
topic = "wide/{x}"
agent = "wide:{x}"
unmatched = "ignore"
[[rule]]
topic = "list/{x}"
agent = "list:{x}"
each = "$"
time = "@.t"
exclude = ["t"]
[[rule]]
topic = "gone/{x}"
agent = "rtl:{$.id}"
presence = { path = "$.s", online = ["up"], offline = ["down"] }
"""
SENSOR = b'{"Time":"2026-11-28T16:20:38","t":21.5,"unit":"C"}'


class RecordingCase(SynchronousTestCase):
    republishes = True
    limits = AgentLimits(max_agents=3)

    def setUp(self) -> None:
        self.store = HeldStore()
        self.published: list[tuple[str, Any]] = []
        self.told: list[Any] = []
        self.allowed = True
        self.recorder = Recorder(
            self.store,
            self.publish,
            lambda: NOW,
            self.limits,
            self.may_speak,
            warn=lambda *_, **__: None,
        )
        self.handler = RuleHandler(self.recorder, rules(RULES), self.tell if self.republishes else None)
        self._number = 0

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, json.loads(payload)["agent"]["uuid"]))

    def tell(self, topic: str, make: Any) -> None:
        self.told.append((topic, json.loads(make())))

    def may_speak(self, client: Any, uuid: str, username: str) -> bool:
        return self.allowed

    def connected(self, client_id: str = "bridge", **fields: Any) -> FakeClient:
        self._number += 1
        client = FakeClient(client_id, self._number, **fields)
        self.recorder.client_connected(client)
        return client

    def send(
        self, client: FakeClient, topic: str, payload: bytes, qos: int = 0, **fields: Any
    ) -> "Deferred[Any] | None":
        return self.handler(Publish(topic, payload, qos, **fields), client)

    def outcomes(self) -> dict[str, int]:
        return {
            f"{name.partition('#')[2]} {outcome}": count
            for (name, outcome), count in self.handler.outcomes.items()
        }


class StoredTests(RecordingCase):
    def test_the_answer_waits_for_the_commit(self) -> None:
        answer = self.send(self.connected(), "tele/kitchen/SENSOR", SENSOR)
        assert answer is not None
        self.assertNoResult(answer)
        self.store.commit()
        self.successResultOf(answer)
        (report,) = self.store.of(Report)
        assert isinstance(report, Report)
        self.assertEqual(
            (report.agent.uuid, report.measured, len(report.metrics)), ("tasmota:kitchen", NOW - 20, 1)
        )
        self.assertEqual(self.published, [("agent/connected", "tasmota:kitchen")])
        self.assertEqual(
            (self.outcomes(), dict(self.handler.ignored_values)), ({"2 stored": 1}, {"rules.toml#2": 1})
        )

    def test_the_answer_of_several_moments_waits_for_all(self) -> None:
        answer = self.send(
            self.connected(persistent=True),
            "list/a",
            b'[{"t":1795882838,"v":1},{"t":1795882839,"v":2}]',
            2,
            packet_id=7,
        )
        assert answer is not None
        first, second = self.store.of(Report)
        assert isinstance(first, Report)
        assert isinstance(second, Report)
        assert isinstance(second.delivery, Delivery)
        self.assertEqual((first.delivery, second.delivery.packet_id), (None, 7))
        self.assertNoResult(answer)
        self.store.commit()
        self.successResultOf(answer)

    def test_a_message_of_qos_2_is_remembered_until_it_is_released(self) -> None:
        client = self.connected("esp", persistent=True)
        self.send(client, "tele/kitchen/SENSOR", SENSOR, 2, packet_id=9)
        (report,) = self.store.of(Report)
        assert isinstance(report, Report)
        assert isinstance(report.delivery, Delivery)
        self.assertEqual((report.delivery.client_id, report.delivery.packet_id), ("esp", 9))

    def test_what_cannot_be_stored_is_kept_with_its_sender_and_the_rule(self) -> None:
        answer = self.send(self.connected("esp-7"), "tele/kitchen/SENSOR", b"{")
        assert answer is not None
        self.assertNoResult(answer)
        (rejection,) = self.store.entries
        assert isinstance(rejection, Rejection)
        self.assertEqual(
            (rejection.topic, rejection.client_id, rejection.payload), ("tele/kitchen/SENSOR", "esp-7", b"{")
        )
        self.assertTrue(rejection.reason.startswith("rules.toml#2: "))
        self.assertEqual((self.outcomes(), self.recorder.rejected["syntax"]), ({"2 rejected": 1}, 1))

    def test_what_may_be_left_alone_is_answered_at_once(self) -> None:
        client = self.connected()
        for topic, payload in (
            ("quiet/a", b"1"),
            ("wide/a", b"hello"),
            ("nothing/at/all", b"1"),
            ("agent/message", b"1"),
        ):
            self.assertIsNone(self.send(client, topic, payload))
        self.assertIsNone(self.handler(Publish("tele/a/LWT", b"", 0, True), client))
        self.assertEqual(self.store.entries, [])
        self.assertEqual(self.outcomes(), {"1 ignored": 1, "5 ignored": 1, "3 ignored": 1})

    def test_the_table_has_every_topic_filter(self) -> None:
        self.assertEqual(
            set(self.handler.table),
            {"quiet/+", "tele/+/SENSOR", "tele/+/LWT", "rtl", "wide/+", "list/+", "gone/+"},
        )

    def test_other_rules_take_their_place_at_once(self) -> None:
        client = self.connected()
        self.send(client, "tele/kitchen/SENSOR", SENSOR)
        self.handler.rules = rules('[[rule]]\ntopic = "tele/#"\nignore = true')
        self.assertIsNone(self.send(client, "tele/kitchen/SENSOR", SENSOR))
        self.assertEqual(len(self.store.entries), 1)

    def test_more_agents_than_a_connection_may_have_are_refused(self) -> None:
        client = self.connected()
        for name in "abcd":
            self.send(client, f"tele/{name}/SENSOR", SENSOR)
        self.assertEqual((len(self.store.of(Report)), len(self.store.of(Rejection))), (3, 1))
        self.assertEqual(self.outcomes(), {"2 stored": 3, "2 rejected": 1})


class RepeatedTests(RecordingCase):
    def test_a_copy_waits_for_the_first_and_is_stored_once(self) -> None:
        first = self.connected("esp", persistent=True)
        answers = [self.send(first, "tele/kitchen/SENSOR", SENSOR, 1, packet_id=5)]
        self.recorder.client_disconnected(first, False)
        again = self.connected("esp", persistent=True)
        answers.append(self.send(again, "tele/kitchen/SENSOR", SENSOR, 1, packet_id=5, dup=True))
        self.assertEqual(self.recorder.redelivered, 1)
        self.store.commit()
        self.store.commit()
        for answer in answers:
            assert answer is not None
            self.successResultOf(answer)
        self.assertEqual((len(self.store.of(Report)), len(self.store.of(Arrival))), (1, 1))
        self.assertEqual(
            [topic for topic, _ in self.published],
            ["agent/connected", "agent/disconnected", "agent/connected"],
        )

    def test_a_copy_of_a_message_that_brings_nobody_changes_nothing(self) -> None:
        client = self.connected("esp", persistent=True)
        for topic, payload in (
            ("tele/kitchen/SENSOR", b"{"),
            ("quiet/a", b"1"),
            ("none", b"1"),
            ("tele/a/LWT", b"Offline"),
        ):
            self.assertIsNone(self.handler.repeated(Publish(topic, payload, 1, packet_id=1), client))
        self.send(client, "tele/kitchen/SENSOR", SENSOR)
        self.assertIsNone(
            self.handler.repeated(Publish("tele/kitchen/SENSOR", SENSOR, 1, packet_id=1), client)
        )


class FewTypesTests(RecordingCase):
    limits = AgentLimits(max_types=1)

    def test_a_copy_of_a_message_of_types_too_many_brings_nobody(self) -> None:
        """As one of ``agent/message``: it was rejected, and is no word of the agent."""
        client = self.connected("esp", persistent=True)
        self.send(client, "tele/kitchen/SENSOR", b'{"a":1}')
        self.recorder.client_disconnected(client, False)
        client = self.connected("esp", persistent=True)
        again = Publish("tele/kitchen/SENSOR", b'{"b":1}', 1, packet_id=1, dup=True)
        self.assertIsNone(self.handler.repeated(again, client))
        agents = AgentHandlers(self.recorder)
        agent = {"uuid": "tasmota:kitchen", "username": "", "name": "x", "hostname": "", "pid": 0}
        for kind, arrives in (("b", False), ("a", True)):
            payload = json.dumps({"agent": agent, "metrics": [{"type": kind, "value": "1"}]}).encode()
            answer = agents.repeated(Publish("agent/message", payload, 1, packet_id=1, dup=True), client)
            self.assertEqual(answer is not None, arrives, kind)


class BindingTests(RecordingCase):
    def test_an_agent_of_the_topic_needs_no_other_right_than_the_topic(self) -> None:
        self.allowed = False
        self.send(self.connected(), "tele/kitchen/SENSOR", SENSOR)
        self.assertEqual(len(self.store.of(Report)), 1)

    def test_an_agent_of_the_payload_is_asked_for(self) -> None:
        client = self.connected()
        self.send(client, "rtl", b'{"id":5,"t":1}')
        self.allowed = False
        self.send(client, "rtl", b'{"id":6,"t":1}')
        self.send(client, "gone/a", b'{"id":5,"s":"down"}')
        self.assertEqual((len(self.store.of(Report)), len(self.store.of(Rejection))), (1, 2))
        self.assertEqual(self.recorder.rejected["binding"], 2)
        self.assertEqual(self.outcomes(), {"4 stored": 1, "4 rejected": 1, "7 rejected": 1})


class PresenceTests(RecordingCase):
    def test_words_bring_and_take_an_agent(self) -> None:
        client = self.connected()
        self.send(client, "tele/kitchen/SENSOR", SENSOR)
        answer = self.send(client, "tele/kitchen/LWT", b"Offline")
        assert answer is not None
        self.assertNoResult(answer)
        self.store.commit()
        self.successResultOf(answer)
        self.send(client, "tele/kitchen/LWT", b"Online")
        self.recorder.client_disconnected(client, False)
        kinds = [type(entry) for entry in self.store.entries]
        self.assertEqual(kinds, [Report, Departure, Report, Departure])
        self.assertEqual(
            [topic for topic, _ in self.published],
            ["agent/connected", "agent/disconnected", "agent/connected", "agent/disconnected"],
        )

    def test_a_word_of_another_connection_takes_the_agent_from_its_speaker(self) -> None:
        speaker, bridge = self.connected("speaker"), self.connected("bridge")
        self.send(speaker, "tele/kitchen/SENSOR", SENSOR)
        self.send(bridge, "tele/kitchen/LWT", b"Offline")
        self.assertEqual(self.published[-1], ("agent/disconnected", "tasmota:kitchen"))
        self.recorder.client_disconnected(speaker, False)
        self.assertEqual(len(self.store.of(Departure)), 1)
        self.assertEqual(self.recorder.presence.agents, 0)

    def test_an_agent_nobody_has_heard_cannot_go(self) -> None:
        self.assertIsNone(self.send(self.connected(), "tele/kitchen/LWT", b"Offline"))
        self.assertEqual((self.store.entries, self.published), ([], []))

    def test_an_agent_of_another_login_cannot_be_sent_away(self) -> None:
        self.send(self.connected("a", username="ana"), "tele/kitchen/SENSOR", SENSOR)
        self.send(self.connected("b", username="eva"), "tele/kitchen/LWT", b"Offline")
        self.assertEqual(self.recorder.rejected["login"], 1)
        (rejection,) = self.store.of(Rejection)
        assert isinstance(rejection, Rejection)
        self.assertTrue(
            rejection.reason.startswith("rules.toml#3: the agent is connected with another login")
        )


class RepublishedTests(RecordingCase):
    def test_what_is_stored_is_told_in_the_form_of_agents(self) -> None:
        self.send(self.connected(), "tele/kitchen/SENSOR", SENSOR)
        agent = {
            "uuid": "tasmota:kitchen",
            "username": "",
            "name": "tasmota:kitchen",
            "hostname": "",
            "pid": 0,
        }
        told = {
            "agent": agent,
            "metrics": [{"type": "t", "value": "21.5"}],
            "timestamp": int(NOW - 20) * 1000,
        }
        self.assertEqual(self.told, [("agent/message", told)])

    def test_what_has_no_time_is_told_with_that_of_its_arrival(self) -> None:
        self.send(self.connected(), "rtl", b'{"id":5,"t":1}')
        self.assertEqual(self.told[0][1]["timestamp"], int(NOW) * 1000)

    def test_words_of_presence_and_rejected_messages_are_not_told(self) -> None:
        client = self.connected()
        self.send(client, "tele/kitchen/LWT", b"Online")
        self.send(client, "tele/kitchen/SENSOR", b"{")
        for name in "abcd":
            self.send(client, f"tele/{name}/SENSOR", SENSOR)
        self.assertEqual(len(self.told), 2)


class SilentTests(RecordingCase):
    republishes = False

    def test_nothing_is_told(self) -> None:
        self.send(self.connected(), "tele/kitchen/SENSOR", SENSOR)
        self.assertEqual((self.told, len(self.store.entries)), ([], 1))
