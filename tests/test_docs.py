"""What the documents say about the settings."""

import re
from pathlib import Path

from attrs import fields
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits

LIMITS = Path(__file__).parent.parent / "docs" / "limits.rst"


class LimitsTests(SynchronousTestCase):
    def test_the_table_of_limits_is_complete(self) -> None:
        named = set(re.findall(r"``([\w.]+)``", LIMITS.read_text()))
        self.assertEqual({field.name for field in fields(Limits)} - named, set())

    def test_the_table_names_nothing_that_is_gone(self) -> None:
        rows = re.findall(r"^\| ``(\w+)``", LIMITS.read_text(), re.MULTILINE)
        self.assertEqual(set(rows) - {field.name for field in fields(Limits)}, set())
