"""Bytes of ``agent/message`` that become a Report, and the many that never can."""

import json
import operator
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.careful import read_carefully
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import Agent, InvalidReport, Metric, Report
from platziverse.agents.payload import parse
from tests.agents.doubles import COURSE, NOW, message, of_agent

DAY = 86_400


def read(payload: bytes, arrived: float = NOW) -> Report:
    return parse(message(payload), "client", arrived)


def edited(**changes: Any) -> bytes:
    """The course's message with other values at the top or in the agent; ``None`` removes a key."""
    document = json.loads(COURSE)
    for key, value in changes.items():
        place = document["agent"] if key in document["agent"] else document
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    return json.dumps(document).encode()


def with_value(literal: bytes) -> bytes:
    """One metric whose value is written like this."""
    return COURSE.replace(b'"1001"', literal).replace(b', {"type": "temp", "value": "33"}', b"")


class ValidTests(SynchronousTestCase):
    def test_the_message_of_the_course_becomes_a_report(self) -> None:
        report = read(COURSE)
        self.assertEqual(report.agent, Agent("yyy", "platzi", "platzi", "platzibogota", 10))
        self.assertEqual(report.metrics, [Metric("memory", "1001"), Metric("temp", "33")])
        self.assertEqual((report.arrived, report.measured, report.key), (NOW, None, None))
        self.assertEqual((report.rejections, report.measured_adjusted), ([], False))
        self.assertEqual(report.source.payload, COURSE)

    def test_the_order_of_keys_and_white_space_do_not_matter(self) -> None:
        document = json.loads(COURSE)
        document["agent"] = dict(reversed(document["agent"].items()))
        payload = json.dumps(dict(reversed(document.items())), indent=3).encode()
        self.assertEqual(read(payload).metrics, read(COURSE).metrics)

    def test_a_message_without_metrics_is_a_sign_of_life(self) -> None:
        self.assertEqual(read(edited(metrics=[])).metrics, [])

    def test_texts_may_hold_escapes_and_any_script(self) -> None:
        name = 'plátzi "ñ" \\ 😀 {[ \n'
        for ensure_ascii in (True, False):
            document = json.loads(COURSE)
            document["agent"]["name"] = name
            payload = json.dumps(document, ensure_ascii=ensure_ascii).encode()
            self.assertEqual(read(payload).agent.name, name)

    def test_unknown_keys_are_ignored(self) -> None:
        payload = of_agent("yyy", b', "extra": {"a": [1, {"b": null}], "uuid": 5}')
        self.assertEqual(read(payload).metrics, read(COURSE).metrics)

    def test_text_may_look_like_anything(self) -> None:
        """row 86, row 97: markup, formulas and SQL are text."""
        for text in ("<script>alert(1)</script>", "=HYPERLINK()", "'); drop table metrics; --", "%s", "NULL"):
            payload = edited(name=text, metrics=[{"type": text, "value": text}])
            self.assertEqual(read(payload).agent.name, text)
            self.assertEqual(read(payload).metrics, [Metric(text, text)])


class NumberTests(SynchronousTestCase):
    """row 91, row 92: numbers become their shortest decimal text."""

    cases = {
        b"1001": "1001",
        b'"1001"': "1001",
        b'"1e400"': "1e400",
        b'""': "",
        b"0": "0",
        b"-0": "0",
        b"-0.0": "0",
        b"33.0": "33",
        b"33.50": "33.5",
        b"1e2": "100",
        b"0.1": "0.1",
        b"1e300": "1e+300",
        b"9007199254740992": "9007199254740992",
        b"9007199254740993": "9007199254740993",
        b"9223372036854775808": "9223372036854775808",
        b"-18446744073709551617": "-18446744073709551617",
        b"9" * 300: "9" * 300,
    }

    def test_numbers_become_text(self) -> None:
        for literal, text in self.cases.items():
            self.assertEqual(read(with_value(literal)).metrics[0].value, text, literal)

    def test_what_is_no_finite_number_is_rejected(self) -> None:
        for literal in (
            b"1e400",
            b"-1e400",
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b"9" * 400,
            b"9" * 5000,
            b"01",
        ):
            with self.assertRaises(InvalidReport, msg=repr(literal)):
                read(with_value(literal))


#: Row → payloads of which nothing can be used, with the kind and a part of the reason.
REFUSED: list[tuple[int, bytes, str, str]] = [
    (87, b"", "syntax", "truncated"),
    (87, b"Hello", "syntax", "invalid character (byte 0)"),
    (87, b"{}", "fields", "missing required field `agent`"),
    (87, b"5", "fields", "Expected `object`, got `int`"),
    (87, b"null", "fields", "got `null`"),
    (87, b"[]", "fields", "got `array`"),
    (87, b"true", "fields", "got `bool`"),
    (87, b'"x"', "fields", "got `str`"),
    (87, b'{"agent":{}}', "fields", "missing required field `uuid` - at `$.agent`"),
    (87, edited(metrics=None), "fields", "missing required field `metrics`"),
    (87, edited(metrics={}), "fields", "Expected `array`, got `object` - at `$.metrics`"),
    (87, edited(agent=None), "fields", "missing required field `agent`"),
    (87, edited(uuid=None), "fields", "`uuid`"),
    (87, edited(username=None), "fields", "`username`"),
    (87, edited(name=None), "fields", "`name`"),
    (87, edited(hostname=None), "fields", "`hostname`"),
    (87, edited(pid=None), "fields", "`pid`"),
    (87, edited(uuid=""), "fields", "length >= 1 - at `$.agent.uuid`"),
    (87, COURSE[:-1], "syntax", "truncated"),
    (87, COURSE + b"x", "syntax", "trailing characters"),
    (88, b"\xef\xbb\xbf" + COURSE, "encoding", "byte order mark"),
    (88, COURSE.decode().encode("utf-16"), "encoding", "not UTF-8"),
    (88, COURSE.decode().encode("utf-16-le"), "syntax", "malformed"),
    (88, COURSE.decode().encode("utf-32"), "encoding", "not UTF-8"),
    (88, COURSE.replace(b"bogota", b"bogot\xe1"), "encoding", "not UTF-8"),
    (88, COURSE.replace(b"memory", b"\xed\xa0\x80"), "encoding", "not UTF-8"),
    (88, of_agent("yyy", b', "extra": "\xff"'), "encoding", "not UTF-8"),
    (89, b"[" * 60_000, "depth", "nested deeper than 16"),
    (89, b'{"a":' * 12_000, "depth", "nested deeper than 16"),
    (89, of_agent("yyy", b', "x": ' + b"[" * 16 + b"]" * 16), "depth", "nested deeper than 16"),
    (89, of_agent("yyy", b', "x": ' + b"[" * 20_000 + b"]" * 20_000), "depth", "nested deeper than 16"),
    (
        90,
        b'{"metrics": [' + b"0," * 524_288 + b"0]}",
        "size",
        "1048592 bytes, 65536 are allowed (max_payload)",
    ),
    (90, b'{"metrics": [' + b"0," * 32_000 + b"0]}", "fields", "missing required field `agent`"),
    (
        90,
        edited(metrics=[{"type": "a", "value": 1}] * 1001),
        "size",
        "1001 metrics, 1000 are allowed (max_metrics)",
    ),
    (90, edited(metrics=[0] * 20_000), "size", "20000 metrics"),
    (94, COURSE.replace(b'"pid"', b'"uuid": "zzz", "pid"'), "duplicate", "key 'uuid' comes twice"),
    (94, COURSE.replace(b'"pid"', b'"\\u0075uid": "zzz", "pid"'), "duplicate", "key 'uuid' comes twice"),
    (94, of_agent("yyy", b', "metrics": []'), "duplicate", "key 'metrics' comes twice"),
    (94, of_agent("yyy", b', "x": {"y": 1, "y": 2}'), "duplicate", "key 'y' comes twice"),
    (94, COURSE.replace(b'"33"', b'"33", "value": "34"'), "duplicate", "key 'value' comes twice"),
    (96, COURSE.replace(b"yyy", b"y\\u0000"), "fields", "NUL - at `$.agent.uuid`"),
    (96, COURSE.replace(b"platzibogota", b"\\u0000"), "fields", "NUL - at `$.agent.hostname`"),
    (96, COURSE.replace(b"yyy", b"y\0"), "syntax", "malformed"),
    (96, COURSE.replace(b"yyy", b"\\ud800"), "syntax", "malformed"),
    (96, COURSE.replace(b"memory", b"\\udc00x"), "syntax", "malformed"),
    (97, edited(uuid="u" * 256), "fields", "length <= 255 - at `$.agent.uuid`"),
    (97, edited(username="u" * 256), "fields", "length <= 255 - at `$.agent.username`"),
    (97, edited(name="ñ" * 256), "fields", "length <= 255 - at `$.agent.name`"),
    (97, edited(hostname="u" * 256), "fields", "length <= 255 - at `$.agent.hostname`"),
    (100, edited(pid=-1), "fields", "`int` >= 0 - at `$.agent.pid`"),
    (100, edited(pid=2**31), "fields", "`int` <= 2147483647 - at `$.agent.pid`"),
    (100, edited(pid=3.7), "fields", "Expected `int`, got `float` - at `$.agent.pid`"),
    (100, edited(pid=True), "fields", "Expected `int`, got `bool` - at `$.agent.pid`"),
    (100, edited(pid="10"), "fields", "Expected `int`, got `str` - at `$.agent.pid`"),
    (100, COURSE.replace(b'"pid": 10', b'"pid": null'), "fields", "got `null` - at `$.agent.pid`"),
]


class RefusedTests(SynchronousTestCase):
    def test_what_can_never_become_rows_is_refused_with_its_reason(self) -> None:
        """row 87, row 88, row 89, row 90, row 94, row 96, row 97, row 100: see the table above."""
        for row, payload, kind, part in REFUSED:
            with self.assertRaises(InvalidReport, msg=f"row {row}: {payload[:300]!r}") as caught:
                read(payload)
            error = caught.exception
            self.assertEqual(error.kind, kind, f"row {row}: {error} {payload[:200]!r}")
            self.assertIn(part, error.reason, f"row {row}")
            self.assertNotIn("\n", error.reason)
            self.assertLess(len(error.reason), 600)

    def test_sixteen_levels_are_deep_enough(self) -> None:
        """row 89"""
        payload = of_agent("yyy", b', "x": ' + b"[" * 15 + b'"[[[["' + b"]" * 15)
        self.assertEqual(len(read(payload).metrics), 2)

    def test_a_thousand_metrics_and_64_kib_are_allowed(self) -> None:
        """row 90"""
        metrics = [{"type": f"t{number}", "value": number} for number in range(1000)]
        payload = edited(metrics=metrics)
        payload += b" " * (65_536 - len(payload))
        self.assertEqual(len(read(payload).metrics), 1000)
        with self.assertRaises(InvalidReport):
            read(payload + b" ")

    def test_limits_are_settings(self) -> None:
        """row 90"""
        with self.assertRaises(InvalidReport):
            parse(message(), "client", NOW, AgentLimits(max_metrics=1))
        with self.assertRaises(InvalidReport):
            parse(message(), "client", NOW, AgentLimits(max_payload=150))

    def test_unclosed_strings_take_no_longer_than_others(self) -> None:
        """row 89: what looks for brackets reads every byte once."""
        with self.assertRaises(InvalidReport):
            read(b'{"' + b'\\"[' * 21_000)


class NamedFieldsTests(SynchronousTestCase):
    def test_only_the_named_fields_are_taken(self) -> None:
        """row 95: no key of the sender's reaches a column that is ours."""
        document = json.loads(COURSE)
        document["agent"] |= {"__proto__": {"x": 1}, "constructor": 1, "connected": True, "id": 1}
        document["metrics"][0] |= {"id": 7, "agentId": 7, "createdAt": "1970-01-01"}
        report = read(json.dumps(document).encode())
        self.assertEqual(report.agent, read(COURSE).agent)
        self.assertEqual(report.metrics, read(COURSE).metrics)


class SingleMetricTests(SynchronousTestCase):
    """One bad metric does not cost the others."""

    #: Row, metric, part of the reason.
    bad: list[tuple[int, Any, str]] = [
        (93, {"type": "bad", "value": True}, "got `bool` - at `$.metrics[1].value`"),
        (93, {"type": "bad", "value": None}, "got `null` - at `$.metrics[1].value`"),
        (93, {"type": "bad", "value": [1, 2]}, "got `array` - at `$.metrics[1].value`"),
        (93, {"type": "bad", "value": {"a": 1}}, "got `object` - at `$.metrics[1].value`"),
        (93, {"type": "bad", "value": "x" * 4097}, "longer than 4096 bytes - at `$.metrics[1].value`"),
        (93, {"type": "bad", "value": "ñ" * 2049}, "longer than 4096 bytes - at `$.metrics[1].value`"),
        (93, {"type": "bad"}, "missing required field `value` - at `$.metrics[1]`"),
        (93, {"value": 1}, "missing required field `type` - at `$.metrics[1]`"),
        (93, 5, "Expected `object`, got `int` - at `$.metrics[1]`"),
        (93, None, "Expected `object`, got `null` - at `$.metrics[1]`"),
        (91, {"type": "bad", "value": 10**400}, "out of range - at `$.metrics[1].value`"),
        (96, {"type": "bad", "value": "a\0"}, "NUL - at `$.metrics[1].value`"),
        (96, {"type": "b\0d", "value": 1}, "NUL - at `$.metrics[1].type`"),
        (97, {"type": "t" * 256, "value": 1}, "length <= 255 - at `$.metrics[1].type`"),
        (97, {"type": "", "value": 1}, "length >= 1 - at `$.metrics[1].type`"),
        (97, {"type": 5, "value": 1}, "Expected `str`, got `int` - at `$.metrics[1].type`"),
    ]

    def test_the_good_metric_stays_and_the_bad_one_is_rejected(self) -> None:
        """row 102, with the bad metrics of row 91, row 93, row 96, row 97"""
        good = {"type": "good", "value": 1}
        for row, metric, part in self.bad:
            payload = edited(metrics=[good, metric, good])
            report = read(payload)
            self.assertEqual(report.metrics, [Metric("good", "1")] * 2, f"row {row}")
            [rejection] = report.rejections
            self.assertIn("1 of 3 metrics: ", rejection.reason)
            self.assertIn(part, rejection.reason, f"row {row}")
            self.assertEqual((rejection.payload, rejection.client_id), (payload, "client"))

    def test_a_message_of_bad_metrics_alone_is_refused(self) -> None:
        """row 93"""
        for row, metric, _ in self.bad:
            with self.assertRaises(InvalidReport, msg=f"row {row}") as caught:
                read(edited(metrics=[metric]))
            self.assertEqual(caught.exception.kind, "metrics")

    def test_numbers_out_of_range_cost_only_their_metric(self) -> None:
        """row 91, row 102"""
        report = read(COURSE.replace(b'"1001"', b"1e400"))
        self.assertEqual(report.metrics, [Metric("temp", "33")])
        self.assertIn("out of range - at `$.metrics[0].value`", report.rejections[0].reason)

    def test_a_bare_word_costs_its_own_metric_alone(self) -> None:
        """Row 238: Python's json.dumps writes NaN, other programs other words; JSON has none of them."""
        for word in ("NaN", "nan", "-nan", "Infinity", "-Infinity", "inf", "+inf", "-inf", "INF"):
            values = ((word, "bad"), ("2", "good"), ('"inf"', "nan"))
            metrics = ", ".join(f'{{"type": "{name}", "value": {value}}}' for value, name in values)
            report = read(edited(metrics=["@"]).replace(b'"@"', metrics.encode()))
            self.assertEqual(report.metrics, [Metric("good", "2"), Metric("nan", "inf")], word)
            self.assertIn(f"no number: {word} - at `$.metrics[0].value`", report.rejections[0].reason)

    def test_many_bad_metrics_make_one_rejection(self) -> None:
        """row 102: a thousand copies of the payload would be a thousandfold amplification."""
        report = read(edited(metrics=[{"type": "good", "value": 1}, *[0] * 999]))
        self.assertEqual(len(report.rejections), 1)
        self.assertLessEqual(len(report.rejections[0].reason), 500)

    def test_four_kib_are_allowed(self) -> None:
        """row 93"""
        for value in ("x" * 4096, "ñ" * 2048):
            self.assertEqual(read(edited(metrics=[{"type": "a", "value": value}])).metrics[0].value, value)


class TimestampTests(SynchronousTestCase):
    def at(self, literal: object) -> Report:
        return read(of_agent("yyy", f', "timestamp": {literal}'.encode()))

    def test_milliseconds_are_the_time_of_measuring(self) -> None:
        """row 99"""
        report = self.at(1_511_128_000_000)
        self.assertEqual((report.measured, report.measured_adjusted), (1_511_128_000.0, False))

    def test_times_as_devices_write_them_are_understood(self) -> None:
        """Row 239: nanoseconds, microseconds, ISO 8601, and digits in quotes."""
        for literal, form in (
            ("1511128000", "s"),
            ("1511128000000", ""),
            ("1511128000000000", "us"),
            ("1511128000000000000", "ns"),
            ('"1511128000"', "text"),
            ('"1511128000000"', "text"),
            ('" 1511128000.000 "', "text"),
            ('"2017-11-19T21:46:40Z"', "text"),
            ('"2017-11-19T21:46:40"', "text"),
            ('"2017-11-19 21:46:40.000000000+00:00"', "text"),
            ('"2017-11-19T22:46:40+0100"', "text"),
        ):
            report = self.at(literal)
            self.assertEqual((report.measured, report.measured_adjusted), (1_511_128_000.0, False), literal)
            self.assertEqual(report.time_form, form)
            self.assertIsNotNone(report.key, literal)

    def test_fractions_and_seconds_are_understood(self) -> None:
        """row 99"""
        self.assertEqual(self.at(1_511_128_000_000.5).measured, 1_511_128_000.0005)
        self.assertEqual(self.at(1_511_128_000).measured, 1_511_128_000.0)
        self.assertEqual(self.at(1_511_128_000.25).measured, 1_511_128_000.25)

    def test_a_week_back_and_ten_minutes_ahead_are_accepted(self) -> None:
        """row 99"""
        for offset in (-7 * DAY, 600):
            report = self.at(int((NOW + offset) * 1000))
            self.assertEqual((report.measured, report.measured_adjusted), (NOW + offset, False))
        for offset in (-7 * DAY - 1, 601):
            report = self.at(int((NOW + offset) * 1000))
            self.assertEqual((report.measured, report.measured_adjusted), (NOW, True))

    def test_what_cannot_be_right_becomes_the_time_of_arrival(self) -> None:
        """row 99"""
        literals = (
            "1511128000000000000000000",
            "-1",
            "0",
            "1e18",
            "1" + "0" * 400,
            "1e400",
            "9e99",
            '"1511128000000 ms"',
            '"2017-11-19T21:46:40+99:00"',
            '"2017-13-19T21:46:40Z"',
            "NaN",
            "-inf",
        )
        for literal in (*literals, '"now"', "true", "[]", '{"a": 1}', "9" * 5000):
            report = self.at(literal)
            self.assertEqual(
                (report.measured, report.measured_adjusted, report.key), (NOW, True, None), literal
            )
            self.assertEqual(len(report.metrics), 2)

    def test_no_time_is_no_time(self) -> None:
        """row 99"""
        for report in (read(COURSE), self.at("null")):
            self.assertEqual((report.measured, report.measured_adjusted, report.key), (None, False, None))


class KeyTests(SynchronousTestCase):
    def key(self, uuid: str, timestamp: object, metric: bytes = b"33") -> bytes:
        payload = of_agent(uuid, f', "timestamp": {timestamp}'.encode()).replace(b"33", metric)
        key = read(payload).key
        assert key is not None
        return key

    def test_a_key_begins_with_the_time_in_milliseconds(self) -> None:
        key = self.key("yyy", 1_511_128_000_123)
        self.assertEqual((len(key), int.from_bytes(key[:6], "big")), (16, 1_511_128_000_123))

    def test_the_same_message_has_the_same_key(self) -> None:
        self.assertEqual(self.key("yyy", 1_511_128_000_123), self.key("yyy", 1_511_128_000_123))

    def test_another_agent_time_or_value_has_another_key(self) -> None:
        keys = {
            self.key("yyy", 1_511_128_000_123),
            self.key("zzz", 1_511_128_000_123),
            self.key("yyy", 1_511_128_000_124),
            self.key("yyy", 1_511_128_000_123, b"34"),
        }
        self.assertEqual(len(keys), 4)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
# Long ones are short ones again and again: each character that is drawn costs more than reading it.
texts = st.text(max_size=8) | st.builds(operator.mul, st.text(min_size=1, max_size=3), st.integers(0, 300))
documents = st.fixed_dictionaries(
    {
        "agent": st.fixed_dictionaries(
            {"uuid": texts, "username": texts, "name": texts, "hostname": texts, "pid": st.integers(0, 2**32)}
        )
        | values,
        "metrics": st.lists(st.fixed_dictionaries({"type": texts, "value": scalars}) | values, max_size=5),
    },
    optional={"timestamp": st.integers(0, 2 * 10**12) | values, "extra": values},
)


class AnyBytesTests(SynchronousTestCase):
    def outcome(self, payload: bytes) -> Report | InvalidReport:
        try:
            return read(payload)
        except InvalidReport as error:
            return error

    @given(st.binary(max_size=1024) | st.builds(operator.mul, st.binary(max_size=64), st.integers(0, 1024)))
    @example(b'{"agent":{"uuid":"\xff"')
    @settings(max_examples=300, deadline=None)
    def test_any_bytes_are_a_report_or_an_invalid_report(self, payload: bytes) -> None:
        """row 85: nothing else is raised."""
        self.outcome(payload)

    @given(documents, st.booleans())
    @settings(max_examples=150, deadline=None)
    def test_any_document_is_a_report_fit_for_the_tables_or_an_invalid_report(
        self, document: dict[str, Any], ascii: bool
    ) -> None:
        """row 96: what passes has no NUL, no surrogate, nothing too long."""
        try:
            payload = json.dumps(document, ensure_ascii=ascii).encode()
        except UnicodeEncodeError:
            return
        report = self.outcome(payload)
        if isinstance(report, InvalidReport):
            return
        agent = report.agent
        texts = [agent.uuid, agent.username, agent.name, agent.hostname]
        texts += [metric.type for metric in report.metrics]
        self.assertTrue(all(len(text) <= 255 for text in texts))
        self.assertTrue(agent.uuid)
        self.assertTrue(0 <= agent.pid < 2**31)
        for text in texts + [metric.value for metric in report.metrics]:
            self.assertNotIn("\0", text)
            self.assertLessEqual(len(text.encode()), 4096)

    @given(documents, st.data())
    @settings(max_examples=150, deadline=None)
    def test_the_quick_reader_agrees_with_the_careful_one(self, document: Any, data: st.DataObject) -> None:
        document = json.loads(COURSE) | document if data.draw(st.booleans()) else document
        payload = json.dumps(document).encode()
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(payload) - 1))
            payload = payload[:place] + data.draw(st.binary(max_size=3)) + payload[place + 1 :]
        report = self.outcome(payload)
        try:
            agent, metrics, _, problems = read_carefully(payload, 1000)
        except InvalidReport:
            self.assertIsInstance(report, InvalidReport)
        else:
            assert isinstance(report, Report)
            self.assertEqual((report.agent, report.metrics), (agent, metrics))
            self.assertLessEqual({problems} - {""}, {rejection.reason for rejection in report.rejections})
