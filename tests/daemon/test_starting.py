"""The line of a start that takes long, in a terminal."""

import io

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.logs import LineLog
from platziverse.daemon.starting import EVERY, GIVEN, SESSIONS, TABLES, Stage, StartLine


class StartingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.sink = Clock(), io.BytesIO()
        self.stage: Stage | None = Stage(GIVEN, TABLES, "the tables, step 2 of 8", 1 / 8)

    def line(self, form: str = "text", colours: bool = True) -> StartLine:
        self.log = LineLog(self.sink, form, {"": LogLevel.info}, colours=colours)
        line = StartLine(self.clock, lambda: self.log, lambda: self.stage)
        line.start()
        return line

    def written(self) -> bytes:
        found = self.sink.getvalue()
        self.sink.seek(0)
        self.sink.truncate()
        return found

    def test_it_says_what_is_waited_for_and_gives_way_to_the_log(self) -> None:
        line = self.line()
        self.assertEqual(self.written(), b"")
        self.clock.pump([EVERY, EVERY])
        first = b"\r\x1b[Kstarting [#######             ] 2 of 3: the tables, step 2 of 8, 1 s"
        self.assertEqual(self.written(), first + first.replace(b"1 s", b"2 s"))
        self.log.write_lines(b"a line\n")
        self.log.write_lines(b"another\n")
        self.assertEqual(self.written(), b"\r\x1b[Ka line\nanother\n")
        self.stage = None
        self.clock.advance(EVERY)
        self.assertEqual(self.written(), b"")
        self.stage = Stage(GIVEN, SESSIONS, "loading")
        self.clock.advance(EVERY)
        self.assertIn(b"3 of 3: loading, 4 s", self.written())
        line.stop()
        self.assertEqual(self.written(), b"\r\x1b[K")
        self.clock.advance(EVERY)
        line.stop()
        self.assertEqual(self.written(), b"")

    def test_lines_of_a_worker_take_the_place_of_the_line_of_all(self) -> None:
        for worker, first in ((1, b"\r\x1b[K"), (0, b"")):
            LineLog(self.sink, "text", {}, colours=True, worker=worker).write_lines(b"a line\n")
            self.assertEqual(self.written(), first + b"a line\n")

    def test_a_start_that_is_quick_shows_nothing(self) -> None:
        line = self.line()
        self.clock.advance(EVERY / 2)
        line.stop()
        self.assertEqual(self.written(), b"")

    def test_what_is_no_terminal_gets_none(self) -> None:
        for form, colours in (("text", False), ("json", True)):
            line = self.line(form, colours)
            self.clock.advance(EVERY)
            line.stop()
            self.assertEqual(self.written(), b"")
