"""Complaints: one log line per rejected message, but no log full of them."""

from typing import Final

from twisted.logger import Logger

log = Logger()

WINDOW: Final = 10.0
#: Lines in one window: about one client, and about all, since Client Identifiers are free to choose.
LINES_PER_CLIENT: Final = 5
LINES: Final = 100


class Complaints:
    """Says what is wrong with a message; what it keeps to itself it counts, and tells later."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lines = 0
        self._silent = 0
        self._end = 0.0

    def rejected(self, client_id: str, topic: str, reason: str, now: float) -> None:
        """Log that a message was rejected.

        :param reason: safe for a log.
        :param now: seconds; a step of the clock does no harm.
        """
        if not 0 < self._end - now <= WINDOW:
            self._begin_window(now)
        count = self._counts.get(client_id, 0)
        if count >= LINES_PER_CLIENT or self._lines >= LINES:
            self._silent += 1
            return
        self._counts[client_id] = count + 1
        self._lines += 1
        log.warn(
            "Rejected a message of {client_id!r} to {topic!r}: {reason}",
            client_id=client_id,
            topic=topic,
            reason=reason,
        )

    def _begin_window(self, now: float) -> None:
        if self._silent:
            log.warn("{count} more messages were rejected without a line each", count=self._silent)
        self._counts.clear()
        self._lines = self._silent = 0
        self._end = now + WINDOW
