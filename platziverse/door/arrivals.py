"""Arrivals: a fleet that reconnects at once is attended to at a steady rate, in order, and never refused."""

from collections import deque
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

#: Seconds between two groups of those that wait, and how many seconds' worth may come at once.
STEP: Final = 0.02


class Arrival(Protocol):
    """A connection from which nothing has been read."""

    def proceed(self) -> bool:
        """Begin to read: its turn has come. Return ``False`` when it has gone meanwhile."""


class Arrivals:
    """Arrivals lets connections within a rate go on at once, and the others when their turn has come.

    :param rate: connections per second; 0: none ever waits.
    :param clock: steady time, and ``callLater``.
    """

    def __init__(self, rate: float, clock: IReactorTime) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._allowance = max(0.0, STEP - self._interval)
        self._clock = clock
        self._due = 0.0
        self._waiting: deque[Arrival] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def come(self, arrival: Arrival) -> bool:
        """Return whether ``arrival`` may go on now; if not, its ``proceed`` is called when its turn comes."""
        if not self._interval:
            return True
        if not self._waiting:
            now = self._clock.seconds()
            if self._due <= now + self._allowance:
                self._due = max(self._due, now) + self._interval
                return True
            self._clock.callLater(STEP, self._step)
        self._waiting.append(arrival)
        return False

    def _is_free(self) -> bool:
        return self._due <= self._clock.seconds() + self._allowance

    def _take(self) -> None:
        self._due = max(self._due, self._clock.seconds()) + self._interval

    def _step(self) -> None:
        waiting = self._waiting
        self._due = max(self._due, self._clock.seconds())  # after a long turn no more than after a short one
        while waiting and self._is_free():
            if waiting.popleft().proceed():
                self._take()
        if waiting:
            self._clock.callLater(STEP, self._step)
