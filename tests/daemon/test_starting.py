"""The line of a start that takes long, in a terminal."""

import io

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.logs import LineLog
from platziverse.daemon.starting import EVERY, StartLine


class StartingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.sink = Clock(), io.BytesIO()
        self.trouble = "the database is connecting"

    def line(self, form: str = "text", colours: bool = True) -> StartLine:
        self.log = LineLog(self.sink, form, {"": LogLevel.info}, colours=colours)
        line = StartLine(self.clock, lambda: self.log, lambda: self.trouble)
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
        first = b"\r\x1b[Kstarting: the database is connecting, 1 s"
        self.assertEqual(self.written(), first + first.replace(b"1 s", b"2 s"))
        self.log.write_lines(b"a line\n")
        self.log.write_lines(b"another\n")
        self.assertEqual(self.written(), b"\r\x1b[Ka line\nanother\n")
        self.clock.advance(EVERY)
        self.written()
        line.stop()
        self.assertEqual(self.written(), b"\r\x1b[K")
        self.clock.advance(EVERY)
        line.stop()
        self.assertEqual(self.written(), b"")

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
