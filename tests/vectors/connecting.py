"""CONNECT, and what may stand in its place."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import (
    BAD_TEXTS,
    CONNECTED,
    DISCONNECT,
    GOOD_TEXTS,
    PINGREQ,
    ack,
    connect,
    expect,
    packet,
    publish,
    send,
    suback,
    subscribe,
    text,
    vector,
)

Vectors = Iterator[dict[str, Any]]


def first_packets() -> Vectors:
    """All 256 first bytes before CONNECT; only one of them may go on."""
    for first in range(256):
        if first == 0x10:
            steps = [send(connect()), expect(CONNECTED)]
            yield vector("first byte 10", "MQTT-3.1.0-1", *steps, connected=False)
        else:
            name = f"first byte {first:02x} before CONNECT"
            yield vector(
                name, "MQTT-3.1.0-1", send(bytes((first,))), closed=True, connected=False, rows=(3, 12)
            )
    yield vector("second CONNECT", "MQTT-3.1.0-2", send(connect()), closed=True, rows=(13,))
    other = send(connect("another"))
    yield vector("second CONNECT with another id", "MQTT-3.1.0-2", other, closed=True, rows=(13,))


def connect_vectors() -> Vectors:
    yield from _flags()
    yield from _protocols()
    yield from _texts()
    yield from _shape()
    for keep_alive in (0, 1, 59, 60, 255, 256, 32767, 65535):
        steps = [send(connect(keep_alive=keep_alive)), expect(CONNECTED)]
        yield vector(f"Keep Alive {keep_alive}", "MQTT-3.1.2-24", *steps, connected=False, rows=(26,))


def _payload_for(flags: int) -> list[bytes]:
    payload = []
    if flags & 0x04:
        payload += [text("will/topic"), text("will message")]
    if flags & 0x80:
        payload.append(text("user"))
    if flags & 0x40:
        payload.append(text("password"))
    return payload


def _why_refused(flags: int) -> str | None:
    if flags & 0x01:
        return "MQTT-3.1.2-3"
    if not flags & 0x04:
        if flags & 0x18:
            return "MQTT-3.1.2-13 MQTT-3.1.2-11"
        if flags & 0x20:
            return "MQTT-3.1.2-15"
    if flags & 0x18 == 0x18:
        return "MQTT-3.1.2-14"
    if flags & 0x40 and not flags & 0x80:
        return "MQTT-3.1.2-22"
    return None


def _flags() -> Vectors:
    """Every value of the Connect Flags, with a payload that fits it."""
    for flags in range(256):
        statement = _why_refused(flags)
        data = send(connect("flags", flags, *_payload_for(flags)))
        name = f"Connect Flags {flags:02x}"
        if statement is not None:
            statement += " MQTT-3.1.4-1 MQTT-3.2.2-6"
            yield vector(name, statement, data, closed=True, connected=False, rows=(17,))
        else:
            present = "MQTT-3.1.2-9 MQTT-3.1.2-18 MQTT-3.1.2-19 MQTT-3.1.2-20 MQTT-3.1.2-21"
            yield vector(
                name, f"MQTT-3.2.0-1 MQTT-3.1.4-4 {present}", data, expect(CONNECTED), connected=False
            )
    for first in range(0x11, 0x20):
        data = send(bytes((first,)) + connect()[1:])
        yield vector(f"CONNECT with flags {first & 15:x}", "MQTT-2.2.2-2", data, closed=True, connected=False)


def _protocols() -> Vectors:
    rest = bytes((2, 0, 60)) + text("level")
    refused = expect(b"\x20\x02\x00\x01")
    for level in (0, 1, 2, 3, 6, 127, 128, 131, 133, 255):
        data = send(packet(0x10, text("MQTT"), bytes((level,)), rest))
        name = f"Protocol Level {level}"
        statements = "MQTT-3.1.2-2 MQTT-3.2.2-4 MQTT-3.2.2-5"
        yield vector(name, statements, data, refused, closed=True, connected=False, rows=(15,))
    old = send(packet(0x10, text("MQIsdp"), b"\x03", rest))
    yield vector("MQTT 3.1", "MQTT-3.1.2-2", old, expect(CONNECTED), connected=False)
    for name, level in (("MQTT", 0x84), ("MQIsdp", 0x83)):
        steps = [send(packet(0x10, text(name), bytes((level,)), rest)), expect(CONNECTED)]
        # The bridge gets none of its own messages back.
        steps += [
            send(subscribe(("#", 1))),
            expect(suback(1)),
            send(publish("a", b"x", 1)),
            expect(ack(0x40)),
        ]
        yield vector(f"a bridge by {name}", "MQTT-3.1.2-2", *steps, connected=False, rows=(270,))
    for level in (0, 4, 5, 132):
        data = send(packet(0x10, text("MQIsdp"), bytes((level,)), rest))
        name = f"MQIsdp at level {level}"
        yield vector(name, "MQTT-3.1.2-2", data, refused, closed=True, connected=False)
    for wrong in ("", "M", "MQT", "mqtt", "MQTX", "MQTTT", "MQIsd", "mqisdp", "HTTP", "MQTT\0"):
        data = send(packet(0x10, text(wrong), b"\x04", rest))
        name = f"Protocol Name {wrong!r}"
        yield vector(name, "MQTT-3.1.2-1", data, closed=True, connected=False, rows=(16,))


def _texts() -> Vectors:
    for what, good in GOOD_TEXTS.items():
        steps = [send(connect(good)), expect(CONNECTED)]
        statement = "MQTT-1.5.3-3" if "BOM" in what else "MQTT-3.1.3-5"
        yield vector(f"Client Identifier with {what}", statement, *steps, connected=False, rows=(19,))
        steps = [send(connect("u", 0xC2, text(good), text("secret"))), expect(CONNECTED)]
        yield vector(f"User Name with {what}", "MQTT-3.1.3-11", *steps, connected=False)
    for what, bad in BAD_TEXTS.items():
        statement = "MQTT-1.5.3-2" if bad == b"a\0b" else "MQTT-1.5.3-1"
        for field, data in (
            ("Client Identifier", connect(bad)),
            ("Will Topic", connect("w", 0x06, text(bad), text("m"))),
            ("User Name", connect("u", 0x82, text(bad))),
        ):
            rules = f"{statement} MQTT-3.1.3-4" if field == "Client Identifier" else statement
            yield vector(f"{field} with {what}", rules, send(data), closed=True, connected=False, rows=(21,))
    for topic in ("", "#", "a/#", "+", "a/+/b", "/".join(["a"] * 202)):
        step = send(connect("w", 0x06, text(topic), text("m")))
        yield vector(f"Will Topic {topic[:20]!r}", "MQTT-3.1.3-10", step, closed=True, connected=False)
    for payload in (b"", b"\0", b"\xff\xfe", bytes(300)):
        steps = [send(connect("w", 0x06, text("w"), text(payload))), expect(CONNECTED)]
        yield vector(
            f"Will Message of {len(payload)} bytes {payload[:2]!r}", "3.1.3.3", *steps, connected=False
        )
    for password in (b"", b"\0", b"\xff" * 300):
        steps = [send(connect("p", 0xC2, text("u"), text(password))), expect(CONNECTED)]
        yield vector(f"password {password[:3]!r}", "3.1.3.5", *steps, connected=False, rows=(22,))


def _shape() -> Vectors:
    """Too short at every place, too long, and empty Client Identifiers."""
    whole = connect("cut", 0xC6, text("will"), text("message"), text("user"), text("secret"))
    body = whole[2:]
    for cut in range(len(body)):
        data = send(packet(0x10, body[:cut]))
        name = f"CONNECT cut to {cut} bytes"
        yield vector(name, "MQTT-4.8.0-1", data, closed=True, connected=False, rows=(9,))
    for extra in (b"\0", b"\0\0\0", b"\x10\x00"):
        data = send(packet(0x10, body + extra))
        yield vector(
            f"CONNECT with {extra.hex()} left over", "MQTT-4.8.0-1", data, closed=True, connected=False
        )
    steps = [send(connect("")), expect(CONNECTED)]
    yield vector("empty Client Identifier, Clean Session 1", "MQTT-3.1.3-6", *steps, connected=False)
    refused = [send(connect("", 0)), expect(b"\x20\x02\x00\x02")]
    yield vector(
        "empty Client Identifier, Clean Session 0",
        "MQTT-3.1.3-8",
        *refused,
        closed=True,
        connected=False,
        rows=(18,),
    )
    too_long = [send(connect("x" * 1025)), expect(b"\x20\x02\x00\x02")]
    yield vector("Client Identifier of 1025 bytes", "MQTT-3.1.3-9", *too_long, closed=True, connected=False)
    above = send(b"\x10\x81\x80\x10")
    yield vector("CONNECT of 262,145 bytes announced", "4.8", above, closed=True, connected=False, rows=(3,))
    together = connect() + PINGREQ + publish("a", b"x", 1, 7) + DISCONNECT
    answers = expect(CONNECTED + b"\xd0\x00" + b"\x40\x02\x00\x07")
    name = "CONNECT, PINGREQ, PUBLISH and DISCONNECT in one segment"
    yield vector(name, "MQTT-3.14.4-2", send(together), answers, closed=True, connected=False, rows=(45,))
    special = [send(connect("w", 0x06, text("$SYS/w"), text("m"))), expect(CONNECTED)]
    yield vector("Will on $SYS", "3.1.2.5", *special, connected=False, rows=(271,))
