"""docs/conformance.rst and docs/bad-inputs.rst are complete, true and up to date."""

from twisted.trial.unittest import SynchronousTestCase

from tests.conformance.__main__ import BAD_INPUTS, DOCUMENT, SAME, UNMET, bad_inputs, document
from tests.conformance.marks import MARK5, in_code, in_tests, rows, rows_in_tests, statements


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

    def test_every_mark_of_mqtt_5_names_a_statement(self) -> None:
        known = {statement.number for statement in statements("statements5")}
        self.assertEqual(sorted(in_code(MARK5).keys() - known), [])
        self.assertEqual(sorted(in_tests(MARK5).keys() - known), [])
        self.assertEqual(sorted((UNMET.keys() | SAME.keys()) - known), [])
        older = {statement.number for statement in statements()}
        self.assertEqual(sorted(set(SAME.values()) - older), [])

    def test_every_statement_of_mqtt_5_is_obeyed_by_a_line_and_shown_by_a_test(self) -> None:
        code, tests = in_code(MARK5), in_tests(MARK5)
        ours = [one.number for one in statements("statements5") if one.ours and one.number not in UNMET]
        own = [number for number in ours if number not in SAME]
        self.assertEqual([number for number in own if number not in code], [], "no line is marked")
        self.assertEqual([number for number in own if number not in tests], [], "no test is marked")

    def test_the_document_is_up_to_date(self) -> None:
        self.assertEqual(DOCUMENT.read_text(encoding="utf-8"), document(), "run make conformance")


class BadInputs(SynchronousTestCase):
    def test_every_row_is_shown_by_a_test(self) -> None:
        numbers = [int(number) for number in rows()]
        self.assertEqual(numbers, sorted(set(numbers)))
        shown = rows_in_tests().keys()
        without = [number for number in numbers if str(number) not in shown]
        self.assertEqual(without, [], "no test is marked")

    def test_every_mark_names_a_row(self) -> None:
        self.assertEqual(sorted(rows_in_tests().keys() - rows().keys()), [])

    def test_the_document_is_up_to_date(self) -> None:
        self.assertEqual(BAD_INPUTS.read_text(encoding="utf-8"), bad_inputs(), "run make conformance")
