"""What documents and docstrings say, and how they say it."""

import ast
import re
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from platziverse import __version__
from platziverse.config import Config, flat
from tests.test_architecture import modules

ROOT = Path(__file__).parent.parent
LIMITS = ROOT / "docs" / "limits.rst"


class LimitsTests(SynchronousTestCase):
    def test_every_limit_has_a_row_and_every_row_is_a_setting(self) -> None:
        """All of ``[limits]``, and all numbers of the sections about storage, HTTP and the bus."""
        settings = flat(Config())
        sections = ("agents.", "bus.", "ingest.", "web.")
        limits = {name.removeprefix("limits.") for name in settings if name.startswith("limits.")}
        limits |= {
            name
            for name, value in settings.items()
            if name.startswith(sections) and isinstance(value, int | float)
        }
        self.assertEqual(rows_of_limits().keys(), limits)

    def test_the_column_of_defaults_is_true(self) -> None:
        settings = flat(Config())
        for name, text in rows_of_limits().items():
            value = settings[name if "." in name else f"limits.{name}"]
            self.assertEqual(meaning(text), value, f"{name}: {text}")


def rows_of_limits() -> dict[str, str]:
    """Each setting with the text of its default; a cell may have several lines."""
    rows: list[list[str]] = []
    for line in LIMITS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("+"):
            rows.append(["", ""])
        elif line.startswith("|") and rows:
            rows[-1] = [f"{before} {cell}".strip() for before, cell in zip(rows[-1], cells[:2], strict=True)]
    found = {re.sub(r"[` ]", "", name): text for name, text in rows if name.startswith("``")}
    assert len(found) > 30, "the table has another form"
    return found


def meaning(text: str) -> object:
    """The value that a cell like ``64 MiB``, ``100,000 / s``, ``0: half of it`` or ``true`` stands for."""
    number = re.match(r"([\d,.]+)(?: (KiB|MiB|GiB|days?|s)\b)?", text)
    if number is None:
        return {"true": True, "false": False}.get(text, text)
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "day": 86_400, "days": 86_400}
    return float(number[1].replace(",", "")) * units.get(number[2], 1)


class ChangelogTests(SynchronousTestCase):
    """The form of https://keepachangelog.com."""

    maxDiff = None

    def setUp(self) -> None:
        text = (ROOT / "CHANGELOG.rst").read_text()
        self.releases = re.findall(r"^(.+)\n=+\n\n(?=\w)", text, re.MULTILINE)[1:]
        self.lines = [line for line in text.partition("\nUnreleased\n")[2].splitlines()[1:] if line]

    def test_unreleased_comes_first_then_releases_with_their_dates(self) -> None:
        unreleased, newest, *_ = self.releases
        self.assertEqual(unreleased, "Unreleased")
        self.assertRegex(newest, rf"^{re.escape(__version__)} - \d{{4}}-\d\d-\d\d$")
        self.assertEqual([one for one in self.releases[1:] if not re.match(r"[\d.]+ - [\d-]{10}$", one)], [])

    def test_changes_are_in_the_sections_of_their_kind(self) -> None:
        kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
        headings = [line for line, rule in zip(self.lines, self.lines[1:], strict=False) if rule[:3] == "---"]
        self.assertEqual(set(headings) - kinds, set())

    def test_a_bullet_is_one_line_and_stands_once(self) -> None:
        """So two branches that add theirs are merged without a conflict."""
        bullets = [line for line in self.lines if line.startswith("* ")]
        others = [line for line in self.lines if line.startswith(" ")]
        self.assertEqual(others, [], "put these into the section of their kind, one line each")
        self.assertEqual(sorted(set(bullets)), sorted(bullets))


#: A path with a folder, in any of the documents.
PATH = re.compile(r"``((?:[\w.-]+/)+)([\w.-]*\.py)?``")
#: What a reader takes such a path to begin at.
FOLDERS = (ROOT, ROOT / "platziverse", ROOT / "tests")


class PathsTests(SynchronousTestCase):
    maxDiff = None

    def test_every_file_and_room_that_a_document_names_is_there(self) -> None:
        found = [
            f"{document.relative_to(ROOT)}: {folder}{name}"
            for document in (*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst"))
            for folder, name in PATH.findall(document.read_text())
            if not any((start / folder / name).exists() for start in FOLDERS)
        ]
        self.assertEqual(found, [])


class PointersTests(SynchronousTestCase):
    def test_the_readme_begins_with_what_is_promised(self) -> None:
        first = (ROOT / "README.rst").read_text().split("\n\n")[1]
        self.assertEqual(first, "A PUBACK from platziverse means the data is committed in PostgreSQL.")

    def test_every_page_is_named_once_among_the_pointers_of_the_readme(self) -> None:
        pointers = (ROOT / "README.rst").read_text().partition("\nPointers\n")[2]
        named = re.findall(r"^\* `.*? <(.*?)>`_", pointers, re.MULTILINE)
        pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.rst")}
        self.assertEqual(pages - set(named), set())
        self.assertEqual(len(named), len(set(named)))

    def test_every_link_leads_somewhere(self) -> None:
        for document in (ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *(ROOT / "docs").rglob("*.rst")):
            for target in re.findall(r"`[^`<]*<([^>`:]+)>`_", document.read_text()):
                self.assertTrue((document.parent / target).exists(), f"{document}: {target}")


#: A docstring that begins with one of these has no subject, or leaves it to the name of the function.
CARRIED_OVER = re.compile(
    r"(Of|And|But|Or|As|Also|Then|Not|In|To|By|With|Those|The same|What|Which|Who|Whose|Whoever|Whether|Why"
    r"|Where|When)\b"
)
#: A field that says nothing.
EMPTY_FIELD = re.compile(r":(?:raises|param|ivar|return)\b[^:\n]*:[ \t]*$", re.MULTILINE)
#: The end of a first paragraph: of a sentence, of what introduces something, or a statement of the standard.
END = re.compile(r"(?:[.:?!]|\[[-.\w]+\]|::)$")


@cache
def docstrings() -> list[tuple[str, str]]:
    """Return the place and the text of every docstring of the product; "" for a module without one."""
    found = []
    for module, _, tree in modules():
        found.append((module, ast.get_docstring(tree) or ""))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                # The two of the command line are what twistd --help prints.
                if text is not None and not node.name.startswith("opt_"):
                    found.append((f"{module}.{node.name}", text))
    return found


class ProseTests(SynchronousTestCase):
    """The mechanical part of the rules for prose in CONTRIBUTING."""

    maxDiff = None

    def test_every_module_says_what_it_is(self) -> None:
        self.assertEqual([place for place, text in docstrings() if not text], [])

    def test_docstrings_have_a_subject_of_their_own(self) -> None:
        found = [
            f"{place}: {text.splitlines()[0]}" for place, text in docstrings() if CARRIED_OVER.match(text)
        ]
        self.assertEqual(found, [])

    def test_docstrings_begin_with_a_sentence_not_with_a_field(self) -> None:
        self.assertEqual([place for place, text in docstrings() if text.startswith(":")], [])

    def test_first_paragraphs_end_as_sentences_do(self) -> None:
        found = [place for place, text in docstrings() if not END.search(text.partition("\n\n")[0])]
        self.assertEqual(found, [])

    def test_no_field_is_empty(self) -> None:
        self.assertEqual([place for place, text in docstrings() if EMPTY_FIELD.search(text)], [])
