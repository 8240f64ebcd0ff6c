"""The database goes away for a while: who is served, who is held, and that nothing is missing afterwards."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
)
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, MemoryStore
from tests.agents.doubles import COURSE
from tests.broker.durability import payloads


class Away(SynchronousTestCase):
    """Row 325: the database goes away while clients are connected."""

    def setUp(self) -> None:
        self.store, self.reports = MemorySessionStore(), MemoryStore()
        self.harness = BrokerHarness(
            limits=Limits(max_unfinished=10), sessions=self.store, reports=self.reports
        )
        self.sender = self.harness.connect("sender")

    def durable(self, name: str, topic: str = "t", qos: int = 1) -> FakeClient:
        client = self.harness.connect(name, clean_session=False)
        client.subscribe(topic, qos)
        return client

    def leave(self) -> None:
        self.store.hold(reads=True)
        self.reports.hold()

    def come_back(self) -> None:
        self.store.resume()
        self.reports.resume()
        self.harness.advance(1)

    def publish(self, qos: int = 1, **more: Any) -> None:
        self.sender.publish("t", b"x", qos, 7 if qos else None, **more)

    def test_clean_sessions_go_on_at_every_qos(self) -> None:
        receiver = self.harness.connect("clean")
        receiver.subscribe("t", 2)
        self.leave()
        for qos in (0, 1, 2):
            self.publish(qos)
        self.assertEqual(
            [packet.qos for packet in receiver.received() if isinstance(packet, Publish)], [0, 1, 2]
        )
        self.assertEqual(self.sender.received(), [Puback(7), Pubrec(7)])
        self.sender.send(Pubrel(7))
        self.assertEqual(self.sender.received(), [Pubcomp(7)])
        self.assertEqual(
            self.harness.connect("newcomer").connack, [Connack(False, ConnectReturnCode.ACCEPTED)]
        )

    def test_a_durable_session_that_is_connected_and_quick_goes_on(self) -> None:
        receiver = self.durable("receiver")
        self.leave()
        self.publish()
        receiver.send(Puback(1))
        self.assertEqual(self.sender.received(), [Puback(7)])

    def test_one_that_is_slow_gets_the_message_and_holds_its_puback(self) -> None:
        receiver = self.durable("receiver")
        self.leave()
        self.publish()
        self.harness.advance(1)
        self.assertEqual(receiver.received(), [Publish("t", b"x", 1, packet_id=1)])
        self.assertEqual(self.sender.received(), [])
        self.come_back()
        self.assertEqual(self.sender.received(), [Puback(7)])

    def test_one_that_is_absent_holds_the_puback_and_gets_the_message_later(self) -> None:
        self.durable("receiver").lose()
        self.leave()
        self.publish()
        self.harness.advance(1)
        self.assertEqual(self.sender.received(), [])
        again = self.harness.connect("receiver", clean_session=False)
        self.assertEqual(again.connack[0], Connack(True, ConnectReturnCode.ACCEPTED))
        self.come_back()
        self.assertEqual(self.sender.received(), [Puback(7)])
        packets = [*again.connack[1:], *again.received()]
        self.assertEqual(payloads(packets), [b"x"])

    def test_whoever_publishes_to_it_is_held(self) -> None:
        self.durable("receiver").lose()
        self.leave()
        for number in range(1, 31):
            self.sender.publish("t", b"x", 1, number)
        self.assertEqual(self.harness.shared.flow.unfinished, 10)
        self.come_back()
        self.assertEqual(self.sender.received(), [Puback(number) for number in range(1, 31)])

    def test_qos_2_is_sent_and_acknowledged_when_it_is_committed(self) -> None:
        receiver = self.durable("receiver", qos=2)
        self.leave()
        self.publish(2)
        self.assertEqual((receiver.received(), self.sender.received()), ([], []))
        self.come_back()
        self.assertEqual(receiver.received(), [Publish("t", b"x", 2, packet_id=1)])
        self.assertEqual(self.sender.received(), [Pubrec(7)])

    def test_a_retained_message_is_delivered_and_holds_its_puback(self) -> None:
        receiver = self.harness.connect("clean")
        receiver.subscribe("t")
        self.leave()
        self.publish(retain=True)
        self.assertEqual((receiver.received(), self.sender.received()), ([Publish("t", b"x")], []))
        self.come_back()
        self.assertEqual(self.sender.received(), [Puback(7)])

    def test_subscribe_of_a_durable_session_is_held(self) -> None:
        client = self.durable("receiver")
        self.leave()
        client.send(Subscribe(8, [Subscription("u", 1)]))
        self.assertEqual(client.received(), [])
        self.come_back()
        self.assertEqual(client.received(), [Suback(8, [1])])

    def test_agents_are_held(self) -> None:
        self.leave()
        self.sender.publish("agent/message", COURSE, 1, 9)
        self.assertEqual(self.sender.received(), [])
        self.come_back()
        self.assertEqual(self.sender.received(), [Puback(9)])

    def test_a_kill_meanwhile_loses_nothing_that_was_acknowledged(self) -> None:
        self.durable("receiver").lose()
        self.publish()
        self.assertEqual(self.sender.received(), [Puback(7)])
        self.leave()
        self.publish()
        self.store.waiting.clear()
        self.store.resume()
        self.harness = BrokerHarness(sessions=self.store)
        again = self.harness.connect("receiver", clean_session=False)
        self.assertEqual(payloads(again.connack), [b"x"])


class Crowd(SynchronousTestCase):
    """Row 326: thousands of clients reconnect at once to Sessions with messages."""

    def test_everybody_gets_its_messages_and_nobody_gets_more_than_a_window_at_once(self) -> None:
        store = MemorySessionStore()
        harness = BrokerHarness(sessions=store)
        names = [f"client-{number}" for number in range(2_000)]
        for name in names:
            client = harness.connect(name, clean_session=False)
            client.subscribe("all", 1)
            client.lose()
        sender = harness.connect("sender")
        for number in range(1, 4):
            sender.publish("all", b"%d" % number, 1, number)
        self.assertEqual(sender.received(), [Puback(1), Puback(2), Puback(3)])
        harness = BrokerHarness(sessions=store)
        store.hold(reads=True)
        clients = [harness.connect(name, clean_session=False) for name in names]
        self.assertEqual(harness.shared.flow.unfinished, 0)
        store.resume()
        for client in clients:
            packets = [*client.connack, *client.received()]
            self.assertEqual(payloads(packets), [b"1", b"2", b"3"])
        self.assertEqual(store.reads["page"], 2_000)
