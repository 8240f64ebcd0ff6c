"""The bench of rules: its files say the same in three formats, and its tables stand."""

import csv
import io
import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bench import imports, recorded
from platziverse.rules.influx import read_lines


class FileTests(SynchronousTestCase):
    def test_three_formats_say_the_same(self) -> None:
        rows = list(csv.DictReader(io.StringIO("".join(imports.csv_of(25)))))
        objects = [json.loads(line) for line in imports.ndjson_of(25)]
        points = read_lines("".join(imports.lines_of(25)))
        names = ("temp", "humidity", "power", "total")
        self.assertEqual(len(names), imports.METRICS)
        for row, one, point in zip(rows, objects, points, strict=True):
            self.assertEqual([float(row[name]) for name in names], [one[name] for name in names])
            self.assertEqual({name: one[name] for name in names}, point["fields"])
            self.assertEqual(
                (row["device"], int(row["at"])), (point["tags"]["device"], point["timestamp"] // 10**9)
            )
            self.assertEqual((one["device"], one["at"]), (row["device"], int(row["at"])))

    def test_every_kind_of_message_is_read(self) -> None:
        for name, read in recorded.readers().items():
            found: Any = read()
            (report,) = found.reports if name.startswith("Tasmota") else [found]
            self.assertEqual(len(report.metrics), recorded.KINDS[name][1], name)


class TableTests(SynchronousTestCase):
    def test_the_tables_tell_ratios_and_what_was_lost(self) -> None:
        costs = {name: 10.0 * metrics + 10 for name, (_, metrics) in recorded.KINDS.items()}
        found = {
            "date": "2026-11-29",
            "machine": {"cores": 2, "cpu": "X", "kernel": "6.1-a", "python": "3.11.7"},
            "versions": {"platziverse": "0.1.0"},
            "rounds": 3,
            "reading": costs,
            "daemon": costs,
            "files": {
                "copy of psql": {"cpu_us": 1.0, "server_us": 3.0, "rows_per_second": 200_000.0, "mib": 10.0},
                "import of CSV": {"cpu_us": 5.0, "server_us": 3.0, "rows_per_second": 100_000.0, "mib": 80.0},
            },
            "cut": {"platziverse": {"sent": 1600, "stored": 1500, "again": 3}},
        }
        lines = [line.split() for line in recorded.section(found).splitlines()]
        self.assertIn(["Tasmota,", "4", "numbers", "50", "50", "1.00×"], [line[:6] for line in lines])
        self.assertIn(["import", "of", "CSV", "5", "3", "2.00×", "100,000", "80"], lines)
        self.assertIn(["platziverse", "1,600", "1,500", "100", "3"], lines)
