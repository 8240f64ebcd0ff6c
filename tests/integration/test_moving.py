"""A client with a durable Session goes from daemon to daemon, again and again, while three others publish."""

import random
import socket
import threading
import time
from collections import Counter
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, DaemonTestCase
from tests.redis import MISSING_REDIS, RedisServer
from tests.servers import MISSING, cluster, execute

#: How often the client moves, and how many seconds it stays at most.
MOVES = 25
STAY = 0.3
#: Seconds between two messages of a publisher.
PAUSE = 0.01
#: Seconds for the rest to come in the end.
REST = 60.0


def client(name: str, clean: bool) -> mqtt.Client:
    made = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        name,
        clean_session=clean,
        protocol=mqtt.MQTTv311,
        reconnect_on_failure=False,
    )
    made.max_inflight_messages_set(1000)
    return made


class Publisher:
    """A Publisher sends numbers at QoS 1 and 2 until it is told to end, and then waits for all answers."""

    def __init__(self, name: str, port: int) -> None:
        self.sent: list[bytes] = []
        self._name, self._paho, self._ends = name, client(name, True), threading.Event()
        self._answers: list[mqtt.MQTTMessageInfo] = []
        self._paho.connect("127.0.0.1", port)
        self._paho.loop_start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ends.is_set():
            for qos in (1, 2):
                number += 1
                payload = f"{self._name} {qos} {number}".encode()
                self._answers.append(self._paho.publish(f"flow/{self._name}", payload, qos))
                self.sent.append(payload)
            time.sleep(PAUSE)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()
        for answer in self._answers:
            answer.wait_for_publish(PATIENCE)
        self._paho.disconnect()
        self._paho.loop_stop()


class Mover:
    """A Mover is a client with Clean Session 0 that goes from port to port.

    :ivar present: whether its Session was there, of each connection.
    """

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.present: list[bool] = []
        self.refused = 0
        self._granted = threading.Event()
        self._connected = threading.Event()
        self._paho = client("mover", False)
        self._paho.on_message = lambda paho, userdata, message: self.received.append(bytes(message.payload))
        self._paho.on_connect = self._on_connect
        self._paho.on_subscribe = lambda *arguments: self._granted.set()
        self._thread: threading.Thread | None = None
        self._leaves = threading.Event()

    def _run(self) -> None:
        """Read and write until it leaves, or the connection ends; ``loop_start`` is for one connection."""
        while not self._leaves.is_set() and self._paho.loop(0.05) == mqtt.MQTT_ERR_SUCCESS:
            pass

    def _on_connect(self, paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self.refused += 1
        else:
            self.present.append(flags.session_present)
        self._connected.set()

    def go(self, port: int) -> None:
        """Leave, half of the time without a word, and connect there."""
        until, count = time.monotonic() + PATIENCE, len(self.present)
        while len(self.present) == count:
            assert time.monotonic() < until, "it may not connect"
            self.leave(bool(count % 2))
            self._connected.clear()
            self._paho.connect("127.0.0.1", port)
            self._leaves.clear()
            self._thread = threading.Thread(target=self._run)
            self._thread.start()
            self._connected.wait(PATIENCE)

    def leave(self, politely: bool = True) -> None:
        if self._thread is None:
            return
        self._leaves.set()
        self._thread.join()
        open_ = self._paho.socket()
        if politely:
            self._paho.disconnect()
        if isinstance(open_, socket.socket):
            open_.close()

    def subscribe(self) -> None:
        self._paho.subscribe("flow/+", 2)
        assert self._granted.wait(PATIENCE)


class Moving(DaemonTestCase):
    skip = MISSING or None

    def start_two(self, url: str) -> list[int]:
        self.dsn = cluster().database("template1")
        daemons = [self.daemon("--database", self.dsn, environ={"PLATZIVERSE_BUS_URL": url})]
        ports = [daemons[0].ready()]
        daemons.append(self.daemon("--database", self.dsn, environ={"PLATZIVERSE_BUS_URL": url}))
        ports.append(daemons[1].ready())
        daemons[0].wait_for("daemon 2 on .* shares our clients")
        self.daemons = daemons
        return ports

    def flow(self, ports: list[int], order: list[int]) -> Mover:
        """Have the Mover at these ports one after the other, and check what it gets."""
        mover = Mover()
        mover.go(ports[0])
        mover.subscribe()
        publishers = [Publisher(f"p{number}", ports[number % len(ports)]) for number in range(3)]
        chance = random.Random(14)
        for port in order:
            time.sleep(chance.uniform(0, STAY))
            mover.go(port)
        for publisher in publishers:
            publisher.end()
        sent = {payload for publisher in publishers for payload in publisher.sent}
        poll(lambda: sent <= set(mover.received), REST, "all messages come", interval=0.2)
        time.sleep(1)
        mover.leave()
        count = Counter(mover.received)
        self.assertEqual([one for one in sent if one.split()[1] == b"2" and count[one] != 1], [])
        came: Counter[bytes] = Counter()
        for payload in dict.fromkeys(mover.received):
            who, number = payload.rsplit(b" ", 1)
            self.assertGreater(int(number), came[who], payload)
            came[who] = int(number)
        self.assertTrue(all(mover.present[1:]), mover.present)
        return mover

    def check_moved(self) -> None:
        for daemon in self.daemons:
            self.assertNotIn("Traceback", daemon.output)
            self.assertNotIn("Bug", daemon.output)
        self.assertIn("The Session of 'mover' has moved from daemon", self.daemons[1].output)
        self.assertEqual(len(execute(self.dsn, "SELECT 1 FROM mqtt_sessions WHERE daemon > 0")), 1)

    def test_over_redis(self) -> None:
        if MISSING_REDIS:
            self.skipTest(MISSING_REDIS)
        redis = RedisServer()
        self.addCleanup(redis.remove)
        ports = self.start_two(redis.url)
        self.flow(ports, [ports[number % 2] for number in range(1, MOVES + 1)])
        self.check_moved()

    def test_over_the_database(self) -> None:
        ports = self.start_two("postgresql:")
        self.flow(ports, [ports[number % 2] for number in range(1, MOVES + 1)])
        self.check_moved()

    def test_between_workers(self) -> None:
        self.dsn = cluster().database("template1")
        daemon = self.daemon("--workers", "2", "--database", self.dsn)
        port = int(daemon.wait_for(r"has 2 workers; they listen on \S*:(\d+)")[1])
        for number in (1, 2):
            daemon.wait_for(f"worker {number} broker: Loaded")
        daemon.wait_for("shares our clients")
        self.daemons = [daemon, daemon]
        self.flow([port], [port] * MOVES)
        self.check_moved()
