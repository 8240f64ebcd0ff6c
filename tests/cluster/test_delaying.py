"""Messages that waited for a Session on its way are delivered in turns of the reactor, in their order."""

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.bus.local import LocalBus, LocalHub
from platziverse.cluster.awaited import Awaited
from platziverse.cluster.delaying import LENGTH, Delaying
from platziverse.cluster.figures import Figures
from platziverse.cluster.interest import Interest
from platziverse.cluster.peers import Peers
from tests.cluster import test_moves


class Passing(Clock):
    """A Clock that goes on, by ``tick`` seconds, whenever somebody looks."""

    tick = 0.0

    def seconds(self) -> float:
        self.rightNow += self.tick
        return self.rightNow


class DelayingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.got = Passing(), list[int]()
        peers = Peers(LocalBus(LocalHub(self.clock), 1), lambda: (1, 1), self.clock)
        peers.know_ourselves()
        self.interest = Interest(lambda keys: None, lambda steps: None)
        self.delaying = Delaying(self.interest, peers, self.clock, 1000)

    def deliver(self, number: int) -> None:
        self.clock.rightNow += LENGTH / 10  # as long as some receivers take
        self.got.append(number)

    def publish(self, *numbers: int, topic: str = "a", origin: int = 0) -> None:
        for number in numbers:
            answer = self.delaying.keep(topic, partial(self.deliver, number), origin, number)
            if answer is not None:
                answer.addErrback(lambda failure: None)  # cancelled: nobody is answered

    def is_marked(self) -> bool:
        return bool(self.interest.daemons("a")[1])

    def test_a_turn_is_no_longer_than_it_may_be(self) -> None:
        delay = self.delaying.begin(["a"])
        self.publish(*range(25))
        self.delaying.end(delay)
        self.assertEqual(self.got, list(range(10)))
        self.publish(25)
        self.assertTrue(self.delaying.bit and self.is_marked())
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.got, list(range(26)))
        self.assertFalse(self.delaying.bit or self.is_marked())
        self.publish(26)
        self.assertEqual(self.got[-1], 26)

    def test_what_is_for_another_session_by_now_waits_on(self) -> None:
        delay = self.delaying.begin(["a"])
        self.publish(*range(15), origin=2)
        clear = self.delaying.when_clear(["a"])
        self.delaying.end(delay)
        again = self.delaying.begin(["a"])
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.got, list(range(10)))
        self.assertNoResult(clear)
        self.delaying.end(again)
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.got, list(range(15)))
        self.successResultOf(clear)

    def test_what_was_put_back_is_not_overtaken(self) -> None:
        delay = self.delaying.begin(["a"])
        self.publish(*range(15))
        self.delaying.end(delay)
        again = self.delaying.begin(["a"])
        self.clock.tick = LENGTH  # each turn has room for one
        self.clock.callLater(0, self.delaying.end, again)
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.got, list(range(15)))

    def test_who_waits_no_longer_is_forgotten(self) -> None:
        delay = self.delaying.begin(["a", "b"])
        self.publish(1, origin=2)
        waits = [self.delaying.when_clear(["a", "b"]) for _ in range(3)]
        waits[1].addErrback(lambda failure: None).cancel()
        waits[0].addCallback(lambda _: waits[2].addErrback(lambda failure: None).cancel())
        self.delaying.end(delay)
        self.successResultOf(waits[0])

    def test_it_is_full_when_so_many_wait(self) -> None:
        delay = self.delaying.begin(["a"])
        self.publish(*range(999))
        self.assertFalse(self.delaying.is_full)
        self.publish(999)
        self.assertTrue(self.delaying.is_full)
        self.delaying.begin_anew()
        self.assertFalse(self.delaying.is_full)
        self.delaying.end(delay)
        self.assertEqual(self.got, [])


class FullTests(test_moves.Case):
    """Row 458: many messages for Sessions on their way, and more Sessions that want to come."""

    def test_no_session_comes_while_too_many_messages_wait(self) -> None:
        for client_id, topic in (("m", "a"), ("n", "b")):
            self.one.listening(client_id, topic, 2, clean_session=False).lose()
        self.daemons.advance(1)
        delaying = self.two.cluster.routing.delaying
        delay = delaying.begin(["a"])
        for number in range(self.two.broker.limits.max_unfinished_total):
            delaying.keep("a", lambda: None, 3, number)
        far = self.come(self.two, "n")
        self.daemons.advance(4)
        far.connack += far.received()
        self.assertEqual([getattr(packet, "return_code", None) for packet in far.connack], [3])
        self.assertEqual(Figures(self.two.cluster).moved["refused"], 1)
        line = "The Session of 'n' does not come: too many messages wait for Sessions on their way"
        self.assertIn(f"{line} (max_unfinished_total)", self.lines)
        delaying.end(delay)
        again = self.come(self.two, "n")
        self.assertTrue(self.present(again))

    def test_without_a_store_none_moves(self) -> None:
        self.assertEqual(Figures(self.daemons.begin(4).cluster).moved, {})


class AwaitedTests(SynchronousTestCase):
    def test_positions_are_reached_in_order(self) -> None:
        awaited = Awaited()
        late, soon, same = awaited.at(7), awaited.at(3), awaited.at(3)
        awaited.reach(2)
        self.assertNoResult(soon)
        awaited.reach(5)
        self.successResultOf(soon)
        self.successResultOf(same)
        self.assertNoResult(late)
        awaited.reach(7)
        self.successResultOf(late)
        self.assertFalse(awaited)

    def test_who_waits_no_longer_is_forgotten(self) -> None:
        awaited = Awaited()
        waits = [awaited.at(3) for _ in range(3)]
        waits[0].addCallback(lambda _: waits[1].addErrback(lambda failure: None).cancel())
        waits[2].addErrback(lambda failure: None).cancel()
        awaited.reach(3)
        self.successResultOf(waits[0])
        gone = awaited.at(4).addErrback(lambda failure: None)
        gone.cancel()
        self.assertFalse(awaited)
        awaited.reach(9)
