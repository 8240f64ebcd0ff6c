"""Encoding, and that decoding undoes it."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec import (
    ENCODERS,
    EncodedPublish,
    encode,
    encode_puback,
    encode_pubacks,
)
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.framing import encode_length
from platziverse.mqtt.packets import Connect, Packet, Publish
from platziverse.mqtt.topics import CACHED_TOPICS
from tests.mqtt.strategies import IDS, PACKETS, QOS, publishes


def open_decoder() -> PacketDecoder:
    decoder = PacketDecoder(268_435_455)
    decoder.connected(268_435_455, 4)
    return decoder


class RoundTrip(SynchronousTestCase):
    @given(PACKETS)
    def test_decoding_undoes_encoding(self, packet: Packet) -> None:
        decoder = open_decoder()
        decoder.feed(encode(packet))
        self.assertEqual(decoder.next_packet(), packet)
        self.assertEqual((decoder.next_packet(), decoder.pending), (None, 0))

    def test_there_are_fourteen_packets(self) -> None:
        self.assertEqual(len(ENCODERS), 14)

    @given(publishes(), st.booleans(), st.integers(1, 2), IDS, st.booleans())
    def test_one_encoding_serves_every_receiver(
        self, message: Publish, retain: bool, qos: int, packet_id: int, dup: bool
    ) -> None:
        encoded = EncodedPublish(message, retain)
        decoder = open_decoder()
        decoder.feed(encoded.qos0 + encoded.with_id(qos, packet_id, dup) + encoded.qos0)
        zero = Publish(message.topic, message.payload, 0, retain)
        numbered = Publish(message.topic, message.payload, qos, retain, dup, packet_id)
        self.assertEqual([decoder.next_packet() for _ in range(3)], [zero, numbered, zero])
        self.assertEqual(encoded.size, len(message.topic.encode()) + 2 + len(message.payload))
        self.assertEqual((encoded.payload, encoded.retain), (message.payload, retain))

    def test_any_number_of_topic_names_is_encoded(self) -> None:
        """Row 34: so many are remembered, and then others."""
        for number in range(CACHED_TOPICS + 10):
            encoded = EncodedPublish(Publish(f"topic/{number}", b""))
        self.assertEqual(encoded.topic, f"topic/{CACHED_TOPICS + 9}")
        self.assertTrue(encoded.qos0.endswith(encoded.topic.encode()))


class Encoded(SynchronousTestCase):
    def test_its_parts_are_the_packet(self) -> None:
        for retain in (False, True):
            message = Publish("a/b", b"payload", 2, packet_id=7)
            encoded = EncodedPublish(message, retain=retain)
            self.assertEqual((encoded.topic, encoded.payload, encoded.retain), ("a/b", b"payload", retain))
            for qos, dup in ((1, False), (2, False), (2, True)):
                expected = encode(Publish("a/b", b"payload", qos, retain, dup, packet_id=9))
                self.assertEqual(encoded.head(qos, 9, dup) + encoded.payload, expected)
                self.assertEqual(encoded.with_id(qos, 9, dup), expected)

    def test_a_long_topic_name_counts_with_the_message(self) -> None:
        """Short ones are shared by all messages of their topic; this one waits with each."""
        short, long = (EncodedPublish(Publish("x" * length, b"")) for length in (200, 2000))
        self.assertGreater(long.size - short.size, 2 * (2000 - 200) - 100)


class Lengths(SynchronousTestCase):
    def test_remaining_lengths_of_the_standard(self) -> None:
        """Table 2.4"""
        for size, encoded in (
            (0, "00"),
            (127, "7f"),
            (128, "8001"),
            (16_383, "ff7f"),
            (16_384, "808001"),
            (2_097_151, "ffff7f"),
            (2_097_152, "80808001"),
            (268_435_455, "ffffff7f"),
        ):
            self.assertEqual(encode_length(size).hex(), encoded)

    @given(QOS)
    def test_the_will_of_a_connect_comes_back(self, qos: int) -> None:
        packet = Connect("c", will=Publish("w", b"m", qos, True))
        decoder = open_decoder()
        decoder.feed(encode(packet))
        self.assertEqual(decoder.next_packet(), packet)


class Many(SynchronousTestCase):
    def test_many_pubacks_are_what_each_of_them_would_be(self) -> None:
        numbers = [1, 65_535, 7, 7, 256]
        self.assertEqual(encode_pubacks(numbers), b"".join(map(encode_puback, numbers)))
