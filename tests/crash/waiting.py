"""Waiting for conditions, with an end."""

import time
from collections.abc import Callable


class TooLate(Exception):
    """What was waited for did not come about."""


def poll(condition: Callable[[], object], patience: float, what: str = "", interval: float = 0.005) -> float:
    """Ask ``condition`` until it is true; the seconds that took.

    :raises TooLate: it was not within ``patience`` seconds, and ``what`` says what was missing.
    """
    since = time.monotonic()
    while not condition():
        if time.monotonic() - since > patience:
            raise TooLate(f"{what or condition} not within {patience:g} s")
        time.sleep(interval)
    return time.monotonic() - since
