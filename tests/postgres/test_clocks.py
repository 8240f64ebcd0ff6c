"""Which time is stored when clocks disagree, or are set."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.postgres.clocks import APART, WallClock, steady

DAY = 86_400.0
NOW = 1_800_000_000.0


class WallClockCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.ours, self.steady = NOW, 100.0
        self.moves: list[float] = []
        self.clock = WallClock(self.moves.append, lambda: self.ours, lambda: self.steady)

    def later(self, seconds: float) -> None:
        self.ours += seconds
        self.steady += seconds

    def compare(self, theirs: float, took: float = 0.0) -> None:
        """The database says ``theirs`` halfway through a question that took so long."""
        asked = self.clock.ours()
        self.later(took)
        self.clock.compare(theirs, asked)

    def test_our_clock_counts_while_it_agrees(self) -> None:
        self.compare(NOW - 59.0)
        self.assertEqual((self.clock(), self.clock.apart, self.clock.warning), (NOW, 59.0, ""))
        self.later(5.0)
        self.assertEqual(self.clock(), NOW + 5.0)

    def test_the_database_counts_when_ours_is_behind(self) -> None:
        """Row 142."""
        self.compare(NOW + 3650 * DAY)
        self.later(1.0)
        self.assertEqual(self.clock(), NOW + 3650 * DAY + 1.0)
        self.assertEqual(self.clock.warning, "the clock is 315360000 s behind that of the database")

    def test_the_database_counts_when_ours_is_ahead(self) -> None:
        """Row 140."""
        self.compare(NOW - 61.0)
        self.assertEqual(self.clock(), NOW - 61.0)
        self.assertEqual(self.clock.warning, "the clock is 61 s ahead of that of the database")

    def test_what_was_stamped_before_the_first_comparison_is_moved(self) -> None:
        stamped = self.clock()
        self.later(3.0)
        self.compare(NOW + DAY)
        self.assertEqual(self.moves, [DAY - 3.0])
        self.assertEqual(stamped + self.moves[0], self.clock() - 3.0)

    def test_a_step_of_our_clock_moves_nothing(self) -> None:
        """Row 120."""
        self.compare(NOW)
        self.ours -= DAY
        self.assertEqual(self.clock(), NOW)
        self.later(2.0)
        self.compare(NOW + 2.0)
        self.assertEqual((self.clock(), self.moves), (NOW + 2.0, []))

    def test_a_clock_that_is_set_right_counts_again(self) -> None:
        self.compare(NOW + DAY)
        self.ours += DAY + 7.0
        self.compare(NOW + DAY)
        self.assertEqual((self.clock(), self.clock.warning), (NOW + DAY + 7.0, ""))
        self.assertEqual(self.moves, [DAY])

    def test_half_of_a_slow_answer_is_nobodys_fault(self) -> None:
        self.compare(NOW + 2.0, took=4.0)
        self.assertEqual(self.clock.apart, 0.0)

    def test_the_steady_clock_goes_on(self) -> None:
        before = steady()
        self.assertLess(before, steady() + 1e-9)


class Whatever(SynchronousTestCase):
    @given(
        begin=st.floats(-10 * 365 * DAY, 10 * 365 * DAY),
        steps=st.lists(
            st.tuples(
                st.floats(0.0, 5.0),
                st.sampled_from(["stamp", "compare", "set"]),
                st.one_of(st.floats(-100.0, 100.0), st.floats(-10 * 365 * DAY, 10 * 365 * DAY)),
            ),
            max_size=50,
        ),
    )
    def test_what_waits_has_the_time_of_the_database_whoever_sets_our_clock(
        self, begin: float, steps: list[tuple[float, str, float]]
    ) -> None:
        """Row 142: two minutes at most, one of them until the clocks are compared for the first time."""
        truth, ours = NOW, NOW + begin
        stamps: list[list[float]] = []

        def move(seconds: float) -> None:
            for stamp in stamps:
                stamp[0] += seconds

        clock = WallClock(move, lambda: ours, lambda: truth - NOW)
        for seconds, action, error in [*steps, (0.0, "compare", 0.0)]:
            truth, ours = truth + seconds, ours + seconds
            if action == "stamp":
                stamps.append([clock(), truth])
            elif action == "set":
                ours = truth + error
            else:
                clock.compare(truth, clock.ours())
                self.assertLessEqual(abs(clock() - truth), APART + 1e-3)
                for stamp, true in stamps:
                    self.assertLessEqual(abs(stamp - true), 2 * APART + 1e-3)
