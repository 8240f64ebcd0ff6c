"""The table of access rules, put to a real Mosquitto: it must answer as our rules do."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.access.acl_cases import CASES, Case
from tests.integration.daemon import PATIENCE

PASSWORD = "secret"
#: May do everything; appended to every file.
OBSERVER = "\nuser observer\ntopic readwrite #\ntopic readwrite $SYS/#\n"


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


class PlainClient:
    """A blocking client of a few lines, so that nothing of ours is judged by itself."""

    def __init__(self, port: int, client_id: str, username: "str | None") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.messages: list[tuple[str, bytes]] = []
        flags = 0x02 | (0xC0 if username is not None else 0)
        login = text(username) + text(PASSWORD) if username is not None else b""
        self._send(0x10, text("MQTT") + bytes((4, flags, 0, 60)) + text(client_id) + login)
        answer = self._wait_for(0x20)
        if answer[1] != 0:
            self.close()
            raise AssertionError(f"{client_id!r} {username!r}: CONNACK {answer[1]}")

    def publish(self, topic: str, payload: bytes) -> None:
        """QoS 1, until the PUBACK."""
        self._send(0x32, text(topic) + b"\x00\x01" + payload)
        self._wait_for(0x40)

    def subscribe(self, topic_filter: str) -> int:
        self._send(0x82, b"\x00\x02" + text(topic_filter) + b"\x00")
        return self._wait_for(0x90)[2]

    def ping(self) -> None:
        """What was delivered before is here when this returns."""
        self._send(0xC0, b"")
        self._wait_for(0xD0)

    def close(self) -> None:
        self.socket.close()

    def _send(self, first: int, body: bytes) -> None:
        assert len(body) < 128
        self.socket.sendall(bytes((first, len(body))) + body)

    def _wait_for(self, wanted: int) -> bytes:
        while True:
            first, size = self._read(2)
            assert size < 128
            body = self._read(size)
            if first & 0xF0 == wanted:
                return body
            assert first == 0x30, hex(first)
            end = 2 + int.from_bytes(body[:2], "big")
            self.messages.append((body[2:end].decode(), body[end:]))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise AssertionError("the broker has closed the connection")
            data += more
        return data


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mosquitto(folder: Path, acl: str, usernames: "set[str]") -> Iterator[int]:
    """A Mosquitto with these rules on a free port; gives the port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None or shutil.which("mosquitto_passwd") is None:
        raise SkipTest("Mosquitto is not installed")
    folder.mkdir(parents=True)
    passwords = folder / "passwords"
    passwords.write_text("".join(f"{name}:{PASSWORD}\n" for name in sorted(usernames)))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    (folder / "acl").write_text(acl)
    port = free_port()
    (folder / "conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"password_file {passwords.absolute()}\nacl_file {(folder / 'acl').absolute()}\n"
    )
    process = subprocess.Popen([program, "-c", str(folder / "conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError("Mosquitto did not start")
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("Mosquitto does not listen")


def outcome(port: int, case: Case) -> bool:
    """Whether the message of this case arrives."""
    with (
        closing(PlainClient(port, "observer", "observer")) as observer,
        closing(PlainClient(port, case.client_id, case.username)) as client,
    ):
        if case.action == "publish":
            observer.subscribe(case.topic)
            client.publish(case.topic, b"x")
            observer.ping()
            return bool(observer.messages)
        client.subscribe(case.topic)
        observer.publish(case.topic, b"x")
        client.ping()
        return bool(client.messages)


class TestMosquitto(SynchronousTestCase):
    def test_mosquitto_decides_every_case_as_the_table_says(self) -> None:
        names = {case.username for case in CASES if case.username is not None} | {"observer"}
        for acl in sorted({case.acl for case in CASES}):
            with mosquitto(Path(self.mktemp()), acl + OBSERVER, names) as port:
                for case in CASES:
                    if case.acl == acl:
                        self.assertEqual(outcome(port, case), case.allowed, case)
