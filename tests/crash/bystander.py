"""Ordinary traffic that has nothing to do with the database."""

import time
from typing import Final

from attrs import define, field

from tests.crash import wire
from tests.crash.talker import Talker

#: Seconds from the arrival of a message to the next one.
PAUSE: Final = 0.05


@define(eq=False, kw_only=True)
class Bystander(Talker):
    """Sends to itself at QoS 1 and measures how long that takes.

    :ivar trips: when each round trip ended, and how many seconds it took.
    """

    name: str
    trips: "list[tuple[float, float]]" = field(factory=list)
    _sent: float = 0.0
    _next: float = 0.0
    _number: int = 0

    def tick(self, now: float, elapsed: float, sending: bool) -> None:
        if now < self._next:
            return
        if self.state == "away":
            self._next = now + 0.1
            self.dial(now)
        elif self.state == "idle":
            self.state, self._sent = "waiting", now
            self._number = self._number % 65_535 + 1
            self.out += wire.publish(f"chat/{self.name}", b"%d" % self._number, 1, self._number)

    def worst(self, since: float) -> float:
        """The longest round trip that ended after ``since``, or has lasted until now."""
        longest = max((took for ended, took in list(self.trips) if ended >= since), default=0.0)
        return max(longest, time.monotonic() - self._sent if self.state == "waiting" else 0.0)

    def greeting(self) -> bytes:
        return wire.connect(self.name, clean=True, keep_alive=0) + wire.subscribe(f"chat/{self.name}", 1, 1)

    def lost(self, now: float) -> None:
        self.cut_off += self.state in ("idle", "waiting")
        self.end()
        self.state = "away"

    def take(self, first: int, body: bytes, now: float) -> None:
        if first >> 4 == wire.SUBACK:
            self.state = "idle"
        elif first >> 4 == wire.PUBLISH:
            message = wire.received(first, body)
            if message.packet_id:
                self.out += wire.puback(message.packet_id)
            if message.payload == b"%d" % self._number and self.state == "waiting":
                self.trips.append((now, now - self._sent))
                self.state, self._next = "idle", now + PAUSE
