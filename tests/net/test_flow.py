"""FlowControl: who is held, who goes on, and that nobody is forgotten."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.net.flow import FlowControl


class Reader:
    holds = telling = 0

    def __init__(self) -> None:
        self.unfinished = self.waiting = 0
        self.held = False

    def hold_reading(self, why: int) -> None:
        self.held = True

    def resume_reading(self, why: int) -> None:
        self.held = False


class Holding(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 30)), max_size=200))
    def test_the_high_marks_hold_and_an_idle_store_frees_all(
        self, steps: list[tuple[int, bool, int]]
    ) -> None:
        limits = Limits(max_unfinished=4, max_unfinished_total=9, max_unfinished_bytes=100)
        flow = FlowControl(limits)
        readers = [Reader() for _ in range(4)]
        running: list[tuple[Reader, int]] = []
        for number, start, size in steps:
            reader = readers[number]
            if start and not reader.held:
                flow.started(reader, size)
                running.append((reader, size))
            elif not start and running:
                flow.finished(*running.pop(0))
            self.assertLessEqual(flow.unfinished, limits.max_unfinished_total + 3)
            self.assertLessEqual(max(each.unfinished for each in readers), limits.max_unfinished)
            self.assertEqual(flow.unfinished, len(running))
            self.assertEqual(flow.unfinished_bytes, sum(size for _, size in running))
        while running:
            flow.finished(*running.pop())
        self.assertEqual([reader.held for reader in readers], [False] * 4)
        self.assertEqual((flow.held, flow.unfinished, flow.unfinished_bytes), (0, 0, 0))

    def test_one_large_client_does_not_hold_a_small_one(self) -> None:
        flow = FlowControl(Limits(max_unfinished=4))
        large, small = Reader(), Reader()
        for _ in range(4):
            flow.started(large, 1)
        flow.started(small, 1)
        self.assertEqual((large.held, small.held), (True, False))

    def test_a_reader_that_left_is_not_resumed(self) -> None:
        flow = FlowControl(Limits(max_unfinished=1))
        reader = Reader()
        flow.started(reader, 1)
        flow.forget(reader)
        flow.finished(reader, 1)
        self.assertEqual((reader.held, flow.unfinished), (True, 0))
