"""Wires: a message as each version has it; and the Properties that wait with it."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec import TOPICS, EncodedPublish, encode, encode_all_at_qos0
from platziverse.mqtt.codec5 import encode5, encode_unheard
from platziverse.mqtt.packets import Properties, Publish, PublishProperties, Subscribe, Subscription
from platziverse.mqtt.properties import (
    arrived,
    brought_by,
    encode_will_properties,
    identified,
    is_as_it_says,
    restored,
    restored_will,
    store_properties,
    weigh,
    weigh_asked,
    without_properties,
)
from platziverse.mqtt.wire import UNUSED, Wires
from tests.mqtt.strategies import BINARY, TOPIC_NAMES
from tests.mqtt.strategies5 import properties

NOW = 1_700_000_000.25


class Writing(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = NOW
        self.wires = Wires(lambda: self.now)

    @given(TOPIC_NAMES, BINARY, properties("PUBLISH"), st.booleans(), st.integers(0, 2), st.booleans())
    def test_each_version_gets_what_encoding_makes(
        self, topic: str, payload: bytes, given: PublishProperties | None, retain: bool, qos: int, again: bool
    ) -> None:
        message = Publish(topic, payload, qos, retain, again and qos > 0, 7 if qos else None, given)
        encoded = EncodedPublish(message, retain)
        for level, expected in ((4, encode(message)), (5, encode5(message)), (5, encode5(message))):
            wire = self.wires.of(level)
            if qos:
                self.assertEqual(wire.with_id(encoded, qos, 7, message.dup), expected)
                self.assertEqual(wire.head(encoded, qos, 7, message.dup) + payload, expected)
            else:
                self.assertEqual(wire.qos0(encoded), expected)
                if not retain:
                    self.assertEqual(wire.at_qos0(message), expected)

    @given(TOPIC_NAMES, st.lists(BINARY, max_size=5))
    def test_many_at_qos_0_are_written_as_each_is(self, topic: str, payloads: list[bytes]) -> None:
        for level in 4, 5:
            wire = self.wires.of(level)
            expected = [wire.at_qos0(Publish(topic, payload)) for payload in payloads]
            self.assertEqual(encode_all_at_qos0(TOPICS[topic] + wire.no_properties, payloads), expected)

    def test_clients_with_a_maximum_packet_size_have_a_wire_of_their_own(self) -> None:
        small, usual, older = self.wires.of(5, True), self.wires.of(5), self.wires.of(4, True)
        self.assertEqual([wire.limited for wire in (small, usual, older)], [True, False, False])
        message = Publish("t", b"x")
        self.assertEqual(small.at_qos0(message), usual.at_qos0(message))

    def test_subscription_identifiers_are_written_at_qos_0(self) -> None:
        message = Publish("t", b"x")
        for found, expected in ((b"", ()), (b"\x0b\x07", (7,))):
            wire = self.wires.of(5).identifying(lambda _, found=found: found)  # type: ignore[misc]
            given = PublishProperties(subscription_identifiers=expected) if expected else None
            self.assertEqual(wire.at_qos0(message), encode5(Publish("t", b"x", properties=given)))
            self.assertTrue(wire.limited)

    def test_what_is_left_of_a_message_is_written_until_it_is_over(self) -> None:
        """[MQTT5-3.3.2-5] [MQTT5-3.3.2-6]"""
        message = arrived(
            Publish("t", b"", properties=PublishProperties(message_expiry_interval=5)), "t", NOW
        )
        encoded, five, older = EncodedPublish(message), self.wires.of(5), self.wires.of(4)
        for passed, left in ((0, 5), (0.5, 5), (1.5, 4), (4.9, 1), (9, 0)):
            self.now = NOW + passed
            expected = Publish(
                "t", b"", 1, packet_id=7, properties=PublishProperties(message_expiry_interval=left)
            )
            self.assertEqual(five.with_id(encoded, 1, 7), encode5(expected))
            self.assertEqual((five.is_over(message), older.is_over(message)), (passed >= 5, passed >= 5))
        self.assertFalse(five.is_over(Publish("t", b"", properties=PublishProperties())))
        self.assertFalse(UNUSED.is_over(Publish("t", b"")))


class Keeping(SynchronousTestCase):
    @given(properties("PUBLISH"), BINARY)
    def test_properties_come_back_from_a_store(self, given: PublishProperties | None, payload: bytes) -> None:
        message = arrived(Publish("t", payload, properties=given), "t", NOW)
        data = store_properties(message.properties)
        found = restored(data)
        if message.properties is None:
            self.assertEqual((data, found), (b"", None))
            return
        self.assertEqual(without_properties(data + payload), (payload, data))
        assert found is not None
        if message.properties.expires is None:
            self.assertEqual(found, message.properties)
        else:
            end = min(int(message.properties.expires), 0xFFFFFFFF)
            self.assertEqual((found.expires, found.message_expiry_interval), (end, end))
            self.assertEqual(found.user_properties, message.properties.user_properties)

    @given(properties("PUBLISH"), st.sampled_from((0, 1, 0xFFFF_FFFF)))
    def test_those_of_a_will_come_back_with_its_delay(
        self, given: PublishProperties | None, delay: int
    ) -> None:
        of_will = given and replace(given, topic_alias=None, subscription_identifiers=())
        data = encode_will_properties(of_will, delay)
        expected = None if of_will == PublishProperties() else of_will
        self.assertEqual(restored_will(data), (expected, delay))
        self.assertEqual(encode_will_properties(None, 0), b"")

    def test_what_belongs_to_a_connection_is_left_behind(self) -> None:
        alone = Publish("", b"", properties=PublishProperties(topic_alias=3))
        self.assertEqual(arrived(alone, "t", NOW), Publish("t", b""))
        self.assertEqual(arrived(Publish("t", b""), "t", NOW), Publish("t", b""))

    def test_a_payload_is_utf8_if_it_says_so(self) -> None:
        for indicator, payload, expected in ((None, b"\xff", True), (0, b"\xff", True), (1, b"\xff", False)):
            given = None if indicator is None else PublishProperties(indicator)
            self.assertEqual(is_as_it_says(Publish("t", payload, properties=given)), expected)
        self.assertTrue(is_as_it_says(Publish("t", "é".encode(), properties=PublishProperties(1))))

    def test_they_weigh_more_than_they_are_written(self) -> None:
        """Row 503: what waits with a message counts."""
        many = PublishProperties(content_type="x" * 99, user_properties=(("é", ""),) * 9)
        for one in (PublishProperties(1), many):
            self.assertGreater(weigh(one), len(store_properties(one)))
            self.assertGreater(EncodedPublish(Publish("t", b"", properties=one)).size, weigh(one))


class Identified(SynchronousTestCase):
    """The wire of a client that has subscribed with Subscription Identifiers."""

    def test_what_has_none_gets_the_shared_bytes_at_every_qos(self) -> None:
        usual = Wires(lambda: NOW).of(5)
        wire = usual.identifying(lambda message: b"")
        encoded = EncodedPublish(Publish("t", b"x", 2))
        self.assertEqual(wire.with_id(encoded, 2, 7), usual.with_id(encoded, 2, 7))
        self.assertEqual(wire.qos0(encoded), usual.qos0(encoded))

    def test_identifiers_stand_behind_long_properties_too(self) -> None:
        given = PublishProperties(content_type="c" * 200)
        wire = Wires(lambda: NOW).of(5).identifying(lambda message: b"\x0b\x07")
        written = wire.with_id(EncodedPublish(Publish("t", b"x", 1, properties=given)), 1, 7)
        properties_ = b"\xcd\x01\x03\x00\xc8" + b"c" * 200 + b"\x0b\x07"
        self.assertEqual(written, b"\x32\xd5\x01\x00\x01t\x00\x07" + properties_ + b"x")

    def test_what_identifies_already_does_and_an_older_client_never(self) -> None:
        wires = Wires(lambda: NOW)
        wire = wires.of(5).identifying(lambda message: b"")
        self.assertIs(wire.identifying(lambda message: b"\x0b\x07"), wire)
        self.assertIs(wires.of(4).identifying(lambda message: b"\x0b\x07"), wires.of(4))

    def test_a_subscribe_gives_its_identifier_to_its_subscriptions(self) -> None:
        plain = Subscribe(1, [Subscription("t", 1)])
        self.assertIs(identified(plain), plain)
        self.assertEqual(identified(Subscribe(1, [], Properties())).subscriptions, [])
        given = Properties(subscription_identifier=7)
        found = identified(Subscribe(1, [Subscription("t", 1), Subscription("u", 0)], given))
        self.assertEqual([one.identifier for one in found.subscriptions], [7, 7])

    def test_a_copy_says_which_subscription_has_brought_it(self) -> None:
        given = PublishProperties(content_type="c")
        for properties_ in (None, given):
            copy = brought_by(Publish("t", b"x", properties=properties_), "$share/g/t").properties
            assert copy is not None
            self.assertEqual(copy.subscription, "$share/g/t")
            self.assertEqual(copy.content_type, "c" if properties_ else None)


class Answers(SynchronousTestCase):
    def test_messages_that_nobody_hears_are_acknowledged_with_the_reason(self) -> None:
        self.assertEqual(encode_unheard([1, 258]), b"\x40\x03\x00\x01\x10\x40\x03\x01\x02\x10")

    def test_what_a_connect_asks_for_weighs_what_it_has(self) -> None:
        light = weigh_asked(Properties())
        method = Properties(authentication_method="m" * 500, authentication_data=b"d" * 500)
        self.assertGreater(weigh_asked(method), light + 1000)
        self.assertGreater(weigh_asked(Properties(user_properties=(("k", "v" * 500),))), light + 500)
