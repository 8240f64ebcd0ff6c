"""Flapping: clients that connect again and again are slowed down, never banned."""

from collections import OrderedDict
from typing import Final

from platziverse.broker.limits import Limits

#: Client Identifiers remembered at most; the one unseen longest goes first.
REMEMBERED: Final = 10_000
WINDOW: Final = 60.0


class Flapping:
    """Counts the connects of each Client Identifier in windows of one minute."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def delay(self, client_id: str, now: float) -> float:
        """Seconds that this connect has to wait; counts it.

        :param now: steady time in seconds.
        """
        if not client_id:
            return 0.0
        began, count = self._seen.pop(client_id, (now, 0))
        if now - began >= WINDOW:
            began, count = now, 0
        self._seen[client_id] = (began, count + 1)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return self._limits.connect_delay if count >= self._limits.max_connects_per_minute else 0.0
