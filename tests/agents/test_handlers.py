"""From a message to what is saved, published and answered."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent, Departure, InvalidReport, Metric, Rejection, Report, Series
from platziverse.agents.recorder import Recorder
from platziverse.broker.reasons import Reason
from platziverse.broker.records import Delivery, Forget, Release
from platziverse.mqtt.packets import Puback, Publish, PublishProperties, Pubrec, Pubrel
from platziverse.testing import BrokerHarness
from tests.agents.doubles import COURSE, NOW, FakeClient, HeldStore, message, of_agent
from tests.logs import observe_log


class HandlersCase(SynchronousTestCase):
    limits = AgentLimits(max_agents=3, max_types=3)

    def setUp(self) -> None:
        self.store = HeldStore()
        self.published: list[tuple[str, Any]] = []
        self.recorder = Recorder(self.store, self.publish, lambda: NOW, self.limits)
        self.handlers = AgentHandlers(self.recorder)
        self.lines: list[str] = []
        observe_log(self, self.observe)
        self._number = 0

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, json.loads(payload)))

    def observe(self, event: dict[str, Any]) -> None:
        self.lines.append(formatEvent(event))

    def connected(self, client_id: str = "client", **fields: Any) -> FakeClient:
        self._number += 1
        client = FakeClient(client_id, self._number, **fields)
        self.recorder.client_connected(client)
        return client

    def send(self, client: FakeClient, payload: bytes = COURSE, **fields: Any) -> "Deferred[None]":
        return self.handlers(message(payload, **fields), client)

    def topics(self) -> list[str]:
        return [topic for topic, _ in self.published]


class Kelvin:
    """A rule whose temperatures are in K."""

    name = "rules.toml#1"

    def unit(self, kind: str) -> str | None:
        return "K" if kind == "t" else None


class TopicTests(HandlersCase):
    """What a topic says of an agent, which its payload need not name."""

    def setUp(self) -> None:
        super().setUp()
        self.recorder = Recorder(
            self.store, self.publish, lambda: NOW, self.limits, lambda client, uuid, username: False
        )

    def test_only_an_agent_of_the_payload_is_asked_for(self) -> None:
        client, agent = self.connected(), Agent("a", "", "a", "", 0)
        admitted, refused = self.recorder.admit_all([Report(agent, [])], client, False)
        self.assertEqual(([known for _, known in admitted], refused), ([False], []))
        admitted, refused = self.recorder.admit_all([Report(agent, [])], client)
        self.assertEqual((admitted, [error.kind for error in refused]), ([], ["binding"]))

    def test_new_types_bring_what_is_known_of_them(self) -> None:
        client, agent = self.connected(), Agent("a", "", "a", "", 0)
        first = Report(agent, [Metric("t", "1"), Metric("h", "2")], described=Kelvin())
        again, plain = (
            Report(agent, [Metric("t", "1")], described=Kelvin()),
            Report(agent, [Metric("x", "1")]),
        )
        self.recorder.admit_all([first, again, plain], client, False)
        self.assertEqual(first.series, (Series("t", "K", "rules.toml#1"), Series("h", None, "rules.toml#1")))
        self.assertEqual((again.series, plain.series), ((), (Series("x"),)))
        self.recorder.describe_again()
        self.recorder.admit_all([again], client, False)
        self.assertEqual(again.series, (Series("t", "K", "rules.toml#1"),))

    def test_an_agent_of_which_a_message_says_so_departs(self) -> None:
        client, agent = self.connected(), Agent("a", "", "a", "", 0)
        self.assertIsNone(self.recorder.depart(agent, client, False))
        [(report, known)], _ = self.recorder.admit_all([Report(agent, [])], client, False)
        self.recorder.save_all(message(), client, NOW, [(report, known)], [])
        self.assertRaises(InvalidReport, self.recorder.depart, agent, client, True)
        answer = self.recorder.depart(agent, client, False)
        assert answer is not None
        self.assertEqual(self.store.entries[1:], [Departure("a")])
        self.assertEqual(self.topics(), ["agent/connected", "agent/disconnected"])
        self.store.commit()
        self.assertIsNone(self.successResultOf(answer))


class MessageTests(HandlersCase):
    def test_whoever_watches_sees_what_is_saved_and_nothing_else(self) -> None:
        seen: list[Report] = []
        client = self.connected()
        self.send(client)
        self.recorder.observe = seen.append
        self.send(client)
        self.send(client, b"Hello")
        self.assertEqual([report.agent.uuid for report in seen], ["yyy"])

    def test_the_answer_waits_for_the_commit(self) -> None:
        answer = self.send(self.connected())
        self.assertNoResult(answer)
        self.store.commit()
        self.assertIsNone(self.successResultOf(answer))
        [report] = self.store.of(Report)
        assert isinstance(report, Report)
        self.assertEqual((report.agent.uuid, report.arrived, report.delivery), ("yyy", NOW, None))

    def test_what_is_no_report_is_kept_told_and_answered(self) -> None:
        """row 87"""
        answer = self.send(self.connected("mqttjs_1"), b"Hello")
        reason, sender = "JSON is malformed: invalid character (byte 0)", "192.0.2.1:50000 'mqttjs_1'"
        self.assertEqual(
            self.store.entries,
            [Rejection("agent/message", "mqttjs_1", b"Hello", reason, NOW, "192.0.2.1:50000")],
        )
        self.assertEqual(self.lines, [f"Rejected a message of {sender} to 'agent/message': {reason}"])
        self.assertEqual(self.recorder.rejected["syntax"], 1)
        self.assertNoResult(answer)
        self.store.commit()
        refused: Any = self.successResultOf(answer)
        self.assertEqual((refused.reason, refused.text), (Reason.PAYLOAD_INVALID, reason))

    def test_a_rejected_message_makes_no_agent(self) -> None:
        client = self.connected()
        self.send(client, b"{}")
        self.recorder.client_disconnected(client, False)
        self.assertEqual((self.published, self.store.of(Departure)), ([], []))

    def test_a_bad_metric_is_told_and_goes_with_its_report(self) -> None:
        """row 102"""
        self.send(self.connected(), COURSE.replace(b'"1001"', b"true"))
        [report] = self.store.entries
        assert isinstance(report, Report)
        self.assertEqual((len(report.metrics), len(report.rejections)), (1, 1))
        self.assertIn("$.metrics[0].value", self.lines[0])
        self.assertEqual((self.recorder.partly_rejected, self.recorder.rejected.total()), (1, 0))

    def test_the_log_never_shows_what_was_sent(self) -> None:
        """row 89, row 127"""
        self.send(self.connected(), b'{"agent": {"uuid": "secret\\nvalue", "pid": "secret"}}')
        self.assertNotIn("secret", self.lines[0])

    def test_a_stopped_store_errbacks(self) -> None:
        answer = self.send(self.connected())
        self.store.stop()
        self.failureResultOf(answer, RuntimeError)
        self.failureResultOf(self.send(self.connected()), RuntimeError)

    def test_what_is_rejected_has_the_properties_of_its_message(self) -> None:
        """All of it, or a part; by the payload, by the access rules, or by the database later."""
        client, properties = self.connected(), PublishProperties(1, user_properties=(("a", "1"),))
        part = json.loads(COURSE)
        part["metrics"].append({"type": "bad", "value": None})
        for payload in (b"Hello", json.dumps(part).encode(), COURSE):
            self.handlers(Publish("agent/message", payload, 1, properties=properties), client)
        rejection, partly, whole = self.store.entries
        assert isinstance(rejection, Rejection)
        assert isinstance(partly, Report)
        assert isinstance(whole, Report)
        for one in (rejection, *partly.rejections, partly.source, whole.source):
            self.assertIs(one.properties, properties)

    def test_types_beyond_the_cap_are_rejected(self) -> None:
        """row 98"""
        client = self.connected()
        self.send(client)
        many = json.loads(COURSE)
        many["metrics"] = [{"type": kind, "value": 1} for kind in ("temp", "third", "fourth", "fifth")]
        many["metrics"].append({"type": "bad", "value": None})
        self.send(client, json.dumps(many).encode())
        report = self.store.entries[1]
        assert isinstance(report, Report)
        self.assertEqual([metric.type for metric in report.metrics], ["temp", "third"])
        [rejection] = report.rejections
        self.assertEqual((rejection.address, report.source.address), ("192.0.2.1:50000",) * 2)
        self.assertIn(
            "2 metrics of new types, the agent has 3 already (max_types); 1 of 5 metrics: ", rejection.reason
        )
        many["metrics"] = many["metrics"][2:4]
        self.send(client, json.dumps(many).encode())
        self.assertIsInstance(self.store.entries[2], Rejection)
        self.assertEqual(self.recorder.rejected["types"], 1)

    def test_agents_beyond_the_cap_are_rejected(self) -> None:
        """row 98"""
        client = self.connected()
        for uuid in "abcd":
            self.send(client, of_agent(uuid))
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Report, Report, Rejection])
        self.assertEqual(self.topics(), ["agent/connected"] * 3)

    def test_another_login_cannot_speak_for_an_agent_or_use_up_its_types(self) -> None:
        """row 101"""
        self.send(self.connected("owner", username="ann"))
        thief = self.connected("thief", username="bob")
        self.send(thief, COURSE.replace(b"memory", b"rubbish"))
        self.assertIsInstance(self.store.entries[1], Rejection)
        self.send(thief, COURSE.replace(b"memory", b"more rubbish"))
        self.send(self.connected("owner", username="ann"), COURSE.replace(b"memory", b"third"))
        report = self.store.entries[3]
        assert isinstance(report, Report)
        self.assertEqual(report.rejections, [])

    def test_times_that_were_not_written_in_milliseconds_are_counted_by_their_form(self) -> None:
        """Row 239."""
        document = json.loads(COURSE)
        client = self.connected()
        for written in (int(NOW * 1000), int(NOW * 1_000_000), int(NOW * 1_000_000) + 1):
            self.send(client, json.dumps(document | {"timestamp": written}).encode())
        self.assertEqual([*self.recorder.times_converted.values()], [2])


class PresenceTests(HandlersCase):
    def test_the_first_message_connects_an_agent_once(self) -> None:
        client = self.connected()
        self.send(client)
        self.send(client)
        agent = {"uuid": "yyy", "username": "platzi", "name": "platzi", "hostname": "platzibogota", "pid": 10}
        self.assertEqual(self.published, [("agent/connected", {"agent": agent | {"connected": True}})])

    def test_the_end_of_the_connection_disconnects_it(self) -> None:
        client = self.connected()
        self.send(client)
        self.recorder.client_disconnected(client, False)
        self.assertEqual(self.published[1], ("agent/disconnected", {"agent": {"uuid": "yyy"}}))
        self.assertEqual(self.store.entries[1], Departure("yyy"))

    def test_agents_that_a_dead_daemon_left_are_announced_unless_they_have_come_here(self) -> None:
        """Row 145."""
        self.send(self.connected())
        self.recorder.left_behind(["theirs", "yyy"])
        self.assertEqual(self.published[1:], [("agent/disconnected", {"agent": {"uuid": "theirs"}})])

    def test_a_take_over_leaves_the_agent_connected(self) -> None:
        """row 25"""
        old = self.connected("same")
        self.send(old)
        self.recorder.client_disconnected(old, True)
        new = self.connected("same")
        self.assertEqual((self.topics(), self.store.of(Departure)), (["agent/connected"], []))
        self.recorder.client_disconnected(new, False)
        self.assertEqual(self.store.of(Departure), [Departure("yyy")])

    def test_a_will_is_a_message_and_its_agent_ends_disconnected(self) -> None:
        """row 29: the broker publishes a Will before it tells that the client has gone."""
        client = self.connected(persistent=True)
        self.handlers(Publish("agent/message", COURSE, 2), client)
        self.recorder.client_disconnected(client, False)
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Departure])
        self.assertEqual(self.topics(), ["agent/connected", "agent/disconnected"])

    def test_a_message_after_the_end_is_stored_and_its_agent_is_not_connected(self) -> None:
        """row 29"""
        client = self.connected()
        self.recorder.client_disconnected(client, False)
        self.send(client)
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Departure])
        self.assertEqual(self.published, [])
        self.send(self.connected("alive"))
        self.send(client)
        self.assertEqual([type(entry) for entry in self.store.entries[2:]], [Report, Report])

    def test_a_departure_that_cannot_be_saved_is_told(self) -> None:
        client = self.connected()
        self.send(client).addErrback(lambda _: None)
        self.store.stop()
        self.recorder.client_disconnected(client, False)
        self.assertEqual(self.lines, ["An entry could not be saved: stopped"])


class RedeliveryTests(HandlersCase):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.connected(persistent=True)
        self.first = self.send(self.client, qos=1, packet_id=5)

    def again(self, **fields: Any) -> "Deferred[None]":
        self.recorder.client_disconnected(self.client, True)
        self.client = self.connected(persistent=True)
        given: dict[str, Any] = {"qos": 1, "packet_id": 5, "dup": True} | fields
        return self.send(self.client, **given)

    def test_a_copy_of_an_unfinished_message_waits_for_the_first(self) -> None:
        second, third = self.again(), self.again()
        self.assertEqual(len(self.store.entries), 1)
        self.assertNoResult(second)
        self.store.commit()
        for answer in (self.first, second):
            self.assertIsNone(self.successResultOf(answer))
        self.assertNoResult(third)  # the connection that is there now speaks for the agent
        self.store.commit()
        self.assertIsNone(self.successResultOf(third))
        self.assertEqual(self.recorder.redelivered, 2)

    def test_the_copies_fail_with_the_first(self) -> None:
        second = self.again()
        self.store.stop()
        self.failureResultOf(self.first, RuntimeError)
        self.failureResultOf(second, RuntimeError)

    def test_a_rejected_message_is_recognised_too(self) -> None:
        self.send(self.client, b"Hello", qos=1, packet_id=6)
        self.again(payload=b"Hello", packet_id=6)
        self.assertEqual(len(self.store.of(Rejection)), 1)

    def test_another_message_is_not_a_copy(self) -> None:
        self.again(payload=of_agent("zzz"))
        self.again(packet_id=6)
        self.again(dup=False)
        self.assertEqual(len(self.store.of(Report)), 4)

    def test_a_message_that_is_stored_is_no_longer_remembered(self) -> None:
        self.store.commit()
        self.again()
        self.assertEqual((len(self.store.of(Report)), self.recorder.redelivered), (2, 0))

    def test_a_client_without_a_session_is_not_remembered(self) -> None:
        client = self.connected("clean")
        self.send(client, qos=1, packet_id=1)
        self.send(client, qos=1, packet_id=1, dup=True)
        self.assertEqual(len(self.store.of(Report)), 3)


class ExactlyOnceTests(HandlersCase):
    def test_qos_2_of_a_persistent_session_names_its_delivery(self) -> None:
        self.send(self.connected("p", persistent=True), qos=2, packet_id=9, dup=True)
        [report] = self.store.entries
        assert isinstance(report, Report)
        assert isinstance(report.delivery, Delivery)
        delivery = report.delivery
        self.assertEqual((delivery.client_id, delivery.packet_id, delivery.dup), ("p", 9, True))
        self.assertEqual(len(delivery.digest), 16)

    def test_other_messages_have_no_delivery(self) -> None:
        self.send(self.connected("p", persistent=True), qos=1, packet_id=9)
        self.send(self.connected("c"), qos=2, packet_id=9)
        self.assertEqual(
            [entry.delivery for entry in self.store.of(Report) if isinstance(entry, Report)], [None] * 2
        )

    def test_pubcomp_waits_for_the_release(self) -> None:
        answer = self.recorder.message_released(self.connected("p", persistent=True), 9)
        self.assertEqual(self.store.entries, [Release("p", 9)])
        self.assertNoResult(answer)
        self.store.commit()
        self.successResultOf(answer)

    def test_the_messages_of_a_new_session_wait_until_the_old_one_is_forgotten(self) -> None:
        self.recorder.session_ended("p")
        client = self.connected("p", persistent=True)
        answer = self.send(client, qos=2, packet_id=1)
        self.recorder.client_disconnected(client, False)
        self.send(self.connected("other"), of_agent("other"))
        self.assertEqual([type(entry) for entry in self.store.entries], [Forget, Report])
        self.store.commit()
        self.assertEqual([type(entry) for entry in self.store.entries], [Forget, Report, Report, Departure])
        self.assertNoResult(answer)
        self.store.commit()
        self.successResultOf(answer)
        self.send(client)
        self.assertIsInstance(self.store.entries[4], Report)

    def test_two_sessions_that_end_are_forgotten_in_turn(self) -> None:
        self.recorder.session_ended("p")
        client = self.connected("p", persistent=True)
        self.send(client, qos=2, packet_id=1)
        self.recorder.session_ended("p")
        last = self.send(client, qos=2, packet_id=1)
        self.store.commit()
        self.assertEqual([type(entry) for entry in self.store.entries], [Forget, Report, Forget])
        self.store.commit()
        self.assertEqual([type(entry) for entry in self.store.entries], [Forget, Report, Forget, Report])
        self.store.commit()
        self.successResultOf(last)
        self.send(client)
        self.assertIsInstance(self.store.entries[4], Report)

    def test_a_store_that_commits_at_once_is_no_exception(self) -> None:
        self.store.held = False
        self.recorder.session_ended("p")
        self.recorder.session_ended("p")
        self.successResultOf(self.send(self.connected("p", persistent=True), qos=2, packet_id=1))

    def test_a_forget_that_fails_takes_what_is_of_qos_2_with_it_and_nothing_else(self) -> None:
        """Row 566: another daemon has the Session now, and its own Forget or none."""
        for number, (qos, stored) in enumerate([(2, False), (1, True)], 1):
            self.recorder.session_ended("p")
            client = self.connected("p", persistent=True)
            answer = self.send(client, qos=qos, packet_id=number)
            released = self.recorder.message_released(client, number)
            self.store.refuse(RuntimeError("fenced"))
            self.assertEqual(bool(self.store.of(Report)), stored)
            self.failureResultOf(released, RuntimeError)
            if stored:
                self.store.commit()
                self.successResultOf(answer)
            else:
                self.failureResultOf(answer, RuntimeError)
        self.assertEqual(self.lines, ["An entry could not be saved: fenced"] * 2)

    def test_a_failed_forget_holds_nobody_up(self) -> None:
        self.recorder.session_ended("p")
        answer = self.send(self.connected("p", persistent=True), qos=2, packet_id=1)
        self.store.stop()
        self.failureResultOf(answer, RuntimeError)
        self.assertEqual(self.lines, ["An entry could not be saved: stopped"])


class BrokerTests(SynchronousTestCase):
    """The handlers behind a whole broker."""

    def setUp(self) -> None:
        self.store = HeldStore()
        recorder = Recorder(self.store, self.announce, lambda: NOW)
        self.harness = BrokerHarness(AgentHandlers(recorder).table, observers=[recorder])
        self.watcher = self.harness.connect("watcher")
        self.watcher.subscribe("agent/#")

    def announce(self, topic: str, payload: bytes) -> None:
        self.harness.broker.announce(topic, payload)

    def seen(self) -> list[str]:
        self.harness.turn()
        return [packet.topic for packet in self.watcher.received() if isinstance(packet, Publish)]

    def test_puback_waits_for_the_commit(self) -> None:
        client = self.harness.connect("a")
        client.publish("agent/message", COURSE, 1, 7)
        self.harness.turn()
        self.assertEqual(client.received(), [])
        self.store.commit()
        self.harness.turn()
        self.assertEqual(client.received(), [Puback(7)])
        self.assertEqual(self.seen(), ["agent/message", "agent/connected"])

    def test_a_rejected_message_is_acknowledged_once_it_is_kept(self) -> None:
        """row 87"""
        client = self.harness.connect("a")
        client.publish("agent/message", b"5", 2, 7)
        self.harness.turn()
        self.assertEqual(client.received(), [])
        self.store.commit()
        self.harness.turn()
        self.assertEqual(client.received(), [Pubrec(7)])

    def test_everything_in_one_segment_is_stored(self) -> None:
        client = self.harness.connect("a")
        client.publish("agent/message", COURSE)
        client.lose()
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Departure])
        self.assertEqual(self.seen(), ["agent/message", "agent/connected", "agent/disconnected"])

    def test_a_will_to_agent_message_is_stored(self) -> None:
        """row 29"""
        client = self.harness.connect("a", will=Publish("agent/message", COURSE, 2))
        client.lose()
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Departure])

    def test_a_take_over_never_disconnects_the_agent(self) -> None:
        """row 24, row 25"""
        self.harness.connect("a").publish("agent/message", COURSE)
        for _ in range(5):
            self.harness.connect("a")
            self.harness.turn()
        self.assertEqual(self.store.of(Departure), [])
        self.assertNotIn("agent/disconnected", self.seen())

    def test_pubrel_of_a_persistent_session_is_saved_before_pubcomp(self) -> None:
        client = self.harness.connect("a", clean_session=False)
        client.publish("agent/message", COURSE, 2, 7)
        self.store.commit()
        client.send(Pubrel(7))
        self.harness.turn()
        self.assertEqual(client.received(), [Pubrec(7)])
        self.store.commit()
        self.harness.turn()
        self.assertEqual(len(client.received()), 1)
        self.harness.connect("a", clean_session=True)
        self.assertEqual(self.store.of(Forget), [Forget("a")])
