"""What processes have used, from the operating system's own accounts."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of the processes with all their threads, user and system, to the nanosecond.

    The clock is the one of ``clock_getcpuclockid(3)``; ``/proc/PID/stat`` has the same in steps of 10 ms.
    What the kernel does for a packet on loopback is charged to whoever sent it.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def resident(pid: int) -> int:
    """Bytes of memory the process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def tree_cpu_seconds(pid: int) -> float:
    """CPU time of the process and all it has ever started, e.g. a PostgreSQL server."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = times.children_user + times.children_system + cpu_seconds([pid])
    for child in process.children(recursive=True):
        with suppress(OSError):  # it has just ended
            total += cpu_seconds([child.pid])
    return float(total)


def settle(pids: Iterable[int], most: float = 10.0) -> None:
    """Wait until the processes have nothing left to do, less than a tenth of the time; ``most`` seconds."""
    pids = list(pids)
    end = time.monotonic() + most
    before, now = float("-inf"), cpu_seconds(pids)
    while now - before > 0.01 and time.monotonic() < end:
        time.sleep(0.1)
        before, now = now, cpu_seconds(pids)
