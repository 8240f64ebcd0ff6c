"""Shared Subscriptions across daemons, with real clients of MQTT 5 and 3.1.1, over Redis and over NOTIFY."""

import contextlib
import json
import signal
import socket
import threading
import urllib.request
from collections import Counter
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.crash.waiting import poll
from tests.integration.clients5 import has_gone
from tests.integration.clients5_python import properties
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase
from tests.redis import MISSING_REDIS, RedisServer
from tests.servers import MISSING, cluster

#: Messages at each QoS.
COUNT: Final = 60
GROUP: Final = "$share/workers/jobs/#"
FIVE: Final = MQTTProtocolVersion.MQTTv5
OLD: Final = MQTTProtocolVersion.MQTTv311


def end(client: paho.Client) -> None:
    """Stop, and close all sockets, which paho leaves to the collector of garbage."""
    client.loop_stop()
    client.reinitialise()


class Member:
    """A client that writes down what it gets, and acknowledges it then.

    :param kept: its Session outlives its connections.
    """

    def __init__(self, name: str, protocol: MQTTProtocolVersion, kept: bool = False) -> None:
        self.got: list[str] = []
        self.name, self._kept = name, kept
        self._protocol, self._answered, self._granted = protocol, threading.Event(), False

    def _begin(self) -> paho.Client:
        """A client of paho, for one connection."""
        five = self._protocol == FIVE
        self._paho = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            self.name,
            None if five else not self._kept,
            protocol=self._protocol,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.on_message = self._take
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *arguments: self._answer(True)
        return client

    def _take(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        self.got.append(message.payload.decode())
        client.ack(message.mid, message.qos)

    def _on_connect(self, client: paho.Client, data: object, flags: Any, reason: Any, more: object) -> None:
        if reason.is_failure or flags.session_present:
            self._answer(not reason.is_failure)
        else:
            client.subscribe(GROUP, 2)

    def _answer(self, granted: bool) -> None:
        self._granted = granted
        self._answered.set()

    def come(self, port: int) -> "Member":
        """Connect there, and return when it is a member; it comes again while its Session cannot move."""
        self.port, self._granted = port, False
        asked, clean = None, paho.MQTT_CLEAN_START_FIRST_ONLY
        if self._protocol == FIVE:
            asked = properties(PacketTypes.CONNECT, SessionExpiryInterval=300 if self._kept else 0)
            clean = not self._kept
        while not self._granted:
            client = self._begin()
            self._answered.clear()
            client.connect("127.0.0.1", port, clean_start=clean, properties=asked)
            client.loop_start()
            assert self._answered.wait(PATIENCE), self.name
            if not self._granted:
                end(client)
        return self

    def die(self) -> None:
        """Be gone in the middle of everything."""
        opened: Any = self._paho.socket()
        with contextlib.suppress(OSError):  # it has ended already
            if opened is not None:
                opened.shutdown(socket.SHUT_RDWR)
        end(self._paho)

    def leave(self) -> None:
        self._paho.disconnect()
        end(self._paho)
        has_gone(self.port, self.name)


class Groups(DaemonTestCase):
    """Over Redis, three daemons."""

    skip = MISSING or MISSING_REDIS or None
    count = 3

    def bus(self) -> str:
        redis = RedisServer()
        self.addCleanup(redis.remove)
        return redis.url

    def setUp(self) -> None:
        self.environ = {"PLATZIVERSE_BUS_URL": self.bus()}
        self.dsn = cluster().database("template1")
        self.states = [self.state_dir() for _ in range(self.count)]
        self.daemons = [self.start(state) for state in self.states]
        self.ports = [daemon.ready() for daemon in self.daemons]
        poll(self.all_are_known, PATIENCE, "all daemons know each other")

    def start(self, state: str) -> Daemon:
        return self.daemon("--database", self.dsn, state_dir=state, environ=self.environ)

    def all_are_known(self) -> bool:
        known = [sum(" shares our clients" in line for line in daemon.lines) for daemon in self.daemons]
        return known == [self.count - 1] * self.count

    def member(self, name: str, port: int, protocol: MQTTProtocolVersion, kept: bool = False) -> Member:
        member = Member(name, protocol, kept).come(port)
        self.addCleanup(member.die)
        return member

    def send(self, topic: str, qos: int, count: int = COUNT) -> list[str]:
        """Publish at the last daemon, which waits for all acknowledgements; return the payloads."""
        sender = paho.Client(CallbackAPIVersion.VERSION2, "sender", protocol=OLD)
        sender.connect("127.0.0.1", self.ports[-1])
        sender.loop_start()
        payloads = [f"{topic} {qos} {number}" for number in range(count)]
        try:
            for info in [sender.publish(f"jobs/{topic}", payload, qos) for payload in payloads]:
                info.wait_for_publish(PATIENCE)
                self.assertTrue(info.is_published())
        finally:
            sender.disconnect()
            end(sender)
        return payloads

    def test_a_group_over_all_daemons(self) -> None:
        """Row 524. One after the other, since daemons take their time to start."""
        self.every_message_has_one_member()
        self.nothing_is_lost_with_a_member_that_dies()
        self.members_that_are_away_have_what_comes_meanwhile()

    def every_message_has_one_member(self) -> None:
        protocols = [FIVE, OLD, FIVE, OLD]
        members = [
            self.member(f"live {number}", self.ports[number % self.count], protocol)
            for number, protocol in enumerate(protocols)
        ]
        for qos in 0, 1, 2:
            wanted = self.send("live", qos)
            self.have_got(members, COUNT * (qos + 1))
            got = Counter(job for member in members for job in member.got if f" {qos} " in job)
            self.assertEqual(got, Counter(wanted))
        self.assertTrue(all(member.got for member in members))
        for member in members:
            member.leave()

    def have_got(self, members: list[Member], count: int) -> None:
        """Wait until they have got so many together."""
        poll(lambda: sum(len(member.got) for member in members) >= count, PATIENCE, f"{count} messages")

    def nothing_is_lost_with_a_member_that_dies(self) -> None:
        """What it has got and not acknowledged goes to the other, and may have come twice."""
        dies = self.member("dies", self.ports[0], FIVE)
        stays = self.member("stays", self.ports[1], OLD)

        def kill() -> None:
            self.have_got([dies], COUNT // 4)
            dies.die()

        killer = threading.Thread(target=kill)
        killer.start()
        wanted = self.send("killed", 1, 4 * COUNT)
        killer.join()
        poll(lambda: {*wanted} <= {*dies.got, *stays.got}, PATIENCE, "all messages at one of both")
        self.assertEqual(max(Counter(stays.got).values()), 1)
        self.assertLess(len(dies.got), 4 * COUNT)
        stays.leave()

    def members_that_are_away_have_what_comes_meanwhile(self) -> None:
        """A daemon is killed, and one of them comes back at another one."""
        members = [
            self.member(name, port, protocol, kept=True)
            for name, port, protocol in (("five", self.ports[0], FIVE), ("old", self.ports[1], OLD))
        ]
        for member in members:
            member.leave()
        wanted, batch = list[str](), 0
        # For a second the publisher's daemon still believes that the other one has a connected member.
        while not all(self.waiting(member) for member in members):
            batch += 1
            wanted += self.send(f"away {batch}", 1, 10) + self.send(f"away {batch}", 2, 10)
        self.daemons[0].stop(signal.SIGKILL)
        members[1].come(self.ports[-1])
        self.again()
        members[0].come(self.ports[0])
        self.have_got(members, len(wanted))
        self.assertEqual(Counter(members[0].got + members[1].got), Counter(wanted))
        self.assertTrue(all(member.got for member in members))

    def waiting(self, member: Member) -> int:
        """How many messages wait for a member that is away."""
        found = 0
        for port in self.ports:
            url = f"http://127.0.0.1:{port}/api/sessions"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                rows = [row for row in json.load(answer) if row["client"] == member.name]
            found += sum(row["messages"] for row in rows)
        return found

    def again(self) -> None:
        """Start the first daemon again with what it had."""
        self.daemons[0] = self.start(self.states[0])
        self.ports[0] = self.daemons[0].ready()


class GroupsOverNotify(Groups):
    """Over the database, two daemons."""

    skip = MISSING or None
    count = 2

    def bus(self) -> str:
        return "postgresql:"
