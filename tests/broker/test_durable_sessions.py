"""What is saved of durable Sessions, Retained Messages and Wills, and who waits for the commit."""

from typing import Any

from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.broker.records import (
    Absent,
    Begun,
    Cleared,
    Ended,
    Kept,
    Present,
    Release,
    Subscribed,
    Unsubscribed,
    WillGone,
    WillLeft,
)
from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Disconnect,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.broker.durability import ACCEPTED, RESUMED, UNAVAILABLE, SavingCase
from tests.broker.test_owners import Checked
from tests.logs import observe_lines
from tests.net.doubles import Store


class Durable(SavingCase):
    def setUp(self) -> None:
        self.start()

    def start(self, limits: Limits | None = None, **more: Any) -> None:
        self.store = MemorySessionStore()
        self.harness = BrokerHarness(limits=limits, sessions=self.store, **more)

    def connect(self, name: str = "one", **more: Any) -> FakeClient:
        return self.harness.connect(name, clean_session=False, **more)


class Sessions(Durable):
    def test_connack_of_a_new_session_waits_for_the_commit(self) -> None:
        self.store.hold()
        self.store.available = True
        client = self.connect(username="ana")
        self.assertEqual(client.connack, [])
        self.store.commit()
        self.assertEqual(client.received(), ACCEPTED)
        begun = self.saved(Begun)[0]
        self.assertEqual((begun.client_id, begun.username, begun.expiry), ("one", "ana", 86_400))

    def test_a_session_that_is_known_is_resumed_at_once(self) -> None:
        self.connect(username="ana").lose()
        self.store.hold()
        self.assertEqual(self.connect(username="ana").connack, RESUMED)
        self.store.resume()
        self.assertEqual(self.saved(Absent, Present), [Absent(1, 0), Present(1, "ana")])

    def test_a_client_that_comes_and_goes_meanwhile_leaves_its_last_word(self) -> None:
        self.connect()
        self.store.hold()
        for _ in range(100):
            self.connect()
        self.assertEqual(len(self.store.waiting), 1)
        self.store.resume()
        self.assertEqual(self.saved(Absent, Present), [Absent(1, 0), Present(1, None)])

    def test_a_clean_session_ends_it(self) -> None:
        self.connect()
        self.assertEqual(self.harness.connect("one").connack, ACCEPTED)
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])

    def test_another_login_ends_it_and_begins_its_own(self) -> None:
        self.connect()
        self.assertEqual(self.connect(username="bob").connack, ACCEPTED)
        self.assertEqual([begun.session for begun in self.saved(Begun)], [1, 2])
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])

    def test_the_login_of_another_is_refused(self) -> None:
        self.start(authority=Checked())
        self.connect(username="ana").lose()
        rejected = [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)]
        self.assertEqual(self.connect(username="bob").connack, rejected)
        self.assertEqual(self.saved(Ended), [])

    def test_it_ends_when_it_expires_or_is_one_too_many(self) -> None:
        self.start(Limits(max_absent_sessions=1, session_expiry=100))
        for name in ("one", "two"):
            self.connect(name).lose()
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])
        self.harness.advance(100)
        self.harness.broker.expire()
        self.assertEqual(self.saved(Ended), [Ended(1, "one"), Ended(2, "two")])

    def test_it_ends_when_it_is_dropped(self) -> None:
        client = self.connect()
        self.store.hold()
        session = self.harness.broker.sessions.get("one")
        assert session is not None
        self.harness.broker.drop(session, Reason.ADMINISTRATIVE, "ended")
        self.store.resume()
        self.assertTrue(client.closed)
        self.assertEqual(self.saved(Absent, Present, Ended), [Absent(1, 0), Ended(1, "one")])

    def test_its_last_word_is_not_said_after_its_end(self) -> None:
        self.connect()
        self.store.hold()
        self.connect().lose()
        self.harness.connect("one")
        self.store.resume()
        self.assertEqual(self.saved(Absent, Present, Ended), [Absent(1, 0), Ended(1, "one")])

    def test_memory_that_is_short_does_not_end_it(self) -> None:
        self.connect().lose()
        self.assertIsNone(self.harness.broker.sessions.longest_absent())

    def test_thousands_that_expire_at_once_end_in_several_turns(self) -> None:
        self.start(Limits(session_expiry=100))
        for number in range(1001):
            self.connect(f"client-{number}").lose()
        self.harness.advance(100)
        self.harness.broker.expire()
        self.assertEqual(self.harness.broker.sessions.absent, 501)
        self.harness.turn()
        self.harness.turn()
        self.assertEqual(self.harness.broker.sessions.absent, 0)
        self.assertEqual(self.harness.broker.traffic.sessions_expired, 1001)


class Away(Durable):
    """Row 320: the database is away."""

    def setUp(self) -> None:
        self.start()
        self.lines = observe_lines(self)

    def test_a_client_without_a_session_is_refused_in_clear_words(self) -> None:
        self.store.hold()
        client = self.connect()
        self.assertEqual((client.connack, client.closed), (UNAVAILABLE, True))
        self.assertIn("the database is away, and the client has no durable Session yet", self.lines[-1])
        self.assertFalse(self.store.waiting)

    def test_so_is_one_whose_session_is_not_durable(self) -> None:
        living = self.harness.connect("one")
        self.store.hold()
        self.assertEqual(self.connect().connack, UNAVAILABLE)
        self.assertFalse(living.closed)

    def test_clean_sessions_and_qos_0_go_on(self) -> None:
        self.store.hold()
        client = self.harness.connect("clean")
        client.subscribe("t", 1)
        client.publish("t", b"1", 1, 7)
        received = client.received()
        self.assertEqual(received, [Puback(7), Publish("t", b"1", 1, packet_id=1)])

    def test_a_session_that_can_never_be_stored_is_refused(self) -> None:
        self.store.hold()
        self.store.available = True
        client = self.connect()
        self.store.refuse()
        self.assertEqual(client.received(), UNAVAILABLE)
        self.assertIn("its Session cannot be stored: refused by the test", self.lines[-1])

    def test_a_record_that_nobody_waits_for_and_is_not_saved_is_named(self) -> None:
        client = self.connect()
        self.store.stop()
        client.lose()
        self.assertIn("Not saved, a record Absent: the daemon is stopping", self.lines[-1])

    def test_a_subscription_that_is_not_saved_closes_the_connection(self) -> None:
        client = self.connect()
        self.store.stop()
        client.subscribe("t", 1)
        self.assertTrue(client.closed)


class Subscriptions(Durable):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.connect()
        self.store.hold()

    def test_suback_waits_for_the_commit_and_retained_messages_follow(self) -> None:
        self.store.resume()
        self.harness.connect("other").publish("a", b"kept", 1, 1, retain=True)
        self.store.hold()
        filters = [Subscription("a", 1), Subscription("b", 2), Subscription("a", 0)]
        self.client.send(Subscribe(5, filters))
        self.assertEqual(self.client.received(), [])
        self.store.commit()
        self.harness.turn()
        self.assertEqual(
            self.client.received(), [Suback(5, [1, 2, 0]), Publish("a", b"kept", 0, retain=True)]
        )
        self.assertEqual(self.saved(Subscribed), [Subscribed(1, (("a", 0), ("b", 2)))])

    def test_what_is_refused_is_not_saved(self) -> None:
        self.client.send(Subscribe(5, [Subscription("$share//b", 1)]))
        self.assertEqual(self.client.received(), [Suback(5, [128])])

    def test_unsuback_waits_for_the_commit(self) -> None:
        self.store.resume()
        self.client.subscribe("a", 1)
        self.store.hold()
        self.client.send(Unsubscribe(6, ["a", "b", "a"]))
        self.assertEqual(self.client.received(), [])
        self.store.commit()
        self.assertEqual(self.client.received(), [Unsuback(6)])
        self.assertEqual(self.saved(Unsubscribed), [Unsubscribed(1, ("a", "b"))])

    def test_a_clean_session_waits_for_nothing(self) -> None:
        client = self.harness.connect("clean")
        client.send(Subscribe(5, [Subscription("a", 1)]), Unsubscribe(6, ["a"]))
        self.assertEqual(client.received(), [Suback(5, [1]), Unsuback(6)])
        self.assertFalse(self.store.waiting)


class Released(Durable):
    def test_pubcomp_waits_for_the_commit_of_one_release(self) -> None:
        handler = Store()
        self.start(table={"t": handler})
        client = self.connect()
        client.publish("t", b"1", 2, 7)
        handler.commit()
        self.assertEqual(client.received(), [Pubrec(7)])
        self.store.hold()
        client.send(Pubrel(7))
        self.assertEqual(client.received(), [])
        self.store.commit()
        self.assertEqual(client.received(), [Pubcomp(7)])
        self.assertEqual(self.saved(Release), [Release("one", 7)])
        self.assertEqual(len(handler.messages), 1)


class Retained(Durable):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.harness.connect("one", username="ana")

    def test_puback_of_a_retained_message_waits_for_the_commit(self) -> None:
        watcher = self.harness.connect("watcher")
        watcher.subscribe("t", 1)
        self.store.hold()
        self.client.publish("t", b"1", 1, 7, retain=True)
        self.assertEqual((self.client.received(), len(watcher.received())), ([], 1))
        self.store.commit()
        self.assertEqual(self.client.received(), [Puback(7)])
        self.assertEqual(self.saved(Kept), [Kept("t", b"1", 1, "one", "ana")])

    def test_so_does_that_of_one_that_clears_or_is_refused(self) -> None:
        self.start(Limits(max_retained_messages=1))
        client = self.harness.connect("one")
        client.publish("t", b"1", 1, 7, retain=True)
        client.received()
        self.store.hold()
        for topic, payload in ("one too many", b"1"), ("t", b""):
            client.publish(topic, payload, 1, 8, retain=True)
            self.assertEqual(client.received(), [])
            self.store.commit()
            self.assertEqual(client.received(), [Puback(8)])
        self.assertEqual(self.saved(Cleared), [Cleared("one too many"), Cleared("t")])

    def test_at_qos_0_it_is_saved_and_counts_as_unfinished(self) -> None:
        self.store.hold()
        self.client.publish("t", b"1", retain=True)
        self.assertEqual(self.harness.shared.flow.unfinished, 1)
        self.store.resume()
        self.assertEqual(self.harness.shared.flow.unfinished, 0)
        self.assertEqual(self.saved(Kept), [Kept("t", b"1", 0, "one", "ana")])

    def test_figures_of_the_process_end_with_it(self) -> None:
        self.harness.broker.announce("$SYS/broker/uptime", b"1 seconds", retain=True)
        self.harness.broker.announce("own", b"1", retain=True)
        self.assertEqual(self.saved(Kept), [Kept("own", b"1", 0, "", None)])
        self.assertEqual(len(self.harness.broker.retained), 2)


class Wills(Durable):
    def will(self, client_id: str = "one", **more: Any) -> FakeClient:
        return self.harness.connect(client_id, will=Publish("will", b"gone", 1), **more)

    def test_connack_does_not_wait_for_the_will(self) -> None:
        self.store.hold()
        self.assertEqual(self.will(username="ana").connack, ACCEPTED)
        self.store.resume()
        self.assertEqual(self.saved(WillLeft), [WillLeft("one", "ana", 1, "will", b"gone", 1, False)])

    def test_it_is_gone_when_it_is_discarded(self) -> None:
        self.will().send(Disconnect())
        self.assertEqual(self.saved(WillGone), [WillGone("one", 1)])

    def test_it_is_gone_when_it_is_published(self) -> None:
        self.will().lose()
        self.assertEqual(self.saved(WillGone), [WillGone("one", 1)])

    def test_it_stays_until_its_publication_is_committed(self) -> None:
        handler = Store()
        self.start(table={"will": handler})
        self.will().lose()
        self.assertEqual(self.saved(WillGone), [])
        handler.commit()
        self.assertEqual(self.saved(WillGone), [WillGone("one", 1)])

    def test_one_that_could_not_be_handled_is_left_to_the_next_start(self) -> None:
        handler = Store()
        self.start(table={"will": handler})
        self.will().lose()
        handler.answers[0].errback(RuntimeError("stopped"))
        self.assertEqual(self.saved(WillGone), [])
        self.assertEqual(self.harness.broker.clients.farewells.unfinished.count, 0)

    def test_take_overs_while_the_database_is_away_are_counted(self) -> None:
        self.store.hold()
        for _ in range(3):
            self.will().lose()
        self.assertEqual(self.harness.broker.clients.farewells.unfinished.count, 3)
        self.store.resume()
        self.assertEqual(self.harness.broker.clients.farewells.unfinished.count, 0)
