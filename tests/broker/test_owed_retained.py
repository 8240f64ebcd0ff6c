"""Retained Messages that a new Subscription of a durable Session is owed, over the end of the process."""

from platziverse.broker.records import Subscribed
from platziverse.mqtt.packets import Puback, Publish, Subscribe, Subscription, Unsubscribe
from platziverse.testing import FakeClient
from tests.broker.durability import GRACE, DurableCase, payloads, take

ALL = [b"0", b"1", b"2", b"3", b"4"]


class AfterAKill(DurableCase):
    """Row 361: the daemon is killed while the Retained Messages of a new Subscription are sent."""

    limits = {"max_inflight": 2}

    def setUp(self) -> None:
        super().setUp()
        for number, payload in enumerate(ALL, 1):
            self.publisher.publish(f"r/{number}", payload, 1, number, retain=True)

    @property
    def owed(self) -> tuple[str, ...]:
        """What the store says that the receiver is owed."""
        (stored,) = self.successResultOf(self.store.sessions(0, 10))
        return stored.owed

    def some(self) -> tuple[FakeClient, list[Publish]]:
        """A receiver that takes as many as it may have in flight and acknowledges the first; and those."""
        receiver = self.connect()
        came = receiver.subscribe("r/#", 1)
        self.harness.turn()
        got = [packet for packet in (*came, *receiver.received()) if isinstance(packet, Publish)]
        assert got[0].packet_id is not None
        receiver.send(Puback(got[0].packet_id))
        return receiver, got

    def test_the_rest_follows_when_the_client_is_back(self) -> None:
        _, got = self.some()
        self.assertEqual(len(got), 2)
        self.assertEqual(self.owed, ("r/#",))
        self.start()
        receiver = self.connect()
        self.harness.turn()
        self.assertEqual({*payloads(got), *payloads(take(receiver))}, {*ALL})
        self.assertEqual(self.owed, ())
        self.start()
        self.assertEqual(take(self.connect()), [])

    def test_nothing_is_owed_when_all_are_acknowledged(self) -> None:
        receiver, got = self.some()
        assert got[1].packet_id is not None
        receiver.send(Puback(got[1].packet_id))
        self.assertEqual(self.owed, ("r/#",))
        self.assertEqual(len(take(receiver)), 3)
        self.assertEqual((self.owed, self.written), ((), []))

    def test_nothing_is_owed_when_all_are_committed(self) -> None:
        self.receiver(topic="r/2")
        self.harness.turn()
        self.assertEqual(self.owed, ("r/2",))
        self.harness.clock.pump([GRACE, 0, 0])
        self.assertEqual((self.owed, self.written), ((), [(b"1", 1)]))

    def test_a_filter_that_matches_nothing_is_not_owed(self) -> None:
        for topic_filter in "nothing/there", "nothing/#", "r/9/+":
            self.receiver(topic=topic_filter)
        self.receiver(topic="r/1", qos=0)
        self.assertEqual([record.owed for record in self.saved(Subscribed)], [()] * 4)

    def test_an_unsubscribed_filter_is_owed_nothing_more(self) -> None:
        receiver, _ = self.some()
        receiver.send(Unsubscribe(9, ["r/#"]))
        self.start()
        receiver = self.connect()
        self.harness.turn()
        self.assertLess(len(take(receiver)), 3)
        self.assertEqual(self.session().subscriptions, {})

    def test_a_filter_that_is_subscribed_again_is_owed_until_its_messages_were_sent_again(self) -> None:
        receiver, got = self.some()
        assert got[1].packet_id is not None
        receiver.send(Subscribe(1, [Subscription("r/#", 1)]), Puback(got[1].packet_id))
        self.assertEqual(self.owed, ("r/#",))
        again = take(receiver)
        self.harness.turn()
        again += take(receiver)
        self.assertEqual((self.owed, {*payloads(again)}), ((), {*ALL}))

    def test_an_absent_client_is_owed_the_rest(self) -> None:
        receiver, got = self.some()
        receiver.lose()
        self.assertEqual(self.owed, ("r/#",))
        again = self.connect()
        self.harness.turn()
        self.assertEqual({*payloads(got), *payloads(take(again))}, {*ALL})
        self.assertEqual(self.owed, ())

    def test_a_session_that_has_ended_is_owed_nothing(self) -> None:
        self.some()
        self.harness.connect("receiver")
        self.assertEqual(self.successResultOf(self.store.sessions(0, 10)), [])
        self.start()
        self.assertEqual(len(self.broker.sessions), 1)
