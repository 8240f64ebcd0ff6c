"""Just enough MQTT 3.1.1 for a client, written apart from ``platziverse.mqtt`` on purpose."""

from collections.abc import Iterator

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, PINGRESP = 2, 3, 4, 5, 6, 7, 9, 13

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    size, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)
        size.append(digit | (128 if rest else 0))
        if not rest:
            return bytes((first,)) + bytes(size) + body


def connect(client_id: str, clean: bool, keep_alive: int) -> bytes:
    """CONNECT at level 4, without a login and without a Will."""
    head = _text("MQTT") + bytes((4, 2 if clean else 0)) + keep_alive.to_bytes(2, "big")
    return _packet(0x10, head + _text(client_id))


def publish(topic: str, payload: bytes, qos: int, packet_id: int = 0, dup: bool = False) -> bytes:
    """PUBLISH; ``packet_id`` counts at QoS 1 and 2 only."""
    number = packet_id.to_bytes(2, "big") if qos else b""
    return _packet(0x30 | qos << 1 | dup << 3, _text(topic) + number + payload)


def pubrel(packet_id: int) -> bytes:
    return b"\x62\x02" + packet_id.to_bytes(2, "big")


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def subscribe(topic_filter: str, qos: int, packet_id: int) -> bytes:
    return _packet(0x82, packet_id.to_bytes(2, "big") + _text(topic_filter) + bytes((qos,)))


def split(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the complete packets off the front of ``buffer``: first byte and body of each."""
    while len(buffer) >= 2:
        size = shift = 0
        at = 1
        while True:
            if at >= len(buffer):
                return
            size |= (buffer[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not buffer[at - 1] & 128:
                break
        if len(buffer) < at + size:
            return
        first, body = buffer[0], bytes(buffer[at : at + size])
        del buffer[: at + size]
        yield first, body


def packet_id_of(body: bytes) -> int:
    """The Packet Identifier at the front of a body."""
    return int.from_bytes(body[:2], "big")


def received(first: int, body: bytes) -> tuple[int, bytes]:
    """Packet Identifier (0 at QoS 0) and payload of a PUBLISH that came."""
    end = 2 + int.from_bytes(body[:2], "big")
    if not first & 6:
        return 0, body[end:]
    return int.from_bytes(body[end : end + 2], "big"), body[end + 2 :]
