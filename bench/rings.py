"""What the publishers of the bench send, built before the clock starts."""

import json
import os
import time
from collections.abc import Iterable, Sequence

from tests.crash.wire import publish

#: Packets of a ring; more than any window, so that no Packet Identifier is in flight twice.
LENGTH = 1000
#: Stands for the digits that change from round to round.
STAMP = "#"


class Ring:
    """Packets of one size that are sent again and again.

    :param packets: with equal places of ``digits`` times ``#``, the number of the round.
    :param first: that number in the first round.
    """

    def __init__(self, packets: Sequence[bytes], digits: int = 0, first: int = 0) -> None:
        self.size, self.count = len(packets[0]), len(packets)
        if {len(packet) for packet in packets} != {self.size}:
            raise ValueError("the packets of a ring have one size")
        self._data = bytearray().join(packets)
        self._digits, self._round = digits, first - 1
        self._stamp_at = packets[0].index(STAMP.encode() * digits) if digits else 0
        self._at = 0

    def take(self, most: int) -> memoryview:
        """The next packets, at most ``most`` of them; to be sent, or copied, before the next call."""
        start = self._at
        end = self._at = min(start + most, self.count)
        if self._at == self.count:
            self._at = 0
        if start == 0:
            self._turn()
        return memoryview(self._data)[start * self.size : end * self.size]

    def _turn(self) -> None:
        """The digits of the next round, one column of all packets at a time."""
        if self._digits:
            self._round += 1
            for place, digit in enumerate(f"{self._round:0{self._digits}}".encode(), self._stamp_at):
                self._data[place :: self.size] = bytes((digit,)) * self.count


def retained(packet: bytes) -> bytes:
    """The same PUBLISH with RETAIN."""
    return bytes((packet[0] | 1,)) + packet[1:]


def same_topic(topic: str, payload: int, qos: int, mask: bytes = b"", retain: bool = False) -> Ring:
    """Messages of ``payload`` bytes on one topic; with ``mask`` each in a WebSocket frame of its own."""
    packets = [publish(topic, b"x" * payload, qos, number) for number in range(1, LENGTH + 1)]
    packets = list(map(retained, packets)) if retain else packets
    return Ring([frame(packet, mask) for packet in packets] if mask else packets)


def new_topics(payload: int, publisher: int, publishers: int, filters: int) -> Ring:
    """A topic that was never there before in every message; ``cold/NNNN/+/value`` are its filters in turn."""
    packets = []
    for number in range(LENGTH):
        group = (publisher + number * publishers) % filters
        topic = f"cold/{group:04}/{publisher:02}-{STAMP * 6}{number:03}/value"
        packets.append(publish(topic, b"x" * payload, 0))
    return Ring(packets, digits=6)


def reports(agent: str, metrics: int, qos: int = 1) -> Ring:
    """``agent/message`` with another timestamp in every message, from six days ago on."""
    return _reports(agent, [(f"type{number}", f"{number}.5") for number in range(metrics)], qos)


def readings(agent: str, numbers: int, qos: int = 1) -> Ring:
    """The same with the types and numbers of the messages of :func:`tasmota`."""
    metrics: list[tuple[str, object]] = [
        (f"AM2301.Reading{number}", number + 0.5) for number in range(numbers - 1)
    ]
    return _reports(agent, [*metrics, ("Counter", 10**13)], qos)


def _reports(agent: str, metrics: Iterable[tuple[str, object]], qos: int) -> Ring:
    values = [{"type": kind, "value": value} for kind, value in metrics]
    who = {"uuid": agent, "username": "platzi", "name": "platzi", "hostname": "here", "pid": os.getpid()}
    body = json.dumps({"agent": who, "metrics": values, "timestamp": 0})[:-2]
    packets = [
        publish("agent/message", f"{body}{STAMP * 10}{number:03}}}".encode(), qos, number + 1)
        for number in range(LENGTH)
    ]
    return Ring(packets, digits=10, first=int(time.time()) - 6 * 86_400)


def tasmota(device: str, numbers: int, qos: int = 1) -> Ring:
    """SENSOR messages of Tasmota, with another reading in each; the preset ``tasmota`` records them."""
    readings = {f"Reading{number}": number + 0.5 for number in range(numbers - 1)}
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    document = {"Time": moment, "TempUnit": "C", "AM2301": readings, "Counter": 0}
    body = json.dumps(document, separators=(",", ":"))[:-2]
    packets = [
        publish(f"tele/{device}/SENSOR", f"{body}1{STAMP * 10}{number:03}}}".encode(), qos, number + 1)
        for number in range(LENGTH)
    ]
    return Ring(packets, digits=10)


def frame(data: bytes, mask: bytes) -> bytes:
    """A masked binary WebSocket frame, as a client sends it; ``data`` has at most 125 bytes."""
    if len(data) > 125:
        raise ValueError("only short frames are needed here")
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    return bytes((0x82, 0x80 | len(data))) + mask + masked


class Unframer:
    """Counts the payload of the frames that a WebSocket server sends."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._counts = True

    def payload(self, data: bytes) -> int:
        """Bytes of binary messages in ``data``, the next piece of the stream."""
        data, self._header = self._header + data, b""
        at, end, total = 0, len(data), 0
        while at < end:
            if self._left:
                taken = min(self._left, end - at)
                self._left -= taken
                at += taken
                total += taken if self._counts else 0
            elif (size := header_size(data, at)) > end - at:
                self._header = data[at:]
                break
            else:
                self._counts = data[at] & 15 in (0, 2)
                self._left = data[at + 1] if size == 2 else int.from_bytes(data[at + 2 : at + size], "big")
                at += size
        return total


def header_size(data: bytes, at: int) -> int:
    """Bytes of the frame header there, as far as that can be seen."""
    if len(data) - at < 2:
        return 2
    return {126: 4, 127: 10}.get(data[at + 1], 2)
