"""The clients of MQTT 5 that run in Node.js: MQTT.js, and Node-RED, whose flow is as a user would draw it."""

import atexit
import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.crash.waiting import poll
from tests.integration.clients5 import GIVEN, JOBS, ClientContract, Message, Properties, Start, shared_port
from tests.integration.clients5_python import PahoClient
from tests.integration.daemon import NODE, PATIENCE, Program, clean_environment, find_program

HERE: Final = Path(__file__).parent
NODE_RED: Final = HERE / "node-red"
#: What differs from the usual camel case.
NAMES: Final = {"userProperties": "user_property"}


def node() -> str:
    path = find_program("node")
    if path is None or not (NODE.parent / "mqtt").exists():
        raise SkipTest("MQTT.js is not installed")
    return path


def from_js(found: dict[str, Any]) -> Properties:
    """Properties as MQTT.js has them, under our names."""
    more = {
        NAMES.get(
            name, "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
        ): value
        for name, value in found.items()
    }
    if "user_property" in more:
        more["user_property"] = list(more["user_property"].items())
    if "correlation_data" in more:
        more["correlation_data"] = more["correlation_data"].encode("latin1")
    if "payload_format_indicator" in more:
        more["payload_format_indicator"] = int(more["payload_format_indicator"])
    return more


def to_js(values: Properties) -> dict[str, Any]:
    """The other way round."""
    more = dict(values)
    if "user_property" in more:
        more["user_properties"] = dict(more.pop("user_property"))
    if "correlation_data" in more:
        more["correlation_data"] = more["correlation_data"].decode("latin1")
    if "payload_format_indicator" in more:
        more["payload_format_indicator"] = bool(more["payload_format_indicator"])
    heads = {name: name.title().replace("_", "") for name in more}
    return {heads[name][0].lower() + heads[name][1:]: value for name, value in more.items()}


class Node:
    """The process in which all clients of MQTT.js live; it ends with this one."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, queue.Queue[Any]]] = {}
        self._process = subprocess.Popen(
            [node(), str(HERE / "client5.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self._end)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            client_id, kind, value = json.loads(line)
            self._queues[client_id][kind].put(value)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in self._process.stdin, self._process.stdout:
            assert pipe is not None
            pipe.close()

    def add(self, client_id: str) -> "dict[str, queue.Queue[Any]]":
        """Return what a client answers to commands, ``done``, and what it gets, ``message``."""
        self._queues[client_id] = {"done": queue.Queue(), "message": queue.Queue()}
        return self._queues[client_id]

    def tell(self, client_id: str, command: str, given: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([client_id, command, given]) + "\n")
        self._process.stdin.flush()


@cache
def shared_node() -> Node:
    return Node()


class MqttJsClient:
    """MQTT.js."""

    shown: Final[dict[int, str | None]] = {
        1: "Publish error: Payload format invalid: JSON is malformed",
        2: "Publish error: Payload format invalid: JSON is malformed",
    }

    def __init__(self, port: int, client_id: str) -> None:
        self._node, self._port, self._client_id = shared_node(), port, client_id
        self._queues = self._node.add(client_id)
        self._ended = False

    def _ask(self, command: str, **given: Any) -> str:
        self._node.tell(self._client_id, command, given)
        answer: str = self._queues["done"].get(timeout=PATIENCE)
        return answer

    def start(self, start: Start) -> None:
        will = None
        if (left := start.will) is not None:
            delayed = {"willDelayInterval": left.delay}
            will = {"topic": left.topic, "payload": left.payload, "qos": 1, "properties": delayed}
        given = {"filters": start.filters, "clean": start.clean, "expiry": start.expiry, "will": will}
        assert (said := self._ask("start", port=self._port, **given)) == "", said

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **values: Any) -> str:
        text = payload.decode("latin1")
        return self._ask(
            "publish", topic=topic, payload=text, qos=qos, retain=retain, properties=to_js(values)
        )

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            assert self.publish("" if number else topic, payload, 1, topic_alias=1) == ""

    def take(self) -> Message:
        value = self._queues["message"].get(timeout=PATIENCE)
        more, payload = from_js(value.pop("properties")), value.pop("payload").encode("latin1")
        return Message(payload=payload, properties=more, **value)

    def cut(self) -> None:
        self._ended = True
        self._ask("cut")

    def stop(self) -> None:
        if not self._ended:
            self._ended = True
            self._ask("stop")


class MqttJs(ClientContract, SynchronousTestCase):
    make = MqttJsClient


class NodeRed(SynchronousTestCase):
    """The flow of flows5.json sends back what it gets, does jobs, and writes down what it sees.

    paho is the other side.
    """

    def setUp(self) -> None:
        program = NODE_RED / "node_modules" / ".bin" / "node-red"
        if not program.exists():
            raise SkipTest("Node-RED is not installed")
        self.port, folder = shared_port(), Path(self.mktemp()).absolute()
        folder.mkdir()
        shutil.copy(NODE_RED / "settings.js", folder)
        shutil.copy(NODE_RED / "flows5.json", folder / "flows.json")
        self.got = folder / "got"
        self.got.touch()
        self.other = self.client("other", "red5/out/+", "$share/workers/red5/jobs/+", "red5/will")
        self.other.publish("red5/kept", b"x", 1, True)
        command = (node(), str(program), "--userDir", str(folder))
        self.node_red = Program(*command, PORT=str(self.port), GOT=str(self.got))
        self.addCleanup(self.node_red.kill)
        self.wait_for("red5/kept x true")

    def client(self, name: str, *filters: str) -> PahoClient:
        client = PahoClient(self.port, f"node-red-{name}")
        client.start(Start(filters))
        self.addCleanup(client.stop)
        return client

    def lines(self) -> list[str]:
        return self.got.read_text().splitlines()

    def wait_for(self, *lines: str) -> None:
        poll(lambda: {*lines} <= {*self.lines()}, PATIENCE, f"{lines} in what Node-RED has written")

    def test_node_red(self) -> None:
        """All of it in one process: it takes seconds to start."""
        self.it_sends_back_what_it_gets()
        self.it_shares_jobs()
        for qos in 1, 2:
            self.other.publish("red5/refuse", b"", qos)
            refused = self.refused(qos)
            poll(refused, PATIENCE, "the refusal, which a catch node has got")
        began = time.monotonic()
        self.node_red.kill()
        will = self.other.take()
        wanted = Message("red5/will", b"gone", 1, False, {"content_type": "text/plain"})
        self.assertEqual(will, wanted)
        self.assertTrue(time.monotonic() - began > 0.9)

    def it_sends_back_what_it_gets(self) -> None:
        """At every QoS, retained or not, with a Topic Alias from the second message on."""
        for qos in 0, 1, 2:
            for retain in False, True:
                sent = {"message_expiry_interval": 600, **GIVEN}
                self.other.publish("red5/in/x", b"%d" % qos, qos, retain, **sent)
                message = self.other.take()
                left = message.properties.pop("message_expiry_interval")
                self.assertTrue(0 < left <= 600)
                self.assertEqual(message, Message("red5/out/x", b"%d" % qos, qos, False, GIVEN))
        late = self.client("late", "red5/out/x")
        self.assertEqual(late.take().retain, True)
        for topic in "red5/in/x", "red5/out/x", "red5/kept":
            self.other.publish(topic, b"", 1, True)

    def it_shares_jobs(self) -> None:
        """With paho."""
        sender = self.client("sender")
        topics = [f"red5/jobs/{number}" for number in range(JOBS)]
        for topic in topics:
            sender.publish(topic, b"job", 1)
        sender.publish("red5/out/end", b"", 1)
        got = []
        while (message := self.other.take()).topic != "red5/out/end":
            got.append(message.topic)
        rest = [f"{topic} job false" for topic in topics if topic not in got]
        self.assertTrue(got and rest)
        self.wait_for(*rest)
        self.assertEqual(sum(" job " in line for line in self.lines()), len(rest))

    def refused(self, times: int) -> Callable[[], bool]:
        """Whether it has got so many refusals."""
        said = "Publish error: Payload format invalid"
        return lambda: sum(line.endswith(said) for line in self.lines()) == times
