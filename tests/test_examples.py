"""The examples of handlers."""

import json
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Metric
from platziverse.broker.interfaces import Client
from platziverse.mqtt.packets import Puback, Publish
from platziverse.testing import MemoryStore, recording_harness

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import alerts
import devices


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


class DeviceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.harness = recording_harness(devices.table, store=self.store, wall_clock=1_795_478_400.0)
        self.client = self.harness.connect(username="ana")

    def test_an_alarm_that_is_retained_is_refused(self) -> None:
        client = self.harness.connect("five", protocol_level=5)
        client.publish("alarms/hall/raise", b'{"smoke": 1}', qos=1, packet_id=1, retain=True)
        [puback] = client.received()
        assert isinstance(puback, Puback)
        assert puback.properties is not None
        self.assertEqual(
            (puback.reason_code, puback.properties.reason_string), (0x87, "an alarm is not retained")
        )

    def send(self, topic: str, payload: bytes) -> list[object]:
        self.client.publish(topic, payload, qos=1, packet_id=1)
        self.harness.turn()
        return list(self.client.received())

    def test_a_reading_is_acknowledged_when_it_is_committed(self) -> None:
        self.store.hold()
        self.assertEqual(
            self.send("sensors/kitchen", b'{"temp": 21.5, "door": "open", "at": 1795478399}'), []
        )
        self.store.resume()
        self.harness.turn()
        self.assertEqual(self.client.received(), [Puback(1)])
        (report,) = self.store.reports
        self.assertEqual((report.agent.uuid, report.agent.username), ("sensor:kitchen", "ana"))
        self.assertEqual((report.metrics, report.measured), ([Metric("temp", "21.5")], 1_795_478_399.0))

    def test_what_is_no_reading_is_kept_and_acknowledged(self) -> None:
        for payload in b"Hello", b"5", b"[1]":
            self.assertEqual(self.send("sensors/kitchen", payload), [Puback(1)])
        reasons = {rejection.reason for rejection in self.store.rejections}
        self.assertEqual((len(self.store.rejections), reasons), (3, {"the payload is no JSON object"}))

    def test_an_alarm_is_told_after_it_is_committed(self) -> None:
        watcher = self.harness.connect("watcher")
        watcher.subscribe("alarms")
        self.store.hold()
        self.send("alarms/cellar/raise", b'{"water": 3}')
        self.assertEqual(watcher.received(), [])
        self.store.resume()
        self.harness.turn()
        self.assertEqual(watcher.received(), [Publish("alarms", b'{"water": 3}')])
