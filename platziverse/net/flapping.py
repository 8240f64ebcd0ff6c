"""Flapping: clients that take each other over again and again are slowed down, never banned."""

from typing import Final

from platziverse.broker.limits import Limits
from platziverse.mqtt.memo import Recent

#: Client Identifiers remembered at most; the one unseen longest goes first.
REMEMBERED: Final = 10_000
WINDOW: Final = 60.0


class Flapping:
    """Flapping counts the take-overs of each Client Identifier in windows of one minute."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # When the window began, and how many connects were in it.
        self._seen: Recent[str, tuple[float, int]] = Recent(REMEMBERED)

    def delay(self, client_id: str, now: float) -> float:
        """Return for how many seconds this connect has to wait, and count it.

        :param now: steady time in seconds.
        """
        if not client_id:
            return 0.0
        began, count = self._seen.get(client_id) or (now, 0)
        if now - began >= WINDOW:
            began, count = now, 0
        self._seen.put(client_id, (began, count + 1))
        return self._limits.connect_delay if count >= self._limits.max_connects_per_minute else 0.0
