"""Outbox and Inbox, without a server between them: order, joining, gaps, and who is believed."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.complaints import Complaints
from platziverse.bus.envelope import ALL, JOINED, LAST, RIVALS, TAIL, Inbox, Outbox
from tests.doubles.membership import Members, MemoryMembership
from tests.logs import observe_lines

ALL_THREE = 0b1110


class Receiver:
    def __init__(self) -> None:
        self.told: list[tuple[int, bytes | None]] = []

    def frame(self, origin: int, frame: bytes) -> None:
        self.told.append((origin, frame))

    def lost(self, origin: int) -> None:
        self.told.append((origin, None))

    @property
    def frames(self) -> list[bytes]:
        return [frame for _, frame in self.told if frame is not None]


class Posts:
    """Posts are those of one daemon; what is posted arrives at the others at once, unless it is ``cut``."""

    def __init__(
        self, clock: Clock, member: MemoryMembership, name: str = "set", everyone: bool = True
    ) -> None:
        self.posted: list[tuple[int, bytes, int]] = []
        self.others: list[Posts] = []
        self.cut = False
        self.number = member.ours[0]
        self.outbox = Outbox(clock, name, member, self.post, everyone)
        self.inbox = Inbox(name, self.outbox.mark, member, Complaints(clock, "bus"), "redis://test")
        self.inbox.receiver = self.receiver = Receiver()
        self.outbox.start()

    def post(self, target: int, message: bytes, frames: int) -> None:
        self.posted.append((target, message, frames))
        for other in self.others:
            if self.cut:
                self.outbox.doubt(target)
            elif target in (ALL, other.number):
                other.inbox.take(target == ALL, message)


class PostsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.members = Members()
        self.lines = observe_lines(self)
        self.one, self.two, self.three = self.make()

    def make(self, everyone: bool = True) -> list[Posts]:
        members = Members()
        joined = [members.join(number) for number in (1, 2, 3)]
        self.members = members
        all_posts = [Posts(self.clock, member, everyone=everyone) for member in joined]
        for posts in all_posts:
            posts.others = all_posts
        return all_posts

    def turn(self) -> None:
        self.clock.advance(0)


class JoiningTests(PostsTestCase):
    def test_the_frames_of_a_turn_for_one_daemon_are_one_message(self) -> None:
        for number in range(20):
            self.one.outbox.send(0b100, b"%d" % number)
        self.assertEqual(self.one.posted, [])
        self.turn()
        self.assertEqual([(target, frames) for target, _, frames in self.one.posted], [(2, 20)])
        self.assertEqual(self.two.receiver.frames, [b"%d" % number for number in range(20)])

    def test_a_frame_for_all_is_posted_once(self) -> None:
        self.one.outbox.send(ALL_THREE, b"all")
        self.turn()
        self.one.outbox.send(-1, b"all, whoever they are")
        self.turn()
        self.assertEqual([(target, frames) for target, _, frames in self.one.posted], [(ALL, 1), (ALL, 1)])

    def test_a_frame_for_the_only_other_daemon_goes_to_that_one(self) -> None:
        self.members.leave(3)
        self.one.outbox.send(0b100, b"only")
        self.turn()
        self.assertEqual([target for target, _, _ in self.one.posted], [2])

    def test_large_frames_do_not_wait_for_each_other(self) -> None:
        for _ in range(3):
            self.one.outbox.send(0b100, bytes(JOINED))
        self.assertEqual([frames for _, _, frames in self.one.posted], [1, 1, 1])

    def test_without_a_way_to_all_each_daemon_gets_its_own(self) -> None:
        one, two, three = self.make(everyone=False)
        one.outbox.send(ALL_THREE, b"all")
        one.outbox.send(-1, b"all again")
        self.turn()
        self.assertEqual([(target, frames) for target, _, frames in one.posted], [(2, 2), (3, 2)])
        self.assertEqual(two.receiver.frames, three.receiver.frames)

    def test_frames_of_the_turn_of_a_stop_do_not_leave(self) -> None:
        self.one.outbox.send(ALL_THREE, b"late")
        self.one.outbox.stop()
        self.turn()
        self.clock.advance(3 * TAIL)
        self.assertEqual(self.one.posted, [])

    @given(st.lists(st.tuples(st.sampled_from([0b100, 0b1000, 0b1100, 0b1110, -1]), st.booleans())))
    def test_every_daemon_gets_its_frames_in_the_order_in_which_they_were_sent(
        self, sent: list[tuple[int, bool]]
    ) -> None:
        one, two, three = self.make()
        for number, (daemons, ends_turn) in enumerate(sent):
            one.outbox.send(daemons, b"%d" % number)
            if ends_turn:
                self.turn()
        self.turn()
        for posts in (two, three):
            wanted = [b"%d" % n for n, (daemons, _) in enumerate(sent) if daemons >> posts.number & 1]
            self.assertEqual(posts.receiver.told, [(1, frame) for frame in wanted])


class GapTests(PostsTestCase):
    def lose(self, daemons: int) -> None:
        self.one.cut = True
        self.one.outbox.send(daemons, b"lost")
        self.turn()
        self.one.cut = False

    def send(self, daemons: int, frame: bytes) -> None:
        self.one.outbox.send(daemons, frame)
        self.turn()

    def test_a_gap_is_told_before_the_frame_behind_it(self) -> None:
        for daemons in (0b100, ALL_THREE):
            self.two.receiver.told.clear()
            self.send(daemons, b"before")
            self.lose(daemons)
            self.send(daemons, b"after")
            self.assertEqual(self.two.receiver.told, [(1, b"before"), (1, None), (1, b"after")])
        self.assertEqual(self.two.inbox.missed, 2)

    def test_even_the_first_message_may_be_missing(self) -> None:
        self.lose(0b100)
        self.send(0b100, b"after")
        self.assertEqual(self.two.receiver.told, [(1, None), (1, b"after")])

    def test_the_last_message_is_missed_when_none_follows(self) -> None:
        self.send(0b100, b"before")
        self.lose(0b100)
        self.clock.advance(TAIL)
        self.clock.advance(TAIL)
        self.assertEqual(self.two.receiver.told, [(1, b"before"), (1, None)])
        self.assertEqual(self.three.receiver.told, [])

    def test_a_target_that_is_silent_is_told_its_number_once(self) -> None:
        self.send(0b100, b"last")
        for _ in range(10):
            self.clock.advance(TAIL)
        self.assertEqual([frames for _, _, frames in self.one.posted], [1, 0])
        self.assertEqual(self.two.receiver.told, [(1, b"last")])

    def test_a_number_that_may_be_lost_is_told_until_it_is_not(self) -> None:
        self.send(0b100, b"before")
        self.one.cut = True
        self.send(0b100, b"lost")
        self.clock.pump([TAIL] * 20)
        self.one.cut = False
        self.clock.pump([TAIL] * 3)
        self.assertEqual(self.two.receiver.told, [(1, b"before"), (1, None)])
        self.assertTrue(self.two.inbox.missed > 5)

    def test_after_an_interruption_every_daemon_may_have_sent(self) -> None:
        self.send(0b100, b"before")
        self.lose(0b100)
        self.two.inbox.interrupted()
        self.send(0b100, b"after")
        self.assertEqual(self.two.receiver.told, [(1, b"before"), (1, None), (3, None), (1, b"after")])

    def test_a_message_that_comes_twice_is_taken_once(self) -> None:
        self.send(0b100, b"once")
        self.two.inbox.take(False, self.one.posted[-1][1])
        self.assertEqual(self.two.receiver.told, [(1, b"once")])


class BeliefTests(PostsTestCase):
    def test_what_was_sent_before_a_daemon_was_fenced_is_refused_afterwards(self) -> None:
        self.one.outbox.send(0b100, b"old")
        self.turn()
        self.members.fence(1)
        self.one.outbox.send(0b100, b"new")
        self.turn()
        self.two.inbox.take(False, self.one.posted[0][1])
        self.assertEqual(self.two.receiver.told, [(1, b"old"), (1, b"new")])
        self.assertEqual(len(self.two.inbox.refused), 1)
        self.assertIn("daemon 1 was taken for dead, and does not know it yet", "".join(self.lines))

    def test_two_daemons_with_one_number_are_not_mixed(self) -> None:
        double = Posts(self.clock, Members().join(1), everyone=True)
        double.others = [self.two]
        for posts in (self.one, double, self.one):
            posts.outbox.send(-1, b"from %d" % id(posts))
            self.turn()
        self.assertEqual(self.two.receiver.frames, [b"from %d" % id(self.one)] * 2)
        self.assertIn("two daemons are number 1", "".join(self.lines))

    def stranger(self, times: int) -> Posts:
        """Return the daemon 1 of another installation, which has begun so many times."""
        members = Members()
        for _ in range(times):
            member = members.join(1)
        posts = Posts(self.clock, member)
        posts.others = [self.two]
        return posts

    def test_one_of_another_installation_is_believed_until_ours_is_heard(self) -> None:
        """Row 554: it has a higher incarnation, and that stays when the other one has gone."""
        stranger, told = self.stranger(5), self.two.receiver.told
        for posts, frame in (
            (self.one, b"1"),
            (stranger, b"2"),
            (self.one, b"3"),
            (stranger, b"4"),
            (self.one, b"5"),
        ):
            posts.outbox.send(-1, frame)
            self.turn()
        self.assertEqual(told, [(1, b"1"), (1, b"2"), (1, None), (1, b"3"), (1, b"5")])
        self.assertIn("two daemons are number 1; if two installations use one server", "".join(self.lines))
        self.members.join(1)  # ours begins again, and is heard before that
        begun = Posts(self.clock, self.members.join(1))
        begun.others = [self.two]
        begun.outbox.send(-1, b"6")
        self.turn()
        self.assertEqual(told[-1], (1, b"6"))

    def test_one_whose_mark_was_a_strangers_is_believed_when_the_membership_names_it(self) -> None:
        early = self.stranger(2)
        for posts, frame in ((early, b"1"), (self.one, b"2"), (early, b"3")):
            posts.outbox.send(-1, frame)
            self.turn()
        self.assertEqual(self.two.receiver.frames, [b"1", b"2"])
        self.members.join(1)
        early.outbox.send(-1, b"4")
        self.turn()
        self.assertEqual(self.two.receiver.frames, [b"1", b"2", b"4"])
        early.outbox.send(-1, b"5")
        self.turn()
        self.assertEqual(self.two.receiver.frames[-1], b"5")

    def test_of_two_with_one_incarnation_the_one_that_goes_on_is_believed(self) -> None:
        """Row 554: the other one was first, and is silent since it has a name of its own."""
        stranger = self.stranger(1)
        stranger.outbox.send(-1, b"first")
        for number in range(RIVALS + 1):
            self.one.outbox.send(-1, b"%d" % number)
            self.turn()
        last = b"%d" % (RIVALS - 1), b"%d" % RIVALS
        self.assertEqual(self.two.receiver.told, [(1, b"first"), (1, None), (1, last[0]), (1, last[1])])

    def test_what_strangers_say_of_themselves_takes_no_memory_and_no_lines(self) -> None:
        self.one.outbox.send(0b100, b"")
        self.turn()
        message = self.one.posted[0][1]
        for number in range(LAST + 1, LAST + 1000):
            self.two.inbox.take(False, message[:2] + b"%c" % (number % 256) + message[3:])
            head = message.index(b"set") + 3 + 8
            self.two.inbox.take(False, message[:head] + struct.pack(">i", number) + message[head + 4 :])
        self.assertLess(len(self.two.inbox.refused), 5)
        self.assertLess(len(self.lines), 40)
        self.assertEqual([origin for origin, _ in self.two.receiver.told], [1])

    @given(st.data())
    def test_no_bytes_do_harm(self, data: st.DataObject) -> None:
        one, two, _ = self.make()
        one.outbox.send(0b100, b"a frame")
        one.outbox.send(0b100, b"")
        self.turn()
        message = bytearray(one.posted[0][1])
        if data.draw(st.booleans()):
            position = data.draw(st.integers(0, len(message) - 1))
            message[position:] = data.draw(st.binary(max_size=30))
        else:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
        two.inbox.take(data.draw(st.booleans()), bytes(message))
        one.outbox.send(0b100, b"next")
        self.turn()
        self.assertTrue(len(two.inbox.refused) or len(two.receiver.frames) >= 3)
