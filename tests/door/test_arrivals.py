"""Arrivals: a fleet that comes at once is attended to in its order, and nobody is refused."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.door.arrivals import Arrivals
from platziverse.door.sniff import SniffingFactory
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from platziverse.testing import BrokerHarness
from tests.door.test_sniff import CONNACK, CONNECT, Abortable, deliver

FLEET = 10_000


class Comer:
    def __init__(self) -> None:
        self.turns = 0
        self.here = True

    def proceed(self) -> bool:
        self.turns += self.here
        return self.here


class ArrivalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def test_nobody_waits_within_the_rate(self) -> None:
        arrivals = Arrivals(100, self.clock)
        for _ in range(1000):
            self.assertTrue(arrivals.come(Comer()))
            self.clock.advance(0.011)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_others_have_their_turn_in_order_at_the_rate(self) -> None:
        arrivals = Arrivals(100, self.clock)
        comers = [Comer() for _ in range(1000)]
        at_once = sum(arrivals.come(comer) for comer in comers)
        self.assertLessEqual(at_once, 6)
        for second in range(1, 11):
            self.clock.pump([0.02] * 50)
            turns = [comer.turns for comer in comers[at_once:]]
            self.assertLessEqual(abs(sum(turns) - min(100 * second, 1000 - at_once)), 10)
            self.assertEqual(turns, sorted(turns, reverse=True))
        self.clock.pump([0.02] * 5)
        self.assertEqual((len(arrivals), self.clock.getDelayedCalls()), (0, []))

    def test_after_a_long_turn_of_the_reactor_there_is_no_rush(self) -> None:
        arrivals = Arrivals(1000, self.clock)
        comers = [Comer() for _ in range(1000)]
        at_once = sum(arrivals.come(comer) for comer in comers)
        self.clock.advance(0.8)
        self.assertLessEqual(at_once + sum(comer.turns for comer in comers), 42)

    def test_whoever_comes_later_does_not_overtake(self) -> None:
        arrivals = Arrivals(10, self.clock)
        first = [Comer() for _ in range(5)]
        for comer in first:
            arrivals.come(comer)
        self.clock.advance(0.11)
        late = Comer()
        self.assertFalse(arrivals.come(late))
        self.clock.pump([0.02] * 50)
        self.assertEqual((len(arrivals), late.turns), (0, 1))

    def test_one_that_has_gone_costs_no_turn(self) -> None:
        arrivals = Arrivals(10, self.clock)
        comers = [Comer() for _ in range(100)]
        for comer in comers:
            arrivals.come(comer)
        for comer in comers[1:-1]:
            comer.here = False
        self.clock.pump([0.02] * 10)
        self.assertEqual(comers[-1].turns, 1)

    def test_0_is_any_number(self) -> None:
        arrivals = Arrivals(0, self.clock)
        self.assertTrue(all(arrivals.come(Comer()) for _ in range(100_000)))

    def test_one_in_a_minute_is_a_rate_too(self) -> None:
        arrivals = Arrivals(1 / 60, self.clock)
        comers = [Comer(), Comer(), Comer()]
        self.assertEqual([arrivals.come(comer) for comer in comers], [True, False, False])
        self.clock.pump([0.02] * 3250)
        self.assertEqual([comer.turns for comer in comers], [0, 1, 0])


class FleetTests(SynchronousTestCase):
    """Row 30: 10,000 clients reconnect in one second."""

    def open(self, factory: SniffingFactory) -> Abortable:
        transport = Abortable()
        transport.protocol = factory.buildProtocol(transport.getPeer())
        transport.protocol.makeConnection(transport)
        return transport

    def test_a_fleet_is_connected_within_seconds_and_nobody_is_refused(self) -> None:
        harness = BrokerHarness(limits=Limits(max_connect_rate=5000.0))
        factory = SniffingFactory(harness.factory)
        waiting = {number: self.open(factory) for number in range(FLEET)}
        self.assertGreater(len(factory.arrivals), FLEET * 0.9)
        per_step = []
        for _ in range(105):
            connected = [number for number, one in waiting.items() if one.producerState == "producing"]
            per_step.append(len(connected))
            for number in connected:
                transport = waiting.pop(number)
                deliver(transport, encode(Connect(f"agent-{number}")))
                self.assertEqual(transport.value(), CONNACK)
            harness.clock.advance(0.02)
        self.assertEqual((len(waiting), harness.broker.connected), (0, FLEET))
        self.assertLessEqual(max(per_step), 110)
        traffic = harness.broker.traffic
        self.assertEqual((traffic.connects_refused, traffic.connections_refused), ({}, {}))

    def test_the_time_for_connect_begins_with_the_turn(self) -> None:
        harness = BrokerHarness(limits=Limits(max_connect_rate=1 / 30))
        factory = SniffingFactory(harness.factory)
        self.open(factory)
        second = self.open(factory)
        harness.advance(25)
        self.assertEqual((second.connected, second.producerState), (True, "paused"))
        harness.advance(6)
        self.assertEqual(second.producerState, "producing")
        deliver(second, CONNECT)
        self.assertEqual(second.value(), CONNACK)

    def test_stopping_cuts_those_that_wait(self) -> None:
        harness = BrokerHarness(limits=Limits(max_connect_rate=1.0))
        factory = SniffingFactory(harness.factory)
        transports = [Abortable(), Abortable()]
        for transport in transports:
            transport.protocol = factory.buildProtocol(transport.getPeer())
            transport.protocol.makeConnection(transport)
        factory.close_all()
        self.assertEqual([transport.connected for transport in transports], [False, False])
        harness.advance(3)
        self.assertEqual((len(factory.arrivals), len(factory.undecided)), (0, 0))

    def test_one_that_leaves_while_it_waits_is_forgotten(self) -> None:
        harness = BrokerHarness(limits=Limits(max_connect_rate=1.0))
        factory = SniffingFactory(harness.factory)
        self.open(factory)
        second, third = self.open(factory), self.open(factory)
        second.loseConnection()
        harness.advance(1.1)
        self.assertEqual((third.producerState, len(factory.arrivals)), ("producing", 0))
