"""Waiting for conditions, with an end."""

import time
from collections.abc import Callable


class TooLate(Exception):
    """What was waited for did not come about."""


def poll(
    condition: Callable[[], object],
    patience: float,
    what: str = "",
    interval: float = 0.005,
    progress: Callable[[], int] = lambda: 0,
) -> float:
    """Ask ``condition`` until it is true; the seconds that took.

    :param progress: patience begins anew when this number is another one.
    :raises TooLate: it was not within ``patience`` seconds, and ``what`` says what was missing.
    """
    since = last = time.monotonic()
    done = progress()
    while not condition():
        if (now := progress()) != done:
            done, last = now, time.monotonic()
        if time.monotonic() - last > patience:
            raise TooLate(f"{what or condition} not within {patience:g} s")
        time.sleep(interval)
    return time.monotonic() - since
