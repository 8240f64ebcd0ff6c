"""Turn: how much of one turn of the reactor may go to work that can wait, of all clients together."""

from typing import Final

from twisted.internet.interfaces import IReactorTime

#: Seconds.
LENGTH: Final = 0.01


class Turn:
    """Asked before each piece of such work; whoever is told that it is over goes on in the next turn.

    :param clock: steady time, which moves while work is done.
    :param length: seconds.
    """

    def __init__(self, clock: IReactorTime, length: float = LENGTH) -> None:
        self._clock, self._length = clock, length
        self._until: float | None = None

    @property
    def is_over(self) -> bool:
        """Return whether the time of this turn is used up; it begins with the first question."""
        now = self._clock.seconds()
        if self._until is None:
            self._until = now + self._length
            self._clock.callLater(0, self._end)
        return now >= self._until

    def _end(self) -> None:
        self._until = None
