"""Several daemons are one broker: who publishes here reaches who listens there."""

from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client
from platziverse.broker.ports import FrameReceiver
from platziverse.broker.reasons import Reason
from platziverse.bus.local import LocalBus
from platziverse.cluster.cluster import Cluster
from platziverse.cluster.codec import encode
from platziverse.cluster.figures import Figures
from platziverse.cluster.frames import Message, Ready, Wanted
from platziverse.mqtt.packets import Puback, Publish, Pubrec, Suback, Subscribe, Subscription, Unsubscribe
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore, OpenAuthority
from tests.cluster.daemons import Daemons
from tests.logs import observe_lines


def published(client: FakeClient) -> list[tuple[str, bytes, int, bool]]:
    """Topic, payload, QoS and RETAIN of the messages that a client got since the last look."""
    return [
        (packet.topic, packet.payload, packet.qos, packet.retain)
        for packet in client.received()
        if isinstance(packet, Publish)
    ]


class Restricted(OpenAuthority):
    """Nobody receives what is secret."""

    restricts = True

    def may_receive(self, client: Client, topic: str) -> bool:
        return topic != "secret"


class AwayBus(LocalBus):
    """A bus that is away."""

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        return Deferred()


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemons = Daemons()
        self.one, self.two, self.three = (self.daemons.begin(number) for number in (1, 2, 3))
        self.turn = self.daemons.turn
        self.lines = observe_lines(self)

    def log(self) -> str:
        return "\n".join(self.lines)


class LiveTests(Case):
    def test_each_daemon_begins_when_it_knows_the_others(self) -> None:
        for daemon in (self.one, self.two, self.three):
            self.assertIsNone(self.successResultOf(daemon.started))
            self.assertEqual(len(daemon.cluster.peers), 2)

    def test_a_message_reaches_the_clients_of_other_daemons_at_every_qos(self) -> None:
        far = [self.two.listening(f"far{qos}", "a/+", qos) for qos in range(3)]
        near = self.one.listening("near", "a/b", 2)
        publisher = self.one.connect("publisher")
        for qos in range(3):
            publisher.publish("a/b", b"%d" % qos, qos, qos or None)
            self.turn()
        for most, client in enumerate(far):
            expected = [("a/b", b"%d" % qos, min(qos, most), False) for qos in range(3)]
            self.assertEqual(published(client), expected)
        self.assertEqual(len(published(near)), 3)
        self.assertEqual([type(packet) for packet in publisher.received()], [Puback, Pubrec])

    def test_a_daemon_where_nobody_listens_gets_nothing(self) -> None:
        self.two.listening("far", "a")
        self.one.listening("near", "c")
        publisher = self.one.connect("publisher")
        for topic in ("a", "b", "c"):
            publisher.publish(topic)
        self.turn()
        self.assertEqual(self.two.cluster.peers[1].received, 1)
        self.assertEqual(self.three.cluster.peers[1].received, 0)

    def test_a_daemon_gets_a_message_once_for_all_its_clients(self) -> None:
        far = [self.two.listening(f"far{number}", topic) for number, topic in enumerate(["#", "a", "a/#"])]
        self.one.connect("publisher").publish("a", b"x")
        self.turn()
        self.assertEqual([len(published(client)) for client in far], [1, 1, 1])
        self.assertEqual(self.two.cluster.peers[1].received, 1)

    def test_messages_keep_their_order(self) -> None:
        far = self.two.listening("far", "a", 1)
        publisher = self.one.connect("publisher")
        for number in range(10):
            publisher.publish("a", b"%d" % number, number % 2, number % 2 or None)
        self.turn()
        self.assertEqual([payload for _, payload, _, _ in published(far)], [b"%d" % n for n in range(10)])

    def test_who_may_not_receive_it_here_does_not_receive_it_from_there(self) -> None:
        four = self.daemons.begin(4, authority=Restricted())
        far = four.listening("far", "#")
        publisher = self.one.connect("publisher")
        publisher.publish("secret")
        publisher.publish("open")
        self.turn()
        self.assertEqual([topic for topic, *_ in published(far)], ["open"])

    def test_figures_of_a_daemon_stay_there(self) -> None:
        far = self.two.listening("far", "$SYS/#")
        self.one.broker.announce("$SYS/broker/uptime", b"1", retain=True)
        self.one.broker.announce("$SYS/broker/uptime", b"1")
        self.turn()
        self.assertEqual(published(far), [])

    def test_handlers_are_called_where_a_message_was_published(self) -> None:
        calls: list[int] = []
        four, five = (
            self.daemons.begin(
                number, table={"a": lambda message, client, number=number: calls.append(number)}
            )
            for number in (4, 5)
        )
        five.listening("far", "#")
        four.connect("publisher").publish("a")
        self.turn()
        self.assertEqual(calls, [4])

    def test_what_a_broker_announces_reaches_everybody(self) -> None:
        """As agent/connected and agent/disconnected."""
        far = self.two.listening("far", "agent/connected")
        self.one.broker.announce("agent/connected", b"{}")
        self.turn()
        self.assertEqual(published(far), [("agent/connected", b"{}", 0, False)])

    def test_a_will_reaches_everybody(self) -> None:
        far = self.two.listening("far", "will", 1)
        self.one.connect("client", will=Publish("will", b"gone", 1)).lose()
        self.turn()
        self.assertEqual(published(far), [("will", b"gone", 1, False)])

    def test_a_bridge_gets_retain_as_it_was_published(self) -> None:
        far = self.two.listening("far", "a", bridge=True)
        self.one.connect("publisher").publish("a", b"x", retain=True)
        self.turn()
        self.assertEqual(published(far), [("a", b"x", 0, True)])

    def test_who_has_unsubscribed_gets_nothing_and_soon_nothing_is_sent(self) -> None:
        far = self.two.listening("far", "a")
        far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(1.5)
        self.one.connect("publisher").publish("a")
        self.turn()
        self.assertEqual(self.two.cluster.peers[1].received, 0)

    def test_a_client_that_has_left_is_not_listened_for(self) -> None:
        self.two.listening("far", "a").lose()
        self.daemons.advance(1.5)
        self.assertEqual(len(self.one.cluster.interest), 0)


class FigureTests(Case):
    def test_what_is_shared_is_counted(self) -> None:
        self.two.listening("far", "a")
        self.one.connect("publisher").publish("a")
        self.turn()
        self.one.cluster.frame(2, b"garbage")
        self.two.cluster.lost(1)
        one, two = Figures(self.one.cluster), Figures(self.two.cluster)
        events = one.events
        self.assertGreater(events["sent"], 2)
        self.assertEqual(
            {name: events[name] for name in events if name != "sent"},
            {
                "lost": 0,
                "ignored": 1,
                "dropped": 0,
                "unanswered": 0,
                "overtook": 0,
                "passed": 0,
                "spilled": 0,
            },
        )
        self.assertEqual(two.received, {1: 1, 3: 0})
        self.assertEqual(two.gaps, {1: 1, 3: 0})
        self.assertEqual(sorted(one.sent), [2, 3])
        self.assertEqual(two.unanswered, {})  # without a store nothing is owed
        self.assertEqual(one.keys, 1)


class SentTests(Case):
    def test_what_is_sent_to_several_is_counted_for_each(self) -> None:
        figures = Figures(self.one.cluster)
        before = figures.sent
        peers = self.one.cluster.peers
        with patch("platziverse.cluster.peers.SETS", 1):
            for mask in (1 << 2, 1 << 2 | 1 << 3, 1 << 3 | 1 << 9):
                peers.send(mask, Wanted())
        self.assertEqual(figures.sent, {2: before[2] + 2, 3: before[3] + 2})
        self.three.die()
        self.assertEqual(figures.sent, {2: before[2] + 2})


class SubackTests(Case):
    def subscribe(self, client: FakeClient, topic_filter: str) -> bool:
        """Send SUBSCRIBE; return whether SUBACK is there at once."""
        client.send(Subscribe(7, [Subscription(topic_filter, 0)]))
        return any(isinstance(packet, Suback) for packet in client.received())

    def test_suback_waits_until_all_know(self) -> None:
        client = self.one.connect("client")
        self.assertFalse(self.subscribe(client, "a"))
        self.turn()
        self.assertIn(Suback(7, [0]), client.received())
        for other in (self.two, self.three):
            self.assertEqual(other.cluster.interest.daemons("a"), (1 << 1, 0))

    def test_a_key_that_all_know_needs_no_message(self) -> None:
        self.one.listening("before", "a/b")
        client = self.one.connect("client")
        sent = self.one.cluster.peers.sent
        self.assertTrue(self.subscribe(client, "a/b"))
        self.assertEqual(self.one.cluster.peers.sent, sent)

    def test_a_client_that_comes_back_soon_does_not_wait(self) -> None:
        self.one.listening("client", "a").lose()
        self.turn()
        self.assertTrue(self.subscribe(self.one.connect("client"), "a"))

    def test_what_is_published_anywhere_after_suback_arrives(self) -> None:
        client = self.one.listening("client", "a/+")
        for number, daemon in enumerate((self.two, self.three)):
            daemon.connect(f"publisher{number}").publish("a/b", b"x")
        self.turn()
        self.assertEqual(len(published(client)), 2)

    def test_a_daemon_that_does_not_answer_is_not_waited_for_long(self) -> None:
        """Row 389: a daemon that is alive and does not answer."""
        self.two.bus.ear.deaf = True
        client = self.one.connect("client")
        self.assertFalse(self.subscribe(client, "a"))
        self.daemons.advance(1.5)
        self.assertEqual(client.received(), [])
        self.daemons.advance(2)
        self.assertIn(Suback(7, [0]), client.received())
        self.assertEqual(self.one.cluster.announcing.unanswered, 1)
        self.assertIn("Daemon 2 does not say that it knows our Subscriptions", self.log())
        self.assertFalse(self.subscribe(client, "b"))
        self.turn()
        self.assertIn(Suback(7, [0]), client.received())  # of the third daemon

    def test_a_daemon_that_has_missed_what_was_said_gets_it_again(self) -> None:
        """Row 390: frames that are lost without anybody knowing."""
        self.two.bus.ear.deaf = True
        self.subscribe(self.one.connect("client"), "a")
        self.daemons.advance(1)
        self.two.bus.ear.deaf = False
        self.daemons.advance(3)
        self.assertEqual(self.two.cluster.interest.daemons("a"), (1 << 1, 0))
        self.assertFalse(self.one.cluster.peers[2].late)

    def test_a_daemon_that_has_gone_is_not_waited_for(self) -> None:
        self.two.bus.ear.deaf = True
        client = self.one.connect("client")
        self.subscribe(client, "a")
        self.daemons.members.leave(2)
        self.turn()
        self.assertIn(Suback(7, [0]), client.received())

    def test_a_client_that_leaves_meanwhile_harms_nobody(self) -> None:
        self.two.bus.ear.deaf = True
        client = self.one.connect("client")
        self.subscribe(client, "a")
        client.lose()
        self.daemons.advance(4)
        self.assertEqual(self.one.broker.traffic.internal_errors, 0)


class LossTests(Case):
    def test_interest_that_was_lost_is_asked_for(self) -> None:
        """Row 391: the connection to the bus is cut for a moment."""
        self.two.bus.ear.losing = True
        client = self.one.connect("client")
        client.send(Subscribe(7, [Subscription("a", 0)]))
        self.turn()
        self.assertNotIn(Suback(7, [0]), client.received())
        self.two.bus.ear.losing = False
        self.three.connect("other")  # a frame to everybody
        self.one.connect("another")
        self.turn()
        self.assertIn(Suback(7, [0]), client.received())
        self.two.connect("publisher").publish("a", b"x")
        self.turn()
        self.assertEqual(len(published(client)), 1)
        self.assertEqual(self.two.cluster.peers[1].gaps, 1)

    def test_retained_messages_that_were_lost_are_asked_for(self) -> None:
        publisher = self.one.connect("publisher")
        publisher.publish("before", b"x", retain=True)
        publisher.publish("gone", b"x", retain=True)
        self.turn()
        self.two.bus.ear.losing = True
        publisher.publish("a", b"new", retain=True)
        publisher.publish("gone", b"", retain=True)
        self.turn()
        self.two.bus.ear.losing = False
        publisher.publish("c", b"x", retain=True)
        self.turn()
        kept = {message.topic: message.payload for message in self.two.broker.retained.match("#")}
        self.assertEqual(kept, {"before": b"x", "a": b"new", "c": b"x"})

    def test_a_repair_that_is_lost_is_asked_for_again(self) -> None:
        publisher = self.one.connect("publisher")
        self.two.bus.ear.losing = True
        publisher.publish("a", b"new", retain=True)
        self.turn()
        self.two.bus.ear.losing = False
        publisher.publish("b", b"x", retain=True)
        self.daemons.clock.advance(0)  # the gap is known, and the question on its way
        self.two.bus.ear.losing = True
        self.turn()
        self.two.bus.ear.losing = False
        publisher.publish("c", b"x", retain=True)
        self.daemons.advance(2)
        topics = {message.topic for message in self.two.broker.retained.match("#")}
        self.assertEqual(topics, {"a", "b", "c"})

    def test_a_gap_of_a_daemon_that_is_not_known_is_nothing(self) -> None:
        self.one.cluster.lost(77)
        self.assertEqual(self.one.cluster.ignored, 0)


class StrangerTests(Case):
    def test_garbage_is_counted_and_said(self) -> None:
        """No daemon can end another by what it sends."""
        cluster = self.one.cluster
        cluster.frame(2, b"garbage")
        cluster.frame(2, b"\x09" + encode(Wanted(), 1)[1:])
        cluster.frame(77, encode(Message("a", b"", 0), 1))
        self.assertEqual(cluster.ignored, 3)
        self.assertIn("Ignored what daemon 2 has sent on the bus: a frame that cannot be read", self.log())
        self.assertIn("version 9, and 1 is known here", self.log())
        self.assertIn("Ignored what daemon 77 has sent on the bus: a frame, and is no daemon", self.log())

    def test_a_daemon_that_was_taken_for_dead_is_not_listened_to(self) -> None:
        """Row 393: a daemon that was frozen sends what it had to say."""
        near = self.one.listening("near", "#")
        self.daemons.members.fence(2)
        self.one.cluster.frame(2, encode(Message("a", b"late", 0), 1))
        self.turn()
        self.assertEqual(published(near), [])
        self.two.connect("publisher").publish("a", b"alive")
        self.turn()
        self.assertEqual(published(near), [("a", b"alive", 0, False)])

    def test_a_daemon_that_lives_and_is_not_heard_is_said(self) -> None:
        """Row 552: two that have never met, and one that is lost later."""
        said = "Daemon {} lives, as the database says, and is not heard on the bus"
        self.one.bus.ear.deaf = True
        self.daemons.begin(4)
        self.daemons.advance(9)
        self.assertNotIn("is not heard", self.log())
        self.daemons.advance(3)
        self.assertEqual(self.log().count("is not heard on the bus"), 1)
        self.assertIn(said.format(4), self.log())
        self.assertEqual(Figures(self.one.cluster).unheard, 1)
        self.one.bus.ear.deaf = False
        self.daemons.advance(1)
        self.assertEqual(self.one.cluster.peers.unheard, [])
        self.one.bus.ear.deaf = True
        self.one.cluster.lost(2)
        self.one.bus.state = "away: it is gone"
        self.daemons.advance(20)
        self.assertEqual(self.one.cluster.peers.unheard, [])
        self.one.bus.state = "ready"
        self.daemons.advance(11)
        self.assertIn(said.format(2), self.log())
        self.assertEqual(self.one.cluster.peers.unheard, [2])

    def test_a_daemon_may_speak_before_the_membership_names_it(self) -> None:
        self.one.cluster.frame(9, encode(Wanted(), 4))
        self.assertIn(9, self.one.cluster.peers)
        self.one.cluster.joined(9, 4)
        self.daemons.advance(31)
        self.assertIn(9, self.one.cluster.peers)

    def test_a_daemon_that_the_membership_never_names_is_a_stranger(self) -> None:
        """Row 394: a daemon of another database on the same bus."""
        self.one.cluster.frame(9, encode(Wanted(), 4))
        self.daemons.advance(32)
        self.assertNotIn(9, self.one.cluster.peers)
        self.assertIn("Daemon 9 is on the bus, and not in the database", self.log())
        self.one.cluster.frame(9, encode(Wanted(), 4))
        self.assertNotIn(9, self.one.cluster.peers)

    def test_one_of_another_installation_does_not_stay_in_the_place_of_ours(self) -> None:
        """Row 554: it has the number of ours, and a higher incarnation."""
        far = self.two.listening("far", "a")
        publisher, cluster = self.one.connect("publisher"), self.one.cluster
        cluster.frame(2, encode(Wanted(), 50))
        self.assertEqual(cluster.peers[2].incarnation, 50)
        self.two.listening("other", "b")  # whatever ours says
        self.assertEqual((cluster.peers[2].incarnation, cluster.peers[2].guest_since), (1, None))
        publisher.publish("a", b"again")
        self.turn()
        self.assertEqual(published(far), [("a", b"again", 0, False)])
        cluster.frame(2, encode(Wanted(), 51))
        self.one.bus.ear.deaf = True
        self.daemons.advance(32)
        self.assertIn("Daemon 2 is on the bus, and not in the database", self.log())
        self.one.bus.ear.deaf = False
        self.daemons.advance(2)
        publisher.publish("a", b"and again")
        self.turn()
        self.assertEqual(published(far), [("a", b"and again", 0, False)])

    def test_a_daemon_that_has_begun_anew_is_another_one(self) -> None:
        self.two.listening("far", "a")
        self.one.cluster.frame(2, encode(Wanted(), 2))  # before the membership says that the other has gone
        self.daemons.members.leave(2)
        self.assertEqual(self.one.cluster.peers[2].incarnation, 2)
        self.assertEqual(self.one.cluster.interest.daemons("a"), (0, 0))
        self.one.cluster.frame(2, encode(Ready(0), 1))
        self.assertEqual(self.one.cluster.ignored, 1)

    def test_an_answer_to_what_was_never_said_is_nothing(self) -> None:
        ready = self.one.cluster.peers[2].ready
        self.one.cluster.frame(2, encode(Ready(99), 1))
        self.assertEqual(self.one.cluster.peers[2].ready, ready)


class ComingAndGoingTests(Case):
    def test_a_daemon_that_comes_knows_who_listens(self) -> None:
        near = self.one.listening("near", "a")
        four = self.daemons.begin(4)
        self.successResultOf(four.started)
        four.connect("publisher").publish("a", b"x")
        self.turn()
        self.assertEqual(len(published(near)), 1)

    def test_a_daemon_that_comes_is_told_of_many_keys_in_parts(self) -> None:
        client = self.one.connect("near")
        names = [f"{number}/" + "x" * 200 for number in range(1500)]
        for begin in range(0, len(names), 100):
            client.send(Subscribe(1, [Subscription(name, 0) for name in names[begin : begin + 100]]))
        self.turn()
        four = self.daemons.begin(4)
        self.daemons.advance(1)
        self.successResultOf(four.started)
        self.assertEqual(len(four.cluster.interest), len(names))

    def test_a_daemon_that_asks_again_is_told_again(self) -> None:
        self.one.listening("near", "a")
        for _ in range(2):
            self.one.cluster.frame(2, encode(Wanted(), 1))
        sent = self.one.cluster.peers.sent
        self.turn()
        self.assertEqual(self.one.cluster.peers.sent, sent + 4)  # twice one part and the end
        self.assertEqual(self.two.cluster.interest.daemons("a"), (1 << 1, 0))

    def test_a_daemon_that_leaves_while_it_is_told_is_forgotten(self) -> None:
        client = self.one.connect("near")
        for number in range(30):
            names = [f"{number}/{name}" for name in range(100)]
            client.send(Subscribe(1, [Subscription(name, 0) for name in names]))
        self.turn()
        self.two.cluster.frame(1, encode(Wanted(), 1))
        self.one.cluster.frame(2, encode(Wanted(), 1))
        self.daemons.members.leave(2)
        self.turn()
        self.assertNotIn(2, self.one.cluster.peers)

    def test_a_daemon_begins_without_others_that_do_not_answer(self) -> None:
        self.two.bus.ear.deaf = True
        four = self.daemons.begin(4)
        self.assertNoResult(four.started)
        self.daemons.advance(6)
        self.successResultOf(four.started)
        self.assertIn("Daemons [2] do not answer; it begins without them", self.log())

    def test_a_daemon_begins_without_a_bus_that_is_away(self) -> None:
        harness = BrokerHarness(clock=self.daemons.clock)
        bus, membership = AwayBus(self.daemons.hub, 9), self.daemons.members.join(9)
        cluster = Cluster(harness.broker, bus, membership, self.daemons.clock, harness.now)
        started = cluster.start()
        self.daemons.advance(4)
        self.assertNoResult(started)
        self.daemons.advance(2)
        self.successResultOf(started)
        self.assertIn("The bus is away", self.log())
        cluster.stop()

    def test_a_daemon_that_begins_does_not_wait_for_one_that_dies(self) -> None:
        self.two.bus.ear.deaf = True
        four = self.daemons.begin(4)
        self.assertNoResult(four.started)
        self.daemons.members.leave(2, dead=True)
        self.successResultOf(four.started)

    def test_a_daemon_that_is_alone_begins_at_once(self) -> None:
        alone = Daemons().begin(1)
        self.successResultOf(alone.started)
        client = alone.connect("client")
        self.assertEqual(client.subscribe("a"), [Suback(1, [0])])

    def test_nothing_is_sent_to_a_daemon_that_has_left(self) -> None:
        self.two.listening("far", "a")
        self.daemons.members.leave(2)
        self.turn()
        sent = self.one.cluster.peers.sent
        self.one.connect("publisher", clean_session=True).publish("a")
        self.turn()
        self.assertEqual(self.one.cluster.peers.sent, sent + 1)  # that a client has come, to the third
        self.assertEqual(self.one.cluster.interest.daemons("a"), (0, 0))

    def test_a_daemon_that_was_taken_for_dead_begins_anew(self) -> None:
        near, far = self.one.listening("near", "a"), self.two.listening("far", "a")
        self.daemons.members.fence(2)
        self.turn()
        self.one.connect("publisher").publish("a", b"1")
        self.two.connect("another").publish("a", b"2")
        self.turn()
        self.assertEqual(len(published(far)), 2)
        self.assertEqual(len(published(near)), 2)

    def test_a_daemon_that_has_stopped_sends_nothing(self) -> None:
        self.two.listening("far", "a")
        self.successResultOf(self.one.cluster.stop())
        self.one.connect("publisher").publish("a")
        self.daemons.advance(2)
        self.assertEqual(self.two.cluster.peers[1].received, 0)

    def test_a_cluster_that_was_never_started_can_be_stopped(self) -> None:
        harness = BrokerHarness(clock=self.daemons.clock)
        bus, membership = LocalBus(self.daemons.hub, 9), self.daemons.members.join(9)
        cluster = Cluster(harness.broker, bus, membership, self.daemons.clock, harness.now)
        self.successResultOf(cluster.stop())


class RestoredTests(SynchronousTestCase):
    def test_others_know_what_restored_sessions_listen_to(self) -> None:
        daemons, store = Daemons(), MemorySessionStore()
        first = daemons.begin(1, sessions=store)
        first.listening("client", "a", 1, clean_session=False).lose()
        daemons.members.leave(1)
        two, one = daemons.begin(2), daemons.begin(1, sessions=store)
        daemons.turn()
        self.assertEqual(two.cluster.interest.daemons("a"), (0, 1 << 1))
        one.broker.drop(next(iter(one.broker.sessions)), Reason.ADMINISTRATIVE, "")
        daemons.advance(1.5)
        self.assertEqual(two.cluster.interest.daemons("a"), (0, 0))
