"""The example of a handler."""

import json
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.mqtt.packets import Publish

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import alerts


class AlertTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.published: list[tuple[str, Any]] = []
        rows = alerts.table(lambda topic, payload: self.published.append((topic, json.loads(payload))))
        self.handler = rows["agent/message"]

    def send(self, payload: object) -> None:
        self.assertIsNone(
            self.handler(Publish("agent/message", json.dumps(payload).encode(), 1), Client("c", 1))
        )

    def test_a_metric_above_its_threshold_is_an_alert(self) -> None:
        metrics = [
            {"type": "temp", "value": "33"},
            {"type": "memory", "value": 1001},
            {"type": "x", "value": 9e9},
        ]
        self.send({"agent": {"uuid": "yyy"}, "metrics": metrics})
        self.assertEqual(self.published, [("alert/yyy", {"type": "temp", "value": 33.0, "above": 30.0})])

    def test_what_is_no_report_is_no_alert(self) -> None:
        payloads: list[object] = ["Hello", {}, 5, []]
        payloads += [{"agent": {}, "metrics": 3}, {"agent": {"uuid": "#"}, "metrics": []}]
        for payload in payloads:
            self.send(payload)
        self.assertEqual(self.published, [])

    def test_a_uuid_that_is_no_topic_level_is_no_alert(self) -> None:
        self.send({"agent": {"uuid": "a/#"}, "metrics": [{"type": "temp", "value": 99}]})
        self.assertEqual(self.published, [])
