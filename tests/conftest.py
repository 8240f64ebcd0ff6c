"""What pytest has to know about trial, and about the machine."""

import os
import tempfile
from collections.abc import Iterator

import pytest


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
