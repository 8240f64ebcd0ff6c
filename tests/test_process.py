"""The log of the process."""

import errno
import json
import time
from io import StringIO

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from platziverse.config import log_levels
from platziverse.mqtt.packets import Puback
from platziverse.process import log_observer, logs_here, use_steady_clock, within
from platziverse.testing import BrokerHarness


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


class FullDisk(StringIO):
    """A file that has no room at times."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


class FullDiskTests(SynchronousTestCase):
    """Row 119: there is no room for the log."""

    def setUp(self) -> None:
        self.file = FullDisk()
        globalLogPublisher.addObserver(observer := log_observer(self.file, "text", log_levels("debug")))
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def test_connections_do_not_notice(self) -> None:
        harness = BrokerHarness()
        good = harness.connect("good")
        for _ in range(30):
            harness.open().send_bytes(b"\xf0\x00")
        good.publish("t", b"", 1, 1)
        self.assertEqual(good.received(), [Puback(1)])
        self.assertEqual(harness.broker.traffic.internal_errors, 0)
        self.assertTrue(self.flushLoggedErrors(OSError))  # Twisted tells its other observers

    def test_lines_are_written_again_when_there_is_room(self) -> None:
        log = Logger("platziverse.test")
        log.info("lost")
        self.file.full = False
        log.info("kept")
        self.assertIn("kept", self.file.getvalue())
        self.assertNotIn("lost", self.file.getvalue())
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class SteadyClockTests(SynchronousTestCase):
    """Row 120: the clock of the machine is set back, or forward."""

    def test_timers_fire_at_their_time(self) -> None:
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        use_steady_clock(reactor)
        steady = [1000.0]
        self.patch(time, "monotonic", lambda: steady[0])
        use_steady_clock(reactor)
        for step in (-86_400.0, 86_400.0, 0.0):
            wall = time.time() + step
            self.patch(time, "time", lambda wall=wall: wall)
            fired: list[float] = []
            reactor.callLater(10, lambda fired=fired: fired.append(reactor.seconds()))
            began = steady[0]
            for seconds in range(1, 12):
                steady[0] = began + seconds
                reactor.runUntilCurrent()
            self.assertEqual(fired, [began + 10])

    def test_it_is_that_of_the_process(self) -> None:
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        use_steady_clock(reactor)
        self.assertIs(reactor.seconds, time.monotonic)


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
