"""Handlers that record: the same promises as for agent/message."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.interfaces import Client as Sender
from platziverse.agents.interfaces import Record
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent, Departure, InvalidReport, Metric, Report
from platziverse.agents.recorder import Recorder
from platziverse.agents.rows import RecordingRow
from platziverse.agents.tables import Tables
from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import Client
from platziverse.errors import ComesAgain
from platziverse.ingest.errors import StoreStopped
from platziverse.ingest.memory import MemoryStore
from platziverse.mqtt.packets import Puback, Publish, Pubrec
from platziverse.testing import FakeClient, recording_harness

NOW = 1_795_478_400.0


def made(uuid: str = "a", value: Any = "1", measured: float | None = None) -> Report:
    """A report as a handler makes it."""
    return Report(Agent(uuid, "", uuid, "", 0), [Metric("m", value)], measured=measured)


class RowCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.published: list[str] = []
        limits = AgentLimits(max_payload=128, max_agents=3)
        self.recorder = Recorder(self.store, self.publish, lambda: NOW, limits, self.may_speak_for)
        self.refused = ""
        self.clock = Clock()
        complaints = Complaints(self.clock, "agents")
        self.tables = Tables(self.recorder, self.publish, self.clock, complaints, deadline=30.0, room=2)
        self.client = Client("c", 1, persistent=True)
        self.recorder.client_connected(self.client)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.published.append(topic)

    def may_speak_for(self, client: object, uuid: str, username: str) -> bool:
        return uuid != self.refused

    def row(self, handler: Callable[[Publish, Sender], Any]) -> RecordingRow:
        return self.tables.make("m:t", lambda publish: {"d/+": handler})["d/+"]

    def send(self, given: Any, payload: bytes = b"x", topic: str = "d/1", **fields: Any) -> Any:
        """Hand a message to a handler that returns ``given``."""
        message = Publish(
            topic, payload, fields.pop("qos", 1), packet_id=fields.pop("packet_id", 7), **fields
        )
        return self.row(lambda *_: given)(message, self.client)

    def reasons(self) -> list[str]:
        return [rejection.reason for rejection in self.store.rejections]


class Returning(RowCase):
    def test_the_answer_waits_for_the_commit(self) -> None:
        self.store.hold()
        answer = self.send(made())
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)
        (report,) = self.store.reports
        self.assertEqual((report.arrived, report.source.topic, report.source.payload), (NOW, "d/1", b"x"))

    def test_a_deferred_of_reports_is_recorded_when_it_fires(self) -> None:
        given: Deferred[Any] = Deferred()
        answer = self.send(given)
        self.store.hold()
        given.callback([made("a"), made("b")])
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)
        self.assertEqual([report.agent.uuid for report in self.store.reports], ["a", "b"])

    def test_what_is_no_report_passes_as_it_did(self) -> None:
        self.assertIsNone(self.send(None))
        self.assertIsNone(self.send([]))
        given: Deferred[Any] = Deferred()
        answer = self.send(given)
        given.callback("something else")
        self.successResultOf(answer)
        self.assertEqual(self.store.entries, [])

    def test_its_agents_are_connected_as_long_as_the_sender_is(self) -> None:
        self.send([made("a"), made("b")])
        self.send(made("a"))
        self.assertEqual(self.published, ["agent/connected"] * 2)
        self.recorder.client_disconnected(self.client, False)
        self.assertEqual(self.published[2:], ["agent/disconnected"] * 2)
        departed = [entry.uuid for entry in self.store.entries if isinstance(entry, Departure)]
        self.assertEqual((departed, self.store.connected), (["a", "b"], set()))

    def test_a_stopped_store_errbacks(self) -> None:
        self.store.hold()
        answer = self.send([made("a"), made("b")])
        self.store.stop()
        self.failureResultOf(answer, StoreStopped)


class Recording(RowCase):
    def handler(self, handle: Callable[[Record, Publish, Client], Any]) -> RecordingRow:
        def make(publish: object, record: Record) -> Mapping[str, Any]:
            return {"d": lambda message, client: handle(record, message, client)}

        return self.tables.make("m:t", make)["d"]

    def test_the_answer_waits_for_what_was_recorded_even_if_nothing_is_returned(self) -> None:
        def forgets(record: Record, message: Publish, client: Sender) -> None:
            record(message, client, made("a"))

        self.store.hold()
        answer = self.handler(forgets)(Publish("d", b"", 1, packet_id=1), self.client)
        assert answer is not None
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)

    def test_what_is_recorded_and_returned_is_waited_for_once(self) -> None:
        row = self.handler(lambda record, message, client: record(message, client, made()))
        self.store.hold()
        answer = row(Publish("d", b"", 1, packet_id=1), self.client)
        self.store.resume()
        assert answer is not None
        self.successResultOf(answer)
        self.assertEqual(self.store.received, 1)

    def test_to_record_nothing_is_no_error(self) -> None:
        row = self.handler(lambda record, message, client: record(message, client))
        self.assertIsNone(row(Publish("d", b"", 1, packet_id=1), self.client))
        self.assertEqual(self.store.received, 0)

    def test_a_handler_may_record_after_its_sender_has_gone(self) -> None:
        calls: list[Callable[[], Deferred[object]]] = []
        row = self.handler(lambda record, m, client: calls.append(lambda: record(m, client, made("late"))))
        self.assertIsNone(row(Publish("d", b""), self.client))
        self.recorder.client_disconnected(self.client, False)
        self.successResultOf(calls[0]())
        self.assertEqual([type(entry) for entry in self.store.entries], [Report, Departure])

    def test_what_is_recorded_late_of_a_session_that_another_daemon_has_is_stored_there(self) -> None:
        """Row 567: its client sends the message again, to that daemon."""
        calls: list[Callable[[], Deferred[object]]] = []
        row = self.handler(lambda record, m, client: calls.append(lambda: record(m, client, made("late"))))
        clean, again = Client("clean", 2), Client("c", 3, persistent=True)
        self.recorder.client_connected(clean)
        row(Publish("d", b"", 2, packet_id=1), self.client)
        row(Publish("d", b"", 1, packet_id=2), self.client)
        row(Publish("d", b"", 2, packet_id=1), clean)
        self.recorder.taken_over()
        self.recorder.client_connected(again)
        row(Publish("d", b"", 2, packet_id=1), again)
        self.failureResultOf(calls[0](), ComesAgain)
        self.assertEqual(self.store.entries, [])
        for call in calls[1:]:
            self.successResultOf(call())
        self.assertEqual(self.store.stored, 3)


class Rejecting(RowCase):
    def test_what_a_handler_cannot_read_is_kept_and_acknowledged(self) -> None:
        def refuses(message: Publish, client: Sender) -> Report:
            raise InvalidReport("fields", "no number")

        message = Publish("d/1", b"x", 1, packet_id=1)
        for answer in (
            self.row(refuses)(message, self.client),
            self.send(fail(InvalidReport("fields", "late"))),
        ):
            assert answer is not None
            self.successResultOf(answer)
        self.assertEqual(self.reasons(), ["no number", "late"])
        self.assertEqual(self.recorder.rejected, {"fields": 2})

    def test_reports_are_read_as_strictly_as_agent_message(self) -> None:
        long, many = "x" * 256, [Metric("m", "1")] * 1001
        for report, reason in (
            (made(""), "Expected `str` of length >= 1 - at `$.agent.uuid`"),
            (made(long), "Expected `str` of length <= 255 - at `$.agent.uuid`"),
            (made("a\0"), "NUL - at `$.agent.uuid`"),
            (made("\ud800"), "not UTF-8: surrogates not allowed"),
            (made(value="x" * 4097), "longer than 4096 bytes - at `$.metrics[0].value`"),
            (made(value=float("nan")), "Expected `int | float | str`, got `null` - at `$.metrics[0].value`"),
            (Report(made().agent, many), "1001 metrics, 1000 are allowed (max_metrics)"),
        ):
            self.successResultOf(self.send(report))
            self.assertEqual(self.reasons()[-1], reason)
        self.successResultOf(self.send(made(), payload=b"x" * 129))
        self.assertEqual(self.reasons()[-1], "129 bytes, 128 are allowed (max_payload)")
        self.assertEqual(self.store.reports, [])

    def test_numbers_are_written_as_agent_message_writes_them(self) -> None:
        for value, text in (21.5, "21.5"), (3, "3"), (2.0, "2"), ("on", "on"):
            self.send(made(value=value))
            self.assertEqual(self.store.reports[-1].metrics, [Metric("m", text)])

    def test_a_bad_report_is_kept_beside_the_good_ones(self) -> None:
        self.send([made(""), made("good"), made("a\0")])
        self.assertEqual([report.agent.uuid for report in self.store.reports], ["good"])
        self.assertEqual(len(self.reasons()), 1)
        self.assertIn("; NUL - at `$.agent.uuid`", self.reasons()[0])
        self.assertEqual((self.recorder.partly_rejected, self.recorder.rejected), (1, {}))

    def test_one_message_cannot_bring_more_agents_than_a_connection_may_speak_for(self) -> None:
        """Row 98."""
        self.successResultOf(self.send([made(uuid) for uuid in "abcd"]))
        self.assertEqual([report.agent.uuid for report in self.store.reports], ["a", "b", "c"])
        self.assertEqual(self.reasons(), ["the connection speaks for 3 agents already (max_agents)"])
        self.assertEqual(self.recorder.presence.agents, 3)

    def test_nobody_speaks_for_an_agent_that_is_not_his(self) -> None:
        """Row 101."""
        self.refused = "theirs"
        self.successResultOf(self.send(made("theirs")))
        self.assertEqual(self.reasons(), ["its user may not speak for this agent"])
        self.assertEqual((self.recorder.rejected, self.published), ({"binding": 1}, []))


class Once(RowCase):
    def test_a_message_with_a_time_that_comes_again_is_stored_once(self) -> None:
        for _ in range(2):
            self.send([made("a", measured=NOW), made("b", measured=NOW)])
        self.assertEqual((self.store.stored, self.store.duplicates), (2, 2))

    def test_equal_bytes_of_two_topics_are_two_messages(self) -> None:
        self.send(made(measured=NOW), topic="d/1")
        self.send(made(measured=NOW), topic="d/2")
        self.assertEqual(self.store.stored, 2)

    def test_a_time_that_cannot_be_right_is_that_of_the_arrival(self) -> None:
        self.send(made(measured=NOW - 8 * 86_400))
        (report,) = self.store.reports
        self.assertEqual((report.measured, report.measured_adjusted, report.key), (NOW, True, None))

    def test_a_copy_waits_for_the_first_one_and_calls_no_handler(self) -> None:
        calls: list[Publish] = []

        def counts(message: Publish, client: Sender) -> Report:
            calls.append(message)
            return made()

        row = self.row(counts)
        self.store.hold()
        first = row(Publish("d/1", b"x", 1, packet_id=7), self.client)
        again = row(Publish("d/1", b"x", 1, packet_id=7, dup=True), self.client)
        assert first is not None
        assert again is not None
        self.assertNoResult(again)
        self.store.resume()
        self.successResultOf(first)
        self.successResultOf(again)
        self.assertEqual((len(calls), self.store.received, self.recorder.redelivered), (1, 1, 1))

    def test_the_last_report_of_a_qos_2_message_carries_its_delivery(self) -> None:
        self.send([made("a"), made("b")], qos=2)
        self.assertEqual([report.delivery is None for report in self.store.reports], [True, False])

    def test_a_report_that_a_handler_returns_again_is_another_message(self) -> None:
        mine = made(measured=NOW)
        self.send(mine, payload=b"1")
        self.send(mine, payload=b"2")
        self.assertEqual(self.store.stored, 2)
        self.assertEqual((mine.key, mine.arrived), (None, 0.0))

    def test_a_report_that_is_no_text_is_a_rejection(self) -> None:
        self.send(made("\ud800"))
        self.assertIn("not UTF-8", self.reasons()[0])

    def test_a_metric_that_cannot_be_used_is_a_rejection_beside_the_others(self) -> None:
        self.send(Report(made().agent, [Metric("t", "1"), Metric("t\0", "2")], measured=NOW))
        (report,) = self.store.reports
        self.assertEqual(report.metrics, [Metric("t", "1")])
        self.assertEqual(len(self.reasons()), 1)


class Making(RowCase):
    def test_a_handler_that_is_no_function_is_an_error(self) -> None:
        self.assertRaises(TypeError, self.tables.make, "m:t", lambda publish: {"d": 5})

    def test_a_function_whose_parameters_nobody_knows_gets_no_record(self) -> None:
        make = {self.tables.publish: {"d": lambda message, client: None}}.pop  # written in C
        self.assertEqual(list(self.tables.make("m:t", make)), ["d"])


class BehindABroker(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.store.hold()
        make: Any = lambda publish: {"d/+": lambda message, client: made(message.topic)}  # noqa: E731
        self.harness = recording_harness(make, store=self.store, wall_clock=NOW)

    def received(self, client: FakeClient) -> list[Any]:
        self.harness.turn()
        return client.received()

    def test_a_will_at_qos_2_of_a_client_whose_session_is_kept_is_recorded(self) -> None:
        """It has no Packet Identifier. ADR 0231."""
        self.harness.connect(clean_session=False, will=Publish("d/1", b"x", 2)).lose()
        self.store.resume()
        self.assertEqual(self.store.stored, 1)

    def test_puback_and_pubrec_wait_for_the_commit(self) -> None:
        client = self.harness.connect(clean_session=False)
        client.publish("d/1", b"x", 1, 7)
        client.publish("d/2", b"x", 2, 8)
        self.assertEqual(self.received(client), [])
        self.store.resume()
        self.assertEqual(self.received(client), [Puback(7), Pubrec(8)])
        self.assertEqual([report.agent.uuid for report in self.store.reports], ["d/1", "d/2"])

    def test_a_sender_is_held_while_too_much_of_it_waits(self) -> None:
        client = self.harness.connect()
        number = self.harness.broker.limits.max_unfinished
        for packet_id in range(1, number + 2):
            client.publish("d/1", b"x", 1, packet_id)
        self.assertTrue(client.held)
        self.store.resume()
        self.harness.turn()
        self.assertFalse(client.held)
