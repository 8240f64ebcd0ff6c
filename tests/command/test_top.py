"""What ``stats`` and ``top`` show of ``/api/broker``."""

import io
import os
import subprocess
import sys
from typing import Any
from unittest import mock

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.stats import handlers, holdings, latencies, milliseconds, number, size, span
from platziverse.command.top import screen
from tests.commandline import run
from tests.integration.daemon import COMMAND, ROOT, clean_environment
from tests.web.apicase import ApiCase

CLIENT = {
    "id": "plug\x1b[2J",
    "user": None,
    "address": "192.0.2.7:1",
    "subscriptionCount": 2,
    "queue": 3,
    "dropped": 4,
}


class ScreenTests(ApiCase):
    def page(self) -> Any:
        return self.get("/api/broker").json

    def shown(self, page: Any, before: Any) -> str:
        out = io.StringIO()
        Console(file=out, width=80, height=24).print(screen(page, before, [CLIENT]))
        return out.getvalue()

    def test_the_screen_has_rates_latencies_clients_and_handlers(self) -> None:
        self.harness.connect("plug").publish("x")
        before, page = self.page(), self.page()
        before["handlers"] = [{"name": "a:fast", "calls": 10, "seconds": 1.0}]
        page["handlers"] = [
            {"name": "a:fast", "calls": 20, "seconds": 1.1},
            {"name": "b:slow", "calls": 1, "seconds": 0.5},
        ]
        text = self.shown(page, before)
        for pattern in (
            "^platziverse 1.2, running for 0:00:00, the database is ",
            "messages received +0.0 +1  clients connected +1 *\n",
            "PUBLISH to PUBACK",
            "b:slow +1 +500.0 *\n.*a:fast +10 +10.0 *\n",
            r"plug\\x1b\[2J +– +192.0.2.7:1 +2 +3 +4",
        ):
            self.assertRegex(text, pattern)
        self.assertNotIn("messages denied", text)
        self.assertNotIn("connections held", text)
        self.assertLess(text.count("\n"), 20)  # of 24 lines some are left for clients
        self.assertNotIn("\x1b", text)

    def test_what_is_not_there_is_said(self) -> None:
        page = self.page()
        self.assertEqual(handlers(page), [("handlers", "none")])
        self.assertEqual(latencies(page)[1], ("PUBLISH to PUBACK", "–", "–"))
        page["memory"]["budget"] = 0
        self.assertEqual(holdings(page)[-1][0], "memory")
        self.assertNotIn(" of ", holdings(page)[-1][1])


class WordTests(SynchronousTestCase):
    def test_numbers_are_as_long_as_they_need_to_be(self) -> None:
        self.assertEqual([number(0), number(12.34), number(1234.5)], ["0.0", "12.3", "1,234"])
        self.assertEqual([milliseconds(None), milliseconds(0.0123)], ["–", "12.3"])
        self.assertEqual([size(0), size(2048), size(3 << 30)], ["0 B", "2 KiB", "3.0 GiB"])
        self.assertEqual([span(59), span(3661), span(90_061)], ["0:00:59", "1:01:01", "1 days 1:01:01"])


class CommandTests(SynchronousTestCase):
    def test_without_the_package_it_says_what_to_install(self) -> None:
        with mock.patch.dict(sys.modules, {"rich.live": None}):
            ran = run(self, "top")
        self.assertEqual(ran.code, 1)
        self.assertIn("pip install 'platziverse[top]'", ran.err)

    def test_without_a_terminal_it_names_stats(self) -> None:
        ran = run(self, "top")
        self.assertEqual(ran.code, 1)
        self.assertIn("platziverse stats", ran.err)

    def test_a_terminal_whose_cursor_cannot_be_moved_gets_a_line(self) -> None:
        """Row 532."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        with open(theirs, "wb") as terminal:
            done = subprocess.run(
                [*COMMAND, "top"],
                cwd=ROOT,
                env=clean_environment(TERM="dumb"),
                stdout=terminal,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(
            done.stderr, r"^platziverse: top needs a terminal .* \(TERM\); platziverse stats .*\n$"
        )

    def test_a_filter_of_watch_is_checked(self) -> None:
        ran = run(self, "watch", "a/#/b")
        self.assertEqual(ran.code, 2)
        self.assertIn("FILTER", ran.err)
