"""What a broker does with a Session at each end of its way; the way itself is in tests/cluster."""

from collections.abc import Iterator, Sequence, Set
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.broker import Broker
from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.limits import Limits
from platziverse.broker.moving import Moving
from platziverse.broker.owing import Owing
from platziverse.broker.receiving import Receiving
from platziverse.broker.records import (
    ELSEWHERE,
    Absent,
    Begun,
    Ended,
    Freed,
    SessionRecord,
    WillGone,
    WillLeft,
)
from platziverse.broker.session import Session
from platziverse.broker.sharing import Alone
from platziverse.broker.subscriptions import Match
from platziverse.mqtt.packets import Properties, Publish
from platziverse.testing import BrokerHarness, MemorySessionStore
from tests.broker.durability import ACCEPTED, RESUMED, UNAVAILABLE, DurableCase, payloads
from tests.logs import observe_lines


class Nobody:
    """No other daemon: an ``Elsewhere``, and a ``Listening``."""

    def __init__(self, broker: Broker) -> None:
        self.route = broker.router.route

    def receivers(self, topic: str) -> "Match[Session]":
        return ()

    def pass_on(self, run: Sequence[Publish], client: Client) -> int:
        return 0

    def route_retained(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        return self.route(message, receivers, client)

    def subscribed(self, session: Session, topic_filter: str) -> None:
        """Tell nobody."""

    unsubscribed = subscribed

    def told(self) -> Answer:
        return None


class Occupied(MemorySessionStore):
    """A store in which another daemon has the Session of each client.

    :ivar left: so many times.
    """

    left = 1

    def save(self, record: SessionRecord) -> "Deferred[None]":
        if isinstance(record, Begun) and self.left:
            self.left -= 1
            record.session = ELSEWHERE
            return succeed(None)
        return super().save(record)


class BeginningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = BrokerHarness(sessions=Occupied())

    def come_to(self, session: Session | None) -> None:
        nobody = Nobody(self.harness.broker)
        self.harness.broker.share(nobody, nobody, Alone())
        moving = self.harness.broker.moving
        assert moving is not None
        moving.come_to(lambda client_id, username, since: succeed(session))

    def test_a_session_that_is_out_of_reach_is_not_begun_anew(self) -> None:
        self.assertEqual(self.harness.connect("m", clean_session=False).connack, UNAVAILABLE)

    def test_one_that_has_come_goes_on(self) -> None:
        there = self.harness.broker.sessions.make("m", True)
        self.come_to(there)
        self.assertEqual(self.harness.connect("m", clean_session=False).connack, RESUMED)
        self.assertIs(self.harness.broker.sessions.get("m"), there)

    def test_one_that_is_not_there_any_more_begins(self) -> None:
        self.come_to(None)
        self.assertEqual(self.harness.connect("m", clean_session=False).connack, ACCEPTED)

    def test_clean_start_ends_what_has_come_and_begins_anew(self) -> None:
        """[MQTT5-3.1.2-4]"""
        there = self.harness.broker.sessions.make("one", True)
        self.come_to(there)
        kept = Properties(session_expiry_interval=100)
        client = self.harness.connect("one", protocol_level=5, properties=kept)
        (connack,) = client.connack
        self.assertFalse(getattr(connack, "session_present", True))
        self.assertIsNot(self.harness.broker.sessions.get("one"), there)


class Former(Alone):
    """Daemon 3 has Sessions that were ours, so long as it is asked so often."""

    left = 18

    def ask(self) -> "Deferred[Set[int]]":
        self.left -= 1
        return succeed({3} if self.left else set())


class FormerTests(SynchronousTestCase):
    def setUp(self) -> None:
        def share(broker: Broker) -> None:
            nobody = Nobody(broker)
            broker.share(nobody, nobody, Former())

        self.lines = observe_lines(self)
        self.harness = BrokerHarness(sessions=MemorySessionStore(), share=share)

    def test_nothing_is_loaded_while_others_have_sessions_that_were_ours(self) -> None:
        self.assertNoResult(self.harness.loaded)
        text = "waiting for daemon 3, which takes over Sessions that were ours"
        self.assertEqual(str(self.harness.broker.loading), text)
        late, clean = self.harness.connect("late", clean_session=False), self.harness.connect("clean")
        self.assertEqual((late.connack, clean.connack), ([], ACCEPTED))
        self.harness.advance(3.5)
        self.assertEqual(late.received(), UNAVAILABLE)
        self.assertIn(text, self.lines[-1])
        self.harness.advance(1)
        self.successResultOf(self.harness.loaded)
        self.assertEqual(self.harness.connect("last", clean_session=False).connack, ACCEPTED)


class EndsTests(DurableCase):
    def setUp(self) -> None:
        super().setUp()
        nobody = Nobody(self.harness.broker)
        self.broker.share(nobody, nobody, Alone())
        moving = self.broker.moving
        assert moving is not None
        self.moving: Moving = moving

    def take_in(self, identifiers: tuple[int, ...] = ()) -> None:
        (stored,) = self.successResultOf(self.store.inherited([1]))
        steps: Iterator[None] = self.moving.take_in(stored, identifiers)
        for _ in steps:
            pass

    def test_what_was_let_go_is_nothing_here_and_can_come_again(self) -> None:
        self.receiver().lose()
        self.publish(b"before")
        self.harness.advance(0.1)
        self.moving.let_go(self.session())
        self.assertIsNone(self.broker.sessions.get("receiver"))
        self.publish(b"for nobody", 1, 2)
        self.assertEqual(self.saved(Ended), [])
        self.take_in((7,))
        self.assertEqual(self.session().identifiers, (7,))
        self.take_in()
        self.assertEqual(payloads(self.connect().received()), [b"before"])

    def test_a_will_that_waits_goes_on_waiting(self) -> None:
        """Row 516: nobody is connected to the Session yet."""
        watcher = self.harness.connect("watcher")
        watcher.subscribe("w")
        kept = Properties(session_expiry_interval=100)
        fields: dict[str, Any] = {"protocol_level": 5, "will_delay": 10, "properties": kept}
        self.harness.connect("receiver", clean_session=False, will=Publish("w", b"x"), **fields).lose()
        self.harness.advance(1)
        self.moving.let_go(self.session())
        self.assertEqual(payloads(watcher.received()), [])
        self.harness.advance(10)
        self.assertEqual(payloads(watcher.received()), [b"x"])

    def test_a_will_that_has_stayed_is_the_others_when_they_have_taken_over(self) -> None:
        kept = Properties(session_expiry_interval=100)
        fields: dict[str, Any] = {"protocol_level": 5, "will_delay": 10, "properties": kept}
        self.harness.connect("receiver", clean_session=False, will=Publish("w", b"x"), **fields).lose()
        self.moving.let_go(self.session())
        self.store.save(
            WillGone("receiver", self.saved(WillLeft)[0].connection)
        )  # it is another daemon's now
        self.broker.begin_anew()
        self.harness.turn()
        self.assertEqual(len(self.broker.clients.farewells.delayed), 0)

    def test_a_client_that_has_begun_another_one_has_ended_it(self) -> None:
        self.receiver().lose()
        self.moving.let_go(self.session())
        self.harness.connect("receiver")
        self.take_in()
        self.assertEqual(self.saved(Ended), [Ended(1, "receiver")])

    def test_who_has_left_is_said_last(self) -> None:
        receiver = self.receiver()
        self.store.hold()
        receiver.lose()
        self.connect().lose()
        left = self.moving.left(self.session())
        freed = self.moving.free(self.session())
        self.store.resume()
        self.successResultOf(left)
        self.successResultOf(freed)
        self.assertEqual(self.saved(Absent, Freed)[-2:], [Absent(1, 0), Freed(1, 0)])

    def test_what_is_owed_is_settled_when_it_is_committed(self) -> None:
        receiver = self.receiver()
        self.publish(b"1")
        receiver.lose()
        self.store.hold()
        self.publish(b"2", 1, 2)
        settled = self.moving.settle(self.session())
        self.assertNoResult(settled)
        self.store.resume()
        self.successResultOf(settled)
        self.successResultOf(self.moving.settle(self.session()))


class ReceivingTests(SynchronousTestCase):
    def test_who_waits_for_what_is_being_stored_is_told(self) -> None:
        receiving = Receiving(Limits())
        self.assertEqual((receiving.identifiers, receiving.handled()), ((), []))
        for packet_id in (1, 2, 3):
            receiving.receive(packet_id, 0.0)
        receiving.stored(3, 0.0)
        self.assertEqual(receiving.identifiers, (1, 2, 3))
        first, second = receiving.handled()
        receiving.stored(1, 0.0)
        receiving.failed(2)
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (True, False))


class Publisher:
    """Somebody who waits for several messages."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stored(self) -> None:
        self.told.append("stored")

    def refused(self, failure: Failure) -> None:
        self.told.append("refused")


class SettledTests(SynchronousTestCase):
    def test_who_wants_to_know_is_told_beside_the_publisher(self) -> None:
        for refused in (False, True):
            owing, publisher = Owing([], 0.0, 1, None, ()), Publisher()
            owing.waiting = publisher
            settled = owing.when_settled()
            if refused:
                owing.failed(Failure(ValueError()), 0)
            else:
                owing.settled()
            self.successResultOf(settled)
            self.assertEqual(publisher.told, ["refused" if refused else "stored"])
            self.successResultOf(owing.when_settled())

    def test_an_answer_is_passed_on(self) -> None:
        owing = Owing([], 0.0, 1, None, ())
        settled = owing.when_settled()
        owing.settled()
        self.successResultOf(settled)
        self.assertIsNone(self.successResultOf(owing.answer))
