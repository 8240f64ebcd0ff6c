"""What stands in the pages of docs/ that a test can run: blocks of code, and tables."""

import re
from pathlib import Path
from textwrap import dedent

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str, language: str = "python") -> list[str]:
    """Return the blocks of code in this language, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [dedent(block).strip("\n") + "\n" for block in found]


def table(page: str, title: str) -> list[tuple[str, ...]]:
    """Return the rows of the ``list-table`` with this title, without its heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(
        rf"^\.\. list-table:: ?{title}\n   :header-rows: 1\n\n((?:   .*\n)+)", text, re.MULTILINE
    )
    assert found is not None, f"{page} has no table {title!r}"
    rows = re.split(r"^   \* - ", found[1], flags=re.MULTILINE)[2:]
    return [tuple(cell.strip() for cell in re.split(r"\n     - ", row)) for row in rows]


def literal(cell: str) -> str:
    """Return the text between the first and the last pair of backquotes."""
    found = re.search(r"``(.*)``", cell)
    return found[1] if found is not None else ""
