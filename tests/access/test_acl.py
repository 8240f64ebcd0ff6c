"""Mosquitto's ACL files, with Mosquitto's meaning."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access.acl import READ, WRITE, AccessRules, Levels, Subject, covers, overlap
from platziverse.access.authority import AccessAuthority, is_servers_own
from platziverse.access.files import AccessError
from platziverse.agents.recorder import ANNOUNCEMENTS
from tests.access.acl_cases import CASES, STRICTER, Case

ANA = Subject("c1", "ana")


def rules(text: str) -> AccessRules:
    return AccessRules.parse("acl", text.splitlines())


def allowed(case: Case) -> bool:
    if case.action == "publish" and is_servers_own(case.topic, ANNOUNCEMENTS):
        return False
    access = WRITE if case.action == "publish" else READ
    return rules(case.acl).decide(Subject(case.client_id, case.username), case.topic, access).allowed


class TestLikeMosquitto(SynchronousTestCase):
    def test_documented_examples(self) -> None:
        for case in CASES:
            self.assertEqual(allowed(case), case.allowed, case)

    def test_names_with_wildcards_or_slashes_never_match_a_pattern(self) -> None:
        """Row 20."""
        for case in STRICTER:
            self.assertFalse(allowed(case), case)
        for name in ("#", "+", "a/b", "a+", "x#y", "/", "a/", "+/+"):
            for subject in (Subject(name, "ana"), Subject("c1", name), Subject(name, name)):
                decided = rules("pattern readwrite at/%c/%u").decide(subject, "at/x/y", READ)
                self.assertFalse(decided.allowed, subject)

    def test_a_client_without_a_name_never_matches_a_user_pattern(self) -> None:
        """Row 83."""
        for name in (None, ""):
            for topic in ("homes//x", "homes/None/x", "homes/%u/x"):
                decided = rules("pattern readwrite homes/%u/x").decide(Subject("c1", name), topic, READ)
                self.assertFalse(decided.allowed)

    def test_what_a_name_brings_in_is_not_replaced_again(self) -> None:
        decided = rules("pattern readwrite at/%c").decide(Subject("%u", "ana"), "at/ana", READ)
        self.assertFalse(decided.allowed)

    def test_wildcards_do_not_reach_the_topics_of_the_server(self) -> None:
        for text in ("user ana\ntopic #", "user ana\ntopic +/#", "pattern #"):
            self.assertFalse(rules(text).decide(ANA, "$SYS/uptime", READ).allowed)
        self.assertTrue(rules("user ana\ntopic $SYS/#").decide(ANA, "$SYS/uptime", READ).allowed)

    def test_the_deciding_line_is_named(self) -> None:
        text = "# comment\n\nuser ana\ntopic read a/#\ntopic deny a/b\n"
        self.assertEqual(rules(text).decide(ANA, "a/b", READ).reason, "line 5: topic deny a/b")
        self.assertEqual(rules(text).decide(ANA, "a/c", READ).reason, "line 4: topic read a/#")
        self.assertEqual(rules(text).decide(ANA, "b", READ).reason, "no rule allows it")


class TestSubscribing(SynchronousTestCase):
    def may(self, text: str, topic_filter: str, subject: Subject = ANA) -> bool:
        return rules(text).decide_filter(subject, topic_filter).allowed

    def test_a_filter_under_which_nothing_may_be_read_is_refused(self) -> None:
        """Row 50."""
        text = "user ana\ntopic read mine/#\ntopic write theirs/#\ntopic deny mine/secret/#"
        for topic_filter in ("mine/#", "mine", "mine/+", "#", "+/x", "+/+/+", "mine/secret"[:4]):
            self.assertTrue(self.may(text, topic_filter), topic_filter)
        for topic_filter in (
            "theirs/#",
            "other",
            "mine/secret",
            "mine/secret/#",
            "mine/secret/a/+",
            "$SYS/#",
        ):
            self.assertFalse(self.may(text, topic_filter), topic_filter)

    def test_patterns_count_too(self) -> None:
        self.assertTrue(self.may("pattern read homes/%u/#", "homes/+/door"))
        self.assertFalse(self.may("pattern read homes/%u/#", "homes/bob/#"))
        self.assertFalse(self.may("pattern read homes/%u/#", "#", Subject("c1", None)))
        self.assertFalse(self.may("pattern read homes/%u/#", "#", Subject("c1", "#")))


class TestFiles(SynchronousTestCase):
    def load(self, data: bytes, mode: int = 0o644) -> AccessRules:
        path = Path(self.mktemp())
        path.write_bytes(data)
        path.chmod(mode)
        return AccessRules.load(str(path))

    def refused(self, data: bytes, line: "int | None", mode: int = 0o644) -> str:
        error: AccessError = self.assertRaises(AccessError, self.load, data, mode)
        self.assertEqual(error.line, line, data)
        self.assertIn(error.path, str(error))
        return error.reason

    def test_an_empty_file_is_refused(self) -> None:
        """Row 79."""
        for data in (b"", b"\n\n", b"# only a comment\n", b"   \n#\n"):
            self.assertIn("no rule", self.refused(data, None))

    def test_a_file_that_cannot_be_read_is_refused(self) -> None:
        """Row 78."""
        error = self.assertRaises(AccessError, AccessRules.load, "/nonexistent/acl")
        self.assertIn("/nonexistent/acl: No such file", str(error))
        self.assertRaises(AccessError, AccessRules.load, os.getcwd())

    def test_a_broken_line_is_refused_and_named(self) -> None:
        """Row 82."""
        for line in (
            b"topic",
            b"user",
            b"user   ",
            b"topics read a",
            b"Topic read a",
            b"topic red a",
            b"topic a b",
            b"topic read a/#/b",
            b"topic read a#",
            b"pattern",
            b"pattern none a",
            b"password ana",
            b"allow ana a/#",
        ):
            self.refused(b"topic a\n" + line + b"\n", 2)

    def test_a_role_is_that_of_the_user_above(self) -> None:
        rules = self.load(
            b"user ana\nrole admin\ntopic read a\nuser eve\ntopic read a\nuser bob\nrole admin\n"
        )
        self.assertEqual(rules.admins, {"ana", "bob"})
        self.assertFalse(rules.decide(Subject("c", "bob"), "a", READ).allowed)
        authority = AccessAuthority(Clock(), rules=rules)
        asked = ("ana", "eve", "", None)
        self.assertEqual([authority.is_admin(name) for name in asked], [True, False, False, False])
        self.assertFalse(AccessAuthority(Clock()).is_admin("ana"))

    def test_a_role_that_nobody_can_have_is_refused(self) -> None:
        """Row 82."""
        self.assertIn("below the line of the user", self.refused(b"topic a\nrole admin\n", 2))
        for role in (b"root", b"Admin", b"admin eve"):
            self.assertIn("there is admin alone", self.refused(b"user ana\nrole " + role + b"\n", 2))
        self.refused(b"user ana\nrole\n", 2)

    def test_what_is_no_text_is_refused(self) -> None:
        """Row 82."""
        self.refused(b"topic a\n\xff\xfe\n", None)
        self.refused(b"topic a\ntopic b\0\n", 2)

    def test_a_file_that_everyone_may_change_is_refused(self) -> None:
        """Row 84."""
        self.assertIn("everyone", self.refused(b"topic a\n", None, 0o666))

    def test_carriage_returns_and_spaces_do_no_harm(self) -> None:
        loaded = self.load(b"user ana \r\n  topic   read    a/b  \r\n")
        self.assertTrue(loaded.decide(ANA, "a/b", READ).allowed)


level = st.sampled_from(["a", "b", "", "$x"])
topics = st.lists(level, min_size=1, max_size=4).map(tuple)
filters = st.tuples(
    st.lists(st.one_of(level, st.just("+")), max_size=3), st.sampled_from(["#", "+", "a", "b", ""])
).map(lambda found: (*found[0], found[1]))


def matches(pattern: Levels, topic: Levels) -> bool:
    """Section 4.7 as naively as it can be said."""
    if topic and topic[0].startswith("$") and pattern[0] in ("+", "#"):
        return False
    return matches_rest(pattern, topic)


def matches_rest(pattern: Levels, topic: Levels) -> bool:
    if pattern == ("#",) or (not pattern and not topic):
        return True
    return bool(pattern and topic) and pattern[0] in ("+", topic[0]) and matches_rest(pattern[1:], topic[1:])


def all_topics() -> "list[Levels]":
    found: list[Levels] = [()]
    every: list[Levels] = []
    for _ in range(5):
        found = [(*topic, name) for topic in found for name in ("a", "b", "", "$x")]
        every += found
    return every


ALL_TOPICS = all_topics()


class TestProperties(SynchronousTestCase):
    @given(filters, topics)
    @settings(max_examples=500, deadline=None)
    def test_a_filter_covers_a_topic_exactly_if_it_matches_it(self, pattern: Levels, topic: Levels) -> None:
        self.assertEqual(covers(pattern, topic), matches(pattern, topic))

    @given(filters, filters, topics)
    @settings(max_examples=500, deadline=None)
    def test_overlap_and_cover_agree_with_every_topic(
        self, one: Levels, other: Levels, topic: Levels
    ) -> None:
        self.assertEqual(overlap(one, other), overlap(other, one))
        if matches(one, topic) and matches(other, topic):
            self.assertTrue(overlap(one, other))
        if covers(one, other) and matches(other, topic):
            self.assertTrue(matches(one, topic))

    @given(filters, filters)
    @settings(max_examples=300, deadline=None)
    def test_filters_that_overlap_share_a_topic(self, one: Levels, other: Levels) -> None:
        if overlap(one, other):
            self.assertTrue(any(matches(one, topic) and matches(other, topic) for topic in ALL_TOPICS))
