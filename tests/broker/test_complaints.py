"""Log lines about clients."""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.complaints import LINES, LINES_PER_HOST, WINDOW, Complaints
from tests.logs import observe_log
from tests.memory import objects_kept


class ComplaintsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        observe_log(self, self.observe)
        self.clock = Clock()
        self.complaints = Complaints(self.clock, "net")

    def observe(self, event: dict[str, Any]) -> None:
        self.lines.append(f"{event['log_namespace']} {formatEvent(event)}")

    def warn(self, cause: str = "Keep Alive", address: str = "192.0.2.1:5", client_id: str = "a") -> None:
        self.complaints.warn(
            cause, "Closing {address} {client_id!r}: {cause}", address=address, client_id=client_id
        )

    def test_a_complaint_is_a_line_of_its_room(self) -> None:
        """Row 127: with the client's text quoted."""
        self.warn(client_id="new\nline")
        self.assertEqual(self.lines, ["platziverse.net Closing 192.0.2.1:5 'new\\nline': Keep Alive"])

    def test_ordinary_back_pressure_is_for_debug_alone(self) -> None:
        levels: list[Any] = []
        observe_log(self, lambda event: levels.append(event["log_level"]))
        for _ in range(LINES_PER_HOST + 5):
            text = "Reading {address} later"
            self.complaints.mention("the others' turn", text, address="192.0.2.1:5")
        self.clock.advance(WINDOW)
        self.assertEqual(levels, [LogLevel.debug] * (LINES_PER_HOST + 1))
        self.assertIn("5 more like this in 10 s: the others' turn", self.lines[-1])

    def test_one_host_does_not_fill_the_log_and_hides_nobody(self) -> None:
        for port in range(50):
            self.warn(address=f"192.0.2.1:{port}", client_id=str(port))
        self.warn(address="[2001:db8::1]:5")
        self.assertEqual(len(self.lines), LINES_PER_HOST + 1)
        self.assertIn("[2001:db8::1]:5", self.lines[-1])

    def test_many_hosts_do_not_fill_the_log_either(self) -> None:
        for number in range(LINES):
            self.warn(address=f"192.0.2.{number}:1")
        kept = objects_kept(self.complaints)
        for number in range(LINES, 1000):
            self.warn(address=f"192.0.2.{number}:1")
        self.assertEqual((len(self.lines), objects_kept(self.complaints)), (LINES, kept))

    def test_a_cause_does_not_hide_the_others(self) -> None:
        for _ in range(50):
            self.warn("one")
        self.warn("another")
        self.assertIn("another", self.lines[-1])

    def test_what_was_kept_back_is_told_when_the_window_ends(self) -> None:
        for _ in range(50):
            self.warn()
        self.clock.advance(WINDOW)
        self.assertIn("45 more like this in 10 s: Keep Alive", self.lines[-1])
        self.warn()
        self.assertIn("Closing", self.lines[-1])
        self.clock.advance(WINDOW)
        self.assertEqual(len(self.lines), LINES_PER_HOST + 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_or_when_the_daemon_stops(self) -> None:
        for _ in range(6):
            self.warn()
        self.complaints.stop()
        self.assertIn("1 more like this", self.lines[-1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_bug_is_told_with_its_traceback_within_the_same_limits(self) -> None:
        for _ in range(LINES_PER_HOST + 1):
            failure = Failure(ZeroDivisionError("no"))
            self.complaints.fail("bug", failure, "Bug: with {address}", address="192.0.2.1:5")
        self.assertEqual(self.lines, ["platziverse.net Bug: with 192.0.2.1:5"] * LINES_PER_HOST)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), LINES_PER_HOST)
