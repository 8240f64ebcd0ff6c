"""AttackCase: attackers of a real daemon, and an innocent client."""

import contextlib
import socket
import time
from typing import Final

from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from tests.integration.daemon import Daemon, DaemonTestCase

ACCEPTED: Final = b"\x20\x02\x00\x00"


class AttackCase(DaemonTestCase):
    """Tests that start a daemon, call ``begin``, attack, and look whether all is well."""

    def begin(self, server: Daemon) -> None:
        """The innocent client connects to ``server``."""
        self.server, self.port = server, server.port()
        self.sockets: list[socket.socket] = []
        self.addCleanup(self.close_all)
        self.innocent = self.connected("innocent")

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
        self.assertEqual(opened.recv(4), ACCEPTED)
        return opened

    def flood(self, opened: socket.socket, data: bytes) -> None:
        """Send what it takes; a connection that is closed meanwhile is fine."""
        with contextlib.suppress(OSError):
            opened.sendall(data)

    def ask_for_answers(self, count: int) -> None:
        """So many attackers ask for pages, and read none."""
        for _ in range(count):
            self.flood(self.open(), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)

    def assert_all_is_well(self) -> None:
        """The process lives, and answers others."""
        time.sleep(1.5)  # a look at the memory
        self.assertIsNone(self.server.process.poll(), self.server.output)
        self.innocent.sendall(b"\xc0\x00")
        self.assertEqual(self.innocent.recv(2), b"\xd0\x00")
