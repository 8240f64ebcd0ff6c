"""Rows 104, 112: clients that come and go while the database is away fill no memory."""

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.recorder import Recorder
from platziverse.broker.limits import Limits
from platziverse.ingest.batch import Batch, Outcome
from platziverse.ingest.reports import KINDS
from platziverse.ingest.writer import BatchWriter
from platziverse.mqtt.packets import Connack, Connect, ConnectReturnCode, Disconnect, Publish
from platziverse.testing import BrokerHarness, FakeClient
from tests.agents.doubles import NOW, of_agent

TOTAL = 100
RECONNECTS = 1000


class AwayStore:
    """No batch is committed before the database is back."""

    slots = 2

    def __init__(self) -> None:
        self.away = True
        self._batches: list[tuple[Batch, Deferred[None]]] = []

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        answer: Deferred[None] = Deferred()
        self._batches.append((batch, answer))
        if not self.away:
            self.come_back()
            return succeed(None)
        return answer

    def come_back(self) -> None:
        self.away = False
        batches, self._batches = self._batches, []
        for batch, answer in batches:
            messages = sum(type(entry).__name__ in ("Report", "Rejection") for entry in batch.entries)
            batch.committed(Outcome(messages))
            answer.callback(None)


class Outage(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, **limits: Any) -> None:
        self.store = AwayStore()
        harness: BrokerHarness
        self.recorder = Recorder(
            writer := BatchWriter(self.store, clock := _LateClock(), KINDS),
            lambda topic, payload: harness.broker.announce(topic, payload),
            lambda: NOW,
        )
        given = {"max_unfinished_total": TOTAL, "max_connects_per_minute": 1_000_000, **limits}
        harness = BrokerHarness(
            AgentHandlers(self.recorder).table,
            Limits(**given),
            observers=[self.recorder],
            store=writer,
        )
        clock.clock = harness.clock
        self.harness, self.writer = harness, writer
        self.traffic = harness.broker.traffic
        self.most = 0
        self.accepted = 0

    def connect(self, name: str, **fields: Any) -> FakeClient | None:
        client = self.harness.connect(name, **fields)
        self.most = max(self.most, self.writer.waiting)
        connack = client.connack[0]
        assert isinstance(connack, Connack)
        if connack.return_code is ConnectReturnCode.ACCEPTED:
            self.accepted += 1
            return client
        self.assertEqual(connack.return_code, ConnectReturnCode.SERVER_UNAVAILABLE)
        return None

    def leave(self, client: FakeClient) -> None:
        client.lose()
        self.harness.turn()
        self.most = max(self.most, self.writer.waiting)

    def comes_back(self) -> None:
        self.store.come_back()
        for _ in range(20):
            self.harness.turn()
        self.assertEqual((self.writer.waiting, self.writer.departures), (0, 0))
        flow, wills = self.harness.shared.flow, self.harness.broker.clients.farewells.unfinished
        self.assertEqual((flow.unfinished, flow.unfinished_bytes), (0, 0))
        self.assertEqual((wills.count, wills.bytes), (0, 0))
        self.assertIsNotNone(self.connect("afterwards"))
        self.assertEqual(self.traffic.internal_errors, 0)


class _LateClock:
    """The clock of a harness that is made afterwards."""

    clock: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clock, name)


class ReconnectStorm(Outage):
    """Each connection reports three times, with what may wait full after the first, and is cut off."""

    def storm(self, qos: int, agent: str = "one", **fields: Any) -> None:
        for number in count(1):
            if number > RECONNECTS:
                return
            client = self.connect("client", **fields)
            if client is not None:
                payload = of_agent(agent.format(number))
                for packet_id in (1, 2, 3):
                    client.publish("agent/message", payload, qos, packet_id if qos else None)
                self.leave(client)

    def test_a_thousand_reconnects_of_one_agent_wait_as_a_few_hundred_entries(self) -> None:
        self.storm(1)
        self.assertLessEqual(self.most, 2 * TOTAL + 2 * TOTAL + 2)  # each report with a Departure at most
        self.assertLess(self.accepted, 2 * TOTAL)
        self.comes_back()

    def test_it_makes_no_difference_whose_reports_they_are(self) -> None:
        self.storm(1, "agent-{}")
        self.assertLessEqual(self.most, 2 * TOTAL + 2 * TOTAL + 2)
        self.comes_back()

    def test_what_is_dropped_at_qos_0_is_counted(self) -> None:
        self.storm(0)
        self.assertLessEqual(self.most, 2 * TOTAL + 2 * TOTAL + 2)
        self.comes_back()
        sent = 3 * (self.accepted - 1)
        self.assertEqual(self.writer.received + self.traffic.leftovers_dropped, sent)
        self.assertGreater(self.traffic.leftovers_dropped, 0)

    def test_large_wills_count_too(self) -> None:
        """By their bytes, long before there are many of them."""
        self.start(max_unfinished_bytes=100_000)
        will = Publish("agent/message", of_agent("one") + b" " * 20_000, 1)
        for _ in range(RECONNECTS):
            if (client := self.connect("client", will=will)) is not None:
                self.leave(client)
        self.assertLessEqual(self.accepted, 11)
        self.comes_back()

    def test_so_do_the_sessions_that_each_of_them_ends(self) -> None:
        for number in range(RECONNECTS):
            if (client := self.connect(f"client-{number // 2}", clean_session=bool(number % 2))) is not None:
                self.leave(client)
        self.assertLessEqual(self.most, 2 * TOTAL + 1)
        self.comes_back()


class Leftovers(Outage):
    def test_those_of_qos_1_and_2_are_not_taken_while_all_is_full_and_come_again(self) -> None:
        self.start(max_unfinished_total=1)
        report = Publish("agent/message", of_agent("one"), 1, packet_id=1)
        client = self.connect("client", clean_session=False)
        assert client is not None
        client.send(report, Publish("agent/message", of_agent("two"), 1, packet_id=2))
        self.leave(client)
        self.assertEqual(self.writer.received, 1)
        self.comes_back()
        client = self.connect("client", clean_session=False)
        assert client is not None
        client.send(Publish("agent/message", of_agent("two"), 1, packet_id=2, dup=True))
        self.harness.turn()
        self.assertEqual((self.writer.stored, self.traffic.leftovers_dropped), (2, 0))

    def test_a_disconnect_among_them_still_discards_the_will(self) -> None:
        """[MQTT-3.1.2-10]"""
        self.start(max_unfinished_total=1)
        watcher = self.connect("watcher")
        client = self.connect("client", will=Publish("will", b"x", 0))
        assert watcher is not None
        assert client is not None
        watcher.subscribe("will")
        client.send(Publish("agent/message", of_agent("one"), 0), Publish("other", b"", 0), Disconnect())
        self.leave(client)
        self.assertEqual((watcher.received(), self.traffic.leftovers_dropped), ([], 1))

    def test_whoever_is_connected_stays_while_nobody_new_is_let_in(self) -> None:
        self.start(max_unfinished_total=1)
        talker = self.connect("talker")
        assert talker is not None
        talker.subscribe("chat")
        for name in ("a", "b"):
            client = self.connect(name)
            assert client is not None
            client.publish("agent/message", of_agent(name))
        newcomer = self.harness.open()
        newcomer.send(Connect("newcomer"))
        self.assertEqual(newcomer.received(), [Connack(False, ConnectReturnCode.SERVER_UNAVAILABLE)])
        talker.publish("chat", b"on")
        self.assertEqual(talker.received(), [Publish("chat", b"on", 0)])
