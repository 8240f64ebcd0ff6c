"""A turn of the reactor ends after a while whatever clients ask for: counted by a clock that work moves."""

from itertools import product

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.broker import Broker
from platziverse.broker.turn import LENGTH, Turn
from platziverse.mqtt.packets import Packet, Pingreq, Pingresp, Publish, Suback, Subscribe, Subscription
from platziverse.net.connected import MANY_FILTERS
from platziverse.testing import BrokerHarness, FakeClient


def run_turn(clock: Clock) -> None:
    """Call what is due now, and nothing that is asked for meanwhile: that is of the next turn."""
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        if call.active():
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


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


class EndTests(SynchronousTestCase):
    def test_a_turn_ends_whatever_is_raised_in_it(self) -> None:
        """Row 297: after a KeyboardInterrupt of a handler no client was answered any more."""
        for error in KeyboardInterrupt(), SystemExit(1), GeneratorExit():

            def raises(message: Publish, client: object, error: BaseException = error) -> None:
                raise error

            harness = BrokerHarness({"t": raises})
            innocent, sender = harness.connect("innocent"), harness.connect("sender")
            sender.publish("t", b"", 1, 1)
            self.assertTrue(sender.closed)
            innocent.send(Pingreq())
            self.assertEqual(innocent.received(), [Pingresp()])
            self.assertEqual(harness.broker.traffic.internal_errors, 1)
            self.flushLoggedErrors(type(error))


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
            self.harness.turn()
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


class Subscribers(SynchronousTestCase):
    """Row 184: twenty clients subscribe with many filters in the same turn."""

    def test_one_of_them_is_handled_in_a_turn(self) -> None:
        harness = BrokerHarness()
        clients = [harness.connect(f"client-{number}") for number in range(20)]
        innocent = harness.connect("innocent")
        packet = Subscribe(1, [Subscription(f"a/{number}", 0) for number in range(MANY_FILTERS)])
        for client in clients:
            client.send(packet, Pingreq())
        self.assertEqual([client.held for client in clients], [False] + [True] * 19)
        self.assertEqual(len(harness.broker.subscriptions), MANY_FILTERS)
        innocent.send(Pingreq())
        self.assertEqual(innocent.received(), [Pingresp()])
        few = Subscribe(1, [Subscription(f"a/{number}", 0) for number in range(MANY_FILTERS - 1)])
        innocent.send(few)
        self.assertEqual(len(innocent.received()), 1)
        clients[5].lose()
        harness.turn()
        for client in clients[:5] + clients[6:]:
            kinds = [type(answer) for answer in client.received()]
            self.assertEqual((client.held, kinds), (False, [Suback, Pingresp]))

    def test_whoever_waits_is_let_go_on_one_in_each_turn(self) -> None:
        harness = BrokerHarness()
        clients = [harness.connect(f"client-{number}") for number in range(4)]
        packet = Subscribe(1, [Subscription(f"a/{number}", 0) for number in range(MANY_FILTERS)])
        for client in clients:
            client.send(packet)
        for left in 3, 2, 1, 0:
            self.assertEqual(sum(client.held for client in clients), left)
            run_turn(harness.clock)


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
