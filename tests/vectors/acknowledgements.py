"""PUBACK, PUBREC, PUBREL, PUBCOMP, and the packets that hold nothing."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    ack,
    expect,
    packet,
    publish,
    send,
    suback,
    subscribe,
    vector,
)

Vectors = Iterator[dict[str, Any]]
NAMES = {0x40: "PUBACK", 0x50: "PUBREC", 0x62: "PUBREL", 0x70: "PUBCOMP"}


def acknowledgements() -> Vectors:
    for first, name in NAMES.items():
        for body in (b"", b"\0", b"\0\1\0", b"\0\1\0\1"):
            data = send(packet(first, body))
            yield vector(f"{name} of {len(body)} bytes", "MQTT-4.8.0-1", data, closed=True, rows=(9,))
        zero = send(ack(first, 0))
        yield vector(f"{name} for Packet Identifier 0", "MQTT-2.3.1-1", zero, closed=True)
        for packet_id in (1, 255, 256, 65_535):
            steps = [send(ack(first, packet_id))]
            if first == 0x50:
                steps.append(expect(ack(0x62, packet_id)))
            if first == 0x62:
                steps.append(expect(ack(0x70, packet_id)))
            yield vector(f"{name} for unknown id {packet_id}", "4.3", *steps, rows=(56, 58))
    yield from _wrong_kinds()
    ids = [send(subscribe(("t", 1))), expect(suback(1))]
    for number in range(1, 11):
        ids += [send(publish("t", b"x", 1, 9)), expect(ack(0x40, 9) + publish("t", b"x", 1, number))]
        ids.append(send(ack(0x40, number)))
    yield vector("a new Packet Identifier for each delivery", "MQTT-2.3.1-2", *ids)
    window = [send(subscribe(("t", 1))), expect(suback(1))]
    for number in range(1, 22):
        delivered = publish("t", b"x", 1, number) if number <= 20 else b""
        window += [send(publish("t", b"x", 1, 9)), expect(ack(0x40, 9) + delivered)]
        # Between two messages of one read: the PUBACKs of a run come before its deliveries.
        window += [send(PINGREQ), expect(PINGRESP)]
    window += [send(ack(0x40, 5)), expect(publish("t", b"x", 1, 21))]
    yield vector("twenty in flight, the next waits", "4.4", *window, rows=(55,))
    twice = [send(subscribe(("t", 2))), expect(suback(2)), send(publish("t", b"x", 2, 9))]
    twice += [expect(ack(0x50, 9) + publish("t", b"x", 2, 1))]
    twice += [send(ack(0x50)), expect(ack(0x62)), send(ack(0x50)), expect(ack(0x62)), send(ack(0x70))]
    yield vector("PUBREC twice, PUBREL twice", "MQTT-4.3.3-1", *twice)


def _wrong_kinds() -> Vectors:
    for qos, wrong in ((1, 0x50), (1, 0x70), (2, 0x40), (2, 0x70)):
        steps = [send(subscribe(("t", qos))), expect(suback(qos)), send(publish("t", b"x", qos, 9))]
        answer = ack(0x40, 9) if qos == 1 else ack(0x50, 9)
        steps += [expect(answer + publish("t", b"x", qos, 1)), send(ack(wrong))]
        name = f"{NAMES[wrong]} for a message at QoS {qos}"
        yield vector(name, f"MQTT-4.3.{qos + 1}-1", *steps, closed=True, rows=(56,))


def empty_packets() -> Vectors:
    for count in (1, 2, 10):
        steps = [send(PINGREQ * count), expect(PINGRESP * count)]
        yield vector(f"{count} PINGREQ", "MQTT-3.12.4-1", *steps)
    for first, name in ((0xC0, "PINGREQ"), (0xE0, "DISCONNECT")):
        for body in (b"\0", b"\0\1", b"\xc0\0"):
            data = send(packet(first, body))
            yield vector(f"{name} with {body.hex()}", "MQTT-4.8.0-1", data, closed=True, rows=(11,))
    yield vector("DISCONNECT", "MQTT-3.14.4-2", send(DISCONNECT), closed=True)
    behind = send(DISCONNECT + PINGREQ)
    yield vector("nothing is answered after DISCONNECT", "MQTT-3.14.4-2", behind, closed=True)
    last = [send(publish("t", b"x", 1, 3) + DISCONNECT), expect(ack(0x40, 3))]
    yield vector("the last PUBLISH before DISCONNECT is answered", "3.14.4", *last, closed=True, rows=(45,))
