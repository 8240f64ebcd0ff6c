"""What pytest has to know about trial."""

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
