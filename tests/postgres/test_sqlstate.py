"""Section 6 of the rules: what to do by SQLSTATE."""

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import QueryCanceledError
from twisted.trial.unittest import SynchronousTestCase

from platziverse.postgres.connection import DeadlinePassed
from platziverse.postgres.sqlstate import Action, ConnectFailed, classify, one_line

STATES = {
    "08006": Action.RECONNECT,
    "57P01": Action.RECONNECT,
    "57P02": Action.RECONNECT,
    "57P03": Action.RECONNECT,
    "25006": Action.RECONNECT,
    "40001": Action.RETRY,
    "40P01": Action.RETRY,
    "55P03": Action.RETRY,
    "53100": Action.PAUSE,
    "53200": Action.PAUSE,
    "53300": Action.PAUSE,
    "54000": Action.BAD_ROW,
    "54001": Action.PAUSE,
    "58030": Action.PAUSE,
    "57014": Action.HALVE,
    "22001": Action.BAD_ROW,
    "22003": Action.BAD_ROW,
    "22P05": Action.BAD_ROW,
    "2200H": Action.SETUP,
    "22P02": Action.SETUP,
    "23502": Action.SETUP,
    "23503": Action.SETUP,
    "23505": Action.RETRY,
    "23514": Action.RETRY,  # no partition takes it
    "23P01": Action.SETUP,
    "23P99": Action.BAD_ROW,
    "42804": Action.SETUP,
    "42846": Action.SETUP,
    "428C9": Action.SETUP,  # a generated column
    "44000": Action.SETUP,
    "55000": Action.PAUSE,
    "XX001": Action.SETUP,
    "42P01": Action.SETUP,
    "42703": Action.SETUP,
    "42501": Action.SETUP,
    "42P10": Action.SETUP,  # the unique key of agents is gone
    "42601": Action.SETUP,
    "57P04": Action.RECONNECT,
    "25P04": Action.HALVE,
    "28P01": Action.SETUP,
    "3D000": Action.SETUP,
    "XX000": Action.UNKNOWN,
    "P0001": Action.SETUP,
}


class _Coded(psycopg2.Error):
    def __init__(self, pgcode: str) -> None:
        super().__init__(f"error {pgcode}")
        self._code = pgcode

    @property
    def pgcode(self) -> str:  # type: ignore[override]
        return self._code


class ByState(SynchronousTestCase):
    def test_every_state_has_its_action(self) -> None:
        """Rows 153, 154: and rows 107, 108, 109, 110, 117."""
        found = {state: classify(_Coded(state)) for state in STATES}
        self.assertEqual(found, STATES)

    def test_a_state_counts_even_when_the_connection_is_closed(self) -> None:
        self.assertIs(classify(_Coded("57P01"), closed=True), Action.RECONNECT)
        self.assertIs(classify(_Coded("22001"), closed=True), Action.BAD_ROW)


class WithoutState(SynchronousTestCase):
    def test_a_lost_connection_is_made_anew(self) -> None:
        """row 104"""
        for error in (
            psycopg2.OperationalError("server closed the connection unexpectedly"),
            psycopg2.InterfaceError("connection already closed"),
            DeadlinePassed("no answer"),
        ):
            self.assertIs(classify(error), Action.RECONNECT)
        self.assertIs(classify(psycopg2.DatabaseError("?"), closed=True), Action.RECONNECT)

    def test_holes_of_our_validation_are_bad_rows(self) -> None:
        """row 96"""
        surrogate = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        for error in ValueError("NUL"), surrogate, psycopg2.ProgrammingError("can't adapt type 'dict'"):
            self.assertIs(classify(error), Action.BAD_ROW)

    def test_a_canceled_statement_is_halved_and_one_without_an_answer_is_not(self) -> None:
        """row 106: the first was certainly not committed, the second may have been."""
        self.assertIs(classify(QueryCanceledError("the database canceled the statement")), Action.HALVE)
        self.assertIs(classify(DeadlinePassed("no answer")), Action.RECONNECT)

    def test_anything_else_is_unknown(self) -> None:
        self.assertIs(classify(KeyError("a bug")), Action.UNKNOWN)


class Connecting(SynchronousTestCase):
    def failed(self, cause: Exception) -> ConnectFailed:
        error = ConnectFailed()
        error.__cause__ = cause
        return error

    def test_a_refused_login_is_a_matter_of_setup(self) -> None:
        """row 117: libpq reports these without a SQLSTATE."""
        for text in (
            'FATAL:  password authentication failed for user "platzi"',
            'FATAL:  role "platzi" does not exist',
            'FATAL:  database "platziverse" does not exist',
            'FATAL:  no pg_hba.conf entry for host "10.0.0.1"',
            "fe_sendauth: no password supplied",
        ):
            error = self.failed(psycopg2.OperationalError(text))
            self.assertIs(classify(error), Action.SETUP, text)

    def test_a_server_that_is_away_or_busy_is_tried_again(self) -> None:
        """rows 103, 107, 108"""
        for text in (
            "connection to server at 127.0.0.1 failed: Connection refused",
            "FATAL:  the database system is starting up",
            "FATAL:  sorry, too many clients already",
            "session is read-only",
            "FATAL:  canceling authentication due to timeout",
            "the host name 'db' is unknown",
        ):
            error = self.failed(psycopg2.OperationalError(text))
            self.assertIs(classify(error), Action.RECONNECT, text)

    def test_no_error_of_connecting_is_the_fault_of_data(self) -> None:
        self.assertIs(classify(self.failed(ValueError("a bad connection string"))), Action.SETUP)
        self.assertIs(classify(self.failed(errors.UndefinedTable("of the migration"))), Action.SETUP)

    def test_the_reason_is_that_of_the_cause_in_one_line(self) -> None:
        error = self.failed(psycopg2.OperationalError("refused\n\tIs the server running?\n"))
        self.assertEqual(one_line(error), "refused Is the server running?")
        self.assertEqual(one_line(KeyError()), "KeyError")
