"""Starting: a line in the terminal that says how far a start has come, while it takes long."""

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.task import LoopingCall

from platziverse.daemon.logs import LineLog

#: Seconds between two looks, from the first on; a start that takes less shows nothing.
EVERY: Final = 1.0
#: Characters of the bar.
WIDTH: Final = 20

#: The stages of a start: with a private PostgreSQL, with another one, and of the process that has workers.
DATA, SERVER, TABLES, SESSIONS, WORKERS = "data", "server", "tables", "sessions", "workers"
EMBEDDED: Final = (DATA, SERVER, TABLES, SESSIONS)
GIVEN: Final = (SERVER, TABLES, SESSIONS)
OF_WORKERS: Final = {EMBEDDED: (DATA, SERVER, WORKERS), GIVEN: (WORKERS,)}


@frozen
class Stage:
    """A Stage is where a start has come to.

    :ivar stages: all that it has, in their order.
    :ivar name: of the one that it is at.
    :ivar text: what is done, or waited for, in a few words.
    :ivar part: how much of this stage is done, from 0 to 1, as far as anybody knows.
    """

    stages: tuple[str, ...]
    name: str
    text: str
    part: float = 0.0

    def __str__(self) -> str:
        before, count = self.stages.index(self.name), len(self.stages)
        bar = "#" * int((before + self.part) / count * WIDTH)
        return f"[{bar:<{WIDTH}}] {before + 1} of {count}: {self.text}"


class StartLine:
    """A StartLine is below the log of a daemon in the foreground, and nowhere else.

    :param clock: steady time, and ``callLater``.
    :param log: returns the log; ``None``: it is another's.
    :param stage: returns where the start has come to; ``None``: nothing is waited for.
    """

    def __init__(
        self, clock: Any, log: Callable[[], LineLog | None], stage: Callable[[], Stage | None]
    ) -> None:
        self._clock, self._log, self._stage = clock, log, stage
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
        stage = self._stage()
        seconds = self._clock.seconds() - self._began
        self._write(f"starting {stage}, {seconds:.0f} s" if stage is not None else "")

    def _write(self, text: str) -> None:
        if (log := self._log()) is not None:
            log.show(text)
