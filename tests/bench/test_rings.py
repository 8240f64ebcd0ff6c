"""What the load generator sends is what our codec would send."""

import time
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench import wire5
from bench.rings import LENGTH, Ring, Unframer, frame, new_topics, reports, retained, same_topic
from platziverse.agents.payload import parse
from platziverse.door.frames import FrameReader, binary_message
from platziverse.mqtt.codec import encode
from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.packets import Connect, Properties, Publish, PublishProperties, Subscribe, Subscription
from tests.crash import wire

MASK = b"\x37\xfa\x21\x3d"


def packets(data: bytes) -> list[Publish]:
    """What our decoder makes of the stream of a connected client."""
    decoder = PacketDecoder(2**20)
    decoder.connected(2**20, protocol_level=4)
    decoder.feed(data)
    found = list(iter(decoder.next_packet, None))
    assert all(isinstance(packet, Publish) for packet in found)
    return cast("list[Publish]", found)


def whole_round(ring: Ring) -> bytes:
    return bytes(ring.take(LENGTH))


class FiveTests(SynchronousTestCase):
    """What is written for MQTT 5 is what our codec writes."""

    def test_connect_subscribe_and_publish(self) -> None:
        properties = PublishProperties(content_type="t", user_properties=(("a", "b"),))
        found = b"\x03\0\1t\x26\0\1a\0\1b"
        for sent, expected in (
            (wire5.connect("name", True, 60), Connect("name", keep_alive=60, protocol_level=5)),
            (wire5.subscribe("a/+", 1, 7), Subscribe(7, [Subscription("a/+", 1)])),
            (
                wire5.connect("name", True, 60, b"\x22\0\x10"),
                Connect(
                    "name", keep_alive=60, protocol_level=5, properties=Properties(topic_alias_maximum=16)
                ),
            ),
            (
                wire5.subscribe("a/+", 1, 7, b"\x0b\x01"),
                Subscribe(7, [Subscription("a/+", 1)], Properties(subscription_identifier=1)),
            ),
            (bytes(same_topic("t", 4, 0, properties=b"").take(1)), Publish("t", b"xxxx")),
            (
                bytes(same_topic("t", 4, 1, properties=found).take(1)),
                Publish("t", b"xxxx", 1, packet_id=1, properties=properties),
            ),
        ):
            self.assertEqual(sent, encode5(expected))


class PacketTests(SynchronousTestCase):
    def test_each_qos_is_encoded_as_our_codec_does(self) -> None:
        for qos in (0, 1, 2):
            found = whole_round(same_topic("bench/000", 64, qos))
            expected = b"".join(
                encode(Publish("bench/000", b"x" * 64, qos, packet_id=number if qos else None))
                for number in range(1, LENGTH + 1)
            )
            self.assertEqual(found, expected)

    def test_connect_and_subscribe_are_encoded_as_our_codec_does(self) -> None:
        self.assertEqual(wire.connect("a", True, 60), encode(Connect("a", clean_session=True, keep_alive=60)))
        subscribe = Subscribe(7, [Subscription("bench/+", 1)])
        self.assertEqual(wire.subscribe("bench/+", 1, 7), encode(subscribe))

    def test_a_retained_message_differs_in_the_flag_alone(self) -> None:
        packet = encode(Publish("kept/1", b"x", 0))
        self.assertEqual(retained(packet), encode(Publish("kept/1", b"x", 0, retain=True)))

    def test_a_frame_is_unmasked_to_its_packet(self) -> None:
        plain, framed = same_topic("bench/000", 64, 0), same_topic("bench/000", 64, 0, MASK)
        received = FrameReader(2**20, time.monotonic).feed(whole_round(framed))
        self.assertEqual(received, whole_round(plain))
        self.assertRaises(ValueError, frame, b"x" * 126, MASK)


class RingTests(SynchronousTestCase):
    def test_a_ring_begins_again_where_it_ended(self) -> None:
        ring = Ring([b"aa", b"bb", b"cc"])
        self.assertEqual([bytes(ring.take(2)) for _ in range(4)], [b"aabb", b"cc", b"aabb", b"cc"])

    def test_the_stamp_changes_from_round_to_round(self) -> None:
        ring = Ring([b"a##-", b"b##-"], digits=2, first=8)
        self.assertEqual([bytes(ring.take(2)) for _ in range(3)], [b"a08-b08-", b"a09-b09-", b"a10-b10-"])

    def test_packets_of_different_sizes_are_refused(self) -> None:
        self.assertRaises(ValueError, Ring, [b"a", b"bb"])

    def test_no_topic_comes_twice_and_each_has_one_of_the_filters(self) -> None:
        rings = [new_topics(64, number, 10, 1000) for number in range(10)]
        topics = [packet.topic for ring in rings for _ in range(2) for packet in packets(whole_round(ring))]
        self.assertEqual(len(set(topics)), 20 * LENGTH)
        self.assertEqual(
            {topic.split("/")[1] for topic in topics}, {f"{number:04}" for number in range(1000)}
        )

    def test_no_report_comes_twice(self) -> None:
        ring, now = reports("agent", 4), time.time()
        found = [parse(packet, "client", now) for _ in range(2) for packet in packets(whole_round(ring))]
        self.assertEqual(len({report.key for report in found}), 2 * LENGTH)
        self.assertEqual({len(report.metrics) for report in found}, {4})
        self.assertEqual([report.rejections for report in found if report.rejections], [])


class UnframerTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 70_000), max_size=4), st.data())
    def test_the_payload_is_counted_however_the_stream_is_cut(
        self, sizes: list[int], data: st.DataObject
    ) -> None:
        stream = b"".join(binary_message(bytes(size)) for size in sizes) + b"\x89\x01p"
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        unframer = Unframer()
        self.assertEqual(sum(map(unframer.payload, pieces)), sum(sizes))
