"""Framing: where the packets of a stream of bytes begin and end (section 2.2), whatever is in them."""

from typing import Final

from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.reasoncodes import ReasonCode

#: Remaining Lengths of one byte.
LENGTHS: Final = tuple(bytes((length,)) for length in range(128))


def encode_length(length: int) -> bytes:
    """Return a Remaining Length in one to four bytes (section 2.2.3)."""
    if length < 128:
        return LENGTHS[length]
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


class Framing:
    """A Framing holds the bytes of one stream that are no packets yet.

    New bytes are added to those of an incomplete packet, which are never scanned again: a packet that comes
    byte by byte costs no more than twice its size. A decoder is a Framing instead of having one, because its
    loops read the bytes in place; an object between would cost each packet two calls.

    :param max_packet_size: most bytes of a packet, Fixed Header not counted.
    :param setting: which limit that is.
    """

    __slots__ = ("_data", "_end", "_limit", "_position", "_setting", "_wanted", "has_more", "partial")

    def __init__(self, max_packet_size: int, setting: str) -> None:
        self._limit = max_packet_size
        self._setting = setting
        # The bytes being decoded, as they came; read up to _position.
        self._data = b""
        self._position = self._end = 0
        #: There may be more packets in them, or an error.
        self.has_more = False
        #: In their place, of an incomplete packet: what has come of the bytes wanted.
        self.partial: bytearray | None = None
        self._wanted = 0

    @property
    def pending(self) -> int:
        """How many bytes were received that are no packet yet."""
        return len(self.partial) if self.partial is not None else self._end - self._position

    def feed(self, data: bytes) -> None:
        """Add bytes to the stream."""
        partial = self.partial
        if partial is not None:
            partial += data
            if len(partial) < self._wanted:
                return
            data = bytes(partial)
            self.partial = None
        elif self.has_more:
            data = self._data[self._position :] + data
        self._data = data
        self._position = 0
        self._end = size = len(data)
        self.has_more = size > 0

    def clear(self) -> None:
        """Forget all bytes: nothing more is read from the stream."""
        self._data, self.partial = b"", None
        self._position = self._end = 0
        self.has_more = False

    def _long_length(self, start: int) -> tuple[int, int]:
        """Return a Remaining Length of two to four bytes, and its end; (1, end) while it is incomplete."""
        data = self._data
        length = 0
        for index in range(4):
            position = start + 1 + index
            if position >= self._end:
                return 1, self._end
            byte = data[position]
            length |= (byte & 0x7F) << 7 * index
            if byte < 128:
                if length > self._limit:  # known before its bytes have come
                    raise self._too_long(length)
                return length, position + 1
        raise MalformedPacket("a Remaining Length of more than four bytes", "2.2.3")

    def _too_long(self, length: int) -> MalformedPacket:
        allowed = f"{self._limit} are allowed ({self._setting})"
        reason = f"a packet of {length} bytes; {allowed}"
        return MalformedPacket(reason, "4.8", ReasonCode.PACKET_TOO_LARGE)

    def _collect(self, stop: int) -> None:
        """Set the beginning of a packet aside until all of it, up to ``stop``, has come."""
        self.partial = bytearray(self._data[self._position :])
        self._wanted = stop - self._position
        self._data = b""
        self._position = self._end = 0
        self.has_more = False
