"""The fifty-one bad inputs against the real daemon, and beside it against Mosquitto as the oracle."""

import os
import socket
import subprocess
import tempfile
import time

from tests.integration.bad_inputs import INPUTS, BadInput, connect, packet, text
from tests.integration.daemon import DaemonTestCase

PINGREQ = b"\xc0\x00"
#: The last three take their time; the others are decided at once.
AT_ONCE = INPUTS[:-3]


def is_closed(port: int, bad: BadInput, wait: float) -> bool:
    """Send the input and a PINGREQ; whether the broker closes the connection within ``wait`` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bad.connect:
            client.sendall(connect("bad-input"))
            assert client.recv(4)[:2] == b"\x20\x02"
        client.settimeout(wait)
        try:
            client.sendall(bad.data)
            client.sendall(PINGREQ)
            received = b""
            while data := client.recv(65_536):
                received += data
                if received.endswith(b"\xd0\x00"):
                    return False
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


class BadInputs(DaemonTestCase):
    def test_ours_closes_all_that_the_standard_wants_closed(self) -> None:
        daemon = self.daemon()
        port = daemon.port()
        wrong = [bad.name for bad in AT_ONCE if is_closed(port, bad, 2.0) != bad.closed]
        self.assertEqual(wrong, [])
        self.assertEqual([line for line in daemon.lines if "Traceback" in line or "Bug" in line], [])

    def test_silence_and_slowness_end_in_time(self) -> None:
        """rows 14 and 27"""
        port = self.daemon().port()
        began = time.monotonic()
        silent, slow, idle = (socket.create_connection(("127.0.0.1", port)) for _ in range(3))
        keep_alive_1 = packet(0x10, text("MQTT"), b"\x04\x02\x00\x01", text("idle"))
        idle.sendall(keep_alive_1)
        self.assertEqual(idle.recv(4), b"\x20\x02\x00\x00")
        for client in (silent, slow, idle):
            client.settimeout(0.5)
            self.addCleanup(client.close)
        ended: dict[str, float] = {}
        for byte in connect("slow") + b"\0" * 60:
            if "slow" not in ended:
                try:
                    slow.sendall(bytes((byte,)))
                except ConnectionError:
                    ended.setdefault("slow", time.monotonic() - began)
            for name, client in (("silent", silent), ("idle", idle), ("slow", slow)):
                try:
                    if name not in ended and client.recv(1) == b"":
                        ended[name] = time.monotonic() - began
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended.setdefault(name, time.monotonic() - began)
            if len(ended) == 3:
                break
        self.assertTrue(1.5 <= ended["idle"] <= 4.0, ended)
        self.assertTrue(9.9 <= ended["silent"] <= 13.0, ended)
        self.assertTrue(9.9 <= ended["slow"] <= 13.0, ended)

    def test_mosquitto_does_the_same_but_where_it_is_written_down(self) -> None:
        program = self.program("mosquitto")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as conf:
            conf.write(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        self.addCleanup(os.unlink, conf.name)
        process = subprocess.Popen([program, "-c", conf.name], stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.wait_for_port(port)
        wrong = [
            bad.name
            for bad in AT_ONCE
            if is_closed(port, bad, 1.0)
            != (bad.closed if bad.mosquitto_closed is None else bad.mosquitto_closed)
        ]
        self.assertEqual(wrong, [])

    @staticmethod
    def wait_for_port(port: int) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
