"""Log: the file that the embedded PostgreSQL writes: bounded, and quoted when the server ends."""

import os
from typing import Any, Final

from attrs import define, field
from twisted.internet.task import LoopingCall

#: Above this size the file is set aside at a start, or emptied while the server runs.
LARGEST: Final = 8 * 1024 * 1024


@define
class ServerLog:
    """A ServerLog is the log file of one server.

    :param path: of the file; its predecessor has ``.1`` after it.
    """

    path: str
    _start: int = 0
    _watch: LoopingCall | None = field(default=None, init=False)

    def mark(self) -> None:
        """Let ``last_words`` ignore all lines until now; a large file is set aside."""
        self._start = self._size()
        if self._start > LARGEST:
            os.replace(self.path, f"{self.path}.1")
            self._start = 0

    def last_words(self) -> str:
        """Return why the server ended: its last FATAL or PANIC since ``mark``, else its last line."""
        if not self._size():
            return "it said nothing"
        with open(self.path, "rb") as file:
            file.seek(max(self._start, self._size() - 65536))
            lines = file.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        grave = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "error:"))]
        return (grave or lines or ["it said nothing"])[-1]

    def keep_small(self, reactor: Any) -> None:
        """Empty the file when it is too large; look once a minute, until ``stop``."""
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor
        self._watch.start(60, now=False)

    def stop(self) -> None:
        if self._watch and self._watch.running:
            self._watch.stop()

    def _look(self) -> None:
        # The server holds the file open for appending, so it can be emptied but not replaced.
        if self._size() > LARGEST:
            os.truncate(self.path, 0)
            self._start = 0

    def _size(self) -> int:
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0
