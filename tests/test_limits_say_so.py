"""Each limit of docs/limits.rst that is met has a line in the log with its setting, and a counter."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.complaints import LINES, LINES_PER_HOST, WINDOW, Complaints
from platziverse.broker.interfaces import Client
from platziverse.broker.limits import Limits
from platziverse.broker.traffic import Traffic
from platziverse.door.crowd import origin
from platziverse.door.sniff import SniffingFactory
from platziverse.mqtt.packets import Connect, Disconnect, Publish, PublishProperties, Subscribe, Subscription
from platziverse.testing import BrokerHarness, MemoryStore
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.logs import observe_lines
from tests.web.browser import Connection

ROOT: Final = Path(__file__).parent.parent
LIMITS: Final = ROOT / "docs" / "limits.rst"
#: How often each limit is met: more often than there are lines about one cause, and one host.
OFTEN: Final = 2 * LINES

#: What is shown elsewhere, and where; or why it is not.
ELSEWHERE: Final = {
    "max_stored_bytes": "the max_queued_bytes of a durable Session, and said with it",
    "connect_delay": "the delay of max_connects_per_minute",
    "bus.max_pending": "tests/bus/test_redis.py",
    "web.page": "no limit, and shown in tests/web/test_page.py",
    "web.max_streams": "tests/web/test_streams.py",
    "web.max_exports": "tests/web/test_streams.py",
    "ingest.slots": "tests/ingest/test_limits.py",
    "ingest.batch": "tests/ingest/test_limits.py",
    "ingest.statement_deadline": "tests/ingest/test_limits.py",
    "ingest.keep_rejected_payload": "tests/ingest/test_limits.py",
    "ingest.keep_months": "tests/postgres/test_maintenance.py",
    "ingest.keep_5m_months": "tests/postgres/test_rollups.py",
    "ingest.keep_1h_months": "tests/postgres/test_rollups.py",
    "ingest.keep_rejected_days": "tests/postgres/test_maintenance.py",
    "ingest.keep_rejected_bytes": "tests/postgres/test_maintenance.py",
}


def never(message: Publish, client: Client) -> "Deferred[None]":
    """Handle a message without an end."""
    return Deferred()


@frozen
class Meeting:
    """One way to meet a limit.

    :ivar limits: those of the broker.
    :ivar meet: meets the limit once more, with a number that is another each time.
    :ivar counted: what is counted of it.
    """

    limits: Mapping[str, Any]
    meet: Callable[[BrokerHarness, int], object]
    counted: Callable[[BrokerHarness], int]
    table: Mapping[str, Any] = field(factory=dict)
    handlers: Sequence[Any] = ()

    def harness(self) -> BrokerHarness:
        harness = BrokerHarness(self.table, limits=Limits(**self.limits), handlers=self.handlers)
        harness.advance(1)
        return harness


def refused_connects(harness: BrokerHarness) -> int:
    return sum(harness.broker.traffic.connects_refused.values())


def refused_connections(harness: BrokerHarness) -> int:
    return sum(harness.broker.traffic.connections_refused.values())


def refused_subscriptions(harness: BrokerHarness) -> int:
    return sum(harness.broker.traffic.subscriptions_refused.values())


def protocol_errors(harness: BrokerHarness) -> int:
    return sum(harness.broker.traffic.protocol_errors.values())


def handler_failures(harness: BrokerHarness) -> int:
    return sum(harness.recorder.handler_failures.values())


def traffic(name: str) -> Callable[[BrokerHarness], int]:
    return lambda harness: int(getattr(harness.broker.traffic, name))


def dropped_for(setting: str) -> Callable[[BrokerHarness], int]:
    return lambda harness: harness.broker.traffic.groups_dropped.get(setting, 0)


def connect_twice(harness: BrokerHarness, number: int) -> None:
    """Two clients of one user."""
    for half in "ab":
        harness.connect(f"{number}{half}", username="one", password=b"x")


def come(harness: BrokerHarness, number: int) -> None:
    """Two sockets, of which one is accepted, or was."""
    for port in 2 * number + 1, 2 * number + 2:
        address = IPv4Address("TCP", "192.0.2.1", port)
        if harness.crowd.admits(address, origin(address)):
            harness.crowd.entered(object())
            harness.crowd.came_from(origin(address))


def send(data: bytes, connected: bool = True) -> Callable[[BrokerHarness, int], None]:
    """One client sends these bytes."""

    def meet(harness: BrokerHarness, number: int) -> None:
        client = harness.connect(str(number)) if connected else harness.open()
        client.send_bytes(data)

    return meet


def wait(seconds: float, data: bytes = b"", connected: bool = True) -> Callable[[BrokerHarness, int], None]:
    """One client sends these bytes, takes nothing, and time passes."""

    def meet(harness: BrokerHarness, number: int) -> None:
        client = harness.connect(str(number)) if connected else harness.open()
        client.send_bytes(data)
        if not data and connected:
            client.stop_reading()
        harness.advance(seconds)

    return meet


def subscribe(*filters: str) -> Callable[[BrokerHarness, int], None]:
    def meet(harness: BrokerHarness, number: int) -> None:
        harness.connect(str(number)).send(Subscribe(1, [Subscription(name, 0) for name in filters]))

    return meet


def publish(*topics: str, qos: int = 0, **more: Any) -> Callable[[BrokerHarness, int], None]:
    def meet(harness: BrokerHarness, number: int) -> None:
        client = harness.connect(str(number))
        for packet_id, topic in enumerate(topics, 1):
            client.publish(topic, b"12345678", qos, packet_id if qos else None, **more)
        harness.turn()

    return meet


def leave_and_miss(harness: BrokerHarness, number: int) -> None:
    """A client goes, and misses two messages."""
    client = harness.connect(str(number), clean_session=False)
    client.subscribe("t", 1)
    client.lose()
    publisher = harness.connect(f"{number}p")
    publisher.publish("t", b"12345678", 1, 1)
    publisher.publish("t", b"12345678", 1, 2)


def never_acknowledge(harness: BrokerHarness, number: int) -> None:
    """A client acknowledges none of two messages."""
    harness.connect(str(number)).subscribe(f"t/{number}", 1)
    publish(f"t/{number}", f"t/{number}", qos=1)(harness, -number - 1)


def never_release(harness: BrokerHarness, number: int) -> None:
    """A client releases no QoS 2 message, and has one more."""
    client = harness.connect(str(number))
    for packet_id in 1, 2:
        client.publish("t", b"", 2, packet_id)
        harness.advance(2)


def use_a_second_alias(harness: BrokerHarness, number: int) -> None:
    """A client of MQTT 5 uses a Topic Alias more than it may."""
    client = harness.connect(str(number), protocol_level=5)
    client.send(Publish("t", b"", properties=PublishProperties(topic_alias=2)))


def stay_silent(harness: BrokerHarness, number: int) -> None:
    """A client of MQTT 5 asks for no Keep Alive, and is silent for longer than the one that it is told."""
    harness.connect(str(number), protocol_level=5, keep_alive=0)
    harness.advance(3)


def keep_the_handler_busy(harness: BrokerHarness, number: int) -> None:
    """Two messages for a handler that does not finish."""
    client = harness.connect(str(number))
    for packet_id in 1, 2:
        client.publish("hung", b"", 1, packet_id)
        harness.advance(1)


def hung(publish: Any) -> dict[str, Any]:
    """A table whose handler hangs."""
    return {"hung": never}


def fall_behind(harness: BrokerHarness, number: int) -> None:
    """A client stays, and takes nothing."""
    client = harness.connect(str(number))
    client.subscribe(f"t/{number}", 1)
    publisher = harness.connect(f"{number}p")
    for packet_id in range(1, 6):
        publisher.publish(f"t/{number}", b"12345678", 1, packet_id)
    harness.advance(6)


def go_for_long(harness: BrokerHarness, number: int) -> None:
    """A client goes for longer than its Session lasts."""
    harness.connect(str(number), clean_session=False).lose()
    harness.advance(2)
    harness.broker.expire()


def leave_both(harness: BrokerHarness, number: int) -> None:
    """Two clients go, one after the other, and want to find their Sessions again."""
    for half in "ab":
        harness.connect(f"{number}{half}", clean_session=False).lose()


def crowd_in(harness: BrokerHarness, number: int) -> None:
    """More clients than may come at once do, at a shared port."""
    port = SniffingFactory(harness.factory)
    for _ in range(10):
        sniffer, transport = port.buildProtocol(None), StringTransport()
        sniffer.makeConnection(transport)
    port.close_all()
    harness.advance(1)


def overfill(harness: BrokerHarness, number: int) -> None:
    """Too much waits for the database, and one more client comes."""
    for half in "ab":
        client = harness.connect(f"{number}{half}")
        client.publish("agent/message", b"12345678", 1, 1)
    harness.connect(f"{number}c")


def fill_partly(harness: BrokerHarness, number: int) -> None:
    """A packet of which most has come, and no more."""
    harness.connect(str(number)).send_bytes(b"\x30\x80\x80\x04\x00\x01t" + bytes(40_000))


def deny(harness: BrokerHarness, number: int) -> None:
    """What no client may publish."""
    client = harness.connect(str(number))
    client.publish("$SYS/x")
    harness.turn()


def take_over(harness: BrokerHarness, number: int) -> None:
    """Three clients with one Client Identifier, of which none goes by itself."""
    for _ in range(3):
        harness.connect(str(number))


STORING: Final = {"agent/message": never}


def share_with_nobody(harness: BrokerHarness, number: int) -> None:
    """The only member of a group ends its Session, with two messages that it has not acknowledged."""
    member, publisher = harness.connect(f"{number}m"), harness.connect(f"{number}p")
    member.send(Subscribe(1, [Subscription("$share/g/t", 1)]))
    for packet_id in 1, 2:
        publisher.publish("t", b"", 1, packet_id)
    member.send(Disconnect())
    harness.advance(2)


SMALL_QUEUE: Final = {"max_queued_messages": 1, "max_queued_bytes": 1000, "max_inflight": 1}

MEETINGS: Final[Mapping[str, Meeting]] = {
    "max_connections": Meeting({"max_connections": 1}, come, refused_connections),
    "max_connections_per_address": Meeting({"max_connections_per_address": 1}, come, refused_connections),
    "max_connections_per_user": Meeting({"max_connections_per_user": 1}, connect_twice, refused_connects),
    "max_connects_per_minute": Meeting(
        {"max_connects_per_minute": 1}, take_over, traffic("takeovers_delayed")
    ),
    "connect_deadline": Meeting({}, wait(11, connected=False), protocol_errors),
    "max_keep_alive": Meeting({"max_keep_alive": 1}, stay_silent, protocol_errors),
    "packet_deadline": Meeting({}, wait(32, b"\x30\x05\x00"), protocol_errors),
    "write_deadline": Meeting({}, wait(63), protocol_errors),
    "max_message_rate": Meeting({"max_message_rate": 1}, publish(*["t"] * 20), traffic("rate_holds")),
    "max_byte_rate": Meeting({"max_byte_rate": 10}, publish(*["t"] * 20), traffic("rate_holds")),
    "max_connect_size": Meeting({}, send(b"\x10\x80\x80\x20", connected=False), protocol_errors),
    "max_packet_size": Meeting({"max_packet_size": 128}, send(b"\x30\x80\x02"), protocol_errors),
    "max_topic_levels": Meeting({"max_topic_levels": 1}, publish("a/b/c"), protocol_errors),
    "max_client_id_bytes": Meeting(
        {"max_client_id_bytes": 23},
        lambda harness, number: harness.open().send(Connect(f"{number:024}")),
        refused_connects,
    ),
    "max_denied_publishes": Meeting({"max_denied_publishes": 1}, deny, protocol_errors),
    "max_unfinished_total": Meeting({"max_unfinished_total": 1}, overfill, refused_connects, STORING),
    "max_unfinished_bytes": Meeting({"max_unfinished_bytes": 8}, overfill, refused_connects, STORING),
    "max_awaiting_pubrel": Meeting({"max_awaiting_pubrel": 1}, publish("a", "b", qos=2), protocol_errors),
    "topic_alias_maximum": Meeting({"topic_alias_maximum": 1}, use_a_second_alias, protocol_errors),
    "max_subscriptions": Meeting({"max_subscriptions": 1}, subscribe("a", "b"), refused_subscriptions),
    "max_filters_per_subscribe": Meeting(
        {"max_filters_per_subscribe": 1}, subscribe("a", "b"), refused_subscriptions
    ),
    "strict_dup": Meeting({}, send(b"\x38\x03\x00\x01t"), protocol_errors),
    "max_memory": Meeting({"max_memory": 65_536}, fill_partly, traffic("partials_dropped")),
    "max_queued_messages": Meeting(SMALL_QUEUE, leave_and_miss, traffic("publish_dropped")),
    "max_queued_bytes": Meeting(SMALL_QUEUE, leave_and_miss, traffic("publish_dropped")),
    "queue_drop": Meeting(SMALL_QUEUE, leave_and_miss, traffic("publish_dropped")),
    "receiver_patience": Meeting(
        SMALL_QUEUE | {"receiver_patience": 1}, fall_behind, traffic("receivers_too_slow")
    ),
    "max_retained_messages": Meeting(
        {"max_retained_messages": 1},
        publish("a", "b", retain=True),
        lambda harness: harness.broker.retained.refused,
    ),
    "max_retained_bytes": Meeting(
        {"max_retained_bytes": 8}, publish("a", retain=True), lambda harness: harness.broker.retained.refused
    ),
    "max_connect_rate": Meeting({"max_connect_rate": 100}, crowd_in, traffic("connections_delayed")),
    "max_absent_sessions": Meeting(
        {"max_absent_sessions": 1}, leave_both, traffic("sessions_ended_for_room")
    ),
    "group_patience": Meeting({"group_patience": 0.5}, share_with_nobody, dropped_for("group_patience")),
    "max_queued_for_groups": Meeting(
        {"max_queued_for_groups": 1}, share_with_nobody, dropped_for("max_queued_for_groups")
    ),
    "reserved_descriptors": Meeting({"max_connections": 1}, come, refused_connections),
    "handler_deadline": Meeting(
        {"handler_deadline": 0.5}, keep_the_handler_busy, handler_failures, handlers=[hung]
    ),
    "max_unfinished_per_handler": Meeting(
        {"max_unfinished_per_handler": 1}, keep_the_handler_busy, handler_failures, handlers=[hung]
    ),
    "packets_per_turn": Meeting({"packets_per_turn": 2}, send(b"\xc0\x00" * 5), traffic("turns_ended")),
    "max_unfinished": Meeting(
        {"max_unfinished": 1}, publish("agent/message", qos=1), traffic("store_holds"), STORING
    ),
    "max_inflight": Meeting({"max_inflight": 1}, never_acknowledge, traffic("queues_begun")),
    "awaiting_pubrel_expiry": Meeting(
        {"max_awaiting_pubrel": 1, "awaiting_pubrel_expiry": 1}, never_release, traffic("pubrels_missed")
    ),
    "session_expiry": Meeting({"session_expiry": 1}, go_for_long, traffic("sessions_expired")),
}
#: Their meetings are in a test of their own.
WEB: Final[Mapping[str, Mapping[str, Any]]] = {
    "web.max_connections": {"max_connections": 1},
    "web.max_connections_per_address": {"max_connections_per_address": 1},
}
TIMEOUT: Final = "web.timeout"


def report(uuid: str, *types: str) -> bytes:
    agent = {"uuid": uuid, "name": "a", "username": "u", "pid": 1, "hostname": "h"}
    return json.dumps({"agent": agent, "metrics": [{"type": name, "value": 1} for name in types]}).encode()


#: Payloads of one client, the last of which meets the limit, and the reason under which it is counted.
REPORTS: Final[Mapping[str, tuple[list[bytes], str]]] = {
    "agents.max_payload": ([bytes(70_000)], "size"),
    "agents.max_metrics": ([report("a", *["t"] * 1001)], "size"),
    "agents.max_types": ([report("a", *map(str, range(1000))), report("a", "new")], "types"),
    "agents.max_agents": ([report(str(number), "t") for number in range(10_001)], "agents"),
}


def documented() -> set[str]:
    """Return the names of the settings in the tables of the page."""
    rows = re.split(r"^\+[-=].*$", LIMITS.read_text(), flags=re.MULTILINE)
    cells = ["".join(line.split("|")[1].strip() for line in row.splitlines() if "|" in line) for row in rows]
    return {cell.replace("``", "") for cell in cells if cell.startswith("``")}


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.said = observe_lines(self)

    def lines(self, setting: str) -> list[str]:
        return [line for line in self.said if re.search(rf"\b{setting}\b", line)]

    def test_every_limit_is_here(self) -> None:
        self.assertEqual(documented(), {*MEETINGS, *REPORTS, *WEB, *ELSEWHERE, TIMEOUT})
        for setting, file in ELSEWHERE.items():
            if file.startswith("tests/"):
                self.assertIn(setting.rpartition(".")[2], (ROOT / file).read_text())

    def test_every_limit_of_the_broker_is_counted_and_said(self) -> None:
        wrong = []
        for setting, meeting in MEETINGS.items():
            self.said.clear()
            harness = meeting.harness()
            meeting.meet(harness, 0)
            if not meeting.counted(harness):
                wrong.append(f"{setting}: not counted")
            if not self.lines(setting):
                wrong.append(f"{setting}: no line names it")
            harness.shared.stop()
        self.assertEqual(wrong, [])

    def test_no_limit_that_is_met_again_and_again_fills_the_log(self) -> None:
        for setting, meeting in MEETINGS.items():
            harness = meeting.harness()
            self.said.clear()
            began = harness.clock.seconds()
            for number in range(OFTEN):
                meeting.meet(harness, number)
            windows = 1 + (harness.clock.seconds() - began) // WINDOW
            self.assertLessEqual(len(self.lines(setting)), LINES * windows, setting)
            harness.shared.stop()

    def test_the_limits_of_reports_are_counted_and_said(self) -> None:
        for setting, (payloads, reason) in REPORTS.items():
            self.said.clear()
            harness = BrokerHarness(reports=MemoryStore())
            client = harness.connect()
            for payload in payloads:
                client.publish("agent/message", payload)
            harness.turn()
            self.assertEqual(harness.recorder.rejected, {reason: 1}, setting)
            self.assertEqual(len(self.lines(setting.removeprefix("agents."))), 1, setting)
            harness.shared.stop()

    def test_the_limits_of_http_are_counted_and_said(self) -> None:
        for setting, settings in WEB.items():
            self.said.clear()
            clock, counters = Clock(), Traffic()
            complaints = Complaints(clock, "web")
            site = make_site(clock, WebSettings(**settings), str, traffic=counters, complaints=complaints)
            connections = [Connection(site) for _ in range(15)]
            statuses = [connection.request("/x").status for connection in connections]
            self.assertEqual(statuses, [404] + [503] * 14)
            self.assertEqual(counters.connections_refused, {"http": 14})
            self.assertEqual(len(self.lines(setting)), LINES_PER_HOST, setting)
            complaints.stop()

    def test_a_request_over_http_that_does_not_end_is_counted_and_said_and_an_idle_connection_is_not(
        self,
    ) -> None:
        clock, counters = Clock(), Traffic()
        complaints = Complaints(clock, "web")
        site = make_site(clock, WebSettings(), str, traffic=counters, complaints=complaints)
        connections = [Connection(site) for _ in range(15)]
        for connection in connections:
            connection.request("/healthz")
        for connection, begun in zip(connections, (b"G", b"GET / HTTP/1.1\r\n", b"\r\n"), strict=False):
            connection.send(begun)
        clock.advance(31)
        self.assertTrue(all(connection.closed for connection in connections))
        self.assertEqual(counters.requests_timed_out, 2)
        self.assertEqual(len(self.lines(TIMEOUT)), 2)
        clock.advance(31)  # cut, where they have not taken the end
        self.assertEqual([line for line in self.said if "iming out" in line], [])
        complaints.stop()
