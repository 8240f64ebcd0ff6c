"""Fixed Headers: types, flags, Remaining Lengths."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import (
    PINGREQ,
    PINGRESP,
    ack,
    expect,
    length,
    packet,
    publish,
    send,
    subscribe,
    vector,
)

Vectors = Iterator[dict[str, Any]]

#: First byte of each packet that a client may send once it is connected, and a right content.
RIGHT = {
    0x40: b"\0\1",
    0x50: b"\0\1",
    0x62: b"\0\1",
    0x70: b"\0\1",
    0x82: b"\0\1\0\1a\0",
    0xA2: b"\0\1\0\1a",
    0xC0: b"",
    0xE0: b"",
}
#: The statement about the flags of a packet, where it has one of its own.
FLAGS = {0x62: "MQTT-3.6.1-1", 0x82: "MQTT-3.8.1-1", 0xA2: "MQTT-3.10.1-1", 0xE0: "MQTT-3.14.1-1"}


def framing() -> Vectors:
    yield from _flags()
    yield from _lengths()
    for kind in (0, 15):
        for flags in range(16):
            step = send(packet(kind << 4 | flags))
            yield vector(f"reserved type {kind} with flags {flags:x}", "2.2.1", step, closed=True, rows=(7,))
    for name, data in (
        ("CONNACK", b"\x20\x02\0\0"),
        ("SUBACK", b"\x90\x03\0\1\0"),
        ("UNSUBACK", ack(0xB0)),
        ("PINGRESP", PINGRESP),
    ):
        yield vector(f"{name} from a client", "2.2.1", send(data), closed=True, rows=(10,))


def _flags() -> Vectors:
    for right, content in RIGHT.items():
        for flags in range(16):
            first = right & 0xF0 | flags
            if first != right:
                data = send(packet(first, content))
                name = f"type {right >> 4} with flags {flags:x}"
                yield vector(name, FLAGS.get(right, "MQTT-2.2.2-1"), data, closed=True, rows=(8,))


def _lengths() -> Vectors:
    for extra in (b"\x80", b"\xff", b"\xff\xff", b"\x80\x80\x80\x80", b"\xff\xff\xff\xff"):
        for first in (0x30, 0x82, 0xC0):
            step = send(bytes((first,)) + (extra + b"\xff" * 4)[:4] + b"\x7f")
            name = f"Remaining Length of five bytes for {first:02x}, {extra.hex()}"
            yield vector(name, "2.2.3", step, closed=True, rows=(1,))
    for size in (0, 1, 125, 126, 127, 128, 129, 16_379, 16_383, 16_384, 65_535, 65_536, 200_000):
        data = publish("t", b"x" * size)
        steps = [send(subscribe(("t", 0))), expect(b"\x90\x03\0\1\0"), send(data), expect(data)]
        yield vector(f"a payload of {size} bytes", "2.2.3", *steps)
    content = b"\0\1tx"
    for padded in (b"\x84\x00", b"\x84\x80\x00", b"\x84\x80\x80\x00"):
        steps = [send(subscribe(("t", 0))), expect(b"\x90\x03\0\1\0")]
        steps += [send(b"\x30" + padded + content), expect(publish("t", b"x"))]
        yield vector(f"a Remaining Length in {len(padded)} bytes", "2.2.3", *steps, rows=(2,))
    for size in (16_777_217, 20_000_000, 268_435_455):
        step = send(b"\x30" + length(size))
        yield vector(f"{size} bytes announced", "4.8", step, closed=True, rows=(4,))
    many = send(PINGREQ * 90)
    yield vector("ninety packets in one segment", "4.2", many, expect(PINGRESP * 90), rows=(6,))
