"""Several daemons: what becomes of the Sessions and Wills of a dead one, and of one that was fenced."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.loading import UNKNOWN
from platziverse.broker.records import Cleared, Kept, SessionRecord, WillLeft, ends_of, link
from platziverse.ingest.errors import StoreStopped
from platziverse.mqtt.packets import Puback, Publish
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.broker.durability import RESUMED, UNAVAILABLE, SavingCase, payloads
from tests.broker.test_owners import Checked
from tests.logs import observe_lines


class Shared(MemorySessionStore):
    """A store that several daemons have in common; whose a Session is the test says."""

    ours: tuple[int, ...] = ()
    fenced = False

    def save(self, record: SessionRecord) -> "Deferred[None]":
        return fail(StoreStopped()) if self.fenced else super().save(record)

    def sessions(self, after: int, limit: int) -> Any:
        return super().inherited([number for number in self.ours if number > after][:limit])


class Daemons(SavingCase):
    store: Shared

    def setUp(self) -> None:
        self.lines = observe_lines(self)
        self.now = 1_000_000.0
        self.store = Shared(lambda: self.now)

    def start(self, **more: Any) -> BrokerHarness:
        self.harness = BrokerHarness(sessions=self.store, wall_clock=self.now, **more)
        return self.harness

    def connect(self, name: str, **more: Any) -> FakeClient:
        return self.harness.connect(name, clean_session=False, **more)

    def settle(self) -> None:
        self.harness.advance(0.05)


class Heirs(Daemons):
    def setUp(self) -> None:
        """A dead daemon has left the Session of "one", and a message in it."""
        super().setUp()
        self.start()
        self.dead = self.connect("one", username="ana")
        self.dead.subscribe("t", 1)
        self.dead.lose()
        self.harness.connect("publisher").publish("t", b"before", 1, 1)
        self.start(authority=Checked())
        self.store.leave(WillLeft("one", "ana", 5, "will", b"gone", 1, True))

    def inherit(self, *numbers: int) -> None:
        done = self.harness.broker.inherit(succeed(numbers or (1,)))
        self.settle()
        self.successResultOf(done)
        self.assertIsNone(self.harness.broker.loading)

    def test_a_session_goes_on_where_it_was(self) -> None:
        self.inherit()
        self.harness.connect("publisher").publish("t", b"after", 1, 1)
        client = self.connect("one", username="ana")
        self.assertEqual(client.connack[:1], RESUMED)
        self.assertEqual(payloads(client.connack), [b"before", b"after"])

    def test_messages_wait_until_all_of_it_is_there(self) -> None:
        self.store.hold(reads=True)
        self.store.available = True
        done = self.harness.broker.inherit(succeed([1]))
        publisher = self.harness.connect("publisher")
        publisher.publish("t", b"meanwhile", 1, 7)
        self.assertNotIn(Puback(7), publisher.received())
        waiting = self.connect("one", username="ana")
        self.assertEqual(waiting.connack, [])
        self.store.resume()
        self.settle()
        self.successResultOf(done)
        self.assertIn(Puback(7), publisher.received())
        came = waiting.received()
        self.assertEqual((came[:1], payloads(came)), (RESUMED, [b"before", b"meanwhile"]))

    def test_its_wills_are_published_once(self) -> None:
        watcher = self.harness.connect("watcher")
        watcher.subscribe("will", 0)
        self.inherit()
        self.inherit()
        self.assertEqual(payloads(watcher.received()), [b"gone"])
        self.assertEqual(self.successResultOf(self.store.wills()), [])
        self.assertIn(Kept("will", b"gone", 1, "one", "ana"), self.store.records)

    def test_a_will_that_is_read_again_before_it_is_deleted_is_published_once(
        self,
    ) -> None:
        watcher = self.connect("watcher")
        watcher.subscribe("will", 2)
        self.store.leave(WillLeft("two", "ana", 5, "will", b"once", 2, False))
        self.store.hold()
        for _ in range(2):
            done = self.harness.broker.inherit(succeed((1,)))
            self.settle()
            self.successResultOf(done)
        self.assertEqual(len(self.successResultOf(self.store.wills())), 2)
        self.store.resume()
        self.settle()
        self.assertEqual(payloads(watcher.received()), [b"gone", b"once"])
        self.assertEqual(self.successResultOf(self.store.wills()), [])

    def test_who_begins_anew_does_not_know_what_has_become_of_it(self) -> None:
        """Its heir may have died too, and this daemon be the next one."""
        self.store.hold()
        self.harness.broker.inherit(succeed((1,)))
        self.settle()
        self.harness.broker.begin_anew()
        self.settle()
        kept = [record for record, _ in self.store.waiting if isinstance(record, Kept)]
        self.assertEqual([record.payload for record in kept], [b"gone", b"gone"])

    def test_a_client_that_has_come_with_clean_session_has_ended_it(self) -> None:
        self.harness.connect("one", username="ana")
        self.inherit()
        self.assertEqual(self.successResultOf(self.store.inherited([1])), [])
        self.assertEqual(len(self.harness.broker.subscriptions), 0)
        self.assertEqual(self.harness.broker.connected, 1)

    def test_another_login_that_has_come_with_its_identifier_has_to_go(self) -> None:
        other = self.harness.connect("one", username="bob")
        self.inherit()
        self.assertTrue(other.closed)
        self.assertEqual(self.connect("one", username="ana").connack[:1], RESUMED)

    def test_what_the_start_has_read_is_there_once(self) -> None:
        self.store.ours = (1,)
        self.start(authority=Checked())
        client = self.connect("one", username="ana")
        self.inherit()
        self.assertEqual(self.harness.broker.connected, 1)
        self.assertEqual(client.connack[:1], RESUMED)
        self.assertEqual(len(self.harness.broker.subscriptions), 1)

    def test_two_that_die_at_once_are_inherited_one_after_the_other(self) -> None:
        self.store.hold(reads=True)
        self.store.available = True
        broker = self.harness.broker
        first, second = broker.inherit(succeed([1])), broker.inherit(succeed([]))
        self.store.resume()
        self.settle()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertIsNone(self.harness.broker.loading)

    def test_clients_wait_before_their_sessions_are_ours(self) -> None:
        """As soon as one is, in the store, a client would not find it, and would begin another one."""
        taken: Deferred[Sequence[int]] = Deferred()
        done = self.harness.broker.inherit(taken)
        publisher, waiting = self.harness.connect("publisher"), self.connect("one", username="ana")
        publisher.publish("t", b"meanwhile", 1, 7)
        self.settle()
        self.assertEqual(waiting.connack, [])
        self.assertNotIn(Puback(7), publisher.received())
        taken.callback([1])
        self.settle()
        self.successResultOf(done)
        came = waiting.received()
        self.assertEqual((came[:1], payloads(came)), (RESUMED, [b"before", b"meanwhile"]))
        self.assertIn(Puback(7), publisher.received())

    def test_who_waits_is_refused_when_nobody_knows_what_is_ours(self) -> None:
        taken: Deferred[Sequence[int]] = Deferred()
        done = self.harness.broker.inherit(taken)
        publisher, waiting = self.harness.connect("publisher"), self.connect("one", username="ana")
        publisher.publish("t", b"meanwhile", 1, 7)
        taken.cancel()
        self.settle()
        self.assertEqual(waiting.received(), UNAVAILABLE)
        self.assertNotIn(Puback(7), publisher.received())
        waiting = self.connect("one", username="ana")
        self.harness.advance(UNKNOWN)
        self.failureResultOf(done, CancelledError)
        self.assertEqual(waiting.received(), UNAVAILABLE)
        self.assertIn(Puback(7), publisher.received())
        self.assertIsNone(self.harness.broker.loading)
        self.inherit()
        self.assertEqual(self.connect("one", username="ana").connack[:1], RESUMED)

    def test_nobody_begins_a_session_anew_before_an_heir_tries_again(self) -> None:
        """Row 431: it may be ours already, and not in memory."""
        lost: Deferred[Sequence[int]] = Deferred()
        given_up = self.harness.broker.inherit(lost)
        lost.cancel()
        self.settle()
        waiting = self.connect("one", username="ana")
        taken: Deferred[Sequence[int]] = Deferred()
        done = self.harness.broker.inherit(taken)
        self.harness.advance(UNKNOWN)
        self.failureResultOf(given_up, CancelledError)
        self.assertEqual(waiting.received(), UNAVAILABLE)
        waiting = self.connect("one", username="ana")
        taken.callback([1])
        self.settle()
        self.successResultOf(done)
        self.assertEqual(waiting.received()[:1], RESUMED)

    def test_nobody_waits_for_an_heir_that_stops(self) -> None:
        taken: Deferred[Sequence[int]] = Deferred()
        done = self.harness.broker.inherit(taken)
        waiting = self.connect("one", username="ana")
        self.harness.broker.stop()
        self.settle()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(waiting.received(), UNAVAILABLE)
        taken.callback([1])  # its statement was under way: the next start finds them

    def test_clients_wait_without_a_break_for_one_heritage_after_another(self) -> None:
        first: Deferred[Sequence[int]] = Deferred()
        second: Deferred[Sequence[int]] = Deferred()
        done = [self.harness.broker.inherit(taken) for taken in (first, second)]
        first.callback([])
        waiting = self.connect("one", username="ana")
        self.settle()
        self.successResultOf(done[0])
        self.assertEqual(waiting.connack, [])
        second.callback([1])
        self.settle()
        self.successResultOf(done[1])
        self.assertEqual(waiting.received()[:1], RESUMED)


class Fenced(Daemons):
    def setUp(self) -> None:
        super().setUp()
        self.start()

    def fence(self) -> None:
        """Another daemon has taken this one for dead; nothing that it saves is committed."""
        self.store.hold()
        self.store.available = True

    def begin_anew(self) -> None:
        while self.store.waiting:
            self.store.refuse()
        self.store.fenced = True
        done = self.harness.broker.begin_anew()
        self.harness.turn()
        self.store.fenced = False
        self.store.resume()
        self.settle()
        self.successResultOf(done)

    def test_everybody_has_to_go_and_nothing_is_saved_of_it(self) -> None:
        will = Publish("will", b"gone", 0)
        clients = [self.connect("one", will=will), self.harness.connect("two", will=will)]
        clients[0].subscribe("t", 1)
        self.fence()
        records = list(self.store.records)
        self.begin_anew()
        self.assertEqual([client.closed for client in clients], [True, True])
        self.assertEqual(self.store.records, records)
        broker = self.harness.broker
        self.assertEqual((broker.connected, len(broker.sessions), len(broker.subscriptions)), (0, 0, 0))

    def test_no_message_is_acknowledged_that_was_not_committed(self) -> None:
        self.connect("one").subscribe("t", 1)
        absent = self.connect("absent")
        absent.subscribe("t", 1)
        absent.lose()
        publisher = self.harness.connect("publisher")
        self.fence()
        publisher.publish("t", b"saved", 1, 1)
        self.harness.connect("late").publish("t", b"saved", 1, 1)
        self.begin_anew()
        self.assertNotIn(Puback(1), publisher.received())

    def test_a_message_within_the_grace_is_not_acknowledged_either(self) -> None:
        self.connect("one").subscribe("t", 1)
        publisher = self.harness.connect("publisher")
        self.fence()
        publisher.publish("t", b"patient", 1, 1)
        self.begin_anew()
        self.assertNotIn(Puback(1), publisher.received())

    def test_a_message_whose_batch_is_under_way_is_answered_as_the_batch_ends(self) -> None:
        """Row 400."""
        absent = self.connect("absent")
        absent.subscribe("t", 1)
        absent.lose()
        publisher = self.harness.connect("publisher")
        self.fence()
        publisher.publish("t", b"under way", 1, 1)
        self.store.take()
        done = self.harness.broker.begin_anew()
        self.settle()
        self.assertNotIn(Puback(1), publisher.received())
        self.store.refuse()
        self.store.resume()
        self.settle()
        self.successResultOf(done)
        self.assertNotIn(Puback(1), publisher.received())

    def test_what_nobody_has_taken_is_there_again(self) -> None:
        self.connect("one").subscribe("t", 1)
        self.connect("two").subscribe("t", 1)
        self.store.ours = (2,)
        self.fence()
        self.begin_anew()
        self.assertEqual([session.client_id for session in self.harness.broker.sessions], ["two"])
        self.assertEqual(self.connect("two").connack[:1], RESUMED)

    def test_retained_messages_are_those_of_the_store(self) -> None:
        publisher = self.harness.connect("publisher")
        for topic in "a", "b":
            publisher.send(Publish(topic, b"old", 0, True))
        self.store.save(Cleared("a"))  # by another daemon
        self.fence()
        self.begin_anew()
        self.assertIsNone(self.harness.broker.retained.get("a"))
        self.assertIsNotNone(self.harness.broker.retained.get("b"))


class Links(SynchronousTestCase):
    def test_the_number_of_a_link_names_its_daemons_and_is_that_of_no_session(self) -> None:
        for ends in (1, 2), (2, 1), (32_767, 32_767), (1, 32_767):
            self.assertEqual(ends_of(link(*ends)), ends)
            self.assertTrue(-(2**31) < link(*ends) < 0)
