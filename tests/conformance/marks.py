"""Reads the marks ``[MQTT-x.y.z-n]`` in the package, in the tests and in the vectors."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.vectors.generate import FILES, load

ROOT: Final = Path(__file__).parent.parent.parent
MARK: Final = re.compile(r"MQTT-(\d[\d.-]*-\d+)")
TEST: Final = re.compile(r"    def (test_\w+)|^(?:class|def) (\w+)")


@frozen
class Statement:
    """:param addressee: ``server``, ``client`` or ``both``."""

    number: str
    addressee: str
    meaning: str

    @property
    def ours(self) -> bool:
        """Whether a broker has to obey it."""
        return self.addressee != "client"


def statements() -> list[Statement]:
    """Every normative statement, in order."""
    lines = (ROOT / "tests/conformance/statements.txt").read_text().splitlines()
    return [Statement(*line.split(" ", 2)) for line in lines]


def in_code() -> dict[str, list[str]]:
    """Statement → ``path:line`` of the package."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "platziverse").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for statement in MARK.findall(line):
                found[statement].append(f"{path.relative_to(ROOT)}:{number}")
    return found


def in_tests() -> dict[str, list[str]]:
    """Statement → names of tests, and how many vectors of which file."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.stem
        for line in path.read_text(encoding="utf-8").splitlines():
            if (test := TEST.match(line)) is not None:
                name = test[1] or path.stem
            for statement in MARK.findall(line):
                found[statement].append(f"{path.relative_to(ROOT / 'tests')}: {name}")
    for file_name in sorted(FILES):
        counts: dict[str, int] = defaultdict(int)
        for vector in load(f"{file_name}.json"):
            for statement in MARK.findall(vector["statement"]):
                counts[statement] += 1
        for statement, count in counts.items():
            found[statement].append(f"vectors/{file_name}.json: {count} vectors")
    return {statement: list(dict.fromkeys(places)) for statement, places in found.items()}
