"""What a message costs in bytecode instructions: the same on every machine and at any load.

Time says whether a change helps; this says that none has made a hot path longer by accident. COUNTED holds
what was counted when a path was last looked at; more than a fifth above it fails. After a change that is
worth its price, or has made a path shorter, ``python -m tests.test_cost`` prints the row of its Python.
"""

import gc
import itertools
import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, cast

from msgspec.structs import replace
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access.authority import AccessAuthority
from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.recorder import Recorder
from platziverse.broker.broker import Broker
from platziverse.broker.limits import Limits
from platziverse.broker.records import Queued
from platziverse.cluster.codec import encode as encode_frame
from platziverse.cluster.frames import Message, Several
from platziverse.door.arrivals import Arrivals
from platziverse.door.sniff import SniffingFactory
from platziverse.ingest.batch import Batch, Outcome
from platziverse.ingest.reports import KINDS
from platziverse.ingest.writer import BatchWriter
from platziverse.mqtt.codec import encode, encode_puback, encode_pubcomp, encode_pubrec, encode_pubrel
from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.packets import (
    Connect,
    Properties,
    Publish,
    PublishProperties,
    Subscribe,
    Subscription,
)
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.cluster.daemons import Daemons

#: Instructions for one message (one delivery of a fan-out, one connection), by Python version.
#: In the order of the methods of Paths.
COUNTED: Final = {
    (3, 10): (277, 56, 146, 751, 505, 444, 447, 334, 1000, 2510, 1574),
    (3, 11): (290, 58, 150, 740, 515, 458, 457, 348, 1041, 2582, 1636),
    (3, 12): (272, 54, 142, 714, 488, 432, 434, 329, 955, 2368, 1513),
    (3, 13): (275, 56, 143, 712, 482, 419, 428, 318, 946, 2338, 1539),
}
#: For clients of MQTT 5 that use a feature, in the order of the methods of Features.
FEATURED: Final = {
    (3, 10): (730, 1255, 731, 797),
    (3, 11): (753, 1266, 735, 816),
    (3, 12): (702, 1186, 695, 765),
    (3, 13): (694, 1174, 688, 749),
}
#: The same for clients of MQTT 5 without Properties, and one path of messages that have some.
COUNTED5: Final = {
    (3, 10): (334, 67, 173, 892, 590, 504, 528, 391, 1133, 3211, 1610, 871),
    (3, 11): (340, 68, 175, 893, 597, 513, 535, 398, 1167, 3276, 1684, 874),
    (3, 12): (324, 65, 167, 847, 568, 486, 510, 379, 1081, 3020, 1546, 831),
    (3, 13): (330, 69, 170, 847, 563, 474, 505, 368, 1074, 2992, 1570, 822),
}
#: And of those for clients of another daemon, at both. ADR 0223.
COUNTED_ACROSS: Final = {
    (3, 10): (81, 37, 95, 188),
    (3, 11): (84, 38, 98, 197),
    (3, 12): (80, 35, 94, 183),
    (3, 13): (77, 32, 89, 173),
}
TOLERANCE: Final = 1.2
#: Instructions of clients of MQTT 5, in place of one. In time they may take a tenth more: see bench.
DEARER: Final = 1.15

#: Messages in one read, as a busy publisher sends them; as many as may be in flight to one client.
READ: Final = 20
#: Messages in one read of a publisher with a large window, as many as are handled in a turn.
DEEP: Final = 100
RECEIVERS: Final = 100
PAYLOAD: Final = b"x" * 64


def instructions(path: Callable[[], None]) -> int:
    """How many bytecode instructions ``path`` executes, in our code and in that of libraries."""
    gc.collect()
    gc.disable()  # what other tests have left behind is finalized at no moment of ours
    try:
        return monitored(path) if sys.version_info >= (3, 12) else traced(path)
    finally:
        gc.enable()


def monitored(path: Callable[[], None]) -> int:
    count, monitoring = 0, sys.monitoring  # type: ignore[attr-defined]  # mypy looks as Python 3.10 does
    tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION

    def counts(code: object, offset: int) -> None:
        nonlocal count
        count += 1

    monitoring.use_tool_id(tool, "test_cost")
    monitoring.register_callback(tool, event, counts)
    monitoring.set_events(tool, event)
    try:
        path()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
    return count


def traced(path: Callable[[], None]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        path()
    finally:
        sys.settrace(before)
    return count


class CommitsAtOnce:
    """A ``BatchStore`` that costs nothing."""

    slots = 1

    def write(self, shard: int, batch: Batch) -> "Deferred[None]":
        batch.committed(Outcome(stored=len(batch.entries)))
        return succeed(None)


class Paths:
    """Each method prepares one hot path, and returns what is to be counted and for how many messages."""

    def __init__(self, level: int = 4) -> None:
        self.level, self.encode = level, encode5 if level == 5 else encode
        clock = Clock()
        self.sessions = MemorySessionStore()
        self.writer = BatchWriter(CommitsAtOnce(), clock, KINDS)
        recorder = Recorder(self.writer, lambda topic, payload: None, lambda: 1_700_000_000.0)
        self.broker = BrokerHarness(
            AgentHandlers(recorder).table,
            limits=Limits(max_inflight=DEEP),
            authority=AccessAuthority(clock),
            observers=[recorder],
            sessions=self.sessions,
        )
        self.clock = clock
        self.publisher = self.broker.connect("publisher", protocol_level=level)

    def read(self, topic: str, qos: int, payload: bytes = PAYLOAD, count: int = READ) -> bytes:
        numbers = range(1, count + 1) if qos else [None] * count
        return b"".join(self.encode(Publish(topic, payload, qos, packet_id=number)) for number in numbers)

    def subscriber(self, name: str, qos: int, clean: bool = True) -> FakeClient:
        kept = Properties(session_expiry_interval=3600) if self.level == 5 and not clean else None
        client = self.broker.connect(name, clean_session=clean, protocol_level=self.level, properties=kept)
        client.subscribe("bench/#", qos)
        return client

    def acknowledged_by(
        self, subscriber: FakeClient, count: int = READ, data: bytes = b""
    ) -> tuple[Callable[[], None], int]:
        """Messages come at QoS 1, as in ``data`` if there is any, and ``subscriber`` acknowledges each."""
        data, first = data or self.read("bench/topic", 1, count=count), 1

        def path() -> None:
            nonlocal first
            self.publisher.send_bytes(data)
            subscriber.send_bytes(b"".join(map(encode_puback, range(first, first + count))))
            first += count

        return path, count

    def qos_0_in_and_out(self) -> tuple[Callable[[], None], int]:
        self.subscriber("subscriber", 0)
        data = self.read("bench/topic", 0)
        return lambda: self.publisher.send_bytes(data), READ

    def qos_0_to_a_hundred(self) -> tuple[Callable[[], None], int]:
        for number in range(RECEIVERS):
            self.subscriber(f"subscriber-{number}", 0)
        data = self.read("bench/topic", 0)
        return lambda: self.publisher.send_bytes(data), READ * RECEIVERS

    def qos_1_in(self) -> tuple[Callable[[], None], int]:
        data = self.read("bench/topic", 1)
        return lambda: self.publisher.send_bytes(data), READ

    def qos_1_round_trip(self) -> tuple[Callable[[], None], int]:
        data = self.encode(Publish("bench/topic", PAYLOAD, 1, packet_id=1))
        return lambda: self.publisher.send_bytes(data), 1

    def qos_1_in_and_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.subscriber("subscriber", 1))

    def qos_1_in_and_durably_out(self) -> tuple[Callable[[], None], int]:
        """Connected and quick: what it costs that the message would survive, and nothing is written."""
        return self.acknowledged_by(self.subscriber("subscriber", 1, clean=False))

    def qos_1_from_a_deep_window_and_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.subscriber("subscriber", 1), DEEP)

    def qos_1_from_a_deep_window_and_durably_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.subscriber("subscriber", 1, clean=False), DEEP)

    def qos_2_in_and_out(self) -> tuple[Callable[[], None], int]:
        subscriber = self.subscriber("subscriber", 2)
        data, first = self.read("bench/topic", 2), 1

        def path() -> None:
            nonlocal first
            self.publisher.send_bytes(data)
            self.publisher.send_bytes(b"".join(map(encode_pubrel, range(1, READ + 1))))
            subscriber.send_bytes(b"".join(map(encode_pubrec, range(first, first + READ))))
            subscriber.send_bytes(b"".join(map(encode_pubcomp, range(first, first + READ))))
            first += READ

        return path, READ

    def connect(self) -> tuple[Callable[[], None], int]:
        """From the accept of a socket, on a port for all protocols, to CONNACK."""
        factory = SniffingFactory(self.broker.factory, arrivals=Arrivals(1_000_000, self.broker.clock))
        address = IPv4Address("TCP", "127.0.0.1", 40_000)
        names, level = [f"device-{number}" for number in range(3 * READ)], self.level
        connects = [self.encode(Connect(name, protocol_level=level)) for name in names]
        coming = iter([(StringTransport(peerAddress=address), connect) for connect in connects])

        def path() -> None:
            for transport, data in itertools.islice(coming, READ):
                protocol = factory.buildProtocol(address)
                protocol.makeConnection(transport)
                protocol.dataReceived(data)

        return path, READ

    def ingest(self) -> tuple[Callable[[], None], int]:
        agent = {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10, "hostname": "platzibogota"}
        metrics = [{"type": f"metric-{number}", "value": number + 0.5} for number in range(4)]
        message = {"agent": agent, "metrics": metrics, "timestamp": 1_700_000_000_000}
        data = self.read("agent/message", 1, json.dumps(message).encode())

        def path() -> None:
            self.publisher.send_bytes(data)
            self.clock.advance(0)

        return path, READ


class Paths5(Paths):
    """The same paths for clients of MQTT 5."""

    def __init__(self) -> None:
        super().__init__(5)

    def qos_1_with_properties_in_and_out(self) -> tuple[Callable[[], None], int]:
        """Content Type, a Message Expiry Interval, two User Properties."""
        properties = PublishProperties(
            message_expiry_interval=600, content_type="t", user_properties=(("a", "1"), ("b", "2"))
        )
        message = Publish("bench/topic", PAYLOAD, 1, properties=properties)
        data = b"".join(encode5(replace(message, packet_id=number)) for number in range(1, READ + 1))
        return self.acknowledged_by(self.subscriber("subscriber", 1), data=data)


class PathsAcross:
    """The same of messages of one publisher that clients of another daemon get, in a deep window."""

    def __init__(self) -> None:
        self.daemons, limits = Daemons(), Limits(max_inflight=DEEP)
        self.here, self.there = (
            self.daemons.begin(number, sessions=MemorySessionStore(), limits=limits) for number in (1, 2)
        )
        self.publisher = self.here.connect("publisher")

    def sent(self, qos: int) -> tuple[Callable[[], None], int]:
        """From the read of the publisher to a frame on the bus."""
        self.there.listening("subscriber", "bench/topic", qos)
        self.there.bus.ear.deaf = True
        numbers = range(1, DEEP + 1) if qos else [None] * DEEP
        data = b"".join(encode(Publish("bench/topic", PAYLOAD, qos, packet_id=number)) for number in numbers)

        def path() -> None:
            self.publisher.send_bytes(data)
            self.daemons.clock.advance(0)

        return path, DEEP

    def received(self, qos: int) -> tuple[Callable[[], None], int]:
        """From the frame to the write to the subscriber, and its acknowledgements."""
        subscriber, first = self.there.listening("subscriber", "bench/topic", qos), 1
        frame = encode_frame(Several(Message("bench/topic", b"", qos), (PAYLOAD,) * DEEP), 1)

        def path() -> None:
            nonlocal first
            self.there.cluster.frame(1, frame)
            self.daemons.clock.advance(0)
            if qos:
                subscriber.send_bytes(b"".join(map(encode_puback, range(first, first + DEEP))))
            first += DEEP

        return path, DEEP

    def qos_0_sent(self) -> tuple[Callable[[], None], int]:
        return self.sent(0)

    def qos_0_received(self) -> tuple[Callable[[], None], int]:
        return self.received(0)

    def qos_1_sent(self) -> tuple[Callable[[], None], int]:
        return self.sent(1)

    def qos_1_received(self) -> tuple[Callable[[], None], int]:
        return self.received(1)


class Features(Paths):
    """Paths of clients of MQTT 5 that have what only some need."""

    def __init__(self) -> None:
        super().__init__(5)

    def member(self, topic_filter: str, asked: Properties | None = None, **more: Any) -> FakeClient:
        client = self.broker.connect("subscriber", protocol_level=5, **more)
        client.send(Subscribe(1, [Subscription(topic_filter, 1)], asked))
        client.received()
        return client

    def qos_1_with_an_identifier_in_and_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.member("bench/#", Properties(subscription_identifier=1)))

    def qos_1_to_a_group_in_and_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.member("$share/group/bench/#"))

    def qos_1_by_aliases_of_the_publisher_in_and_out(self) -> tuple[Callable[[], None], int]:
        alias = PublishProperties(topic_alias=1)
        topics = ["bench/topic", *[""] * (READ - 1)]
        messages = [Publish(topic, PAYLOAD, 1, properties=alias) for topic in topics]
        data = b"".join(encode5(replace(one, packet_id=number)) for number, one in enumerate(messages, 1))
        return self.acknowledged_by(self.member("bench/#"), data=data)

    def qos_1_by_aliases_of_the_broker_in_and_out(self) -> tuple[Callable[[], None], int]:
        return self.acknowledged_by(self.member("bench/#", properties=Properties(topic_alias_maximum=16)))


PATHS: Final = [name for name in vars(Paths) if name.startswith(("qos", "connect", "ingest"))]
PATHS_ACROSS: Final = [name for name in vars(PathsAcross) if name.startswith("qos")]
FEATURES: Final = [name for name in vars(Features) if name.startswith("qos")]
PATHS5: Final = [*PATHS, *(name for name in vars(Paths5) if name.startswith("qos"))]


def cost(name: str, paths: type[Paths | PathsAcross] = Paths) -> int:
    """Instructions for each message of a path, once its caches are filled."""
    path, messages = cast("tuple[Callable[[], None], int]", getattr(paths(), name)())
    path()
    path()
    return round(instructions(path) / messages)


class Cost(SynchronousTestCase):
    def compare(self, name: str, before: float, now: float) -> None:
        self.assertLessEqual(now, before * TOLERANCE, f"{name} is longer than when it was counted")
        self.assertLessEqual(before, now * TOLERANCE, f"{name} is shorter: run python -m tests.test_cost")

    def test_no_hot_path_has_become_longer_by_a_fifth_nor_shorter_unnoticed(self) -> None:
        """A figure that is far too high would guard nothing: enter the new one."""
        counted = COUNTED.get(sys.version_info[:2], COUNTED[max(COUNTED)])
        for name, before in zip(PATHS, counted, strict=True):
            now = cost(name)
            self.compare(name, before, now)

    def test_nor_has_one_of_mqtt_5_which_costs_hardly_more(self) -> None:
        """Without Properties. To look whether anybody has subscribed counts where little else is done."""
        counted = COUNTED5.get(sys.version_info[:2], COUNTED5[max(COUNTED5)])
        for name, before in zip(PATHS5, counted, strict=True):
            now = cost(name, Paths5)
            self.compare(name, before, now)
            if name in PATHS and name not in ("qos_1_in", "qos_1_round_trip"):
                self.assertLessEqual(now, cost(name) * DEARER, f"{name} costs more than it may")

    def test_nor_has_one_to_another_daemon(self) -> None:
        counted = COUNTED_ACROSS.get(sys.version_info[:2], COUNTED_ACROSS[max(COUNTED_ACROSS)])
        for name, before in zip(PATHS_ACROSS, counted, strict=True):
            now = cost(name, PathsAcross)
            self.compare(name, before, now)

    def test_nor_has_one_of_a_feature_of_mqtt_5(self) -> None:
        counted = FEATURED.get(sys.version_info[:2], FEATURED[max(FEATURED)])
        for name, before in zip(FEATURES, counted, strict=True):
            now = cost(name, Features)
            self.compare(name, before, now)

    def test_what_makes_a_path_longer_is_counted(self) -> None:
        before, publish = cost("qos_1_in"), Broker.publish

        def slowly(*arguments: Any) -> Any:
            for _ in range(30):
                pass
            return publish(*arguments)

        self.patch(Broker, "publish", slowly)
        self.assertGreater(cost("qos_1_in"), before + 60)


class Counting(SynchronousTestCase):
    def test_every_path_ends_in_what_it_stands_for(self) -> None:
        named = ((Paths, PATHS), (Paths5, PATHS5), (Features, FEATURES))
        for kind, name in ((kind, name) for kind, names in named for name in names):
            paths: Any = kind()
            path, messages = getattr(paths, name)()
            path()
            path()
            traffic = paths.broker.broker.traffic
            self.assertEqual(traffic.internal_errors + len(traffic.protocol_errors), 0, name)
            if name == "connect":
                self.assertEqual(paths.broker.broker.connected, 1 + 2 * messages)
            if name.endswith("out") or "hundred" in name:
                self.assertEqual(sum(traffic.publish_sent), 2 * messages, name)
            queued = [record for record in paths.sessions.records if isinstance(record, Queued)]
            self.assertEqual(queued, [], name)
            stored = paths.writer.stored + paths.writer.duplicates
            self.assertEqual(stored, 2 * READ if name == "ingest" else 0)

    def test_every_path_to_another_daemon_ends_there(self) -> None:
        for name in PATHS_ACROSS:
            paths = PathsAcross()
            path, messages = getattr(paths, name)()
            path()
            path()
            qos, sends = int(name[4]), name.endswith("sent")
            traffic, there = paths.here.broker.traffic, paths.there.broker.traffic
            self.assertEqual(
                traffic.publish_received[qos] if sends else there.publish_sent[qos], 2 * messages
            )
            self.assertEqual(traffic.internal_errors + there.internal_errors, 0, name)

    def test_the_same_path_costs_the_same_again(self) -> None:
        self.assertEqual(cost("qos_1_in"), cost("qos_1_in"))


if __name__ == "__main__":
    print(f"    {sys.version_info[:2]}: {tuple(map(cost, PATHS))},")
    across = tuple(cost(name, PathsAcross) for name in PATHS_ACROSS)
    print(f"to another daemon:\n    {sys.version_info[:2]}: {across},")
    print(
        f"of its features:\n    {sys.version_info[:2]}: {tuple(cost(name, Features) for name in FEATURES)},"
    )
    print(f"of MQTT 5:\n    {sys.version_info[:2]}: {tuple(cost(name, Paths5) for name in PATHS5)},")
