"""The documents that have figures in them, between markers; a test compares them with bench/results."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import frozen

from bench import bursts, cluster, durable, five, flat, recorded, results, rollups
from tests.integration.daemon import ROOT


@frozen
class Part:
    """What stands between two markers of a document."""

    document: Path
    name: str
    source: Path
    content: Callable[[results.Results], str]

    def written(self) -> str:
        """The document as it has to be; :raises ValueError: it has no such markers."""
        return replaced(self.document.read_text(), self.name, self.content(results.load(self.source)))


PERFORMANCE: Final = ROOT / "docs" / "performance.rst"
PARTS: Final = (
    Part(ROOT / "README.rst", "bench", results.COMPLETE, results.readme_section),
    Part(PERFORMANCE, "bench", results.COMPLETE, results.performance_section),
    Part(PERFORMANCE, "flat", results.FLAT, flat.section),
    Part(PERFORMANCE, "five", results.FIVE, five.section),
    Part(PERFORMANCE, "bursts", results.BURSTS, bursts.section),
    Part(PERFORMANCE, "durable", results.DURABLE, durable.section),
    Part(PERFORMANCE, "cluster", results.CLUSTER, cluster.section),
    Part(PERFORMANCE, "rollups", results.ROLLUPS, rollups.section),
    Part(PERFORMANCE, "rules", results.RULES, recorded.section),
)


def write() -> None:
    """All of them anew, and the drawing; what was not measured yet is left alone."""
    for part in PARTS:
        if part.source.exists():
            part.document.write_text(part.written())
    if results.FLAT.exists():
        flat.draw(results.load(results.FLAT))


def replaced(document: str, name: str, content: str) -> str:
    """``document`` with other content between its markers; :raises ValueError: it has none."""
    opening, closing = f".. {name}: written by make bench", f".. {name}: end"
    before, begun, rest = document.partition(opening)
    _, ended, after = rest.partition(closing)
    if not begun or not ended:
        raise ValueError(f"the document has no place for {name!r}")
    return f"{before}{opening}\n\n{content}\n\n{closing}{after}"
