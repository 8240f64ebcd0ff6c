"""Rules that cannot be used: one line with the file, its line, the rule, the key, and what may be meant."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.limits import AgentLimits
from platziverse.rules.errors import RuleError
from platziverse.rules.loading import load, preset, presets, read_rules
from platziverse.rules.ruleset import MAX_RULES
from platziverse.rules.settings import RecordSettings
from tests.rules.reading import HEAD, rules


class LoadTests(SynchronousTestCase):
    def file(self, text: "str | bytes", name: str = "rules.toml") -> str:
        path = Path(self.mktemp())
        path.mkdir()
        path /= name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return os.path.abspath(path)

    def refused(self, text: str, bound: bool = False) -> str:
        """The line about a text, from its rule on."""
        error = self.assertRaises(RuleError, read_rules, "rules.toml", "/etc/rules.toml", text, bound)
        line = str(error)
        self.assertNotIn("\n", line)
        self.assertTrue(line.startswith("/etc/rules.toml"), line)
        return line.removeprefix("/etc/rules.toml")

    def test_own_files_come_before_presets(self) -> None:
        path = self.file(HEAD)
        found = load(RecordSettings((), (path, path)), AgentLimits(), False)
        self.assertEqual([rule.name for rule in found.rules], ["rules.toml#1", "rules.toml#1"])

    def test_nothing_configured_is_no_rule(self) -> None:
        self.assertEqual(load(RecordSettings(), AgentLimits(), True).rules, ())

    def test_a_file_that_cannot_be_read_says_why(self) -> None:
        for path, reason in (
            (self.file(b"\xff"), "is not UTF-8"),
            (self.file("[[rule]"), "is not TOML: "),
            ("/nowhere", "cannot be read: No such"),
        ):
            error = self.assertRaises(RuleError, load, RecordSettings(files=(path,)), AgentLimits(), False)
            self.assertTrue(str(error).startswith(f"{path}: {reason}"), str(error))

    def test_too_many_rules_are_refused(self) -> None:
        text = "".join(f'[[rule]]\ntopic = "{number}"\nignore = true\n' for number in range(MAX_RULES + 1))
        settings = RecordSettings(files=(self.file(text),))
        error = self.assertRaises(RuleError, load, settings, AgentLimits(), False)
        self.assertEqual(str(error), "record.files, record.presets: 1001 rules, 1000 are possible")

    def test_the_line_and_the_key_are_named(self) -> None:
        """Row 415: a rule with an unknown key, hole, zone, path or name."""
        for text, line in (
            (f'{HEAD}tme = "$.T"', ":4: rule 1: tme: unknown key; did you mean time?"),
            (f"{HEAD}zzz = 5", ":4: rule 1: zzz: unknown key"),
            (
                f'{HEAD}[[rule]]\ntopic = "a"',
                ':4: rule 2: agent: is missing; e.g. agent = "tasmota:{device}"',
            ),
            ('[[rule]]\nagent = "a"', ":1: rule 1: topic: is missing"),
            ('[[rule]]\ntopic = 5\nagent = "a"', ":2: rule 1: topic: expected `str`, got `int`"),
            ('rule = [{topic = 5, agent = "a"}]', ": rule 1: topic: expected `str`, got `int`"),
            (
                f'{HEAD}metrics = {{ a = {{ pth = "$" }} }}',
                ":4: rule 1: metrics.a.pth: unknown key; did you mean path?",
            ),
            (f"{HEAD}metrics = {{ a = {{ scale = 1 }} }}", ":4: rule 1: metrics.a.path: is missing"),
            (
                f'{HEAD}[rule.metrics]\n"a b" = "$"\nc = 5',
                ":6: rule 1: metrics.c: is no path and no table",
            ),
            (f'{HEAD}[rule.metrics.t]\npath = "$..a"', ":5: rule 1: metrics.t.path: "),
            (f'{HEAD}[rule.presence]\nonline = ["a"]', ":4: rule 1: presence.offline: is missing"),
            (f'{HEAD}presence = {{ online = ["a"], offline = ["A"] }}', ":4: rule 1: presence: needs words"),
            (
                f'{HEAD}presence = {{ online = ["a"], offline = ["b"], pat = "$" }}',
                ":4: rule 1: presence.pat: unknown key; did you mean path?",
            ),
            (
                f'{HEAD}presence = {{ online = ["a"], offline = ["b"], path = "a" }}',
                ":4: rule 1: presence.path: 'a' is no path",
            ),
            (
                f'{HEAD}format = "msgpack"\npresence = {{ online = ["a"], offline = ["b"] }}',
                ":4: rule 1: format: is json or value",
            ),
            (
                f'{HEAD}time = "$.T"\ntime_zone = "Mars/Base"',
                ":5: rule 1: time_zone: there is no time zone 'Mars/Base'",
            ),
            (f'{HEAD}time = "$.T"\ntime_format = "unx"', ":5: rule 1: time_format: 'unx' is none of auto"),
            (f'{HEAD}time_zone = "UTC"', ":4: rule 1: time_zone: has no meaning without time"),
            (f'{HEAD}time = "T"', ":4: rule 1: time: 'T' is no path"),
            (f'{HEAD}time = "@.T"', ":4: rule 1: time: has a path that begins with @, an item; without each"),
            (f'{HEAD}name = "{{@.T}}"', ":4: rule 1: name: has a path that begins with @"),
            (f'{HEAD}each = "@.T"', ":4: rule 1: each: begins with @"),
            (f'{HEAD}format = "jsno"', ":4: rule 1: format: unknown format 'jsno'; did you mean json?"),
            (f'{HEAD}type = "x"', ":4: rule 1: type: has no hole {key}"),
            (f'{HEAD}type = "{{key}}{{key}}"', ":4: rule 1: type: has the hole {key} more than once"),
            (f'{HEAD}name = "{{key}}"', ":4: rule 1: name: unknown hole {key}"),
            (f'{HEAD}unmatched = "drop"', ":4: rule 1: unmatched: 'drop' is none of reject, ignore"),
            (f"{HEAD}ignore = true", ":3: rule 1: agent: has no meaning in a rule with ignore"),
            (
                f'{HEAD}strings = true\nmetrics = {{ a = "$" }}',
                ":4: rule 1: strings: has no meaning in a rule with metrics",
            ),
            (
                f'{HEAD}presence = {{ online = ["a"], offline = ["b"] }}\nstates = {{ a = 1 }}',
                ":5: rule 1: states: has no meaning in a rule with presence",
            ),
            (f"{HEAD}metrics = {{}}", ":4: rule 1: metrics: names none"),
            (f"{HEAD}states = {{ a = nan }}", ":4: rule 1: states: a = nan is no number"),
            (
                f'{HEAD}metrics = {{ a = {{ path = "$", scale = inf }} }}',
                ":4: rule 1: metrics.a.scale: inf is no number",
            ),
            (
                f'{HEAD}metrics = {{ a = {{ path = "$", round = 99 }} }}',
                ":4: rule 1: metrics.a.round: expected `int` <= 15",
            ),
            (
                f'{HEAD}metrics = {{ a = {{ path = "$", text = true, scale = 2 }} }}',
                ":4: rule 1: metrics.a.text: has no meaning beside",
            ),
            (
                f'{HEAD}[[rule]]\ntopic = "t/{{device}}"\nagent = "b"',
                ":5: rule 2: topic: rule 1 has the same topic and comes first",
            ),
            (
                '[[rule]]\ntopic = "$SYS/#"\nagent = "a"',
                ":2: rule 1: topic: '$SYS/#' begins with $ or agent/",
            ),
            (
                '[[rule]]\ntopic = "{x}/{x}"\nagent = "a"',
                ":2: rule 1: topic: '{x}' in '{x}/{x}': the name comes twice",
            ),
            (
                '[[rule]]\ntopic = "t/{device}"\nagent = "x:{devise}"',
                ":3: rule 1: agent: unknown hole {devise} in 'x:{devise}'; did you mean device?",
            ),
            (f'{HEAD}states = {{ a = "b" }}', ":4: rule 1: states: expected `"),
            (f"{HEAD}metrics = 5", ":4: rule 1: metrics: expected `object | null`"),
            (f'{HEAD}units = {{ a = "x\\u0000" }}', ":4: rule 1: units.a: has a NUL"),
            (
                f'{HEAD}metrics = {{ a = {{ path = "$", unit = "x\\u0000" }} }}',
                ":4: rule 1: metrics.a.unit: has a NUL",
            ),
            ("rules = 5", ": rules: unknown key; did you mean rule?; a file of rules has [[rule]] only"),
            ("rule = 5", ": rule: is no array of tables"),
            ("[rule]\ntopic = 5", ": rule: is no array of tables"),
            ("[[rule]]\ntopic = [", ": is not TOML: "),
        ):
            self.assertIn(line, self.refused(text)[: len(line)], text)

    def test_with_a_binding_an_agent_does_not_begin_with_a_hole(self) -> None:
        text = '[[rule]]\ntopic = "t/{device}"\nagent = "{device}"'
        self.assertEqual(len(rules(text).rules), 1)
        self.assertIn(":3: rule 1: agent: begins with a hole", self.refused(text, bound=True))
        self.assertEqual(len(rules(text.replace('"{dev', '"x:{dev'), bound=True).rules), 1)

    def test_settings_have_absolute_paths(self) -> None:
        self.assertEqual(RecordSettings(files=("rules.toml",)).files, (os.path.abspath("rules.toml"),))


class PresetTests(SynchronousTestCase):
    def test_every_preset_can_be_used_whatever_the_binding(self) -> None:
        for bound in (False, True):
            load(RecordSettings(tuple(presets())), AgentLimits(), bound)

    def test_an_unknown_preset_has_a_suggestion(self) -> None:
        error = self.assertRaises(RuleError, preset, "tasmoto")
        self.assertTrue(
            str(error).startswith("record.presets: unknown preset 'tasmoto'; did you mean tasmota?")
        )
