"""What of a message becomes metrics."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.rules.formats import plain
from platziverse.rules.metrics import MAX_LEARNT
from platziverse.rules.values import Values
from tests.rules.reading import HEAD, metrics, read, refusal, rules


class FlatteningTests(SynchronousTestCase):
    def test_every_number_of_a_message_becomes_a_metric(self) -> None:
        payload = {
            "a": 1,
            "b": {"c": 2.5, "d": [3, {"e": "4.50"}]},
            "text": "hello",
            "none": None,
            "f": 1.0,
            "g": -0.0,
            "big": 10**30,
            "small": 1e-9,
            "exact": 9007199254740993,
            "signed": " +5 ",
        }
        self.assertEqual(
            metrics(HEAD, payload),
            {
                "a": "1",
                "b.c": "2.5",
                "b.d.0": "3",
                "b.d.1.e": "4.50",
                "f": "1",
                "g": "0",
                "big": str(10**30),
                "small": "1e-09",
                "exact": "9007199254740993",
                "signed": "+5",
            },
        )

    def test_words_of_states_become_numbers(self) -> None:
        payload = {"a": "ON", "b": "off", "c": True, "d": False, "e": "Open", "f": "yes", "g": "maybe"}
        expected = {"a": "1", "b": "0", "c": "1", "d": "0", "e": "1", "f": "1"}
        self.assertEqual(metrics(HEAD, payload), expected)
        self.assertEqual(read(HEAD, payload).ignored, [("g", "maybe")])

    def test_texts_that_stay_the_same_mean_the_same(self) -> None:
        found = rules(HEAD)
        for payload in (
            {"a": "ON", "b": "C", "c": "x" * 99},
            {"a": "ON", "b": "C", "c": "x" * 99},
            {"a": "OFF"},
        ):
            (report,) = read_by(found, payload).reports
            self.assertEqual(
                [(one.type, one.value) for one in report.metrics], [("a", str(int(payload["a"] == "ON")))]
            )
        self.assertEqual(read_by(found, {"a": "OFF", "b": "C"}).ignored, [("b", "C")])

    def test_a_rule_has_states_of_its_own(self) -> None:
        payload = {"battery": "ok", "b": "ON", "c": True, "d": "low"}
        self.assertEqual(
            metrics(f"{HEAD}states = {{ OK = 1, LOW = 0.5 }}", payload),
            {"battery": "1", "c": "1", "d": "0.5"},
        )
        self.assertEqual(
            metrics(f"{HEAD}states = {{ true = 7 }}", {"c": True, "d": False}), {"c": "7", "d": "0"}
        )

    def test_texts_are_kept_where_the_rule_says_so(self) -> None:
        self.assertEqual(
            metrics(f"{HEAD}strings = true", {"a": "hello", "b": "ON"}), {"a": "hello", "b": "1"}
        )

    def test_texts_that_cannot_be_stored_are_problems(self) -> None:
        readings = read(f"{HEAD}strings = true", {"a": "x\0", "b": "é" * 2049, "c": "ok"})
        self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["c"])
        self.assertEqual(readings.errors[0].reason, "rules.toml#1: NUL - at a; longer than 4096 bytes - at b")

    def test_numbers_that_are_none_are_problems(self) -> None:
        for payload in (b'{"a":NaN,"b":1}', b'{"a":-inf,"b":1}'):
            readings = read(HEAD, payload)
            self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["b"])
            self.assertIn("rules.toml#1: no number: ", readings.errors[0].reason)
        reason = refusal(f'{HEAD}format = "python:tests.rules.test_metrics:odd"', b"").reason
        self.assertEqual(
            reason, "rules.toml#1: no number: nan - at a; no number: inf - at b; number out of range - at c"
        )

    def test_include_exclude_and_rename_look_at_the_key(self) -> None:
        payload = {"POWER1": "ON", "Wifi": {"RSSI": 60, "Signal": -70}, "Vcc": 3}
        self.assertEqual(
            metrics(f'{HEAD}include = ["POWER*", "Wifi.*"]\nexclude = ["*.Signal"]', payload),
            {"POWER1": "1", "Wifi.RSSI": "60"},
        )
        self.assertEqual(
            metrics(f'{HEAD}rename = {{ "Wifi.RSSI" = "rssi" }}\nexclude = ["Vcc", "POWER?"]', payload),
            {"rssi": "60", "Wifi.Signal": "-70"},
        )

    def test_a_type_may_have_more_than_the_key(self) -> None:
        toml = '[[rule]]\ntopic = "{d}/status/{c}"\nagent = "s:{d}"\ntype = "{c}.{key}.{$.id}"'
        payload = {"id": 0, "temperature": {"tC": 20}}
        self.assertEqual(
            metrics(toml, payload, "x/status/switch:0"),
            {"switch:0.id.0": "0", "switch:0.temperature.tC.0": "20"},
        )
        self.assertEqual(
            refusal(toml, {"temperature": 1}, "x/status/a").reason,
            "rules.toml#1: no type: nothing at $['id']",
        )

    def test_flattening_starts_where_the_rule_says(self) -> None:
        self.assertEqual(metrics(f'{HEAD}values = "$.a"', {"a": {"b": 1}, "c": 2}), {"b": "1"})
        self.assertEqual(metrics(f'{HEAD}values = "$.a"', {"a": [5, 6]}), {"0": "5", "1": "6"})
        self.assertEqual(metrics(f'{HEAD}values = "$.a"', {"a": 5}), {"value": "5"})
        self.assertEqual(refusal(f'{HEAD}values = "$.b"', {"a": 5}).reason, "rules.toml#1: no metric")
        self.assertEqual(metrics(HEAD, [1, [2]]), {"0": "1", "1.0": "2"})

    def test_a_value_alone_is_called_value(self) -> None:
        self.assertEqual(metrics(f'{HEAD}format = "value"', b"21.5\n"), {"value": "21.5"})
        self.assertEqual(metrics(HEAD, b"21.5"), {"value": "21.5"})
        for payload in (b"null", b'"warm"', b"{}", b"[]"):
            self.assertEqual(refusal(HEAD, payload).reason, "rules.toml#1: no metric")

    def test_types_that_cannot_be_stored_are_problems(self) -> None:
        readings = read(HEAD, {"x" * 256: 1, "": 2, "a\0": 3, "ok": 4, "text": "x", "y" * 256: None})
        self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["ok"])
        reason = readings.errors[0].reason
        for part in (
            "has 256 characters, 255 are possible",
            "a type without a character",
            "NUL in the type 'a\\x00'",
        ):
            self.assertIn(part, reason)
        readings = read(f'{HEAD}type = "{{device}}.{{key}}"', {"x" * 250: 1, "ok": 4})
        self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["kitchen.ok"])
        self.assertIn("has 258 characters", readings.errors[0].reason)

    def test_more_keys_than_a_rule_remembers_are_read_as_well(self) -> None:
        """Row 418: 10,000 keys in one message."""
        found = rules(HEAD, AgentLimits(max_payload=10**7, max_metrics=10**6))
        for _ in range(2):
            count = MAX_LEARNT + 50
            payload = {"a": {f"k{number}": number for number in range(count)}, "b": {"c": {"d": 1}}}
            readings = read_by(found, payload)
            self.assertEqual(len(readings.reports[0].metrics), count + 1)

    def test_a_reason_can_be_printed_whatever_the_key(self) -> None:
        reason = refusal(HEAD, b'{"a\\n\\u0000": NaN}').reason
        self.assertEqual(reason, "rules.toml#1: NUL in the type 'a\\n\\x00'")
        reason = refusal(HEAD, b'{"a\\n": NaN}').reason
        self.assertEqual(reason, "rules.toml#1: no number: NaN - at a\\n")

    def test_more_metrics_than_a_message_may_have_are_refused(self) -> None:
        error = refusal(HEAD, {"a": 1, "b": 2, "c": 3}, limits=AgentLimits(max_metrics=2))
        self.assertEqual(
            (error.kind, error.reason), ("size", "rules.toml#1: 3 metrics, 2 are allowed (max_metrics)")
        )

    @given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
    def test_numbers_are_written_the_same_alone_and_among_others(self, number: float) -> None:
        try:
            text = Values().text(number)
        except Exception:
            return
        assert text is not None
        found = rules(f'{HEAD}format = "python:tests.rules.test_metrics:given_number"')
        global GIVEN
        GIVEN = number
        (report,) = read_by(found, b"").reports
        self.assertEqual(report.metrics[0].value, text)
        self.assertTrue(math.isclose(float(text), number) or abs(number) > 1e300)


GIVEN: Any = None


def given_number(topic: str, payload: bytes) -> Any:
    return {"a": GIVEN}


def odd(topic: str, payload: bytes) -> Any:
    """Numbers that JSON cannot write."""
    return {"a": math.nan, "b": math.inf, "c": 1 << 2000, "d": b"bytes", "e": (), "f": {1, 2}}


def read_by(found: Any, payload: Any) -> Any:
    from platziverse.mqtt.packets import Publish
    from tests.agents.doubles import FakeClient
    from tests.rules.reading import NOW, as_bytes

    message = Publish("t/kitchen", as_bytes(payload))
    return found.find("t/kitchen").read(message, FakeClient("c"), NOW)


class NamedTests(SynchronousTestCase):
    def test_named_metrics_are_the_only_ones(self) -> None:
        toml = f'{HEAD}[rule.metrics]\ntemp = "$.a.b"\n"{{device}}.hum" = {{ path = "$.h" }}'
        self.assertEqual(
            metrics(toml, {"a": {"b": 21}, "h": 40, "c": 5}), {"temp": "21", "kitchen.hum": "40"}
        )

    def test_a_number_is_scaled_moved_and_rounded(self) -> None:
        for rest, value, text in (
            ("scale = 0.001, round = 3", 3301, "3.301"),
            ("scale = 2", 21, "42"),
            ("offset = -273.15, round = 2", 300, "26.85"),
            ("scale = 0.1, offset = 1, round = 0", "125", "14"),
            ("round = -1", 1234, "1230"),
            ("scale = 100", "ON", "100"),
            ("scale = 0.5", " 1.5 ", "0.75"),
        ):
            toml = f'{HEAD}metrics = {{ m = {{ path = "$.v", {rest} }} }}'
            self.assertEqual(metrics(toml, {"v": value}), {"m": text}, rest)

    def test_one_bad_metric_is_a_partial_rejection(self) -> None:
        toml = f'{HEAD}metrics = {{ a = "$.a", b = "$.b", c = "$.c" }}'
        readings = read(toml, {"a": 1, "b": "MSN", "c": {"d": 1}})
        self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["a"])
        self.assertEqual(
            readings.errors[0].reason,
            "rules.toml#1: no number: 'MSN' - at $.b; an object is no number - at $.c",
        )

    def test_reasons_name_what_stands_there(self) -> None:
        for payload, rest, reason in (
            ({"v": "x" * 99}, "", f"no number: '{'x' * 40}'… - at $.v"),
            ({"v": [1]}, "", "an array is no number - at $.v"),
            ({"v": "x"}, ", scale = 2", "no number: 'x' - at $.v"),
            ({"v": {}}, ", scale = 2", "an object is no number - at $.v"),
            ({"v": 1e300}, ", scale = 1e300", "no number: inf - at $.v"),
            ({"v": 10**308}, ", scale = 1.5, round = 0, offset = 1e308", "number out of range - at $.v"),
            ({"v": 10**320}, "", "number out of range - at $.v"),
            ({}, ", required = true", "nothing - at $.v"),
            ({"v": None}, ", required = true", "null - at $.v"),
        ):
            toml = f'{HEAD}metrics = {{ m = {{ path = "$.v"{rest} }} }}'
            self.assertEqual(refusal(toml, payload).reason, f"rules.toml#1: {reason}")

    def test_what_is_absent_is_no_fault(self) -> None:
        toml = f'{HEAD}metrics = {{ a = "$.a", b = "$.b", c = "$.c" }}'
        readings = read(toml, {"a": 1, "c": None})
        self.assertEqual((len(readings.reports[0].metrics), readings.errors), (1, []))

    def test_texts_and_states_may_be_those_of_one_metric(self) -> None:
        toml = (
            f"{HEAD}states = {{ up = 1 }}\n[rule.metrics]\n"
            'a = { path = "$.a", text = true }\nb = { path = "$.b", states = { up = 5 } }\nc = "$.c"'
        )
        self.assertEqual(
            metrics(toml, {"a": "hello", "b": "UP", "c": "up"}), {"a": "hello", "b": "5", "c": "1"}
        )

    def test_the_name_may_come_from_the_message(self) -> None:
        toml = f'{HEAD}each = "$.l"\nmetrics = {{ "{{@.id}}" = "@.v" }}'
        readings = read(toml, {"l": [{"id": "x", "v": 1}, {"v": 2}, {"id": "y" * 256, "v": 3}]})
        self.assertEqual([metric.type for metric in readings.reports[0].metrics], ["x"])
        reason = readings.errors[0].reason
        self.assertIn("rules.toml#1: nothing at @['id'] - at @.v of item 1; the type 'yyy", reason)


class UnitTests(SynchronousTestCase):
    def test_units_are_those_of_types(self) -> None:
        rule = rules(f'{HEAD}units = {{ "*.Temperature" = "°C", "ENERGY.Power" = "W", "*" = "1" }}').rules[0]
        found = {kind: rule.units.find(kind) for kind in ("AM2301.Temperature", "ENERGY.Power", "x")}
        self.assertEqual(found, {"AM2301.Temperature": "°C", "ENERGY.Power": "W", "x": "1"})
        rule = rules(f'{HEAD}[rule.metrics]\nt = {{ path = "$.t", unit = "°C" }}\nh = "$.h"').rules[0]
        self.assertEqual((rule.units.find("t"), rule.units.find("h")), ("°C", None))


class PlainTests(SynchronousTestCase):
    @given(
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text()),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
            max_leaves=20,
        )
    )
    def test_what_is_plain_stays_as_it_is(self, document: Any) -> None:
        try:
            self.assertEqual(plain(document, 1000), document)
        except Exception as error:
            self.assertIn("nested deeper", str(error))
