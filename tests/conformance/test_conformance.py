"""docs/conformance.rst is complete, true and up to date."""

from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.__main__ import DOCUMENT, document
from tests.conformance.marks import in_code, in_tests, statements


class Conformance(SynchronousTestCase):
    def test_every_statement_to_a_server_is_obeyed_by_a_line_and_shown_by_a_test(self) -> None:
        code, tests = in_code(), in_tests()
        ours = [statement.number for statement in statements() if statement.ours]
        self.assertEqual([number for number in ours if number not in code], [], "no line is marked")
        self.assertEqual([number for number in ours if number not in tests], [], "no test is marked")

    def test_every_mark_names_a_statement(self) -> None:
        known = {statement.number for statement in statements()}
        self.assertEqual(sorted(in_code().keys() - known), [])
        self.assertEqual(sorted(in_tests().keys() - known), [])

    def test_the_document_is_up_to_date(self) -> None:
        self.assertEqual(DOCUMENT.read_text(encoding="utf-8"), document(), "run make conformance")
