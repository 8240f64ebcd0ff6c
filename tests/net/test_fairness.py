"""A client that floods, lags or does not read costs the others nothing."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import (
    Disconnect,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Subscription,
)
from platziverse.testing import BrokerHarness
from tests.net.doubles import Store


class Fairness(SynchronousTestCase):
    def test_a_flood_in_one_segment_is_taken_in_turns(self) -> None:
        """row 6"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(*[Pingreq()] * 250)
        self.assertEqual(len(client.received()), 100)
        self.assertTrue(client.held)
        harness.turn()
        harness.turn()
        self.assertEqual(len(client.received()), 150)
        self.assertFalse(client.held)

    def test_acknowledgements_count_a_tenth_as_they_only_make_room(self) -> None:
        """Row 356: a receiver with a deep window is not late because it is read from a hundred at a time."""
        harness = BrokerHarness(limits=Limits(max_inflight=1000))
        client, publisher = harness.connect(), harness.connect("publisher")
        client.subscribe("t", 1)
        for first in range(1, 1001, 100):
            publisher.send(*(Publish("t", b"", 1, packet_id=number) for number in range(first, first + 100)))
        self.assertEqual(len(client.received()), 1000)
        client.send(*(Puback(number) for number in range(1, 601)))
        session = harness.broker.sessions.get("client")
        assert session is not None
        self.assertEqual((client.held, session.inflight), (False, 400))
        client.send(*(Puback(number % 1000 + 1) for number in range(2000)))
        self.assertTrue(client.held)
        self.assertLess(harness.broker.traffic.unknown_acknowledgements, 1000)

    def test_reading_is_held_while_the_store_lags_behind(self) -> None:
        """rows 60 and 112"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect()
        client.send(*(Publish("t", b"", 1, packet_id=number) for number in range(1, 11)))
        self.assertEqual((len(store.messages), client.held), (4, True))
        store.commit(0)
        self.assertTrue(client.held)
        store.commit(1)
        self.assertEqual(len(store.messages), 6)
        while len(store.messages) < 10 or harness.shared.flow.unfinished:
            store.commit()
        self.assertFalse(client.held)
        self.assertEqual([type(packet) for packet in client.received()], [Puback] * 10)

    def test_answers_that_wait_behind_one_that_is_not_stored_are_bounded(self) -> None:
        """row 112: a client that never takes a breath while the database is away"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        client.send(*(Publish("elsewhere", b"", 1, packet_id=number) for number in range(2, 20)))
        self.assertEqual((client.held, harness.broker.traffic.publish_received[1]), (True, 4))
        store.commit()
        self.assertFalse(client.held)
        self.assertEqual([type(packet) for packet in client.received()], [Puback] * 19)

    def test_messages_of_one_read_are_answered_up_to_the_one_whose_handler_breaks(self) -> None:
        def handler(message: Publish, client: Client) -> None:
            if message.payload == b"3":
                raise ZeroDivisionError

        harness = BrokerHarness({"t": handler})
        client, seen = harness.connect(), harness.connect("seen")
        seen.subscribe("t")
        client.send(*(Publish("t", b"%d" % number, 1, packet_id=number) for number in range(1, 6)))
        self.assertEqual((client.received(), client.closed), ([Puback(1), Puback(2)], True))
        self.assertEqual(len(seen.received()), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(harness.broker.traffic.publish_received, [0, 2, 0])

    def test_messages_of_one_read_are_answered_in_order_when_only_some_wait(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        topics = ("a", "b", "t", "a", "t", "b")
        client.send(*(Publish(topic, b"xy", 1, packet_id=n) for n, topic in enumerate(topics, 1)))
        self.assertEqual(client.received(), [Puback(1), Puback(2)])
        store.commit(0)
        self.assertEqual(client.received(), [Puback(3), Puback(4)])
        store.commit(1)
        self.assertEqual(client.received(), [Puback(5), Puback(6)])
        traffic = harness.broker.traffic
        self.assertEqual((traffic.publish_received, traffic.publish_bytes_received), ([0, 6, 0], [0, 12, 0]))

    def test_repetitions_of_a_qos_2_message_are_bounded_while_it_waits(self) -> None:
        """rows 57 and 112"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=4))
        client = harness.connect(clean_session=False)
        client.send(*[Publish("t", b"x", 2, packet_id=5, dup=True)] * 20)
        self.assertEqual((len(store.messages), client.held), (1, True))
        self.assertEqual(harness.broker.traffic.publish_received[2], 4)
        store.commit()
        self.assertEqual((client.held, harness.shared.flow.unfinished), (False, 0))
        self.assertEqual(client.received(), [Pubrec(5)] * 20)

    def test_releases_are_bounded_while_they_wait(self) -> None:
        """rows 58 and 112"""
        releases: list[Deferred[object]] = []

        class Observer:
            def client_connected(self, client: Client) -> None: ...
            def client_disconnected(self, client: Client, taken_over: bool) -> None: ...
            def session_ended(self, client_id: str) -> None: ...
            def message_released(self, client: Client, packet_id: int) -> Deferred[object]:
                releases.append(Deferred())
                return releases[-1]

        harness = BrokerHarness({}, Limits(max_unfinished=4), observers=[Observer()])
        client = harness.connect(clean_session=False)
        client.send(*[Pubrel(7)] * 20)
        self.assertEqual((len(releases), client.held), (4, True))
        for release in releases:
            release.callback(None)
        self.assertEqual((client.held, harness.shared.flow.unfinished), (False, 0))
        self.assertEqual(client.received(), [Pubcomp(7)] * 20)

    def test_the_total_holds_everyone_and_frees_everyone(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished_total=4))
        clients = [harness.connect(f"c{number}") for number in range(4)]
        for client in clients:
            client.publish("t", b"", 1, 1)
        self.assertEqual([client.held for client in clients], [False, False, False, True])
        for client in clients:
            client.publish("t", b"", 1, 2)
        self.assertEqual([client.held for client in clients], [True] * 4)
        store.commit()
        self.assertEqual([client.held for client in clients], [False] * 4)

    def test_what_was_sent_before_the_peer_left_still_counts(self) -> None:
        """row 45"""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished=2))
        client = harness.connect("one", will=Publish("w", b""))
        client.send(*[Publish("t", b"x")] * 5, Disconnect())
        client.lose()
        self.assertEqual(len(store.messages), 5)
        store.commit()
        self.assertEqual((harness.shared.flow.unfinished, harness.shared.flow.held), (0, 0))

    def test_a_slow_client_loses_messages_and_costs_nobody_else_any(self) -> None:
        """row 54"""
        harness = BrokerHarness(limits=Limits(max_queued_messages=10, receiver_patience=0))
        slow, fast, sender = (harness.connect(name) for name in ("slow", "fast", "sender"))
        for client in (slow, fast):
            client.send(Subscribe(1, [Subscription("zero", 0), Subscription("one", 1)]))
            client.received()
        slow.stop_reading()
        for _ in range(30):
            sender.publish("zero", b"x")
        self.assertEqual(harness.broker.traffic.publish_dropped, 19)
        self.assertEqual(len(fast.received()), 30)
        for number in range(30):
            sender.publish("one", b"x", 1, number + 1)
        self.assertEqual((slow.closed, fast.closed, sender.held), (False, False, False))
        self.assertEqual(len([p for p in fast.received() if isinstance(p, Publish)]), 20)

    def test_answers_that_are_not_read_are_bounded_in_memory(self) -> None:
        """Row 54: two bytes of an answer take many more while they wait."""
        harness = BrokerHarness(limits=Limits(max_queued_bytes=1 << 20))
        client = harness.connect("one")
        client.stop_reading()
        sent = 0
        while not client.closed:
            client.send(*[Pingreq()] * 1000)
            sent += 1000
            while client.held and not client.closed:
                harness.turn()
        self.assertLess(sent, 40_000)

    def test_what_is_dropped_is_counted_as_dropped(self) -> None:
        """Row 54."""
        harness = BrokerHarness(limits=Limits(max_queued_messages=2))
        harness.connect("absent", clean_session=False).subscribe("t", 1)
        next(iter(harness.shared.connections)).close(Reason.ADMINISTRATIVE, "a test")
        sender = harness.connect("sender")
        for number in range(5):
            sender.publish("t", b"", 1, number + 1)
        traffic = harness.broker.traffic
        self.assertEqual((traffic.publish_sent[1], traffic.publish_dropped), (2, 3))

    def test_a_slow_client_goes_on_where_it_stopped(self) -> None:
        """[MQTT-4.6.0-5]"""
        harness = BrokerHarness()
        slow, sender = harness.connect("slow"), harness.connect("sender")
        slow.send(Subscribe(1, [Subscription("#", 1)]))
        slow.received()
        slow.stop_reading()
        sender.publish("a", b"0")
        sender.publish("b", b"1", 1, 1)
        self.assertEqual(slow.received(), [])
        slow.read_again()
        harness.turn()
        self.assertEqual(slow.received(), [Publish("a", b"0"), Publish("b", b"1", 1, packet_id=1)])
