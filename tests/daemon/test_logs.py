"""The log: what a line looks like, and what it cannot look like."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from platziverse.config import log_levels
from platziverse.daemon.logs import LineLog, is_journal, log_target, open_log
from platziverse.words import escaped

#: Time with zone, level, room.
HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d %s %s: "

#: Forged lines, colours, a cursor that moves, writing that turns round, half a character.
HOSTILE = (
    "a\nb",
    "a\r\nb",
    "\x1b[2J\x1b[31m",
    "\u202egnp.exe",
    "\u2066\u2069",
    "\u2028\u2029\x85",
    "\x00\x07\x08\x7f\x9b",
    "\ud800",
    "\ufeff\u200b",
)


class Sink:
    """Keeps what is written; or fails as a full disk does."""

    def __init__(self) -> None:
        self.data = b""
        self.error: Exception | None = None

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.data += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode().split("\n")[:-1]


class LogTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.sink = Sink()

    def log(
        self, form: str = "text", levels: str = "info", room: str = "net.protocol", **more: Any
    ) -> Logger:
        self.observer = LineLog(self.sink, form, log_levels(levels), **more)
        return Logger(f"platziverse.{room}", observer=self.observer)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.sink.lines]


class TextTests(LogTestCase):
    def test_a_line_has_time_level_room_and_text(self) -> None:
        self.log().warn("Closing {address} {client_id!r}", address="192.0.2.1:5", client_id="it's")
        self.assertRegex(self.sink.lines[0], "^" + HEAD % ("warn ", "net") + 'Closing 192.0.2.1:5 "it\'s"$')

    def test_whatever_a_field_holds_an_event_is_one_line(self) -> None:
        """Row 127."""
        log = self.log()
        for text in HOSTILE:
            log.info("{text} {text!r} {other}", text=text, other=[text])
        self.assertEqual(len(self.sink.lines), len(HOSTILE))
        self.assertTrue(all(line.isprintable() for line in self.sink.lines), self.sink.lines)

    def test_any_text_in_any_field_is_one_printable_line(self) -> None:
        """Row 127."""

        @given(text=st.text(), form=st.sampled_from(["{text}", "{text!r}", "{text!s:.5}", "{{{text}"]))
        def check(text: str, form: str) -> None:
            self.sink.data = b""
            self.log().info(form, text=text)
            self.assertLessEqual(len(self.sink.lines), 1)  # an event without a word is none
            self.assertTrue(all(line.isprintable() for line in self.sink.lines))

        check()

    def test_printable_text_stays_as_it_is(self) -> None:
        for text in ("Bogotá 東京 'x' \\n", "", "{}"):
            self.assertEqual(escaped(text), text)

    def test_a_traceback_is_indented_so_that_no_line_of_it_is_taken_for_an_event(self) -> None:
        """Row 127: not even what is quoted in the error."""
        log = self.log()
        try:
            raise ValueError(
                "x\n2026-01-01T00:00:00.000+00:00 warn  net: Closing 198.51.100.1:1 ''\n<0>panic"
            )
        except ValueError:
            log.failure("Bug: {what}", what="a\nb")
        first, *rest = self.sink.lines
        self.assertRegex(first, "^" + HEAD % ("critical", "net") + r"Bug: a\\nb$")
        self.assertTrue(all(line.startswith("    ") for line in rest), rest)
        self.assertIn("    Traceback (most recent call last):", rest)

    def test_only_a_terminal_gets_colours(self) -> None:
        log = self.log(colours=True)
        log.error("{text}", text="\x1b[0m")
        self.assertRegex(
            self.sink.lines[0], "\x1b\\[31merror \x1b\\[0m\x1b\\[\\d+mnet\x1b\\[0m: \\\\x1b\\[0m$"
        )

    def test_the_journal_gets_priorities_and_no_time(self) -> None:
        log = self.log("text", "debug", journal=True, colours=True)
        for level in LogLevel.iterconstants():
            log.emit(level, "so")
        self.assertEqual(self.sink.lines, [f"<{number}>net: so" for number in (7, 6, 4, 3, 2)])

    def test_every_line_of_a_traceback_has_the_priority_for_the_journal(self) -> None:
        log = self.log(journal=True)
        try:
            raise ValueError("x\n<0>panic")
        except ValueError:
            log.failure("Bug")
        self.assertTrue(all(line.startswith(("<2>net: ", "<2>    ")) for line in self.sink.lines))


class JSONTests(LogTestCase):
    def test_an_event_is_one_object_with_its_own_simple_fields(self) -> None:
        self.log("json").warn(
            "{what!r} at {address}", what="a\nb", address="192.0.2.1:5", count=3, ratio=0.5, more=object()
        )
        (record,) = self.records()
        self.assertRegex(record.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")
        self.assertEqual(
            record,
            {
                "level": "warn",
                "room": "net",
                "message": "'a\\nb' at 192.0.2.1:5",
                "what": "a\nb",
                "address": "192.0.2.1:5",
                "count": 3,
                "ratio": 0.5,
                "more": None,
            },
        )

    def test_what_json_has_no_word_for_is_still_json(self) -> None:
        """Row 127."""
        fields = {"nan": float("nan"), "data": b"\xff\n", "error": ValueError("a\nb"), "room": "mine"}
        self.log("json").info("so", **fields)
        for text in HOSTILE:
            self.log("json").info("{text}", text=text)
        self.assertEqual(len(self.sink.lines), 1 + len(HOSTILE))
        self.assertTrue(all(line.isprintable() and line.isascii() for line in self.sink.lines))
        first = self.records()[0]
        self.assertEqual((first["nan"], first["data"], first["error"]), ("nan", "\\xff\n", "a\nb"))
        self.assertEqual((first["room"], first["room_"]), ("net", "mine"))

    def test_a_traceback_is_a_field(self) -> None:
        try:
            raise ValueError("a\nb")
        except ValueError:
            self.log("json").failure("Bug")
        (record,) = self.records()
        self.assertEqual(record["message"], "Bug")
        self.assertIn("Traceback (most recent call last):\n", record["traceback"])


class LevelTests(LogTestCase):
    def shown(self, levels: str) -> list[str]:
        found = []
        publisher = LogPublisher()
        observer = LineLog(self.sink, "json", log_levels(levels))
        publisher.addObserver(observer)
        for namespace in (
            "platziverse.mqtt",
            "platziverse.net.x",
            "platziverse.mqttish",
            "mine",
            "twisted.x",
        ):
            log = Logger(namespace, observer=publisher)
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn):
                log.emit(level, "so")
        found = [f"{record['room']}={record['level']}" for record in self.records()]
        self.sink.data = b""
        return found

    def test_a_room_may_have_its_own_level(self) -> None:
        self.assertEqual(
            self.shown("warn,mqtt=debug"),
            [
                "mqtt=debug",
                "mqtt=info",
                "mqtt=warn",
                "net=warn",
                "mqttish=warn",
                "mine=warn",
                "twisted.x=warn",
            ],
        )

    def test_twisted_speaks_of_its_ports_only_at_debug(self) -> None:
        self.assertNotIn("twisted.x=info", self.shown("info"))
        self.assertIn("mine=info", self.shown("info"))
        self.assertIn("twisted.x=info", self.shown("debug"))
        self.assertIn("twisted.x=info", self.shown("warn,twisted=info"))

    def test_a_client_has_a_level_of_its_own_in_every_room(self) -> None:
        """Row 261."""
        log = self.log(levels="warn,client:a=b=debug,client:shy=error", room="net")
        for client in ("a=b", "shy", "other"):
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn):
                log.emit(level, "{client_id}", client_id=client)
        log.debug("nobody")
        shown = [line.split()[1:] for line in self.sink.lines]
        self.assertEqual(
            [(level, name) for level, _, name in shown],
            [("debug", "a=b"), ("info", "a=b"), ("warn", "a=b"), ("warn", "shy"), ("warn", "other")],
        )

    def test_levels_can_change_while_it_runs(self) -> None:
        log = self.log("text", "warn")
        log.info("no")
        self.observer.use(log_levels("debug"))
        log.debug("yes")
        self.assertEqual([line[-3:] for line in self.sink.lines], ["yes"])


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class TroubleTests(LogTestCase):
    def test_a_disk_that_is_full_raises_nowhere(self) -> None:
        """Row 119: and when there is room again the log says what is missing."""
        log = self.log()
        self.sink.error = OSError(28, "No space left on device")
        for _ in range(3):
            log.warn("unheard")
        self.assertEqual(self.observer.lost, 3)
        self.sink.error = None
        log.warn("heard")
        self.assertIn("3 events before this could not be written", self.sink.lines[0])
        self.assertEqual(len(self.sink.lines), 2)
        log.warn("heard")
        self.assertEqual(len(self.sink.lines), 3)

    def test_a_file_that_is_closed_raises_nowhere(self) -> None:
        """Row 119."""
        log = self.log()
        self.sink.error = ValueError("I/O operation on closed file")
        log.warn("unheard")
        self.assertEqual(self.observer.lost, 1)

    def test_a_field_that_cannot_be_shown_raises_nowhere(self) -> None:
        """Row 119."""
        for form in ("text", "json"):
            self.log(form).warn("{it}", it=Broken())
            self.log(form).warn("{missing}")
            self.log(form).warn("{it", it=1)
            self.log(form).warn("", error=BrokenError())
        self.assertTrue(all(line.isprintable() for line in self.sink.lines))
        self.assertGreaterEqual(len(self.sink.lines), 7)


class BrokenError(Exception):
    __str__ = Broken.__str__


class TargetTests(SynchronousTestCase):
    """Where the log goes is twistd's decision, and how it looks there is ours."""

    def test_a_foreground_process_logs_to_its_output(self) -> None:
        for command in (
            "-n platziverse",
            "-ny platziverse.tac",
            "--nodaemon --pidfile= platziverse -l x",
            "-nl -",
        ):
            self.assertEqual(log_target(command.split()), "-", command)

    def test_a_file_may_be_named_and_a_daemon_has_one(self) -> None:
        for command, name in {
            "platziverse": "twistd.log",
            "-n --logfile=x platziverse": "x",
            "-nlx platziverse": "x",
            "-n --logf /a/x platziverse": "/a/x",
            "-l x -y a": "x",
        }.items():
            self.assertEqual(log_target(command.split()), os.path.abspath(name), command)

    def test_syslog_and_loggers_are_left_to_twistd(self) -> None:
        for command in ("-n --syslog -y a", "--logger=a.b platziverse", "-l - platziverse"):
            self.assertIsNone(log_target(command.split()), command)

    def test_what_is_not_twistd_is_left_alone(self) -> None:
        self.assertIsNone(log_target(["--cov", "tests"]))

    def opened(self, path: Path) -> LineLog:
        observer = open_log(str(path), "text", {})
        self.addCleanup(lambda: cast(LogFile, observer.sink).close())
        return observer

    def test_a_log_file_that_was_moved_away_is_made_again(self) -> None:
        path = Path(self.mktemp()).absolute()
        observer = self.opened(path)
        log = Logger("platziverse.net", observer=observer)
        log.info("one")
        path.rename(f"{path}.old")
        observer.reopen()
        log.info("two")
        self.assertRegex(path.read_text(), f"^{HEAD % ('info ', 'net')}two\n$")
        self.assertIn("one", Path(f"{path}.old").read_text())

    def test_without_a_place_for_a_new_file_the_old_one_stays(self) -> None:
        """Row 78: the log too."""
        folder = Path(tempfile.mkdtemp(dir="."))
        observer = self.opened(folder.absolute() / "x")
        log = Logger("platziverse.net", observer=observer)
        (folder / "x").rename("moved")
        folder.rmdir()
        observer.reopen()
        log.info("still")
        self.assertIn("still", Path("moved").read_text())
        self.assertEqual(observer.lost, 0)

    def test_the_journal_is_known_by_its_stream(self) -> None:
        """Not by the variable alone: a child that logs to a file has it as well."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        found = os.fstat(write)
        self.assertTrue(is_journal(write, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}))
        self.assertFalse(is_journal(write, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}))
        self.assertFalse(is_journal(write, {}))
