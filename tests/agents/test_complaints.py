"""Log lines about rejected messages."""

from typing import Any

from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.complaints import Complaints


class ComplaintsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.complaints = Complaints()

    def observe(self, event: dict[str, Any]) -> None:
        self.lines.append(formatEvent(event))

    def reject(self, client_id: str, now: float) -> None:
        self.complaints.rejected(client_id, "agent/message", "it is bad", now)

    def test_a_rejected_message_is_one_line(self) -> None:
        """row 127: with the client's text quoted."""
        self.reject("new\nline", 100.0)
        self.assertEqual(self.lines, ["Rejected a message of 'new\\nline' to 'agent/message': it is bad"])

    def test_one_client_does_not_fill_the_log(self) -> None:
        for _ in range(50):
            self.reject("bad", 100.0)
        self.reject("another", 100.0)
        self.assertEqual(len(self.lines), 6)
        self.reject("bad", 111.0)
        self.assertIn("45 more messages were rejected", self.lines[6])
        self.assertEqual(len(self.lines), 8)

    def test_many_names_do_not_fill_the_log_either(self) -> None:
        for number in range(1000):
            self.reject(f"client {number}", 100.0)
        self.assertEqual(len(self.lines), 100)
        self.assertEqual(len(self.complaints._counts), 100)

    def test_a_clock_set_back_does_not_silence_it(self) -> None:
        for _ in range(50):
            self.reject("bad", 1000.0)
        self.reject("bad", 10.0)
        self.assertEqual(len(self.lines), 7)
