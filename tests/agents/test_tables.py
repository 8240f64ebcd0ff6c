"""Handlers of the setting ``handlers`` that fail: it is their own affair, and the message is kept."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Agent, InvalidReport, Metric, Report
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason, Refused
from platziverse.mqtt.packets import Packet, Properties, Puback, Publish, Pubrec
from platziverse.testing import BrokerHarness, FakeClient
from tests.agents.doubles import COURSE
from tests.logs import observe_log

Handle = Callable[[Publish, Any], Any]


def made(uuid: str = "a") -> Report:
    return Report(Agent(uuid, "", uuid, "", 0), [Metric("m", "1")])


def of(topic_filter: str, handle: Handle) -> Callable[..., Mapping[str, Handle]]:
    """A function as the setting names it, of one handler."""

    def table(publish: object) -> Mapping[str, Handle]:
        return {topic_filter: handle}

    return table


def raises(message: Publish, client: object) -> None:
    raise KeyError("a bug")


def never(message: Publish, client: object) -> "Deferred[Any]":
    return Deferred()


class HandlerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, lambda event: self.lines.append(formatEvent(event)))

    def begin(self, *makes: Callable[..., Any], **limits: Any) -> FakeClient:
        self.lines.clear()
        self.harness = BrokerHarness(handlers=makes, limits=Limits(**limits))
        self.failures = self.harness.recorder.handler_failures
        return self.harness.connect(clean_session=False)

    def received(self, client: FakeClient) -> list[Packet]:
        self.harness.turn()
        return client.received()

    def reasons(self) -> list[str]:
        return [rejection.reason for rejection in self.harness.reports.rejections]

    def told(self, part: str) -> int:
        return sum(part in line for line in self.lines)


class Raising(HandlerCase):
    def test_a_message_whose_handler_raises_is_acknowledged_kept_and_counted_apart(self) -> None:
        """Row 201."""
        reason = "handler tests.agents.test_tables:table: KeyError: 'a bug'"
        ways: list[Handle] = [raises, lambda *_: fail(KeyError("a bug"))]

        async def later(message: Publish, client: object) -> None:
            raises(message, client)

        for handle in [*ways, later]:
            client = self.begin(of("t", handle))
            client.publish("t", b"x", 1, 7)
            self.assertEqual((self.received(client), client.closed), ([Puback(7)], False))
            self.assertEqual(self.reasons(), [reason])
            self.assertEqual(self.failures, {("tests.agents.test_tables:table", "raised"): 1})
            self.assertEqual(self.harness.recorder.rejected, {"handler": 1})
            self.assertEqual(self.harness.broker.traffic.internal_errors, 0)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
            self.assertEqual(self.told("Handler tests.agents.test_tables:table, with a message of"), 1)

    def test_what_another_handler_has_stored_is_not_kept_as_rejected(self) -> None:
        """Row 201."""
        for late in False, True:
            for first in False, True:
                given: Deferred[Any] = Deferred()
                stores, bad = of("t", lambda *_, given=given: given), of("+", raises)
                client = self.begin(stores, bad) if first else self.begin(bad, stores)
                if not late:
                    given.callback(made())
                client.publish("t", b"x", 1, 7)
                if late:
                    self.assertEqual(self.received(client), [])
                    given.callback(made())
                self.assertEqual(self.received(client), [Puback(7)])
                stored = self.harness.reports
                self.assertEqual((len(stored.reports), stored.rejections), (1, []))
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_handler_cannot_change_the_message_of_the_others(self) -> None:
        """Row 344: a message without its payload cost the publisher its connection."""
        seen: list[Publish] = []
        for name, value in (("payload", None), ("packet_id", None), ("qos", 0), ("topic", 7)):

            def change(message: Publish, client: object, name: str = name, value: object = value) -> None:
                setattr(message, name, value)

            client = self.begin(of("t", change), of("+", lambda message, _: seen.append(message)))
            client.publish("t", b"x", 1, 7)
            self.assertEqual(self.received(client), [Puback(7)])
            self.assertEqual(seen.pop(), Publish("t", b"x", 1, packet_id=7))
            self.assertEqual(sum(self.failures.values()), 1)
            self.flushLoggedErrors(AttributeError)

    def test_a_report_is_stored_once_although_a_handler_of_agent_message_raises(self) -> None:
        """Row 201."""
        client = self.begin(of("agent/message", raises))
        client.publish("agent/message", COURSE, 1, 7)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual((len(self.harness.reports.reports), self.reasons()), (1, []))
        self.flushLoggedErrors(KeyError)

    def test_what_a_handler_has_recorded_before_it_raised_is_stored_and_no_rejection(self) -> None:
        def table(publish: object, record: Any) -> Mapping[str, Handle]:
            async def handle(message: Publish, client: Any) -> None:
                await record(message, client, made())
                raise KeyError("a bug")

            return {"t": handle}

        client = self.begin(table)
        client.publish("t", b"x", 1, 7)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual((len(self.harness.reports.reports), self.reasons()), (1, []))
        self.flushLoggedErrors(KeyError)

    def test_a_result_that_is_nothing_known_is_a_failure(self) -> None:
        client = self.begin(of("t", lambda *_: "something"))
        client.publish("t", b"x", 1, 7)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertIn("TypeError: a handler returned str, neither Reports nor a Deferred", self.reasons()[0])
        self.flushLoggedErrors(TypeError)

    def test_what_no_report_can_be_made_of_is_a_failure(self) -> None:
        """Row 201."""
        strange: Any = object()
        endless: list[Any] = []
        endless.append(endless)
        for bad in (
            Report(strange, []),
            Report(made().agent, [Metric("m", strange)]),
            Report(made().agent, endless),
            Report(made().agent, [], measured=strange),
        ):
            for handle in (lambda *_, bad=bad: bad, lambda *_, bad=bad: succeed(bad)):
                client = self.begin(of("t", handle))
                client.publish("t", b"x", 1, 7)
                self.assertEqual((self.received(client), client.closed), ([Puback(7)], False))
                self.assertEqual((self.harness.reports.reports, len(self.reasons())), ([], 1))
                self.flushLoggedErrors()

    def test_an_error_without_a_text_and_an_exit_are_failures_like_others(self) -> None:
        """Row 201, and row 297: after what is no Exception nobody was answered any more."""

        class Mute(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

        ends = SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("x")
        for error in Mute(), ValueError("x" * 1_000_000), *ends:

            def handle(message: Publish, client: object, error: BaseException = error) -> None:
                raise error

            client = self.begin(of("t", handle))
            client.publish("t", b"x", 1, 7)
            self.assertEqual((self.received(client), client.closed), ([Puback(7)], False))
            self.assertLessEqual(len(self.reasons()[0]), 500)
            self.flushLoggedErrors()

    def test_the_servers_own_messages_are_not_kept(self) -> None:
        self.begin(of("t", raises))
        self.harness.broker.announce("t", b"x")
        self.assertEqual((self.reasons(), sum(self.failures.values())), ([], 1))
        self.flushLoggedErrors(KeyError)

    def test_what_the_store_refuses_is_not_blamed_on_the_handler_nor_acknowledged(self) -> None:
        def table(publish: object, record: Any) -> Mapping[str, Handle]:
            return {"t": lambda message, client: record(message, client, made()).addCallback(lambda _: None)}

        client = self.begin(table)
        self.harness.reports.hold()
        client.publish("t", b"x", 1, 7)
        self.harness.reports.stop()
        self.assertEqual((self.received(client), client.closed, self.failures), ([], True, {}))


class Slow(HandlerCase):
    def test_a_handler_that_never_answers_has_a_time_limit(self) -> None:
        """Row 202."""
        cancelled: list[object] = []
        client = self.begin(of("t", lambda *_: Deferred(cancelled.append)))
        client.publish("t", b"x", 1, 7)
        self.harness.advance(29)
        self.assertEqual(self.received(client), [])
        self.harness.advance(2)
        self.assertEqual((self.received(client), client.closed, len(cancelled)), ([Puback(7)], False, 1))
        reason = "handler tests.agents.test_tables:table: no answer within 30 s (limits.handler_deadline)"
        self.assertEqual(self.reasons(), [reason])
        self.assertEqual(list(self.failures), [("tests.agents.test_tables:table", "deadline")])
        self.assertEqual(self.told("no answer within 30 s (limits.handler_deadline)"), 2)  # and the Rejection

    def test_its_time_is_counted_until_it_has_finished(self) -> None:
        waits: list[Deferred[Any]] = []

        def slow(message: Publish, client: object) -> "Deferred[Any]":
            waits.append(Deferred())
            return waits[-1]

        client = self.begin(of("x", slow), of("y", lambda message, client: None))
        for topic in ("x", "x", "y"):
            client.publish(topic)
        self.harness.advance(2)
        waits[0].callback(None)
        first, second = self.harness.tables.timed()
        self.assertEqual([row[1] for row in (first, second)], [1, 1])
        self.assertAlmostEqual(first[2], 2.0)
        self.assertEqual(second[2], 0.0)
        self.assertEqual(first[0].rpartition(":")[2], "table")

    def test_its_room_is_its_own(self) -> None:
        """Row 203."""
        client = self.begin(of("t", never), of("agent/message", never), max_unfinished_total=8)
        others = [self.harness.connect(f"c{number}") for number in range(4)]
        for number, other in enumerate(others):
            other.publish("t", b"x", 1, 7)
            self.assertEqual(self.received(other), [Puback(7)] if number >= 2 else [])
        self.assertFalse(self.harness.shared.flow.full)
        self.assertEqual(self.told("has not finished with 2 others (limits.max_unfinished_per_handler)"), 2)
        for packet_id in 1, 2, 3:
            client.publish("agent/message", COURSE, 1, packet_id)
        self.assertEqual(len(self.harness.reports.reports), 3)
        self.harness.advance(31)
        self.assertEqual(self.received(client), [Puback(1), Puback(2), Puback(3)])
        self.assertEqual(len(self.reasons()), 4)

    def test_a_handler_that_hangs_is_tried_with_one_message_at_a_time(self) -> None:
        """Row 203."""
        given: list[Deferred[Any]] = []

        def handle(message: Publish, client: object) -> "Deferred[Any]":
            given.append(Deferred())
            return given[-1]

        client = self.begin(of("agent/message", handle))
        client.publish("agent/message", COURSE, 1, 1)
        self.harness.advance(31)
        self.assertEqual(self.received(client), [Puback(1)])
        other = self.harness.connect("other")
        client.publish("agent/message", COURSE, 1, 2)
        other.publish("agent/message", COURSE, 1, 3)
        self.assertEqual((self.received(client), self.received(other)), ([], [Puback(3)]))
        self.assertEqual(self.told("has finished with nothing for 30 s (limits.handler_deadline)"), 1)
        given[-1].callback(None)
        self.assertEqual(self.received(client), [Puback(2)])
        for packet_id in 4, 5:
            other.publish("agent/message", COURSE, 1, packet_id)
        self.assertEqual((self.received(other), len(given)), ([], 4))
        self.assertEqual((len(self.harness.reports.reports), self.reasons()), (5, []))

    def test_one_that_goes_on_with_others_does_not_hang(self) -> None:
        """Row 203."""
        given: dict[str, Deferred[Any]] = {}

        def handle(message: Publish, client: object) -> "Deferred[Any]":
            return given.setdefault(message.topic, Deferred())

        client = self.begin(of("t/+", handle))
        client.publish("t/1", b"", 0)
        client.publish("t/2", b"", 0)
        self.harness.advance(20)
        given["t/2"].callback(None)
        self.harness.advance(11)
        client.publish("t/3", b"", 0)
        client.publish("t/4", b"", 0)
        self.assertEqual((len(given), [kind for _, kind in self.failures]), (4, ["deadline"]))

    def test_the_time_of_the_store_is_not_the_handlers(self) -> None:
        """Row 202."""
        published: list[str] = []

        def table(publish: Any, record: Any) -> Mapping[str, Handle]:
            async def handle(message: Publish, client: Any) -> None:
                await record(message, client, made())
                publish("done", b"")

            def calls(message: Publish, client: Any) -> "Deferred[Any]":
                later = deferLater(self.harness.clock, 1, record, message, client, made())
                return later.addCallback(lambda _: published.append(message.topic))

            return {"a": handle, "b": calls}

        client = self.begin(table)
        self.harness.reports.hold()
        client.publish("a", b"", 1, 1)
        client.publish("b", b"", 1, 2)
        self.harness.advance(600)
        self.assertEqual((self.received(client), self.failures), ([], {}))
        self.harness.reports.resume()
        self.assertEqual((self.received(client), published), ([Puback(1), Puback(2)], ["b"]))

    def test_an_answer_that_comes_too_late_changes_nothing(self) -> None:
        given: Deferred[Any] = Deferred(lambda _: None)
        client = self.begin(of("t", lambda *_: given))
        client.publish("t", b"x", 1, 7)
        self.harness.advance(31)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual((self.harness.reports.reports, len(self.reasons())), ([], 1))

    def test_a_canceller_that_raises_is_logged(self) -> None:
        def broken(deferred: object) -> None:
            raise ZeroDivisionError

        client = self.begin(of("t", lambda *_: Deferred(broken)))
        client.publish("t", b"x", 1, 7)
        self.harness.advance(31)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Publishing(HandlerCase):
    def loops(self, *makes: Callable[..., Any], topic: str = "a") -> None:
        client = self.begin(*makes)
        watcher = self.harness.connect("watcher")
        watcher.subscribe("#")
        client.publish(topic, b"x", 1, 7)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual([kind for _, kind in self.failures], ["loop"])
        self.assertEqual(sum(self.failures.values()), 1)
        self.assertEqual(self.told("it has caused this message itself ("), 1)
        self.assertEqual(self.harness.broker.traffic.internal_errors, 0)
        self.assertEqual(self.reasons(), [])

    def test_a_handler_that_publishes_what_it_handles_is_stopped(self) -> None:
        """Row 204."""

        def table(publish: Any) -> Mapping[str, Handle]:
            return {"a": lambda message, client: publish("a", b"again")}

        def later(publish: Any) -> Mapping[str, Handle]:
            async def handle(message: Publish, client: object) -> None:
                await succeed(None)
                publish("a", b"again")

            return {"a": handle}

        def recorded(publish: Any, record: Any) -> Mapping[str, Handle]:
            def handle(message: Publish, client: Any) -> Any:
                return record(message, client, made()).addCallback(lambda _: publish("a", b"again"))

            return {"a": handle}

        for make in table, later, recorded:
            self.loops(make)

    def test_two_handlers_that_publish_for_each_other_are_stopped(self) -> None:
        """Row 204."""

        def table(publish: Any) -> Mapping[str, Handle]:
            return {
                "a": lambda message, client: publish("b", b""),
                "b": lambda message, client: publish("a", b""),
            }

        self.loops(table)

    def test_a_handler_that_causes_an_announcement_which_it_handles_is_stopped(self) -> None:
        """Row 204."""

        def table(publish: Any, record: Any) -> Mapping[str, Handle]:
            seen: list[Any] = []

            def handle(message: Publish, client: Any) -> None:
                seen.append((message, client))
                record(*seen[0], made(f"agent {len(seen)}"))

            return {"+": handle, "agent/connected": handle}

        client = self.begin(lambda publish, record: {"#": table(publish, record)["+"]})
        client.publish("a", b"x", 1, 7)
        self.assertEqual(self.received(client), [Puback(7)])
        self.assertEqual([kind for _, kind in self.failures], ["loop"])

    def test_what_an_answer_sets_free_is_no_loop(self) -> None:
        first: list[Deferred[Any]] = []

        def handle(message: Publish, client: object) -> Any:
            if message.topic == "t/1":
                first.append(Deferred())
                return first[0]
            return None

        client = self.begin(of("t/+", handle), max_unfinished=1)
        client.publish("t/1", b"", 1, 1)
        client.publish("t/2", b"", 1, 2)
        self.assertTrue(client.held)
        first[0].callback(None)
        self.assertEqual((self.received(client), self.failures), ([Puback(1), Puback(2)], {}))

    def test_what_cannot_be_published_is_the_handlers_failure(self) -> None:
        def table(publish: Any) -> Mapping[str, Handle]:
            return {
                "topic": lambda message, client: publish("a/#", b""),
                "payload": lambda message, client: publish("a", "text"),
                "tab": lambda message, client: publish("a\tb", b"", retain=True),
                "long": lambda message, client: publish("a" * 65_536, b"", retain=True),
                "text": lambda message, client: publish("\ud800", b"", retain=True),
            }

        client = self.begin(table)
        wanted = {
            "topic": "a wildcard in Topic Name 'a/#'",
            "payload": "a payload is bytes, this one is str",
            "tab": "U+0009 in Topic Name",
            "long": "a Topic Name of 65536 bytes, 65535 are possible",
            "text": "surrogates not allowed",
        }
        for topic, reason in wanted.items():
            client.publish(topic, b"", 1, 1)
            self.assertEqual(self.received(client), [Puback(1)])
            self.assertIn(reason, self.reasons()[-1])
        self.assertEqual(len(self.harness.broker.retained), 0)
        self.flushLoggedErrors()


class Tools(HandlerCase):
    def test_a_function_gets_clock_publish_and_a_hook_for_the_end(self) -> None:
        def table(publish: Any, clock: Any, on_stop: Any) -> Mapping[str, Handle]:
            call = clock.callLater(60, publish, "tick", b"1", retain=True)
            on_stop(lambda: publish("end", b"", retain=False))

            async def end() -> None:
                await succeed(None)
                call.active() and call.cancel()

            on_stop(end)
            on_stop(lambda: 1 / 0)
            return {}

        client = self.begin(table)
        client.subscribe("#")
        self.harness.advance(61)
        self.assertEqual(self.received(client), [Publish("tick", b"1")])
        self.assertEqual(len(self.harness.broker.retained), 1)
        self.successResultOf(self.harness.stop())
        self.assertEqual(self.received(client), [Publish("end", b"")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.told("its function for the end: division by zero"), 1)

    def test_no_time_is_up_after_the_end(self) -> None:
        client = self.begin(of("t", never))
        client.publish("t", b"x", 1, 7)
        self.successResultOf(self.harness.stop())
        self.harness.advance(60)
        self.assertEqual((self.received(client), self.failures), ([], {}))

    def test_handlers_may_be_coroutines_and_generators(self) -> None:
        async def slowly(message: Publish, client: object) -> Report:
            await deferLater(self.harness.clock, 5)
            return made(message.topic)

        client = self.begin(of("a", slowly), of("b", inlineCallbacks(_generated)))
        client.publish("a", b"x", 1, 7)
        client.publish("b", b"x", 1, 8)
        self.assertEqual(self.received(client), [])
        self.harness.advance(6)
        self.assertEqual(self.received(client), [Puback(7), Puback(8)])
        self.assertEqual({report.agent.uuid for report in self.harness.reports.reports}, {"a", "b"})

    def test_what_is_recorded_later_is_waited_for_until_the_handler_has_finished(self) -> None:
        def table(publish: object, record: Any) -> Mapping[str, Handle]:
            async def handle(message: Publish, client: Any) -> None:
                await deferLater(self.harness.clock, 1)
                record(message, client, made())

            return {"t": handle}

        client = self.begin(table)
        self.harness.reports.hold()
        client.publish("t", b"x", 1, 7)
        self.harness.advance(2)
        self.assertEqual(self.received(client), [])
        self.harness.reports.resume()
        self.assertEqual(self.received(client), [Puback(7)])

    def test_a_table_that_is_async_itself_is_refused(self) -> None:
        async def table(publish: object) -> Mapping[str, Handle]:
            return {}

        error = self.assertRaises(TypeError, self.begin, table)
        self.assertIn("it has to return the table itself", str(error))


def _generated(message: Publish, client: object) -> Any:
    yield succeed(None)
    return made(message.topic)


class RefusingTests(HandlerCase):
    """A handler that says no: MQTT 5 is told, 3.1.1 gets its acknowledgement, nothing is kept."""

    NAME = "tests.agents.test_tables:table"

    def ask(self, handle: Handle, qos: int = 1) -> list[tuple[int, str | None]]:
        """What a publisher of MQTT 5 is told; one of 3.1.1 is acknowledged."""
        older = self.begin(of("t", handle))
        older.publish("t", b"x", qos, 7)
        self.assertEqual((self.received(older), older.closed), ([(Pubrec if qos == 2 else Puback)(7)], False))
        self.begin(of("t", handle))
        client = self.harness.connect("five", protocol_level=5)
        client.publish("t", b"x", qos, 7)
        told = []
        for packet in self.received(client):
            assert isinstance(packet, Puback | Pubrec)
            text = packet.properties.reason_string if packet.properties is not None else None
            told.append((packet.reason_code, text))
        self.assertFalse(client.closed)
        return told

    def test_a_handler_refuses_by_what_it_returns_raises_or_fires_or_fails_with(self) -> None:
        refused = Refused(Reason.QUOTA, "enough for today")

        def throws(message: Publish, client: object) -> None:
            raise refused

        async def later(message: Publish, client: object) -> None:
            raise refused

        ways: list[Handle] = [lambda *_: refused, throws, later]
        ways += [lambda *_: succeed(refused), lambda *_: fail(refused)]
        for handle in ways:
            for qos in (1, 2):
                self.assertEqual(self.ask(handle, qos), [(0x97, "enough for today")])
                self.assertEqual(self.reasons(), [])
                self.assertEqual(self.failures, {(self.NAME, "refused"): 1})
                self.assertEqual(self.told("has refused a message of 127.0.0.1:"), 1)

    def test_each_reason_has_its_code(self) -> None:
        codes = {
            Reason.PAYLOAD_INVALID: 0x99,
            Reason.NOT_AUTHORIZED: 0x87,
            Reason.QUOTA: 0x97,
            Reason.NOT_HANDLED: 0x80,
            Reason.KEEP_ALIVE: 0x80,
        }
        for reason, code in codes.items():
            refused = Refused(reason, "why")
            self.assertEqual(self.ask(lambda *_, refused=refused: refused), [(code, "why")])

    def test_what_cannot_be_recorded_is_refused_with_the_reason_that_is_kept(self) -> None:
        def throws(message: Publish, client: object) -> None:
            raise InvalidReport("syntax", "no number")

        self.assertEqual(self.ask(throws), [(0x99, "no number")])
        self.assertEqual(self.reasons(), ["no number"])
        wrong = Report(Agent("a", "", "a", "", 0), [Metric("m", "x" * 5000)])
        [(code, text)] = self.ask(lambda *_: wrong)
        self.assertEqual((code, [text]), (0x99, self.reasons()))

    def test_record_says_that_nothing_could_be_stored_and_so_is_the_publisher_told(self) -> None:
        wrong = Report(Agent("a", "", "a", "", 0), [Metric("m", "x" * 5000)])
        answers: list[object] = []

        def noted(found: object) -> object:
            answers.append(found)
            return found

        def careless(publish: object, record: Any) -> Mapping[str, Handle]:
            def handle(message: Publish, client: object) -> None:
                record(message, client, wrong).addCallback(noted)

            return {"t": handle}

        def careful(publish: object, record: Any) -> Mapping[str, Handle]:
            return {"t": lambda message, client: record(message, client, wrong).addCallback(noted)}

        for table in (careless, careful):
            answers.clear()
            self.begin(table)
            client = self.harness.connect("five", protocol_level=5)
            client.publish("t", b"x", 1, 7)
            [puback] = self.received(client)
            assert isinstance(puback, Puback)
            self.assertEqual(puback.reason_code, 0x99)
            [refused] = answers
            self.assertEqual([str(refused)], self.reasons())
            self.assertEqual(self.failures, {})

    def test_one_that_refuses_is_enough(self) -> None:
        self.begin(of("t", lambda *_: made()), of("+", lambda *_: Refused(Reason.QUOTA, "full")))
        client = self.harness.connect("five", protocol_level=5)
        client.publish("t", b"x", 1, 7)
        [puback] = self.received(client)
        assert isinstance(puback, Puback)
        self.assertEqual(puback.reason_code, 0x97)
        self.assertEqual(len(self.harness.reports.reports), 1)

    def test_a_copy_of_a_message_that_is_refused_is_refused_too(self) -> None:
        waits: list[Deferred[Any]] = []

        def handle(message: Publish, client: object) -> "Deferred[Any]":
            waits.append(Deferred())
            return waits[-1]

        self.begin(of("t", handle))
        properties = Properties(session_expiry_interval=60)
        more: dict[str, Any] = {"protocol_level": 5, "properties": properties, "clean_session": False}
        first = self.harness.connect("five", **more)
        first.publish("t", b"x", 1, 7)
        second = self.harness.connect("five", **more)
        second.publish("t", b"x", 1, 7, dup=True)
        waits[0].callback(Refused(Reason.QUOTA, "full"))
        [puback] = self.received(second)
        assert isinstance(puback, Puback)
        self.assertEqual((len(waits), puback.reason_code), (1, 0x97))
