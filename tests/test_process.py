"""The log of the process."""

import json
from io import StringIO

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from platziverse.config import log_levels
from platziverse.process import log_observer, logs_here, within


class LogTests(SynchronousTestCase):
    def written(self, form: str, levels: str) -> str:
        file = StringIO()
        publisher = LogPublisher(log_observer(file, form, log_levels(levels)))
        for room in ("mqtt.decoder", "net.protocol", "mqttish"):
            log = Logger(f"platziverse.{room}", observer=publisher)
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn):
                log.emit(level, "{what!r}", what="a\nb")
        return file.getvalue()

    def test_an_event_is_one_line_of_text(self) -> None:
        lines = self.written("text", "warn").splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[0], r"^\d{4}-\d\d-\d\dT.* \[platziverse\.mqtt\.decoder#warn\] 'a\\nb'$")

    def test_an_event_is_one_json_object(self) -> None:
        events = [json.loads(line) for line in self.written("json", "warn").splitlines()]
        self.assertEqual([event["log_namespace"] for event in events][1], "platziverse.net.protocol")

    def test_a_room_may_have_its_own_level(self) -> None:
        text = self.written("text", "warn,mqtt=debug")
        self.assertEqual(text.count("mqtt.decoder#"), 3)
        self.assertEqual(text.count("net.protocol#"), 1)
        self.assertEqual(text.count("mqttish#"), 1)


class LogPlaceTests(SynchronousTestCase):
    def test_the_log_of_a_foreground_process_is_ours(self) -> None:
        for command in ("-n platziverse", "-ny platziverse.tac", "--nodaemon --pidfile= platziverse"):
            self.assertTrue(logs_here(command.split()), command)

    def test_a_log_file_or_the_background_is_twistds(self) -> None:
        for command in (
            "platziverse",
            "-n --logfile=x platziverse",
            "-n -l x platziverse",
            "-n --syslog -y a",
        ):
            self.assertFalse(logs_here(command.split()), command)


class WithinTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def test_what_has_fired_is_not_waited_for(self) -> None:
        self.assertTrue(self.successResultOf(within(self.clock, succeed(None), 5)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience_ends(self) -> None:
        never: Deferred[None] = Deferred()
        answer = within(self.clock, never, 5)
        self.clock.advance(4.9)
        self.assertNoResult(answer)
        self.clock.advance(0.2)
        self.assertFalse(self.successResultOf(answer))
        never.callback(None)

    def test_a_failure_is_logged_and_the_stop_goes_on(self) -> None:
        self.assertTrue(self.successResultOf(within(self.clock, fail(ValueError("so")), 5)))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
