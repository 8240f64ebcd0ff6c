"""Bytes of MQTT 3.1.1 for the vectors, written from the standard and apart from ``platziverse.mqtt``."""

from typing import Any

Step = dict[str, str]
CONNECTED = b"\x20\x02\x00\x00"
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"
DISCONNECT = b"\xe0\x00"

#: Byte sequences that are no UTF-8, or hold a character that is forbidden.
BAD_TEXTS = {
    "a NUL": b"a\0b",
    "a lone continuation byte": b"\x80",
    "a byte that never occurs": b"\xff",
    "ff fe": b"\xff\xfe",
    "a cut sequence of two": b"\xc3",
    "a cut sequence of three": b"\xe2\x82",
    "a cut sequence of four": b"\xf0\x9f\x98",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "a high surrogate": b"\xed\xa0\x80",
    "a low surrogate": b"\xed\xbf\xbf",
    "a surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "a code point above U+10FFFF": b"\xf4\x90\x80\x80",
    "UTF-16": "a".encode("utf-16"),
}
#: Texts that are none of a Topic Name: many clients close their connection when they get one.
STRANGE_TEXTS = {"control characters": "a\x01\x1f\x7fb", "U+FFFE": "a\ufffeb"}
GOOD_TEXTS = {
    "one letter": "a",
    "23 letters": "x" * 23,
    "two bytes": "ñandú",
    "three bytes": "温度",
    "four bytes": "\U0001f600",
    "a BOM in front": "\ufeffa",
    "a BOM inside": "a\ufeffb",
    **STRANGE_TEXTS,
    "a quote": "'; drop table metrics; --",
    "a colon": ":",
    "dots": "../..",
    "blanks": " a b ",
}


def text(value: str | bytes) -> bytes:
    """A string behind its two bytes of length."""
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def length(size: int) -> bytes:
    """A Remaining Length."""
    encoded = bytearray()
    while True:
        size, digit = divmod(size, 128)
        encoded.append(digit | (128 if size else 0))
        if not size:
            return bytes(encoded)


def packet(first: int, *parts: bytes) -> bytes:
    """Any packet from its first byte and its content."""
    body = b"".join(parts)
    return bytes((first,)) + length(len(body)) + body


def number(value: int) -> bytes:
    return value.to_bytes(2, "big")


def connect(client_id: str | bytes = "vector", flags: int = 2, *payload: bytes, keep_alive: int = 0) -> bytes:
    return packet(0x10, text("MQTT"), bytes((4, flags)), number(keep_alive), text(client_id), *payload)


def publish(
    topic: str | bytes, payload: bytes = b"", qos: int = 0, packet_id: int = 1, flags: int = 0
) -> bytes:
    middle = number(packet_id) if qos else b""
    return packet(0x30 | qos << 1 | flags, text(topic), middle, payload)


def subscribe(*filters: tuple[str | bytes, int], packet_id: int = 1) -> bytes:
    return packet(0x82, number(packet_id), *(text(name) + bytes((qos,)) for name, qos in filters))


def suback(*codes: int, packet_id: int = 1) -> bytes:
    return packet(0x90, number(packet_id), bytes(codes))


def unsubscribe(*filters: str | bytes, packet_id: int = 2) -> bytes:
    return packet(0xA2, number(packet_id), *map(text, filters))


def ack(first: int, packet_id: int = 1) -> bytes:
    """PUBACK 40, PUBREC 50, PUBREL 62, PUBCOMP 70, UNSUBACK b0."""
    return bytes((first, 2)) + number(packet_id)


def send(data: bytes) -> Step:
    return {"send": data.hex()}


def expect(data: bytes) -> Step:
    return {"expect": data.hex()}


def vector(
    name: str,
    statement: str,
    *steps: Step,
    closed: bool = False,
    connected: bool = True,
    rows: tuple[int, ...] = (),
) -> dict[str, Any]:
    """One conversation; an open one ends with a PINGREQ that must be answered."""
    if not closed:
        steps = (*steps, send(PINGREQ), expect(PINGRESP))
    return {
        "name": name,
        "statement": statement,
        "rows": list(rows),
        "connect": connected,
        "steps": list(steps),
        "closed": closed,
    }
