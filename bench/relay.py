"""No broker: passes bytes on as they are, the least that any broker can cost: ``python -m bench.relay PORT``.

It answers CONNECT and SUBSCRIBE, sends what comes from a publisher to every subscriber, and a PUBACK for
each PUBLISH of QoS 1, all of which have the size of the first. So it shows what the kernel takes, and how
much the load generator can give; it knows no topics, and no QoS 2.
"""

import selectors
import socket
import sys
from contextlib import suppress

from tests.crash.wire import split

READ = 64 * 1024


class Connection:
    """One client, a publisher or a subscriber."""

    def __init__(self, client: socket.socket, relay: "Relay") -> None:
        self.socket, self._relay = client, relay
        self._size = 0
        self._odd = b""

    def readable(self) -> None:
        try:
            data = self.socket.recv(READ)
        except ConnectionError:
            data = b""
        if not data:
            self._relay.forget(self)
        elif data[0] >> 4 in (1, 8) and not self._size:
            self._introduce(data)
        elif self not in self._relay.subscribers:
            self._publish(data)

    def send(self, data: bytes | bytearray) -> None:
        """All of it, or nothing more if the client has gone; reading from it will tell."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def _introduce(self, data: bytes) -> None:
        for first, body in split(bytearray(data)):
            if first == 0x10:
                self.socket.sendall(b"\x20\x02\x00\x00")
            else:
                self._relay.subscribers[self] = None
                self.socket.sendall(b"\x90\x03" + body[:2] + body[-1:])

    def _publish(self, data: bytes) -> None:
        self._size = self._size or 2 + data[1]
        data = self._odd + data
        end = len(data) // self._size * self._size
        self._odd = data[end:]
        whole = data[:end]
        for subscriber in self._relay.subscribers:
            subscriber.send(whole)
        if data[0] & 6:
            at = 4 + int.from_bytes(data[2:4], "big")
            acks = bytearray(b"\x40\x02\x00\x00" * (end // self._size))
            acks[2::4], acks[3::4] = whole[at :: self._size], whole[at + 1 :: self._size]
            self.send(acks)


class Relay:
    """Waits for whoever has something to read."""

    def __init__(self, port: int) -> None:
        self.subscribers: dict[Connection, None] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._running = True

    def run(self) -> None:
        """Until ``stop``, which a connection has to wake up."""
        while self._running:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._accept()
                else:
                    key.data.readable()
        for connection in [key.data for key in self._selector.get_map().values() if key.data]:
            self.forget(connection)
        self._selector.close()
        self._listener.close()

    def stop(self) -> None:
        """From any thread."""
        with socket.create_connection(("127.0.0.1", self.port)):
            self._running = False  # and the end of this connection wakes it up

    def forget(self, connection: Connection) -> None:
        self.subscribers.pop(connection, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(client, selectors.EVENT_READ, Connection(client, self))


if __name__ == "__main__":
    relay = Relay(int(sys.argv[1]))
    print("ready", flush=True)
    relay.run()
