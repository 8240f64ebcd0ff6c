"""What it costs to know which daemons listen to which topics.

    python -m bench.interest [KEYS] [DAEMONS]

Every daemon announces its share of KEYS different Topic Filters, as devices have that each subscribe to their
own; then topics of four levels are looked up. Prints the memory that the process has taken for it, and
microseconds of CPU.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from platziverse.cluster.codec import decode, encode
from platziverse.cluster.frames import Changes
from platziverse.cluster.interest import FEW, Interest, OwnInterest


def resident() -> int:
    """Return the bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def keys(count: int) -> Iterator[str]:
    return (f"fleet/{number % 997}/device/{number}" for number in range(count))


def timed(what: str, count: int, work: Callable[[], Any]) -> Any:
    """Do ``work`` on ``count`` things, and print what each has cost."""
    memory, began = resident(), time.process_time()
    result = work()
    each = (time.process_time() - began) / count * 1e6
    print(f"{what}: {each:.2f} us each, {(resident() - memory) / 1e6:.0f} MB", flush=True)
    return result


def counted(count: int) -> OwnInterest:
    own = OwnInterest()
    for key in keys(count):
        own.add(key, False)
    own.changes()
    return own


def announced(frames: list[bytes], daemons: int) -> Interest:
    interest = Interest(lambda key: None, lambda steps: None)
    for number, frame in enumerate(frames):
        changes = decode(frame)[1]
        assert isinstance(changes, Changes)
        interest.change(1 + number % daemons, changes.interests)
    return interest


def main(count: int, daemons: int) -> None:
    own = timed(f"{count} Topic Filters of our own", count, lambda: counted(count))
    parts = list(own.parts())
    frames = timed("encoded", count, lambda: [encode(Changes(1, tuple(part)), 1) for part in parts])
    print(f"{sum(map(len, frames)) / 1e6:.0f} MB in {len(frames)} frames of {FEW}")
    interest = timed(f"taken from {daemons} daemons", count, lambda: announced(frames, daemons))
    topics = [f"{key}/state" for key in keys(min(count, 200_000))]
    timed("looked up", len(topics), lambda: [interest.daemons(topic) for topic in topics])


if __name__ == "__main__":
    arguments = [int(argument.replace("_", "")) for argument in sys.argv[1:]]
    main(*(arguments + [1_000_000, 50][len(arguments) :]))
