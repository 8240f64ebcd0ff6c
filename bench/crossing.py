"""What a message costs the daemon of its publisher and that of its subscriber, beside one that is both.

    python -m bench.crossing

Ten publishers, each with a subscriber of its own, and so many messages of each in a turn; all daemons are in
one process without sockets, so it is our own code alone. Microseconds of CPU, the fastest fifth of the turns.
"""

import gc
import time
from collections.abc import Callable
from typing import Final

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode, encode_puback
from platziverse.mqtt.packets import Publish
from platziverse.testing import FakeClient, MemorySessionStore
from tests.cluster.daemons import Daemons

PAIRS: Final = 10
IN_A_TURN: Final = (100, 25, 10, 3)
TURNS: Final = 300
PAYLOAD: Final = bytes(64)
INFLIGHT: Final = 1000


class Pairs:
    """Pairs of clients, on one daemon or apart.

    :ivar frames: what the turns of the publishers have made; they do not arrive by themselves.
    """

    def __init__(self, qos: int, count: int, apart: bool) -> None:
        self._daemons, self._qos, self._count, self._acknowledged = Daemons(), qos, count, 0
        limits = Limits(max_inflight=INFLIGHT)
        here, there = (
            self._daemons.begin(number, sessions=MemorySessionStore(), limits=limits) for number in (1, 2)
        )
        self._take = there.bus.ear.frame
        topics = [f"bench/{number:03}" for number in range(PAIRS)]
        self._subscribers = [(there if apart else here).listening(f"s-{name}", name, qos) for name in topics]
        self._publishers = [(here.connect(f"p-{name}"), self._read(name)) for name in topics]
        self._daemons.advance(3)
        self.frames: list[tuple[int, bytes]] = []
        there.bus.ear.frame = lambda *frame: self.frames.append(frame)  # type: ignore[method-assign]

    def _read(self, topic: str) -> bytes:
        """What one publisher sends in a turn."""
        ids = range(1, self._count + 1) if self._qos else [None] * self._count
        return b"".join(encode(Publish(topic, PAYLOAD, self._qos, packet_id=packet_id)) for packet_id in ids)

    def publish(self) -> None:
        """One turn of the publishers' daemon."""
        for publisher, data in self._publishers:
            publisher.send_bytes(data)
            publisher.transport.clear()
        self._daemons.clock.advance(0)

    def receive(self) -> None:
        """Let the frames arrive, once more."""
        for frame in self.frames:
            self._take(*frame)
        self._daemons.clock.advance(0)
        self.acknowledge()

    def acknowledge(self) -> None:
        """Acknowledge what a turn has brought, at QoS 1, and forget it."""
        numbers = [(self._acknowledged + number) % 65_535 + 1 for number in range(self._count)]
        self._acknowledged += self._count
        acknowledgements = b"".join(map(encode_puback, numbers))
        for subscriber in self._subscribers:
            self._answer(subscriber, acknowledgements)

    def _answer(self, subscriber: FakeClient, acknowledgements: bytes) -> None:
        if self._qos:
            subscriber.send_bytes(acknowledgements)
        subscriber.transport.clear()

    def measure(self, *steps: Callable[[], None]) -> float:
        """Microseconds of a message in these steps of a turn."""
        took = []
        gc.collect()
        gc.disable()
        for _ in range(TURNS):
            began = time.process_time()
            for step in steps:
                step()
            took.append(time.process_time() - began)
        gc.enable()
        return 1e6 * sorted(took)[TURNS // 5] / (PAIRS * self._count)


def main() -> None:
    print("messages  QoS  one daemon  publisher's  subscriber's")
    for qos in 0, 1:
        for count in IN_A_TURN:
            beside, apart = Pairs(qos, count, apart=False), Pairs(qos, count, apart=True)
            alone = beside.measure(beside.publish, beside.acknowledge)
            sender = apart.measure(apart.publish)
            apart.publish()
            apart.frames = apart.frames[-PAIRS:]
            receiver = apart.measure(apart.receive)
            print(f"{count:8}  {qos:3}  {alone:10.2f}  {sender:11.2f}  {receiver:12.2f}")


if __name__ == "__main__":
    main()
