"""Patterns of topics, templates with holes, and which rule a topic has."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.topics import matches
from platziverse.rules.patterns import Pattern
from platziverse.rules.templates import Template, Unfilled
from tests.rules.reading import rules

LEVEL = st.text("ab$", max_size=2)
WANTED = st.one_of(LEVEL, st.sampled_from(["+", "{x}", "{y...}"]))


class PatternTests(SynchronousTestCase):
    def test_named_levels_are_captured(self) -> None:
        for text, topic, levels in (
            ("tele/{device}/SENSOR", "tele/kitchen/SENSOR", {"device": "kitchen"}),
            ("{a}/+/{b}", "1/2/3", {"a": "1", "b": "3"}),
            ("z/{d...}", "z/floor/lamp", {"d": "floor/lamp"}),
            ("z/{d...}/availability", "z/a/b/availability", {"d": "a/b"}),
            ("{all...}", "a/b", {"all": "a/b"}),
            ("a/{x}/#", "a/1", {"x": "1"}),
            ("a/{x}/#", "a/1/2/3", {"x": "1"}),
            ("#", "a/b", {}),
            ("a.b/{x}", "a.b/ñ\n", {"x": "ñ\n"}),
            ("/{x}", "/", {"x": ""}),
        ):
            self.assertEqual(Pattern(text).match(topic), levels, text)

    def test_other_topics_do_not_match(self) -> None:
        for text, topic in (
            ("tele/{d}/SENSOR", "tele/a/b/SENSOR"),
            ("tele/{d}/SENSOR", "tele/a/STATE"),
            ("z/{d...}/availability", "z/availability"),
            ("z/{d...}", "z"),
            ("a/#", "ab"),
            ("a.b", "a-b"),
        ):
            self.assertIsNone(Pattern(text).match(topic), text)

    def test_a_pattern_that_is_none_is_refused(self) -> None:
        for text in (
            "",
            "$SYS/#",
            "agent/message",
            "agent/{x}",
            "agent",
            "a/{x}y",
            "a/{}",
            "a/{1}",
            "a/{x",
            "{x}/{x}",
            "{x...}/{y...}",
            "{x...}/#",
            "a/#/b",
            "a/b+",
            "{client}",
            "{user}/a",
            "{key}",
            "a\0",
        ):
            self.assertRaises(ValueError, Pattern, text)

    @given(st.lists(WANTED, min_size=1, max_size=4), st.lists(LEVEL, min_size=1, max_size=5))
    def test_the_topic_filter_matches_whatever_the_pattern_matches(
        self, wanted: list[str], levels: list[str]
    ) -> None:
        topic = "/".join(levels)
        try:
            pattern = Pattern("/".join(wanted))
        except ValueError:
            return
        if pattern.match(topic) is not None and not topic.startswith("$"):
            self.assertTrue(matches(pattern.topic_filter, topic))


class TemplateTests(SynchronousTestCase):
    def test_holes_are_filled(self) -> None:
        names = {"device": "kitchen", "user": "ana", "client": "c"}
        message, item = {"id": 7, "ok": True, "f": 1.0, "list": ["x"]}, {"n": "north"}
        for text, filled in {
            "x:{device}": "x:kitchen",
            "{{{user}}}-{client}": "{ana}-c",
            "{$.id}.{@.n}.{$.ok}.{$.f}": "7.north.true.1",
            "{$.list[0]}{$['ok']}": "xtrue",
            "": "",
        }.items():
            self.assertEqual(Template(text, names).fill(names, message, item), filled)

    def test_a_hole_without_text_is_not_filled(self) -> None:
        message: dict[str, object] = {"null": None, "list": [], "empty": "", "huge": 10**400}
        for text in ("{$.none}", "{$.null}", "{$.list}", "{$.empty}", "{$.huge}", "{$}"):
            self.assertRaises(Unfilled, Template(text, ()).fill, {}, message, message)

    def test_a_template_that_is_none_is_refused(self) -> None:
        for text in ("{", "a}", "{x", "{}", "{ x }", "{$.a", "{$..a}", "{$.a.}", "{x:y}", "{other}", "{key}"):
            self.assertRaises(ValueError, Template, text, ("x", "device"))

    def test_an_unknown_hole_has_a_suggestion(self) -> None:
        error = self.assertRaises(ValueError, Template, "x:{devise}", ("device", "user"))
        self.assertEqual(str(error), "unknown hole {devise} in 'x:{devise}'; did you mean device?")


class RuleSetTests(SynchronousTestCase):
    def test_the_first_rule_wins(self) -> None:
        found = rules("""
            [[rule]]
            topic = "z/bridge/#"
            ignore = true
            [[rule]]
            topic = "{a}/{b}"
            agent = "any:{b}"
            [[rule]]
            topic = "z/{device...}"
            agent = "z:{device}"
            """)
        names = {
            topic: rule and rule.rule.name
            for topic in ("z/bridge/state", "z/lamp", "z/a/b", "q/r", "q")
            for rule in [found.find(topic)]
        }
        self.assertEqual(
            names,
            {
                "z/bridge/state": "rules.toml#1",
                "z/lamp": "rules.toml#2",
                "z/a/b": "rules.toml#3",
                "q/r": "rules.toml#2",
                "q": None,
            },
        )
        self.assertEqual(found.topic_filters, {"z/bridge/#", "+/+", "z/+/#"})

    def test_what_is_the_servers_or_of_agents_has_no_rule(self) -> None:
        found = rules('[[rule]]\ntopic = "#"\nagent = "x"\n[[rule]]\ntopic = "{a}/{b}"\nagent = "y"')
        for topic in ("$SYS/broker/uptime", "agent/message", "agent/connected", "$share"):
            self.assertIsNone(found.find(topic), topic)
        self.assertIsNotNone(found.find("agents/message"))

    def test_the_same_topic_gets_the_same_rule(self) -> None:
        found = rules('[[rule]]\ntopic = "{a}"\nagent = "x"')
        self.assertIs(found.find("a"), found.find("a"))
