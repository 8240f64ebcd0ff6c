"""Flushes: packets for many clients are written at the end of the turn of the reactor that made them.

What the client is answered whose packets were handled leaves before the copies for others. ADR 0103.
"""

from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

log = Logger()


class Flushable(Protocol):
    """A Flushable collects bytes, and writes them when it is flushed."""

    def flush(self) -> None: ...


class Flushes:
    """Flushes are the outboxes with packets of this turn.

    :param clock: flushes what was sent outside of a turn, in the next one.
    :ivar touched: they are written by ``flush``, which somebody calls before this turn ends.
    :ivar first: the outbox of the client whose turn it is, which it writes itself when its turn ends.
    """

    __slots__ = ("_clock", "first", "touched")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.touched: list[Flushable] = []
        self.first: Flushable | None = None

    def add(self, outbox: Flushable) -> None:
        """Flush ``outbox`` at the end of the turn."""
        first, touched = self.first, self.touched
        if outbox is first:
            return
        touched.append(outbox)
        if first is None and len(touched) == 1:
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Write everything that was collected, and also the packets that come up meanwhile."""
        for outbox in self.touched:  # also those that come to it meanwhile
            try:
                outbox.flush()
            except Exception:  # one transport's bug is not the others' end
                log.failure("Bug: writing to a client")
        self.touched.clear()
