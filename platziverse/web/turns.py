"""Turns: for how long the reactor attends to nothing else."""

from typing import Any, Final

from platziverse.web.histogram import Histogram

INTERVAL: Final = 0.25
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Turns:
    """Looks four times a second how late a timer fires: what was left of the turn in which it was due.

    A turn of 50 ms is seen in one of five looks, one of 250 ms always.

    :param clock: steady time, and ``callLater``.
    """

    def __init__(self, clock: Any) -> None:
        self.lateness = Histogram(BOUNDS)
        self._clock = clock
        self._call: Any = None

    def start(self) -> None:
        """Begin to look."""
        self._next()

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _next(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look, self._clock.seconds() + INTERVAL)

    def _look(self, due: float) -> None:
        self.lateness.observe(max(0.0, self._clock.seconds() - due))
        self._next()
