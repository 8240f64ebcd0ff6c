"""The rules for Topic Names and Topic Filters."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import (
    check_topic_filter,
    check_topic_name,
    is_anothers_response,
    matches,
    response_prefix,
)
from tests.mqtt.strategies import TOPIC_FILTERS, TOPIC_NAMES
from tests.vectors.matching import DIFFERS, MATCHES
from tests.vectors.subscribing import BAD_FILTERS, GOOD_FILTERS


class Rules(SynchronousTestCase):
    def test_filters_of_the_vectors(self) -> None:
        for good in GOOD_FILTERS:
            check_topic_filter(good)
        for bad in (name for names in BAD_FILTERS.values() for name in names):
            with self.assertRaises(MalformedPacket, msg=bad):
                check_topic_filter(bad)

    @given(st.text(st.sampled_from("ab+#/\0"), max_size=8))
    def test_filters_are_judged_level_by_level(self, text: str) -> None:
        levels = text.split("/")
        good = bool(text) and "\0" not in text
        for number, level in enumerate(levels):
            good = good and ("+" not in level or level == "+")
            good = good and ("#" not in level or (level == "#" and number == len(levels) - 1))
        try:
            check_topic_filter(text)
        except MalformedPacket:
            self.assertFalse(good, text)
        else:
            self.assertTrue(good, text)

    def test_a_wildcard_does_not_match_the_servers_own_topics(self) -> None:
        """[MQTT-4.7.2-1]"""
        for topic_filter in ("#", "+/x", "+/#"):
            self.assertFalse(matches(topic_filter, "$SYS/x"))
        self.assertTrue(matches("$SYS/#", "$SYS/x"))

    def test_what_no_topic_name_may_be(self) -> None:
        for bad in ("", "a/#", "+", "a+", "a\0b", "a\x01b", "a\x85b"):
            with self.assertRaises(MalformedPacket, msg=repr(bad)):
                check_topic_name(bad)

    @given(TOPIC_NAMES)
    def test_a_topic_name_is_a_filter_that_matches_itself(self, topic: str) -> None:
        check_topic_name(topic)
        check_topic_filter(topic)
        self.assertTrue(matches(topic, topic))
        self.assertEqual(matches("#", topic), not topic.startswith("$"))

    @given(TOPIC_FILTERS, TOPIC_NAMES)
    def test_a_hash_at_the_end_only_widens(self, topic_filter: str, topic: str) -> None:
        if matches(topic_filter, topic) and not topic_filter.endswith("#"):
            self.assertTrue(matches(topic_filter + "/#", topic))

    def test_the_examples_of_the_standard(self) -> None:
        for line in MATCHES.strip().splitlines():
            self.assertTrue(matches(*line.split()), line)
        for line in DIFFERS.strip().splitlines():
            self.assertFalse(matches(*line.split()), line)


class Responses(SynchronousTestCase):
    """What a client is answered is for that client alone."""

    def test_a_client_has_the_topics_below_its_identifier(self) -> None:
        self.assertEqual(response_prefix("one"), "$response/one/")
        for client_id in ("", "a/b", "+", "#", "a+"):
            self.assertIsNone(response_prefix(client_id))

    def test_those_of_others_are_not_its_own(self) -> None:
        own = ("$response/one/a", "$response/one/#", "t", "$responses/two/a", "#")
        others = ("$response", "$response/two/a", "$response/+/a", "$response/#", "$response/one")
        for expected, topics in ((False, own), (True, others)):
            for topic in topics:
                self.assertIs(is_anothers_response("one", topic), expected, topic)
        self.assertTrue(is_anothers_response("a/b", "$response/a/b/c"))
