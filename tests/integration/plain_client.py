"""An MQTT client of a few lines, so that nothing of ours is judged by itself."""

import socket

PASSWORD = "secret"


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


class Refused(Exception):
    """:param code: the return code of CONNACK."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CONNACK 0x{code:02x}")
        self.code = code


class PlainClient:
    """A blocking client of a few lines, so that nothing of ours is judged by itself."""

    def __init__(
        self, port: int, client_id: str, username: "str | None" = None, password: str = PASSWORD
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.messages: list[tuple[str, bytes]] = []
        flags = 0x02 | (0xC0 if username is not None else 0)
        login = text(username) + text(password) if username is not None else b""
        self._send(0x10, text("MQTT") + bytes((4, flags, 0, 60)) + text(client_id) + login)
        answer = self._wait_for(0x20)
        if answer[1] != 0:
            self.close()
            raise Refused(answer[1])

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
        size = len(body)
        assert size < 128 * 128
        length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))
        self.socket.sendall(bytes((first,)) + length + body)

    def _wait_for(self, wanted: int) -> bytes:
        while True:
            first, size = self._read(2)
            assert size < 128
            body = self._read(size)
            if first & 0xF0 == wanted:
                return body
            assert first & 0xF6 == 0x30, hex(first)  # PUBLISH of QoS 0, retained or not
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
