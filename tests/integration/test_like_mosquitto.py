"""The fifty-one bad inputs against the real daemon, and beside it against Mosquitto as the oracle."""

import contextlib
import os
import select
import socket
import subprocess
import tempfile
import time

from tests.integration.bad_inputs import INPUTS, BadInput, connect, packet, text
from tests.integration.daemon import PATIENCE, DaemonTestCase
from tests.ports import free_port

PINGREQ = b"\xc0\x00"
#: The last three take their time; the others are decided at once.
DECIDED_AT_ONCE = INPUTS[:-3]
#: Seconds that are no deadline of a broker: what takes longer than this waits for something.
AT_ONCE = 8.0


def is_closed(port: int, bad: BadInput) -> bool:
    """Send the input and a PINGREQ: true when the connection is closed, false when PINGRESP comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=AT_ONCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bad.connect:
            client.sendall(connect("bad-input"))
            assert client.recv(4)[:2] == b"\x20\x02"
        received = b""
        try:
            client.sendall(bad.data)
            client.sendall(PINGREQ)
            while data := client.recv(65_536):
                received += data
                if received.endswith(b"\xd0\x00"):
                    return False
        except TimeoutError:
            raise AssertionError(f"{bad.name}: neither closed nor answered, {received!r}") from None
        except ConnectionError:
            return True
        return True


def receive(client: socket.socket) -> bytes:
    """What has come; nothing at the end of the connection."""
    try:
        return client.recv(4096)
    except ConnectionError:
        return b""


class BadInputs(DaemonTestCase):
    def test_ours_closes_all_that_the_standard_wants_closed(self) -> None:
        daemon = self.daemon(*self.shared_database())
        port = daemon.ready()
        wrong = [bad.name for bad in DECIDED_AT_ONCE if is_closed(port, bad) != bad.closed]
        self.assertEqual(wrong, [])
        self.assertEqual([line for line in daemon.lines if "Traceback" in line or "Bug" in line], [])

    def test_silence_and_slowness_end_in_time(self) -> None:
        """Rows 14 and 27; how exactly is shown with a Clock, which no busy machine delays."""
        port = self.daemon(
            *self.shared_database(), environ={"PLATZIVERSE_LIMITS_CONNECT_DEADLINE": "4"}
        ).ready()
        names = ("silent", "slow", "idle")
        clients = {name: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for name in names}
        for client in clients.values():
            self.addCleanup(client.close)
        began = time.monotonic()
        clients["idle"].sendall(packet(0x10, text("MQTT"), b"\x04\x02\x00\x01", text("idle")))
        self.assertEqual(clients["idle"].recv(4), b"\x20\x02\x00\x00")
        ended = self.ends(clients, began)
        self.assertTrue(1.5 <= ended["idle"] < PATIENCE, ended)
        self.assertTrue(3.9 <= ended["silent"] < PATIENCE, ended)
        self.assertTrue(3.9 <= ended["slow"] < PATIENCE, ended)

    def ends(self, clients: "dict[str, socket.socket]", began: float) -> "dict[str, float]":
        """The seconds after which each was closed, while the slow one sends a byte of CONNECT a second."""
        ended: dict[str, float] = {}
        bytes_of_seconds = enumerate(connect("a CONNECT that takes longer than it may"))
        second, byte = next(bytes_of_seconds)
        while len(ended) < len(clients):
            names = {client: name for name, client in clients.items() if name not in ended}
            readable, _, _ = select.select(list(names), [], [], 0.05)
            now = time.monotonic() - began
            self.assertLess(now, PATIENCE, ended)
            for client in readable:
                self.assertEqual(receive(client), b"", names[client])
                ended[names[client]] = now
            if now >= second and "slow" not in ended:
                with contextlib.suppress(ConnectionError):
                    clients["slow"].sendall(bytes((byte,)))
                second, byte = next(bytes_of_seconds)
        return ended

    def test_mosquitto_does_the_same_but_where_it_is_written_down(self) -> None:
        program = self.program("mosquitto")
        port = free_port()
        with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as conf:
            conf.write(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        self.addCleanup(os.unlink, conf.name)
        process = subprocess.Popen([program, "-c", conf.name], stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.wait_for_port(port)
        wrong = [
            bad.name
            for bad in DECIDED_AT_ONCE
            if is_closed(port, bad) != (bad.closed if bad.mosquitto_closed is None else bad.mosquitto_closed)
        ]
        self.assertEqual(wrong, [])

    @staticmethod
    def wait_for_port(port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
