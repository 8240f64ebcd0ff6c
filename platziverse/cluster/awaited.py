"""Awaited: what waits until a position is reached."""

from functools import partial
from heapq import heappop, heappush

from twisted.internet.defer import Deferred


class Awaited:
    """An Awaited fires what waits in the order of positions, and looks at nothing whose time has not come.

    Thousands of Sessions may be on their way, each of which waits for a position; messages that come and go
    are counted in thousands too.
    """

    def __init__(self) -> None:
        self._at: dict[int, dict[Deferred[None], None]] = {}
        # The same positions; some of them nobody waits for any more.
        self._positions: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._at)

    def at(self, position: int) -> "Deferred[None]":
        """Return a Deferred that fires when a position is reached; whoever waits no longer cancels it."""
        waits: Deferred[None] = Deferred(partial(self._forget, position))
        if position not in self._at:
            self._at[position] = {}
            heappush(self._positions, position)
        self._at[position][waits] = None
        return waits

    def _forget(self, position: int, waits: "Deferred[None]") -> None:
        there = self._at.get(position, {})
        there.pop(waits, None)
        if not there:
            self._at.pop(position, None)

    def reach(self, position: int) -> None:
        """Fire what waits for this position, or one below it."""
        positions = self._positions
        while positions and positions[0] <= position:
            for waits in list(self._at.pop(heappop(positions), ())):
                if not waits.called:
                    waits.callback(None)
