"""What a Session keeps while its client is away, and what it gives back."""

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Puback,
    Publish,
    Pubrec,
    Pubrel,
)
from platziverse.testing import BrokerHarness
from tests.broker.durability import payloads


class Sessions(SynchronousTestCase):
    def test_everything_unacknowledged_is_sent_again_in_order(self) -> None:
        """[MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1] [MQTT-3.1.2-5] [MQTT-4.1.0-1]"""
        harness = BrokerHarness()
        sender = harness.connect("sender")
        client = harness.connect("one", clean_session=False)
        client.subscribe("t", 2)
        for number, qos in enumerate((1, 2, 2, 1), 1):
            sender.publish("t", b"%d" % number, qos, number)
        client.received()
        client.send(Pubrec(2))
        client.lose()
        sender.publish("t", b"5", 1, 9)
        sender.publish("t", b"zero")
        again = harness.connect("one", clean_session=False)
        self.assertEqual(
            again.connack,
            [
                Connack(True, ConnectReturnCode.ACCEPTED),
                Publish("t", b"1", 1, dup=True, packet_id=1),
                Pubrel(2),
                Publish("t", b"3", 2, dup=True, packet_id=3),
                Publish("t", b"4", 1, dup=True, packet_id=4),
                Publish("t", b"5", 1, packet_id=5),
            ],
        )

    def test_nothing_is_sent_again_on_a_living_connection(self) -> None:
        """row 55"""
        harness = BrokerHarness()
        client = harness.connect("one")
        client.subscribe("t", 1)
        for number in range(25):
            client.publish("t", b"", 1, number + 1)
        received = [packet for packet in client.received() if isinstance(packet, Publish)]
        self.assertEqual(len(received), 20)
        harness.advance(3600)
        self.assertEqual(client.received(), [])
        client.send(Puback(1), Puback(2))
        self.assertEqual([type(packet) for packet in client.received()], [Publish, Publish])

    def test_the_queue_of_an_absent_client_keeps_the_oldest(self) -> None:
        harness = BrokerHarness(limits=Limits(max_queued_messages=3))
        harness.connect("one", clean_session=False).subscribe("t", 1)
        harness.connect("one", clean_session=False).lose()
        sender = harness.connect("sender")
        for number in range(5):
            sender.publish("t", b"%d" % number, 1, 1)
        again = harness.connect("one", clean_session=False)
        self.assertEqual(payloads(again.connack), [b"0", b"1", b"2"])

    def test_a_clean_session_begins_anew(self) -> None:
        """[MQTT-3.1.2-6] [MQTT-3.1.4-3]"""
        harness = BrokerHarness()
        harness.connect("one", clean_session=False).subscribe("t", 1)
        harness.connect("one").lose()
        self.assertEqual((len(harness.broker.sessions), len(harness.broker.subscriptions)), (0, 0))

    def test_the_client_that_has_been_absent_longest_makes_room(self) -> None:
        harness = BrokerHarness(limits=Limits(max_absent_sessions=2))
        for name in ("one", "two", "three"):
            harness.connect(name, clean_session=False).lose()
        self.assertEqual([session.client_id for session in harness.broker.sessions], ["two", "three"])

    def test_the_client_that_has_been_absent_longest_is_known(self) -> None:
        harness = BrokerHarness()
        self.assertIsNone(harness.broker.sessions.longest_absent())
        for name in ("one", "two"):
            harness.connect(name, clean_session=False).lose()
        oldest = harness.broker.sessions.longest_absent()
        assert oldest is not None
        self.assertEqual(oldest.client_id, "one")

    def test_a_will_takes_memory_too(self) -> None:
        """Row 126."""
        harness = BrokerHarness()
        harness.connect("one", will=Publish("will", b"x" * 1000))
        harness.connect("two")
        one, two = harness.broker.sessions
        self.assertGreater(one.memory, two.memory + 1000)

    def test_what_a_session_takes_of_the_memory_is_known(self) -> None:
        """Row 126."""
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client, sender = harness.connect("one", clean_session=False), harness.connect("sender")
        [session] = [session for session in harness.broker.sessions if session.client_id == "one"]
        taken = [session.memory]
        client.subscribe("t", 1)
        taken.append(session.memory)
        for number in (1, 2):  # one in flight, one that waits
            sender.publish("t", b"x" * 1000, 1, number)
            taken.append(session.memory)
        client.publish("u", b"", 2, 7)
        taken.append(session.memory)
        grown = [later - earlier for earlier, later in pairwise(taken)]
        self.assertTrue(all(0 < size < 2000 for size in grown), grown)
        self.assertTrue(all(size > 1000 for size in grown[1:3]), grown)

    def test_an_absent_session_expires(self) -> None:
        harness = BrokerHarness(limits=Limits(session_expiry=100))
        harness.connect("one", clean_session=False).subscribe("t", 1)
        next(iter(harness.shared.connections)).close(Reason.ADMINISTRATIVE, "a test")
        harness.advance(99)
        harness.broker.expire()
        self.assertEqual(len(harness.broker.sessions), 1)
        harness.advance(2)
        harness.broker.expire()
        self.assertEqual((len(harness.broker.sessions), len(harness.broker.subscriptions)), (0, 0))

    def test_everything_is_given_back_when_clean_clients_leave(self) -> None:
        """[MQTT-4.1.0-2]"""
        harness = BrokerHarness()
        calls = len(harness.clock.getDelayedCalls())
        for number in range(100):
            client = harness.connect(f"c{number}")
            client.subscribe("a/+/b", 1)
            client.publish("a/x/b", b"", 1, 1)
            client.lose()
        broker = harness.broker
        self.assertEqual((len(broker.sessions), len(broker.subscriptions), broker.connected), (0, 0, 0))
        self.assertEqual(len(harness.shared.connections), 0)
        harness.turn()
        self.assertEqual(len(harness.clock.getDelayedCalls()), calls)
