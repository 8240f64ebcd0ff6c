"""Frames of a client become a byte stream; what breaks RFC 6455 ends it."""

import os
import struct
from itertools import cycle, pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping

from platziverse.door.frames import SHORT, FrameReader, binary_message
from tests.memory import bytes_kept

LIMIT = 100_000
BINARY, TEXT, CONTINUATION, CLOSE, PING, PONG = 0x2, 0x1, 0x0, 0x8, 0x9, 0xA


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, mask: "bytes | None" = b"\x01\x02\x03\x04"
) -> bytes:
    """One frame of a client; ``mask`` ``None`` leaves it unmasked."""
    size = len(payload)
    flag = 0x80 if mask else 0
    if size < 126:
        head = bytes((fin << 7 | opcode, flag | size))
    elif size < 65536:
        head = struct.pack("!BBH", fin << 7 | opcode, flag | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | opcode, flag | 127, size)
    return head + (mask + bytes(byte ^ key for byte, key in zip(payload, cycle(mask))) if mask else payload)


class Reading:
    """What a reader makes of some chunks."""

    def __init__(self, *chunks: bytes, limit: int = LIMIT) -> None:
        self.now = 0.0
        self.reader = FrameReader(limit, lambda: self.now)
        self.stream = b""
        self.feed(*chunks)

    def feed(self, *chunks: bytes) -> None:
        for chunk in chunks:
            if self.reader.ended is None:
                self.stream += self.reader.feed(chunk)

    @property
    def code(self) -> "int | None":
        return self.reader.ended.code if self.reader.ended else None


class TestStream(SynchronousTestCase):
    def test_row_64_an_empty_frame_has_no_effect(self) -> None:
        for empty in (frame(BINARY), frame(BINARY, fin=False) + frame(CONTINUATION)):
            reading = Reading(frame(BINARY, b"a") + empty + frame(BINARY, b"b"))
            self.assertEqual((reading.stream, reading.reader.ended), (b"ab", None))

    def test_row_65_frame_borders_mean_nothing(self) -> None:
        """[MQTT-6.0.0-2]"""
        packet = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
        for frames in (
            frame(BINARY, packet),
            b"".join(frame(BINARY, packet[i : i + 1]) for i in range(len(packet))),
            frame(BINARY, packet[:1]) + frame(BINARY, packet[1:]),
            frame(BINARY, packet[:5], fin=False) + frame(CONTINUATION, packet[5:]),
        ):
            self.assertEqual(Reading(frames).stream, packet)
        self.assertEqual(Reading(frame(BINARY, packet * 3)).stream, packet * 3)

    def test_every_size_around_the_borders_of_the_length_field(self) -> None:
        for size in (1, 2, 125, 126, 127, SHORT - 1, SHORT, SHORT + 1, 65535, 65536, LIMIT):
            payload = os.urandom(size)
            self.assertEqual(Reading(frame(BINARY, payload)).stream, payload, size)

    def test_every_byte_of_the_mask_is_used(self) -> None:
        for size in range(1, 12):
            payload, mask = os.urandom(size), os.urandom(4)
            self.assertEqual(Reading(frame(BINARY, payload, mask=mask)).stream, payload)

    def test_a_long_frame_is_passed_on_as_it_comes(self) -> None:
        payload = os.urandom(60_000)
        data = frame(BINARY, payload)
        reading = Reading(data[:30_000])
        self.assertGreater(len(reading.stream), 29_000)
        reading.feed(data[30_000:])
        self.assertEqual(reading.stream, payload)

    def test_a_ping_is_answered_between_two_halves_of_a_message(self) -> None:
        reading = Reading(
            frame(BINARY, b"a", fin=False)
            + frame(PING, b"hello")
            + frame(PONG, b"x")
            + frame(CONTINUATION, b"b")
        )
        self.assertEqual(reading.stream, b"ab")
        self.assertEqual(reading.reader.answers, b"\x8a\x05hello")

    def test_a_close_is_answered(self) -> None:
        reading = Reading(frame(BINARY, b"a") + frame(CLOSE, b"\x03\xe8bye") + frame(BINARY, b"late"))
        self.assertEqual((reading.stream, reading.code), (b"a", None))
        self.assertIsNotNone(reading.reader.ended)
        self.assertEqual(reading.reader.answers[:4], b"\x88\x05\x03\xe8")
        self.assertEqual(reading.reader.close(1000), b"")

    def test_messages_to_the_client_are_whole_binary_and_unmasked(self) -> None:
        for size in (0, 1, 125, 126, 65535, 65536):
            payload = os.urandom(size)
            client = Connection(CLIENT)
            client.receive_data(binary_message(payload))
            events = list(client.events())
            self.assertTrue(all(isinstance(event, BytesMessage) for event in events))
            self.assertEqual(b"".join(event.data for event in events), payload)  # type: ignore[attr-defined]


class TestRefusals(SynchronousTestCase):
    def refused(self, code: int, *chunks: bytes, limit: int = LIMIT) -> None:
        for data in (chunks, tuple(bytes([byte]) for chunk in chunks for byte in chunk)):
            self.assertEqual(Reading(*data, limit=limit).code, code)

    def test_row_66_text_is_refused_with_1003(self) -> None:
        """[MQTT-6.0.0-1]"""
        self.refused(1003, frame(TEXT, b"hello"))
        self.refused(1003, frame(TEXT, b"\xff", fin=False))
        self.refused(1003, frame(TEXT))

    def test_row_68_unmasked(self) -> None:
        for size in (1, 200, 70_000):
            self.refused(1002, frame(BINARY, b"a" * size, mask=None)[:20])

    def test_row_68_reserved_bits_and_opcodes(self) -> None:
        for bit in (0x40, 0x20, 0x10):
            self.refused(1002, bytes([frame(BINARY, b"a")[0] | bit]) + frame(BINARY, b"a")[1:])
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            self.refused(1002, frame(opcode, b"a"))

    def test_row_68_impossible_lengths(self) -> None:
        self.refused(1009, b"\x82\xff" + struct.pack("!Q", 1 << 63) + b"mask")
        self.refused(1009, b"\x82\xff" + struct.pack("!Q", 1 << 40) + b"mask")
        self.refused(1002, b"\x82\xfe\x00\x05maskhello")
        self.refused(1002, b"\x82\xff" + struct.pack("!Q", 5) + b"maskhello")
        self.refused(1002, b"\x89\xff" + struct.pack("!Q", 1 << 63) + b"mask")

    def test_row_68_control_frames_are_small_and_whole(self) -> None:
        for opcode in (CLOSE, PING, PONG):
            self.refused(1002, frame(opcode, b"a" * 126))
            self.refused(1002, frame(opcode, b"ab", fin=False))

    def test_row_68_fragments_out_of_order(self) -> None:
        self.refused(1002, frame(CONTINUATION, b"a"))
        self.refused(1002, frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"))

    def test_row_68_malformed_close(self) -> None:
        for payload in (b"\x03", b"\x00\x00", b"\x03\xed", b"\x03\xee", b"\xff\xff"):
            self.refused(1002, frame(CLOSE, payload))
        self.refused(1007, frame(CLOSE, b"\x03\xe8\xff"))

    def test_row_68_a_ping_flood_is_refused_with_1008(self) -> None:
        self.refused(1008, frame(PING, b"x") * 101)
        self.refused(1008, frame(PONG) * 101)
        self.refused(1008, frame(BINARY) * 101)
        self.refused(1008, frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 100)

    def test_row_68_pings_at_a_steady_pace_are_welcome(self) -> None:
        reading = Reading()
        for _ in range(1_000):
            reading.now += 0.25
            reading.feed(frame(PING))
        self.assertIsNone(reading.reader.ended)

    def test_row_68_a_message_may_not_grow_for_ever(self) -> None:
        self.refused(
            1009, frame(BINARY, b"a" * 51, fin=False), frame(CONTINUATION, b"a" * 50, fin=False), limit=100
        )
        self.refused(1009, frame(BINARY, b"a" * 101), limit=100)
        whole = frame(BINARY, b"a" * 50, fin=False) + frame(CONTINUATION, b"a" * 50)
        self.assertIsNone(Reading(whole * 20, limit=100).reader.ended)

    def test_row_69_compressed_frames_are_refused(self) -> None:
        self.refused(1002, b"\xc2\x8bmask" + b"a" * 11)

    def test_what_precedes_the_fault_is_still_delivered(self) -> None:
        reading = Reading(frame(BINARY, b"good") + frame(TEXT, b"bad"))
        self.assertEqual(reading.stream, b"good")

    def test_nothing_is_held_back_but_a_header_or_a_short_frame(self) -> None:
        empty = bytes_kept(Reading().reader)
        reading = Reading(b"\x82\xfe\x0f\xffmask", *(b"a" for _ in range(4_000)))
        self.assertLess(bytes_kept(reading.reader), empty + SHORT + 100)
        reading = Reading(
            b"\x82\xff" + struct.pack("!Q", LIMIT) + b"mask", *(b"a" * 90 for _ in range(1_000))
        )
        self.assertLess(bytes_kept(reading.reader), empty + SHORT)


frames = st.one_of(
    st.tuples(st.just("whole"), st.binary(max_size=300)),
    st.tuples(st.just("long"), st.binary(min_size=1, max_size=20).map(lambda data: data * 300)),
    st.tuples(st.just("parts"), st.binary(max_size=60)),
    st.tuples(st.just("ping"), st.binary(max_size=125)),
)


def encode(kind: str, payload: bytes) -> bytes:
    if kind == "ping":
        return frame(PING, payload)
    if kind == "parts":
        third = len(payload) // 3
        return (
            frame(BINARY, payload[:third], fin=False)
            + frame(PING)
            + frame(CONTINUATION, payload[third : 2 * third], fin=False)
            + frame(CONTINUATION, payload[2 * third :])
        )
    return frame(BINARY, payload)


def cut(data: bytes, places: "list[int]") -> "list[bytes]":
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def judge(data: bytes) -> "tuple[bytes, int | None, bool]":
    """What wsproto alone makes of ``data``: stream, code of its refusal, whether it has ended."""
    connection = Connection(SERVER)
    connection.receive_data(data)
    stream = b""
    for event in connection.events():
        if isinstance(event, BytesMessage):
            stream += event.data
        elif isinstance(event, Ping):
            connection.send(event.response())
        elif isinstance(event, CloseConnection):
            answered = connection.state is ConnectionState.REMOTE_CLOSING
            return stream, None if answered else int(event.code), True
    return stream, None, False


class TestProperties(SynchronousTestCase):
    @given(st.lists(frames, max_size=12), st.lists(st.integers(0, 1 << 20), max_size=20))
    @settings(max_examples=150, deadline=None)
    def test_any_split_gives_the_same_stream(
        self, parts: "list[tuple[str, bytes]]", places: "list[int]"
    ) -> None:
        data = b"".join(encode(*part) for part in parts)
        expected = b"".join(payload for kind, payload in parts if kind != "ping")
        reading = Reading(*cut(data, places))
        self.assertEqual((reading.stream, reading.reader.ended), (expected, None))

    @given(
        st.lists(frames, min_size=1, max_size=5),
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4),
        st.lists(st.integers(0, 1 << 20), max_size=8),
    )
    @example([("ping", b"")], [(1, 127)], [])
    @example([("ping", b"")], [(0, 0xB2), (1, 126)], [])
    @settings(max_examples=400, deadline=None)
    def test_damaged_frames_are_judged_as_wsproto_judges_them(
        self,
        parts: "list[tuple[str, bytes]]",
        damage: "list[tuple[int, int]]",
        places: "list[int]",
    ) -> None:
        data = bytearray(b"".join(encode(*part) for part in parts))
        for place, value in damage:
            data[place % len(data)] = value
        reading = Reading(*cut(bytes(data), places), limit=1 << 62)
        stream, code, ended = judge(bytes(data))
        if ended and reading.reader.ended is None:
            reading.feed(bytes(14))  # we judge a header when all of it has come
        if reading.code in (1003, 1009):  # ours alone: text, and more than any limit
            self.assertTrue(stream.startswith(reading.stream))
            return
        self.assertEqual((reading.code, reading.reader.ended is not None), (code, ended))
        if not ended:
            self.assertTrue(stream.startswith(reading.stream))
            self.assertLess(len(stream) - len(reading.stream), SHORT + 1)
        else:
            self.assertEqual(reading.stream, stream)
