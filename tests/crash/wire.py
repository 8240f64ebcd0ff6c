"""Just enough MQTT 3.1.1 for a client, written apart from ``platziverse.mqtt`` on purpose."""

from collections.abc import Iterator, Sequence

from attrs import frozen

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 5, 6, 7, 9, 11, 13
#: Return codes of CONNACK.
ACCEPTED, SERVER_UNAVAILABLE = 0, 3

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


def connect(client_id: str, clean: bool, keep_alive: int, will: "tuple[str, bytes] | None" = None) -> bytes:
    """CONNECT at level 4, without a login; ``will``: topic and payload of a Will at QoS 1."""
    flags = (2 if clean else 0) | (0b1100 if will is not None else 0)
    head = _text("MQTT") + bytes((4, flags)) + keep_alive.to_bytes(2, "big") + _text(client_id)
    if will is not None:
        topic, payload = will
        head += _text(topic) + len(payload).to_bytes(2, "big") + payload
    return _packet(0x10, head)


def publish(
    topic: str, payload: bytes, qos: int, packet_id: int = 0, dup: bool = False, retain: bool = False
) -> bytes:
    """PUBLISH; ``packet_id`` counts at QoS 1 and 2 only."""
    number = packet_id.to_bytes(2, "big") if qos else b""
    return _packet(0x30 | qos << 1 | dup << 3 | retain, _text(topic) + number + payload)


def acknowledgement(kind: int, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return bytes((kind << 4 | (2 if kind == PUBREL else 0), 2)) + packet_id.to_bytes(2, "big")


def pubrel(packet_id: int) -> bytes:
    return acknowledgement(PUBREL, packet_id)


def puback(packet_id: int) -> bytes:
    return acknowledgement(PUBACK, packet_id)


def subscribe(topic_filter: str, qos: int, packet_id: int) -> bytes:
    return subscribe_all([(topic_filter, qos)], packet_id)


def subscribe_all(filters: "Sequence[tuple[str, int]]", packet_id: int) -> bytes:
    """SUBSCRIBE to several Topic Filters, each with its QoS."""
    wanted = b"".join(_text(topic_filter) + bytes((qos,)) for topic_filter, qos in filters)
    return _packet(0x82, packet_id.to_bytes(2, "big") + wanted)


def unsubscribe(topic_filter: str, packet_id: int) -> bytes:
    return _packet(0xA2, packet_id.to_bytes(2, "big") + _text(topic_filter))


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


@frozen
class Received:
    """A PUBLISH that came; ``packet_id`` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    dup: bool
    retain: bool


def received(first: int, body: bytes) -> Received:
    """Read the PUBLISH with this first byte and this body."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, qos, packet_id = body[2:end].decode(), first >> 1 & 3, 0
    if qos:
        packet_id, end = int.from_bytes(body[end : end + 2], "big"), end + 2
    return Received(topic, body[end:], qos, packet_id, bool(first & 8), bool(first & 1))
