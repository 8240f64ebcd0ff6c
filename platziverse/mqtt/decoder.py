"""PacketDecoder: from a stream of bytes to Control Packets, many of a kind at once."""

from collections.abc import Callable, Iterable
from struct import Struct, calcsize
from typing import Any, Final, TypeAlias

from platziverse.mqtt.decoding import DECODERS, Decode
from platziverse.mqtt.decoding5 import DECODERS5, PUBLISH_PROPERTIES, decode_publish_properties
from platziverse.mqtt.errors import MalformedPacket, MQTTError, ProtocolViolation
from platziverse.mqtt.framing import Framing
from platziverse.mqtt.packets import (
    Packet,
    Puback,
    Pubcomp,
    Publish,
    PublishProperties,
    Pubrec,
    Pubrel,
)
from platziverse.mqtt.readers import Body, topic_names
from platziverse.mqtt.topics import CACHED_TOPIC_LENGTH

#: The frequent packets that hold a Packet Identifier and nothing else, by their Fixed Header.
ACKNOWLEDGEMENTS: Final[dict[int, Callable[[int], Packet]]] = {
    0x4002: Puback,
    0x5002: Pubrec,
    0x6202: Pubrel,
    0x7002: Pubcomp,
}

#: Of a PUBLISH: its bytes up to the Packet Identifier or payload, how many it has in all, and what they mean:
#: QoS, RETAIN, Topic Name.
Beginning: TypeAlias = "tuple[bytes | tuple[()], int, int, bool, str]"

#: Properties as bytes, with their length, and as they are read; of a PUBLISH without any.
_NO_PROPERTIES: Final[tuple[bytes, PublishProperties | None]] = b"\0", None
#: Nothing begins with it.
_NONE_YET: Final[Beginning] = ((), 1, 0, False, "")
#: Packet type and QoS of a PUBLISH, in its first byte.
_TYPE_AND_QOS: Final = 0xF6
_IDENTIFIED: Final = Struct(">HH")


class PacketDecoder(Framing):
    """A PacketDecoder takes bytes as they come with ``feed``, and gives packets with ``take``.

    Until ``connected`` is called only CONNECT is let through.

    :param max_packet_size: most bytes of a packet, Fixed Header not counted.
    :param max_topic_levels: most slashes in a Topic Name.
    :param strict_dup: DUP at QoS 0 is an error, as the standard has it.
    """

    __slots__ = (
        "_beginning",
        "_connected",
        "_decoders",
        "_error",
        "_given_back",
        "_layout",
        "_levels",
        "_properties",
        "_strict_dup",
        "_topics",
    )

    def __init__(self, max_packet_size: int, max_topic_levels: int = 200, strict_dup: bool = True) -> None:
        super().__init__(max_packet_size, "max_connect_size")
        self._levels = max_topic_levels
        self._topics = topic_names(max_topic_levels)
        self._strict_dup = strict_dup
        self._connected = False
        # Of the version: what is made of all packets but PUBLISH.
        self._decoders: dict[int, Decode] = DECODERS
        # Packets that were taken and not handled; they come first the next time.
        self._given_back: list[Packet] | None = None
        # What is wrong with the bytes after those that were taken.
        self._error: MQTTError | None = None
        # Of the last PUBLISH, and how those are laid out that begin like it, once there is one.
        self._beginning = _NONE_YET
        self._layout: Struct | None = None
        # Of that one, of MQTT 5.
        self._properties = _NO_PROPERTIES

    def connected(self, max_packet_size: int, protocol_level: int) -> None:
        """Let any packet through from now on, up to this size: CONNECT was accepted.

        :param protocol_level: of the CONNECT; 3 and 4 look the same from here, 5 does not.
        """
        self._limit, self._setting = max_packet_size, "max_packet_size"
        self._connected = True
        if protocol_level == 5:
            self._decoders = DECODERS5

    def take(self, most: int) -> list[Packet]:
        """Return the next packets, up to ``most``, all of one class and QoS; none until more bytes have come.

        :raises MQTTError: the stream is broken, and all before that has been taken.
        """
        if self._given_back is not None:
            return self._take_back(most)
        if self._error is not None:
            raise self._error
        found: list[Packet] = []
        if not self.has_more:
            return found
        try:
            first = self._data[self._position]
            if self._connected and first >> 4 == 3:
                older, alike = self._decoders is DECODERS, first & _TYPE_AND_QOS
                (self._decode_publishes if older else self._decode_publishes5)(found, most, alike)
            elif self._connected and (first << 8 | 2) in ACKNOWLEDGEMENTS:
                self._decode_acknowledgements(found, most, first << 8 | 2)
            else:
                self._decode_one(found)
        except MQTTError as error:
            self._error = error.with_traceback(None)
            if not found:
                raise
        if self._position == self._end:
            self._data = b""
            self._position = self._end = 0
            self.has_more = self._error is not None
        return found

    def give_back(self, packets: list[Packet]) -> None:
        """Take back the last packets, at least one, that ``take`` has returned; they come first next time."""
        self._given_back = packets
        self.has_more = True

    def _take_back(self, most: int) -> list[Packet]:
        packets, self._given_back = self._given_back or [], None
        self.has_more = self._position < self._end or self._error is not None
        if len(packets) > most:
            self.give_back(packets[most:])
        return packets[:most]

    def next_packet(self) -> Packet | None:
        """Return the next packet alone, or ``None``; see ``take``."""
        packets = self.take(1)
        return packets[0] if packets else None

    def _decode_publishes(self, found: list[Packet], most: int, alike: int) -> None:
        """Decode a run of PUBLISHes.

        A packet that begins byte for byte like the last one has its Topic Name, QoS and size, so only Packet
        Identifier and payload are read, of many packets in one call. Decided in ADR 0066 and 0067.
        """
        data, end, start = self._data, self._end, self._position
        while True:
            prefix, size, qos, retain, topic = self._beginning
            if start + size <= end and data.startswith(prefix, start):
                for begins, packet_id, payload in self._repeats(start, most - len(found)):
                    if begins != prefix or packet_id == 0:
                        break
                    found.append(Publish(topic, payload, qos, retain, False, packet_id or None))
                    start += size
            if start > self._position:
                self._position = start
            elif self._decode_one(found):
                start = self._position
            else:
                return
            if start == end or len(found) >= most or data[start] & _TYPE_AND_QOS != alike:
                return

    def _decode_publishes5(self, found: list[Packet], most: int, alike: int) -> None:
        """Decode a run of PUBLISHes of MQTT 5; in one call those with the same Properties, see above."""
        data, end, start = self._data, self._end, self._position
        while True:
            prefix, size, qos, retain, topic = self._beginning
            if start + size <= end and data.startswith(prefix, start):
                raw, properties = self._properties
                for begins, packet_id, sent, payload in self._repeats(start, most - len(found)):
                    if begins != prefix or packet_id == 0 or sent != raw:
                        break
                    found.append(Publish(topic, payload, qos, retain, False, packet_id or None, properties))
                    start += size
            if start > self._position:
                self._position = start
            elif self._decode_one(found):
                start = self._position
            else:
                return
            if start == end or len(found) >= most or data[start] & _TYPE_AND_QOS != alike:
                return

    def _repeats(self, start: int, most: int) -> Iterable[Any]:
        """Cut what follows into pieces of the size of the last packet; only the first is known to be like it.

        :return: beginning, Packet Identifier (at QoS 0 nothing, ``b""``) and payload of each; before the
            payload as many bytes as the Properties of the last packet had, in MQTT 5.
        """
        layout, size = self._layout, self._beginning[1]
        if layout is None:
            head, identifier = len(self._beginning[0]), "H" if self._beginning[2] else "0s"
            if self._decoders is DECODERS5:
                identifier += f"{len(self._properties[0])}s"
            layout = self._layout = Struct(f">{head}s{identifier}{size - head - calcsize('>' + identifier)}s")
        most = min(most, (self._end - start) // size)
        if most == 1:
            return (layout.unpack_from(self._data, start),)
        return layout.iter_unpack(memoryview(self._data)[start : start + most * size])

    def _decode_acknowledgements(self, found: list[Packet], most: int, header: int) -> None:
        start, make = self._position, ACKNOWLEDGEMENTS[header]
        whole = min(most, (self._end - start) // 4) * 4
        for begins, packet_id in _IDENTIFIED.iter_unpack(self._data[start : start + whole]):
            if begins != header or not packet_id:
                break
            found.append(make(packet_id))
        if found:
            self._position = start + 4 * len(found)
        else:
            self._decode_one(found)

    def _decode_one(self, found: list[Packet]) -> bool:
        """Add one packet of any kind to ``found``; return ``False`` when it is not complete."""
        data, start, end = self._data, self._position, self._end
        first = data[start]
        if not self._connected and first != 0x10:
            raise _not_connect(first)
        if end - start < 2:
            self._collect(start + 2)
            return False
        length, body = data[start + 1], start + 2
        if length > 127:
            length, body = self._long_length(start)
        stop = body + length
        if stop > end:
            self._collect(stop)
            return False
        self._position = stop
        if first >> 4 != 3:
            found.append(self._decode_other(first, data[body:stop]))
        elif self._decoders is DECODERS:
            found.append(self._decode_publish(first, start, body, stop))
        else:
            found.append(self._decode_publish5(first, start, body, stop))
        return True

    def _decode_publish(self, first: int, start: int, body: int, stop: int) -> Publish:
        data = self._data
        if stop - body < 2:
            raise MalformedPacket("PUBLISH without a Topic Name", "MQTT-3.3.2-1")
        topic_end = body + 2 + data[body + 1]
        if data[body]:
            topic_end += data[body] << 8
        if topic_end > stop:
            raise MalformedPacket("a Topic Name longer than its PUBLISH", "MQTT-4.8.0-1")
        topic = self._topics[data[body + 2 : topic_end]]
        head = topic_end - start
        self._layout = None
        qos = first >> 1 & 3
        if first >= 0x36 or head > CACHED_TOPIC_LENGTH:
            self._beginning = _NONE_YET
            return self._publish_in_full(first, topic, data, topic_end, stop)
        self._beginning = (data[start:topic_end], stop - start, qos, first & 1 == 1, topic)
        if not qos:
            return Publish(topic, data[topic_end:stop], 0, first == 0x31)
        payload = topic_end + 2
        if payload <= stop and (packet_id := data[topic_end] << 8 | data[topic_end + 1]):
            return Publish(topic, data[payload:stop], qos, first & 1 == 1, False, packet_id)
        return self._publish_in_full(first, topic, data, topic_end, stop)

    def _publish_in_full(self, first: int, topic: str, data: bytes, topic_end: int, stop: int) -> Publish:
        """Decode a PUBLISH with DUP, with a very long Topic Name, or with something wrong in it.

        :raises MalformedPacket: something is wrong.
        """
        qos, retain, dup = first >> 1 & 3, first & 1 == 1, first & 8 == 8
        if qos == 3:
            raise MalformedPacket("PUBLISH at QoS 3", "MQTT-3.3.1-4")
        if not qos:
            if dup and self._strict_dup:
                raise MalformedPacket("DUP at QoS 0 (strict_dup)", "MQTT-3.3.1-2")
            return Publish(topic, data[topic_end:stop], 0, retain, dup)
        payload = topic_end + 2
        if payload > stop:
            raise MalformedPacket("PUBLISH without its Packet Identifier", "MQTT-2.3.1-1")
        packet_id = data[topic_end] << 8 | data[topic_end + 1]
        if not packet_id:
            raise MalformedPacket("Packet Identifier 0", "MQTT-2.3.1-1")
        return Publish(topic, data[payload:stop], qos, retain, dup, packet_id)

    def _decode_publish5(self, first: int, start: int, body: int, stop: int) -> Publish:
        """Decode a PUBLISH of MQTT 5; its Topic Name may be empty if it has a Topic Alias."""
        data, self._layout, self._beginning = self._data, None, _NONE_YET
        if stop - body < 2:
            raise MalformedPacket("PUBLISH without a Topic Name", "MQTT5-3.3.2-1")
        topic_end = body + 2 + (data[body] << 8 | data[body + 1])
        qos, retain, dup = first >> 1 & 3, first & 1 == 1, first & 8 == 8
        self._check_flags5(qos, dup)
        behind, number = self._number5(topic_end, stop) if qos else (topic_end, None)
        if behind >= stop:
            raise MalformedPacket("PUBLISH without the length of its Properties", "MQTT5-2.2.2-1")
        known, begins = self._properties5(behind, stop)
        properties = known[1]
        topic = self._topic5(data[body + 2 : topic_end], properties)
        if first < 0x36 and known[0] and topic_end - start <= CACHED_TOPIC_LENGTH:
            self._beginning = (data[start:topic_end], stop - start, qos, retain, topic)
            self._properties = known
        return Publish(topic, data[begins:stop], qos, retain, dup, number, properties)

    def _properties5(self, start: int, stop: int) -> tuple[tuple[bytes, PublishProperties | None], int]:
        """Return Properties as bytes, ``b""`` where they are long, and as read; and where they end."""
        data = self._data
        length = data[start]
        end = start + 1 + length
        if not length:
            return _NO_PROPERTIES, end
        if length < 128 and end <= stop:
            raw = data[start:end]
            return (raw, PUBLISH_PROPERTIES[raw]), end
        rest = Body(data[:stop], start)
        return (b"", decode_publish_properties(rest)), rest.position

    def _number5(self, at: int, stop: int) -> tuple[int, int]:
        """Return the place behind a Packet Identifier, and the identifier."""
        number = int.from_bytes(self._data[at : at + 2], "big")
        if not number and at + 2 <= stop:
            raise MalformedPacket("Packet Identifier 0", "MQTT5-2.2.1-3")
        return at + 2, number

    def _check_flags5(self, qos: int, dup: bool) -> None:
        if qos == 3:
            raise MalformedPacket("PUBLISH at QoS 3", "MQTT5-3.3.1-4")
        if dup and not qos and self._strict_dup:
            raise MalformedPacket("DUP at QoS 0 (strict_dup)", "MQTT5-3.3.1-2")

    def _topic5(self, name: bytes, properties: PublishProperties | None) -> str:
        if name:
            return self._topics[name]
        if properties is None or properties.topic_alias is None:  # section 3.3.2.1
            raise ProtocolViolation("neither Topic Name nor Topic Alias", "MQTT5-3.3.2-1")
        return ""

    def _decode_other(self, first: int, content: bytes) -> Packet:
        decode = self._decoders.get(first >> 4)
        if decode is None:  # types 0 and 15
            raise MalformedPacket(f"a packet of the reserved type {first >> 4}", "2.2.1")
        return decode(first & 0x0F, content, self._levels)


def _not_connect(first: int) -> MQTTError:
    if first >> 4 == 1:
        return MalformedPacket(f"CONNECT with flags {first & 0x0F:#x}", "MQTT-2.2.2-2")
    return ProtocolViolation(f"the first packet is not CONNECT: {first:#04x}", "MQTT-3.1.0-1")
