"""Deadlines: called in time, never early, and not for a suspended machine."""

import weakref

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.turn import LENGTH
from platziverse.net.deadlines import SLICE, TICK, Deadlines
from tests.net.test_turns import run_turn


class Sleeper:
    """Notes when it was called."""

    def __init__(self, clock: Clock) -> None:
        self.bucket = -1
        self.clock = clock
        self.called: list[float] = []

    def deadline_reached(self, now: float) -> None:
        self.called.append(self.clock.seconds())


class Calling(SynchronousTestCase):
    @given(st.lists(st.floats(0, 40), min_size=1, max_size=20), st.floats(0, 0.24))
    def test_everyone_is_called_once_and_at_most_two_ticks_late(
        self, waits: list[float], offset: float
    ) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        clock.advance(offset)
        asked = clock.seconds()
        sleepers = [Sleeper(clock) for _ in waits]
        for sleeper, wait in zip(sleepers, waits, strict=True):
            deadlines.add(sleeper, deadlines.now + wait)
        clock.pump([1 / 32] * 1600)
        for sleeper, wait in zip(sleepers, waits, strict=True):
            self.assertEqual(len(sleeper.called), 1)
            self.assertGreaterEqual(sleeper.called[0], asked - offset + wait)
            self.assertLessEqual(sleeper.called[0], asked + wait + 2 * TICK + 1 / 32)

    def test_asking_again_replaces_and_removing_forgets(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        moved, gone = Sleeper(clock), Sleeper(clock)
        deadlines.add(moved, 1.0)
        deadlines.add(moved, 5.0)
        deadlines.add(gone, 1.0)
        deadlines.remove(gone)
        clock.pump([TICK] * 16)
        self.assertEqual((moved.called, gone.called), ([], []))
        clock.pump([TICK] * 16)
        self.assertEqual(len(moved.called), 1)
        left = [weakref.ref(moved), weakref.ref(gone)]
        del moved, gone
        self.assertEqual([each() for each in left], [None, None])

    def test_an_heir_is_called_in_the_place_of_another_at_its_time(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        first, heir, other = Sleeper(clock), Sleeper(clock), Sleeper(clock)
        deadlines.add(first, 5.0)
        deadlines.add(other, 5.0)
        deadlines.pass_on(first, heir)
        clock.pump([TICK] * 40)
        self.assertEqual((first.called, heir.called), ([], other.called))
        self.assertEqual(len(heir.called), 1)

    def test_without_a_deadline_there_is_nothing_to_pass_on(self) -> None:
        deadlines = Deadlines(Clock())
        heir = Sleeper(Clock())
        deadlines.pass_on(Sleeper(Clock()), heir)
        self.assertEqual(heir.bucket, -1)

    def test_a_gap_does_not_count(self) -> None:
        """row 121"""
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        sleeper = Sleeper(clock)
        deadlines.add(sleeper, 10.0)
        clock.advance(600.0)
        self.assertEqual((sleeper.called, deadlines.suspensions), ([], 1))
        clock.pump([TICK] * 44)
        self.assertEqual(len(sleeper.called), 1)

    def test_one_that_raises_holds_up_nobody(self) -> None:
        """row 85"""

        class Broken(Sleeper):
            def deadline_reached(self, now: float) -> None:
                raise KeyError("bug")

        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        sleepers = [Sleeper(clock) if number % 2 else Broken(clock) for number in range(6)]
        for sleeper in sleepers:
            deadlines.add(sleeper, 1.0)
        clock.pump([TICK] * 8)
        self.assertEqual([len(sleeper.called) for sleeper in sleepers], [0, 1] * 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 3)

    def test_stopped_it_leaves_nothing_behind(self) -> None:
        clock = Clock()
        deadlines = Deadlines(clock)
        deadlines.start()
        deadlines.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


class Busy(Sleeper):
    """A connection that takes a tenth of a millisecond to be called."""

    def deadline_reached(self, now: float) -> None:
        self.clock.rightNow += 1e-4
        super().deadline_reached(now)


class AtOnce(SynchronousTestCase):
    """Row 354: the time of thousands of connections comes in one tick."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.deadlines.start()
        self.many = [Busy(self.clock) for _ in range(5000)]
        for busy in self.many:
            self.deadlines.add(busy, 1.0)
        while not self.called():
            self.clock.rightNow += TICK
            run_turn(self.clock)

    def called(self) -> int:
        return sum(len(busy.called) for busy in self.many)

    def test_some_are_called_in_each_turn_and_nobody_twice(self) -> None:
        most = (LENGTH / 1e-4) + 2 * SLICE
        turns, before = 1, 0
        while self.called() < 5000:
            self.assertLessEqual(self.called() - before, most)
            before = self.called()
            run_turn(self.clock)
            turns += 1
        self.assertLess(turns, 60)
        self.clock.pump([TICK] * 20)
        self.assertEqual({len(busy.called) for busy in self.many}, {1})

    def test_those_that_wait_may_still_be_removed_passed_on_or_moved(self) -> None:
        removed, passed, moved = [busy for busy in self.many if not busy.called][:3]
        heir = Sleeper(self.clock)
        self.deadlines.remove(removed)
        self.deadlines.pass_on(passed, heir)
        self.deadlines.add(moved, self.deadlines.now + 100.0)
        self.clock.pump([TICK] * 20)
        self.assertEqual((removed.called, passed.called, moved.called, len(heir.called)), ([], [], [], 1))
        self.assertEqual(self.called(), 4997)

    def test_at_the_end_nobody_is_called_any_more(self) -> None:
        called = self.called()
        self.deadlines.stop()
        self.clock.pump([TICK] * 20)
        self.assertEqual(self.called(), called)
