"""Deadlines: those of thousands of connections, with one timer.

A ``DelayedCall`` for each connection would cost memory, and an entry in a heap that is moved at every read.
Here a connection stands in one bucket and is asked when the time of the bucket has come; until then a read
costs it one attribute.
"""

from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

TICK: Final = 0.25
#: A tick this late means that the process was suspended: no client is to blame for the silence.
SUSPENDED: Final = 5.0
#: Seconds for the last bytes to leave once we have closed; then the connection is cut.
LINGER: Final = 5.0


class Waiting(Protocol):
    """A Waiting is a connection, or something else, that has a deadline."""

    #: The tick of the bucket it stands in; it belongs to :class:`Deadlines`.
    bucket: int

    def deadline_reached(self, now: float) -> None:
        """Do what is due: the time asked for has come. Ask again with ``add`` if need be."""


class Deadlines:
    """Deadlines calls ``deadline_reached`` at the time asked for, up to two ticks late, never early.

    ``now`` is steady time in seconds that stands still while the process is suspended; it is exact to
    one tick and costs nothing to read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._buckets: dict[int, set[Waiting]] = {}
        self._last = clock.seconds()
        self._tick = 0
        self._call: IDelayedCall | None = None
        self.now = 0.0
        #: How many times the process seems to have been suspended.
        self.suspensions = 0

    def start(self) -> None:
        """Begin to tick."""
        self._last = self._clock.seconds()
        self._call = self._clock.callLater(TICK, self._advance)

    def stop(self) -> None:
        """Tick no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def add(self, waiting: Waiting, at: float) -> None:
        """Call ``waiting`` once ``now`` is ``at`` or later; replaces what it asked for before."""
        self.remove(waiting)
        # ``now`` may be a tick old: one more tick, or the call could come early.
        tick = max(int(at / TICK) + 2, self._tick + 1)
        waiting.bucket = tick
        self._buckets.setdefault(tick, set()).add(waiting)

    def remove(self, waiting: Waiting) -> None:
        """Forget the deadline of ``waiting``."""
        bucket = self._buckets.get(waiting.bucket)
        if bucket is not None:
            bucket.discard(waiting)
            if not bucket:
                del self._buckets[waiting.bucket]

    def _advance(self) -> None:
        seconds = self._clock.seconds()
        gap = seconds - self._last
        self._last = seconds
        if gap > SUSPENDED:
            self.suspensions += 1
            gap = TICK
        self.now += gap
        self._call = self._clock.callLater(TICK, self._advance)
        while self._tick <= self.now / TICK - 1:
            self._tick += 1
            for waiting in self._buckets.pop(self._tick, ()):
                try:
                    waiting.deadline_reached(self.now)
                except Exception:  # one connection's bug is not the others' end
                    log.failure("Bug: a deadline")
