"""Starting: a line in the terminal that says what a start waits for, while it takes long."""

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall

from platziverse.daemon.logs import LineLog

#: Seconds between two looks, from the first on; a start that takes less shows nothing.
EVERY: Final = 1.0


class StartLine:
    """A StartLine is below the log of a daemon in the foreground, and nowhere else.

    :param clock: steady time, and ``callLater``.
    :param log: returns the log; ``None``: it is another's.
    :param trouble: returns what is waited for, in a few words; empty: nothing.
    """

    def __init__(self, clock: Any, log: Callable[[], LineLog | None], trouble: Callable[[], str]) -> None:
        self._clock, self._log, self._trouble = clock, log, trouble
        self._began = 0.0
        self._loop = LoopingCall(self._show)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to look."""
        self._began = self._clock.seconds()
        self._loop.start(EVERY, now=False)

    def stop(self) -> None:
        """Take the line away: the start is over."""
        if self._loop.running:
            self._loop.stop()
            self._write("")

    def _show(self) -> None:
        reason = self._trouble()
        seconds = self._clock.seconds() - self._began
        self._write(f"starting: {reason}, {seconds:.0f} s" if reason else "")

    def _write(self, text: str) -> None:
        if (log := self._log()) is not None:
            log.show(text)
