"""Progress: a line in the terminal that says how far a long command has come."""

import sys
import time
from typing import Final

#: Characters of the bar, and seconds between two looks of it.
WIDTH: Final = 30
EVERY: Final = 0.2


class Progress:
    """A Progress writes its line to standard error, if that is a terminal.

    :param unit: what is counted, in the plural.
    :param whole: where it ends, e.g. in bytes; 0: nobody knows.
    """

    def __init__(self, unit: str, whole: int = 0) -> None:
        self._unit, self._whole = unit, whole
        self._began, self._due, self._shown = time.monotonic(), 0.0, False

    def show(self, count: int, done: int = 0) -> None:
        """Say how many there are by now, and how much of the whole is done; now and then only."""
        now = time.monotonic()
        if now < self._due or not sys.stderr.isatty():
            return
        self._due, self._shown = now + EVERY, True
        passed = max(now - self._began, 0.001)
        line = f"{count:,} {self._unit}, {count / passed:,.0f} a second"
        if self._whole:
            part = min(done / self._whole, 1.0)
            left = f", {passed / part - passed:,.0f} s left" if part > 0.01 else ""
            bar = "#" * int(part * WIDTH)
            line = f"[{bar:<{WIDTH}}] {100 * part:3.0f} %  {line}{left}"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Say what is done meanwhile of which nobody knows how far it has come."""
        if sys.stderr.isatty():
            self._shown = True
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began
