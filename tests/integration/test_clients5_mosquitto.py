"""The tools of Mosquitto with ``-V 5``; mosquitto_rr is in test_mqtt5.py."""

import json
import subprocess
from typing import Any, Final

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.clients5 import ClientContract, Message, Properties, Start
from tests.integration.daemon import PATIENCE, Program, find_program


def program(name: str) -> str:
    if (path := find_program(name)) is None:
        raise SkipTest(f"{name} is not installed")
    return path


def options(packet: str, values: Properties) -> list[str]:
    """Options for Properties of a packet: ``-D publish content-type text/plain``."""
    given: list[str] = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [(value,)]:
            texts = [text.decode() if isinstance(text, bytes) else str(text) for text in one]
            given += ["-D", packet, name.replace("_", "-"), *texts]
    return given


class MosquittoClient:
    """A Client Identifier: a mosquitto_sub while it is connected, and a mosquitto_pub for each message."""

    shown: Final[dict[int, str | None]] = {
        1: "Publish 1 failed: Payload format invalid",
        2: "Payload format invalid",
    }

    def __init__(self, port: int, client_id: str) -> None:
        self._client_id, self._port = client_id, str(port)
        self._sub: Program | None = None
        self._read = 0

    def start(self, start: Start) -> None:
        filters = start.filters or (f"nothing/{self._client_id}",)
        command = [program("stdbuf"), "-oL", program("mosquitto_sub"), "-V", "5", "-p", self._port, "-d"]
        command += ["-i", self._client_id, "-q", "2", "-F", "%j"]
        command += ["-x", str(start.expiry), *([] if start.clean else ["-c"])]
        for topic_filter in filters:
            command += ["-t", topic_filter]
        if (will := start.will) is not None:
            command += ["--will-topic", will.topic, "--will-payload", will.payload, "--will-qos", "1"]
            command += ["-D", "will", "will-delay-interval", str(will.delay)]
        self._sub = Program(*command)
        self._sub.wait_for("^Subscribed")

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **values: Any) -> str:
        more = ["-r"] if retain else []
        return self._pub(topic, qos, "-m", payload.decode(), *more, *options("publish", values))

    def _pub(self, topic: str, qos: int, *more: str, lines: bytes = b"") -> str:
        command = [program("mosquitto_pub"), "-V", "5", "-p", self._port, "-t", topic, "-q", str(qos), *more]
        done = subprocess.run(command, input=lines, capture_output=True, timeout=PATIENCE, check=False)
        return done.stderr.decode()

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        """With ``-l`` it sends the name with the first line alone."""
        lines = b"".join(payload + b"\n" for payload in payloads)
        assert self._pub(topic, 1, "-l", *options("publish", {"topic_alias": 1}), lines=lines) == ""

    def take(self) -> Message:
        assert self._sub is not None
        self._sub.wait_for("^{", self._read)
        while not self._sub.lines[self._read].startswith("{"):
            self._read += 1
        self._read += 1
        found = json.loads(self._sub.lines[self._read - 1])
        more: Properties = {
            {"user-properties": "user_property"}.get(name, name.replace("-", "_")): value
            for name, value in found.get("properties", {}).items()
        }
        if "user_property" in more:
            more["user_property"] = list(more["user_property"].items())
        if "correlation_data" in more:
            more["correlation_data"] = more["correlation_data"].encode()
        payload = (found["payload"] or "").encode()
        return Message(found["topic"], payload, found["qos"], bool(found["retain"]), more)

    def cut(self) -> None:
        if self._sub is not None:
            self._sub.kill()
            self._sub = None

    def stop(self) -> None:
        """Kill it: it sends DISCONNECT out of its signal handler, and hangs if it holds a lock by then."""
        self.cut()


class Mosquitto(ClientContract, SynchronousTestCase):
    make = MosquittoClient
