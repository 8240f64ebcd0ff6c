"""What comes after a failure, step by step."""

from uuid import UUID

import psycopg2
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure, Entry, Rejection, Report
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Batch
from platziverse.ingest.recovery import TRIES, Backoff, Recovery
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.postgres.sqlstate import Action
from tests.ingest.entries import rejection, report

ERROR = psycopg2.DataError("value too long")


def batch_of(*entries: Entry) -> Batch:
    return Batch(list(entries), [Deferred() for _ in entries], lambda entries, outcome: None)


class Pauses(SynchronousTestCase):
    def test_pauses_grow_from_a_twentieth_to_two_seconds(self) -> None:
        """row 108: what is back is noticed within two seconds."""
        backoff = Backoff(chance=lambda: 1.0)
        pauses = [backoff.next() for _ in range(12)]
        self.assertEqual(pauses[0], 0.05)
        self.assertEqual(pauses[-1], 2.0)
        self.assertEqual(pauses, sorted(pauses))
        backoff.pause = 0.0
        self.assertEqual(backoff.next(), 0.05)

    def test_half_of_a_pause_is_left_to_chance(self) -> None:
        self.assertEqual(Backoff(chance=lambda: 0.0).next(), 0.025)


class RecoveryCase(SynchronousTestCase):
    def recovery(self, *entries: Entry) -> Recovery:
        statements = ReportStatements(UUID(int=1))
        backoff = Backoff(chance=lambda: 1.0)
        return Recovery(batch_of(*entries), backoff, 60.0, statements.instead, statements.fenced)


class TheDatabaseIsToBlame(RecoveryCase):
    def test_a_lost_connection_means_the_same_batch_over_a_new_one(self) -> None:
        """row 105"""
        recovery = self.recovery(report(), report())
        step = recovery.next(Action.RECONNECT, ERROR)
        self.assertEqual((step.instead, step.anew, step.trouble, step.pause), (None, True, False, 0.05))
        self.assertTrue(recovery.next(Action.RECONNECT, ERROR).trouble)

    def test_a_conflict_is_tried_again_at_once_three_times(self) -> None:
        """row 109"""
        recovery = self.recovery(report())
        pauses = [recovery.next(Action.RETRY, ERROR).pause for _ in range(TRIES + 1)]
        self.assertEqual(pauses, [0.0, 0.0, 0.0, 0.05])

    def test_a_full_disk_means_a_pause_over_the_same_connection(self) -> None:
        """row 108"""
        step = self.recovery(report()).next(Action.PAUSE, ERROR)
        self.assertEqual((step.instead, step.anew, step.trouble, step.pause), (None, False, True, 0.05))

    def test_missing_rights_mean_a_long_pause_and_never_a_rejection(self) -> None:
        """row 117"""
        recovery = self.recovery(report())
        for _ in range(10):
            step = recovery.next(Action.SETUP, ERROR)
            self.assertEqual((step.instead, step.pause, step.trouble), (None, 60.0, True))


class TheDataIsToBlame(RecoveryCase):
    def test_a_batch_with_a_bad_row_is_halved(self) -> None:
        """row 110"""
        entries = [report(), report(), report()]
        instead = self.recovery(*entries).next(Action.BAD_ROW, ERROR).instead or ()
        self.assertEqual([batch.entries for batch in instead], [entries[:1], entries[1:]])

    def test_the_bad_report_becomes_a_rejection_with_its_bytes(self) -> None:
        """row 110"""
        step = self.recovery(report(payload=b"all of it")).next(Action.BAD_ROW, ERROR)
        ((batch,), refused) = (step.instead or (), step.refused)
        self.assertTrue(refused)
        (entry,) = batch.entries
        assert isinstance(entry, Rejection)
        self.assertEqual(entry.payload, b"all of it")
        self.assertEqual(entry.reason, "the database refused it: value too long")

    def test_a_refused_rejection_is_tried_in_ascii_and_then_kept(self) -> None:
        """row 111"""
        (plain,) = self.recovery(rejection("ñ", topic="🐘")).next(Action.BAD_ROW, ERROR).instead or ()
        (entry,) = plain.entries
        assert isinstance(entry, Rejection)
        self.assertEqual(entry, rejection("\\xf1", topic="\\U0001f418"))
        step = self.recovery(entry).next(Action.BAD_ROW, ERROR)
        self.assertEqual((step.instead, step.trouble, step.pause), (None, True, 60.0))

    def test_an_unknown_error_counts_as_a_bad_row_after_three_tries(self) -> None:
        recovery = self.recovery(report(), report())
        steps = [recovery.next(Action.UNKNOWN, ERROR) for _ in range(TRIES + 1)]
        self.assertEqual([step.instead is None for step in steps], [True, True, True, False])

    def test_a_rejection_never_holds_what_no_text_can_hold(self) -> None:
        """row 96"""
        made = KINDS[Report].instead(report(), "a\0b \ud800")
        (entry,) = made or []
        assert isinstance(entry, Rejection)
        self.assertEqual(entry.reason, "the database refused it: a\\x00b \\ud800")

    def test_what_is_no_message_is_left_out_and_holds_nobody(self) -> None:
        """row 110: a name that the encoding of the database cannot hold is in none of its rows."""
        for entry in Departure("🐘"), Release("🐘", 1), Forget("🐘"):
            (batch,) = self.recovery(entry).next(Action.BAD_ROW, ERROR).instead or ()
            self.assertEqual((batch.entries, len(batch.deferreds)), ([], 1))


class TooSlow(RecoveryCase):
    def test_a_batch_that_takes_too_long_is_halved(self) -> None:
        step = self.recovery(report(), report()).next(Action.HALVE, ERROR)
        self.assertEqual((len(step.instead or ()), step.anew, step.trouble), (2, False, True))

    def test_one_entry_that_takes_too_long_is_tried_again(self) -> None:
        step = self.recovery(Departure("a")).next(Action.HALVE, ERROR)
        self.assertEqual((step.instead, step.trouble), (None, True))

    def test_the_outcome_of_a_batch_that_lost_its_connection_is_unknown(self) -> None:
        """row 105: a half has another number, so both might be stored."""
        recovery = self.recovery(report(), report())
        self.assertFalse(recovery.unknown)
        recovery.next(Action.RECONNECT, ERROR)
        recovery.next(Action.HALVE, ERROR)
        self.assertTrue(recovery.unknown)
