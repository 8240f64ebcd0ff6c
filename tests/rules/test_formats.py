"""Bytes of each format, and what is wrong with some."""

import time
import unittest
from importlib import import_module
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport
from platziverse.rules.cbor import check as check_cbor
from platziverse.rules.formats import find_format
from platziverse.rules.influx import read_lines
from tests.rules.reading import HEAD, metrics, read, refusal

try:
    cbor2: Any = import_module("cbor2")
except ImportError:
    cbor2 = None

FORMATS = ["json", "value", "msgpack", "influx", *(["cbor"] if cbor2 is not None else [])]
MOST = 6000
MANY = "more than 6000 values, six times max_metrics"
#: What every writer of CBOR can write.
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(), st.integers(0, 9)), inner, max_size=5),
    ),
    max_leaves=12,
)


def rejected(format_name: str, payload: bytes) -> tuple[str, str]:
    """Kind and reason of a payload that a rule of this format cannot read."""
    error = refusal(f'{HEAD}format = "{format_name}"', payload)
    return error.kind, error.reason.removeprefix("rules.toml#1: ")


class JsonTests(SynchronousTestCase):
    def test_what_is_no_json_is_refused_with_its_place(self) -> None:
        """Row 416: too deep, a key twice, too large a number, another encoding."""
        for payload, kind in (
            (b"", "syntax"),
            (b"{", "syntax"),
            (b'{"a":1}x', "syntax"),
            (b"ON", "syntax"),
            (b"\xff", "encoding"),
            (b"\xef\xbb\xbf{}", "encoding"),
            (b'{"a":1e999}', "syntax"),
            (b"[" * 5000, "syntax"),
            (b'{"a":1,}', "syntax"),
            (b'{"a":1,"a":2}', "duplicate"),
            (b'{"a" :1,"a":2}', "duplicate"),
            (b'{"a"\n:1,"a"\t:2}', "duplicate"),
            (b'{"x":{"a":1,"\\u0061":2}}', "duplicate"),
            (b"[" * 17 + b"]" * 17, "depth"),
            (b'{"a":' * 17 + b"1" + b"}" * 17, "depth"),
            (b'"' + b"x" * 70_000 + b'"', "size"),
        ):
            self.assertEqual(rejected("json", payload)[0], kind, payload[:40])

    def test_more_values_than_metrics_could_need_are_refused(self) -> None:
        """Row 437: payloads of 64 KiB that would be looked at for a tenth of a second."""
        each = f'{HEAD}each = "$"'
        for toml in (HEAD, each, f"{HEAD}strings = true"):
            for one in b"1", b"[]", b"{}", b'""', b"nan", b'{"a":1}', b'"on"':
                payload = b"[" + b",".join([one] * (65_000 // (len(one) + 1))) + b"]"
                began = time.process_time()
                error = refusal(toml, payload)
                self.assertEqual((error.kind, error.reason), ("size", f"rules.toml#1: {MANY}"))
                self.assertLess(time.process_time() - began, 0.5)
        few = AgentLimits(max_metrics=3)
        self.assertIn("18 metrics, 3 are allowed (max_metrics)", refusal(HEAD, [0] * 18, limits=few).reason)
        self.assertIn("more than 18 values", refusal(HEAD, [0] * 19, limits=few).reason)
        self.assertEqual(len(read(HEAD, {"a": 1, "b": ["x"] * 9, "c": "x" * 100}, limits=few).ignored), 10)

    def test_more_looking_for_metrics_than_could_be_found_is_refused(self) -> None:
        """Row 444: each of 5,000 items was asked for each metric that has a name."""
        toml = f'{HEAD}each = "$"\nmetrics = {{ a = "@.a", b = "@.b", c = "@.c" }}'
        few = AgentLimits(max_metrics=3)
        self.assertEqual(len(read(toml, [{"a": 1}] * 3 + [{}] * 2, limits=few).reports), 1)
        error = refusal(toml, [{}] * 7, limits=few)
        self.assertEqual(error.kind, "size")
        self.assertIn("3 metrics of 7 items, 6 times max_metrics may be looked for", error.reason)

    def test_colons_in_texts_and_blanks_before_colons_are_no_fault(self) -> None:
        self.assertEqual(metrics(HEAD, b'{"a" : 1, "b":"\\":\\":"}'), {"a": "1"})
        self.assertEqual(metrics(HEAD, b"[" * 16 + b"1" + b"]" * 16), {".".join("0" * 16): "1"})

    def test_a_word_for_no_number_costs_that_value_alone(self) -> None:
        error = refusal(HEAD, b'{"a": nan}')
        self.assertEqual((error.kind, error.reason), ("metrics", "rules.toml#1: no number: nan - at a"))


class OtherFormatTests(SynchronousTestCase):
    def test_a_value_is_text(self) -> None:
        self.assertEqual(metrics(f'{HEAD}format = "value"', b" 21.5 "), {"value": "21.5"})
        self.assertEqual(rejected("value", b"\xff\xfe")[0], "encoding")
        self.assertEqual(rejected("value", b""), ("metrics", "no metric"))

    def test_messagepack_is_read(self) -> None:
        payload = msgpack.encode({"a": 1, "b": {2: 2.5, b"x": 1}, "c": b"bytes", "d": [True]})
        found = metrics(f'{HEAD}format = "msgpack"', payload)
        self.assertEqual(found, {"a": "1", "b.2": "2.5", "b.b'x'": "1", "d.0": "1"})

    def test_messagepack_that_is_none_is_refused(self) -> None:
        for payload, kind in (
            (b"\xc1", "syntax"),
            (b"", "syntax"),
            (b"\x01\x02", "syntax"),
            (b"\x91" * 20 + b"\x01", "depth"),
            (b"\xa1\xff", "syntax"),
            (b"\xd4\x05\x00", "metrics"),
            (b"\xdd\xff\xff\xff\xff\x01", "syntax"),
            (b"\xd6\xff\x00\x00\x00\x00", "metrics"),
            (b"\x81\x81\x01\x02\x03", "syntax"),
        ):
            self.assertEqual(rejected("msgpack", payload)[0], kind, payload[:10])

    def test_messagepack_of_any_depth_is_refused(self) -> None:
        """Some versions of Python read what is nested 3,000 times, others do not."""
        self.assertIn(rejected("msgpack", b"\x91" * 3000 + b"\x01")[0], ("syntax", "depth"))

    @unittest.skipIf(cbor2 is None, "cbor2 is not installed")
    def test_cbor_is_read(self) -> None:
        payload = cbor2.dumps({"a": 1, -2: 2.5, "b": [1 << 70]})
        self.assertEqual(
            metrics(f'{HEAD}format = "cbor"', payload), {"a": "1", "-2": "2.5", "b.0": str(1 << 70)}
        )

    @unittest.skipIf(cbor2 is None, "cbor2 is not installed")
    def test_cbor_that_is_none_or_holds_itself_is_refused(self) -> None:
        """Row 417: with tags that share what they hold."""
        held: Any = b"\x01"
        for _ in range(15):  # each list holds the one before it ten times
            held = b"\xd8\x1c\x8a" + held + b"\xd8\x1d\x00" * 9
        for payload, kind in (
            (b"\xff", "syntax"),
            (b"", "syntax"),
            (b"\xd8\x1c\x81\xd8\x1d\x00", "fields"),
            (b"\x81" * 20 + b"\x01", "depth"),
            (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "syntax"),
            (b"\xc0\x61x", "syntax"),
            (b"\xd8\x1d\x05", "fields"),
            (b"\xc1\xfb\x7f\xef\xff\xff\xff\xff\xff\xff", "syntax"),
        ):
            self.assertEqual(rejected("cbor", payload)[0], kind, payload[:10])
        self.assertEqual(rejected("cbor", held)[0], "fields")

    def test_a_function_reads_what_no_format_does(self) -> None:
        toml = f'{HEAD}format = "python:tests.rules.test_formats:halves"'
        self.assertEqual(metrics(toml, b"1;2"), {"t/kitchen.0": "1", "t/kitchen.1": "2"})
        self.assertEqual(
            refusal(toml, b"boom").reason, "rules.toml#1: tests.rules.test_formats:halves: RuntimeError: boom"
        )
        self.assertEqual(refusal(toml, b"no").kind, "fields")
        self.assertEqual(refusal(toml, b"cycle").kind, "depth")
        self.assertEqual(refusal(toml, b"many").kind, "size")
        self.assertEqual(refusal(toml, b"half").kind, "encoding")

    def test_formats_that_are_none_are_refused(self) -> None:
        for name, reason in (
            ("jsn", "unknown format 'jsn'; did you mean json?"),
            ("python:nowhere:x", "ModuleNotFoundError"),
            ("python:json:nothing", "AttributeError"),
            ("python:json", "AttributeError"),
            ("python:math:pi", "is no function"),
            ("python:", "ValueError"),
        ):
            self.assertIn(reason, str(self.assertRaises(ValueError, find_format, name)))

    def test_cbor_without_its_package_says_how_to_get_it(self) -> None:
        import sys

        self.patch(sys, "modules", {**sys.modules, "cbor2": None})
        error = self.assertRaises(ValueError, find_format, "cbor")
        self.assertIn("pip install 'platziverse[cbor]'", str(error))

    def test_cbor_that_takes_long_to_make_or_to_compare_is_refused(self) -> None:
        """Row 438: tags of shared values, fractions and expressions, and keys that are no keys."""
        shared = b"\x01"
        for _ in range(15):
            shared = b"\xd8\x1c\x8a" + shared + b"\xd8\x1d\x00" * 9
        integer = b"\x59\x75\x30" + b"\xff" * 30_000
        for payload, reason in (
            (b"\xa1" + shared + b"\x01", "a key of CBOR is no text and no number (byte 1)"),
            (b"\xa1\x80\x01", "a key of CBOR is no text and no number (byte 1)"),
            (b"\xbf\xa0\x01\xff", "a key of CBOR is no text and no number (byte 1)"),
            (b"\xa1\x01" + shared, "tag 28 of CBOR is not read (byte 4)"),
            (b"\xd8\x1e\x82\xc2" + integer + b"\x02", "tag 30 of CBOR is not read (byte 2)"),
            (b"\xc4\x82\x01\xc2" + integer, "tag 4 of CBOR is not read (byte 1)"),
            (b"\xd8\x23\x79\x9c\x40" + b"a|" * 20_000, "tag 35 of CBOR is not read (byte 2)"),
            (b"\xc2" + integer, "an integer of CBOR has more than 128 bytes (byte 1)"),
            (b"\x81" * 17 + b"\x01", "nested deeper than 16"),
            (b"\xc0" * 17 + b"\x01", "nested deeper than 16"),
            (b"\x9b" + b"\xff" * 8, "CBOR ends within an item"),
            (b"\x7b" + b"\xff" * 8, "CBOR ends within an item"),
            (b"\x19\x01", "CBOR ends within an item"),
            (b"\x9f\x01", "CBOR ends within an item"),
            (b"\x7f\x41a\xff", "CBOR has a string of another kind (byte 1)"),
            (b"\x1c", "CBOR has a reserved head (byte 0)"),
        ):
            error = self.assertRaises(InvalidReport, check_cbor, payload, MOST)
            self.assertEqual(error.reason, reason)
        for payload in (
            b"\x9f\x01\x18\x20\xfa\x00\x00\x00\x00\xff",
            b"\xbf\x61a\x7f\x61b\x61c\xff\xff",
            b"\xd9\xd9\xf7\xa1\x20\xc2\x41\x05",
            b"\xa2\x61a\xf4\x41b\xc1\x1a\x6a\x00\x00\x00",
        ):
            check_cbor(payload, 3)

    def test_more_items_than_metrics_could_need_are_refused_before_they_are_decoded(self) -> None:
        """Row 536: 64 KiB of CBOR held the reactor for 60 ms of CPU, as MessagePack did."""
        size = 65_000
        for payload in (
            b"\x9a" + size.to_bytes(4, "big") + b"\x80" * size,
            b"\x9f" + b"\x9f\xff" * (size // 2) + b"\xff",
            b"\xba" + (size // 2).to_bytes(4, "big") + b"\x01" * size,
            b"\x9a" + (size // 15).to_bytes(4, "big") + (b"\x81" * 14 + b"\x00") * (size // 15),
            b"\x9a" + (size // 16).to_bytes(4, "big") + (b"\xc1" * 14 + b"\x00") * (size // 16),
            b"\x7f" + b"\x61a" * (size // 2) + b"\xff",
        ):
            for most in MOST, 0:
                error = self.assertRaises(InvalidReport, check_cbor, payload, most)
                self.assertEqual(error.reason, f"more than {most} values, six times max_metrics")

    @given(st.binary())
    def test_any_bytes_of_cbor_are_checked_or_refused(self, payload: bytes) -> None:
        try:
            check_cbor(payload, MOST)
        except InvalidReport as error:
            self.assertNotIn("\n", error.reason)

    @unittest.skipIf(cbor2 is None, "cbor2 is not installed")
    @given(TREES)
    def test_what_cbor_writes_is_not_refused(self, document: Any) -> None:
        check_cbor(cbor2.dumps(document), MOST)

    @given(st.sampled_from(FORMATS), st.binary())
    def test_any_bytes_are_read_or_refused(self, name: str, payload: bytes) -> None:
        try:
            find_format(name)("t", payload, MOST)
        except InvalidReport as error:
            self.assertNotIn("\n", error.reason)


def halves(topic: str, payload: bytes) -> Any:
    if payload == b"boom":
        raise RuntimeError("boom")
    if payload == b"no":
        raise InvalidReport("fields", "no")
    if payload == b"half":
        return {"\ud800": 1}
    if payload == b"cycle":
        cycle: list[Any] = []
        cycle.append(cycle)
        return cycle
    return {topic: [0] * (MOST + 1) if payload == b"many" else payload.decode().split(";")}


class InfluxTests(SynchronousTestCase):
    def test_lines_become_points(self) -> None:
        text = (
            "# a comment\n\n"
            "weather,location=us-midwest,na\\ me=a\\,b temperature=82,wind\\ speed=3.5,up=t,n=5i,u=6u,"
            'text="a \\"b\\" \\\\ c, d" 1465839830100400200\n'
            "cp\\,u v=1e3\r\n  mem,host=x  free=-.5   12  \n"
            'log text="two\nlines",b=FALSE'
        )
        self.assertEqual(
            read_lines(text),
            [
                {
                    "name": "weather",
                    "tags": {"location": "us-midwest", "na me": "a,b"},
                    "fields": {
                        "temperature": 82.0,
                        "wind speed": 3.5,
                        "up": True,
                        "n": 5,
                        "u": 6,
                        "text": 'a "b" \\ c, d',
                    },
                    "timestamp": 1465839830100400200,
                },
                {"name": "cp,u", "tags": {}, "fields": {"v": 1000.0}},
                {"name": "mem", "tags": {"host": "x"}, "fields": {"free": -0.5}, "timestamp": 12},
                {"name": "log", "tags": {}, "fields": {"text": "two\nlines", "b": False}},
            ],
        )
        self.assertEqual(read_lines(""), [])
        self.assertEqual(read_lines("# only\n"), [])

    def test_lines_that_are_none_are_refused_with_their_number(self) -> None:
        for text, reason in (
            ("cpu", "line 1: no blank before the fields"),
            ("\ncpu ", "line 2: no field"),
            (",a=b v=1", "line 1: no measurement"),
            ("cpu v=1\ncpu v", "line 2: no field"),
            ("cpu v=1,", "line 1: no field"),
            ("cpu v=abc", "line 1: 'abc' is no value"),
            ("cpu v=abc 12", "line 1: 'abc' is no value"),
            ("cpu v=1 12 13", "line 1: something stands behind"),
            ('cpu v="open', "line 1: no field"),
            ("cpu,a= v=1", "line 1: no blank"),
            ("cpu v=1 x", "line 1: something"),
            ("cpu v=nan", "line 1: 'nan'"),
            ("cpu v=1i5", "line 1: '1i5'"),
            ("cpu v=" + "1" * 301 + "i", "line 1: '1111"),
        ):
            self.assertIn(reason, str(self.assertRaises(ValueError, read_lines, text)), text)

    def test_a_rule_reads_lines_like_batches_of_json(self) -> None:
        toml = """
            [[rule]]
            topic = "telegraf/{host}/{plugin}"
            agent = "telegraf:{host}"
            format = "influx"
            each = "$.metrics"
            values = "@.fields"
            type = "{@.name}.{key}"
            time = "@.timestamp"
            """
        payload = b"mem,host=a free=1i,total=2i 1795882838000000000\nswap free=3i 1795882838000000000\n"
        self.assertEqual(
            metrics(toml, payload, "telegraf/a/mem"), {"mem.free": "1", "mem.total": "2", "swap.free": "3"}
        )
        self.assertEqual(refusal(toml, b"mem", "telegraf/a/mem").kind, "syntax")

    def test_more_values_than_metrics_could_need_are_not_read(self) -> None:
        """Row 500: 64 KiB of points were read for some ten milliseconds before anybody counted them."""
        for name, text in product(
            ("influx", "telegraf"),
            (
                "a b=1 1\n" * 8_000,
                'a b="x"\n' * 8_000,
                "a " + ",".join(["b=1"] * 16_000) + " 1",
                "a " + ",".join(['b=""'] * 13_000),
                "a," + ",".join(["b=1"] * 16_000) + " c=1 1",
                "a," + ",".join(["b=1"] * 16_000) + " c=t",
            ),
        ):
            toml = f'{HEAD}format = "{name}"\neach = "$.metrics"\nvalues = "@.fields"'
            error = refusal(toml, text.encode())
            self.assertEqual((error.kind, error.reason), ("size", f"rules.toml#1: {MANY}"), text[:20])
            few = AgentLimits(max_metrics=2)
            self.assertEqual(len(read(toml, b"a b=1\nc d=2\n", limits=few).reports), 1)
            error = refusal(toml, b"a b=1\n" * 3, limits=few)
            self.assertIn("more than 12 values", error.reason)

    def test_backslashes_are_read_as_quickly_as_all_else(self) -> None:
        """Row 537: a backslash for every other byte cost half as much again as the limit of a turn."""
        (point,) = read_lines("m" + "\\ " * 9 + ',a\\=b=c\\,d e="' + '\\"' * 9 + '\\\\\\"\\x"')
        self.assertEqual(point["name"], "m" + " " * 9)
        self.assertEqual(point["tags"], {"a=b": "c,d"})
        self.assertEqual(point["fields"], {"e": '"' * 9 + '\\"\\x'})

    @given(st.text('a,= \\"\n1i#t', max_size=30))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            read_lines(text)
        except ValueError as error:
            self.assertTrue(str(error).startswith("line "))

    @given(
        st.lists(st.from_regex(r"[a,]{1,4}(=[b1])?[ ]?[a=,1.it]{0,7}[ ]?[-12\u0661]{0,3}", fullmatch=True))
    )
    def test_usual_lines_are_read_as_all_others_are(self, lines: list[str]) -> None:
        """A comment lets the other reader have them."""
        text = "\n".join([*lines, "m,a=b f=1i,g=.5 7"])
        try:
            points = read_lines(f"{text}\n#")
        except ValueError as error:
            self.assertEqual(str(self.assertRaises(ValueError, read_lines, text)), str(error))
        else:
            self.assertEqual(read_lines(text), points)
