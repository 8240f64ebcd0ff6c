"""A durable Session moves with its client to another daemon, in the midst of traffic."""

from collections import Counter
from typing import Any, NoReturn

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from twisted.internet.defer import CancelledError, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.reasons import Reason
from platziverse.broker.records import StoredSession, link
from platziverse.cluster.codec import encode
from platziverse.cluster.delaying import LENGTH
from platziverse.cluster.figures import Figures
from platziverse.cluster.frames import (
    BUSY,
    NEWER,
    Aborted,
    Closed,
    Followed,
    Free,
    LetGo,
    Marked,
    Message,
    Moved,
    Ready,
    Refused,
    Several,
)
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Disconnect, Properties, Puback, Publish
from platziverse.testing import FakeClient, OpenAuthority
from tests.cluster.daemons import Daemon, Daemons
from tests.cluster.shares import Share, Table
from tests.cluster.test_cluster import published
from tests.cluster.test_identifiers import Checked
from tests.cluster.test_links import acknowledge, acknowledgements
from tests.logs import observe_lines


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemons, self.table = Daemons(), Table()
        self.shares = {number: Share(self.table, number) for number in (1, 2, 3)}
        self.all = {number: self.begin(number) for number in (1, 2, 3)}
        self.one, self.two, self.three = self.all.values()
        self.lines = observe_lines(self)

    def begin(self, number: int) -> Daemon:
        return self.daemons.begin(number, sessions=self.shares[number])

    def settle(self, seconds: float = 0.5) -> None:
        self.daemons.advance(seconds)

    def come(self, daemon: Daemon, client_id: str = "m", **fields: object) -> FakeClient:
        """Connect a client whose Session may be somewhere else, and let some time pass."""
        client = daemon.harness.connect(client_id, clean_session=False, **fields)
        self.settle(0.3)
        client.connack += client.received()
        return client

    def durable(self, daemon: Daemon, qos: int = 2) -> FakeClient:
        return daemon.listening("m", "a", qos, clean_session=False)

    def present(self, client: FakeClient) -> bool:
        connack = client.connack[0]
        assert isinstance(connack, Connack)
        self.assertEqual(connack.return_code, 0)
        return connack.session_present


class MoveTests(Case):
    def test_what_waits_moves_with_the_session(self) -> None:
        self.durable(self.one).lose()
        publisher = self.three.connect("publisher")
        for qos in (1, 2):
            publisher.publish("a", b"%d" % qos, qos, qos)
        self.settle()
        self.daemons.advance(1)
        far = self.come(self.two)
        self.assertTrue(self.present(far))
        self.assertEqual(acknowledge(far), [b"1", b"2"])
        self.assertIsNone(self.one.broker.sessions.get("m"))
        self.assertEqual(list(self.table.owners.values()), [2])
        publisher.publish("a", b"3", 2, 3)
        self.settle()
        self.assertEqual(acknowledge(far), [b"3"])
        self.assertIn("The Session of 'm' has moved from daemon 1 to daemon 2, with its client", self.lines)

    def test_clean_start_ends_it_although_the_next_one_is_kept(self) -> None:
        """[MQTT5-3.1.2-4] [MQTT5-3.2.2-2]"""
        self.durable(self.one).lose()
        self.three.connect("publisher").publish("a", b"x", 1, 1)
        self.settle()
        kept = Properties(session_expiry_interval=100)
        far = self.two.harness.connect("m", protocol_level=5, properties=kept)
        self.settle()
        far.connack += far.received()
        self.assertFalse(self.present(far))
        self.assertEqual(len(far.connack), 1)
        for daemon in (self.one, self.two):
            self.assertEqual(len(daemon.broker.subscriptions), 0)
        far.lose()
        self.assertTrue(self.present(self.come(self.three, protocol_level=5, properties=kept)))

    def test_clean_start_elsewhere_publishes_the_will_that_waits(self) -> None:
        """[MQTT5-3.1.3-9]: the Session has ended, whether its client was still connected or not."""
        watcher, kept = self.three.listening("watcher", "w"), Properties(session_expiry_interval=100)
        fields: dict[str, Any] = {"protocol_level": 5, "properties": kept, "clean_session": False}
        for connected in False, True:
            near = self.one.connect("m", will=Publish("w", b"x"), will_delay=50, **fields)
            if not connected:
                near.lose()
            self.daemons.advance(1)
            self.assertEqual(published(watcher), [])
            far = self.two.harness.connect("m", **(fields | {"clean_session": True}))
            self.settle()
            self.assertEqual(len(published(watcher)), 1)
            self.assertEqual((near.closed, len(self.one.broker.clients.farewells.delayed)), (True, 0))
            far.send(Disconnect())
            self.settle()

    def test_a_connection_there_is_closed(self) -> None:
        near = self.durable(self.one)
        self.daemons.advance(1)
        far = self.come(self.two)
        self.assertTrue(near.closed)
        self.assertTrue(self.present(far))

    def test_one_that_has_come_takes_no_answer_of_another(self) -> None:
        for client_id, daemon in (("m", self.one), ("n", self.three)):
            daemon.listening(client_id, client_id, 1, clean_session=False).lose()
        self.daemons.advance(1)
        self.shares[1].held = self.shares[3].held = True
        near, far = self.come(self.two), self.come(self.two, "n")
        for client, share in ((near, self.shares[1]), (far, self.shares[3])):
            share.resume()
            self.settle(0.3)
            client.connack += client.received()
            self.assertTrue(client.connack)
            self.assertTrue(self.present(client))

    def test_what_others_are_told_meanwhile_does_not_hold_it_up(self) -> None:
        self.durable(self.one).lose()
        self.daemons.advance(1)
        other, ear = self.two.connect("other"), self.three.bus.ear
        ear.slow = True
        client = self.two.harness.connect("m", clean_session=False)
        self.daemons.turn()
        other.subscribe("b", 0)
        self.daemons.turn()
        ear.hear(1)
        self.daemons.turn()
        ear.slow = False
        ear.hear()
        self.daemons.turn()
        client.connack += client.received()
        self.assertTrue(client.connack)
        self.assertTrue(self.present(client))

    def lose(self, *daemons: Daemon) -> None:
        """Have daemons miss what daemon 3 publishes, and find that out; they are not told the rows yet.

        What it is are the numbers from 1 to 250.
        """
        publisher = self.three.connect("publisher")
        for daemon in daemons:
            self.shares[daemon.number].slow = daemon.bus.ear.losing = True
        for number in range(1, 251):
            publisher.publish("a", b"%d" % number, 1, number)
        self.settle()
        for daemon in daemons:
            daemon.bus.ear.losing = False
            self.three.cluster.peers.tell(daemon.number, Ready(0))
        self.daemons.turn()

    def read(self, daemon: Daemon) -> None:
        """Answer all pages that a daemon asks for."""
        share = self.shares[daemon.number]
        share.slow = False
        share.answer()
        self.settle(0.3)

    def test_a_session_comes_when_what_was_lost_is_read(self) -> None:
        """Otherwise rows wait for the Session, and the Session for rows. ADR 0183."""
        self.durable(self.one).lose()
        near = self.two.listening("near", "a", 1, clean_session=False)
        self.daemons.advance(1)
        self.lose(self.one, self.two)
        far = self.two.harness.connect("m", clean_session=False)
        self.settle(0.3)
        self.read(self.two)
        self.assertEqual(self.all_that_comes(near), [b"%d" % number for number in range(1, 251)])
        self.read(self.one)
        far.connack += far.received()
        self.assertTrue(self.present(far))
        self.assertEqual(self.all_that_comes(far), [b"%d" % number for number in range(1, 251)])

    def all_that_comes(self, client: FakeClient) -> list[bytes]:
        found: list[bytes] = []
        while payloads := acknowledge(client):
            found += payloads
            self.daemons.turn()
        return found

    def test_no_message_waits_while_its_daemon_reads_what_was_lost(self) -> None:
        self.durable(self.one).lose()
        near = self.two.listening("near", "a", 1, clean_session=False)
        self.daemons.advance(1)
        self.lose(self.one)
        far = self.two.harness.connect("m", clean_session=False)
        self.settle(0.3)
        publisher = self.two.connect("another")
        publisher.publish("a", b"251", 1, 251)
        self.daemons.turn()
        self.assertEqual(self.all_that_comes(near)[-1], b"251")
        self.read(self.one)
        far.connack += far.received()
        self.assertTrue(self.present(far))
        self.assertEqual(set(self.all_that_comes(far)), {b"%d" % number for number in range(1, 252)})

    def test_one_that_was_inherited_meanwhile_is_not_ended(self) -> None:
        self.durable(self.one).lose()
        self.three.connect("publisher").publish("a", b"1", 1, 1)
        self.daemons.advance(1)
        moving = self.one.broker.moving
        assert moving is not None
        stored: list[StoredSession] = []
        self.shares[1].inherited(list(self.table.owners)).addCallback(stored.extend)
        for _ in moving.take_in(stored[0], ()):
            pass
        self.settle()
        self.assertEqual(list(self.table.owners.values()), [1])
        self.assertEqual(acknowledge(self.come(self.one)), [b"1"])

    def test_a_message_is_not_compared_with_sessions_of_other_topics(self) -> None:
        class Unseen(dict[int, int]):
            """Cuts that nobody may look at."""

            def get(self, *_: object) -> NoReturn:
                raise AssertionError("it was compared")

        delaying = self.two.cluster.routing.delaying
        others = [delaying.begin([f"other/{number}"]) for number in range(2)]
        for each in others:
            delaying.cut(each, Unseen())
        mine = delaying.begin(["a/+"])
        publisher = self.two.connect("publisher")
        publisher.publish("a/b", b"", 1, 1)
        self.daemons.turn()
        delaying.end(others[0])
        self.daemons.turn()
        self.assertEqual(publisher.received(), [])
        for _ in range(2):
            delaying.end(mine)
        self.daemons.turn()
        self.assertEqual(publisher.received(), [Puback(1)])


class RefusalTests(Case):
    def refused(self, client: FakeClient) -> int:
        connack = client.connack[0]
        assert isinstance(connack, Connack)
        return connack.return_code

    def test_a_bus_that_is_away_refuses_the_client_and_keeps_the_session(self) -> None:
        """Row 420."""
        self.durable(self.one).lose()
        self.one.bus.ear.deaf = True
        far = self.come(self.two)
        self.assertEqual(far.connack, [])
        self.settle(4)
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)
        self.one.bus.ear.deaf = False
        self.settle(4)
        again = self.come(self.two)
        self.settle(2)
        again.connack += again.received()
        self.assertTrue(self.present(again))

    def test_a_daemon_that_is_dead_is_waited_for_until_there_is_an_heir(self) -> None:
        """Row 421."""
        self.durable(self.one).lose()
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        far = self.come(self.two)
        self.settle(4)
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)
        far = self.come(self.two)
        numbers = self.table.inherit(1, 2)
        self.successResultOf(self.two.cluster.inheriting.inherit(1, succeed(numbers)))
        self.settle(1)
        far.connack += far.received()
        self.assertTrue(self.present(far))

    def test_a_daemon_that_dies_meanwhile_is_inherited_from(self) -> None:
        self.durable(self.one).lose()
        publisher = self.three.connect("publisher")
        self.shares[1].held = True
        far = self.come(self.two)
        publisher.publish("a", b"x", 2, 1)
        self.settle(0.2)
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.settle(4)
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)
        numbers = self.table.inherit(1, 2)
        self.successResultOf(self.two.cluster.inheriting.inherit(1, succeed(numbers)))
        self.settle(1)
        far = self.come(self.two)
        self.assertTrue(self.present(far))
        self.settle(1)
        self.assertEqual(acknowledge(far), [b"x"])

    def test_a_newer_connection_there_stays(self) -> None:
        near = self.durable(self.one)
        self.one.cluster.frame(2, encode(LetGo(1, "m", None, 0.0), 1))
        self.settle()
        self.assertFalse(near.closed)

    def test_an_older_connection_is_refused_when_it_is_told(self) -> None:
        self.durable(self.one).lose()
        self.shares[1].held = True
        far = self.two.harness.connect("m", clean_session=False)
        self.daemons.turn()
        self.two.cluster.frame(1, encode(Refused(1, NEWER), 1))
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)

    def test_a_daemon_that_does_not_answer_keeps_every_session_where_it_is(self) -> None:
        """Row 422."""
        self.durable(self.one)
        self.three.bus.ear.deaf = True
        far = self.come(self.two)
        self.settle(4)
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)
        self.assertEqual(list(self.table.owners.values()), [1])

    def test_words_about_sessions_that_nobody_moves_change_nothing(self) -> None:
        for frame in (
            Followed(9),
            Moved(9),
            Aborted(9),
            Closed(9),
            Free(9, (), ()),
            Refused(9, 0),
            Marked(9, 1, 1),
        ):
            self.one.cluster.frame(2, encode(frame, 1))
        self.one.cluster.frame(2, encode(LetGo(9, "nobody", None, 0.0), 1))
        self.settle()
        self.assertEqual(self.one.cluster.ignored, 0)
        alone = self.daemons.begin(4)
        alone.cluster.frame(2, encode(Closed(9), 1))
        self.assertEqual(alone.cluster.ignored, 0)

    def test_a_store_that_takes_nothing_more_leaves_the_session_to_others(self) -> None:
        self.durable(self.one).lose()
        self.shares[2].losing = True
        far = self.come(self.two)
        self.settle(4)
        far.connack += far.received()
        self.assertEqual(self.refused(far), 3)
        self.settle(3)
        self.assertEqual(list(self.table.owners.values()), [1])
        self.assertTrue(self.present(self.come(self.one)))


class DelayTests(Case):
    """What Delaying keeps, and when it lets it go."""

    def setUp(self) -> None:
        super().setUp()
        self.delaying = self.one.cluster.routing.delaying
        self.publisher = self.one.connect("publisher")

    def test_a_message_waits_whole_and_in_order(self) -> None:
        near = self.one.listening("near", "a", 2, clean_session=False)
        delay = self.delaying.begin(["a", "$SYS/#"])
        for number in (1, 2):
            self.publisher.publish("a", b"%d" % number, 2, number)
        self.publisher.publish("a", b"kept", 1, 3, retain=True)
        self.publisher.publish("b", b"other", 1, 4)
        self.publisher.publish("a", b"at once", 0)
        self.settle()
        self.assertEqual(acknowledge(near), [b"at once"])
        self.assertEqual(self.publisher.received(), [])  # in the order in which they were sent
        self.delaying.end(delay)
        self.settle()
        self.assertEqual(acknowledge(near), [b"1", b"2", b"kept"])
        self.assertEqual(Figures(self.one.cluster).delayed, 3)

    def test_what_two_wait_for_waits_for_both(self) -> None:
        near = self.one.listening("near", "a", 1)
        delays = [self.delaying.begin(["a"]), self.delaying.begin(["#"])]
        self.publisher.publish("a", b"1", 1, 1)
        for delay in delays:
            self.assertEqual(acknowledge(near), [])
            self.delaying.end(delay)
        self.assertEqual(acknowledge(near), [b"1"])

    def test_a_message_of_another_daemon_waits_behind_its_cut(self) -> None:
        near = self.durable(self.two, 1)
        delaying, publisher = self.two.cluster.routing.delaying, self.publisher
        publisher.publish("a", b"1", 1, 1)
        self.settle()
        delay = delaying.begin(["a"])
        for number in (2, 3):
            publisher.publish("a", b"%d" % number, 1, number)
        self.settle()
        clear = [delaying.when_clear(["a"]) for _ in range(2)]
        clear[1].addErrback(lambda failure: None).cancel()
        self.assertNoResult(clear[0])
        delaying.cut(delay, {1: (1 << 40) + 2})
        self.settle()
        self.assertEqual(acknowledge(near), [b"1", b"2"])
        self.assertNoResult(clear[0])
        delaying.cut(delay, {1: (1 << 40) + 3})
        self.assertEqual(acknowledge(near), [b"3"])
        self.successResultOf(clear[0])
        self.assertIsNone(delaying.keep("a", lambda: None, 1, 1 << 40))
        self.successResultOf(delaying.when_clear(["a"]))
        delaying.end(delay)

    def test_what_is_owed_to_nobody_comes_behind_what_has_waited(self) -> None:
        """Nobody there is known to be owed anything, by then."""
        live, cluster = self.two.listening("live", "a", 1), self.two.cluster
        delaying, got = cluster.routing.delaying, list[object]()
        delay = delaying.begin(["a"])

        def first() -> None:
            cluster.frame(1, encode(Message("a", b"1", 1), 1))
            cluster.frame(1, encode(Several(Message("a", b"", 1), (b"2", b"3")), 1))
            cluster.frame(1, encode(Message("b", b"", 1), 1))

        delaying.keep("a", first)
        delaying.keep("a", lambda: got.extend(live.received()))
        delaying.end(delay)
        self.assertEqual(got, [])
        self.settle()
        self.assertEqual(acknowledge(live), [b"1", b"2", b"3"])

    def test_what_has_waited_without_a_position_is_not_for_a_session_that_comes(self) -> None:
        """It was owed to the Session where it was. ADR 0199."""
        self.durable(self.one).lose()
        live = self.two.listening("live", "#", 2)
        self.daemons.advance(1)
        publisher = self.three.connect("publisher")
        self.deliver_slowly(60)
        publisher.publish("a", b"x", 2, 1)
        far = self.come(self.two)
        self.settle()
        self.assertTrue(self.present(far))
        self.assertEqual(acknowledge(far), [b"x"])
        self.assertEqual(acknowledge(live), [b"x"])

    def deliver_slowly(self, turns: int) -> None:
        """Have daemon 2 deliver what has waited for a Session, in so many turns of the reactor."""

        def deliver() -> None:
            self.daemons.clock.rightNow += LENGTH

        delaying = self.two.cluster.routing.delaying
        delay = delaying.begin(["a"])
        for _ in range(turns):
            delaying.keep("a", deliver)
        delaying.end(delay)
        self.assertTrue(delaying.delivers("a"))

    def test_an_answer_that_ends_another_delay_does_not_change_the_order(self) -> None:
        near = self.one.listening("near", "a", 0)
        delays = [self.delaying.begin(["a"]), self.delaying.begin(["b"])]
        order: list[str] = []

        def came(_: object, topic: str) -> None:
            order.append(topic)
            if len(order) == 1:
                self.delaying.end(delays[1])

        for topic in ("a", "a", "b"):
            kept = self.delaying.keep(topic, lambda: None)
            assert kept is not None
            kept.addCallback(came, topic)
        self.delaying.end(delays[0])
        self.assertEqual(order, ["a", "a", "b"])
        self.assertEqual(near.received(), [])

    def test_who_was_taken_for_dead_answers_nobody(self) -> None:
        self.delaying.begin(["a"])
        self.publisher.publish("a", b"1", 1, 1)
        self.daemons.members.fence(1)
        self.settle()
        self.assertNotIn(Puback(1), self.publisher.received())


class LastStepsTests(Case):
    """What comes between, when a Session is nearly there."""

    def approach(self, client_id: str = "m") -> FakeClient:
        """Connect a client to daemon 2 whose Session daemon 1 has freed, and which is not taken yet."""
        self.durable(self.one).lose()
        self.shares[2].held = True
        far = self.two.harness.connect(client_id, clean_session=False)
        self.daemons.turn()
        self.shares[2].commit()  # nothing begins
        self.settle(0.2)
        self.assertEqual(list(self.table.owners.values()), [-1])
        return far

    def refused_after(self, far: FakeClient, seconds: float = 4) -> None:
        self.settle(seconds)
        self.assertEqual(far.received(), [Connack(False, ConnectReturnCode.SERVER_UNAVAILABLE)])

    def test_a_session_that_is_not_taken_in_time_is_back(self) -> None:
        """Row 423."""
        far = self.approach()
        self.settle(1.2)
        self.assertEqual(list(self.table.owners.values()), [1])
        self.refused_after(far)
        self.shares[2].resume()
        self.settle(2)
        self.assertEqual(list(self.table.owners.values()), [1])
        self.assertTrue(self.present(self.come(self.one)))

    def test_a_client_that_comes_with_clean_session_1_meanwhile_ends_it(self) -> None:
        far = self.approach()
        far.lose()
        self.settle(0.1)
        self.three.connect("m")
        self.shares[2].resume()
        self.settle(4)
        self.assertIsNone(self.two.broker.sessions.get("m"))
        self.assertEqual(self.table.owners, {})

    def test_a_word_that_is_lost_is_found_in_the_store(self) -> None:
        far = self.approach()
        self.one.bus.ear.deaf = True
        self.shares[2].resume()
        self.settle(0.2)
        self.assertIsNotNone(self.one.broker.sessions.get("m"))
        self.settle(1.5)
        self.assertIsNone(self.one.broker.sessions.get("m"))
        self.assertEqual(far.received()[0], Connack(True, ConnectReturnCode.ACCEPTED))
        self.assertEqual(Figures(self.two.cluster).moved, {"come": 1, "gone": 0, "refused": 0})

    def test_who_comes_again_waits_for_the_same(self) -> None:
        self.approach()
        taking = self.two.cluster.moves
        assert taking is not None
        again = taking.taking.take("m", None, 0.0)
        self.shares[2].resume()
        self.settle(0.2)
        self.assertIs(self.successResultOf(again), self.two.broker.sessions.get("m"))

    def test_a_session_that_an_operator_ends_does_not_go(self) -> None:
        self.durable(self.one).lose()
        self.shares[1].held = True
        far = self.come(self.two)
        session = self.one.broker.sessions.get("m")
        assert session is not None
        self.one.broker.drop(session, Reason.ADMINISTRATIVE, "by an operator")
        self.shares[1].resume()
        self.settle(2)
        self.assertEqual(far.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_a_client_that_has_begun_anew_after_it_was_refused_has_ended_it(self) -> None:
        far = self.approach()
        self.shares[1].held = True
        self.refused_after(far)
        new = self.two.connect("m")
        self.shares[2].resume()
        self.settle(0.2)
        self.assertFalse(new.closed)
        self.assertEqual(self.table.owners, {})

    def test_a_session_that_stays_after_all_is_asked_for_again(self) -> None:
        self.durable(self.one).lose()
        self.three.bus.ear.deaf = True  # so nobody has caught up
        far = self.two.harness.connect("m", clean_session=False)
        self.settle(0.2)
        self.two.cluster.frame(3, encode(Ready(1), 1))
        self.daemons.turn()
        self.two.cluster.frame(1, encode(Refused(1, BUSY), 1))
        self.three.bus.ear.deaf = False
        self.settle(4)
        self.assertEqual(len(far.received()), 1)

    def test_a_session_that_has_gone_somewhere_else_is_looked_for(self) -> None:
        self.durable(self.one).lose()
        self.shares[1].held = True
        far = self.two.harness.connect("m", clean_session=False)
        self.daemons.turn()
        (number,) = self.table.owners
        self.table.owners[number] = 3
        self.shares[1].resume()
        self.refused_after(far)

    def test_a_daemon_that_is_late_is_not_counted_on(self) -> None:
        self.durable(self.one).lose()
        self.three.bus.ear.deaf = True
        self.two.listening("another", "b")
        self.settle(4)
        self.refused_after(self.two.harness.connect("m", clean_session=False))

    def test_a_session_stays_when_its_new_daemon_dies(self) -> None:
        self.durable(self.one).lose()
        publisher = self.one.connect("publisher")
        self.shares[1].held = True
        self.two.harness.connect("m", clean_session=False)
        self.daemons.turn()
        self.shares[1].commit()
        publisher.publish("a", b"x", 2, 1)
        self.daemons.turn()
        self.shares[2].kill()
        self.daemons.members.leave(2, dead=True)
        self.shares[1].resume()
        self.settle()
        self.assertEqual(list(self.table.owners.values()), [1])
        self.assertEqual(acknowledge(self.come(self.one)), [b"x"])

    def test_an_owner_hears_that_nobody_wants_it_any_more(self) -> None:
        self.durable(self.one).lose()
        self.shares[1].held = True
        self.two.harness.connect("m", clean_session=False)
        self.daemons.turn()
        self.two.cluster.frame(1, encode(Refused(1, NEWER), 1))
        self.shares[1].resume()
        self.settle(0.2)
        self.assertEqual(list(self.table.owners.values()), [1])

    def test_a_daemon_that_leaves_meanwhile_is_no_longer_asked(self) -> None:
        self.durable(self.one).lose()
        asked = self.one.cluster.linking
        assert asked is not None
        caught_up = asked.catch_up()
        self.daemons.members.leave(3)
        self.settle()
        self.failureResultOf(caught_up, CancelledError)

    def test_what_is_owed_to_the_dead_comes_with_the_session(self) -> None:
        self.durable(self.one).lose()
        publisher = self.three.connect("publisher")
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        numbers = self.table.inherit(1, 2)
        self.three.bus.ear.losing = True
        self.successResultOf(self.two.cluster.inheriting.inherit(1, succeed(numbers)))
        self.settle(2.5)
        publisher.publish("a", b"late", 2, 1)  # to the dead: it has not heard of the heir
        self.settle(0.2)
        self.three.bus.ear.losing = False
        far = self.come(self.three)
        self.settle(2)
        far.connack += far.received()
        self.assertTrue(self.present(far))
        self.assertEqual(set(acknowledge(far)), {b"late"})


class LoginTests(SynchronousTestCase):
    def begin(self, authority: type[OpenAuthority]) -> tuple[Daemon, Daemon, Daemons]:
        daemons, table = Daemons(), Table()
        one, two = (
            daemons.begin(number, sessions=Share(table, number), authority=authority()) for number in (1, 2)
        )
        one.listening("m", "a", 1, clean_session=False, username="ana").lose()
        daemons.advance(1)
        return one, two, daemons

    def test_a_session_of_another_login_is_refused(self) -> None:
        one, two, daemons = self.begin(Checked)
        far = two.harness.connect("m", clean_session=False, username="bob")
        daemons.advance(1)
        self.assertEqual(far.received(), [Connack(False, ConnectReturnCode.IDENTIFIER_REJECTED)])
        self.assertIsNotNone(one.broker.sessions.get("m"))

    def test_another_login_begins_a_new_one_where_nobody_checks_names(self) -> None:
        one, two, daemons = self.begin(OpenAuthority)
        far = two.harness.connect("m", clean_session=False, username="bob")
        daemons.advance(1)
        self.assertEqual(far.received(), [Connack(False, ConnectReturnCode.ACCEPTED)])
        self.assertIsNone(one.broker.sessions.get("m"))


class Ledger(RuleBasedStateMachine):
    """Three daemons, of which each publishes, and two clients with durable Sessions that go among them.

    Frames are lost, commits wait, daemons die and come back with what was theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.daemons, self.table = Daemons(), Table()
        self.shares: dict[int, Share] = {}
        self.all: dict[int, Daemon] = {}
        self.publishers: dict[int, FakeClient] = {}
        self.clients: dict[str, list[FakeClient]] = {"m": [], "n": []}
        self.number = self.kills = 0
        self.admitted: set[FakeClient] = set()
        self.places: dict[FakeClient, int] = {}
        self.sent: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.got: dict[str, list[bytes]] = {"m": [], "n": []}
        self.unreleased: dict[str, set[int]] = {"m": set(), "n": set()}
        for number in (1, 2, 3):
            self.begin(number)
        for client_id in self.clients:
            self.clients[client_id] = [self.all[1].listening(client_id, "a", 2, clean_session=False)]

    def begin(self, number: int) -> None:
        self.shares[number] = Share(self.table, number)
        for session, owner in self.table.owners.items():
            if owner == -number:
                self.table.owners[session] = number
        self.all[number] = self.daemons.begin(number, sessions=self.shares[number])
        self.publishers[number] = self.all[number].connect(f"p{number}")

    @rule(number=st.sampled_from([1, 2, 3]), qos=st.sampled_from([1, 2]), count=st.integers(1, 4))
    def publish(self, number: int, qos: int, count: int) -> None:
        if not self.all[number].started.called:
            return  # the daemon holds what is published
        for _ in range(count):
            self.number += 1
            payload = b"%d %d %d" % (number, qos, self.number)
            self.sent[number, self.number] = payload, qos
            self.publishers[number].publish("a", payload, qos, self.number)
        self.take()

    @rule(client_id=st.sampled_from(["m", "n"]), number=st.sampled_from([1, 2, 3]))
    def come(self, client_id: str, number: int) -> None:
        clients = self.clients[client_id]
        client = self.all[number].harness.connect(client_id, clean_session=False)
        clients.append(client)
        self.places[client] = number

    @rule(
        client_id=st.sampled_from(["m", "n"]),
        number=st.sampled_from([1, 2, 3]),
        publishers=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2])), min_size=4, max_size=25),
    )
    def come_while_messages_flow(
        self, client_id: str, number: int, publishers: list[tuple[int, int]]
    ) -> None:
        """Connect, with a message of somebody in each turn from then on; 0 is nobody."""
        self.come(client_id, number)
        for publisher, qos in publishers:
            if publisher:
                self.publish(publisher, qos, 1)
            self.daemons.clock.advance(0)

    @rule(client_id=st.sampled_from(["m", "n"]))
    def go(self, client_id: str) -> None:
        self.take()
        for client in self.clients[client_id]:
            client.lose()
        self.clients[client_id] = []

    @rule(number=st.sampled_from([1, 2, 3]))
    def lose_or_hear(self, number: int) -> None:
        ear = self.all[number].bus.ear
        ear.losing = not ear.losing

    @rule(number=st.sampled_from([1, 2, 3]))
    def hold_or_commit(self, number: int) -> None:
        share = self.shares[number]
        share.held = not share.held
        if not share.held:
            share.commit()

    @rule(number=st.sampled_from([1, 2, 3]))
    def kill(self, number: int) -> None:
        self.kills += 1
        self.take()
        self.shares[number].kill()
        self.all[number].die()
        for client_id, clients in self.clients.items():
            self.clients[client_id] = [one for one in clients if self.places.get(one, 1) != number]
        self.daemons.turn()
        self.begin(number)

    @rule(turns=st.integers(1, 12))
    def turn(self, turns: int) -> None:
        self.daemons.clock.pump([0] * turns)

    @rule(milliseconds=st.integers(0, 2000))
    def wait(self, milliseconds: int) -> None:
        self.daemons.clock.pump([0.01] * (milliseconds // 100))
        self.take()

    def take(self) -> None:
        """Have the clients take and acknowledge what they have got."""
        for client_id, clients in self.clients.items():
            for client in clients:
                if client not in self.admitted:
                    client.connack += client.received()
                    if not client.connack:
                        continue
                    self.admitted.add(client)
                if not client.closed:
                    self.got[client_id] += acknowledge(client, self.unreleased[client_id])
            self.clients[client_id] = [client for client in clients if not client.closed]
        self.acknowledged |= acknowledgements(self.publishers, self.sent)

    def teardown(self) -> None:
        """In the end what was acknowledged has come, of QoS 2 once, in order; each Session is there once."""
        for number in (1, 2, 3):
            self.all[number].bus.ear.losing = False
            self.shares[number].resume()
        self.daemons.advance(6)
        for number in (1, 2, 3):
            self.publishers[number].publish("a", b"%d 0 0" % number, 1, 65_000)
            self.sent[number, 65_000] = b"%d 0 0" % number, 1
        for client_id in self.clients:
            self.go(client_id)
        for _ in range(30):
            for client_id, clients in self.clients.items():
                if not clients:
                    self.come(client_id, 2)
            self.daemons.advance(0.5)
            self.take()
        for client_id, got in self.got.items():
            self.check(client_id, got)
        for origin in (1, 2, 3):
            for target in (1, 2, 3):
                assert not self.rows(link(origin, target)), (origin, target)
        assert sorted(self.table.owners.values()) == [2, 2], self.table.owners

    def check(self, client_id: str, got: list[bytes]) -> None:
        count = Counter(got)
        for payload, qos in self.acknowledged.items():
            assert count[payload], (client_id, payload, qos)
            assert qos == 1 or count[payload] == 1, (client_id, payload, count[payload])
        if not self.kills:
            self.check_order(client_id, list(dict.fromkeys(got)))
        owners = [daemon.number for daemon in self.all.values() if daemon.broker.sessions.get(client_id)]
        assert owners == [2], (client_id, owners)

    def check_order(self, client_id: str, got: list[bytes]) -> None:
        """Messages of one publisher at one QoS come in its order, for the first time."""
        came: dict[tuple[bytes, bytes], int] = {}
        for payload in got:
            publisher, qos, number = payload.split()
            if number != b"0":
                assert int(number) > came.get((publisher, qos), 0), (client_id, payload, got)
                came[publisher, qos] = int(number)

    def rows(self, number: int) -> list[bytes]:
        case = SynchronousTestCase()
        return [row.payload for row in case.successResultOf(self.table.store.page(number, 0, 1 << 62, 999))]


TestLedger = Ledger.TestCase
TestLedger.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
