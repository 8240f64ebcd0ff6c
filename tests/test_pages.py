"""docs/handlers.rst and docs/messages.rst: what they say is what happens."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Puback, Publish
from platziverse.testing import BrokerHarness
from tests.pages import blocks, literal, table

NOON = datetime(2026, 11, 28, 12, tzinfo=timezone.utc).timestamp()
AGENT = '"agent": {"uuid": "yyy", "username": "", "name": "", "hostname": "", "pid": 1}'


class HandlersPage(SynchronousTestCase):
    def test_its_examples_work(self) -> None:
        names: dict[str, Any] = {"__name__": "greenhouse"}
        for block in blocks("handlers.rst"):
            exec(compile(block, "docs/handlers.rst", "exec"), names)
        tests = [name for name in names if name.startswith("test_")]
        self.assertEqual(len(tests), 4)
        for name in tests:
            names[name]()

    def test_its_limits_are_those_of_the_settings(self) -> None:
        limits = Limits()
        self.assertEqual(
            (limits.handler_deadline, limits.handler_room * 4), (30, limits.max_unfinished_total)
        )


class MessagesPage(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness(handlers=[lambda publish: {}], wall_clock=NOON)
        self.client = self.harness.connect()
        self.store = self.harness.reports

    def send(self, payload: str) -> None:
        self.client.publish("agent/message", payload.encode(), qos=1, packet_id=1)
        self.harness.turn()
        self.assertEqual(self.client.received(), [Puback(1)])

    def message(self, value: str = '"1"', more: str = "") -> str:
        return f'{{{AGENT}, "metrics": [{{"type": "m", "value": {value}}}]{more}}}'

    def test_its_example_is_stored_as_it_says(self) -> None:
        (example,) = blocks("messages.rst", "json")
        self.send(example)
        (report,) = self.store.reports
        self.assertEqual(
            [(one.type, one.value) for one in report.metrics], [("memory", "1001"), ("temp", "33")]
        )
        self.assertEqual(report.measured, NOON)

    def test_values_are_kept_as_the_table_says(self) -> None:
        for given, kept in table("messages.rst", "values"):
            reports, rejected = len(self.store.reports), len(self.store.rejections)
            self.send(self.message(literal(given)))
            if kept.startswith("rejected"):
                self.assertEqual(self.store.rejections[rejected:][0].reason, literal(kept))
            else:
                (report,) = self.store.reports[reports:]
                self.assertEqual(report.metrics[0].value, literal(kept), given)

    def test_a_bad_metric_costs_itself_alone(self) -> None:
        self.send(f'{{{AGENT}, "metrics": [{{"type": "a", "value": NaN}}, {{"type": "b", "value": 2}}]}}')
        (report,) = self.store.reports
        self.assertEqual([one.type for one in report.metrics], ["b"])
        self.assertIn("no number: NaN", report.rejections[0].reason)

    def test_timestamps_mean_what_the_table_says(self) -> None:
        for given, meaning in table("messages.rst", "timestamps"):
            before = self.harness.recorder.times_adjusted
            self.send(self.message(more=f', "timestamp": {literal(given)}'))
            report = self.store.reports[-1]
            counted = self.harness.recorder.times_adjusted - before
            if meaning.startswith("arrival"):
                self.assertIn(report.measured, (None, report.arrived))
                self.assertEqual((report.key, counted), (None, int("counted" in meaning)), given)
            else:
                moment = datetime.fromisoformat(literal(meaning)).replace(tzinfo=timezone.utc).timestamp()
                self.assertEqual((report.measured, counted), (moment, 0), given)
                self.assertIsNotNone(report.key)
        converted = self.harness.recorder.times_converted
        self.assertEqual(set(converted), {"s", "us", "ns", "text"})

    def test_a_message_with_a_timestamp_that_comes_again_is_stored_once(self) -> None:
        self.send(self.message(more=f', "timestamp": {NOON}'))
        self.send(self.message(more=f', "timestamp": {NOON}'))
        self.assertEqual((self.store.stored, self.store.duplicates), (1, 1))

    def test_what_is_rejected_has_the_reason_of_the_table(self) -> None:
        rows = table("messages.rst", "rejected")
        for payload, _ in rows:
            self.send(literal(payload))
        reasons = [rejection.reason for rejection in self.store.rejections]
        self.assertEqual(reasons, [literal(reason) for _, reason in rows])
        self.assertEqual(self.store.reports, [])

    def test_the_ranges_of_the_fields_are_exact(self) -> None:
        """Of each row the smallest and largest that is taken, and one that is not."""
        rows = {literal(row[0]): row for row in table("messages.rst", "")}
        self.assertEqual(set(rows) - set(EDGES), set())
        for field, edges in EDGES.items():
            for value, taken in edges:
                message = json.loads(self.message())
                put(message, field, value)
                before = len(self.store.reports)
                self.send(json.dumps(message))
                self.assertEqual(len(self.store.reports) - before, int(taken), f"{field}: {str(value)[:40]}")

    def test_its_numbers_are_those_of_the_settings(self) -> None:
        limits = AgentLimits()
        numbers = limits.max_payload, limits.max_metrics, limits.max_agents, limits.max_types
        self.assertEqual(numbers, (65_536, 1000, 10_000, 1000))

    def test_subscribers_see_what_it_says(self) -> None:
        (text,) = blocks("messages.rst", "text")
        (example,) = blocks("messages.rst", "json")
        watcher = self.harness.connect("watcher")
        watcher.subscribe("agent/+")
        self.send(example)
        self.client.lose()
        seen = {one.topic: one.payload.decode() for one in watcher.received() if isinstance(one, Publish)}
        self.assertEqual(seen.pop("agent/message"), example)
        self.assertEqual([f"{topic} {payload}" for topic, payload in seen.items()], text.splitlines())

    def test_an_announcement_of_a_client_is_not_taken(self) -> None:
        watcher = self.harness.connect("watcher")
        watcher.subscribe("agent/+")
        self.client.publish("agent/connected", b"{}")
        self.assertEqual(watcher.received(), [])


def texts(least: int) -> "Iterator[tuple[object, bool]]":
    yield from [("x" * least, True), ("ñ" * 255, True), ("x" * 256, False), (5, False), ("a\0", False)]
    if least:
        yield "", False


#: Field → values, and whether they are taken.
EDGES: dict[str, list[tuple[object, bool]]] = {
    "agent.uuid": list(texts(1)),
    "agent.username": list(texts(0)),
    "agent.name": list(texts(0)),
    "agent.hostname": list(texts(0)),
    "agent.pid": [(0, True), (2**31 - 1, True), (-1, False), (2**31, False), ("1", False), (1.5, False)],
    "metrics": [
        ([], True),
        ([{"type": "m", "value": 1}] * 1000, True),
        ([{"type": "m", "value": 1}] * 1001, False),
        (None, False),
    ],
    "metrics[].type": list(texts(1)),
    "metrics[].value": [("x" * 4096, True), ("x" * 4097, False), ("ñ" * 2049, False), ("a\0", False)],
    "timestamp": [(1, True), ({}, True)],
}


def put(message: Any, field: str, value: object) -> None:
    """Set a field of a message by its path."""
    room, _, name = field.rpartition(".")
    for step in room.split("."):
        message = message["metrics"][0] if step == "metrics[]" else message[step] if step else message
    message[name] = value
