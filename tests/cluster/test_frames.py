"""What daemons say to each other: everything comes back as it was, and nothing else is taken."""

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from platziverse.cluster.codec import VERSION, decode, encode
from platziverse.cluster.frames import (
    Aborted,
    Align,
    Aligned,
    Changes,
    Closed,
    Done,
    Followed,
    Frame,
    Free,
    Kept,
    LetGo,
    Mark,
    Marked,
    Message,
    Mine,
    Moved,
    NotYours,
    Owed,
    Ready,
    Refused,
    Said,
    Several,
    Since,
    Snapshot,
    Stored,
    Unsure,
    Wanted,
)
from platziverse.mqtt.properties import store_properties
from tests.mqtt.strategies5 import properties

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.none() | TEXTS
NUMBERS = st.integers(0, 2**64 - 1)
TIMES = st.floats(0, allow_nan=False, allow_infinity=False)
LEVELS = st.text("abc/ä$", min_size=1, max_size=8)
KEYS = LEVELS | LEVELS.map(lambda levels: f"{levels}/#") | st.just("#")
VERSIONS = st.integers(1, 2**64 - 1)
QOS = st.integers(0, 2)


#: Of MQTT 5.
PROPERTIES = properties("PUBLISH").map(store_properties)


def messages(versions: st.SearchStrategy[int]) -> st.SearchStrategy[Message]:
    payloads = st.binary(max_size=40)
    return st.builds(
        Message, LEVELS, payloads, QOS, versions, TEXTS, NAMES, st.booleans(), PROPERTIES, NUMBERS
    )


def interests(least: int) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    return st.lists(st.tuples(KEYS, st.integers(least, 3)), max_size=5).map(tuple)


def without_payload(message: Message) -> Message:
    return replace(message, payload=b"")


FRAMES: st.SearchStrategy[Frame] = st.one_of(
    messages(st.just(0) | VERSIONS),
    st.builds(
        Several,
        messages(st.just(0)).map(without_payload),
        st.lists(st.binary(max_size=9), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Changes, NUMBERS, interests(0)),
    st.builds(Snapshot, NUMBERS, st.booleans(), st.booleans(), interests(1)),
    st.just(Wanted()),
    st.builds(Ready, NUMBERS),
    st.builds(Kept, messages(VERSIONS)),
    st.builds(Since, NUMBERS, NUMBERS),
    st.builds(Said, NUMBERS),
    st.builds(Mine, TEXTS, NAMES, TIMES, st.booleans(), st.booleans()),
    st.builds(NotYours, TEXTS, TEXTS, TIMES),
    st.builds(Owed, NUMBERS, LEVELS, st.binary(max_size=40), st.integers(1, 2), NUMBERS, PROPERTIES),
    st.builds(Done, NUMBERS),
    st.builds(Align, NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=4).map(tuple)),
    st.builds(Aligned, NUMBERS, NUMBERS),
    st.builds(Stored, NUMBERS),
    st.just(Unsure()),
    st.builds(Mark, NUMBERS, st.lists(NUMBERS, max_size=3).map(tuple)),
    st.builds(Marked, NUMBERS, NUMBERS, NUMBERS),
    st.builds(LetGo, NUMBERS, TEXTS, NAMES, TIMES),
    *(st.builds(frame, NUMBERS) for frame in (Closed, Followed, Moved, Aborted)),
    st.builds(
        Free,
        NUMBERS,
        st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3).map(tuple),
        st.lists(NUMBERS, max_size=3).map(tuple),
    ),
    st.builds(Refused, NUMBERS, st.integers(0, 2), TEXTS),
)

MESSAGE = Message("a/b", b"payload", 1, 0, "client", "ana", False)


class FrameTests(SynchronousTestCase):
    @given(FRAMES, st.integers(0, 2**32 - 1))
    @example(Message("a", b"x", 1, 7, "bridge", "ana", True), 1)
    def test_every_frame_comes_back_as_it_was(self, frame: Frame, incarnation: int) -> None:
        self.assertEqual(decode(encode(frame, incarnation)), (incarnation, frame))

    @given(st.binary(max_size=60))
    @example(b"")
    def test_any_bytes_are_a_frame_or_a_value_error(self, data: bytes) -> None:
        """Row 386: garbage on the channel of the daemons."""
        for frame in (data, bytes([VERSION]) + data):
            self.check_taken_or_refused(frame)

    @given(FRAMES, st.data())
    def test_a_frame_with_a_wrong_byte_is_a_frame_or_a_value_error(
        self, frame: Frame, data: st.DataObject
    ) -> None:
        """Row 387: a frame that was damaged on its way."""
        good = encode(frame, 1)
        at = data.draw(st.integers(0, len(good) - 1))
        self.check_taken_or_refused(good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :])
        self.check_taken_or_refused(good[:at])

    def test_so_is_one_that_is_cut_anywhere(self) -> None:
        for frame in (MESSAGE, NotYours("client", "ana", 1.0), Owed(1, "a", b"payload", 1, 0, b"\2\1\1")):
            good = encode(frame, 1)
            for end in range(len(good)):
                self.check_taken_or_refused(good[:end])

    def check_taken_or_refused(self, data: bytes) -> None:
        """The decoder takes only what the encoder would have made."""
        try:
            incarnation, frame = decode(data)
        except ValueError as error:
            self.assertNotIn("\n", str(error))
            return
        self.assertEqual(encode(frame, incarnation), data)

    def refused(self, data: bytes) -> str:
        with self.assertRaises(ValueError) as caught:
            decode(data)
        return str(caught.exception)

    def test_another_version_is_named(self) -> None:
        """Row 388: a daemon of another version shares the channel."""
        data = encode(MESSAGE, 1)
        self.assertEqual(self.refused(b"\x09" + data[1:]), "version 9, and 1 is known here")
        self.assertEqual(self.refused(data[:1] + b"\x63" + data[2:]), "kind 99 is not known")

    def test_what_no_daemon_says_is_refused(self) -> None:
        cases = {
            "a QoS of 3": encode(Message("a", b"", 3), 1),
            "a wildcard in Topic Name 'a/#' [MQTT-3.3.2-2]": encode(Message("a/#", b"", 0), 1),
            "a Retained Message without a version": encode(Kept(Message("a", b"", 0)), 1),
            "'a/+' is no key": encode(Changes(1, (("a/+", 1),)), 1),
            "'a#' is no key": encode(Changes(1, (("a#", 1),)), 1),
            "a key that nobody listens to": encode(Snapshot(1, True, True, (("a", 0),)), 1),
            "a byte of 0x04, at most 0x03 is defined": encode(Changes(1, (("a", 4),)), 1),
            "Retained Messages come one by one": encode(Several(Message("a", b"", 0, 1), (b"x",)), 1),
            "a message at QoS 0 that is owed": encode(Owed(1, "a", b"", 0), 1),
            "Properties that are none": encode(Message("a", b"", 0, properties=b"\0"), 1),
            "property 0x7e in STORED [2.2.2.2]": encode(Owed(1, "a", b"", 1, 0, b"\1\x7e"), 1),
            "a time that is none": encode(Mine("a", None, float("nan")), 1),
            "1 bytes too many": encode(Wanted(), 1) + b"\0",
            "it is too short": encode(Ready(1), 1)[:-1],
        }
        for reason, data in cases.items():
            self.assertEqual(self.refused(data), reason)
        nothing = encode(Several(Message("a", b"", 0), ()), 1)
        self.assertEqual(self.refused(nothing), "it is too short")
        cut = encode(Several(Message("a", b"", 0), (b"abc",)), 1)[:-1]
        self.assertEqual(self.refused(cut), "it is too short")
        self.assertEqual(self.refused(nothing[:-1] + b"\x01"), "it is too short")
        self.assertEqual(self.refused(encode(Free(1, ((1, 2),), ()), 1)[:-16]), "it is too short")
        self.assertEqual(self.refused(encode(Free(1, (), ()), 1)[:-1] + b"\xff"), "it is too short")

    def test_a_message_is_behind_some_position_or_says_none(self) -> None:
        data = encode(Message("a", b"", 1, after=2**63), 1)
        self.assertEqual(
            self.refused(data.replace((2**63).to_bytes(8, "big"), bytes(8))), "a message behind nothing"
        )

    def test_a_retained_message_needs_a_version(self) -> None:
        data = encode(Message("a", b"", 0, 2**63), 1)
        self.assertEqual(
            self.refused(data.replace((2**63).to_bytes(8, "big"), bytes(8))),
            "a Retained Message without a version",
        )
        self.assertTrue(Message("a", b"", 0, 7).retain)
        self.assertFalse(MESSAGE.retain)
