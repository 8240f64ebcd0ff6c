"""What a broker owes to other daemons beside its own Sessions, and takes from them."""

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER, Client
from platziverse.broker.owing import Owing, Unsettled
from platziverse.broker.pace import Pace
from platziverse.broker.records import Queued
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish
from platziverse.testing import BrokerHarness, MemorySessionStore, OpenAuthority

MESSAGE = Publish("a", b"x", 1)


class Link:
    """A link to another daemon, which answers when it is told to."""

    number = -99
    head = inflight = 0
    loaded = 1 << 62

    def __init__(self) -> None:
        self.last = 0
        self.unsettled, self.pace = Unsettled(0), Pace(Clock())
        self.stored: list[int] = []
        self.refused: list[int] = []

    def take(self, owing: Owing, message: EncodedPublish, qos: int) -> bool:
        self.last += 1
        self.unsettled[self.last] = owing
        return True

    def sends(self, size: int) -> bool:
        return False

    def offer(self, owing: Owing, messages: Sequence[EncodedPublish]) -> int:
        raise AssertionError("nothing joins what links are owed")

    def committed(self, position: int, number: int) -> None:
        del self.unsettled[position]
        self.stored.append(position)

    def go_on(self) -> None:
        """There is nothing that has waited."""

    def failed(self, position: int, size: int) -> None:
        del self.unsettled[position]
        self.refused.append(position)


class Restricted(OpenAuthority):
    """Nobody receives anything."""

    restricts = True

    def may_receive(self, client: Client, topic: str) -> bool:
        return False


class OwedElsewhere(SynchronousTestCase):
    def setUp(self) -> None:
        self.store, self.link = MemorySessionStore(), Link()
        self.harness = BrokerHarness(sessions=self.store)

    def queued(self) -> list[Queued]:
        return [record for record in self.store.records if isinstance(record, Queued)]

    def test_a_link_is_owed_a_message_as_a_session_is(self) -> None:
        self.harness.connect("client", clean_session=False).subscribe("a", 1)
        broker = self.harness.broker
        receivers = broker.subscriptions.match("a")
        answer = broker.router.route_owed(MESSAGE, receivers, SERVER, [(self.link, 1)])
        assert answer is not None
        self.assertNoResult(answer)
        self.harness.clock.pump([0.01, 0, 0, 0.01, 0, 0])
        self.successResultOf(answer)
        self.assertFalse(self.link.pace.quick)
        self.assertEqual(self.link.stored, [1])
        self.assertEqual(len(self.queued()[0].rows), 2)

    def test_a_link_is_told_of_a_row_that_is_refused(self) -> None:
        self.store.hold()
        answer = self.harness.broker.router.route_owed(MESSAGE, (), SERVER, [(self.link, 2)])
        assert answer is not None
        self.harness.clock.pump([0.01, 0, 0, 0.01, 0, 0])
        self.store.refuse()
        self.failureResultOf(answer)
        self.assertEqual(self.link.refused, [1])

    def test_rows_take_the_place_of_the_one_that_has_crossed(self) -> None:
        self.harness.connect("client", clean_session=False).subscribe("a", 1)
        receivers = self.harness.broker.subscriptions.match("a")
        self.harness.broker.router.route_owed(MESSAGE, receivers, SERVER, crossed=((-7, 3), (-8, 3)))
        self.harness.clock.pump([0.01, 0, 0, 0.01, 0, 0])
        self.assertEqual(self.queued()[0].crossed, ((-7, 3), (-8, 3)))

    def test_who_may_not_receive_it_gets_nothing_of_it(self) -> None:
        harness = BrokerHarness(sessions=self.store, authority=Restricted())
        harness.connect("client", clean_session=False).subscribe("a", 1)
        receivers = harness.broker.subscriptions.match("a")
        self.assertIsNone(harness.broker.router.route_owed(MESSAGE, receivers, SERVER))

    def test_a_bridge_gets_nothing_of_its_own(self) -> None:
        self.harness.connect("bridge", clean_session=False).subscribe("a", 1)
        receivers = self.harness.broker.subscriptions.match("a")
        bridge = Client("bridge", 1, bridge=True)
        self.assertIsNone(self.harness.broker.router.route_owed(MESSAGE, receivers, bridge))
