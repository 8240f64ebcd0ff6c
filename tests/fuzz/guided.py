"""``python -m tests.fuzz.guided corpus [libFuzzer options]``: the same targets, led by coverage.

It needs ``pip install atheris``. The directory ``corpus`` is made if it is not there, gets the vectors, and
keeps every input that reaches something new.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["platziverse.mqtt", "platziverse.broker.subscriptions", "platziverse.door.frames"]
):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.__main__ import seeds


def every_target(data: bytes) -> None:
    """The first byte chooses the target."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def main(program: str, corpus: str, *options: str) -> None:
    """Does not return: libFuzzer ends the process."""
    directory = Path(corpus)
    directory.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds()):
        for target in range(len(TARGETS)):
            (directory / f"vector-{number}-{target}").write_bytes(bytes((target,)) + seed)
    atheris.Setup([program, *options, corpus], every_target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv)
