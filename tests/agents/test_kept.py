"""The Properties of a message as JSON, beside one that was rejected."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.kept import as_json, from_json
from platziverse.agents.model import Rejection
from platziverse.mqtt.packets import PublishProperties

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
PROPERTIES = st.builds(
    PublishProperties,
    payload_format_indicator=st.none() | st.integers(0, 1),
    message_expiry_interval=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | TEXTS,
    response_topic=st.none() | TEXTS,
    correlation_data=st.none() | st.binary(max_size=20),
    user_properties=st.lists(st.tuples(TEXTS, TEXTS), max_size=5).map(tuple),
)


class KeptTests(SynchronousTestCase):
    @given(PROPERTIES)
    def test_what_is_written_is_read_again(self, properties: PublishProperties) -> None:
        text = as_json(properties, 10_000)
        assert text is not None
        self.assertEqual(from_json(json.loads(text)) or PublishProperties(), properties)

    @given(PROPERTIES, st.integers(0, 400))
    def test_no_more_is_kept_than_there_is_room_for(self, properties: PublishProperties, most: int) -> None:
        text = as_json(properties, most)
        assert text is not None
        self.assertLessEqual(len(text.encode()), most + 100)
        found = json.loads(text)
        left, pairs = found.pop("leftOut", 0), found.pop("userProperties", [])
        names = ("payload_format_indicator", "message_expiry_interval", "content_type", "response_topic")
        given = [getattr(properties, name) for name in (*names, "correlation_data")]
        there = sum(value is not None for value in given) + len(properties.user_properties)
        self.assertEqual(len(found) + len(pairs) + left, there)
        self.assertEqual([tuple(pair) for pair in pairs], [*properties.user_properties][: len(pairs)])

    def test_nothing_is_nothing(self) -> None:
        self.assertIsNone(as_json(None, 10))
        self.assertIsNone(from_json(None))
        self.assertIsNone(from_json({}))
        self.assertIsNone(Rejection("t", "c", b"", "why", 0.0).properties_within(10))
        rejection = Rejection("t", "c", b"", "why", 0.0, "", PublishProperties(1))
        self.assertEqual(rejection.properties_within(100), '{"payloadFormatIndicator":1}')
