"""Reads the marks in the package, in the tests and in the vectors.

``[MQTT-x.y.z-n]`` names a normative statement; ``Row 34.``, ``Rows 22, 23.`` or ``test_row_34_`` name bad
inputs and faults, which ``rows.txt`` lists.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from tests.vectors.generate import FILES, load

ROOT: Final = Path(__file__).parent.parent.parent
MARK: Final = re.compile(r"MQTT-(\d[\d.-]*-\d+)")
#: Of MQTT 5.
MARK5: Final = re.compile(r"MQTT5-(\d[\d.-]*-\d+)")
ROWS: Final = re.compile(r"\b[Rr]ows? (\d+(?:(?:, and |, | and )\d+)*)|(?:row|and)_(\d+)_")
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


def statements(name: str = "statements") -> list[Statement]:
    """Every normative statement, in order; ``statements5`` has those of MQTT 5."""
    lines = (ROOT / f"tests/conformance/{name}.txt").read_text().splitlines()
    return [Statement(*line.split(" ", 2)) for line in lines]


def in_code(mark: re.Pattern[str] = MARK) -> dict[str, list[str]]:
    """Statement → ``path:line`` of the package."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "platziverse").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for statement in mark.findall(line):
                found[statement].append(f"{path.relative_to(ROOT)}:{number}")
    return found


def rows() -> dict[str, str]:
    """Number of a bad input or fault → what it is."""
    lines = (ROOT / "tests/conformance/rows.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def in_tests(mark: re.Pattern[str] = MARK) -> dict[str, list[str]]:
    """Statement → names of tests, and how many vectors of which file."""
    return _collect(mark.findall, lambda vector: mark.findall(vector["statement"]))


def rows_in_tests() -> dict[str, list[str]]:
    """Row → names of tests, and how many vectors of which file."""
    return _collect(_rows_of, lambda vector: [str(row) for row in vector["rows"]])


def _rows_of(line: str) -> list[str]:
    return [row for found in ROWS.findall(line) for row in re.findall(r"\d+", " ".join(found))]


def _collect(
    of_line: Callable[[str], list[str]], of_vector: Callable[[dict[str, Any]], list[str]]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for test, line in _lines_of_tests():
        for mark in of_line(line):
            found[mark].append(test)
    for file_name in sorted(FILES):
        counts = Counter(mark for vector in load(f"{file_name}.json") for mark in of_vector(vector))
        for mark, count in counts.items():
            found[mark].append(f"vectors/{file_name}.json: {count} vectors")
    return {mark: list(dict.fromkeys(places)) for mark, places in found.items()}


def _lines_of_tests() -> Iterator[tuple[str, str]]:
    """Every line of every test module, with the test it stands in."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.stem
        for line in path.read_text(encoding="utf-8").splitlines():
            if (test := TEST.match(line)) is not None:
                name = test[1] or path.stem
            yield f"{path.relative_to(ROOT / 'tests')}: {name}", line
