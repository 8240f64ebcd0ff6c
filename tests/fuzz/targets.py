"""What is fuzzed: each target takes bytes, and raises nothing when all is well."""

from typing import Final

from platziverse.agents.careful import read_carefully
from platziverse.agents.model import InvalidReport
from platziverse.agents.payload import parse
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.door.frames import FrameReader
from platziverse.mqtt.codec import encode
from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import MQTTError
from platziverse.mqtt.packets import Connack, Connect, Disconnect, Properties, Publish
from platziverse.mqtt.topics import check_topic_filter, check_topic_name, matches
from platziverse.testing import BrokerHarness

LIMIT: Final = 1 << 16
#: Of a client that begins a Session.
FIRST: Final = Connect("fuzz", protocol_level=5, properties=Properties(session_expiry_interval=60))


def decoder(data: bytes) -> None:
    """Decode; what is decoded must be encoded and decoded to the same again."""
    one, level = PacketDecoder(LIMIT), 4
    if data and data[0] & 0xF0 != 0x10:
        one.connected(LIMIT, 4)
    one.feed(data)
    try:
        while (packet := one.next_packet()) is not None:
            two = PacketDecoder(LIMIT << 1)
            if type(packet) is not Connect:
                two.connected(LIMIT << 1, level)
            elif packet.protocol_level == 5:
                level = 5
            two.feed((encode5 if level == 5 else encode)(packet))
            assert two.next_packet() == packet
            one.connected(LIMIT, level)
    except MQTTError:
        return


def split_decoder(data: bytes) -> None:
    """Neither the place of a split nor how many packets are decoded together makes a difference.

    Nor does how many of them are given back.
    """
    at = data[0] % len(data) if data else 0
    halves, outcomes = (data[:at], data[at:]), []
    for most, keep, chunks in (
        (1, 1, (data,)),
        (100, 100, (data, b"")),
        (100, 100, halves),
        (100, 2, halves),
    ):
        one = PacketDecoder(LIMIT)
        one.connected(LIMIT, 4)
        packets: list[object] = []
        try:
            for chunk in chunks:
                one.feed(chunk)
                while run := one.take(most):
                    packets += run[:keep]
                    if rest := run[keep:]:
                        one.give_back(rest)
        except MQTTError as error:
            packets.append(str(error))
        outcomes.append(packets)
    assert outcomes[0] == outcomes[1] == outcomes[2] == outcomes[3]


def decoder5(data: bytes) -> None:
    """The same for MQTT 5, for any packet at any time, whole and in two pieces."""
    at = data[0] % len(data) if data else 0
    outcomes = []
    for chunks in ((data,), (data[:at], data[at:])):
        one = PacketDecoder(LIMIT)
        one.connected(LIMIT, 5)
        packets: list[object] = []
        try:
            for chunk in chunks:
                one.feed(chunk)
                while run := one.take(100):
                    packets += run
                    two = PacketDecoder(LIMIT << 1)
                    two.connected(LIMIT << 1, 5)
                    two.feed(b"".join(map(encode5, run)))
                    assert two.take(100) == run
        except MQTTError as error:
            packets.append(str(error))
        outcomes.append(packets)
    assert outcomes[0] == outcomes[1]


def connection5(data: bytes) -> None:
    """A broker with a client of MQTT 5 that sends anything: no bug, no byte after the end, and nothing stays.

    What it answers can be decoded, so that each code and Property of ours is one that its packet may have.
    """
    harness = BrokerHarness()
    client = harness.open(5)
    if not data or data[0] & 0xF0 != 0x10:
        client.send(FIRST)
    at = data[-1] % len(data) if data else 0
    for chunk in (data[:at], data[at:]):
        if not client.closed:
            client.send_bytes(chunk)
        harness.turn()
    answers, packets = client.received_bytes(), list[object]()
    if answers[:2] != b"\x20\2":  # a CONNACK of MQTT 3.1.1
        decode = PacketDecoder(LIMIT)
        decode.connected(LIMIT, 5)
        decode.feed(answers)
        while run := decode.take(100):
            packets += run
        assert not decode.pending
    kinds = [type(one) for one in packets]
    assert Connack not in kinds[1:], kinds
    assert Disconnect not in kinds[:-1], kinds
    client.lose()
    assert not harness.broker.connected
    assert not harness.broker.traffic.internal_errors


def topics(data: bytes) -> None:
    """Any two texts as Topic Filter and Topic Name: the tree says what the definition says."""
    half = len(data) // 2
    topic_filter, topic = data[:half].decode(errors="replace"), data[half:].decode(errors="replace")
    try:
        check_topic_filter(topic_filter)
        check_topic_name(topic)
    except MQTTError:
        return
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.add(topic_filter, 1, 0)
    assert bool(tree.match(topic)) == matches(topic_filter, topic), (topic_filter, topic)


def payload(data: bytes) -> None:
    """An ``agent/message`` is a Report or an InvalidReport, and both readers say the same."""
    message = Publish("agent/message", data)
    try:
        report = parse(message, "client", 1_511_128_000.0)
    except InvalidReport:
        return
    agent, metrics, _, problems = read_carefully(data, 1000)
    assert (report.agent, report.metrics, bool(report.rejections)) == (agent, metrics, bool(problems))


def frames(data: bytes) -> None:
    """WebSocket frames: the place of a split makes no difference either, and no end comes twice."""
    at = data[-1] % len(data) if data else 0
    outcomes = []
    for chunks in ((data,), (data[:at], data[at:])):
        reader = FrameReader(LIMIT, lambda: 0.0)
        stream = b"".join(reader.feed(chunk) for chunk in chunks if reader.ended is None)
        outcomes.append((stream, reader.answers, reader.ended))
        assert reader.ended is None or reader.ended.code is None or reader.close(reader.ended.code)
    assert outcomes[0] == outcomes[1]


TARGETS: Final = (decoder, split_decoder, decoder5, connection5, topics, payload, frames)
