"""Daemons with one bus: one is killed, frozen or drained, and another takes over what it has left."""

import json
import signal
import socket
import subprocess
import time
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from platziverse.postgres.requests import DEAD
from tests.crash import wire
from tests.crash.waiting import poll
from tests.integration.daemon import COMMAND, Daemon, DaemonTestCase, clean_environment
from tests.integration.test_two_daemons import message
from tests.servers import MISSING, Cluster, cluster, execute, holding

BUS = {"PLATZIVERSE_BUS_URL": "postgresql:"}
#: Seconds from the death of a daemon until another one has taken over, and some for a busy machine.
TAKEN_OVER = 15.0
BUSY = 45.0

INHERITED = 'SELECT id FROM mqtt_sessions WHERE "inheritedFrom" IS NOT NULL'
OWNERS = 'SELECT "clientId", daemon FROM mqtt_sessions ORDER BY 1'


class Client:
    """A client that keeps what it is sent."""

    def __init__(self, port: int, name: str, clean: bool = True, will: str = "") -> None:
        self.received: list[tuple[str, bytes, bool]] = []
        self.disconnected: list[float] = []
        self.present: list[bool] = []
        self.paho = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            name,
            clean_session=clean,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        self.paho.on_message = self._on_message
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        if will:
            self.paho.will_set(will, f"{name} is gone", 1, retain=True)
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        poll(lambda: self.present, BUSY, "CONNACK")

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.present.append(flags.session_present)

    def _on_disconnect(self, *arguments: Any) -> None:
        self.disconnected.append(time.monotonic())

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.received.append((message.topic, bytes(message.payload), message.retain))

    def subscribe(self, topic: str) -> None:
        done: list[object] = []
        self.paho.on_subscribe = lambda *arguments: done.append(arguments)
        self.paho.subscribe(topic, 1)
        poll(lambda: done, BUSY, "SUBACK")

    def publish(self, topic: str, payload: bytes) -> None:
        self.paho.publish(topic, payload, 1).wait_for_publish(BUSY)

    def end(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


class Heirs(DaemonTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database("template1")
        self.first = self.start()
        port = self.first.ready()  # so it has the number 1
        self.second = self.start()
        self.ports = port, self.second.ready()

    def start(self) -> Daemon:
        return self.daemon("--database", self.dsn, environ=BUS)

    def client(self, port: int, name: str, **more: Any) -> Client:
        client = Client(port, name, **more)
        self.addCleanup(client.end)
        return client

    def leave_things_behind(self) -> tuple[Client, Client]:
        """A durable Session with a message, an agent and a Will at the first daemon."""
        dashboard = self.client(self.ports[1], "dashboard")
        for topic in "agent/disconnected", "gone":
            dashboard.subscribe(topic)
        durable = self.client(self.ports[0], "durable", clean=False)
        durable.subscribe("work")
        durable.end()
        agent = self.client(self.ports[0], "agent", will="gone")
        agent.publish("agent/message", message("agent", 1))
        agent.publish("work", b"before")
        return agent, dashboard

    def is_taken_over(self, dashboard: Client, since: float) -> None:
        poll(lambda: len(dashboard.received) == 2, TAKEN_OVER + BUSY, "the dashboard is told")
        poll(lambda: execute(self.dsn, OWNERS) == [("durable", 2)], BUSY, "the Session is another daemon's")
        took = time.monotonic() - since
        self.assertGreater(took, DEAD / 3)  # its last sign of life may have been some seconds before
        self.assertLess(took, TAKEN_OVER + BUSY)
        self.assertEqual(
            sorted(dashboard.received),
            [("agent/disconnected", b'{"agent":{"uuid":"agent"}}', False), ("gone", b"agent is gone", False)],
        )
        poll(lambda: not execute(self.dsn, "SELECT * FROM mqtt_wills"), BUSY, "the Will is over")
        self.assertEqual(execute(self.dsn, "SELECT topic FROM mqtt_retained"), [("gone",)])
        durable = self.client(self.ports[1], "durable", clean=False)
        self.assertEqual(durable.present, [True])
        poll(lambda: durable.received == [("work", b"before", False)], BUSY, "what has waited comes")

    def test_a_daemon_that_is_killed_is_inherited_from(self) -> None:
        """Row 396."""
        _, dashboard = self.leave_things_behind()
        since = time.monotonic()
        self.first.stop(signal.SIGKILL)
        self.is_taken_over(dashboard, since)

    def test_a_daemon_that_was_frozen_begins_anew(self) -> None:
        """Row 400."""
        agent, dashboard = self.leave_things_behind()
        since = time.monotonic()
        self.first.process.send_signal(signal.SIGSTOP)
        self.is_taken_over(dashboard, since)
        self.first.process.send_signal(signal.SIGCONT)
        poll(lambda: agent.disconnected, BUSY, "the client has to go")
        self.first.wait_for("other daemons have taken over from this one")
        self.first.wait_for("Loaded 0 Sessions")
        again = self.client(self.ports[0], "again", clean=False)
        again.subscribe("more")
        again.publish("more", b"served")
        poll(lambda: again.received, BUSY, "the daemon serves again")
        self.assertEqual(execute(self.dsn, OWNERS), [("again", 1), ("durable", 2)])
        self.assertEqual(len(dashboard.received), 2)
        for daemon in self.first, self.second:
            self.assertEqual(daemon.stop(), 0)
            self.assertNotIn("Traceback", daemon.output)

    def test_a_daemon_that_is_drained_leaves_everything_and_ends(self) -> None:
        agent, _ = self.leave_things_behind()
        done = subprocess.run(
            [*COMMAND, "--database", self.dsn, "daemons", "drain", "1"],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, "daemon 1 has left\n"), done.stderr)
        self.assertEqual(self.first.ended(), 0)
        poll(lambda: agent.disconnected, BUSY, "the client has to go")
        poll(lambda: execute(self.dsn, OWNERS) == [("durable", 2)], BUSY, "the Session is another daemon's")
        durable = self.client(self.ports[1], "durable", clean=False)
        self.assertEqual(durable.present, [True])

    def test_what_a_frozen_daemon_has_acknowledged_is_with_its_heir(self) -> None:
        """Row 400: a publisher does not stop while its daemon is frozen, taken for dead, and wakes up."""
        durable = self.client(self.ports[0], "durable", clean=False)
        durable.subscribe("work")
        durable.end()
        publisher = self.client(self.ports[0], "publisher")
        numbers: dict[int, int] = {}
        acknowledged: set[int] = set()
        publisher.paho.on_publish = lambda *told: acknowledged.add(told[2])

        def publish(seconds: float, least: int = 0) -> None:
            until = time.monotonic() + seconds
            while (time.monotonic() < until or len(acknowledged) < least) and not publisher.disconnected:
                mid = publisher.paho.publish("work", str(len(numbers)), 1).mid
                numbers[mid] = len(numbers)
                time.sleep(0.005)

        publish(1.0, least=101)
        self.first.process.send_signal(signal.SIGSTOP)
        publish(DEAD)
        poll(lambda: execute(self.dsn, OWNERS) == [("durable", 2)], BUSY, "the Session is another daemon's")
        self.first.process.send_signal(signal.SIGCONT)
        publish(5.0)
        poll(lambda: publisher.disconnected, BUSY, "the publisher has to go")
        expected = {str(numbers[mid]).encode() for mid in acknowledged}
        self.assertGreater(len(expected), 100)
        durable = self.client(self.ports[1], "durable", clean=False)
        poll(lambda: expected <= {payload for _, payload, _ in durable.received}, BUSY, "all of them come")


class QoS2:
    """A client of a Session that is kept, which sends one message at QoS 2 under one Packet Identifier."""

    def __init__(self, port: int, payload: bytes) -> None:
        self._port, self._payload, self._buffer = port, payload, bytearray()
        poll(self._connect, BUSY, "it is let in", interval=0.5)

    def _connect(self) -> bool:
        """Connect; return whether the daemon had time: on a busy machine an heir may refuse at first."""
        self._buffer.clear()
        self._socket = socket.create_connection(("127.0.0.1", self._port), BUSY)
        self._socket.sendall(wire.connect("qos2", False, 0))
        flags, code = self._next(wire.CONNACK)
        self.session_present = flags == 1
        if code != wire.ACCEPTED:
            assert code == wire.SERVER_UNAVAILABLE, code
            self._socket.close()
        return code == wire.ACCEPTED

    def publish(self, dup: bool) -> None:
        self._socket.sendall(wire.publish("agent/message", self._payload, 2, 7, dup))

    def is_received(self) -> None:
        self._next(wire.PUBREC)

    def is_closed(self) -> None:
        """Nothing comes but the end, above all no PUBREC."""
        while data := self._socket.recv(4096):
            self._buffer += data
        assert not self._buffer, self._buffer

    def _next(self, kind: int) -> bytes:
        while True:
            for first, body in wire.split(self._buffer):
                assert first >> 4 == kind, first
                return body
            data = self._socket.recv(4096)
            assert data, "the connection was closed"
            self._buffer += data

    def end(self) -> None:
        self._socket.close()


class HeirsOfQoS2(DaemonTestCase):
    skip = MISSING or None

    def test_what_a_frozen_daemon_has_not_stored_yet_its_heir_stores_and_nobody_else(self) -> None:
        """Row 565: without a timestamp, so that only the Packet Identifier says that it comes again."""
        dsn = cluster().database("template1")
        daemons, ports = list[Daemon](), list[int]()
        for _ in range(2):  # so they have the numbers 1 and 2
            daemons.append(self.daemon("--database", dsn, environ=BUS))
            ports.append(daemons[-1].ready())
        payload = json.dumps(
            {key: value for key, value in json.loads(message("a", 1)).items() if key != "timestamp"}
        )
        first = QoS2(ports[0], payload.encode())
        self.addCleanup(first.end)
        waits = "SELECT pid FROM pg_locks WHERE relation = 'qos2_messages'::regclass AND NOT granted"
        with holding(dsn, "LOCK TABLE qos2_messages IN SHARE MODE"):
            first.publish(dup=False)
            poll(lambda: execute(dsn, waits), BUSY, "its statement waits")
            daemons[0].process.send_signal(signal.SIGSTOP)
            poll(lambda: not execute(dsn, waits), BUSY, "it has waited for too long")
        owned = "SELECT id FROM mqtt_sessions WHERE daemon = 2"
        poll(lambda: execute(dsn, owned), TAKEN_OVER + BUSY, "the Session is another daemon's")
        second = QoS2(ports[1], payload.encode())
        self.addCleanup(second.end)
        self.assertTrue(second.session_present)
        second.publish(dup=True)
        second.is_received()
        daemons[0].process.send_signal(signal.SIGCONT)
        first.is_closed()
        daemons[0].wait_for("1 messages at QoS 2 are left to them")
        poll(lambda: (daemons[0].books() or {"pending": 1})["pending"] == 0, BUSY, "nothing waits any more")
        self.assertEqual(execute(dsn, "SELECT value FROM metrics"), [("1",)])
        self.assertEqual((daemons[0].books() or {})["given_up"], 1)
        for daemon in daemons:
            self.assertEqual(daemon.stop(), 0)
            self.assertNotIn("Traceback", daemon.output)


class HeirsThatDie(DaemonTestCase):
    """Row 545: three daemons, one dies, and its heir as soon as it is one."""

    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database("template1")
        self.daemons: list[Daemon] = []
        self.ports: list[int] = []
        for _ in range(3):  # so they have the numbers 1, 2 and 3
            self.daemons.append(self.daemon("--database", self.dsn, environ=BUS))
            self.ports.append(self.daemons[-1].ready())

    def client(self, number: int, name: str, **more: Any) -> Client:
        client = Client(self.ports[number - 1], name, **more)
        self.addCleanup(client.end)
        return client

    def has_come(self, client: Client, messages: int) -> bool:
        return len(client.received) >= messages

    def kill_with_heir(self) -> int:
        """Kill daemon 1 and its heir; return the number of the one that is left."""
        self.daemons[0].stop(signal.SIGKILL)
        heir = "SELECT heir FROM mqtt_daemons WHERE id = 1 AND heir IS NOT NULL"
        poll(lambda: execute(self.dsn, heir), BUSY, "an heir", interval=0.01)
        second = int(execute(self.dsn, heir)[0][0])
        self.daemons[second - 1].stop(signal.SIGKILL)
        return 5 - second

    def test_the_next_heir_has_everything_that_was_acknowledged_once(self) -> None:
        for number in 1, 2, 3:
            for topic in "work", "gone":
                durable = self.client(number, f"durable-{number}", clean=False)
                durable.subscribe(topic)
                durable.end()
        agents = [self.client(number, f"agent-{number}", will="gone") for number in (1, 2, 3)]
        for number, agent in enumerate(agents, 1):
            agent.publish("work", b"before %d" % number)
        left = self.kill_with_heir()
        agents[left - 1].publish("work", b"meanwhile")
        owners = [(f"durable-{number}", left) for number in (1, 2, 3)]
        poll(lambda: execute(self.dsn, OWNERS) == owners, 2 * (TAKEN_OVER + BUSY), "the Sessions are its own")
        agents[left - 1].publish("work", b"after")
        poll(lambda: not execute(self.dsn, INHERITED), BUSY, "they are settled")
        expected = sorted([b"before 1", b"before 2", b"before 3", b"meanwhile", b"after"])
        wills = sorted(b"agent-%d is gone" % number for number in (1, 2, 3) if number != left)
        for name, _ in owners:
            durable = self.client(left, name, clean=False)
            self.assertEqual(durable.present, [True])
            poll(partial(self.has_come, durable, 7), BUSY, "everything comes")
            found = [(topic, payload) for topic, payload, _ in durable.received]
            self.assertEqual(sorted(payload for topic, payload in found if topic == "work"), expected)
            self.assertEqual(sorted(payload for topic, payload in found if topic == "gone"), wills)


class DatabaseRestarted(DaemonTestCase):
    skip = MISSING or None

    def test_nobody_is_dead_when_the_database_was_away_for_longer_than_a_daemon_may_be_silent(self) -> None:
        """Row 398."""
        server = Cluster()
        self.addCleanup(server.remove)
        dsn = server.database("template1")
        daemons = [self.daemon("--database", dsn, environ=BUS) for _ in range(2)]
        for daemon in daemons:
            daemon.ready()
        state = "SELECT id, incarnation, heir FROM mqtt_daemons ORDER BY id"
        before = execute(dsn, state)
        server.stop()
        time.sleep(DEAD + 2.0)
        server.start()
        seen = """SELECT min("seenAt") > pg_postmaster_start_time() FROM mqtt_daemons"""
        poll(lambda: execute(dsn, seen) == [(True,)], 60, "both have given a sign of life", interval=0.5)
        time.sleep(5.0)  # two looks at the others
        self.assertEqual(execute(dsn, state), before)
        for daemon in daemons:
            self.assertNotIn("is dead", daemon.output)
            self.assertNotIn("taken over", daemon.output)
