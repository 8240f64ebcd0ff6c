"""PUBLISH to oneself, at every QoS, and all that is wrong with one."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import (
    BAD_TEXTS,
    GOOD_TEXTS,
    STRANGE_TEXTS,
    Step,
    ack,
    expect,
    number,
    packet,
    publish,
    send,
    suback,
    subscribe,
    text,
    vector,
)

Vectors = Iterator[dict[str, Any]]


def _subscribed(topic_filter: str, qos: int) -> list[Step]:
    return [send(subscribe((topic_filter, qos))), expect(suback(qos))]


def publish_vectors() -> Vectors:
    yield from _deliveries()
    yield from _topics()
    yield from _shape()
    yield from _retained()
    for topic in ("$SYS/x", "$SYS/broker/uptime", "$foo", "$", "agent/connected", "agent/disconnected"):
        steps = [*_subscribed(topic, 0), send(publish(topic, b"forged", 1, 3)), expect(ack(0x40, 3))]
        yield vector(f"publishing to {topic}", "MQTT-3.3.5-2", *steps, rows=(36, 37))


def _answer(qos: int, packet_id: int) -> bytes:
    return {0: b"", 1: ack(0x40, packet_id), 2: ack(0x50, packet_id)}[qos]


def _deliveries() -> Vectors:
    """Every QoS of the publisher with every QoS of the Subscription."""
    for sent in range(3):
        for granted in range(3):
            got = min(sent, granted)
            for dup in (0, 8) if sent else (0,):
                steps = _subscribed("t/a", granted)
                steps.append(send(publish("t/a", b"hello", sent, 77, dup)))
                steps.append(expect(_answer(sent, 77) + publish("t/a", b"hello", got, 1)))
                if got == 1:
                    steps.append(send(ack(0x40, 1)))
                if got == 2:
                    steps += [send(ack(0x50, 1)), expect(ack(0x62, 1)), send(ack(0x70, 1))]
                if sent == 2:
                    steps += [send(ack(0x62, 77)), expect(ack(0x70, 77))]
                name = f"QoS {sent} to a Subscription at QoS {granted}{', DUP' if dup else ''}"
                rules = f"MQTT-4.3.{got + 1}-1 MQTT-3.3.4-1 MQTT-3.8.4-6 MQTT-3.3.1-3 MQTT-4.5.0-1"
                yield vector(name, rules, *steps)
    for packet_id in (1, 2, 255, 256, 32_768, 65_535):
        steps = [send(publish("t", b"x", 1, packet_id)), expect(ack(0x40, packet_id))]
        yield vector(f"PUBACK for id {packet_id}", "MQTT-4.3.2-2 MQTT-2.3.1-6", *steps)
        steps = [send(publish("t", b"x", 2, packet_id)), expect(ack(0x50, packet_id))]
        steps += [send(publish("t", b"x", 2, packet_id, 8)), expect(ack(0x50, packet_id))]
        steps += [send(ack(0x62, packet_id)), expect(ack(0x70, packet_id))]
        steps += [send(ack(0x62, packet_id)), expect(ack(0x70, packet_id))]
        yield vector(f"QoS 2 with id {packet_id}, repeated", "MQTT-4.3.3-2", *steps, rows=(57, 58))
    steps = [send(b"".join(publish("t", b"x", 1, n) for n in range(1, 51)))]
    steps.append(expect(b"".join(ack(0x40, n) for n in range(1, 51))))
    yield vector("fifty PUBACKs in order", "MQTT-4.6.0-2", *steps, rows=(62,))


def _topics() -> Vectors:
    for what, good in GOOD_TEXTS.items():
        data = publish(good, b"x")
        if what in STRANGE_TEXTS:
            yield vector(f"Topic Name with {what}", "1.5.3", send(data), closed=True, rows=(33, 233))
            continue
        steps = [*_subscribed("#", 0), send(data), expect(data)]
        yield vector(f"Topic Name with {what}", "MQTT-3.3.2-1", *steps, rows=(33,))
    for what, wrong in BAD_TEXTS.items():
        statement = "MQTT-4.7.3-2" if wrong == b"a\0b" else "MQTT-1.5.3-1"
        for qos in range(3):
            name = f"Topic Name with {what} at QoS {qos}"
            yield vector(name, statement, send(publish(wrong, b"x", qos)), closed=True, rows=(33,))
    for bad in ("#", "+", "a/#", "#/a", "a/+", "+/a", "a/+/b", "a#", "a+", "a/b#/c", "$SYS/#"):
        for qos in range(3):
            name = f"wildcard in Topic Name {bad} at QoS {qos}"
            yield vector(
                name, "MQTT-3.3.2-2 MQTT-4.7.1-1", send(publish(bad, b"x", qos)), closed=True, rows=(32,)
            )
    for qos in range(3):
        step = send(publish("", b"x", qos))
        yield vector(f"empty Topic Name at QoS {qos}", "MQTT-4.7.3-1", step, closed=True, rows=(31,))
    for levels in (2, 50, 200, 201):
        data = publish("/".join(["a"] * levels), b"x")
        yield vector(f"{levels} levels", "4.7.1.1", *_subscribed("#", 0), send(data), expect(data))
    for topic in ("/".join(["a"] * 202), "/" * 201, "/" * 65_535):
        step = send(publish(topic, b"x"))
        name = f"{topic.count('/') + 1} levels of {len(topic)} bytes"
        yield vector(name, "4.7.1.1", step, closed=True, rows=(34,))
    long = publish("x" * 65_535, b"")
    yield vector(
        "a Topic Name of 65,535 bytes", "MQTT-4.7.3-3", *_subscribed("#", 0), send(long), expect(long)
    )


def _shape() -> Vectors:
    for flags in (0x06, 0x07, 0x0E, 0x0F):
        data = send(packet(0x30 | flags, text("a"), number(1), b"x"))
        yield vector(f"QoS 3, flags {flags:x}", "MQTT-3.3.1-4", data, closed=True, rows=(38,))
    for flags in (0x08, 0x09):
        data = send(packet(0x30 | flags, text("a"), b"x"))
        yield vector(f"DUP at QoS 0, flags {flags:x}", "MQTT-3.3.1-2", data, closed=True, rows=(40,))
    for qos in (1, 2):
        for dup in (0, 8):
            data = send(publish("a", b"x", qos, 0, dup))
            name = f"Packet Identifier 0 at QoS {qos}, flags {dup:x}"
            yield vector(name, "MQTT-2.3.1-1", data, closed=True, rows=(39,))
        body = text("abc") + number(9)
        for cut in range(len(body)):
            data = send(packet(0x30 | qos << 1, body[:cut]))
            name = f"PUBLISH at QoS {qos} cut to {cut} bytes"
            yield vector(name, "MQTT-4.8.0-1", data, closed=True, rows=(9,))
    for body in (b"", b"\0", b"\0\1", b"\0\5a", b"\xff\xffa"):
        data = send(packet(0x30, body))
        yield vector(
            f"PUBLISH holding {body.hex() or 'nothing'}", "MQTT-4.8.0-1", data, closed=True, rows=(9,)
        )
    every = publish("t", bytes(range(256)))
    yield vector("any byte in a payload", "3.3.3", *_subscribed("t", 0), send(every), expect(every))


def _retained() -> Vectors:
    for qos in range(3):
        for granted in range(3):
            kept = send(publish("kept", b"v", qos, 5, 1))
            steps = [kept]
            if qos:
                steps.append(expect(_answer(qos, 5)))
            steps.append(send(subscribe(("kept", granted))))
            got = publish("kept", b"v", min(qos, granted), 1, 1)
            steps.append(expect(suback(granted) + got))
            clear = [send(publish("kept", b"", flags=1)), expect(publish("kept", b""))]
            steps += [*clear, send(subscribe(("kept", 0), packet_id=3)), expect(suback(0, packet_id=3))]
            name = f"retained at QoS {qos}, subscribed at QoS {granted}, cleared"
            yield vector(name, "MQTT-3.3.1-6", *steps, rows=(44,))
    replaced = [send(publish("r", b"old", flags=1) + publish("r", b"new", flags=1))]
    replaced += [send(subscribe(("r", 0))), expect(suback(0) + publish("r", b"new", flags=1))]
    replaced += [send(publish("r", b"", flags=1)), expect(publish("r", b""))]
    yield vector("a Retained Message is replaced", "MQTT-3.3.1-5 MQTT-3.3.1-7", *replaced)
    live = [*_subscribed("l", 0), send(publish("l", b"v", flags=1)), expect(publish("l", b"v"))]
    live += [send(publish("l", b"", flags=1)), expect(publish("l", b""))]
    yield vector("RETAIN is 0 for an established Subscription", "MQTT-3.3.1-9", *live)
    not_kept = [send(publish("n", b"v")), send(subscribe(("n", 0))), expect(suback(0))]
    yield vector("without RETAIN nothing is kept", "MQTT-3.3.1-12", *not_kept)
