"""What follows the Fixed Header: every packet type, and the Topic Names that are remembered."""

import sys
import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec import encode
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import ConnectRefused, MalformedPacket
from platziverse.mqtt.packets import (
    Connack,
    Connect,
    ConnectReturnCode,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from platziverse.mqtt.readers import topic_names
from platziverse.mqtt.topics import MAX_FILTERS

#: First byte → right content and the packet it is. Every other first byte is malformed with any content.
RIGHT: dict[int, tuple[bytes, Packet]] = {
    0x10: (b"\0\4MQTT\4\2\0\x0a\0\1c", Connect("c", True, 10)),
    0x20: (b"\1\0", Connack(True, ConnectReturnCode.ACCEPTED)),
    0x30: (b"\0\1tp", Publish("t", b"p")),
    0x31: (b"\0\1tp", Publish("t", b"p", 0, True)),
    0x32: (b"\0\1t\0\7p", Publish("t", b"p", 1, packet_id=7)),
    0x33: (b"\0\1t\0\7p", Publish("t", b"p", 1, True, packet_id=7)),
    0x34: (b"\0\1t\0\7p", Publish("t", b"p", 2, packet_id=7)),
    0x35: (b"\0\1t\0\7p", Publish("t", b"p", 2, True, packet_id=7)),
    0x3A: (b"\0\1t\0\7p", Publish("t", b"p", 1, False, True, 7)),
    0x3B: (b"\0\1t\0\7p", Publish("t", b"p", 1, True, True, 7)),
    0x3C: (b"\0\1t\0\7p", Publish("t", b"p", 2, False, True, 7)),
    0x3D: (b"\0\1t\0\7p", Publish("t", b"p", 2, True, True, 7)),
    0x40: (b"\1\2", Puback(0x102)),
    0x50: (b"\1\2", Pubrec(0x102)),
    0x62: (b"\1\2", Pubrel(0x102)),
    0x70: (b"\1\2", Pubcomp(0x102)),
    0x82: (b"\0\7\0\1f\2", Subscribe(7, [Subscription("f", 2)])),
    0x90: (b"\0\7\2\x80", Suback(7, [2, 0x80])),
    0xA2: (b"\0\7\0\1f", Unsubscribe(7, ["f"])),
    0xB0: (b"\1\2", Unsuback(0x102)),
    0xC0: (b"", Pingreq()),
    0xD0: (b"", Pingresp()),
    0xE0: (b"", Disconnect()),
}


def decode(first: int, content: bytes) -> Packet | None:
    """What a connected decoder makes of one packet."""
    decoder = PacketDecoder(1000)
    decoder.connected(1000, 4)
    decoder.feed(bytes((first, len(content))) + content)
    return decoder.next_packet()


class EveryFirstByte(SynchronousTestCase):
    def test_each_right_packet_is_decoded(self) -> None:
        for first, (content, packet) in RIGHT.items():
            self.assertEqual(decode(first, content), packet, hex(first))

    def test_no_other_first_byte_is_a_packet(self) -> None:
        """rows 7 and 8 [MQTT-2.2.2-1] [MQTT-2.2.2-2]"""
        for first in set(range(256)) - RIGHT.keys():
            for content, _ in RIGHT.values():
                with self.assertRaises(MalformedPacket, msg=f"{first:02x} {content.hex()}"):
                    decode(first, content)

    def test_what_is_cut_short_is_malformed(self) -> None:
        """row 9"""
        for first, (content, _) in RIGHT.items():
            fixed = len(content) - (1 if first >> 4 == 3 or first == 0x90 else 0)  # payload, return codes
            for size in range(fixed):
                with self.assertRaises(MalformedPacket, msg=f"{first:02x} {content[:size].hex()}"):
                    decode(first, content[:size])

    def test_what_is_left_over_is_malformed(self) -> None:
        """rows 9 and 11"""
        for first, (content, _) in RIGHT.items():
            if first >> 4 not in (3, 9):  # PUBLISH and SUBACK take all there is
                with self.assertRaises(MalformedPacket, msg=f"{first:02x}"):
                    decode(first, content + b"\x7f")

    def test_packet_id_0_is_malformed_everywhere(self) -> None:
        """row 39 [MQTT-2.3.1-1]"""
        for first in (0x32, 0x3A, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0):
            content, _ = RIGHT[first]
            at = 3 if first >> 4 == 3 else 0
            with self.assertRaises(MalformedPacket, msg=f"{first:02x}") as caught:
                decode(first, content[:at] + b"\0\0" + content[at + 2 :])
            self.assertEqual(caught.exception.statement, "MQTT-2.3.1-1")

    def test_values_that_the_standard_forbids_are_malformed(self) -> None:
        for first, content, statement in (
            (0x10, b"\0\4MQTX\4\2\0\0\0\1c", "MQTT-3.1.2-1"),
            (0x10, b"\0\4MQTT\4\3\0\0\0\1c", "MQTT-3.1.2-3"),
            (0x10, b"\0\4MQTT\4\x0a\0\0\0\1c", "MQTT-3.1.2-11"),
            (0x10, b"\0\4MQTT\4\x22\0\0\0\1c", "MQTT-3.1.2-11"),
            (0x10, b"\0\4MQTT\4\x1e\0\0\0\1c", "MQTT-3.1.2-14"),
            (0x10, b"\0\4MQTT\4\x42\0\0\0\1c\0\1p", "MQTT-3.1.2-22"),
            (0x20, b"\2\0", "3.2.2"),
            (0x20, b"\0\6", "3.2.2"),
            (0x82, b"\0\7\0\1f\3", "MQTT-3-8.3-4"),
            (0x82, b"\0\7", "MQTT-3.8.3-3"),
            (0x90, b"\0\7\3", "MQTT-3.9.3-2"),
            (0x90, b"\0\7", "MQTT-3.8.4-5"),
            (0xA2, b"\0\7", "MQTT-3.10.3-2"),
        ):
            with self.assertRaises(MalformedPacket, msg=f"{first:02x} {content.hex()}") as caught:
                decode(first, content)
            self.assertEqual(caught.exception.statement, statement)

    def test_another_version_is_refused_by_the_client_identifier_where_it_can_be_found(self) -> None:
        """Row 12 [MQTT-3.1.2-2]"""
        for rest, client_id in (
            (b"\2\0\0" + b"\0" + b"\0\1c", "c"),
            (b"\2\0\0" + b"\2\x21\5" + b"\0\1c", "c"),  # two bytes of properties
            (b"\2\0\0" + b"\xff\xff\xff\xff\x7f" + b"\0\1c", ""),  # their length takes no five bytes
            (b"\2\0", ""),
        ):
            decoder = PacketDecoder(1000)
            content = b"\0\4MQTT\6" + rest
            decoder.feed(bytes((0x10, len(content))) + content)
            refused = self.assertRaises(ConnectRefused, decoder.next_packet)
            self.assertIn(f"client {client_id!r}", str(refused))

    def test_so_many_topic_filters_and_no_more(self) -> None:
        """Row 46."""
        for count in (MAX_FILTERS, MAX_FILTERS + 1):
            decoder = PacketDecoder(1 << 20)
            decoder.connected(1 << 20, 4)
            decoder.feed(encode(Unsubscribe(7, ["f"] * count)))
            if count > MAX_FILTERS:
                self.assertRaises(MalformedPacket, decoder.next_packet)
            else:
                self.assertEqual(decoder.next_packet(), Unsubscribe(7, ["f"] * count))

    def test_reasons_quote_the_client_safely(self) -> None:
        """rows 21 and 127"""
        for content in (b"\0\5a\n\xffbc", b"\0\4a\r\n#", b"\0\4a\0\nb", b"\0\xc8" + b"\xff" * 200):
            with self.assertRaises(MalformedPacket) as caught:
                decode(0x30, content + b"x")
            self.assertTrue(str(caught.exception).isprintable(), str(caught.exception))
            self.assertLess(len(str(caught.exception)), 300)


class Remembering(SynchronousTestCase):
    def test_a_topic_name_that_comes_again_is_the_same_object(self) -> None:
        topics = topic_names(200)
        self.assertIs(topics[b"a/b"], topics[b"a/b"])

    def test_bad_ones_are_refused_every_time(self) -> None:
        topic_names.cache_clear()
        topics = topic_names(1)
        for bad in (b"", b"#", b"a/+", b"\xff", b"a\0", b"a/b/c"):
            for _ in range(2):
                self.assertRaises(MalformedPacket, topics.__getitem__, bad)
        self.assertEqual(len(topics), 0)

    def test_limits_do_not_mix(self) -> None:
        self.assertIs(topic_names(200), topic_names(200))
        self.assertEqual(topic_names(2)[b"a/b/c"], "a/b/c")
        self.assertRaises(MalformedPacket, topic_names(1).__getitem__, b"a/b/c")


class Memory(SynchronousTestCase):
    def test_an_idle_decoder_is_small(self) -> None:
        decoder = PacketDecoder(1000)
        decoder.connected(1000, 4)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        decoder.feed(b"\xc0\x00" * 10_000)
        while decoder.next_packet() is not None:
            pass
        self.assertLess(tracemalloc.get_traced_memory()[0], 1000)
        self.assertFalse(hasattr(decoder, "__dict__"))
        self.assertLess(sys.getsizeof(decoder), 200)
        self.assertEqual(decoder.pending, 0)

    def test_a_slow_packet_takes_little_more_than_its_bytes(self) -> None:
        """row 5"""
        decoder = PacketDecoder(1 << 20)
        decoder.connected(1 << 20, 4)
        decoder.feed(b"\x30\xff\xff\x3f")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(200_000):
            decoder.feed(bytes((number & 255, 0)))
            decoder.next_packet()
        self.assertLess(tracemalloc.get_traced_memory()[0], 500_000)

    def test_payloads_do_not_hold_on_to_the_read_they_came_in(self) -> None:
        decoder = PacketDecoder(1000)
        decoder.connected(1000, 4)
        decoder.feed(b"\x30\x04\0\1tp" * 1000)
        packet = decoder.next_packet()
        assert isinstance(packet, Publish)
        self.assertIs(type(packet.payload), bytes)
        self.assertEqual(sys.getsizeof(packet.payload), sys.getsizeof(b"p"))
