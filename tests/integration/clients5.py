"""What every client library of MQTT 5 is asked to do with the daemon, whoever has written it."""

import atexit
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

from attrs import field, frozen

from tests.crash.counters import scrape
from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, Daemon, put_away
from tests.postgres.scratch import scratch_server

#: Of a message, under the names that we have for them; ``user_property`` is a list of pairs.
Properties: TypeAlias = dict[str, Any]

GIVEN: Final[Properties] = {
    "content_type": "text/plain",
    "response_topic": "back",
    "correlation_data": b"xyz",
    "payload_format_indicator": 1,
    "user_property": [("b", "1"), ("a", "2")],
}
JOBS: Final = 10


@frozen
class Will:
    """A Will at QoS 1; ``delay`` in seconds."""

    topic: str
    payload: str
    delay: int


@frozen
class Message:
    """What a client has got."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties = field(factory=dict)


@frozen
class Start:
    """How a client comes: what it subscribes to at QoS 2, and how long its Session is kept, in seconds."""

    filters: tuple[str, ...] = ()
    clean: bool = True
    expiry: int = 0
    will: Will | None = None


class Client(Protocol):
    """A client of one library."""

    @property
    def shown(self) -> dict[int, str | None]:
        """At QoS 1 and 2, what its user sees when a payload is refused.

        ``None``: nothing, as the library drops the Reason Code.
        """

    def __init__(self, port: int, client_id: str) -> None: ...

    def start(self, start: Start) -> None:
        """Connect to 127.0.0.1, and return when all Subscriptions are granted."""

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **properties: Any) -> str:
        """Publish, wait for the acknowledgement, and return what the user is shown of a refusal."""

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        """Publish at QoS 1 with a Topic Alias, the first with its name, the others without it."""

    def take(self) -> Message:
        """Wait for the next message."""

    def cut(self) -> None:
        """Lose the connection without DISCONNECT."""

    def stop(self) -> None:
        """Disconnect; does nothing when it is over."""


@cache
def shared_port() -> int:
    """Port of a daemon for all clients of this process; it ends with the process."""
    state_dir = tempfile.mkdtemp(prefix="platziverse-test-")
    os.chmod(state_dir, 0o711)
    server = scratch_server()
    arguments = ("--listen", "tcp:0:interface=127.0.0.1", "--database", server.dsn(server.create()))
    daemon = Daemon(*arguments, state_dir=state_dir)
    atexit.register(put_away, state_dir)
    atexit.register(daemon.kill)
    return daemon.ready()


def has_gone(port: int, client_id: str) -> None:
    """Wait until the daemon knows that a client has disconnected, for which the client does not wait."""

    def gone() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/clients", timeout=PATIENCE) as answer:
            return client_id not in {client["id"] for client in json.load(answer)}

    poll(gone, PATIENCE, f"the end of the connection of {client_id}")


class ClientContract:
    """Mixed into a TestCase that has ``make``; all tests use one daemon, so each has topics of its own."""

    make: Callable[[int, str], Client]
    addCleanup: Callable[..., None]
    assertEqual: Callable[..., None]
    assertIn: Callable[..., None]
    assertTrue: Callable[..., None]

    def setUp(self) -> None:
        shared_port()
        self.addCleanup(self.no_bug_was_met)

    def no_bug_was_met(self) -> None:
        self.assertEqual(self.counted("platziverse_internal_errors_total"), 0.0)

    def client(self, client_id: str, *filters: str, **more: Any) -> Client:
        """A client that has connected; its Client Identifier and topics are those of this library."""
        made = type(self).make(shared_port(), f"{self.name()}-{client_id}")
        made.start(Start(tuple(filters), **more))
        self.addCleanup(made.stop)
        return made

    def name(self) -> str:
        return type(self).__name__

    def counted(self, name: str) -> float:
        found = scrape(shared_port())
        assert found is not None
        return found.get(name, 0.0)

    def test_every_qos_with_every_property(self) -> None:
        """[MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17]

        [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]
        """
        topic = f"{self.name()}/qos"
        receiver, sender = self.client("receiver", f"{topic}/+"), self.client("sender")
        for qos in 0, 1, 2:
            sender.publish(f"{topic}/{qos}", b"%d" % qos, qos, message_expiry_interval=600, **GIVEN)
            message = receiver.take()
            left = message.properties.pop("message_expiry_interval")
            self.assertTrue(0 < left <= 600, left)
            self.assertEqual(message, Message(f"{topic}/{qos}", b"%d" % qos, qos, False, GIVEN))

    def test_retained_messages(self) -> None:
        topic = f"{self.name()}/kept"
        sender = self.client("sender")
        for qos in 0, 1, 2:
            sender.publish(f"{topic}/{qos}", b"%d" % qos, qos, True, **GIVEN)
        late = self.client("late", f"{topic}/+")
        found = {message.topic: message for message in (late.take() for _ in range(3))}
        for qos in 0, 1, 2:
            wanted = Message(f"{topic}/{qos}", b"%d" % qos, qos, True, GIVEN)
            self.assertEqual(found[f"{topic}/{qos}"], wanted)
            sender.publish(f"{topic}/{qos}", b"", 1, True)

    def test_wills_wait_and_what_is_over_does_not_come(self) -> None:
        """[MQTT5-3.1.3-9] [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]"""
        topic, kept = self.name(), {"clean": False, "expiry": 60}
        watcher, sender = self.client("watcher", f"{topic}/will/+"), self.client("sender")
        self.client("absent", f"{topic}/news/+", **kept).stop()
        has_gone(shared_port(), f"{topic}-absent")  # or what is short would be sent, and then sent again
        sender.publish(f"{topic}/news/short", b"1", 1, message_expiry_interval=1)
        sender.publish(f"{topic}/news/long", b"2", 1, message_expiry_interval=600)
        began = time.monotonic()
        self.client("returns", **kept, will=Will(f"{topic}/will/returns", "gone", 1)).cut()
        self.client("returns", **kept)
        in_time = time.monotonic() - began < 0.9  # seldom not, on a busy machine
        mortal = self.client("goes", **kept, will=Will(f"{topic}/will/goes", "gone", 1))
        began = time.monotonic()
        mortal.cut()
        will = watcher.take()  # that of the other would have come before
        if not in_time and will.topic == f"{topic}/will/returns":
            will = watcher.take()
        self.assertEqual((will.topic, will.payload), (f"{topic}/will/goes", b"gone"))
        self.assertTrue(time.monotonic() - began > 0.9)
        message = self.client("absent", f"{topic}/news/+", **kept).take()
        self.assertEqual((message.topic, message.payload), (f"{topic}/news/long", b"2"))
        self.assertTrue(0 < message.properties["message_expiry_interval"] < 600)

    def test_topic_aliases_of_a_publisher(self) -> None:
        topic = f"{self.name()}/alias"
        receiver, sender = self.client("receiver", topic), self.client("sender")
        payloads = [b"%d" % number for number in range(3)]
        sender.alias(topic, payloads)
        for payload in payloads:
            message = receiver.take()
            self.assertEqual((message.topic, message.payload), (topic, payload))
            self.assertEqual(message.properties, {})

    def test_each_job_goes_to_one_member_of_a_group(self) -> None:
        topic = self.name()
        filters = f"$share/workers/{topic}/jobs/+", f"{topic}/end"
        members = [self.client(name, *filters) for name in ("one", "two")]
        sender = self.client("sender")
        for number in range(JOBS):
            sender.publish(f"{topic}/jobs/{number}", b"job", 1)
        sender.publish(f"{topic}/end", b"", 1)
        got: list[list[str]] = []
        for member in members:
            got.append([])
            while (message := member.take()).topic != f"{topic}/end":
                got[-1].append(message.topic)
        self.assertEqual(sorted(got[0] + got[1]), [f"{topic}/jobs/{number}" for number in range(JOBS)])
        self.assertTrue(all(got), got)

    def test_its_user_is_shown_a_refusal(self) -> None:
        topic = f"{self.name()}/after"
        receiver, sender = self.client("receiver", topic), self.client("sender")
        for qos, packet in (1, "PUBACK"), (2, "PUBREC"):
            name = (
                f'platziverse_refusals_total{{by="server",code="payload_format_invalid",packet="{packet}"}}'
            )
            before = self.counted(name)
            told, wanted = sender.publish("agent/message", b"Hello", qos), sender.shown[qos]
            if wanted is None:
                self.assertEqual(told, "")
            else:
                self.assertIn(wanted, told)
            self.assertEqual(self.counted(name), before + 1)
            sender.publish(topic, b"goes on", qos)
            self.assertEqual(receiver.take().payload, b"goes on")
