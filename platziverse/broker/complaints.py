"""Complaints: log lines about clients, one per event, limited per cause."""

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

#: Lines per cause in each window; what is beyond is counted and told when the window ends.
LINES: Final = 20
WINDOW: Final = 10.0


class Complaints:
    """A misbehaving fleet must not fill the disk.

    :param clock: steady time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._window: IDelayedCall | None = None

    def warn(self, cause: str, format: str, **fields: object) -> None:
        """Log a warning unless there have been too many for the same ``cause``, a fixed text of ours."""
        if not self._counts:
            self._window = self._clock.callLater(WINDOW, self._end_window)
        count = self._counts[cause] = self._counts.get(cause, 0) + 1
        if count <= LINES:
            log.warn(format, cause=cause, **fields)

    def stop(self) -> None:
        """Tell what is left to tell."""
        if self._window is not None and self._window.active():
            self._window.cancel()
            self._end_window()

    def _end_window(self) -> None:
        counts, self._counts = self._counts, {}
        for cause, count in counts.items():
            if count > LINES:
                log.warn(
                    "{more} more like this in {seconds:.0f} s: {cause}",
                    more=count - LINES,
                    seconds=WINDOW,
                    cause=cause,
                )
