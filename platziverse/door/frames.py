"""Frames: those of a WebSocket, turned into a byte stream and back.

wsproto judges every frame but the commonest: a whole short binary message is unmasked here, in an eighth
of the time. A property test compares the two ways; docs/adr/0020 has the figures.
"""

import struct
from collections.abc import Callable
from typing import Final

from attrs import frozen
from wsproto.connection import SERVER, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping
from wsproto.frame_protocol import CloseReason

FIN: Final = 0x80
MASKED: Final = 0x80
#: Opcodes; from CLOSE on they are control frames.
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
#: First byte of a binary message in one frame.
WHOLE_BINARY: Final = FIN | BINARY
#: From its second byte to how many bytes it is long: two of header, four of mask, and the payload.
_SHORT_PAYLOAD: Final = MASKED - 6
#: Largest message that is unmasked here: beyond it wsproto's way is faster.
SHORT: Final = 4096
#: Pings, pongs and empty frames that a client may send at once, and how many more each second.
IDLE_BURST: Final = 100.0
IDLE_RATE: Final = 5.0


def binary_message(data: bytes) -> bytes:
    """Return ``data`` as one binary message in one frame from server to client, which is never masked."""
    size = len(data)
    if size < 126:
        return bytes((WHOLE_BINARY, size)) + data
    if size < 65536:
        return struct.pack("!BBH", WHOLE_BINARY, 126, size) + data
    return struct.pack("!BBQ", WHOLE_BINARY, 127, size) + data


#: A 1 in each of so many 32-bit words; times a mask it is the mask, repeated.
_ONES: Final = tuple(int.from_bytes(b"\1\0\0\0" * words, "little") for words in range(64))


def unmask(frame: bytes) -> bytes:
    """Return the payload of a frame.

    All of ``frame`` is taken as one long number, and XOR with the repeated mask is one operation on it; the
    mask itself becomes zeros, which are cut off. It takes an eighth of wsproto's time: ADR 0020.

    :param frame: the frame without its header: four bytes of mask, then the masked payload.
    """
    size = len(frame)
    words = (size + 3) >> 2
    number = int.from_bytes(frame, "little")
    if words < 64:
        number ^= (number & 0xFFFFFFFF) * _ONES[words]
    else:
        number ^= int.from_bytes(frame[:4] * words, "little")
    return number.to_bytes(4 * words, "little")[4:size]


def unmask_all(masked: list[bytes], masks: list[bytes]) -> bytes:
    """Return the payloads of several frames, joined.

    :param masks: for each of ``masked`` its mask, repeated to the same length.
    """
    data = b"".join(masked)
    number = int.from_bytes(data, "little") ^ int.from_bytes(b"".join(masks), "little")
    return number.to_bytes(len(data), "little")


@frozen
class Ended:
    """Ended says why nothing more is read from a WebSocket.

    :ivar code: of the Close frame to send; ``None``: the client has sent its own, which was answered.
    """

    code: int | None
    reason: str


class FrameReader:
    """A FrameReader turns the frames of a client into the bytes of its binary messages.

    Where frames and messages end means nothing [MQTT-6.0.0-2]. Only an incomplete header and an incomplete
    short frame are held back; of a long frame all that has come is passed on.

    :param max_message: most bytes of a message, in one frame or in several.
    :param seconds: returns steady time; called for Pings and other frames that carry nothing.
    """

    def __init__(self, max_message: int, seconds: Callable[[], float]) -> None:
        self._max_message = max_message
        self._seconds = seconds
        self._connection = Connection(SERVER)
        self._held = b""
        #: Bytes of the current frame that wsproto has not seen yet.
        self._rest = 0
        #: A message of several frames is under way, of so many bytes until now.
        self._fragmented = False
        self._message_size = 0
        self._allowance = IDLE_BURST
        self._allowed_at = 0.0
        self._taken: list[bytes] = []
        #: Frames to send to the client: Pong, and the answer to its Close.
        self.answers = b""
        self.ended: Ended | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the network, and return those of binary messages.

        Afterwards ``answers`` has bytes to send, and ``ended`` is set if nothing more is read.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        start, end = 0, len(data)
        while start < end and self.ended is None:
            if not self._rest and not self._fragmented:
                start = self._take_short(data, start, end)
            stop = self._pass_on(data, start) if self._rest else self._take_frame(data, start, end)
            if stop == start and not self._rest:
                self._held = data[start:]
                break
            start = stop
        taken, self._taken = self._taken, []
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the bytes of our Close frame; none when one has been sent before."""
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(CloseConnection(code, reason or None))

    def _take_short(self, data: bytes, start: int, end: int) -> int:
        """Take the whole binary messages below 126 bytes that follow, and return where they end.

        They are unmasked together, in one operation for all: see :func:`unmask_all`.
        """
        masked: list[bytes] = []
        masks: list[bytes] = []
        most = MASKED | min(125, self._max_message)
        while end - start > 6 and data[start] == WHOLE_BINARY and MASKED < (size := data[start + 1]) <= most:
            stop = start + size - _SHORT_PAYLOAD
            if stop > end:
                break
            masked.append(data[start + 6 : stop])
            masks.append((data[start + 2 : start + 6] * 32)[: size - MASKED])
            start = stop
        if masked:
            self._taken.append(unmask_all(masked, masks))
        return start

    def _take_frame(self, data: bytes, start: int, end: int) -> int:
        """Take the frame that begins at ``start``; return its end, or ``start`` if more bytes are needed."""
        if end - start < 2:
            return start
        size = data[start + 1] & 0x7F
        body = start + 2
        if size >= 126 and data[start] & 0x0F < CLOSE:  # a longer control frame is wrong as it is
            body += 2 if size == 126 else 8
            if body > end:
                return start
            size = int.from_bytes(data[start + 2 : body], "big")
        short = (
            size <= SHORT
            and not self._fragmented
            and data[start] == WHOLE_BINARY
            and data[start + 1] & MASKED
        )
        if not short or not size or size > self._max_message or (body - start > 2 and size < 126):
            self._begin(data[start], size, body - start + 4 * (data[start + 1] >> 7))
            return start
        stop = body + 4 + size
        if stop > end:
            return start
        self._taken.append(unmask(data[body:stop]))
        return stop

    def _begin(self, first: int, size: int, header_size: int) -> None:
        """Begin a frame that wsproto judges; check here what wsproto lets pass.

        :param first: its first byte.
        :param size: bytes of its payload.
        """
        opcode = first & 0x0F
        self._rest = header_size + size
        if opcode == TEXT:
            self._end(CloseReason.UNSUPPORTED_DATA, "MQTT needs binary frames")  # [MQTT-6.0.0-1]
        elif opcode >= CLOSE or not size:
            self._spend()
        if opcode < CLOSE:
            self._message_size += size
            if self._message_size > self._max_message:
                self._end(CloseReason.MESSAGE_TOO_BIG, f"more than {self._max_message} bytes")
            self._fragmented = not first & FIN
            if not self._fragmented:
                self._message_size = 0

    def _spend(self) -> None:
        now = self._seconds()
        self._allowance = min(IDLE_BURST, self._allowance + (now - self._allowed_at) * IDLE_RATE) - 1
        self._allowed_at = now
        if self._allowance < 0:
            self._end(CloseReason.POLICY_VIOLATION, "too many frames that carry nothing")

    def _pass_on(self, data: bytes, start: int) -> int:
        chunk = data[start : start + self._rest]
        self._rest -= len(chunk)
        self._connection.receive_data(chunk)
        for event in self._connection.events():
            self._handle(event)
        return start + len(chunk)

    def _handle(self, event: Event) -> None:
        if isinstance(event, BytesMessage):
            self._taken.append(bytes(event.data))
        elif isinstance(event, Ping):
            self.answers += self._connection.send(event.response())
        elif isinstance(event, CloseConnection):
            if self._connection.state is ConnectionState.REMOTE_CLOSING:
                self.answers += self._connection.send(event.response())
                self._end(None, f"closed by the client ({event.code})")
            else:
                self._end(event.code, event.reason or "malformed frame")

    def _end(self, code: int | None, reason: str) -> None:
        if self.ended is None:
            self.ended = Ended(code, reason)
