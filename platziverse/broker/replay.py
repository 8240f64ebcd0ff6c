"""Replay: the Retained Messages that follow a SUBSCRIBE, a little in each turn."""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from platziverse.mqtt.packets import Publish

#: Finds Retained Messages, each with the QoS it is delivered at; and about how many it has to look at.
Search: TypeAlias = "tuple[Callable[[], list[tuple[Publish, int]]], int]"

#: Retained Messages looked at or sent before the others get their turn: some ten milliseconds.
BUDGET: Final = 2000


class Replay:
    """What one client is still to get. Only one search at a time has made its list.

    :ivar budget: what may still be looked at or sent in this turn.
    :ivar resting: someone will call ``rest`` in the next turn.
    """

    __slots__ = ("_found", "_searches", "budget", "resting")

    def __init__(self) -> None:
        self._found: deque[tuple[Publish, int]] = deque()
        self._searches: dict[str, Search] = {}
        self.budget = BUDGET
        self.resting = False

    def __len__(self) -> int:
        """Messages found, and searches that have not begun."""
        return len(self._found) + len(self._searches)

    def add(self, searches: dict[str, Search]) -> None:
        """Search for these Topic Filters too; one that waits for its search already is searched for once."""
        self._searches |= searches

    def cancel(self, topic_filter: str) -> None:
        """The client has unsubscribed; so there are never more searches than Subscriptions."""
        self._searches.pop(topic_filter, None)

    def next(self) -> tuple[Publish, int] | None:
        """The next message and its QoS; ``None`` when there is none, or none in this turn."""
        while not self._found and self._searches and self.budget > 0:
            search, effort = self._searches.pop(next(iter(self._searches)))
            self.budget -= effort
            self._found.extend(search())
        if not self._found or self.budget <= 0:
            return None
        self.budget -= 1
        return self._found.popleft()

    def rest(self) -> None:
        """The others have had their turn."""
        self.budget, self.resting = BUDGET, False
