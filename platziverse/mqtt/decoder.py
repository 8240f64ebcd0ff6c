"""PacketDecoder: from a stream of bytes to Control Packets."""

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Final, TypeAlias

from platziverse.mqtt.decoding import DECODERS, topic_names
from platziverse.mqtt.errors import MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.packets import Packet, Puback, Pubcomp, Publish, Pubrec, Pubrel
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH

#: The frequent packets that hold a Packet Identifier and nothing else, by their first byte.
ACKNOWLEDGEMENTS: Final[dict[int, Callable[[int], Packet]]] = {
    0x40: Puback,
    0x50: Pubrec,
    0x62: Pubrel,
    0x70: Pubcomp,
}

#: Of a PUBLISH: its bytes up to the Packet Identifier or payload, how many these are, how many it has in all,
#: and what they mean: QoS, RETAIN, Topic Name.
Beginning: TypeAlias = "tuple[bytes | tuple[()], int, int, int, bool, str]"

#: Nothing begins with it.
_NONE_YET: Final[Beginning] = ((), 0, 0, 0, False, "")
_NOTHING: Final[Iterator[Packet]] = iter(())


class PacketDecoder:
    """Takes the bytes as they come with ``feed``, gives packets with ``packets``.

    Until ``connected`` is called only CONNECT is let through. What has come of an incomplete packet is
    added to, never scanned again: byte by byte costs a packet no more than twice its size.

    :param max_packet_size: most bytes of a packet, Fixed Header not counted.
    :param max_topic_levels: most levels of a Topic Name.
    :param strict_dup: DUP at QoS 0 is an error, as the standard has it.
    """

    __slots__ = (
        "_beginning",
        "_connected",
        "_data",
        "_end",
        "_error",
        "_levels",
        "_limit",
        "_partial",
        "_position",
        "_ready",
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
        # Decoded, and perhaps not all taken; and what is wrong with the bytes after that.
        self._ready = _NOTHING
        self._error: MQTTError | None = None
        # Of the last PUBLISH: one that begins like it needs not be looked at again.
        self._beginning = _NONE_YET

    @property
    def pending(self) -> int:
        """Bytes received that are no packet yet."""
        return len(self._partial) if self._partial is not None else self._end - self._position

    @property
    def has_more(self) -> bool:
        """The bytes that have come are not done with; those of an incomplete packet are for now."""
        return self._end - self._position > 1 or self._error is not None

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

    def packets(self, most: int) -> Iterator[Packet]:
        """The next packets, up to ``most``; none until more bytes have come.

        Those that are not taken from the iterator come first the next time.

        :raises MQTTError: the stream is broken, and all before that has been taken.
        """
        if length_hint(self._ready):
            return self._ready
        if self._error is not None:
            raise self._error
        found: list[Packet] = []
        try:
            self._decode(found, most if self._connected else 1)
        except MQTTError as error:
            self._error = error.with_traceback(None)
            if not found:
                raise
        self._ready = iter(found)
        return self._ready

    def next_packet(self) -> Packet | None:
        """The next packet alone; see ``packets``."""
        return next(self.packets(1), None)

    def _decode(self, found: list[Packet], most: int) -> None:
        """Add up to ``most`` packets; whatever is not one of the commonest is left to ``_decode_one``."""
        data, start, end = self._data, self._position, self._end
        acknowledgements = ACKNOWLEDGEMENTS if self._connected else {}
        prefix, head, size, qos, retain, topic = self._beginning
        for _ in range(most):
            if data.startswith(prefix, start) and start + size <= end:
                stop, payload = start + size, start + head
                if not qos:
                    found.append(Publish(topic, data[payload:stop], 0, retain))
                    start = stop
                    continue
                if packet_id := data[payload] << 8 | data[payload + 1]:
                    found.append(Publish(topic, data[payload + 2 : stop], qos, retain, False, packet_id))
                    start = stop
                    continue
            elif (
                end - start > 3
                and data[start] in acknowledgements
                and data[start + 1] == 2
                and (packet_id := data[start + 2] << 8 | data[start + 3])
            ):
                found.append(acknowledgements[data[start]](packet_id))
                start += 4
                continue
            if start == end:
                break
            self._position = start
            if (packet := self._decode_one()) is None:
                return
            found.append(packet)
            start = self._position
            prefix, head, size, qos, retain, topic = self._beginning
        if start < end:
            self._position = start
        else:
            self._data = b""
            self._position = self._end = 0

    def _decode_one(self) -> Packet | None:
        data = self._data
        start = self._position
        end = self._end
        if end - start < 2:
            self._wait_for_header()
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
            return self._decode_other(first, data[body:stop])
        if length < 2:
            raise MalformedPacket("PUBLISH without a Topic Name", "MQTT-3.3.2-1")
        topic_end = body + 2 + data[body + 1]
        if data[body]:
            topic_end += data[body] << 8
        if topic_end > stop:
            raise MalformedPacket("a Topic Name longer than its PUBLISH", "MQTT-4.8.0-1")
        topic = self._topics[data[body + 2 : topic_end]]
        head = topic_end - start
        if first < 0x36 and head <= CACHED_TOPIC_LENGTH:
            qos = first >> 1 & 3
            self._beginning = (data[start:topic_end], head, stop - start, qos, first & 1 == 1, topic)
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
