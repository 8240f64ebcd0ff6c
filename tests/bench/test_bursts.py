"""Bursts: what is counted of them, against a server that passes bytes on."""

import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bench import bursts
from bench.bursts import Burst, NotTaken, sockets, table
from bench.relay import Relay


class BurstTests(SynchronousTestCase):
    def relay(self) -> int:
        relay = Relay(0)
        thread = threading.Thread(target=relay.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(relay.stop)
        return relay.port

    def test_each_delivery_is_counted(self) -> None:
        for qos in 0, 1:
            burst = Burst("b", "a burst", 3, 400, sockets, qos, qos)
            self.assertEqual(burst.send(burst, self.relay()), burst.published)

    def test_a_burst_that_is_not_taken_has_no_figure(self) -> None:
        burst = Burst("b", "a burst", 1, 10, sockets, 1, 1)
        error = self.assertRaises(NotTaken, bursts.check_taken, burst, 9)
        self.assertEqual(str(error), "9 of 10 were taken")

    def test_the_table_has_a_line_for_each_burst(self) -> None:
        load: dict[str, Any] = {"title": "a burst", "published": 5000}
        load["delivered"] = {"platziverse": 5000, "aedes": None}
        lines = table({"versions": {"platziverse": "1", "aedes": "1"}, "loads": {"b": load}}).split("\n")
        self.assertEqual(lines[1].split()[-2:], ["platziverse", "aedes"])
        self.assertEqual(lines[3].split(), ["a", "burst", "5,000", "5,000", "–"])
