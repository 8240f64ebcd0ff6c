"""Properties, Reason Codes and versions by name."""

from typing import Any

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.details import answer_in_words, code_name, in_words, named, packets_in
from platziverse.mqtt.packets import Properties, Puback, Publish, PublishProperties, Suback, Unsuback
from tests.mqtt.strategies5 import LATER


class DetailsTests(SynchronousTestCase):
    def test_properties_that_are_there_are_named_in_order(self) -> None:
        properties = Properties(receive_maximum=3, user_properties=(("b", "1"), ("a", "2")))
        expected = {"receive_maximum": 3, "user_properties": (("b", "1"), ("a", "2"))}
        self.assertEqual(named(properties), expected)
        self.assertEqual(in_words(properties), ", receive maximum 3, user properties 'b'='1' 'a'='2'")
        self.assertEqual((named(None), in_words(None)), ({}, ""))
        self.assertEqual(in_words(PublishProperties(0)), ", payload format indicator 0")

    def test_authentication_data_is_told_to_nobody(self) -> None:
        properties = Properties(authentication_method="SCRAM", authentication_data=b"secret")
        self.assertEqual(in_words(properties), ", authentication method 'SCRAM'")

    def test_long_values_and_many_pairs_are_cut(self) -> None:
        pairs = tuple(("n" * 60_000, "v") for _ in range(1000))
        text = in_words(PublishProperties(content_type="c" * 60_000, user_properties=pairs))
        self.assertTrue(text.endswith(" and 990 more"))
        self.assertLess(len(text), 1500)

    def test_answers_say_their_reason_codes(self) -> None:
        self.assertEqual(code_name(0x99), "payload_format_invalid")
        self.assertEqual(answer_in_words(Puback(1)), "")
        self.assertEqual(answer_in_words(Puback(1, 0x10)), " no_matching_subscribers")
        self.assertEqual(answer_in_words(Suback(1, [1, 0x87])), " granted_qos_1 not_authorized")
        self.assertEqual(answer_in_words(Unsuback(1, [0x11])), " no_subscription_existed")
        self.assertEqual(answer_in_words(Publish("a", b"")), "")

    @given(LATER)
    def test_every_packet_is_found_with_its_bytes_and_told(self, packet: Any) -> None:
        data = encode5(packet)
        first, second = packets_in(data + data)
        self.assertEqual(first, second)
        self.assertEqual(first[1], len(data))
        told = answer_in_words(first[0]) + in_words(getattr(first[0], "properties", None))
        self.assertLess(len(told), 30_000)
