"""PacketDecoder: from a stream of bytes to Control Packets, one at a time."""

from collections.abc import Callable
from typing import Final

from platziverse.mqtt.decoding import DECODERS, topic_names
from platziverse.mqtt.errors import MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel

#: The frequent packets that hold a Packet Identifier and nothing else, by their first byte.
ACKNOWLEDGEMENTS: Final[dict[int, Callable[[int], Packet]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}


class PacketDecoder:
    """Takes the bytes as they come with ``feed``, gives packets with ``next_packet``.

    Until ``connected`` is called only CONNECT is let through. What has come of an incomplete packet is
    added to, never scanned again: byte by byte costs a packet no more than twice its size.

    :param max_packet_size: most bytes of a packet, Fixed Header not counted.
    :param max_topic_levels: most levels of a Topic Name.
    :param strict_dup: DUP at QoS 0 is an error, as the standard has it.
    """

    __slots__ = (
        "_connected",
        "_data",
        "_end",
        "_levels",
        "_limit",
        "_partial",
        "_position",
        "_strict_dup",
        "_topics",
        "_wanted",
    )

    def __init__(self, max_packet_size: int, max_topic_levels: int = 200, strict_dup: bool = True) -> None:
        self._limit = max_packet_size
        self._levels = max_topic_levels
        self._topics = topic_names(max_topic_levels)
        self._strict_dup = strict_dup
        self._connected = False
        # The bytes being decoded, as they came; read up to _position.
        self._data = b""
        self._position = 0
        self._end = 0
        # In their place, of an incomplete packet: what has come of the _wanted bytes.
        self._partial: bytearray | None = None
        self._wanted = 0

    @property
    def pending(self) -> int:
        """Bytes received that are no packet yet."""
        return len(self._partial) if self._partial is not None else self._end - self._position

    def connected(self, max_packet_size: int, protocol_level: int) -> None:
        """CONNECT was accepted: from now on any packet, up to this size.

        :param protocol_level: of the CONNECT; 3 and 4 look the same from here.
        """
        self._limit = max_packet_size
        self._connected = True

    def feed(self, data: bytes) -> None:
        """Add bytes to the stream."""
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._wanted:
                return
            self._data = bytes(partial)
            self._partial = None
        elif self._position < self._end:
            self._data = self._data[self._position :] + data
        else:
            self._data = data
        self._position = 0
        self._end = len(self._data)

    def next_packet(self) -> Packet | None:
        """The next packet, or ``None`` until more bytes have come.

        :raises MQTTError: the stream is broken, and cannot be decoded any further.
        """
        data = self._data
        start = self._position
        end = self._end
        if end - start < 2:
            if start < end:
                self._wait_for_header()
            elif start:  # all is taken
                self._data = b""
                self._position = self._end = 0
            return None
        first = data[start]
        length = data[start + 1]
        body = start + 2
        if not self._connected and first != 0x10:
            raise _not_connect(first)
        if length > 127:
            length, body = self._long_length(start)
        stop = body + length
        if stop > end:
            self._collect(stop)
            return None
        self._position = stop
        if first >> 4 != 3:
            if length == 2 and first in ACKNOWLEDGEMENTS:
                packet_id = data[body] << 8 | data[body + 1]
                if packet_id:
                    return ACKNOWLEDGEMENTS[first](packet_id)
            return self._decode_other(first, data[body:stop])
        if length < 2:
            raise MalformedPacket("PUBLISH without a Topic Name", "MQTT-3.3.2-1")
        topic_end = body + 2 + data[body + 1]
        if data[body]:
            topic_end += data[body] << 8
        if topic_end > stop:
            raise MalformedPacket("a Topic Name longer than its PUBLISH", "MQTT-4.8.0-1")
        topic = self._topics[data[body + 2 : topic_end]]
        if first < 0x32:
            return Publish(topic, data[topic_end:stop], 0, first == 0x31)
        payload = topic_end + 2
        if first < 0x36 and payload <= stop:
            packet_id = data[topic_end] << 8 | data[topic_end + 1]
            if packet_id:
                return Publish(topic, data[payload:stop], first >> 1 & 3, first & 1 == 1, False, packet_id)
        return self._publish_with_flags(first, topic, data, topic_end, stop)

    def _publish_with_flags(self, first: int, topic: str, data: bytes, topic_end: int, stop: int) -> Publish:
        """PUBLISH with DUP, or one that is wrong."""
        qos = first >> 1 & 3
        if qos == 3:
            raise MalformedPacket("PUBLISH at QoS 3", "MQTT-3.3.1-4")
        if not qos:
            if self._strict_dup:
                raise MalformedPacket("DUP at QoS 0", "MQTT-3.3.1-2")
            return Publish(topic, data[topic_end:stop], 0, first & 1 == 1, True)
        payload = topic_end + 2
        if payload > stop:
            raise MalformedPacket("PUBLISH without its Packet Identifier", "MQTT-2.3.1-1")
        packet_id = data[topic_end] << 8 | data[topic_end + 1]
        if not packet_id:
            raise MalformedPacket("Packet Identifier 0", "MQTT-2.3.1-1")
        return Publish(topic, data[payload:stop], qos, first & 1 == 1, first & 8 == 8, packet_id)

    def _decode_other(self, first: int, content: bytes) -> Packet:
        decode = DECODERS.get(first >> 4)
        if decode is None:  # types 0 and 15
            raise MalformedPacket(f"a packet of the reserved type {first >> 4}", "2.2.1")
        return decode(first & 0x0F, content, self._levels)

    def _wait_for_header(self) -> None:
        if not self._connected and self._data[self._position] != 0x10:
            raise _not_connect(self._data[self._position])

    def _long_length(self, start: int) -> tuple[int, int]:
        """A Remaining Length of two to four bytes, and where it ends; (1, end) while it is incomplete."""
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
                    raise MalformedPacket(f"a packet of {length} bytes; {self._limit} are allowed", "4.8")
                return length, position + 1
        raise MalformedPacket("a Remaining Length of more than four bytes", "2.2.3")

    def _collect(self, stop: int) -> None:
        """Set the beginning of a packet aside until all of it, up to ``stop``, has come."""
        self._partial = bytearray(self._data[self._position :])
        self._wanted = stop - self._position
        self._data = b""
        self._position = self._end = 0


def _not_connect(first: int) -> MQTTError:
    if first >> 4 == 1:
        return MalformedPacket(f"CONNECT with flags {first & 0x0F:#x}", "MQTT-2.2.2-2")
    return ProtocolViolation(f"the first packet is not CONNECT: {first:#04x}", "MQTT-3.1.0-1")
