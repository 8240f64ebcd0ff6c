"""Fifty-one inputs of the reliability notes, section 2.1: bytes, what we do, and what Mosquitto 2.0 does.

``closed`` is what a raw socket sees within a moment after the input and a PINGREQ; ``like_mosquitto`` is
``None`` where it does the same, else what it does in place of ours.
"""

from struct import pack

from attrs import frozen


@frozen
class BadInput:
    """:param connect: a valid CONNECT comes first."""

    name: str
    data: bytes
    closed: bool = True
    connect: bool = True
    mosquitto_closed: bool | None = None


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return pack(">H", len(data)) + data


def packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length, encoded = len(body), b""
    while True:
        length, low = length >> 7, length & 127
        encoded += bytes((low | (128 if length else 0),))
        if not length:
            return bytes((first,)) + encoded + body


def connect(
    client_id: str | bytes, flags: int = 2, *more: bytes, name: str = "MQTT", level: int = 4
) -> bytes:
    return packet(0x10, text(name), bytes((level, flags, 0, 60)), text(client_id), *more)


def publish(topic: str | bytes, payload: bytes = b"x", first: int = 0x30, packet_id: bytes = b"") -> bytes:
    return packet(first, text(topic), packet_id, payload)


def subscribe(topic_filter: str | bytes, qos: bytes = b"\0", first: int = 0x82, packet_id: int = 1) -> bytes:
    return packet(first, pack(">H", packet_id), text(topic_filter), qos)


SLASHES = "/" * 65_535
V5 = packet(0x10, text("MQTT"), b"\x05\x02\x00\x3c\x00", text("five"))

INPUTS = [
    BadInput("remaining length of five bytes", bytes.fromhex("10ffffffff7f"), connect=False),
    BadInput("first packet PUBLISH", publish("a"), connect=False),
    BadInput("first packet PUBACK", bytes.fromhex("40020001"), connect=False),
    BadInput("256 MB announced before CONNECT", bytes.fromhex("30ffffff7f"), connect=False),
    BadInput("second CONNECT", connect("bad-input")),
    BadInput("CONNECT with the reserved bit", connect("r", 3), connect=False),
    BadInput("CONNECT with Will QoS 3", connect("w", 0x1E, text("w"), text("m")), connect=False),
    BadInput("CONNECT with a password alone", connect("p", 0x42, text("secret")), connect=False),
    BadInput("CONNECT of MQTT 5", V5, closed=False, connect=False),
    BadInput("CONNECT of MQTT 3.1", connect("old", name="MQIsdp", level=3), closed=False, connect=False),
    BadInput("CONNECT with protocol MQTX", connect("x", name="MQTX"), connect=False),
    BadInput("CONNECT with an empty id and clean 0", connect("", 0), connect=False),
    BadInput("CONNECT with NUL in the id", connect("a\0b"), connect=False),
    BadInput("CONNECT with an id of ff fe", connect(b"\xff\xfe"), connect=False),
    BadInput("CONNECT with bytes left over", connect("t", 2, b"\0\0\0"), connect=False),
    BadInput("PUBLISH with an empty topic", publish("")),
    BadInput("PUBLISH to a/#", publish("a/#")),
    BadInput("PUBLISH to a/+/b", publish("a/+/b")),
    BadInput("PUBLISH with NUL in the topic", publish("a\0b")),
    BadInput("PUBLISH with topic ff", publish(b"\xff")),
    BadInput("PUBLISH with a surrogate in the topic", publish(b"\xed\xa0\x80")),
    BadInput("PUBLISH at QoS 3", publish("a", first=0x36, packet_id=b"\0\1")),
    BadInput("PUBLISH at QoS 1 with id 0", publish("a", first=0x32, packet_id=b"\0\0")),
    BadInput("PUBLISH at QoS 0 with DUP", publish("a", first=0x38), mosquitto_closed=False),
    BadInput("PUBLISH at QoS 1 without an id", bytes.fromhex("3203000161")),
    BadInput("PUBLISH to $SYS/x", publish("$SYS/x"), closed=False),
    BadInput("PUBLISH to 1,000 levels", publish("/".join(["a"] * 1000))),
    BadInput("PUBLISH to 65,535 slashes", publish(SLASHES)),
    BadInput("SUBSCRIBE with flags 0", subscribe("a", first=0x80)),
    BadInput("SUBSCRIBE without filters", bytes.fromhex("82020001")),
    BadInput("SUBSCRIBE at QoS 3", subscribe("a", b"\3")),
    BadInput("SUBSCRIBE with id 0", subscribe("a", packet_id=0)),
    BadInput("SUBSCRIBE to a#", subscribe("a#")),
    BadInput("SUBSCRIBE to +a", subscribe("+a")),
    BadInput("SUBSCRIBE to an empty filter", subscribe("")),
    BadInput("SUBSCRIBE to 65,535 slashes", subscribe(SLASHES), closed=False, mosquitto_closed=True),
    BadInput("SUBSCRIBE to $share/g", subscribe("$share/g"), closed=False),
    BadInput("SUBSCRIBE without its QoS", subscribe("a", b"")),
    BadInput("UNSUBSCRIBE without filters", bytes.fromhex("a2020001")),
    BadInput("PUBREL with flags 0", bytes.fromhex("60020001")),
    BadInput("PUBREL with an unknown id", bytes.fromhex("62020009"), closed=False),
    BadInput("PINGREQ with a body", bytes.fromhex("c00100"), mosquitto_closed=False),
    BadInput("DISCONNECT with flags 1", bytes.fromhex("e100")),
    BadInput("packet type 0", bytes.fromhex("0000")),
    BadInput("packet type 15", bytes.fromhex("f000")),
    BadInput("CONNACK from the client", bytes.fromhex("20020000")),
    BadInput("HTTP on the MQTT port", b"GET / HTTP/1.1\r\n\r\n", connect=False),
    BadInput("TLS on the MQTT port", bytes.fromhex("1603010200010001fc0303"), connect=False),
    BadInput("silence", b"", connect=False),
    BadInput("CONNECT byte by byte", connect("slow"), connect=False),
    BadInput("silence after CONNECT with Keep Alive 1", b""),
]
