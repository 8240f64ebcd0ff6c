"""What the documents say about the settings, and how they are found."""

import re
from pathlib import Path

from attrs import fields
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits

ROOT = Path(__file__).parent.parent
LIMITS = ROOT / "docs" / "limits.rst"


class LimitsTests(SynchronousTestCase):
    def test_the_table_of_limits_is_complete(self) -> None:
        named = set(re.findall(r"``([\w.]+)``", LIMITS.read_text()))
        self.assertEqual({field.name for field in fields(Limits)} - named, set())

    def test_the_table_names_nothing_that_is_gone(self) -> None:
        rows = re.findall(r"^\| ``(\w+)``", LIMITS.read_text(), re.MULTILINE)
        self.assertEqual(set(rows) - {field.name for field in fields(Limits)}, set())


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
