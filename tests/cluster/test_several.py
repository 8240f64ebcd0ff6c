"""Messages that one publisher publishes to one topic in a turn go to other daemons together."""

from typing import Any

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.cluster.codec import decode, encode
from platziverse.cluster.frames import Message, Several
from platziverse.cluster.peers import TOGETHER
from platziverse.mqtt.packets import Puback, Publish, PublishProperties
from platziverse.testing import MemorySessionStore, OpenAuthority
from tests.cluster.daemons import Daemon
from tests.cluster.test_cluster import Case, published

ONE, TWO, OTHER = (b"%d" % number for number in (1, 2, 3))


class Forbidding(OpenAuthority):
    """Everybody may publish what is open, and nothing else."""

    restricts = True

    def may_publish(self, client: Client, topic: str) -> bool:
        return topic.endswith("open")


class SeveralTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.far = self.two.listening("far", "a/#", 1)
        self.publisher = self.one.connect("publisher")
        self.frames: list[object] = []
        take = self.two.bus.ear.frame

        def look(origin: int, frame: bytes) -> None:
            self.frames.append(decode(frame)[1])
            take(origin, frame)

        self.patch(self.two.bus.ear, "frame", look)

    def payloads(self) -> list[bytes]:
        return [payload for _, payload, _, _ in published(self.far)]

    def test_they_are_one_frame_and_keep_their_order(self) -> None:
        for qos in 0, 1:
            for number in range(15):
                self.publisher.publish("a/b", b"%d" % number, qos, number + 1 if qos else None)
            self.turn()
            (frame,) = self.frames
            assert isinstance(frame, Several)
            self.assertEqual(len(frame.payloads), 15)
            self.assertEqual(self.payloads(), [b"%d" % number for number in range(15)])
            self.frames.clear()
        self.assertEqual(self.two.cluster.peers[1].received, 30)

    def test_what_is_not_alike_is_not_together(self) -> None:
        another = self.one.connect("another")
        self.frames.clear()
        self.publisher.publish("a/b", ONE)
        self.publisher.publish("a/c", ONE)
        self.publisher.publish("a/c", ONE, 1, 1)
        another.publish("a/c", ONE, 1, 1)
        self.turn()
        self.assertEqual([type(frame) for frame in self.frames], [Message] * 4)
        self.assertEqual(len(self.payloads()), 4)

    def test_a_frame_of_another_sort_does_not_pass_them(self) -> None:
        self.publisher.publish("a/b", ONE)
        self.publisher.publish("a/b", TWO)
        self.publisher.publish("a/b", OTHER, retain=True)
        self.turn()
        self.assertEqual([type(frame) for frame in self.frames], [Several, Message])
        self.assertEqual(self.payloads(), [ONE, TWO, OTHER])

    def test_many_bytes_leave_at_once(self) -> None:
        for _ in range(5):
            self.publisher.publish("a/b", bytes(TOGETHER // 2))
        self.turn()
        sizes = [len(frame.payloads) if isinstance(frame, Several) else 1 for frame in self.frames]
        self.assertEqual(sizes, [3, 2])
        self.assertEqual(len(self.payloads()), 5)

    def test_a_daemon_that_has_left_meanwhile_gets_nothing(self) -> None:
        self.publisher.publish("a/b", ONE)
        self.publisher.publish("a/b", TWO)
        self.one.cluster.peers.remove(2)
        self.turn()
        self.assertEqual(self.frames, [])

    def test_a_run_for_another_daemon_alone_is_one_step_for_each_topic(self) -> None:
        self.two.listening("farther", "b")
        self.frames.clear()
        numbers = range(1, 9)
        topics = ["a/b", "a/b", "b", "a/c", "a/c", "a/c", "nobody", "a/c"]
        run = [Publish(topic, b"%d" % n, 1, packet_id=n) for n, topic in zip(numbers, topics, strict=True)]
        asked = self.asked(self.one)
        self.publisher.send(*run)
        self.assertEqual(self.publisher.received(), [Puback(number) for number in numbers])
        self.assertEqual(asked, [topics[6], topics[7]])  # one by one from the first that is for nobody
        self.turn()
        sizes = [len(frame.payloads) if isinstance(frame, Several) else 1 for frame in self.frames]
        self.assertEqual(sizes, [2, 1, 4])
        self.assertEqual(self.payloads(), [b"1", b"2", b"4", b"5", b"6", b"8"])
        traffic = self.one.broker.traffic
        self.assertEqual((traffic.publish_received[1], traffic.publish_bytes_received[1]), (8, 8))

    def asked(self, daemon: Daemon) -> list[str]:
        """Topics of what is published one by one from now on."""
        asked: list[str] = []
        publish = daemon.broker.publish

        def look(message: Publish, client: Client) -> Answer:
            asked.append(message.topic)
            return publish(message, client)

        self.patch(daemon.broker, "publish", look)
        return asked

    def test_what_somebody_gets_here_or_keeps_goes_one_by_one(self) -> None:
        self.one.listening("near", "a/near")
        asked = self.asked(self.one)
        same = Publish("a/near", ONE), Publish("a/near", TWO)
        retained = Publish("a/b", ONE, retain=True)
        at_qos_2 = Publish("a/b", ONE, 2, packet_id=1)
        self.publisher.send(*same, retained, Publish("a/b", TWO), at_qos_2)
        self.assertEqual(asked, ["a/near", "a/near", "a/b", "a/b", "a/b"])
        self.turn()
        self.assertEqual(self.payloads(), [ONE, TWO, ONE, TWO, ONE])
        asked.clear()
        self.publisher.send(Publish("a/b", ONE, retain=True), Publish("a/b", TWO))
        self.assertEqual(asked, ["a/b", "a/b"])

    def test_what_has_properties_goes_one_by_one(self) -> None:
        five = self.one.connect("five", protocol_level=5)
        self.frames.clear()
        asked = self.asked(self.one)
        five.send(Publish("a/b", ONE), Publish("a/b", TWO))
        self.assertEqual(asked, [])
        five.send(Publish("a/b", OTHER, properties=PublishProperties(content_type="t")))
        self.assertEqual(asked, ["a/b"])
        self.turn()
        self.assertEqual([type(frame) for frame in self.frames], [Several, Message])
        self.assertEqual(self.payloads(), [ONE, TWO, OTHER])

    def test_nobody_publishes_what_is_forbidden_in_one_step(self) -> None:
        four = self.daemons.begin(4, authority=Forbidding())
        publisher = four.connect("four")
        self.frames.clear()
        publisher.send(Publish("a/b", ONE), Publish("a/b", TWO))
        publisher.send(Publish("a/open", ONE), Publish("a/open", TWO))
        self.turn()
        (frame,) = self.frames
        assert isinstance(frame, Several)
        self.assertEqual((frame.message.topic, frame.payloads), ("a/open", (ONE, TWO)))

    def test_acknowledgements_that_wait_are_not_passed(self) -> None:
        """What waits for its commit, or for a handler, is acknowledged before what crosses behind it."""
        handled: Deferred[object] = Deferred()
        four = self.daemons.begin(4, table={"slow": lambda message, client: handled})
        publisher = four.connect("four")
        publisher.send(Publish("slow", b"", 1, packet_id=1), Publish("a/b", ONE, 1, packet_id=2))
        self.turn()
        self.assertEqual(self.payloads(), [ONE])
        self.assertEqual(publisher.received(), [])
        handled.callback(None)
        self.assertEqual(publisher.received(), [Puback(1), Puback(2)])

    def test_who_cannot_get_them_in_one_step_gets_each_and_keeps_the_order(self) -> None:
        """``far`` has never got one at QoS 1, ``full`` has no room for all."""
        four = self.daemons.begin(4, limits=Limits(max_inflight=2))
        full = four.listening("full", "a/#", 1)
        payloads = [b"%d" % number for number in range(5)]
        for times in 1, 2:
            self.publisher.send(*[Publish("a/b", one, 1, packet_id=n) for n, one in enumerate(payloads, 1)])
            self.turn()
            self.assertEqual(self.payloads(), payloads)
            self.assertEqual(len(published(full)), 2 if times == 1 else 0)
        for number in range(1, 9):
            full.send(Puback(number))
        self.assertEqual([one for _, one, *_ in published(full)], [*payloads[2:], *payloads])

    def test_a_session_that_ends_meanwhile_gets_no_more(self) -> None:
        four = self.daemons.begin(4)
        far = four.listening("far", "a/b", 1)
        route = four.broker.router.route
        routed: list[list[Session]] = []

        def end(*arguments: Any) -> Answer:
            if session := four.broker.sessions.get("far"):
                four.broker.drop(session, Reason.TOO_SLOW, "by the test")
            routed.append([session for session, _ in arguments[1]])
            return route(*arguments)

        self.patch(four.broker.router, "route", end)
        four.cluster.frame(1, encode(Several(Message("a/b", b"", 1), (ONE, TWO)), 1))
        self.assertEqual([len(sessions) for sessions in routed], [1, 0])
        self.assertEqual(published(far), [])
        self.assertTrue(far.closed)

    def test_while_sessions_are_loaded_nothing_is_one_step(self) -> None:
        store = MemorySessionStore()
        store.hold(reads=True)
        four = self.daemons.begin(4, sessions=store)
        publisher = four.connect("four")
        self.frames.clear()
        publisher.send(Publish("a/b", ONE), Publish("a/b", TWO))
        asked = self.asked(four)
        publisher.send(Publish("a/b", OTHER))
        self.assertEqual(asked, ["a/b"])
        self.turn()
        self.assertEqual(self.payloads(), [ONE, TWO, OTHER])
        store.resume()

    def test_while_sessions_are_loaded_those_at_qos_1_wait(self) -> None:
        store = MemorySessionStore()
        store.hold(reads=True)
        four = self.daemons.begin(4, sessions=store)
        far = four.listening("four", "a/b", 1)
        like = Message("a/b", b"", 1)
        four.cluster.frame(1, encode(Several(like, (ONE, TWO)), 1))
        self.assertEqual(published(far), [])
        store.resume()
        self.turn()
        self.assertEqual([payload for _, payload, _, _ in published(far)], [ONE, TWO])

    def test_durable_sessions_get_what_is_owed_to_them_instead(self) -> None:
        """ADR 0199."""
        four = self.daemons.begin(4, sessions=MemorySessionStore())
        durable = four.listening("durable", "a/b", 1, clean_session=False)
        live = four.listening("live", "a/b", 1)
        for qos in 0, 1:
            four.cluster.frame(1, encode(Several(Message("a/b", b"", qos), (ONE, TWO)), 1))
            self.turn()
        came = [[payload for _, payload, _, _ in published(far)] for far in (durable, live)]
        self.assertEqual(came, [[ONE, TWO], [ONE, TWO, ONE, TWO]])
