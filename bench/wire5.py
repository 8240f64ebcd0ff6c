"""Just enough MQTT 5 for a client of the bench; what does not differ is that of MQTT 3.1.1."""

from platziverse.mqtt.framing import encode_length
from tests.crash import wire


def _behind(packet: bytes, at: int, more: bytes) -> bytes:
    """Return a packet with further bytes at a place of its content."""
    start = 2
    while packet[start - 1] & 0x80:
        start += 1
    return (
        packet[:1]
        + encode_length(len(packet) - start + len(more))
        + packet[start : start + at]
        + more
        + packet[start + at :]
    )


def _block(properties: bytes) -> bytes:
    return encode_length(len(properties)) + properties


def connect(client_id: str, clean: bool, keep_alive: int, properties: bytes = b"") -> bytes:
    """CONNECT at level 5."""
    packet = _behind(wire.connect(client_id, clean, keep_alive), 10, _block(properties))
    return packet.replace(b"\0\4MQTT\4", b"\0\4MQTT\5", 1)


def subscribe(topic_filter: str, qos: int, packet_id: int, properties: bytes = b"") -> bytes:
    return _behind(wire.subscribe(topic_filter, qos, packet_id), 2, _block(properties))


def with_properties(publish: bytes, properties: bytes) -> bytes:
    """Return a PUBLISH of MQTT 3.1.1, of less than 128 bytes, with Properties."""
    topic = int.from_bytes(publish[2:4], "big")
    at = 2 + topic + (2 if publish[0] & 6 else 0)
    return _behind(publish, at, _block(properties))
