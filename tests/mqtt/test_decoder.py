"""PacketDecoder: any split gives the same packets, nothing but our own errors escapes, memory is bounded."""

import itertools
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec import encode
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import ConnectRefused, MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.packets import Connect, Packet, Pingreq, Publish
from tests.mqtt.strategies import LATER, connects


def drain(decoder: PacketDecoder, most: int = 99) -> list[Packet]:
    packets: list[Packet] = []
    while run := decoder.take(most):
        packets += run
    return packets


def kind(packet: Packet) -> tuple[object, ...]:
    """Packets of one kind are given together."""
    return type(packet), packet.qos if isinstance(packet, Publish) else None


class Splitting(SynchronousTestCase):
    @given(connects(), st.lists(LATER, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
    def test_any_split_of_a_stream_gives_the_same_packets(
        self, first: Connect, later: list[Packet], cuts: list[int]
    ) -> None:
        """rows 5 and 65"""
        stream = b"".join(encode(packet) for packet in [first, *later])
        edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        decoder = PacketDecoder(1 << 20)
        packets: list[Packet] = []
        for start, stop in itertools.pairwise(edges):
            decoder.feed(stream[start:stop])
            while (packet := decoder.next_packet()) is not None:
                packets.append(packet)
                decoder.connected(1 << 20, 4)
        self.assertEqual(packets, [first, *later])
        self.assertEqual(decoder.pending, 0)

    @given(st.lists(LATER, min_size=1, max_size=5))
    def test_packets_before_a_bad_byte_are_given(self, packets: list[Packet]) -> None:
        decoder = PacketDecoder(1 << 20)
        decoder.connected(1 << 20, 4)
        decoder.feed(b"".join(map(encode, packets)) + b"\xf0\x00")
        for packet in packets:
            self.assertEqual(decoder.next_packet(), packet)
        with self.assertRaises(MalformedPacket):
            decoder.next_packet()

    def test_a_large_packet_byte_by_byte_costs_linear_time_and_space(self) -> None:
        """row 5"""
        data = encode(Publish("t", b"x" * 200_000))
        decoder = PacketDecoder(1 << 20)
        decoder.connected(1 << 20, 4)
        for index in range(len(data)):
            decoder.feed(data[index : index + 1])
            packet = decoder.next_packet()
            self.assertEqual(decoder.pending, 0 if packet else index + 1)
        self.assertEqual(packet, Publish("t", b"x" * 200_000))


class Refusing(SynchronousTestCase):
    @given(st.binary(max_size=200), st.booleans())
    def test_nothing_but_our_own_errors_escapes(self, data: bytes, connected: bool) -> None:
        decoder = PacketDecoder(1 << 16)
        if connected:
            decoder.connected(1 << 16, 4)
        decoder.feed(data)
        try:
            drain(decoder)
        except MQTTError as error:
            self.assertTrue(error.reason)
            self.assertLess(len(str(error)), 500)

    @given(LATER, st.data())
    def test_nothing_but_our_own_errors_escapes_a_mutated_packet(
        self, packet: Packet, data: st.DataObject
    ) -> None:
        encoded = bytearray(encode(packet))
        for _ in range(data.draw(st.integers(1, 4))):
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
        decoder = PacketDecoder(1 << 16)
        decoder.connected(1 << 16, 4)
        decoder.feed(bytes(encoded))
        try:
            drain(decoder)
        except MQTTError as error:
            self.assertTrue(error.statement)

    def test_the_first_byte_decides_before_connect(self) -> None:
        """rows 3 and 12 [MQTT-3.1.0-1]"""
        for first in range(256):
            decoder = PacketDecoder(1 << 16)
            decoder.feed(bytes((first,)))
            if first == 0x10:
                self.assertIsNone(decoder.next_packet())
            else:
                wrong_flags = first >> 4 == 1
                self.assertRaises(MalformedPacket if wrong_flags else ProtocolViolation, decoder.next_packet)

    def test_the_size_is_refused_on_the_header(self) -> None:
        """rows 3 and 4"""
        decoder = PacketDecoder(1000)
        decoder.feed(bytes.fromhex("10e907"))
        error = self.assertRaises(MalformedPacket, decoder.next_packet)
        self.assertIn("1001", str(error))
        decoder = PacketDecoder(1000)
        decoder.connected(2000, 4)
        decoder.feed(bytes.fromhex("30e907"))
        self.assertIsNone(decoder.next_packet())

    def test_an_announced_size_costs_no_memory(self) -> None:
        """row 3"""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        decoders = [PacketDecoder(268_435_455) for _ in range(100)]
        for decoder in decoders:
            decoder.connected(268_435_455, 4)
            decoder.feed(bytes.fromhex("30ffffff7f00"))
            self.assertIsNone(decoder.next_packet())
        self.assertLess(tracemalloc.get_traced_memory()[0], 200_000)

    def test_one_byte_of_the_next_packet_does_not_keep_those_before_it(self) -> None:
        decoder = PacketDecoder(1 << 20)
        decoder.connected(1 << 20, 4)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        decoder.feed(encode(Publish("t", b"x" * 500_000)) + b"\x30")
        self.assertEqual(len(drain(decoder)), 1)
        self.assertEqual((decoder.pending, decoder.has_more), (1, False))
        self.assertLess(tracemalloc.get_traced_memory()[0], 100_000)
        decoder.feed(b"\x03\0\x01t")
        self.assertEqual(drain(decoder), [Publish("t", b"")])

    def test_refusals_carry_their_return_code(self) -> None:
        for data, code in (
            (b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x01a", 1),
            (b"\x00\x04MQTT\x04\x00\x00\x00\x00\x00", 2),
        ):
            decoder = PacketDecoder(1000)
            decoder.feed(b"\x10" + bytes((len(data),)) + data)
            error = self.assertRaises(ConnectRefused, decoder.next_packet)
            self.assertEqual(error.return_code, code)

    def test_dup_at_qos_0_can_be_allowed(self) -> None:
        """row 40"""
        decoder = PacketDecoder(1000, strict_dup=False)
        decoder.connected(1000, 4)
        decoder.feed(b"\x38\x03\x00\x01t\xc0\x00")
        self.assertEqual(drain(decoder), [Publish("t", b"", 0, False, True), Pingreq()])

    def test_the_levels_of_a_topic_can_be_limited(self) -> None:
        """row 34"""
        decoder = PacketDecoder(1000, max_topic_levels=2)
        decoder.connected(1000, 4)
        decoder.feed(encode(Publish("a/b/c", b"")))
        self.assertEqual(decoder.next_packet(), Publish("a/b/c", b""))
        decoder.feed(encode(Publish("a/b/c/d", b"")))
        self.assertRaises(MalformedPacket, decoder.next_packet)


class Reads(SynchronousTestCase):
    """Many packets of one read."""

    def setUp(self) -> None:
        self.decoder = PacketDecoder(1 << 20)
        self.decoder.connected(1 << 20, 4)

    def test_what_is_not_taken_comes_first_the_next_time(self) -> None:
        sent = [Publish("t", b"%d" % number) for number in range(5)]
        self.decoder.feed(b"".join(map(encode, sent)))
        taken = self.decoder.take(4)
        self.decoder.give_back(taken[2:])
        self.assertTrue(self.decoder.has_more)
        self.assertEqual(taken[:2] + self.decoder.take(1) + self.decoder.take(4), sent[:4])
        self.assertTrue(self.decoder.has_more)
        self.assertEqual((drain(self.decoder), self.decoder.has_more), (sent[4:], False))

    @given(st.lists(st.tuples(LATER, st.integers(1, 5)), max_size=8), st.data())
    def test_packets_of_a_kind_come_together_however_many_are_taken(
        self, several: list[tuple[Packet, int]], data: st.DataObject
    ) -> None:
        sent = [packet for packet, count in several for _ in range(count)]
        stream, decoder = b"".join(map(encode, sent)), PacketDecoder(1 << 20)
        decoder.connected(1 << 20, 4)
        cut = data.draw(st.integers(0, len(stream)))
        packets: list[Packet] = []
        for part in (stream[:cut], stream[cut:]):
            decoder.feed(part)
            most, take = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
            while run := decoder.take(most):
                self.assertLessEqual(len(run), most)
                self.assertEqual(len(set(map(kind, run))), 1)
                packets += run[:take]
                if rest := run[take:]:
                    decoder.give_back(rest)
        self.assertEqual((packets, decoder.pending), (sent, 0))

    def test_an_error_comes_after_the_packets_before_it_and_again(self) -> None:
        sent = [Publish("t", b"1", 1, packet_id=1), Publish("t", b"2", 1, packet_id=2)]
        self.decoder.feed(
            b"".join(map(encode, sent)) + b"\x32\x05\0\x01t\0\0"
        )  # like them, but for its number
        self.assertEqual(self.decoder.take(9), sent)
        self.assertTrue(self.decoder.has_more)
        for _ in range(2):
            self.assertRaises(MalformedPacket, self.decoder.take, 9)

    def test_a_publish_that_begins_like_the_last_is_decoded_like_any_other(self) -> None:
        for qos in (0, 1, 2):
            number = 7 if qos else None
            sent = [
                Publish("t", b"1", qos, packet_id=number),
                Publish("t", b"2", qos, True, packet_id=number),
            ]
            sent += [sent[0], sent[1], sent[1], Publish("u", b"3", qos, packet_id=number), sent[0], sent[0]]
            stream = b"".join(map(encode, sent))
            self.decoder.feed(stream)
            self.assertEqual(self.decoder.take(99), sent)
            self.assertFalse(self.decoder.has_more)
            for cut in range(len(stream)):
                self.decoder.feed(stream[:cut])
                packets = drain(self.decoder)
                self.decoder.feed(stream[cut:])
                self.assertEqual(packets + drain(self.decoder), sent)


class Clearing(SynchronousTestCase):
    def test_what_was_cleared_is_not_read(self) -> None:
        decoder = PacketDecoder(1 << 20)
        decoder.feed(encode(Connect("c")) + encode(Pingreq()) * 3)
        self.assertEqual(decoder.next_packet(), Connect("c"))
        decoder.connected(1 << 20, 4)
        decoder.clear()
        self.assertEqual((decoder.next_packet(), decoder.pending), (None, 0))
