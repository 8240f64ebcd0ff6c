"""Runs a program of Python with a reactor that notes how long its turns take.

``python -m bench.turning FILE twistd ...`` writes into FILE, each second, the longest turn since the last
time, in milliseconds of the CPU of its thread and of the clock: the first says what the daemon did, the other
what the machine made of it. A reader empties the file.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from platziverse.door.reactor import ServingReactor

EVERY = 1.0


class Turning:
    """A Turning stands before the poller of the reactor: a turn is what lies between two of its polls."""

    def __init__(self, poller: Any, path: str) -> None:
        self._poller, self._file = poller, Path(path)
        self._cpu, self._clock = time.thread_time(), time.perf_counter()
        self._longest, self._due = (0.0, 0.0), self._clock + EVERY

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def poll(self, timeout: float, most: int) -> Any:
        """End a turn, and begin another one when there is something to do."""
        now = time.perf_counter()
        turn = time.thread_time() - self._cpu, now - self._clock
        self._longest = max(self._longest, turn)
        if now > self._due:
            with self._file.open("a") as file:
                file.write("{:.3f} {:.3f}\n".format(*(1000 * seconds for seconds in self._longest)))
            self._longest, self._due = (0.0, 0.0), now + EVERY
        found = self._poller.poll(timeout, most)
        self._cpu, self._clock = time.thread_time(), time.perf_counter()
        return found


def main() -> None:
    """Run the rest of the arguments as a program."""
    path, program, *_ = sys.argv[1:]
    make = ServingReactor.__init__

    def turned(reactor: Any) -> None:
        make(reactor)  # type: ignore[no-untyped-call]
        reactor._poller = Turning(reactor._poller, path)

    ServingReactor.__init__ = turned  # type: ignore[method-assign]
    sys.argv = sys.argv[2:]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
