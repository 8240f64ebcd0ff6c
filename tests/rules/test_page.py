"""What docs/recording.rst shows is true."""

from pathlib import Path

from msgspec.toml import decode
from twisted.trial.unittest import SynchronousTestCase

from platziverse.rules.loading import presets
from platziverse.rules.tables import RuleTable
from tests.pages import DOCS, blocks
from tests.rules.reading import NOW, metrics, read

PAGE = (DOCS / "recording.rst").read_text(encoding="utf-8")


class PageTests(SynchronousTestCase):
    def test_the_household_records_what_the_page_says(self) -> None:
        _, household, *_ = blocks("recording.rst", "toml")
        payload = (
            b'{"at": "2026-11-28T17:20:38", "water": {"in": 41.5, "out": 33}, "valve": "open", "mode": "eco"}'
        )
        self.assertIn(payload.decode(), PAGE)
        readings = read(household, payload, "heating/bath/state")
        (report,) = readings.reports
        found = {metric.type: metric.value for metric in report.metrics}
        self.assertEqual(found, {"water.in": "41.5", "water.out": "33", "valve": "1"})
        self.assertEqual((report.agent.uuid, report.measured), ("heating:bath", NOW - 20))
        self.assertEqual(readings.ignored, [("mode", "eco")])
        self.assertEqual(metrics(household, b"750", "heating/bath/power"), {"power": "750"})
        departed = read(household, b"no", "heating/bath/alive").departed
        assert departed is not None
        self.assertEqual(departed.uuid, "heating:bath")

    def test_a_list_of_readings_is_read(self) -> None:
        _, _, listed, _ = blocks("recording.rst", "toml")
        payload = {"values": [{"id": "a", "v": 1, "t": NOW}, {"id": "b", "v": "x", "t": NOW}]}
        self.assertEqual(metrics(listed, payload, "plc/7"), {"a": "1", "b": "x"})

    def test_a_file_is_read_by_its_rule(self) -> None:
        *_, old = blocks("recording.rst", "toml")
        row = {"when": "2026-11-28 17:20:38", "room": "bath", "temp": "21.5", "valve": "open"}
        self.assertEqual(metrics(old, row, "old/bath"), {"temp": "21.5", "valve": "1"})
        self.assertEqual(read(old, row, "old/bath").reports[0].measured, NOW - 20)

    def test_the_configuration_names_presets_that_are_there(self) -> None:
        settings, *_ = blocks("recording.rst", "toml")
        self.assertLessEqual(set(decode(settings)["record"]["presets"]), set(presets()))

    def test_every_preset_and_every_key_has_a_row(self) -> None:
        for name in (*presets(), *RuleTable.__struct_fields__):
            self.assertIn(f"``{name}``", PAGE)

    def test_the_page_is_in_the_example_of_the_configuration(self) -> None:
        text = (Path(DOCS).parent / "examples" / "platziverse.toml").read_text(encoding="utf-8")
        self.assertIn("docs/recording.rst", text)
