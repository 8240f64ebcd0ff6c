"""Flushes: packets for many clients are written at the end of the turn of the reactor that made them."""

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
    """

    __slots__ = ("_clock", "_touched", "turn")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._touched: list[Flushable] = []
        #: Someone is going to call ``flush`` before this turn of the reactor ends.
        self.turn = False

    def add(self, outbox: Flushable) -> None:
        """Flush ``outbox`` at the end of the turn."""
        self._touched.append(outbox)
        if not self.turn and len(self._touched) == 1:
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Write everything that was collected, and also the packets that come up meanwhile."""
        self.turn = True
        try:
            for outbox in self._touched:  # also those that come to it meanwhile
                try:
                    outbox.flush()
                except Exception:  # one transport's bug is not the others' end
                    log.failure("Bug: writing to a client")
        finally:
            self._touched.clear()
            self.turn = False
