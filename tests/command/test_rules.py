"""``platziverse rules``: what a message would become, without a daemon and without a database."""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.cli import main
from platziverse.rules.loading import presets

RULES = """
[[rule]]
topic = "tele/{device}/SENSOR"
agent = "tasmota:{device}"
name = "{device}"
time = "$.Time"
units = { "*.Temperature" = "°C" }
[[rule]]
topic = "tele/{device}/LWT"
agent = "tasmota:{device}"
presence = { online = ["Online"], offline = ["Offline"] }
[[rule]]
topic = "quiet/#"
ignore = true
[[rule]]
topic = "rtl"
agent = "rtl:{$.id}"
unmatched = "ignore"
metrics = { t = "$.t", h = "$.h" }
"""


class RulesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.rules = self.folder / "rules.toml"
        self.rules.write_text(RULES)
        self.config = self.folder / "platziverse.toml"
        self.config.write_text(f"[record]\nfiles = [{json.dumps(str(self.rules))}]\n")

    def run_rules(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> list[str]:
        """The lines that the command prints."""
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.assertEqual(main(["-c", str(self.config), "rules", *arguments]), code, out.getvalue())
        self.said = err.getvalue()
        return out.getvalue().splitlines()

    def sensor(self, **more: Any) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        return json.dumps({"Time": moment, "AM2301": {"Temperature": 21.5}, **more})


class TryTests(RulesCase):
    def test_all_about_one_message_is_said(self) -> None:
        lines = self.run_rules("try", "tele/kitchen/SENSOR", self.sensor(TempUnit="C", list=[]))
        self.assertEqual(lines[0], "rule     rules.toml#1  tele/{device}/SENSOR")
        self.assertEqual(lines[1], "agent    tasmota:kitchen  name kitchen")
        self.assertRegex(lines[2], r"^time     20\d\d-.*Z  \(from \$.Time, UTC\)$")
        self.assertEqual(
            lines[3:],
            [
                "metric   AM2301.Temperature = 21.5 °C",
                "ignored  TempUnit: no number: 'C' → strings = true, or states = { … }",
            ],
        )

    def test_a_time_that_is_not_used_is_explained(self) -> None:
        self.assertIn(
            "time     that of the arrival  ($.Time is no time from 7 days ago to 10 minutes ahead)",
            self.run_rules("try", "tele/a/SENSOR", '{"Time":"1970-01-01T00:00:00","v":1}'),
        )
        self.assertIn(
            "time     that of the arrival  (there is nothing at $.Time)",
            self.run_rules("try", "tele/a/SENSOR", '{"v":1}'),
        )
        self.assertIn("time     that of the arrival", self.run_rules("try", "rtl", '{"id":1,"t":1}'))

    def test_the_exit_code_is_the_outcome(self) -> None:
        for code, topic, payload, line in (
            (0, "tele/a/LWT", "Online", "presence online"),
            (0, "tele/a/LWT", "Offline", "presence offline"),
            (0, "quiet/a", "x", "ignored  by ignore = true"),
            (
                0,
                "rtl",
                "x",
                "ignored  rules.toml#4: JSON is malformed: invalid character (byte 0) (unmatched)",
            ),
            (1, "tele/a/SENSOR", "x", "rejected rules.toml#1: JSON is malformed: invalid character (byte 0)"),
            (2, "other", "x", "no rule  for other"),
        ):
            self.assertEqual(self.run_rules("try", topic, payload, code=code)[-1], line)

    def test_a_metric_that_is_wrong_is_told_beside_the_others(self) -> None:
        lines = self.run_rules("try", "rtl", '{"id":1,"t":1,"h":"x\\u001b[2J"}')
        self.assertEqual(
            lines[-2:], ["metric   t = 1", "rejected rules.toml#4: no number: 'x\\x1b[2J' - at $.h"]
        )

    def test_the_payload_may_be_a_file(self) -> None:
        path = self.folder / "payload"
        path.write_bytes(b'{"id":"\\u0007","t":1}')
        lines = self.run_rules("try", "rtl", "--file", str(path))
        self.assertEqual(lines[1], "agent    'rtl:\\x07'  name 'rtl:\\x07'")

    def test_without_an_answer_the_code_is_three(self) -> None:
        for arguments, reason in (
            (("rtl",), "name a TOPIC, and a PAYLOAD"),
            ((), "name a TOPIC"),
            (("rtl", "x", "--file", "y"), "name a TOPIC"),
            (("a/#", "x"), "'a/#' is no Topic Name"),
            (("rtl", "--file", str(self.folder / "none")), "cannot be read: No such file"),
            (("rtl", "x", "--rules", "/nowhere"), "/nowhere: cannot be read"),
            (("rtl", "x", "--preset", "tasmoto"), "did you mean tasmota?"),
        ):
            self.run_rules("try", *arguments, code=3)
            self.assertIn(reason, self.said)

    def test_lines_of_mosquitto_sub_become_a_report(self) -> None:
        text = (
            f"tele/a/SENSOR {self.sensor()}\ntele/a/LWT Offline\nquiet/a x y\n\ntele/a/SENSOR warm\nother 1\n"
        )
        lines = self.run_rules("try", "--stdin", code=1, stdin=text.encode() + b"tele/b/LWT Online")
        self.assertEqual(
            lines,
            [
                "stored   tele/a/SENSOR  rules.toml#1: tasmota:a, 1 metrics",
                "stored   tele/a/LWT  rules.toml#2: tasmota:a",
                "ignored  quiet/a  by ignore = true",
                "rejected tele/a/SENSOR  rules.toml#1: JSON is malformed: invalid character (byte 0)",
                "no rule  other  for other",
                "stored   tele/b/LWT  rules.toml#2: tasmota:b",
                "3 stored, 1 ignored, 1 rejected, 1 no rule",
            ],
        )

    def test_a_preset_that_has_a_rule_is_named(self) -> None:
        for topic, reason in (
            ("zigbee2mqtt/lamp", "no rule  for zigbee2mqtt/lamp; there is one in preset zigbee2mqtt"),
            ("esp/status/x", "no rule  for esp/status/x; there is one in preset shelly2"),
            ("agent/x", "no rule  for agent/x"),
        ):
            self.assertEqual(self.run_rules("try", topic, "1", code=2), [reason])

    def test_topics_with_blanks_and_messages_without_a_payload_are_read(self) -> None:
        """As `mosquitto_sub -F '%t\\t%p'` and `mosquitto_sub -v` print them."""
        text = f"tele/living room/SENSOR\t{self.sensor()}\ntele/a/SENSOR (null)\n"
        lines = self.run_rules("try", "--stdin", stdin=text.encode())
        self.assertEqual(
            lines,
            [
                "stored   tele/living room/SENSOR  rules.toml#1: tasmota:living room, 1 metrics",
                "ignored  tele/a/SENSOR  it is empty, and so clears a Retained Message",
                "1 stored, 1 ignored",
            ],
        )

    def test_the_gravest_of_many_is_the_exit_code(self) -> None:
        self.run_rules("try", "--stdin", code=2, stdin=b"other 1\nquiet/a 1\n")
        self.run_rules("try", "--stdin", code=0, stdin=b"quiet/a 1\n")
        self.assertEqual(self.run_rules("try", "--stdin"), ["no messages"])

    def test_presets_and_other_files_may_be_tried_without_a_configuration(self) -> None:
        lines = self.run_rules("try", "--preset", "tasmota", "tele/a/SENSOR", self.sensor())
        self.assertEqual(lines[0], "rule     tasmota#1  tele/{device}/SENSOR")
        lines = self.run_rules(
            "try", "--rules", str(self.rules), "tele/a/SENSOR", self.sensor(), "--user", "ana"
        )
        self.assertEqual(lines[0], "rule     rules.toml#1  tele/{device}/SENSOR")


class CheckTests(RulesCase):
    def test_each_rule_has_a_line(self) -> None:
        lines = self.run_rules("check")
        self.assertEqual(lines[-1], "4 rules, all of them can be used")
        self.assertEqual(lines[0].split(), ["rules.toml#1", "tele/{device}/SENSOR", "tasmota:{device}"])
        self.assertEqual(lines[2].split(), ["rules.toml#3", "quiet/#", "ignored"])
        self.assertIn(
            "rtl:{$.id}  (the payload or the client names it, so access.binding is asked)", lines[3]
        )

    def test_a_rule_that_cannot_be_used_is_named(self) -> None:
        self.rules.write_text(RULES + '[[rule]]\ntopic = "x"\nagnt = "x"\n')
        self.assertEqual(self.run_rules("check", code=1), [])
        expected = f"platziverse: {self.rules}:22: rule 5: agnt: unknown key; did you mean agent?\n"
        self.assertEqual(self.said, expected)

    def test_a_preset_can_be_printed_and_used(self) -> None:
        self.assertEqual(self.run_rules("show"), presets())
        text = "\n".join(self.run_rules("show", "tasmota"))
        self.rules.write_text(text)
        self.assertEqual(self.run_rules("check")[-1], "4 rules, all of them can be used")
        self.run_rules("show", "nothing", code=1)
        self.assertIn("unknown preset 'nothing'", self.said)
