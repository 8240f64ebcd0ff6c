"""Messages that one publisher publishes to one topic in a turn go to other daemons together."""

from platziverse.cluster.codec import decode, encode
from platziverse.cluster.frames import Message, Several
from platziverse.cluster.peers import TOGETHER
from platziverse.testing import MemorySessionStore
from tests.cluster.test_cluster import Case, published

ONE, TWO, OTHER = (b"%d" % number for number in (1, 2, 3))


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
