"""What a test hears of the log."""

from collections.abc import Callable
from typing import cast

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase


def observe_log(case: SynchronousTestCase, observer: Callable[[LogEvent], None]) -> None:
    """Every event that is logged until the end of the test goes to ``observer`` too."""
    provider = cast(ILogObserver, observer)  # a function provides it, which mypy-zope does not know
    globalLogPublisher.addObserver(provider)
    case.addCleanup(globalLogPublisher.removeObserver, provider)


def observe_lines(case: SynchronousTestCase) -> list[str]:
    """Return the lines of all that is logged from now on until the end of the test; the list grows."""
    lines: list[str] = []
    observe_log(case, lambda event: lines.append(formatEvent(event)))
    return lines
