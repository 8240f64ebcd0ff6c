"""Complaints: log lines about clients, one per event, limited per cause."""

from collections import Counter
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

#: Lines per cause in each window, and those of them about one host; what is beyond is counted, and told
#: when the window ends.
LINES: Final = 20
LINES_PER_HOST: Final = 5
WINDOW: Final = 10.0


class Complaints:
    """Complaints writes log lines about clients, only so many of one cause and of one host.

    So a misbehaving fleet does not fill the disk, and one host does not hide what the others do.

    :param clock: steady time.
    :param room: where the lines say they come from.
    """

    def __init__(self, clock: IReactorTime, room: str = "broker") -> None:
        self._clock = clock
        self._log = Logger(f"platziverse.{room}")
        self._lines: Counter[str] = Counter()
        self._hosts: Counter[tuple[str, str]] = Counter()
        self._silent: Counter[str] = Counter()
        #: Causes of :meth:`mention`.
        self._ordinary: set[str] = set()
        #: Ends the time in which lines are counted; ``None``: none was written lately.
        self.window: IDelayedCall | None = None

    def warn(self, cause: str, format: str, /, *, address: str, **fields: object) -> None:
        """Log a warning unless there have been too many for the same ``cause``, a fixed text of ours.

        :param address: of the client, ``"host:port"``; a field of the event like the others.
        """
        if self._may_speak(cause, address):
            self._log.warn(format, cause=cause, address=address, **fields)

    def mention(self, cause: str, format: str, /, *, address: str, **fields: object) -> None:
        """Log at *debug*, within the same limits, ordinary back pressure: nothing is lost by it."""
        self._ordinary.add(cause)
        if self._may_speak(cause, address):
            self._log.debug(format, cause=cause, address=address, **fields)

    def fail(self, cause: str, failure: Failure, format: str, /, *, address: str, **fields: object) -> None:
        """Log a bug of ours with its traceback, within the same limits."""
        if self._may_speak(cause, address):
            self._log.failure(format, failure, LogLevel.critical, cause=cause, address=address, **fields)

    def _may_speak(self, cause: str, address: str) -> bool:
        if self.window is None:
            self.window = self._clock.callLater(WINDOW, self._end_window)
        host = address.rpartition(":")[0]
        if self._lines[cause] >= LINES or self._hosts[cause, host] >= LINES_PER_HOST:
            self._silent[cause] += 1
            return False
        self._lines[cause] += 1
        self._hosts[cause, host] += 1
        return True

    def stop(self) -> None:
        """Say how many lines were left out in the window that is open."""
        if self.window is not None:
            self.window.cancel()
            self._end_window()

    def _end_window(self) -> None:
        self.window = None
        self._lines.clear()
        self._hosts.clear()
        silent, self._silent = self._silent, Counter()
        for cause, count in silent.items():
            level = LogLevel.debug if cause in self._ordinary else LogLevel.warn
            text = "{more} more like this in {seconds:.0f} s: {cause}"
            self._log.emit(level, text, more=count, seconds=WINDOW, cause=cause)
