"""What clients can make grow, in a real daemon with a small budget: its memory, and an innocent client."""

import contextlib
import os
import resource
import socket
import time
from typing import Final

from platziverse.broker.limits import MIB
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Publish, Subscribe, Subscription
from tests.integration.daemon import DaemonTestCase

#: What sessions and messages may take; the rest of the process, and what malloc keeps, comes on top.
BUDGET: Final = 64 * MIB
MARGIN: Final = 96 * MIB


def resident(pid: int) -> int:
    """Bytes of the process that are in memory."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Attacks(DaemonTestCase):
    """Rows 170, 172, 173, 174."""

    def setUp(self) -> None:
        environ = {"PLATZIVERSE_LIMITS_MAX_MEMORY": str(BUDGET), "PLATZIVERSE_WEB_READERS": "everyone"}
        self.server = self.daemon("--database", "host=/nonexistent dbname=x", environ=environ)
        self.port = self.server.port()
        self.sockets: list[socket.socket] = []
        self.addCleanup(self.close_all)
        self.innocent = self.connected("innocent")
        self.before = resident(self.server.process.pid)

    def close_all(self) -> None:
        for one in self.sockets:
            one.close()

    def open(self) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port))
        opened.settimeout(10)
        self.sockets.append(opened)
        return opened

    def connected(self, client_id: str) -> socket.socket:
        opened = self.open()
        opened.sendall(encode(Connect(client_id)))
        self.assertEqual(opened.recv(4), b"\x20\x02\x00\x00")
        return opened

    def flood(self, opened: socket.socket, data: bytes) -> None:
        """Send what it takes; a connection that is closed meanwhile is fine."""
        with contextlib.suppress(OSError):
            opened.sendall(data)

    def assert_all_is_well(self) -> None:
        """The process lives within its budget, and answers others."""
        time.sleep(1.5)  # a look at the memory
        self.assertIsNone(self.server.process.poll(), self.server.output)
        grown = resident(self.server.process.pid) - self.before
        self.assertLess(grown, BUDGET + MARGIN)
        self.innocent.sendall(b"\xc0\x00")
        self.assertEqual(self.innocent.recv(2), b"\xd0\x00")

    def test_incomplete_packets(self) -> None:
        large = encode(Publish("t", bytes(MIB)))[:-1]
        for number in range(300):
            self.flood(self.connected(f"attacker-{number}"), large)
        self.assert_all_is_well()

    def test_half_connects(self) -> None:
        half = encode(Connect("x" * 1000, username="u", password=bytes(60_000)))[:-1]
        for _ in range(min(1500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 200)):
            self.flood(self.open(), half)
        self.assert_all_is_well()

    def test_deep_filters(self) -> None:
        for client in range(20):
            attacker = self.connected(f"attacker-{client}")
            for packet in range(10):
                filters = [
                    Subscription("/".join([f"{client}-{packet}-{number}", *["+"] * 15]), 0)
                    for number in range(200)
                ]
                self.flood(attacker, encode(Subscribe(packet + 1, filters)))
        self.assert_all_is_well()

    def test_answers_that_nobody_reads(self) -> None:
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(200):
            self.flood(self.open(), request * 400)
        self.assert_all_is_well()


assert os.path.exists("/proc/self/statm"), "these tests read /proc"
