"""SUBSCRIBE and UNSUBSCRIBE."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import (
    BAD_TEXTS,
    GOOD_TEXTS,
    ack,
    expect,
    number,
    packet,
    publish,
    send,
    suback,
    subscribe,
    text,
    unsubscribe,
    vector,
)

Vectors = Iterator[dict[str, Any]]

GOOD_FILTERS = ["#", "+", "/", "//", "a", "a/", "/a", "a/b", "a/#", "/#", "+/#", "+/+", "a/+", "+/a", "a/+/b"]
GOOD_FILTERS += ["a/+/+/#", "$SYS/#", "$SYS/+/x", "/+", "+/", "a//b", "$share", "$x/#", " ", "a b/+", "ñ/#"]
BAD_FILTERS = {
    "MQTT-4.7.1-2": [
        "##",
        "a#",
        "#a",
        "a/#/b",
        "#/a",
        "a/b#",
        "#/",
        "#/#",
        "a/#/",
        "+#",
        "$SYS#",
        "a/#b",
        "/#/",
    ],
    "MQTT-4.7.1-3": ["++", "a+", "+a", "a/+b", "a/b+", "a/+b/c", "/++/", "a+/b", "+/a+", "ñ+"],
    "MQTT-4.7.3-1": [""],
}


def subscribe_vectors() -> Vectors:
    for good in GOOD_FILTERS:
        for qos in range(3):
            steps = [send(subscribe((good, qos), packet_id=9)), expect(suback(qos, packet_id=9))]
            statements = "MQTT-3.8.4-1 MQTT-3.8.4-2 MQTT-2.3.1-7 MQTT-3.8.3-2"
            yield vector(f"SUBSCRIBE to {good!r} at QoS {qos}", statements, *steps)
    for what, name in GOOD_TEXTS.items():
        steps = [send(subscribe((name, 0))), expect(suback(0))]
        yield vector(f"Topic Filter with {what}", "MQTT-3.8.3-1", *steps)
    yield from _bad(lambda name: subscribe((name, 0)), "SUBSCRIBE", "MQTT-3.8.3-3", 0x82)
    for qos in (3, 4, 5, 8, 0x10, 0x40, 0x7F, 0x80, 0x81, 0xFF):
        data = send(subscribe(("a", qos)))
        yield vector(f"Requested QoS {qos:02x}", "MQTT-3-8.3-4", data, closed=True, rows=(46,))
    mixed = send(packet(0x82, number(1), text("a"), b"\0", text("b"), b"\3"))
    yield vector("the second Requested QoS is 3", "MQTT-3-8.3-4", mixed, closed=True, rows=(46,))
    many = [(f"f/{n}", n % 3) for n in range(100)]
    steps = [send(subscribe(*many, packet_id=500)), expect(suback(*(q for _, q in many), packet_id=500))]
    yield vector("a hundred filters in one SUBSCRIBE", "MQTT-3.8.4-5", *steps)
    for refused in ("$share/+/t", "$share/g", "$share//t", "$share/", "/" * 201, "/" * 65_535):
        steps = [send(subscribe((refused, 1), ("ok", 1))), expect(suback(0x80, 1))]
        yield vector(f"refused: {refused[:12]} of {len(refused)}", "MQTT-3.9.3-2", *steps, rows=(34, 51))
    again = [send(subscribe(("t", 2))), expect(suback(2)), send(subscribe(("t", 0))), expect(suback(0))]
    again += [send(publish("t", b"x", 2, 5)), expect(ack(0x50, 5) + publish("t", b"x"))]
    yield vector("a new SUBSCRIBE replaces the QoS", "MQTT-3.8.4-3", *again, rows=(49,))
    overlap = [send(subscribe(("t/#", 0), ("t/+", 1), ("t/a", 2))), expect(suback(0, 1, 2))]
    overlap += [send(publish("t/a", b"x", 1, 5)), expect(ack(0x40, 5) + publish("t/a", b"x", 1, 1))]
    yield vector("overlapping filters, one delivery", "MQTT-3.3.5-1", *overlap)


def _bad(make: Any, kind: str, empty: str, first: int) -> Vectors:
    text_rule = "MQTT-3.8.3-1" if first == 0x82 else "MQTT-3.10.3-1"
    for statement, filters in BAD_FILTERS.items():
        for bad in filters:
            yield vector(f"{kind} of {bad!r}", statement, send(make(bad)), closed=True, rows=(47,))
    for what, wrong in BAD_TEXTS.items():
        statement = "MQTT-4.7.3-2" if wrong == b"a\0b" else "MQTT-1.5.3-1"
        yield vector(f"{kind} of {what}", f"{statement} {text_rule}", send(make(wrong)), closed=True)
    yield vector(f"{kind} without a filter", empty, send(packet(first, number(1))), closed=True, rows=(46,))
    whole = make("abc")[2:]
    for cut in range(len(whole)):
        if cut != 2:
            data = send(packet(first, whole[:cut]))
            yield vector(f"{kind} cut to {cut} bytes", "MQTT-4.8.0-1", data, closed=True, rows=(9,))
    zero = send(packet(first, number(0), whole[2:]))
    yield vector(f"{kind} with Packet Identifier 0", "MQTT-2.3.1-1", zero, closed=True)


def unsubscribe_vectors() -> Vectors:
    yield from _bad(unsubscribe, "UNSUBSCRIBE", "MQTT-3.10.3-2", 0xA2)
    for good in GOOD_FILTERS:
        steps = [send(unsubscribe(good, packet_id=700)), expect(ack(0xB0, 700))]
        yield vector(f"UNSUBSCRIBE of {good!r}, never subscribed", "MQTT-3.10.4-5 MQTT-2.3.1-7", *steps)
    ended = [send(subscribe(("t", 0))), expect(suback(0)), send(unsubscribe("t")), expect(ack(0xB0, 2))]
    ended += [send(publish("t", b"x", 1, 4)), expect(ack(0x40, 4))]
    yield vector("after UNSUBACK nothing new comes", "MQTT-3.10.4-2", *ended)
    for other in ("t/+", "+/a", "t", "t/a/", "T/a"):
        steps = [
            send(subscribe(("t/a", 0))),
            expect(suback(0)),
            send(unsubscribe(other)),
            expect(ack(0xB0, 2)),
        ]
        steps += [send(publish("t/a", b"x")), expect(publish("t/a", b"x"))]
        yield vector(f"UNSUBSCRIBE of {other} leaves t/a", "MQTT-3.10.4-1", *steps)
    many = [send(subscribe(("a", 0), ("b", 0))), expect(suback(0, 0)), send(unsubscribe("a", "x", "b"))]
    many += [expect(ack(0xB0, 2)), send(publish("a") + publish("b"))]
    yield vector("several filters, one UNSUBACK", "MQTT-3.10.4-6", *many)
    flight = [send(subscribe(("t", 2))), expect(suback(2)), send(publish("t", b"x", 2, 4))]
    flight += [expect(ack(0x50, 4) + publish("t", b"x", 2, 1)), send(unsubscribe("t")), expect(ack(0xB0, 2))]
    flight += [send(ack(0x50, 1)), expect(ack(0x62, 1)), send(ack(0x70, 1))]
    yield vector("a delivery begun is completed", "MQTT-3.10.4-3", *flight)
