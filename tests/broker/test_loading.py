"""A start: what is read of the store, who waits for it meanwhile, and who is served."""

import gc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, fail
from twisted.internet.task import Clock

from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.records import (
    Absent,
    Delivery,
    Ended,
    Kept,
    Queued,
    Release,
    StoredSession,
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
    Unsubscribe,
)
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, OpenAuthority
from tests.broker.durability import ACCEPTED, RESUMED, UNAVAILABLE, SavingCase, payloads
from tests.broker.test_owners import Checked
from tests.logs import observe_lines
from tests.net.doubles import Store


class Away(MemorySessionStore):
    """A store whose reads fail while ``failing`` says why."""

    failing: Exception | None = None

    def wills(self) -> Any:
        return fail(self.failing) if self.failing is not None else super().wills()

    def sessions(self, after: int, limit: int) -> Any:
        return fail(self.failing) if self.failing is not None else super().sessions(after, limit)


class Loads(SavingCase):
    """A process that is killed is a broker that nobody uses any more; the next one has the same store."""

    limits: Limits | None = None
    store: Away

    def setUp(self) -> None:
        self.lines = observe_lines(self)
        self.now = 1_000_000.0
        self.store = Away(lambda: self.now)
        self.start()

    def start(self, **more: Any) -> None:
        """Begin another process, without an end of the one before."""
        limits = more.pop("limits", self.limits)
        self.harness = BrokerHarness(limits=limits, sessions=self.store, wall_clock=self.now, **more)

    def start_slowly(self, **more: Any) -> None:
        """Begin another process, which cannot read yet."""
        self.store.hold(reads=True)
        self.store.available = True
        self.start(**more)

    def connect(self, name: str = "one", **more: Any) -> FakeClient:
        return self.harness.connect(name, clean_session=False, **more)


class AfterAKill(Loads):
    def test_a_session_has_its_subscriptions_and_its_login(self) -> None:
        self.connect(username="ana").subscribe("t/+", 1)
        self.start(authority=Checked())
        rejected = [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)]
        self.assertEqual(self.connect(username="bob").connack, rejected)
        client = self.connect(username="ana")
        self.assertEqual(client.connack, RESUMED)
        self.harness.connect("other").publish("t/1", b"x", 1, 1)
        self.assertEqual(client.received(), [Publish("t/1", b"x", 1, packet_id=1)])
        self.assertEqual(len(self.harness.broker.subscriptions), 1)

    def test_its_filters_weigh_what_they_did(self) -> None:
        client = self.connect()
        weights = []
        for topic_filter in ("a/b/#", "x", "long/" * 80):
            client.subscribe(topic_filter, 1)
            before = self.harness.broker.sessions.get("one")
            self.start()
            after = self.harness.broker.sessions.get("one")
            assert before is not None
            assert after is not None
            self.assertEqual(after.levels, before.levels)
            weights.append(after.levels)
            client = self.connect()
        self.assertEqual(weights, [3, 4, 85])

    def test_a_session_that_was_unsubscribed_or_ended_is_not_there(self) -> None:
        client = self.connect()
        client.subscribe("t", 1)
        client.send(Unsubscribe(6, ["t"]))
        self.connect("two")
        self.harness.connect("two")
        self.start()
        self.assertEqual([session.client_id for session in self.harness.broker.sessions], ["one"])
        self.assertEqual(len(self.harness.broker.subscriptions), 0)

    def test_the_rules_are_asked_before_an_absent_client_gets_a_message(self) -> None:
        self.connect(username="ana").subscribe("t", 1)

        class Rules(OpenAuthority):
            restricts = True
            asked: list[tuple[str, str | None]] = []

            def may_receive(self, client: Client, topic: str) -> bool:
                self.asked.append((client.client_id, client.username))
                return False

        self.start(authority=Rules())
        self.harness.connect("other").publish("t", b"x", 1, 1)
        self.assertEqual(Rules.asked, [("one", "ana")])

    def test_a_retained_message_has_its_publisher(self) -> None:
        self.harness.connect("pub", username="ana").publish("t", b"x", 1, 1, retain=True)
        self.harness.broker.announce("own", b"y", retain=True)
        self.start()
        retained = self.harness.broker.retained
        self.assertEqual(retained.get("t"), Publish("t", b"x", 1, True))
        self.assertEqual(retained.publisher("t").username, "ana")
        self.assertEqual(retained.publisher("own").address, "server")
        self.assertEqual((len(retained), retained.bytes), (2, 6))

    def test_retained_messages_beyond_a_limit_stay_in_the_store(self) -> None:
        for topic in ("a", "b", "c"):
            self.harness.broker.announce(topic, b"x", retain=True)
        self.start(limits=Limits(max_retained_messages=2))
        self.assertEqual(len(self.harness.broker.retained), 2)
        self.assertIn("1 stored Retained Messages are too many (max_retained_messages", self.lines[-2])
        self.start()
        self.assertEqual(len(self.harness.broker.retained), 3)

    def test_a_clean_session_leaves_nothing(self) -> None:
        self.harness.connect("clean").subscribe("t", 1)
        self.start()
        self.assertEqual(len(self.harness.broker.sessions), 0)


class Expiry(Loads):
    limits = Limits(session_expiry=100, max_absent_sessions=3)

    def test_the_time_of_an_absent_client_runs_on(self) -> None:
        self.connect("one").lose()
        self.now += 60
        self.connect("two").lose()
        self.start()
        self.harness.advance(39)
        self.harness.broker.expire()
        self.assertEqual(self.harness.broker.sessions.absent, 2)
        self.harness.advance(1)
        self.harness.broker.expire()
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])

    def test_that_of_a_client_that_was_connected_begins(self) -> None:
        self.connect()
        self.now += 1000
        self.start()
        self.assertEqual(self.saved(Absent), [Absent(1, 0)])
        self.harness.advance(99)
        self.harness.broker.expire()
        self.assertEqual(self.saved(Ended), [])
        self.harness.advance(1)
        self.harness.broker.expire()
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])

    def test_a_clock_that_was_set_back_ends_nothing(self) -> None:
        self.connect().lose()
        self.now -= 1000
        self.start()
        self.harness.broker.expire()
        self.assertEqual(self.saved(Ended), [])

    def test_those_absent_longest_make_room(self) -> None:
        for name in ("one", "two", "three"):
            self.connect(name).lose()
            self.now += 1
        self.start(limits=Limits(max_absent_sessions=2))
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])
        self.assertEqual(self.harness.broker.traffic.sessions_ended_for_room, 1)
        self.assertIn("1 stored Sessions, of those absent longest, had to end (max_absent", self.lines[-2])


class Incoming(Loads):
    """QoS 2 messages that have come, and whose PUBREL has not."""

    def setUp(self) -> None:
        super().setUp()
        self.connect()
        delivery = Delivery("one", 7, False, b"digest")
        self.store.save(Queued("t", b"x", 0.0, {}, delivery))
        self.handler = Store()
        self.start(table={"t": self.handler})
        self.client = self.connect()

    def test_a_redelivery_is_not_routed_but_handled_and_released_once(self) -> None:
        """Row 330: handlers save in transactions of their own, and may not have come to it."""
        watcher = self.connect("watcher")
        watcher.subscribe("t", 1)
        again = Publish("t", b"x", 2, dup=True, packet_id=7)
        self.client.send(again)
        self.client.send(again)
        self.assertEqual((self.client.received(), self.handler.messages), ([], [again]))
        self.handler.commit()
        self.assertEqual((self.client.received(), watcher.received()), ([Pubrec(7), Pubrec(7)], []))
        self.client.send(Pubrel(7))
        self.assertEqual(self.client.received(), [Pubcomp(7)])
        self.assertEqual((self.saved(Release), self.store.identifiers), ([Release("one", 7)], {}))
        self.client.publish("t", b"y", 2, 7)
        self.assertEqual(len(self.handler.messages), 2)

    def test_a_redelivery_without_a_handler_is_answered_alone(self) -> None:
        self.start()
        client = self.connect()
        client.send(Publish("t", b"x", 2, dup=True, packet_id=7))
        self.assertEqual(client.received(), [Pubrec(7)])

    def test_it_is_released_without_being_sent_again(self) -> None:
        self.client.send(Pubrel(7))
        self.assertEqual((self.client.received(), self.store.identifiers), ([Pubcomp(7)], {}))

    def test_the_end_of_the_session_forgets_it(self) -> None:
        self.harness.connect("one")
        self.assertEqual(self.store.identifiers, {})


class Wills(Loads):
    def test_a_will_left_behind_is_published_once(self) -> None:
        watcher = self.connect("watcher")
        watcher.subscribe("will", 1)
        self.harness.connect("one", username="ana", will=Publish("will", b"gone", 2, True))
        self.now += 1
        handler = Store()
        self.start(table={"will": handler})
        self.assertEqual(handler.messages, [Publish("will", b"gone", 2, True)])
        self.assertEqual((handler.clients[0].client_id, handler.clients[0].username), ("one", "ana"))
        self.assertEqual(self.saved(WillGone), [])
        handler.commit()
        self.assertEqual(len(self.saved(WillGone)), 1)
        self.assertEqual(self.harness.broker.retained.get("will"), Publish("will", b"gone", 2, True))
        self.start()
        self.assertEqual(len(self.saved(WillGone)), 1)

    def test_the_rules_are_asked(self) -> None:
        self.harness.connect("one", will=Publish("will", b"gone", 1, True))

        class Rules(OpenAuthority):
            restricts = True

            def may_publish(self, client: Client, topic: str) -> bool:
                return False

        self.start(authority=Rules())
        self.assertEqual((len(self.harness.broker.retained), len(self.saved(WillGone))), (0, 1))

    def test_a_client_that_has_gone_leaves_none(self) -> None:
        self.harness.connect("one", will=Publish("will", b"gone")).send(Disconnect())
        handler = Store()
        self.start(table={"will": handler})
        self.assertEqual(handler.messages, [])

    def test_an_old_one_is_saved_as_a_message_before_its_client_leaves_another(self) -> None:
        """Row 333: that overwrites it."""
        self.connect("watcher").subscribe("will", 1)
        self.connect(will=Publish("will", b"old", 1))
        self.now += 1
        self.start_slowly()
        self.connect(will=Publish("will", b"new", 1))
        self.store.resume()
        texts = [record.payload for record in self.saved(Queued, WillLeft)]
        self.assertEqual(texts, [b"old", b"old", b"new"])

    def test_one_that_is_left_meanwhile_is_saved_when_the_old_ones_are_published(self) -> None:
        self.harness.connect("one", will=Publish("will", b"old"))
        self.now += 1
        handler = Store()
        self.start_slowly(table={"will": handler})
        self.harness.connect("one", will=Publish("will", b"new"))
        self.harness.connect("gone", will=Publish("will", b"meanwhile", 1)).lose()
        self.harness.connect("left", will=Publish("will", b"x")).send(Disconnect())
        self.assertEqual((len(self.store.waiting), handler.messages), (0, []))
        self.store.resume()
        self.assertEqual([message.payload for message in handler.messages], [b"old", b"meanwhile"])
        self.assertEqual([will.payload for will in self.saved(WillLeft)], [b"old", b"new"])
        handler.commit()
        self.start(table={"will": handler})
        self.assertEqual(handler.messages[-1].payload, b"new")


class Meanwhile(Loads):
    def setUp(self) -> None:
        super().setUp()
        client = self.connect()
        client.subscribe("t", 1)
        client.publish("kept", b"x", 1, 1, retain=True)
        self.start_slowly()

    def test_a_durable_session_waits(self) -> None:
        client = self.connect()
        self.assertEqual(client.connack, [])
        self.assertEqual(
            str(self.harness.broker.loading), "loading, 0 Sessions and 0 Retained Messages so far"
        )
        self.store.resume()
        self.assertEqual(client.received(), RESUMED)
        self.assertIsNone(self.harness.broker.loading)
        self.assertIn("Loaded 1 Sessions and 1 Retained Messages in 0.0 s", self.lines)

    def test_the_last_of_two_connections_stays(self) -> None:
        first, second = self.connect(), self.harness.connect("one")
        self.assertEqual((first.connack, second.connack), ([], []))
        self.store.resume()
        self.assertEqual((first.received(), second.received()), (RESUMED, ACCEPTED))
        self.assertEqual((first.closed, second.closed), (True, False))

    def test_a_connect_that_cannot_be_accepted_later_is_refused_then(self) -> None:
        class Rules(OpenAuthority):
            def may_publish(self, client: Client, topic: str) -> bool:
                return False

        self.start_slowly(authority=Rules())
        client = self.connect("two", will=Publish("will", b"x"))
        self.store.resume()
        self.assertEqual(client.received(), [Connack(False, ConnectReturnCode.NOT_AUTHORIZED)])

    def test_qos_0_and_clean_sessions_are_served(self) -> None:
        client = self.harness.connect("clean")
        client.subscribe("t")
        client.publish("t", b"0")
        self.assertEqual(client.received(), [Publish("t", b"0")])

    def test_the_retained_messages_of_a_clean_session_follow(self) -> None:
        client, other = self.harness.connect("clean"), self.harness.connect("other")
        client.send(Subscribe(5, [Subscription("kept", 1), Subscription("$share//b", 1)]))
        self.assertEqual(client.received(), [Suback(5, [1, 128])])
        for one in (client, other):
            one.subscribe("#", 0)
        client.send(Unsubscribe(6, ["#"]))
        client.received()
        other.received()
        other.lose()
        absent = self.harness.connect("absent")
        absent.subscribe("#", 0)
        self.store.resume()
        self.harness.turn()
        kept = [packet for packet in client.received() if isinstance(packet, Publish)]
        self.assertEqual(kept, [Publish("kept", b"x", 1, True, packet_id=1)])

    def test_messages_at_qos_1_and_2_wait_in_order(self) -> None:
        sender = self.harness.connect("sender")
        for number in (1, 2, 3):
            sender.publish("t", b"%d" % number, 1, number)
        sender.publish("t", b"4", 2, 4)
        self.assertEqual(sender.received(), [])
        self.store.resume()
        self.assertEqual(sender.received(), [Puback(1), Puback(2), Puback(3), Pubrec(4)])
        client = self.connect()
        self.assertEqual(payloads(client.connack), [b"1", b"2", b"3", b"4"])

    def test_a_sender_is_held_at_its_limit(self) -> None:
        self.start_slowly(limits=Limits(max_unfinished=10))
        sender = self.harness.connect("sender")
        for number in range(1, 31):
            sender.publish("t", b"x", 1, number)
        self.assertEqual(self.harness.shared.flow.unfinished, 10)
        self.store.resume()
        self.assertEqual(len(sender.received()), 30)

    def test_retained_messages_wait_for_the_older_ones(self) -> None:
        sender = self.harness.connect("sender")
        sender.publish("kept", b"", retain=True)
        self.harness.broker.announce("own", b"1", retain=True)
        self.harness.broker.announce("$SYS/uptime", b"1", retain=True)
        self.assertEqual(len(self.harness.broker.retained), 1)
        self.assertEqual(self.harness.broker.clients.farewells.unfinished.count, 1)
        self.store.resume()
        retained = self.harness.broker.retained
        self.assertEqual({message.topic for message in retained.match("+")}, {"own"})
        self.assertEqual(len(retained), 2)
        self.assertEqual(self.saved(Kept)[-1], Kept("own", b"1", 0, "", None))
        self.assertEqual(self.harness.broker.clients.farewells.unfinished.count, 0)

    def test_what_a_handler_announces_of_a_message_that_waited_need_not_wait(self) -> None:
        def handler(message: Publish, client: Client) -> None:
            self.harness.broker.announce("own", message.payload, retain=True)

        self.start_slowly(table={"t": handler})
        self.harness.connect("sender").publish("t", b"1", 1, 1)
        self.store.resume()
        self.assertEqual(self.harness.broker.retained.get("own"), Publish("own", b"1", 0, True))

    def test_a_message_that_breaks_a_handler_closes_its_connection_alone(self) -> None:
        def broken(message: Publish, client: Client) -> None:
            raise RuntimeError("a bug")

        self.start_slowly(table={"broken": broken})
        sender, other = self.harness.connect("sender"), self.harness.connect("other")
        sender.publish("broken", b"", 1, 1)
        other.publish("t", b"x", 1, 1)
        self.store.resume()
        self.assertEqual((sender.closed, other.received()), (True, [Puback(1)]))

    def test_a_newcomer_ends_the_session_of_its_identifier(self) -> None:
        self.harness.connect("one").lose()
        self.store.resume()
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])
        self.assertEqual((len(self.harness.broker.sessions), len(self.harness.broker.subscriptions)), (0, 0))

    def test_newcomers_beyond_what_can_be_remembered_wait(self) -> None:
        self.start_slowly(limits=Limits(max_unfinished_total=1))
        first, second = self.harness.connect("a"), self.harness.connect("b")
        self.assertEqual((first.connack, second.connack), (ACCEPTED, []))
        self.store.resume()
        self.assertEqual(second.received(), ACCEPTED)

    def test_a_newcomer_without_an_identifier_is_not_remembered(self) -> None:
        self.start_slowly(limits=Limits(max_unfinished_total=1))
        self.assertEqual([self.harness.connect("").connack for _ in range(3)], [ACCEPTED] * 3)


class Newcomers(Loads):
    def setUp(self) -> None:
        super().setUp()
        self.connect(username="ana").subscribe("t", 1)

    def test_another_login_takes_nothing(self) -> None:
        self.start_slowly(authority=Checked())
        newcomer = self.harness.connect("one", username="bob")
        self.assertEqual(newcomer.connack, ACCEPTED)
        self.store.resume()
        self.assertTrue(newcomer.closed)
        self.assertEqual(self.connect(username="ana").connack, RESUMED)

    def test_nor_when_it_has_gone_again(self) -> None:
        self.start_slowly(authority=Checked())
        self.harness.connect("one", username="bob").lose()
        self.store.resume()
        self.assertEqual(self.connect(username="ana").connack, RESUMED)

    def test_its_own_login_ends_it(self) -> None:
        self.start_slowly(authority=Checked())
        newcomer = self.harness.connect("one", username="ana")
        self.store.resume()
        self.assertFalse(newcomer.closed)
        self.assertEqual(self.saved(Ended), [Ended(1, "one")])


class Failing(Loads):
    """Row 321: the store cannot be read at the start."""

    def setUp(self) -> None:
        super().setUp()
        self.connect().subscribe("t", 1)
        self.store.failing = RuntimeError("no route to host")
        self.start()

    def test_it_is_read_again_and_again(self) -> None:
        self.assertIn("next try in 0.5 s: no route to host", self.lines[-1])
        for seconds in (0.5, 1, 2, 4, 8, 10, 10):
            self.harness.clock.advance(seconds)
        self.assertIn("next try in 10 s", self.lines[-1])
        self.store.failing = None
        self.harness.clock.advance(10)
        self.assertEqual(self.connect().connack, RESUMED)

    def test_clients_that_wait_are_refused_when_a_try_fails(self) -> None:
        client = self.connect()
        self.assertEqual(client.connack, [])
        self.harness.clock.advance(0.5)
        self.assertEqual((client.received(), client.closed), (UNAVAILABLE, True))
        self.assertTrue(any("the stored Sessions are not loaded" in line for line in self.lines))

    def test_and_at_once_while_the_database_is_known_to_be_away(self) -> None:
        self.store.available = False
        self.assertEqual(self.connect().connack, UNAVAILABLE)

    def test_messages_wait_and_the_rest_is_served(self) -> None:
        sender, watcher = self.harness.connect("sender"), self.harness.connect("watcher")
        watcher.subscribe("t")
        sender.publish("t", b"0")
        sender.publish("t", b"1", 1, 1)
        self.assertEqual((sender.received(), watcher.received()), ([], [Publish("t", b"0")]))
        self.store.failing = None
        self.harness.clock.advance(0.5)
        self.assertEqual((sender.received(), watcher.received()), ([Puback(1)], [Publish("t", b"1")]))

    def test_a_message_that_waits_is_new_to_who_subscribed_before(self) -> None:
        """And does not come again as the Retained Message that it becomes."""
        watcher, sender = self.harness.connect("watcher"), self.harness.connect("sender")
        watcher.subscribe("t", 1)
        watcher.received()
        sender.send(Publish("t", b"1", 1, True, packet_id=1))
        self.store.failing = None
        self.harness.clock.advance(0.5)
        self.harness.clock.pump([0] * 20)
        self.assertEqual(watcher.received(), [Publish("t", b"1", 1, packet_id=1)])

    def test_it_ends_when_the_broker_stops(self) -> None:
        loaded = self.harness.loaded
        self.harness.broker.stop()
        self.failureResultOf(loaded, CancelledError)
        self.store.failing = None
        self.harness.clock.advance(60)
        self.assertIsNotNone(self.harness.broker.loading)

    def test_a_read_can_be_cancelled(self) -> None:
        self.start_slowly()
        self.store.failing = None
        self.start()
        loaded = self.harness.loaded
        loaded.cancel()
        self.failureResultOf(loaded, CancelledError)


class Inherited(Loads):
    def test_whose_a_session_was_is_told_as_it_comes(self) -> None:
        self.connect("one").subscribe("t", 1)
        self.connect("two").subscribe("t", 1)
        answered: Callable[..., Any] = self.store.sessions

        def inherited(page: list[StoredSession]) -> list[StoredSession]:
            return [evolve(one, inherited_from=(5, 2)) if one.client_id == "two" else one for one in page]

        def sessions(after: int, limit: int) -> Any:
            return answered(after, limit).addCallback(inherited)

        self.store.sessions = sessions  # type: ignore[method-assign]
        self.start_slowly()
        told: list[tuple[int, Sequence[int]]] = []
        durable = self.harness.broker.durable
        assert durable is not None
        durable.was_inherited = lambda session, daemons: told.append((session, daemons))
        self.store.resume()
        [two] = [session for session in self.harness.broker.sessions if session.client_id == "two"]
        self.assertEqual(told, [(two.number, (5, 2))])


class Strange(Loads):
    """Row 322: a stored Session that cannot be read."""

    def test_it_keeps_no_other_from_its_messages(self) -> None:
        self.connect("two").subscribe("t", 1)
        broken: Any = {"a": 1, None: 1}
        stored = StoredSession(7, "one", None, 0, None, broken, 0, 0, 0, 0, ())
        store = self.store
        answered: Callable[..., Any] = store.sessions

        def sessions(after: int, limit: int) -> Any:
            return answered(after, limit).addCallback(lambda page: [stored, *page] if not after else page)

        store.sessions = sessions  # type: ignore[method-assign]
        self.start()
        self.assertEqual([session.client_id for session in self.harness.broker.sessions], ["two"])
        self.assertEqual(len(self.harness.broker.subscriptions), 1)
        self.assertEqual(self.harness.broker.traffic.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


class Busy(Clock):
    """A clock on which looking at it takes 1 ms.

    :ivar turns: when something was put off to the next turn of the reactor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[float] = []

    def seconds(self) -> float:
        self.rightNow += 0.001
        return super().seconds()

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
        if not delay:
            self.turns.append(self.rightNow)
        return super().callLater(delay, callable, *args, **kw)


class Turns(Loads):
    """Row 323: thousands of clients reconnect at once, while Sessions are loaded."""

    def test_loading_and_reconnecting_take_many_turns_and_leave_nobody_out(self) -> None:
        names = [f"client-{number}" for number in range(2500)]
        for name in names:
            self.connect(name).subscribe(f"t/{name}", 1)
        self.connect("many").send(Subscribe(5, [Subscription(f"a/{number}", 1) for number in range(250)]))
        clock = Busy()
        self.addCleanup(gc.unfreeze)
        self.start_slowly(clock=clock, limits=Limits(connect_deadline=1000))
        clients = [self.connect(name) for name in names[:300]]
        clock.turns.clear()
        self.store.resume()
        self.harness.turn()
        self.assertGreater(len(clock.turns), 2 * (2 * 2500 + 300) / 6)
        self.assertLess(max(after - before for before, after in pairwise(clock.turns)), 0.015)
        self.assertEqual([client.received() for client in clients], [RESUMED] * 300)
        self.assertEqual(self.store.reads["sessions"], 1 + 3)
        self.assertEqual(len(self.harness.broker.subscriptions), 2750)
        self.assertTrue(gc.isenabled())

    def test_the_next_page_is_read_while_one_is_put_into_memory(self) -> None:
        for number in range(50):
            self.connect(f"client-{number}")
        self.start_slowly(clock=Busy())
        self.store.resume()
        loaded, loading = self.harness.loaded, self.harness.broker.loading
        assert loading is not None
        self.assertEqual((loading.sessions, self.store.reads["sessions"]), (50, 1 + 2))
        self.assertLess(len(self.harness.broker.sessions), 50)
        loaded.cancel()
        self.failureResultOf(loaded, CancelledError)
