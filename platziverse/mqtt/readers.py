"""Readers: the numbers, texts and Topic Names that packets of every version consist of (section 1.5)."""

from functools import lru_cache, partial

from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.topics import check_topic_name


class Body:
    """A Body reads the bytes that follow the Fixed Header, from front to back.

    :param position: of the first byte to read; those before it were read in another way.

    Every method raises :class:`MalformedPacket` when there are too few bytes left.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    @property
    def position(self) -> int:
        """Return where the next byte stands."""
        return self._position

    def byte(self) -> int:
        """Read one byte."""
        return self._take(1)[0]

    def number(self) -> int:
        """Read a 16-bit number."""
        return int.from_bytes(self._take(2), "big")

    def large_number(self) -> int:
        """Read a 32-bit number."""
        return int.from_bytes(self._take(4), "big")

    def packet_id(self) -> int:
        """Read a Packet Identifier, which is never 0."""
        number = self.number()
        if not number:
            raise MalformedPacket("Packet Identifier 0", "MQTT-2.3.1-1")
        return number

    def binary(self) -> bytes:
        """Read bytes that stand behind their 16-bit length."""
        return self._take(self.number())

    def text(self) -> str:
        """Read a UTF-8 encoded string (section 1.5.3)."""
        return decode_text(self.binary())

    def variable_number(self) -> int:
        """Read a number of one to four bytes, as a Remaining Length is, and as few as it needs.

        [MQTT5-1.5.5-1]
        """
        number = 0
        for index in range(4):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * index
            if index and not byte:
                raise MalformedPacket("a number in more bytes than it needs", "MQTT5-1.5.5-1")
            if byte < 128:
                return number
        raise MalformedPacket("a number of more than four bytes", "2.2.3")

    def skip(self, count: int) -> None:
        """Leave out so many bytes."""
        self._take(count)

    def part(self, count: int) -> "Body":
        """Return a Body of the next bytes, and go on behind them."""
        return Body(self._take(count))

    def rest(self) -> bytes:
        """Read all that is left."""
        return self._take(len(self._data) - self._position)

    def end(self) -> None:
        """Make sure that nothing is left [MQTT-4.8.0-1]."""
        if self:
            left = len(self._data) - self._position
            raise MalformedPacket(f"{left} bytes too many for the packet", "4.8")

    def _take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise MalformedPacket("the packet is shorter than its content", "4.8")
        return self._data[start : self._position]


def decode_text(data: bytes) -> str:
    """Return the text of strict UTF-8; a BOM is a character like any other [MQTT-1.5.3-3].

    :raises MalformedPacket: ``data`` is no UTF-8, or has a surrogate or a NUL in it.
    """
    try:
        text = data.decode()  # [MQTT-1.5.3-1]
    except UnicodeDecodeError:
        raise MalformedPacket(f"{data[:50]!r} is not UTF-8", "MQTT-1.5.3-1") from None
    if "\0" in text:  # [MQTT-1.5.3-2]
        raise MalformedPacket(f"a NUL in {data[:50]!r}", "MQTT-1.5.3-2")
    return text


def decode_topic(data: bytes) -> str:
    """Return the Topic Name that these bytes are.

    :raises MalformedPacket: they are no Topic Name.
    """
    topic = decode_text(data)
    check_topic_name(topic)  # [MQTT-3.3.2-1]
    return topic


def check_levels(topic: str, max_levels: int) -> None:
    """Check the depth of a Topic Name.

    :raises MalformedPacket: it has more separators than ``max_levels``, as Mosquitto counts them.
    """
    if topic.count("/") > max_levels:
        raise MalformedPacket(f"more than {max_levels} slashes in a Topic Name (max_topic_levels)", "4.7.1.1")


@lru_cache(maxsize=8)
def topic_names(max_levels: int) -> Memo[bytes, str]:
    """Return the memo from raw bytes to Topic Names; all decoders with this limit on levels share one.

    Looking into it raises :class:`MalformedPacket` for no Topic Name, and for one of too many levels.
    """
    return Memo(partial(_topic_name, max_levels))


def _topic_name(max_levels: int, data: bytes) -> str:
    topic = decode_topic(data)
    check_levels(topic, max_levels)
    return topic
