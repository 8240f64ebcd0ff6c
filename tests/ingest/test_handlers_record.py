"""A handler that records, on a real PostgreSQL."""

from collections.abc import Generator, Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.agents.model import Agent, Metric, Report
from platziverse.mqtt.packets import Puback
from platziverse.testing import FakeClient, recording_harness
from tests.ingest.entries import NOW
from tests.ingest.test_store import StoreCase
from tests.servers import holding

Steps = Generator["Deferred[Any]", Any, None]


def table(publish: object) -> Mapping[str, Any]:
    """Every device is an agent, its payload a metric."""

    def device(message: Any, client: object) -> Report:
        name = message.topic
        return Report(Agent(name, "", name, "", 0), [Metric("m", message.payload.decode())], measured=NOW)

    return {"devices/#": device}


class HandlersRecord(StoreCase):
    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        yield super().setUp()
        self.harness = recording_harness(table, store=self.writer, wall_clock=NOW)

    @inlineCallbacks
    def answers(self, client: FakeClient, count: int) -> "Generator[Deferred[Any], Any, list[object]]":
        """What the client receives until there is as much; the time limit is that of the test."""
        got: list[object] = []
        while len(got) < count:
            yield deferLater(reactor, 0.01)
            self.harness.turn()
            got += client.received()
        return got

    @inlineCallbacks
    def test_puback_waits_for_the_commit(self) -> Steps:
        client = self.harness.connect()
        with holding(self.dsn, "LOCK TABLE metrics"):
            client.publish("devices/a", b"1", 1, 7)
            yield deferLater(reactor, 0.2)
            self.harness.turn()
            self.assertEqual(client.received(), [])
        answers = yield self.answers(client, 1)
        self.assertEqual(answers, [Puback(7)])
        self.assertEqual(self.execute("SELECT uuid, connected FROM agents"), [("devices/a", True)])

    @inlineCallbacks
    def test_equal_bytes_of_two_devices_are_stored_twice_and_a_repetition_once(self) -> Steps:
        client = self.harness.connect()
        for packet_id, topic in enumerate(("devices/a", "devices/b", "devices/a"), 1):
            client.publish(topic, b"21.5", 1, packet_id)
        yield self.answers(client, 3)
        rows = 'SELECT uuid, value, number FROM metrics JOIN agents ON agents.id = "agentId" ORDER BY uuid'
        self.assertEqual(self.execute(rows), [("devices/a", "21.5", 21.5), ("devices/b", "21.5", 21.5)])
        self.assertEqual((self.writer.stored, self.writer.duplicates), (2, 1))
