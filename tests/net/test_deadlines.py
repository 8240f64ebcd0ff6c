"""Deadlines: called in time, never early, and not for a suspended machine."""

import weakref

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.net.deadlines import TICK, Deadlines


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
