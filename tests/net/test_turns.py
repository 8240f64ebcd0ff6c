"""A turn of the reactor ends after a while whatever clients ask for: counted by a clock that work moves."""

from itertools import product

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.broker import Broker
from platziverse.broker.turn import LENGTH, Turn
from platziverse.mqtt.packets import Packet, Pingreq, Pingresp, Publish, Subscribe, Subscription
from platziverse.testing import BrokerHarness, FakeClient


class Working(Clock):
    """Each look at the time takes a millisecond, as work would."""

    def seconds(self) -> float:
        self.rightNow += 0.001
        return float(self.rightNow)


class TurnTests(SynchronousTestCase):
    def test_it_ends_and_begins_again(self) -> None:
        clock = Clock()
        turn = Turn(clock)
        self.assertFalse(turn.is_over)
        clock.rightNow += LENGTH / 2
        self.assertFalse(turn.is_over)
        clock.rightNow += LENGTH / 2
        self.assertTrue(turn.is_over)
        clock.advance(0)
        self.assertFalse(turn.is_over)

    def test_all_who_ask_share_it(self) -> None:
        clock = Working()
        turn = Turn(clock)
        self.assertLess(sum(not turn.is_over for _ in range(100)), 15)


class Costly(SynchronousTestCase):
    """Row 183: a hundred PUBLISHes for which 33,000 wildcard filters have to be looked at."""

    def setUp(self) -> None:
        self.harness = BrokerHarness()
        names = [str(level) for level in range(12)]
        receiver = self.harness.connect("receiver")
        filters = ["/".join(choice) for choice in product(*[(name, "+") for name in names])][1:]
        for start in range(0, len(filters), 500):
            some = [Subscription(one, 0) for one in filters[start : start + 500]]
            receiver.send(Subscribe(1, some))
        receiver.received()
        self.receiver = receiver
        self.topics = ["/".join([*names[:-1], str(number)]) for number in range(100, 200)]

    def attack(self, client: FakeClient) -> None:
        messages: list[Packet] = [Publish(topic, b"") for topic in self.topics[:20]]
        client.send(*messages)

    def got(self) -> int:
        return len([packet for packet in self.receiver.received() if isinstance(packet, Publish)])

    def test_one_message_is_handled_then_the_others_get_their_turn(self) -> None:
        attacker, innocent = self.harness.connect("attacker"), self.harness.connect("innocent")
        self.attack(attacker)
        self.assertEqual((self.got(), attacker.held), (1, True))
        innocent.send(Pingreq())
        self.assertEqual(innocent.received(), [Pingresp()])
        for _ in range(20):
            self.harness.turn()
        self.assertEqual((self.got(), attacker.held), (19, False))

    def test_topics_that_are_known_cost_nobody_a_turn(self) -> None:
        attacker = self.harness.connect("attacker")
        self.attack(attacker)
        for _ in range(20):
            self.harness.turn()
        self.got()
        self.attack(attacker)
        self.assertEqual((self.got(), attacker.held), (20, False))


class Retained(SynchronousTestCase):
    """Row 184: SUBSCRIBEs of a thousand filters each against many Retained Messages."""

    def test_all_clients_share_the_time_of_a_turn(self) -> None:
        harness = BrokerHarness()
        for number in range(50):
            harness.broker.announce(f"kept/{number}", b"x", retain=True)
        clients = [harness.connect(f"client-{number}") for number in range(20)]
        broker: Broker = harness.broker
        working = Working()
        harness_clock = harness.clock
        self.patch(harness_clock, "seconds", working.seconds)
        for client in clients:
            client.send(Subscribe(1, [Subscription(f"+/{number}", 0) for number in range(50)]))
        sent = broker.traffic.publish_sent[0]
        self.assertLess(sent, 60)
        for _ in range(2000):
            harness.turn()
        self.assertEqual(broker.traffic.publish_sent[0], 20 * 50)
