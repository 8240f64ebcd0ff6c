"""Machine: the descriptors and memory that the process has, and the limits that follow from them."""

import os
import re
import resource
from collections.abc import Iterator
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
    """Return what the control group and those above it may have, in version 2 and in version 1.

    In a container the file may name the group as the host does, while ``root`` is that group itself. Where
    both versions are mounted, version 2 has a folder of its own.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found: list[int] = []
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers:
            for unified in (root, root / "unified"):
                # Above memory.high nobody is killed, but everything waits for memory to be reclaimed.
                found += _limits_up_from(name, unified, "memory.max")
                found += _limits_up_from(name, unified, "memory.high")
        elif "memory" in controllers.split(","):
            found += _limits_up_from(name, root / "memory", "memory.limit_in_bytes")
    return found


def _limits_up_from(name: str, root: Path, file: str) -> Iterator[int]:
    group = root / name.strip("/")
    for above in (group, *group.parents):
        if above == root.parent:
            return
        try:
            text = (above / file).read_text().strip()
        except OSError:  # the group is not seen from here, or has no limit: the root never has one
            continue
        # "max" is none; with 0 somebody has the group reclaimed for a while, and a budget of 0 would be none.
        if text.isdigit() and (limit := int(text)):
            yield limit


def tcp_memory(sockstat: Path = Path("/proc/net/sockstat")) -> int:
    """Return the bytes that the kernel takes for all TCP sockets of the machine; 0: it does not say."""
    try:
        (pages,) = re.findall(r"^TCP:.* mem (\d+)", sockstat.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fitted(limits: Limits, daemons: int = 1) -> Limits:
    """Return ``limits`` with a number of this machine in the place of every 0 that stands for one.

    :param daemons: how many share the memory; each process has descriptors of its own.
    """
    most = max(1, open_files() - limits.reserved_descriptors)
    most = min(limits.max_connections or most, most)
    return evolve(
        limits,
        max_connections=most,
        max_connections_per_address=limits.max_connections_per_address or max(1, int(most * ONE_ADDRESS)),
        max_memory=limits.max_memory or int(memory() * SHARE / daemons),
    )
