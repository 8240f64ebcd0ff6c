"""What pytest has to know about trial, and about the machine."""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# An example may take its time: the machine may be busy, and what it costs is counted elsewhere.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Let the programs of the tests take SIGINT, when a shell in the background has let us ignore it.

    They would inherit that. A handler of ours is not inherited, and here it takes no notice either.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    """Run in a folder of its own, as trial does: ``mktemp`` makes its files in the current one."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="platziverse-tests-") as folder:
        os.chdir(folder)
        try:
            return (yield)
        finally:
            os.chdir(before)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n auto``: one more than processors, since many tests wait."""
    return min(8, len(os.sched_getaffinity(0)) + 1)
