"""Deadlines: those of thousands of connections, with one timer.

A ``DelayedCall`` for each connection would cost memory, and an entry in a heap that is moved at every read.
Here a connection stands in one bucket and is asked when the time of the bucket has come; until then a read
costs it one attribute.
"""

from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from platziverse.broker.slow import SUSPENDED
from platziverse.broker.turn import Turn

log = Logger()

TICK: Final = 0.25
#: Seconds that a tick may be late; otherwise the whole process was stopped.
PAUSE: Final = 2.0
#: Seconds for the last bytes to leave once we have closed; then the connection is cut.
LINGER: Final = 5.0
#: Connections whose time has come that are asked before the time of the turn is looked at.
SLICE: Final = 50


class Waiting(Protocol):
    """A Waiting is a connection, or something else, that has a deadline."""

    #: The tick of the bucket it stands in, -1: none yet, or passed on; belongs to :class:`Deadlines`.
    bucket: int

    def deadline_reached(self, now: float) -> None:
        """Do what is due: the time asked for has come. Ask again with ``add`` if need be."""


class Deadlines:
    """Deadlines calls ``deadline_reached`` at the time asked for, up to two ticks late, never early.

    When it is that of thousands, those that are left after ten milliseconds are called in the next turn.
    ``now`` is steady time in seconds that stands still while the process is suspended; it is exact to
    one tick and costs nothing to read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._buckets: dict[int, set[Waiting]] = {}
        self._last = clock.seconds()
        # The connections of its bucket are being called, or were.
        self._tick = 0
        self._turn = Turn(clock)
        self._call: IDelayedCall | None = None
        self._rest: IDelayedCall | None = None
        self.now = 0.0
        #: When it has ticked again, if the process runs: steady time.
        self.latest = inf
        #: How many times the process seems to have been suspended.
        self.suspensions = 0

    def start(self, overslept: Callable[[], object] = lambda: None) -> None:
        """Begin to tick.

        :param overslept: called when the process was stopped meanwhile.
        """
        self._overslept = overslept
        self._last = self._clock.seconds()
        self.latest = self._last + TICK + PAUSE
        self._call = self._clock.callLater(TICK, self._advance)

    def stop(self) -> None:
        """Tick no more."""
        for call in (self._call, self._rest):
            if call is not None:
                call.cancel()
        self._call = self._rest = None
        self.latest = inf

    def add(self, waiting: Waiting, at: float) -> None:
        """Call ``waiting`` once ``now`` is ``at`` or later; replaces what it asked for before."""
        if waiting.bucket in self._buckets:
            self.remove(waiting)
        # ``now`` may be a tick old: one more tick, or the call could come early.
        tick = max(int(at / TICK) + 2, self._tick + 1)
        waiting.bucket = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {waiting}
        else:
            bucket.add(waiting)

    def pass_on(self, waiting: Waiting, heir: Waiting) -> None:
        """Call ``heir`` in place of ``waiting``, at the time that ``waiting`` has asked for."""
        bucket = self._buckets.get(waiting.bucket)
        if bucket is not None:
            heir.bucket, waiting.bucket = waiting.bucket, -1
            bucket.discard(waiting)
            bucket.add(heir)

    def remove(self, waiting: Waiting) -> None:
        """Forget the deadline of ``waiting``."""
        bucket = self._buckets.get(waiting.bucket)
        if bucket is not None:
            bucket.discard(waiting)
            if not bucket:
                del self._buckets[waiting.bucket]

    def _advance(self) -> None:
        seconds = self._clock.seconds()
        if seconds > self.latest:
            self.suspensions += 1
            self._overslept()
        gap = seconds - self._last
        self._last, self.latest = seconds, seconds + TICK + PAUSE
        if gap > SUSPENDED:
            gap = TICK
        self.now += gap
        self._call = self._clock.callLater(TICK, self._advance)
        if self._rest is None:
            self._call_due()

    def _call_due(self) -> None:
        self._rest = None
        while self._call_bucket():
            if self._tick > self.now / TICK - 1:
                return
            self._tick += 1
        self._rest = self._clock.callLater(0, self._call_due)

    def _call_bucket(self) -> bool:
        """Call the connections of one bucket; return ``False`` when some are left for the next turn.

        The bucket stays where it is meanwhile: a deadline may still be removed, or passed on.
        """
        bucket, called = self._buckets.get(self._tick), 0
        while bucket:
            if called == SLICE:
                if self._turn.is_over:
                    return False
                called = 0
            called += 1
            try:
                bucket.pop().deadline_reached(self.now)
            except Exception:  # one connection's bug is not the others' end
                log.failure("Bug: a deadline")
        self._buckets.pop(self._tick, None)
        return True
