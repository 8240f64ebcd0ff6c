"""Array literals: what goes in as text comes out as the same text."""

import math
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import adapt
from twisted.trial.unittest import SynchronousTestCase

from platziverse.postgres.literals import array, number, number_array, text_array
from tests.servers import MISSING, cluster, execute

HOSTILE = [
    "",
    '"',
    "\\",
    '\\"',
    "'",
    "{}",
    "{a,b}",
    ",",
    "NULL",
    "null",
    " a ",
    "\n",
    "\t\x1f\x7f",
    "%s %(x)s %%",
    "'); drop table metrics; --",
    "🐘",
    "\uffff",
    '","',
    "x" * 4096,
]
#: All of Unicode but what no PostgreSQL text can hold.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


class TextArrays(SynchronousTestCase):
    skip = MISSING or None

    def round_trip(self, values: list[str]) -> list[str]:
        ((got,),) = execute(cluster().dsn(), "SELECT %s::text[]", (text_array(values),))
        return list(got)

    def test_hostile_texts_round_trip(self) -> None:
        """row 97"""
        self.assertEqual(self.round_trip(HOSTILE), HOSTILE)
        for text in HOSTILE:
            self.assertEqual(self.round_trip([text]), [text])

    def test_no_texts_are_an_empty_array(self) -> None:
        self.assertEqual(self.round_trip([]), [])

    def test_any_texts_round_trip(self) -> None:
        @settings(deadline=None)
        @given(st.lists(st.lists(TEXTS, max_size=8), min_size=1, max_size=20))
        def check(lists: list[list[str]]) -> None:
            literals = [text_array(values) for values in lists]
            values = ",".join(["(%s::text[])"] * len(lists))
            rows = execute(cluster().dsn(), f"SELECT * FROM (VALUES {values}) AS given", literals)
            self.assertEqual([row[0] for row in rows], lists)

        check()

    def test_psycopg2_refuses_what_no_text_can_hold(self) -> None:
        """row 96: these have no SQLSTATE."""
        self.assertRaises(ValueError, lambda: adapt(text_array(["\0"])).getquoted())
        self.assertRaises(
            UnicodeEncodeError, execute, cluster().dsn(), "SELECT %s", (text_array(["\ud800"]),)
        )


class Numbers(SynchronousTestCase):
    def test_a_number_is_kept_as_it_is_written(self) -> None:
        """row 92"""
        for text in "1001", "-0", "+5", "3.25", "5.", "007", "9007199254740993":
            self.assertEqual(number(text), text)

    def test_digits_without_end_that_are_no_number_cost_no_time(self) -> None:
        """row 436: the value of a metric has up to 4 KiB, which took half a second."""
        began = time.process_time()
        for text in (
            "1" * 100_000 + "x",
            "1" * 100_000 + "." + "1" * 100_000 + "e",
            "." + "1" * 100_000 + "-",
        ):
            self.assertEqual(number(text), "NULL")
        self.assertLess(time.process_time() - began, 2)

    def test_other_spellings_of_numbers_are_read(self) -> None:
        self.assertEqual(number("1e3"), "1000.0")
        self.assertEqual(number(".5"), "0.5")
        self.assertEqual(float(number("1" * 300)), float("1" * 300))

    def test_what_is_no_finite_number_has_none(self) -> None:
        """row 91"""
        for text in (
            "",
            "on",
            "nan",
            "inf",
            "-Infinity",
            "1e400",
            "1_000",
            " 1",
            "1\n",
            "٣",
            "0x10",
            "1" * 400,
        ):
            self.assertEqual(number(text), "NULL", text)

    @given(st.text() | st.floats().map(repr) | st.from_regex(r"[+-]?[0-9.eE+-]{1,12}"))
    def test_the_literal_is_what_python_reads(self, text: str) -> None:
        literal = number(text)
        if literal != "NULL":
            self.assertEqual(float(literal), float(text))
            self.assertTrue(math.isfinite(float(literal)))

    @settings(deadline=None)
    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
    def test_postgresql_reads_the_same_numbers(self, floats: list[float]) -> None:
        if MISSING:
            return
        for literal in number_array([repr(value) for value in floats]), array(floats):
            ((got,),) = execute(cluster().dsn(), "SELECT %s::float8[]", (literal,))
            self.assertEqual(got, floats)

    @given(
        st.lists(
            st.sampled_from(["1", "-2.5", "", "on", "1\n2", "1e3", "٣", "9" * 40]) | st.text(), max_size=20
        )
    )
    def test_many_are_read_as_each_alone(self, texts: list[str]) -> None:
        self.assertEqual(number_array(texts), "{" + ",".join(number(text) for text in texts) + "}")


class Arrays(SynchronousTestCase):
    skip = MISSING or None

    def test_whatever_needs_no_quotes_round_trips(self) -> None:
        for kind, values in (
            ("integer", [1, -2, None, 2**31 - 1]),
            ("boolean", [True, False, None]),
            ("float8", [1e22, 5e-324, -0.1, 1763990000.123456, None]),
            ("text", ["00ff", "", None]),
            ("integer", []),
        ):
            ((got,),) = execute(cluster().dsn(), f"SELECT %s::{kind}[]", (array(values),))
            self.assertEqual(got, values)
