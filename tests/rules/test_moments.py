"""Times as devices write them."""

import math
from datetime import datetime, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.rules.moments import Moments, find_zone
from tests.rules.reading import HEAD, NOW, read, refusal


def moment(text: str) -> float:
    """Seconds since the epoch of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def seconds(written: Any, form: str = "auto", zone: str = "UTC", arrived: float = NOW) -> float:
    return Moments(form, find_zone(zone)).milliseconds(written, arrived) / 1000


class MomentTests(SynchronousTestCase):
    def test_iso_8601_and_the_size_of_a_number_tell_the_time(self) -> None:
        expected = moment("2026-11-28T16:20:38")
        for written in (
            "2026-11-28T16:20:38",
            "2026-11-28T16:20:38Z",
            "2026-11-28 17:20:38+01:00",
            "2026-11-28T16:20:38.000000000Z",
            1795882838,
            1795882838.0,
            1795882838_000,
            1795882838_000_000,
            1795882838_000_000_000,
            "1795882838",
            " 1795882838.0 ",
            datetime(2026, 11, 28, 16, 20, 38, tzinfo=timezone.utc),
            datetime(2026, 11, 28, 16, 20, 38),
        ):
            self.assertEqual(seconds(written), expected, written)

    def test_a_time_without_a_zone_has_that_of_the_rule(self) -> None:
        self.assertEqual(seconds("2026-11-28T17:20:38", zone="Europe/Madrid"), moment("2026-11-28T16:20:38"))
        self.assertEqual(
            seconds("2026-07-28T17:20:38.5", zone="Europe/Madrid"), moment("2026-07-28T15:20:38.500")
        )
        self.assertEqual(seconds("2026-07-28T17:20:38Z", zone="Europe/Madrid"), moment("2026-07-28T17:20:38"))

    def test_an_hour_that_comes_twice_is_the_one_nearer_to_the_arrival(self) -> None:
        """On 2026-10-25 at 03:00 clocks in Madrid are put back to 02:00."""
        for utc in ("2026-10-25T00:30:00", "2026-10-25T01:30:00"):
            found = seconds("2026-10-25T02:30:00", zone="Europe/Madrid", arrived=moment(utc) + 2)
            self.assertEqual(found, moment(utc))

    def test_an_hour_that_is_left_out_is_read_as_by_a_clock_not_yet_put_forward(self) -> None:
        """On 2026-03-29 at 02:00 clocks in Madrid are put forward to 03:00."""
        arrived = moment("2026-03-29T01:30:02")
        self.assertEqual(seconds("2026-03-29T02:30:00", zone="Europe/Madrid", arrived=arrived), arrived - 2)
        self.assertEqual(seconds("2026-03-29T03:30:00", zone="Europe/Madrid", arrived=arrived), arrived - 2)

    def test_a_unit_may_be_given(self) -> None:
        for form, number in (
            ("unix", 12),
            ("unix_ms", 12_000),
            ("unix_us", 12e6),
            ("unix_ns", "12000000000"),
        ):
            self.assertAlmostEqual(seconds(number, form), 12, 6)

    def test_a_format_of_strptime_may_be_given(self) -> None:
        self.assertEqual(
            seconds("28.11.2026 17:20", "%d.%m.%Y %H:%M", "Europe/Madrid"), moment("2026-11-28T16:20:00")
        )

    def test_what_is_no_time_is_no_number(self) -> None:
        for form, written in (
            ("auto", "soon"),
            ("auto", True),
            ("auto", []),
            ("auto", "2026-13-28T17:20:38"),
            ("auto", 1e30),
            ("auto", ""),
            ("unix", "soon"),
            ("unix", True),
            ("unix", []),
            ("%Y", 5),
            ("%Y", "x"),
            ("auto", "0000-01-01T00:00:00"),
            ("auto", "2026-W48-6T16:20:38"),
            ("auto", "20261128T162038.123"),
            ("auto", "2026-11-28T17:20+01"),
        ):
            self.assertTrue(math.isnan(seconds(written, form)), (form, written))

    def test_unknown_formats_and_zones_are_refused(self) -> None:
        self.assertRaises(ValueError, Moments, "unixms")
        for zone in ("Europe/Madird", "", "../etc/passwd", "/etc/localtime", "Europe", "a\0b"):
            self.assertRaises(ValueError, find_zone, zone)
        for zone, hint in (("Madrid", "did you mean Europe/Madrid?"), ("", "e.g. Europe/Madrid")):
            self.assertIn(hint, str(self.assertRaises(ValueError, find_zone, zone)))

    @given(
        st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()),
        st.sampled_from(["auto", "unix", "%c"]),
    )
    def test_nothing_raises(self, written: Any, form: str) -> None:
        self.assertIsInstance(seconds(written, form, "Europe/Madrid"), float)


class TimeTests(SynchronousTestCase):
    """The time of a message, and with it the key that recognises it when it comes again."""

    def test_the_time_of_the_reading_is_its_time(self) -> None:
        (report,) = read(f'{HEAD}time = "$.Time"', {"Time": "2026-11-28T16:20:38", "a": 1}).reports
        self.assertEqual((report.measured, report.arrived, report.measured_adjusted), (NOW - 20, NOW, False))
        assert report.key is not None
        self.assertEqual(int.from_bytes(report.key[:6], "big"), (NOW - 20) * 1000)
        self.assertEqual([metric.type for metric in report.metrics], ["a"])

    def test_equal_payloads_of_two_topics_are_two_messages(self) -> None:
        keys = {
            read(f'{HEAD}time = "$.T"', {"T": NOW, "a": 1}, topic).reports[0].key
            for topic in ("t/kitchen", "t/cellar")
        }
        self.assertEqual(len(keys), 2)

    def test_the_same_message_has_the_same_key(self) -> None:
        keys = {
            read(f'{HEAD}time = "$.T"', {"T": NOW, "a": 1}, arrived=arrived).reports[0].key
            for arrived in (NOW, NOW + 60)
        }
        self.assertEqual(len(keys), 1)

    def test_without_a_time_there_is_no_key(self) -> None:
        for payload in ({"a": 1}, {"a": 1, "T": None}):
            (report,) = read(f'{HEAD}time = "$.T"', payload).reports
            self.assertEqual((report.measured, report.key), (None, None))

    def test_a_time_that_cannot_be_right_becomes_that_of_the_arrival(self) -> None:
        for time in ("1970-01-01T00:00:12", "soon", NOW + 3600):
            (report,) = read(f'{HEAD}time = "$.T"', {"T": time, "a": 1}).reports
            self.assertEqual((report.measured, report.key, report.measured_adjusted), (NOW, None, True))

    def test_a_message_of_nothing_but_its_time_has_no_metric(self) -> None:
        self.assertEqual(refusal(f'{HEAD}time = "$.T"', {"T": NOW}).reason, "rules.toml#1: no metric")

    def test_the_time_is_no_metric_wherever_it_stands(self) -> None:
        for more, payload in (
            ('time = "$.a.t"\nvalues = "$.a"', {"a": {"t": NOW, "x": 1}}),
            ('time = "@.t"\neach = "$.l"', {"l": [{"t": NOW, "x": 1}]}),
            ('time = "$.t"\nvalues = "$.a"', {"t": NOW, "a": {"x": 1}}),
            ('time = "$.t"\neach = "$.l"', {"t": NOW, "l": [{"x": 1}]}),
        ):
            (report,) = read(f"{HEAD}{more}", payload).reports
            self.assertEqual([metric.type for metric in report.metrics], ["x"], more)
            self.assertEqual(report.measured, NOW)
