"""The clients of the load generator: plain sockets, prebuilt bytes, counted bytes."""

import select
import socket
import time
from collections import deque
from functools import partial

from bench import wire5
from bench.rings import Ring, Unframer, frame
from tests.crash import wire

BUFFER = 128 * 1024
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)


class Unexpected(Exception):
    """The broker did something that the measurement does not allow for."""


class Tally:
    """What all clients of one run have seen.

    :param deliveries: of one message, to all subscribers together; 0: nobody subscribes.
    """

    def __init__(self, deliveries: int, publishers: int) -> None:
        self._per_share = deliveries * publishers
        self.delivered = 0
        self.acknowledged = 0
        self.latencies: list[float] = []

    def share(self) -> float:
        """Messages of one publisher that have reached the subscribers, as if all sent equally many."""
        return self.delivered // self._per_share if self._per_share else float("inf")

    def count(self) -> int:
        """What the run is measured in: deliveries, or acknowledgements where nobody subscribes."""
        return self.delivered if self._per_share else self.acknowledged


def exactly(client: socket.socket, size: int) -> bytes:
    """That many bytes; :raises Unexpected: the connection ended before."""
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise Unexpected(f"the broker closed the connection after {data!r}")
        data += piece
    return data


def second_byte(data: bytes) -> int:
    """Remaining Length of the first packet; :raises Unexpected: it is cut before that."""
    if len(data) < 2:
        raise Unexpected(f"half an acknowledgement, {data!r}")
    return data[1]


class Client:
    """One connected client; what the kernel does not take at once waits.

    :param mask: of WebSocket frames; empty: plain MQTT.
    :param clean: it has no Session that outlives the connection.
    :param protocol: 4 or 5.
    :param asks: Properties of its CONNECT, in MQTT 5.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        mask: bytes = b"",
        clean: bool = True,
        protocol: int = 4,
        asks: bytes = b"",
    ) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.mask = mask
        if mask:
            self.socket.sendall(UPGRADE)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += exactly(self.socket, 1)
            if b" 101 " not in answer:
                raise Unexpected(f"no WebSocket: {answer!r}")
        self.protocol = protocol
        if protocol == 5:
            self._connect5(wire5.connect(name, clean, 0, asks))
        else:
            self.ask(wire.connect(name, clean, 0), b"\x20\x02\x00\x00")
        self._poll: select.epoll | None = None
        self._left = b""

    def _connect5(self, packet: bytes) -> None:
        """CONNECT of MQTT 5, and its CONNACK, which has Properties of any length."""
        self.socket.sendall(frame(packet, self.mask) if self.mask else packet)
        if self.mask:
            exactly(self.socket, 2)
        answer = exactly(self.socket, 2)
        answer += exactly(self.socket, answer[1])
        if (answer[0], answer[3]) != (0x20, 0):
            raise Unexpected(f"{answer!r} for a CONNECT of MQTT 5")

    def ask(self, packet: bytes, answer: bytes) -> None:
        """Send ``packet`` and wait for exactly ``answer``; before ``start`` only."""
        self.socket.sendall(frame(packet, self.mask) if self.mask else packet)
        came = b""
        while len(came) < len(answer):
            size = exactly(self.socket, 2)[1] if self.mask else len(answer)
            came += exactly(self.socket, size)
        if came != answer:
            raise Unexpected(f"{came!r} instead of {answer!r}")

    def subscribe(self, topic_filters: list[str], qos: int, properties: bytes = b"") -> None:
        """All of them at once; before ``start`` only.

        :param properties: of each SUBSCRIBE, in MQTT 5.
        """
        five = self.protocol == 5
        write = partial(wire5.subscribe, properties=properties) if five else wire.subscribe
        packets = [write(name, qos, number) for number, name in enumerate(topic_filters, 1)]
        head, none = (b"\x90\x04", b"\0") if five else (b"\x90\x03", b"")
        answers = [head + packet[2:4] + none + bytes((qos,)) for packet in packets]
        self.ask(b"".join(packets), b"".join(answers))

    def receive(self, count: int) -> None:
        """Take and acknowledge so many short messages at QoS 1; before ``start`` only."""
        for _ in range(count):
            first = exactly(self.socket, 2)
            body = exactly(self.socket, first[1])
            at = 2 + int.from_bytes(body[:2], "big")
            self.socket.sendall(wire.puback(int.from_bytes(body[at : at + 2], "big")))

    def leave(self) -> None:
        """Disconnect; before ``start`` only."""
        self.socket.sendall(wire.DISCONNECT)
        while self.socket.recv(BUFFER):
            pass
        self.socket.close()

    def start(self, poll: select.epoll) -> None:
        self.socket.setblocking(False)
        self._poll = poll
        poll.register(self.socket, select.EPOLLIN)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep for later what the kernel does not take."""
        if self._left:
            self._left += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._left = bytes(data[sent:])
            self._wait_for(select.EPOLLIN | select.EPOLLOUT)

    def writable(self) -> None:
        """The kernel takes more again."""
        sent = self.socket.send(self._left)
        self._left = self._left[sent:]
        if not self._left:
            self._wait_for(select.EPOLLIN)

    def _wait_for(self, events: int) -> None:
        assert self._poll is not None
        self._poll.modify(self.socket, events)


class Publisher(Client):
    """Keeps ``window`` messages under way: not acknowledged, or not delivered."""

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        tally: Tally,
        ring: Ring,
        qos: int,
        window: int,
        mask: bytes,
        protocol: int = 4,
    ) -> None:
        super().__init__(address, name, mask, protocol=protocol)
        # Bytes of an acknowledgement; 0: the first one tells.
        self._unit = 4 if protocol == 4 else 0
        self._tally, self._ring, self._window = tally, ring, window
        # A sender that waits for a few acknowledgements costs everybody less than one that does not.
        self._least = max(1, window // 4)
        # How many it may have sent by now.
        self._allowed = float("inf")
        self._sent, self._qos = 0, qos
        self._acknowledged = float("inf") if qos == 0 else 0
        self._times: deque[float] = deque()
        self._odd = 0
        self._releases = Ring([wire.pubrel(number) for number in range(1, ring.count + 1)])

    def publish(self) -> None:
        """Send as much as the window allows."""
        room = min(min(self._acknowledged, self._tally.share()) + self._window, self._allowed) - self._sent
        if room < self._least:
            return
        while room > 0 and not self._left:
            packets = self._ring.take(int(min(room, self._window)))
            count = len(packets) // self._ring.size
            self._sent += count
            room -= count
            if self._qos:
                self._times.extend([time.perf_counter()] * count)
            self.write(packets)

    def allow(self, messages: int) -> None:
        """Publish so many in all by now, and not more, each as soon as it is allowed."""
        self._allowed, self._least = messages, 1
        self.publish()

    def pause(self) -> None:
        """Send no further messages."""
        self._window = -(2**62)

    def readable(self) -> None:
        """Acknowledgements, which have four bytes each and come in order. [MQTT-4.6.0-2] [MQTT-4.6.0-3]

        Or five, in MQTT 5, where they say that nobody has subscribed; all of a run are alike.
        """
        data = self.socket.recv(BUFFER)
        if not data:
            raise Unexpected("the broker closed the connection of a publisher")
        if not self._unit:
            self._unit = 2 + second_byte(data)
        kinds = data[-self._odd % self._unit :: self._unit]
        self._odd = (self._odd + len(data)) % self._unit
        received, done = kinds.count(0x50), kinds.count(0x40) + kinds.count(0x70)
        if received + done != len(kinds):
            raise Unexpected(f"a publisher got {data[:32]!r}")
        while received:
            releases = self._releases.take(received)
            received -= len(releases) // 4
            self.write(releases)
        if done:
            self._complete(done)

    def _complete(self, count: int) -> None:
        now = time.perf_counter()
        self._acknowledged += count
        self._tally.acknowledged += count
        self._tally.latencies.extend(now - self._times.popleft() for _ in range(count))
        self.publish()


class Subscriber(Client):
    """Counts deliveries of ``size`` bytes, and acknowledges them; the Packet Identifier is at ``id_at``."""

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        tally: Tally,
        size: int,
        id_at: int,
        qos: int,
        mask: bytes,
        clean: bool = True,
        protocol: int = 4,
        asks: bytes = b"",
    ) -> None:
        super().__init__(address, name, mask, clean, protocol, asks)
        self._tally, self._size, self._id_at, self._qos = tally, size, id_at, qos
        self._buffer, self._kept = bytearray(BUFFER), 0
        self._view = memoryview(self._buffer)
        self._unframer, self._bytes = Unframer(), 0

    def readable(self) -> None:
        """Deliveries."""
        got = self.socket.recv_into(self._view[self._kept :])
        if not got:
            raise Unexpected("the broker closed the connection of a subscriber")
        if self.mask:
            self._bytes += self._unframer.payload(bytes(self._view[:got]))
            count, self._bytes = divmod(self._bytes, self._size)
            self._tally.delivered += count
            return
        end = self._kept + got
        used = self._exactly_once(end) if self._qos == 2 else self._at_most_or_at_least_once(end)
        self._kept = end - used
        self._buffer[: self._kept] = self._buffer[used:end]

    def _at_most_or_at_least_once(self, end: int) -> int:
        count = end // self._size
        used = count * self._size
        if self._buffer[0 : used : self._size].count(0x30 | self._qos << 1) != count:
            raise Unexpected(f"a subscriber got {bytes(self._buffer[:40])!r}")
        if self._qos and count:
            acks = bytearray(b"\x40\x02\x00\x00" * count)
            acks[2::4] = self._buffer[self._id_at : used : self._size]
            acks[3::4] = self._buffer[self._id_at + 1 : used : self._size]
            self.write(acks)
        self._tally.delivered += count
        return used

    def _exactly_once(self, end: int) -> int:
        """PUBLISHes and PUBRELs are mixed; a message counts when it was released."""
        buffer, at, answers = self._buffer, 0, bytearray()
        while end - at >= 4:
            if buffer[at] == 0x34:
                if end - at < self._size:
                    break
                answers += b"\x50\x02" + buffer[at + self._id_at : at + self._id_at + 2]
                at += self._size
            elif buffer[at] == 0x62:
                answers += b"\x70\x02" + buffer[at + 2 : at + 4]
                self._tally.delivered += 1
                at += 4
            else:
                raise Unexpected(f"a subscriber got {bytes(buffer[at : at + 40])!r}")
        if answers:
            self.write(answers)
        return at
