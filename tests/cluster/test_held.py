"""Copies that wait while rows before them are read take no more memory than they may; the rest is rows."""

from collections.abc import Callable

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from twisted.internet.task import Clock

from platziverse.broker.turn import Turn
from platziverse.cluster.figures import Figures
from platziverse.cluster.held import Overflow
from platziverse.mqtt.packets import Unsubscribe
from tests.cluster import test_links
from tests.cluster.test_links import acknowledge
from tests.cluster.test_waiting import linking_of

LINE = (
    "Too much that daemon 1 owes to our Sessions waits while rows are read; "
    "the rest is read as rows, too (max_unfinished_total, max_unfinished_bytes)"
)


class Short(Turn):
    """A Turn that is over at every other question.

    :param over: called each time.
    """

    def __init__(self, over: Callable[[], object] = lambda: None) -> None:
        super().__init__(Clock())
        self._asked, self._over = 0, over

    @property
    def is_over(self) -> bool:
        self._asked += 1
        is_over = self._asked % 2 == 0
        if is_over:
            self._over()
        return is_over


class HeldTests(test_links.Case):
    """Rows are being read, and the store is slow. ADR 0227."""

    def setUp(self) -> None:
        super().setUp()
        self.far = self.durable(self.two, 2)
        self.got: list[bytes] = []

    @property
    def overflow(self) -> Overflow:
        return linking_of(self.two).overflow

    def allow(self, count: int = 100, size: int = 100) -> None:
        """Have so many copies of so many bytes find a place."""
        limits = self.overflow.limits
        self.overflow.limits = evolve(limits, max_unfinished_total=count, max_unfinished_bytes=size)

    def begin_to_read(self) -> None:
        """Have a row of the link wait that is read before everything else."""
        self.shares[2].slow = True
        self.lose_copy(b"lost")
        self.publisher.publish("a", b"found", 1, 100)
        self.settle()

    def publish(self, *numbers: int, size: int = 9) -> list[bytes]:
        payloads = [b"%*d" % (size, number) for number in numbers]
        for number, payload in zip(numbers, payloads, strict=True):
            self.publisher.publish("a", payload, 1 + number % 2, number)
            self.settle()
        return payloads

    def read(self) -> None:
        self.shares[2].slow = False
        while self.shares[2].asked:
            self.shares[2].answer()
        for _ in range(5):
            self.got += acknowledge(self.far)
            self.settle()

    def test_of_copies_that_are_too_large_the_rest_is_read_as_rows(self) -> None:
        """Row 560."""
        self.begin_to_read()
        self.allow(size=100)
        published = self.publish(1, 2, 3, 4, 5, size=39)
        self.assertEqual((self.overflow.count, self.overflow.size), (2, 80))
        self.assertEqual(Figures(self.two.cluster).events["spilled"], 3)
        self.assertEqual(self.lines.count(LINE), 1)
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", *published])
        self.assertEqual(self.rows(), [])
        self.assertEqual((self.overflow.count, self.overflow.size), (0, 0))

    def test_they_are_read_at_once_though_nothing_more_comes(self) -> None:
        self.begin_to_read()
        self.allow(size=100)
        published = self.publish(1, 2, 3, size=39)
        self.shares[2].slow = False
        self.shares[2].answer()
        self.got += acknowledge(self.far)
        self.settle()
        self.got += acknowledge(self.far)
        self.assertEqual(self.got, [b"lost", b"found", *published])

    def test_so_is_one_that_is_larger_than_all_may_be(self) -> None:
        self.begin_to_read()
        self.allow(size=100)
        published = self.publish(1, 2, size=101)
        self.assertEqual((self.overflow.count, self.overflow.spilled), (0, 2))
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", *published])

    def test_a_small_one_does_not_overtake_one_that_was_too_large(self) -> None:
        self.begin_to_read()
        self.allow(size=100)
        published = self.publish(1, size=101) + self.publish(2, 3)
        self.assertEqual(self.overflow.spilled, 3)
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", *published])

    def test_of_too_many_copies_the_rest_is_read_as_rows(self) -> None:
        self.begin_to_read()
        self.allow(count=3)
        published = self.publish(*range(1, 9))
        self.assertEqual((self.overflow.count, self.overflow.spilled), (3, 5))
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", *published])
        self.publish(9)
        self.assertEqual(self.overflow.spilled, 5)

    def test_they_are_taken_in_turns_and_what_comes_meanwhile_behind_them(self) -> None:
        live = self.two.listening("live", "a", 1)
        self.begin_to_read()
        published = self.publish(1, 3)
        self.far.send(Unsubscribe(1, ["a"]))
        self.daemons.advance(2)
        published += self.publish(5, 7)
        self.far.subscribe("a", 2)
        self.daemons.advance(2)
        published += self.publish(9, 11)
        waiting: list[int] = []

        def over() -> None:
            number = 101 + len(waiting)
            waiting.append(self.overflow.count)
            if number < 150:
                self.publisher.publish("a", b"%d" % number, 1, number)

        self.overflow.turn = Short(over)
        self.read()
        self.assertEqual(waiting, [3, 3, 1])  # or it would go on as long as something comes in each turn
        came = [b"%d" % number for number in range(101, 104)]
        self.assertEqual(acknowledge(live), [b"lost", b"found", *published, *came])

    def test_they_take_no_place_when_their_daemon_has_gone(self) -> None:
        self.begin_to_read()
        published = self.publish(1, 2)
        self.assertEqual(self.overflow.count, 2)
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.assertEqual(self.overflow.count, 0)
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", *published])

    def test_nor_when_the_other_daemon_has_not_said_that_all_rows_are_there(self) -> None:
        """It is asked again, and rows are read without it."""
        self.lose_copy(b"lost")
        self.shares[1].held = True
        self.publisher.publish("a", b"found", 1, 100)
        self.settle()
        self.two.cluster.lost(1)
        self.publisher.publish("a", b"1", 1, 1)
        self.daemons.turn()
        self.publisher.publish("a", b"2", 1, 2)
        self.daemons.turn()
        self.assertEqual(self.overflow.count, 1)
        self.two.bus.ear.deaf = True
        self.daemons.advance(2)
        self.assertEqual(self.overflow.count, 0)
        self.two.bus.ear.deaf = False
        self.shares[1].resume()
        self.daemons.advance(6)
        self.read()
        self.assertEqual(self.got, [b"lost", b"found", b"1", b"2"])

    def test_nor_when_we_were_taken_for_dead(self) -> None:
        self.begin_to_read()
        self.publish(1, 2)
        self.assertEqual(self.overflow.count, 2)
        self.two.cluster.fenced()
        self.assertEqual((self.overflow.count, self.overflow.size), (0, 0))


class Tight(test_links.Ledger):
    """The same while next to nothing may wait in memory, and pages are slow."""

    def begin(self, number: int) -> None:
        super().begin(number)
        overflow = linking_of(self.all[number]).overflow
        overflow.limits = evolve(overflow.limits, max_unfinished_total=2 + number)
        overflow.turn = Short()

    @rule(number=st.sampled_from([1, 2, 3]))
    def slow_or_answer(self, number: int) -> None:
        share = self.shares[number]
        share.slow = not share.slow
        self.answer(number)

    def answer(self, number: int) -> None:
        while self.shares[number].asked and not self.shares[number].slow:
            self.shares[number].answer()

    def teardown(self) -> None:
        for number in (1, 2, 3):
            self.shares[number].slow = False
            self.answer(number)
        super().teardown()
        for daemon in self.all.values():
            overflow = linking_of(daemon).overflow
            assert (overflow.count, overflow.size) == (0, 0)


TestTight = Tight.TestCase
TestTight.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
