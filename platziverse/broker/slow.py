"""Slow: the memory of a receiver with a full queue, until it has caught up."""

from collections import deque
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from platziverse.broker.interfaces import NetworkConnection
from platziverse.broker.limits import Limits

#: Seconds within which the times count that a receiver has held its publishers.
WINDOW: Final = 60.0
#: A timer this late means that the process was suspended: no client is to blame for its silence.
SUSPENDED: Final = 5.0
#: Seconds in which a receiver has taken nothing at all, after which it holds nobody.
STANDSTILL: Final = 5.0


class Slow:
    """A Slow knows which publishers one receiver holds, and for how long it may.

    :ivar too_slow: it holds nobody, and what does not fit into its queue is dropped.
    :ivar last_taken: when it last took something.
    """

    __slots__ = (
        "_clock",
        "_held",
        "_limits",
        "_since",
        "_spells",
        "check",
        "last_taken",
        "too_slow",
    )

    def __init__(self, limits: Limits, clock: IReactorTime) -> None:
        self._limits, self._clock = limits, clock
        self._held: dict[NetworkConnection, None] = {}
        self._since = 0.0
        # When it has held publishers: from, until.
        self._spells: deque[tuple[float, float]] = deque()
        self.too_slow = False
        self.last_taken = clock.seconds()
        self.check: IDelayedCall | None = None

    @property
    def holds(self) -> bool:
        """True while it holds a publisher."""
        return bool(self._held)

    def hold(self, publisher: NetworkConnection) -> None:
        """Read nothing more from ``publisher`` until half of the queue is gone, or the patience."""
        if not self._held:
            self._since = self._clock.seconds()
        self._held[publisher] = None
        publisher.hold()

    def patience(self, now: float) -> float:
        """Return for how many seconds it may go on to hold."""
        self._forgive_suspension(now)
        while self._spells and self._spells[0][1] <= now - WINDOW:
            self._spells.popleft()
        used = sum(until - max(since, now - WINDOW) for since, until in self._spells)
        if self._held:
            used += now - self._since
        return min(self._limits.receiver_patience - used, self.last_taken + STANDSTILL - now)

    def _forgive_suspension(self, now: float) -> None:
        """Begin anew if the process was suspended meanwhile, when the receiver could take nothing."""
        if self.check is not None and now - self.check.getTime() > SUSPENDED:
            self._since = self.last_taken = now

    def release(self) -> None:
        """Hold nobody any more."""
        if self._held:
            held, self._held = self._held, {}
            self._spells.append((self._since, self._clock.seconds()))
            for publisher in held:
                publisher.release()
        if self.check is not None:
            self.check.cancel()
            self.check = None

    def taken(self, messages: int, size: int) -> bool:
        """Note that it has taken something; return whether it has caught up and can be forgotten.

        :param messages: how many still wait for it; with what its connection has no room for ``size`` bytes.
        """
        self.last_taken = self._clock.seconds()
        limits = self._limits
        if messages * 2 <= limits.max_queued_messages and size * 2 <= limits.max_queued_bytes:
            self.release()
        return not messages and not size
