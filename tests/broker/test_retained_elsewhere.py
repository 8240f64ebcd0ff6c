"""What a broker owes to other daemons of a message with RETAIN: no less than to its own Sessions."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER, Answer
from platziverse.broker.records import Kept, Queued
from platziverse.broker.retained import RetainedMessages
from platziverse.broker.retaining import DurableRetained
from platziverse.mqtt.packets import Publish
from platziverse.testing import BrokerHarness, MemorySessionStore
from tests.broker.durability import payloads
from tests.broker.test_owed_elsewhere import Link, Restricted

KEPT = Publish("a", b"x", 2, retain=True)


class RetainedElsewhere(SynchronousTestCase):
    def setUp(self) -> None:
        self.store, self.link = MemorySessionStore(), Link()
        self.harness = BrokerHarness(sessions=self.store)

    def route(self) -> Answer:
        """Hand on a message to those who have subscribed, and to the link; let its grace pass."""
        broker = self.harness.broker
        receivers = broker.subscriptions.match("a")
        answer = broker.router.route_retained(KEPT, receivers, SERVER, [(self.link, 2)])
        self.harness.clock.pump([0.01, 0, 0, 0.01, 0, 0])
        return answer

    def queued(self) -> list[tuple[bool, list[tuple[int, int]]]]:
        """RETAIN of what was saved, and number and QoS of each of its rows."""
        return [
            (record.retain, [(number, qos) for number, (_, qos) in record.rows.items()])
            for record in self.store.records
            if isinstance(record, Queued)
        ]

    def test_a_link_is_owed_it_in_one_record_with_our_sessions(self) -> None:
        self.harness.connect("client", clean_session=False).subscribe("a", 1)
        answer = self.route()
        assert answer is not None
        self.successResultOf(answer)
        self.assertEqual(self.queued(), [(False, [(self.link.number, 2), (1, 1)])])
        self.assertEqual(self.link.stored, [1])

    def test_it_is_answered_when_the_row_of_the_link_is_committed(self) -> None:
        client = self.harness.connect("client")
        client.subscribe("a", 2)
        self.store.hold()
        answer = self.route()
        assert answer is not None
        self.assertEqual(payloads(client.received()), [b"x"])
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)

    def test_a_bridge_gets_it_beside_the_link_as_it_was_published(self) -> None:
        bridge = self.harness.connect("edge", bridge=True)
        bridge.subscribe("a", 1)
        self.store.hold()
        answer = self.route()
        assert answer is not None
        self.assertEqual(bridge.received(), [Publish("a", b"x", 1, retain=True, packet_id=1)])
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)
        self.assertEqual(self.queued(), [(False, [(self.link.number, 2)])])

    def test_a_link_and_a_bridge_with_a_durable_session_are_both_waited_for(self) -> None:
        self.harness.connect("edge", bridge=True, clean_session=False).subscribe("a", 1)
        self.store.hold()
        answer = self.route()
        assert answer is not None
        self.store.commit(1)
        self.assertNoResult(answer)
        self.store.resume()
        self.successResultOf(answer)
        self.assertEqual(self.queued(), [(False, [(self.link.number, 2)]), (True, [(1, 1)])])

    def test_rules_leave_out_our_sessions_and_not_the_link(self) -> None:
        self.harness = BrokerHarness(sessions=self.store, authority=Restricted())
        client = self.harness.connect("client", clean_session=False)
        client.subscribe("a", 1)
        answer = self.route()
        assert answer is not None
        self.successResultOf(answer)
        self.assertEqual(client.received(), [])
        self.assertEqual(self.queued(), [(False, [(self.link.number, 2)])])

    def test_one_that_others_have_replaced_is_not_restored(self) -> None:
        retained = DurableRetained(RetainedMessages(10, 1000), self.store)
        retained.is_newer = lambda topic, version: version > 4
        for version in (5, 4):
            retained.restore(Kept(f"v{version}", b"x", 0, "c", None, version))
        self.assertEqual([message.topic for message in retained.match("#")], ["v5"])
