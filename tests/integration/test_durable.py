"""Durable Sessions over ``kill -9``, as real clients see them: nothing missing, nothing asked of the user."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from twisted.trial.unittest import SkipTest

from tests.crash.waiting import poll
from tests.integration.daemon import COMMAND, NODE, PATIENCE, DaemonTestCase, Program
from tests.postgres.scratch import scratch_server

COUNT = 50
HERE = Path(__file__).parent
NODE_RED = HERE / "node-red"
Took: TypeAlias = Callable[[str, bytes], None]


class RestartTests(DaemonTestCase):
    """The daemon dies without a warning, and is started again with the same state directory and port."""

    def setUp(self) -> None:
        server = scratch_server()
        self.dsn = server.dsn(server.create())
        self.state, self.port = self.state_dir(), 0
        self.start()

    def start(self) -> None:
        arguments = ("--database", self.dsn, "--listen", f"tcp:{self.port}:interface=127.0.0.1")
        self.running = self.daemon(*arguments, state_dir=self.state, listen=False)
        self.port = self.running.ready()

    def restart(self) -> None:
        self.running.kill()
        self.start()

    def paho(self, client_id: str, took: Took = lambda topic, payload: None, **more: Any) -> Client:
        """A connected client with a durable Session; ``took`` is called with each Topic Name and payload."""
        client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False, **more)

        def take(client: Client, data: object, message: MQTTMessage) -> None:
            took(message.topic, bytes(message.payload))

        client.on_message = take
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        self.addCleanup(client.loop_stop)
        poll(client.is_connected, PATIENCE, f"{client_id} is connected")
        return client

    def tool(self, name: str, *arguments: str) -> Program:
        program = Program(self.program(name), "-h", "127.0.0.1", "-p", str(self.port), *arguments)
        self.addCleanup(program.kill)
        return program

    def send(self, topic: str, *arguments: str, qos: int = 1) -> None:
        self.assertEqual(self.tool("mosquitto_pub", "-t", topic, "-q", str(qos), *arguments).ended(), 0)

    def test_what_was_acknowledged_for_an_absent_client_is_there_after_a_kill(self) -> None:
        for qos in (1, 2):
            topic = f"durable/{qos}"
            arguments = ("-c", "-i", f"sub{qos}", "-t", topic, "-q", str(qos))
            self.assertEqual(self.tool("mosquitto_sub", *arguments, "-E").ended(), 0)
            sender = self.paho(f"sender{qos}")
            sent = [sender.publish(topic, b"%d" % number, qos) for number in range(COUNT)]
            for info in sent:
                info.wait_for_publish(PATIENCE)
            sender.disconnect()
            self.restart()
            again = self.tool("mosquitto_sub", *arguments, "-C", str(COUNT))
            self.assertEqual(again.ended(), 0)
            self.assertEqual(again.lines, [str(number) for number in range(COUNT)])

    def publish_over_a_kill(self, topic: str) -> None:
        """Publish ``COUNT`` messages at QoS 1 and 2 below ``topic``; the daemon is killed meanwhile."""
        poll(lambda: f"{topic}/#" in self.api(), PATIENCE, "the Subscription of the receiver")
        sender = self.paho("sender")
        for number in range(COUNT):
            for qos in 1, 2:
                sender.publish(f"{topic}/{qos}", b"%d" % number, qos)
            if number == COUNT // 2:
                self.restart()

    def check(self, topic: str, lines: Callable[[], list[str]]) -> None:
        """All of them have come, at QoS 2 once, to a receiver that has the ``lines`` "topic payload"."""
        wanted = {f"{topic}/{qos} {number}" for qos in (1, 2) for number in range(COUNT)}
        poll(lambda: wanted <= {*lines()}, PATIENCE, "all messages")
        exactly = [line for line in lines() if line.startswith(f"{topic}/2")]
        # The order is that in which paho sends again, which may be behind what is new.
        self.assertEqual(len(exactly), COUNT)

    def test_paho_reconnects_and_misses_nothing(self) -> None:
        got: list[str] = []
        receiver = self.paho("receiver", lambda topic, payload: got.append(f"{topic} {payload.decode()}"))
        receiver.subscribe("twice/#", 2)
        self.publish_over_a_kill("twice")
        self.check("twice", lambda: got)

    def test_mosquitto_sub_reconnects_and_misses_nothing(self) -> None:
        receiver = self.tool("mosquitto_sub", "-c", "-i", "stays", "-t", "stays/#", "-q", "2", "-v")
        self.publish_over_a_kill("stays")
        self.check("stays", lambda: receiver.lines)

    def test_mqtt_js_reconnects_and_misses_nothing(self) -> None:
        if not (NODE.parent / "mqtt").exists():
            raise SkipTest("MQTT.js is not installed")
        node = Program(self.program("node"), str(HERE / "restart.js"), str(self.port), str(COUNT))
        self.addCleanup(node.kill)
        node.wait_for("^half")
        self.restart()
        self.assertEqual(node.ended(), 0)
        self.assertEqual(node.lines[-1], f"{COUNT} and {COUNT} came, 0 of QoS 2 twice, after 2 connects")

    def test_node_red_reconnects_and_misses_nothing(self) -> None:
        program = NODE_RED / "node_modules" / ".bin" / "node-red"
        if not program.exists():
            raise SkipTest("Node-RED is not installed")
        folder = Path(self.mktemp())
        folder.mkdir()
        for name in "settings.js", "flows.json":
            shutil.copy(NODE_RED / name, folder)
        got = folder.absolute() / "got"
        got.touch()
        command = (self.program("node"), str(program), "--userDir", str(folder))
        node_red = Program(*command, PORT=str(self.port), GOT=str(got))
        self.addCleanup(node_red.kill)
        self.publish_over_a_kill("red")
        self.check("red", lambda: got.read_text().splitlines())

    def api(self) -> str:
        """The durable Sessions, as the API has them."""
        return self.run_program("curl", "-s", f"http://127.0.0.1:{self.port}/api/sessions")

    def test_retained_messages_and_wills_survive(self) -> None:
        self.send("kept/lamp", "-r", "-m", "on")
        self.send("kept/gone", "-r", "-m", "x")
        self.send("kept/gone", "-r", "-n")
        watcher = self.tool("mosquitto_sub", "-c", "-i", "watcher", "-t", "last/words", "-q", "1", "-E")
        self.assertEqual(watcher.ended(), 0)
        client = Client(CallbackAPIVersion.VERSION2, "mortal", clean_session=True)
        client.will_set("last/words", b"adios", 1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        poll(client.is_connected, PATIENCE, "the mortal is connected")
        self.send("kept/after", "-r", "-m", "1")  # a batch behind the Will
        client.loop_stop()
        self.restart()
        kept = self.tool("mosquitto_sub", "-t", "kept/#", "-v", "-C", "2")
        self.assertEqual((kept.ended(), sorted(kept.lines)), (0, ["kept/after 1", "kept/lamp on"]))
        watcher = self.tool("mosquitto_sub", "-c", "-i", "watcher", "-t", "last/words", "-q", "1", "-C", "1")
        self.assertEqual((watcher.ended(), watcher.lines), (0, ["adios"]))

    def test_retained_messages_of_a_new_subscription_follow_after_a_kill(self) -> None:
        """Row 361."""
        sender = self.paho("sender")
        sent = [sender.publish(f"many/{number}", b"%d" % number, 1, retain=True) for number in range(COUNT)]
        for info in sent:
            info.wait_for_publish(PATIENCE)
        got: set[bytes] = set()

        def take(topic: str, payload: bytes) -> None:
            got.add(payload)

        # One that acknowledges nothing gets as many as may be in flight.
        receiver = self.paho("late", take, manual_ack=True)
        receiver.subscribe("many/#", 1)
        poll(lambda: bool(got), PATIENCE, "the first Retained Messages")
        self.running.kill()
        receiver.loop_stop()
        self.assertLess(len(got), COUNT)
        got.clear()
        self.start()
        self.paho("late", take)
        poll(lambda: len(got) == COUNT, PATIENCE, "all Retained Messages")

    def test_an_operator_ends_a_session_and_clears_what_is_retained(self) -> None:
        subscriber = self.tool("mosquitto_sub", "-c", "-i", "plug", "-t", "home/#", "-q", "1", "-E")
        self.assertEqual(subscriber.ended(), 0)
        self.send("home/lamp", "-r", "-m", "on")

        def run(*arguments: str) -> str:
            return self.run_program(*COMMAND, "--database", self.dsn, *arguments)

        self.assertIn("'plug'", run("sessions", "list"))
        self.assertIn("1 messages wait", run("sessions", "show", "plug"))
        self.assertIn("has ended", run("sessions", "end", "plug"))
        self.assertNotIn("plug", self.api())
        self.assertIn("1 Retained Messages cleared", run("retained", "clear", "home/+"))
        self.assertEqual(run("retained", "list"), "")
