"""Conversations of MQTT 5: what it does otherwise than MQTT 3.1.1."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import PINGREQ, PINGRESP, expect, length, number, packet, send, text

Vectors = Iterator[dict[str, Any]]
#: Receive Maximum 256, Topic Alias Maximum 16, Maximum Packet Size 16 MiB.
TOLD = bytes.fromhex("2101002200102701000000")
NONE = b"\0"


def listed(*properties: bytes) -> bytes:
    """Properties behind their length."""
    data = b"".join(properties)
    return length(len(data)) + data


def connect(flags: int = 2, properties: bytes = NONE, *payload: bytes, client_id: str = "vector") -> bytes:
    return packet(0x10, text("MQTT"), bytes((5, flags)), number(0), properties, text(client_id), *payload)


def connack(code: int = 0, *properties: bytes, present: int = 0) -> bytes:
    return packet(0x20, bytes((present, code)), listed(*properties))


ACCEPTED = connack(0, TOLD)


def publish(
    topic: str,
    payload: bytes = b"",
    qos: int = 0,
    properties: bytes = NONE,
    flags: int = 0,
    packet_id: int = 1,
) -> bytes:
    middle = number(packet_id) if qos else b""
    return packet(0x30 | qos << 1 | flags, text(topic), middle, properties, payload)


def subscribe(topic_filter: str, options: int, properties: bytes = NONE) -> bytes:
    return packet(0x82, number(1), properties, text(topic_filter), bytes((options,)))


def suback(*codes: int) -> bytes:
    return packet(0x90, number(1), NONE, bytes(codes))


def reason(sentence: str) -> bytes:
    return listed(b"\x1f" + text(sentence))


def goodbye(code: int, sentence: str) -> bytes:
    return packet(0xE0, bytes((code,)), reason(sentence))


def conversation(
    name: str, statement: str, *steps: dict[str, str], closed: bool = False, rows: tuple[int, ...] = ()
) -> dict[str, Any]:
    """A vector that has its own CONNECT; an open one ends with a PINGREQ that must be answered."""
    if not closed:
        steps = (*steps, send(PINGREQ), expect(PINGRESP))
    return {
        "name": name,
        "statement": statement,
        "rows": list(rows),
        "connect": False,
        "steps": list(steps),
        "closed": closed,
    }


def five() -> Vectors:
    accepted = [send(connect()), expect(ACCEPTED)]
    yield conversation("CONNECT", "MQTT5-3.2.0-1", *accepted)
    yield from _connects()
    yield from _publishes(accepted)
    yield from _acknowledgements(accepted)
    yield from _subscriptions(accepted)
    for name, data, code, sentence in (
        ("AUTH", packet(0xF0), 0x82, "AUTH without an Authentication Method in CONNECT [MQTT5-4.12.0-7]"),
        ("CONNACK", connack(), 0x82, "a client does not send CONNACK [2.2.1]"),
        ("a second CONNECT", connect(), 0x82, "a second CONNECT [MQTT-3.1.0-2]"),
        ("flags of PINGREQ", b"\xc1\0", 0x81, "flags 0x1 in place of 0x0 [MQTT5-2.1.3-1]"),
        ("type 0", b"\0\0", 0x81, "a packet of the reserved type 0 [2.2.1]"),
        (
            "DISCONNECT 0x9C of a client",
            packet(0xE0, b"\x05"),
            0x82,
            "Reason Code 0x05 in DISCONNECT [2.4]",
        ),
    ):
        steps = [*accepted, send(data), expect(goodbye(code, sentence))]
        yield conversation(f"{name} out of place", "MQTT5-4.13.1-1", *steps, closed=True, rows=(507,))
    for data in (packet(0xE0), packet(0xE0, b"\0"), packet(0xE0, b"\0\0"), packet(0xE0, b"\x04")):
        yield conversation(
            f"DISCONNECT {data.hex()}", "MQTT5-3.14.4-3", *accepted, send(data), closed=True, rows=(504,)
        )


def _connects() -> Vectors:
    yield conversation(
        "a password without a user name",
        "3.1.2.9",
        send(connect(0x42, NONE, text("p"))),
        expect(ACCEPTED),
        rows=(506,),
    )
    every = listed(
        b"\x21\0\x14",
        b"\x22\0\x05",
        b"\x27\0\1\0\0",
        b"\x17\1",
        b"\x19\1",
        b"\x26\0\1a\0\1b",
        b"\x26\0\1a\0\1c",
    )
    answered = connack(0, b"\x1a" + text("$response/vector/"), TOLD)
    yield conversation("every property", "2.2.2.2", send(connect(2, every)), expect(answered))
    for expiry, told in ((0, b""), (100, b""), (0xFFFFFFFF, b"\x11" + (86_400).to_bytes(4, "big"))):
        properties = listed(b"\x11" + expiry.to_bytes(4, "big"))
        yield conversation(
            f"Session Expiry Interval {expiry}",
            "3.2.2.3.2",
            send(connect(2, properties)),
            expect(connack(0, told, TOLD)),
            rows=(515,),
        )
    will = listed(
        b"\x18\0\0\0\1", b"\1\1", b"\2\0\0\0\x09", b"\3\0\1t", b"\x08\0\1r", b"\x09\0\1c", b"\x26\0\1a\0\1b"
    )
    data = connect(0x0E, NONE, will, text("w"), text("m"))
    yield conversation("a Will with every property", "MQTT5-3.1.2-9", send(data), expect(ACCEPTED))
    for name, data, code, sentence in (
        (
            "a property twice",
            connect(2, listed(b"\x21\0\1", b"\x21\0\1")),
            0x82,
            "property 0x21 twice in CONNECT [2.2.2.2]",
        ),
        (
            "a property of PUBLISH",
            connect(2, listed(b"\1\1")),
            0x81,
            "property 0x01 in CONNECT [2.2.2.2]",
        ),
        ("Receive Maximum 0", connect(2, listed(b"\x21\0\0")), 0x82, "receive_maximum is 0 [2.2.2.2]"),
        (
            "Maximum Packet Size 0",
            connect(2, listed(b"\x27\0\0\0\0")),
            0x82,
            "maximum_packet_size is 0 [2.2.2.2]",
        ),
        ("the reserved flag", connect(3), 0x81, "the reserved CONNECT flag is set [MQTT5-3.1.2-3]"),
        ("Will QoS 3", connect(0x1E), 0x81, "Will QoS 3 [MQTT5-3.1.2-12]"),
        (
            "Will QoS without a Will",
            connect(0x0A),
            0x81,
            "Will QoS or Will Retain without a Will [MQTT5-3.1.2-11]",
        ),
        (
            "properties longer than the packet",
            connect(2, b"\x7f"),
            0x81,
            "the packet is shorter than its content [4.8]",
        ),
        (
            "an Authentication Method",
            connect(2, listed(b"\x15\0\1X")),
            0x8C,
            "there is no Authentication Method 'X' [MQTT5-4.12.0-1]",
        ),
        (
            "Authentication Data alone",
            connect(2, listed(b"\x16\0\1X")),
            0x82,
            "Authentication Data without a method [3.1.2.11.10]",
        ),
    ):
        answer = expect(packet(0x20, bytes((0, code)), reason(sentence)))
        yield conversation(
            f"CONNECT with {name}",
            "MQTT5-3.1.4-1 MQTT5-3.2.2-6",
            send(data),
            answer,
            closed=True,
            rows=(500, 501),
        )


def _publishes(accepted: list[dict[str, str]]) -> Vectors:
    properties = listed(b"\1\1", b"\3\0\1t", b"\x08\0\1r", b"\x09\0\1c", b"\x26\0\1a\0\1b", b"\x26\0\1a\0\1c")
    for qos in (0, 1, 2):
        steps = [*accepted, send(subscribe("t", qos)), expect(suback(qos))]
        back = publish("t", b"x", qos, properties)
        ack = packet(0x40 if qos == 1 else 0x50, number(1)) if qos else b""
        steps += [send(publish("t", b"x", qos, properties)), expect(ack + back)]
        yield conversation(f"properties at QoS {qos}", "MQTT5-3.3.2-4 MQTT5-3.3.2-17", *steps)
        steps = [*accepted, send(subscribe("t", qos)), expect(suback(qos))]
        steps += [send(publish("t", b"x", qos)), expect(ack + publish("t", b"x", qos))]
        yield conversation(f"no properties at QoS {qos}", "MQTT5-2.2.2-1", *steps)
    aliased = [*accepted, send(subscribe("t", 0)), expect(suback(0))]
    aliased += [send(publish("t", b"1", 0, listed(b"\x23\0\1"))), expect(publish("t", b"1"))]
    aliased += [send(publish("", b"2", 0, listed(b"\x23\0\1"))), expect(publish("t", b"2"))]
    yield conversation("a Topic Alias", "MQTT5-3.3.2-7", *aliased)
    for name, data, code, sentence in (
        ("Topic Alias 0", publish("t", b"", 0, listed(b"\x23\0\0")), 0x94, "Topic Alias 0 [MQTT5-3.3.2-8]"),
        (
            "Topic Alias 17",
            publish("t", b"", 0, listed(b"\x23\0\x11")),
            0x94,
            "Topic Alias 17, at most 16 (topic_alias_maximum) [MQTT5-3.3.2-9]",
        ),
        (
            "an unknown Topic Alias",
            publish("", b"", 0, listed(b"\x23\0\1")),
            0x82,
            "Topic Alias 1 before its Topic Name [MQTT5-3.3.2-7]",
        ),
        ("no Topic Name", publish(""), 0x82, "neither Topic Name nor Topic Alias [MQTT5-3.3.2-1]"),
        (
            "a Subscription Identifier",
            publish("t", b"", 0, listed(b"\x0b\1")),
            0x82,
            "a Subscription Identifier in a client's PUBLISH [MQTT5-3.3.4-6]",
        ),
        (
            "Payload Format Indicator 2",
            publish("t", b"", 0, listed(b"\1\2")),
            0x82,
            "payload_format_indicator is 2 [2.2.2.2]",
        ),
        ("QoS 3", packet(0x36, text("t"), number(1), NONE), 0x81, "PUBLISH at QoS 3 [MQTT5-3.3.1-4]"),
        (
            "Packet Identifier 0",
            publish("t", b"", 1, packet_id=0),
            0x81,
            "Packet Identifier 0 [MQTT5-2.2.1-3]",
        ),
        ("DUP at QoS 0", publish("t", b"", 0, flags=8), 0x81, "DUP at QoS 0 (strict_dup) [MQTT5-3.3.1-2]"),
    ):
        steps = [*accepted, send(data), expect(goodbye(code, sentence))]
        yield conversation(f"PUBLISH with {name}", "MQTT5-4.13.1-1", *steps, closed=True, rows=(502, 510))
    bad = listed(b"\1\1")
    for qos, first in ((1, 0x40), (2, 0x50)):
        no = packet(first, number(1), b"\x99", reason("its payload is not UTF-8, as it says"))
        yield conversation(
            f"bad UTF-8 at QoS {qos}",
            "3.3.2.3.2",
            *accepted,
            send(publish("t", b"\xff", qos, bad)),
            expect(no),
            rows=(511,),
        )


def _acknowledgements(accepted: list[dict[str, str]]) -> Vectors:
    delivered = [
        *accepted,
        send(subscribe("t", 2)),
        expect(suback(2)),
        send(publish("t", b"x", 2, packet_id=9)),
    ]
    delivered += [expect(packet(0x50, number(9)) + publish("t", b"x", 2))]
    for body in (b"", b"\0", b"\0\0", b"\x10", b"\0" + reason("fine")):
        steps = [*delivered, send(packet(0x50, number(1), body)), expect(packet(0x62, number(1)))]
        steps += [send(packet(0x70, number(1), body if body != b"\x10" else b""))]
        yield conversation(f"PUBREC with {body.hex() or 'nothing'}", "MQTT5-4.3.3-4", *steps, rows=(504,))
    refused = [*delivered, send(packet(0x50, number(1), b"\x97"))]
    yield conversation("a PUBREC that refuses", "MQTT5-4.3.3-4", *refused, rows=(514,))
    unknown = [send(packet(0x62, number(7))), expect(packet(0x70, number(7), b"\x92"))]
    yield conversation("PUBREL for nothing", "MQTT5-4.3.3-11", *accepted, *unknown)
    for first, name in ((0x40, "PUBACK"), (0x50, "PUBREC"), (0x62, "PUBREL"), (0x70, "PUBCOMP")):
        sentence = f"Reason Code 0x01 in {name} [2.4]"
        steps = [*accepted, send(packet(first, number(7), b"\1")), expect(goodbye(0x82, sentence))]
        yield conversation(f"{name} with code 1", "MQTT5-3.4.2-1", *steps, closed=True)


def _subscriptions(accepted: list[dict[str, str]]) -> Vectors:
    for options, back in ((0, True), (4, False), (8, True), (0x10, True), (0x20, True), (0x2C, False)):
        steps = [
            *accepted,
            send(subscribe("t", options)),
            expect(suback(0)),
            send(publish("t", b"x", 0, flags=1)),
        ]
        if back:
            steps.append(expect(publish("t", b"x", 0, flags=1 if options & 8 else 0)))
        yield conversation(f"Subscription Options {options:02x}", "MQTT5-3.8.3-3 MQTT5-3.3.1-13", *steps)
    for handling in (0, 1, 2):
        steps = [*accepted, send(publish("t", b"x", 0, flags=1)), send(subscribe("t", handling << 4))]
        kept = publish("t", b"x", 0, flags=1)
        steps += [expect(suback(0) + (kept if handling < 2 else b"")), send(subscribe("t", handling << 4))]
        steps += [expect(suback(0) + (kept if handling < 1 else b""))]
        yield conversation(
            f"Retain Handling {handling}", "MQTT5-3.3.1-9 MQTT5-3.3.1-10 MQTT5-3.3.1-11", *steps
        )
    for data, code, sentence in (
        (subscribe("t", 3), 0x82, "Subscription Options 0x03 [MQTT5-3.8.3-5]"),
        (subscribe("t", 0x30), 0x82, "Subscription Options 0x30 [MQTT5-3.8.3-5]"),
        (subscribe("t", 0x40), 0x81, "Subscription Options 0x40 [MQTT5-3.8.3-5]"),
        (subscribe("$share/g/t", 4), 0x82, "No Local with a Shared Subscription [MQTT5-3.8.3-4]"),
        (subscribe("t", 0, listed(b"\x0b\0")), 0x82, "subscription_identifier is 0 [2.2.2.2]"),
        (packet(0x82, number(1), NONE), 0x82, "SUBSCRIBE without a Topic Filter [MQTT5-3.8.3-2]"),
        (packet(0xA2, number(1), NONE), 0x82, "UNSUBSCRIBE without a Topic Filter [MQTT5-3.10.3-2]"),
    ):
        steps = [*accepted, send(data), expect(goodbye(code, sentence))]
        yield conversation(f"SUBSCRIBE {data.hex()}", "MQTT5-4.13.1-1", *steps, closed=True)
    for identifier in (b"\1", b"\xff\xff\xff\x7f"):
        one = listed(b"\x0b" + identifier)
        steps = [*accepted, send(subscribe("t", 0, one)), expect(suback(0)), send(publish("t", b"x"))]
        steps += [expect(publish("t", b"x", 0, one)), send(publish("t", b"x", 0, flags=1))]
        steps += [expect(publish("t", b"x", 0, one)), send(subscribe("t", 0, one))]
        steps += [expect(suback(0) + publish("t", b"x", 0, one, flags=1)), send(subscribe("t", 0x20))]
        steps += [expect(suback(0)), send(publish("t", b"y")), expect(publish("t", b"y"))]
        numbers = "MQTT5-3.3.4-3 MQTT5-3.3.4-4 MQTT5-3.8.4-3"
        yield conversation(f"Subscription Identifier {identifier.hex()}", numbers, *steps)
    group = "$share/g/t"
    steps = [*accepted, send(publish("t", b"kept", 0, flags=1)), send(subscribe(group, 0)), expect(suback(0))]
    steps += [send(subscribe("t", 0x20)), expect(suback(0)), send(publish("t", b"x"))]
    steps += [expect(publish("t", b"x") * 2), send(packet(0xA2, number(2), NONE, text("t")))]
    steps += [expect(packet(0xB0, number(2), NONE, b"\0")), send(publish("t", b"y"))]
    steps += [expect(publish("t", b"y")), send(packet(0xA2, number(3), NONE, text(group), text(group)))]
    steps += [expect(packet(0xB0, number(3), NONE, b"\0\x11")), send(publish("t", b"z")), send(PINGREQ)]
    yield conversation("a Shared Subscription", "MQTT5-4.8.2-3", *steps, expect(PINGRESP))
    for wrong in ("$share/", "$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/#"):
        steps = [*accepted, send(subscribe(wrong, 0)), expect(suback(0x8F))]
        yield conversation(f"Shared Subscription {wrong}", "MQTT5-4.8.2-1 MQTT5-4.8.2-2", *steps)
    both = packet(0xA2, number(2), NONE, text("t"), text("t"), text("u"))
    steps = [*accepted, send(subscribe("t", 0)), expect(suback(0)), send(both)]
    steps.append(expect(packet(0xB0, number(2), NONE, b"\0\x11\x11")))
    yield conversation("UNSUBSCRIBE with codes", "MQTT5-3.10.4-5 MQTT5-3.11.3-1", *steps)
