"""Three daemons with a Redis between them are one broker, as mosquitto_pub and mosquitto_sub see it."""

import signal
import time

from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase, Program
from tests.redis import MISSING_REDIS, RedisServer
from tests.servers import MISSING, cluster

#: Seconds in which daemons get to know each other; they look every two.
ACQUAINTED = 30


class ClusterTestCase(DaemonTestCase):
    skip = MISSING or MISSING_REDIS or None
    count = 3

    def setUp(self) -> None:
        self.dsn = cluster().database("template1")
        self.redis = RedisServer()
        self.addCleanup(self.redis.remove)
        self.daemons: list[Daemon] = []
        for _ in range(self.count):
            self.daemons.append(self.start())
        self.ports = [daemon.ready() for daemon in self.daemons]
        for daemon in self.daemons[:-1]:
            for number in range(2, self.count + 1):
                if daemon is self.daemons[0]:
                    daemon.wait_for(rf"daemon {number} on .* shares our clients")

    def start(self, *arguments: str) -> Daemon:
        environ = {"PLATZIVERSE_BUS_URL": self.redis.url}
        daemon = self.daemon("--database", self.dsn, *arguments, environ=environ)
        daemon.ready()
        return daemon

    def client(self, name: str, port: int, *arguments: str) -> Program:
        return self.start_program(name, "-h", "127.0.0.1", "-p", str(port), *arguments)

    def listen(self, port: int, topic: str, count: int, *arguments: str) -> Program:
        """A client that has subscribed, and ends when it has so many messages."""
        arguments = ("-t", topic, "-C", str(count), "-W", str(int(PATIENCE)), "-d", *arguments)
        program = self.client("mosquitto_sub", port, *arguments)
        program.wait_for("received SUBACK|Subscribed")
        return program

    def publish(self, port: int, topic: str, text: str, *arguments: str) -> None:
        self.run_program(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-m", text, *arguments
        )

    def heard(self, program: Program) -> list[str]:
        self.assertEqual(program.ended(), 0, program.output)
        return [line for line in program.lines if line.startswith("= ")]


class Apart(DaemonTestCase):
    skip = MISSING or MISSING_REDIS or None

    def test_daemons_of_one_set_with_two_buses_are_told(self) -> None:
        """Row 552."""
        dsn, daemons = cluster().database("template1"), []
        for _ in range(2):
            redis = RedisServer()
            self.addCleanup(redis.remove)
            daemon = self.daemon("--database", dsn, environ={"PLATZIVERSE_BUS_URL": redis.url})
            daemon.ready()
            daemons.append((daemon, redis.url))
        for other, (daemon, url) in zip((2, 1), daemons, strict=True):
            daemon.wait_for(rf"Daemon {other} lives, .* is not heard on the bus: .*bus.url")
            answer = self.run_program("curl", "-sS", f"http://127.0.0.1:{daemon.port()}/readyz")
            self.assertIn(f"daemons [{other}] live and are not heard on the bus {url}", answer)


class ThreeDaemons(ClusterTestCase):
    def test_readyz_names_a_bus_that_is_away_and_stays_ready(self) -> None:
        def answer() -> str:
            return self.run_program(
                "curl", "-sS", "-w", " %{http_code}", f"http://127.0.0.1:{self.ports[0]}/readyz"
            )

        self.assertEqual(answer(), '{"status":"ready"} 200')
        self.redis.stop()
        poll(
            lambda: f"the bus {self.redis.url} is away" in answer(),
            PATIENCE,
            "the bus is named",
            interval=0.2,
        )
        self.assertEqual(answer()[-4:], " 200")

    def test_clients_of_three_daemons_meet_at_every_qos(self) -> None:
        listeners = [self.listen(port, "meet/+", 9, "-q", "2", "-F", "= %t %p %q") for port in self.ports]
        expected = []
        for number, port in enumerate(self.ports):
            for qos in range(3):
                self.publish(port, f"meet/{number}", f"{qos}", "-q", str(qos))
                expected.append(f"= meet/{number} {qos} {qos}")
        for listener in listeners:
            self.assertEqual(sorted(self.heard(listener)), sorted(expected))

    def test_retained_messages_wills_and_agents_are_those_of_all(self) -> None:
        one, two, three = self.ports
        self.publish(one, "kept/a", "x", "-r", "-q", "1")
        arguments = ("-t", "kept/#", "--retained-only", "-C", "1", "-W", "1", "-F", "= %r %p")
        kept: list[str] = []

        def is_kept() -> bool:
            program = self.client("mosquitto_sub", three, *arguments)
            program.ended()
            kept[:] = program.lines
            return bool(kept)

        poll(is_kept, PATIENCE, "the Retained Message on another daemon")
        self.assertEqual(kept, ["= 1 x"])
        will = self.listen(two, "will/#", 1, "-F", "= %p")
        dying = self.client(
            "mosquitto_sub", one, "-t", "nothing", "-d", "--will-topic", "will/a", "--will-payload", "gone"
        )
        dying.wait_for("received SUBACK|Subscribed")
        dying.process.send_signal(signal.SIGKILL)
        self.assertEqual(self.heard(will), ["= gone"])
        agents = self.listen(two, "agent/connected", 1, "-F", "= %t")
        message = (
            '{"agent": {"uuid": "u-1", "username": "ana", "name": "n", "hostname": "h", "pid": 1,'
            ' "connected": true}, "metrics": [{"type": "t", "value": "1"}], "timestamp": %d}'
        )
        self.publish(three, "agent/message", message % (time.time() * 1000), "-q", "1")
        self.assertEqual(self.heard(agents), ["= agent/connected"])

    def test_a_client_identifier_is_connected_once(self) -> None:
        old = self.client("mosquitto_sub", self.ports[0], "-i", "same", "-t", "a", "-d")
        old.wait_for("received SUBACK|Subscribed")
        new = self.listen(self.ports[1], "a", 1, "-i", "same", "-F", "= %p")
        self.daemons[0].wait_for("a connection to daemon 2 has taken over its Client Identifier")
        old.kill()
        self.publish(self.ports[2], "a", "x", "-q", "1")
        self.assertEqual(self.heard(new), ["= x"])

    def test_clients_meet_again_after_redis_was_away(self) -> None:
        self.redis.stop()
        near = self.listen(self.ports[0], "near", 1, "-F", "= %p")
        self.publish(self.ports[0], "near", "x", "-q", "1")
        self.assertEqual(self.heard(near), ["= x"])
        self.redis.start()
        listener = self.listen(self.ports[0], "again", 1, "-F", "= %p")

        def arrives() -> bool:
            self.publish(self.ports[2], "again", "x", "-q", "1")
            return listener.process.poll() is not None

        poll(arrives, PATIENCE, "a message over the bus that has come back")
        self.assertEqual(self.heard(listener), ["= x"])
