"""Limits: how often the settings of ``[ingest]`` have delayed, cut or given up something."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger, LogLevel

log = Logger("platziverse.store")

#: Seconds in which there is at most one line about each setting.
WINDOW: Final = 10.0


class LimitsMet:
    """A LimitsMet counts, and writes a line now and then.

    :param seconds: returns steady time.
    :ivar counts: how often, by the name of the setting in ``[ingest]``.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._seconds = seconds
        self._said: dict[str, float] = {}

    def note(self, setting: str, text: str, count: int = 1, level: LogLevel = LogLevel.debug) -> None:
        """Count that a setting was met.

        :param text: the consequence.
        :param level: *debug* for what is ordinary.
        """
        self.counts[setting] += count
        now = self._seconds()
        if setting not in self._said or now - self._said[setting] >= WINDOW:
            self._said[setting] = now
            line = "{text} (ingest.{setting}); so far: {count}"
            log.emit(level, line, text=text, setting=setting, count=self.counts[setting])
