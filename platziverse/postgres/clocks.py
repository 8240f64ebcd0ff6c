"""Clocks: ours tells the time while it agrees with that of the database, else that of the database."""

import time
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

log = Logger("platziverse.database")

#: Seconds that the clocks may be apart; beyond it the database is right, and nothing old is deleted.
APART: Final = 60.0


def steady() -> float:
    """Return the seconds of a clock that is never set; it runs while the machine is suspended, if one can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class WallClock:
    """A WallClock returns seconds since the epoch when it is called, for rows. Decided in ADR 0082.

    Between two comparisons it follows a steady clock, so nothing happens when our clock is set.

    :param moved: called when the clock turns out to have been wrong by more than ``APART``, with the seconds
        to add to every time that it has told before.
    :param ours: returns seconds since the epoch, as this machine has them.
    :param steady: returns the seconds of the steady clock.
    :ivar apart: seconds that our clock was ahead of that of the database, when they were compared; ``None``:
        they never were.
    """

    def __init__(
        self,
        moved: Callable[[float], None],
        ours: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady,
    ) -> None:
        self.apart: float | None = None
        self._moved, self._ours, self._steady = moved, ours, steady
        self._offset = ours() - steady()

    def __call__(self) -> float:
        return self._steady() + self._offset

    def ours(self) -> float:
        """Return seconds since the epoch, as this machine has them."""
        return self._ours()

    @property
    def warning(self) -> str:
        """One line about our clock when it is wrong; else empty."""
        if self.apart is None or abs(self.apart) <= APART:
            return ""
        return f"the clock is {abs(self.apart):.0f} s {_side(self.apart)} that of the database"

    def compare(self, theirs: float, asked: float) -> None:
        """Compare our clock with that of the database, and follow the one that counts.

        :param theirs: seconds since the epoch, as the database has answered.
        :param asked: what :meth:`ours` returned before the database was asked.
        """
        ours = self._ours()
        apart = (asked + ours) / 2 - theirs
        self._tell(apart)
        self.apart = apart
        now = ours if abs(apart) <= APART else theirs
        wrong = now - self()
        self._offset += wrong
        if abs(wrong) > APART:
            self._moved(wrong)

    def _tell(self, apart: float) -> None:
        agreed = self.apart is not None and abs(self.apart) <= APART
        if abs(apart) > APART:
            if agreed or self.apart is None:
                text = "our clock is {apart:.0f} s {side} that of the database, which counts: what is stored"
                text += " has its time, and nothing old is deleted until they agree; let NTP keep both"
                log.warn(text, apart=abs(apart), side=_side(apart))
        elif not agreed:
            text = "our clock and that of the database agree: {apart:.3f} s {side} it"
            log.info(text, apart=abs(apart), side=_side(apart))


def _side(apart: float) -> str:
    return "ahead of" if apart > 0 else "behind"
