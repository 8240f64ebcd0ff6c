"""Durable Sessions in the bench: the client that is away, against our own broker, and the tables."""

import asyncio
from pathlib import Path
from typing import Any

from bench import documents, durable
from bench.kept import come_back, fresh_name, leave, publish
from bench.peers import Platziverse
from tests import servers
from tests.integration.daemon import DaemonTestCase

OURS: dict[str, Any] = {"cpu_us": 3.0, "server_us": 0.5, "rate": 15_000.0, "saved_percent": 0.25}
THEIRS: dict[str, Any] = {"cpu_us": 6.0, "server_us": 0.0, "rate": 90_000.0}
CAME: dict[str, Any] = {"first_ms": 5.0, "last_ms": 50.0, "messages": 1000}
RESULTS: dict[str, Any] = {
    "loads": {"absent": {"title": "to one absent", "peers": {"platziverse": OURS, "mosquitto": THEIRS}}},
    "returns": {"mosquitto": {"1000": CAME, "100000": CAME}},
    "crashes": {"mosquitto": {"left": 0, "acknowledged": 20_000}},
}


class KeptTests(DaemonTestCase):
    def test_what_is_acknowledged_comes_after_a_kill(self) -> None:
        if servers.MISSING:
            self.skipTest(servers.MISSING)
        peer = Platziverse("platziverse", servers.cluster().database("template1"), {})
        folder = Path(self.state_dir())
        name, acknowledged = fresh_name(), set[int]()
        with peer.started(folder) as running:
            asyncio.run(leave(running.ports["mqtt"], name))
            kill = durable.killer(running, 200)
            asyncio.run(publish(running.ports["mqtt"], fresh_name(), 50_000, acknowledged, kill))
        self.assertTrue(200 <= len(acknowledged) < 50_000, len(acknowledged))
        with peer.started(folder) as running:
            came = asyncio.run(come_back(running.ports["mqtt"], name, len(acknowledged)))
        self.assertLessEqual(acknowledged, came.numbers)
        self.assertTrue(0 < came.first <= came.last)

    def test_each_load_has_a_line_for_each_broker(self) -> None:
        ours, theirs = durable.loads_table(RESULTS).split("\n")[3:5]
        self.assertEqual(ours.split()[4:], ["3", "0.5", "15,000", "0.2", "%", "–"])
        self.assertEqual(theirs.split()[-5:], ["6", "–", "90,000", "–", "–"])

    def test_a_queue_that_did_not_come_whole_has_no_times(self) -> None:
        line = durable.returns_table(RESULTS).split("\n")[3]
        self.assertEqual(line.split()[3:], ["5", "50", "–", "–", "0", "of", "20,000"])

    def test_the_document_has_a_place_for_it(self) -> None:
        replaced = documents.replaced(documents.PERFORMANCE.read_text(), "durable", "figures")
        self.assertIn("durable: written by make bench\n\nfigures\n\n.. durable: end", replaced)
