"""Machine: the descriptors and memory that the process has, and the limits that follow from them."""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import evolve

from platziverse.broker.limits import Limits

#: Of the connections there may be, those that one address may have.
ONE_ADDRESS: Final = 0.9
#: Of the memory there is, what messages and sessions may take.
SHARE: Final = 0.5
#: Descriptors when the system sets no limit: what Linux allows by default.
MANY: Final = 1 << 20


def raise_open_files() -> None:
    """Allow the process as many descriptors as the system allows it; ``select``, for which there is a lower
    limit, is not used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS has no hard limit, and yet allows fewer than any
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files() -> int:
    """Return how many descriptors the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MANY if soft == resource.RLIM_INFINITY else min(soft, MANY)


def memory(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory of the machine, or of the control group if that may have less.

    :param own: the file that names the group, and ``root`` the folder of all groups.
    """
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([there_is, *_group_limits(own, root)])


def _group_limits(own: Path, root: Path) -> list[int]:
    """Return ``memory.max`` of the control group and those above it; none without control groups 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for name in (line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")):
        for group in (root / name, *(root / name).parents):
            if group == root.parent:
                break
            limit = group / "memory.max"
            if limit.is_file() and (text := limit.read_text().strip()).isdigit():
                found.append(int(text))
    return found


def fitted(limits: Limits) -> Limits:
    """Return ``limits`` with a number of this machine in the place of every 0 that stands for one."""
    most = max(1, open_files() - limits.reserved_descriptors)
    most = min(limits.max_connections or most, most)
    return evolve(
        limits,
        max_connections=most,
        max_connections_per_address=limits.max_connections_per_address or max(1, int(most * ONE_ADDRESS)),
        max_memory=limits.max_memory or int(memory() * SHARE),
    )
