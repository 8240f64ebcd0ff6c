"""The line of a long command in a terminal, and nothing elsewhere."""

import io
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ProgressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 100.0
        self.patch(time, "monotonic", lambda: self.now)

    def shown(self, error: io.StringIO, whole: int) -> list[str]:
        """What is written in ten seconds, one line for each time."""
        self.patch(sys, "stderr", error)
        progress = Progress("metrics", whole)
        for second in range(1, 11):
            self.now += 1
            progress.show(second * 1000, second * 50)
            progress.show(second * 1000 + 1, second * 50)  # too soon after the one before
        progress.end()
        return error.getvalue().replace("\x1b[K", "").split("\r")[1:]

    def test_a_terminal_sees_how_far_it_has_come(self) -> None:
        lines = self.shown(Terminal(), 1000)
        self.assertEqual(len(lines), 11)
        self.assertEqual(lines[4], f"[{'#' * 7:<30}]  25 %  5,000 metrics, 1,000 a second, 15 s left")
        self.assertEqual(lines[-1], "")

    def test_what_cannot_be_counted_is_said(self) -> None:
        for error, shown in (Terminal(), "\rlooking\x1b[K\r\x1b[K"), (io.StringIO(), ""):
            self.patch(sys, "stderr", error)
            progress = Progress("metrics")
            progress.say("looking")
            progress.end()
            self.assertEqual(error.getvalue(), shown)

    def test_without_an_end_it_says_how_many(self) -> None:
        self.assertEqual(self.shown(Terminal(), 0)[4], "5,000 metrics, 1,000 a second")

    def test_a_file_gets_no_line(self) -> None:
        self.assertEqual(self.shown(io.StringIO(), 1000), [])
