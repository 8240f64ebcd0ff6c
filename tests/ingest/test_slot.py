"""A slot against a database that fails in every way, without a database."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg2
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Batch, Incarnation, Outcome
from platziverse.ingest.errors import Fenced, StoreStopped
from platziverse.ingest.recovery import Backoff
from platziverse.ingest.reports import ReportStatements
from platziverse.ingest.slot import BATCHES_PER_NAME, FITS, TAKE_BACK, Slot
from platziverse.postgres.sqlstate import Action
from tests.ingest.entries import agent, delivery, rejection, report


class Coded(psycopg2.Error):
    """What the server answers with a SQLSTATE."""

    def __init__(self, pgcode: str) -> None:
        super().__init__(f"error {pgcode}")
        self._pgcode = pgcode

    @property
    def pgcode(self) -> str:  # type: ignore[override]
        return self._pgcode


class FakeConnection:
    """A connection whose statements the test answers."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.closed = 0
        self.statements: list[dict[str, Any]] = []
        self.trials, self.refuses_trials = 0, ""
        self.answer: Deferred[list[Any]] | None = None
        self._cursors: list[Any] = []

    def pollable(self) -> "FakeConnection | None":
        return None if self.closed else self

    def runQuery(self, sql: str, parameters: dict[str, Any]) -> "Deferred[list[Any]]":
        if sql.endswith(TAKE_BACK):
            self.trials += 1
            return fail(Coded(self.refuses_trials or FITS))
        self.statements.append(parameters)
        self.answer = Deferred()
        return self.answer

    def close(self) -> None:
        if not self.closed:
            self.closed = 1
            self.fails(psycopg2.InterfaceError("connection already closed"))

    def says(self, *row: Any) -> None:
        answer, self.answer = self.answer, None
        assert answer is not None
        answer.callback([row])

    def commits(self, written: int = 1, fresh: int = 0, uuids: Any = None, ids: Any = None) -> None:
        self.says(written, fresh, uuids, ids, None)

    def fails(self, error: Exception) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.errback(error)


class FakeDatabase:
    """Opens connections unless told otherwise, and keeps what the slot says."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.deadline, self.setup_pause = 10.0, 60.0
        self.prefix = ""
        self.stopped = False
        self.connections: list[FakeConnection] = []
        self.refuses: Exception | None = None
        self.said: list[tuple[str, Action | None] | None] = []
        self.refused: list[BaseException] = []
        self.given_up = 0

    def open(self) -> "Deferred[Any]":
        if self.refuses is not None:
            return fail(self.refuses)
        self.connections.append(FakeConnection(self.reactor))
        return succeed(self.connections[-1])

    def in_trouble(self, slot: Slot, reason: str, action: Action | None) -> None:
        self.said.append((reason, action))

    def well(self, slot: Slot) -> None:
        self.said.append(None)

    def was_refused(self, error: BaseException) -> None:
        self.refused.append(error)

    def gave_up(self) -> None:
        self.given_up += 1


class SlotCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = FakeDatabase()
        self.statements = ReportStatements(UUID(int=1), max_known=2)
        self.slot = Slot(self.database, Backoff(chance=lambda: 1.0), self.statements)
        self.outcomes: list[Outcome] = []
        self.incarnation = Incarnation()

    def write(self, *entries: Entry) -> "tuple[Deferred[None], list[Deferred[None]]]":
        deferreds: list[Deferred[None]] = [Deferred() for _ in entries]
        batch = Batch(
            list(entries),
            deferreds,
            lambda count, outcome: self.outcomes.append(outcome),
            incarnation=self.incarnation,
        )
        return self.slot.write(batch), deferreds

    @property
    def connection(self) -> FakeConnection:
        return self.database.connections[-1]

    @property
    def tickets(self) -> list[tuple[str, int]]:
        """Writer and number of every statement sent, in order."""
        sent = [given for connection in self.database.connections for given in connection.statements]
        return [(given["writer"], given["batch"]) for given in sent]

    def advance(self, seconds: float) -> None:
        self.database.reactor.advance(seconds)


class Committing(SlotCase):
    def test_a_batch_is_one_statement_and_fires_with_its_answer(self) -> None:
        written, (saved,) = self.write(report())
        self.assertNoResult(saved)
        self.connection.commits(fresh=1, uuids=["a"], ids=[7])
        self.successResultOf(saved)
        self.successResultOf(written)
        self.assertEqual(self.outcomes, [Outcome(stored=1)])
        self.assertEqual(len(self.connection.statements), 1)

    def test_an_agent_is_written_once_while_nothing_changes(self) -> None:
        self.write(report())
        self.connection.commits(fresh=1, uuids=["a"], ids=[7])
        self.write(report())
        self.assertNotIn("uuid", self.connection.statements[-1])
        self.assertEqual(self.connection.statements[-1]["remembered"], "{7}")
        self.connection.commits(fresh=1)
        self.write(Departure("a"))
        self.connection.commits()
        self.write(report())
        self.assertEqual(self.connection.statements[-1]["uuid"], '{"a"}')

    def test_the_memory_for_agents_is_bounded(self) -> None:
        for number in range(5):
            self.write(report(uuid=str(number)))
            self.connection.commits(fresh=1, uuids=[str(number)], ids=[number])
        self.assertEqual(list(self.statements.known), ["3", "4"])

    def test_agents_with_long_names_are_not_remembered(self) -> None:
        """Row 298: 100,000 of them were half a gigabyte."""
        for number, hostname in enumerate(("h" * 200, "h" * 255 + "\U0001f600")):
            self.write(report(agent=agent(str(number), hostname=hostname)))
            self.connection.commits(fresh=1, uuids=[str(number)], ids=[number])
        self.assertEqual(list(self.statements.known), ["0"])

    def test_every_batch_has_a_number_of_its_own(self) -> None:
        for _ in range(BATCHES_PER_NAME + 5):
            self.write(Departure("a"))
            self.connection.commits()
        self.assertEqual(len(set(self.tickets)), BATCHES_PER_NAME + 5)
        self.assertEqual(len({name for name, _ in self.tickets}), 2)

    def test_a_batch_that_was_committed_after_all_counts_as_stored(self) -> None:
        """row 105"""
        repeated = report(key=b"k" * 16)
        self.write(repeated, report(), repeated)
        self.connection.commits(written=0, fresh=0)
        self.assertEqual(self.outcomes, [Outcome(stored=2, duplicates=1)])


class Losing(SlotCase):
    def test_an_unknown_outcome_is_resolved_with_the_same_number(self) -> None:
        """row 105"""
        _, (saved,) = self.write(report())
        self.connection.fails(psycopg2.OperationalError("server closed the connection unexpectedly"))
        self.assertTrue(self.database.connections[0].closed)
        self.advance(0.05)
        self.assertEqual(len(self.database.connections), 2)
        self.assertEqual(len(set(self.tickets)), 1)
        self.assertNoResult(saved)
        self.connection.commits(written=0)
        self.successResultOf(saved)

    def test_a_frozen_server_loses_its_connection_after_the_deadline(self) -> None:
        """row 106"""
        _, (saved,) = self.write(report())
        self.advance(9.9)
        self.assertFalse(self.connection.closed)
        self.advance(0.1)
        self.assertTrue(self.database.connections[0].closed)
        self.advance(0.05)
        self.assertEqual(len(set(self.tickets)), 1)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)

    def test_nothing_is_acknowledged_while_the_database_is_away(self) -> None:
        """row 103"""
        self.database.refuses = psycopg2.OperationalError("Connection refused")
        _, (saved,) = self.write(report())
        for _ in range(100):
            self.advance(1)
        self.assertNoResult(saved)
        self.database.refuses = None
        self.advance(2)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)

    def test_a_read_only_node_is_left(self) -> None:
        """row 107"""
        self.write(report())
        self.connection.fails(Coded("25006"))
        self.advance(0.05)
        self.assertEqual(len(self.database.connections), 2)

    def test_a_full_disk_keeps_the_connection(self) -> None:
        """row 108"""
        self.write(report())
        self.connection.fails(Coded("53100"))
        self.assertIsNone(self.connection.answer)
        self.advance(0.05)
        self.assertIsNotNone(self.connection.answer)
        self.assertEqual(len(self.database.connections), 1)
        self.assertEqual(self.database.said, [("error 53100", Action.PAUSE)])

    def test_a_deadlock_is_tried_again_at_once(self) -> None:
        """row 109"""
        self.write(report())
        self.connection.fails(Coded("40P01"))
        self.assertIsNotNone(self.connection.answer)
        self.assertEqual(self.database.said, [])

    def test_missing_tables_are_waited_for(self) -> None:
        """row 117"""
        _, (saved,) = self.write(report())
        self.connection.fails(Coded("42P01"))
        self.assertEqual(self.database.said, [("error 42P01", Action.SETUP)])
        self.advance(59)
        self.assertEqual(len(self.database.connections), 1)
        self.advance(1)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)
        self.assertEqual(self.database.refused, [])

    def test_agents_that_somebody_changed_are_written_anew(self) -> None:
        self.write(report())
        self.connection.commits(fresh=1, uuids=["a"], ids=[7])
        self.write(report())
        self.connection.fails(Coded("PV001"))
        self.assertEqual(self.connection.statements[-1]["uuid"], '{"a"}')
        self.assertEqual(self.database.refused, [])


class Unknown(SlotCase):
    """Row 105: a batch whose first copy may still be on its way is divided behind a fence only."""

    def lost_and_then(self, error: Exception) -> "list[Deferred[None]]":
        """The first copy's fate is unknown, the second is refused: whether the first was written is asked."""
        _, saved = self.write(report("1", uuid="1"), report("2", uuid="2"))
        self.connection.fails(psycopg2.OperationalError("server closed the connection unexpectedly"))
        self.advance(0.05)
        self.connection.fails(error)
        self.assertEqual(set(self.connection.statements[-1]), {"writer", "batch"})
        self.assertEqual(len(set(self.tickets[-3:])), 1)
        return saved

    def test_a_batch_that_can_never_be_written_is_divided(self) -> None:
        for error in Coded("57014"), Coded("22021"):
            saved = self.lost_and_then(error)
            self.connection.says(False)
            for deferred in saved:
                self.assertNoResult(deferred)
                self.connection.commits(fresh=1)
                self.successResultOf(deferred)
        self.assertEqual(sum(outcome.stored for outcome in self.outcomes), 4)

    def test_a_batch_that_was_written_after_all_is_not_divided(self) -> None:
        saved = self.lost_and_then(Coded("57014"))
        self.connection.says(True)
        for deferred in saved:
            self.successResultOf(deferred)
        self.assertEqual(self.outcomes, [Outcome(stored=2)])

    def test_a_lost_fence_is_set_again_before_anything_else(self) -> None:
        saved = self.lost_and_then(Coded("22021"))
        self.connection.fails(psycopg2.OperationalError("server closed the connection unexpectedly"))
        self.advance(0.05)
        self.advance(0.05 * 1.7)
        self.assertEqual(set(self.connection.statements[-1]), {"writer", "batch"})
        self.connection.says(False)
        for _ in saved:
            self.connection.commits(fresh=1)
        self.assertEqual(sum(outcome.stored for outcome in self.outcomes), 2)


class TakenForDead(SlotCase):
    """Rows 565 and 566: another daemon has fenced this one, and has its Sessions."""

    def setUp(self) -> None:
        super().setUp()
        self.holding: tuple[int, int] | None = (1, 5)
        self.statements = ReportStatements(UUID(int=1), holding=lambda: self.holding)
        self.slot = Slot(self.database, Backoff(chance=lambda: 1.0), self.statements)

    def test_a_statement_is_of_one_incarnation_if_it_is_about_a_packet_identifier(self) -> None:
        def fenced(*entries: Entry) -> bool:
            return "platziverse_fenced" in self.statements.build(entries, "w", 1).sql

        left: list[Entry] = [report(delivery=delivery(1)), Release("client", 1), Forget("client")]
        for entry in left:
            self.assertTrue(fenced(entry))
            self.assertTrue(self.statements.fenced(entry))
        stored: list[Entry] = [report(), rejection(), Departure("a")]
        for entry in stored:
            self.assertFalse(fenced(entry))
            self.assertFalse(self.statements.fenced(entry))

    def test_what_the_database_refuses_is_left_out_and_the_rest_is_committed(self) -> None:
        written, (first, second, third) = self.write(report(delivery=delivery(1)), report(), rejection())
        for _ in range(5):  # the lease does not know yet
            self.connection.fails(Coded("PV003"))
            self.advance(0.1)
        self.assertIn("d_client", self.connection.statements[-1])
        self.assertEqual(self.database.said[-1], ("error PV003", Action.FENCED))
        self.incarnation.over, self.holding = True, (1, 7)
        self.connection.fails(Coded("PV003"))
        self.assertNotIn("d_client", self.connection.statements[-1])
        self.connection.commits()  # without an entry
        self.failureResultOf(first, Fenced)
        self.assertNoResult(second)
        self.connection.commits(fresh=1, uuids=["a"], ids=[7])
        for each in second, third:
            self.successResultOf(each)
        self.successResultOf(written)
        self.assertEqual(self.outcomes, [Outcome(), Outcome(stored=1, rejected=1)])
        self.assertEqual([number for _, number in self.tickets], [2] * 6 + [4, 6])
        self.assertEqual((self.database.refused, self.database.said[-1]), ([], None))

    def lose(self) -> None:
        """A batch is sent, its connection is lost, and the daemon finds out that it was fenced."""
        self.connection.fails(psycopg2.OperationalError("server closed the connection unexpectedly"))
        self.incarnation.over, self.holding = True, (1, 7)
        self.advance(0.05)

    def test_a_batch_of_unknown_outcome_is_asked_for_before_anything_else(self) -> None:
        _, (first, second) = self.write(report(delivery=delivery(1)), report())
        self.lose()
        self.assertEqual(set(self.connection.statements[-1]), {"writer", "batch"})  # the fence of its number
        self.connection.says(False)
        self.connection.commits()
        self.failureResultOf(first, Fenced)
        self.connection.commits(fresh=1)
        self.successResultOf(second)
        self.assertEqual(len({number for _, number in self.tickets}), 3)

    def test_one_that_was_committed_before_the_fence_is_acknowledged(self) -> None:
        _, (first, second) = self.write(report(delivery=delivery(1)), report())
        self.lose()
        self.connection.says(True)
        for each in first, second:
            self.successResultOf(each)
        self.assertEqual(self.outcomes, [Outcome(stored=2)])

    def test_one_that_was_not_sent_is_not_sent_at_all(self) -> None:
        self.database.refuses = psycopg2.OperationalError("Connection refused")
        _, (saved,) = self.write(report(delivery=delivery(1)))
        self.incarnation.over, self.holding = True, (1, 7)
        self.database.refuses = None
        self.advance(0.1)
        self.connection.says(False)  # the fence of its number
        self.connection.commits()
        self.failureResultOf(saved, Fenced)
        self.assertFalse([given for given in self.connection.statements if "d_client" in given])

    def test_a_batch_that_touches_nothing_goes_on(self) -> None:
        _, (saved,) = self.write(report())
        self.lose()
        self.assertEqual(len(set(self.tickets)), 1)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)


class Refusing(SlotCase):
    def test_what_is_no_message_is_left_out_when_it_is_refused(self) -> None:
        _, (saved,) = self.write(Departure("🐘"))
        self.connection.fails(Coded("22P05"))
        self.assertNotIn("departed", self.connection.statements[-1])
        self.connection.commits()
        self.successResultOf(saved)
        self.assertEqual(self.outcomes, [Outcome()])

    def test_nothing_is_rejected_while_the_tables_refuse_good_entries_too(self) -> None:
        """Row 153: a column that somebody has made shorter, say."""
        _, (saved,) = self.write(report())
        for code in "22001", "XX000", "23502":
            self.connection.refuses_trials = code
            self.connection.fails(Coded("22001"))
            self.advance(60)
        self.assertNoResult(saved)
        self.assertEqual(self.database.refused, [])
        self.assertEqual(self.database.said[0], ("error 22001", Action.SETUP))
        self.connection.commits(fresh=1)
        self.successResultOf(saved)
        self.assertEqual(self.outcomes, [Outcome(stored=1)])

    def test_an_entry_that_failed_just_before_the_tables_were_repaired_has_another_try(self) -> None:
        _, (saved,) = self.write(report())
        self.connection.refuses_trials = "22001"
        self.connection.fails(Coded("22001"))
        self.advance(60)
        self.connection.refuses_trials = ""
        self.connection.fails(Coded("22001"))
        self.advance(0)
        self.assertEqual(self.database.refused, [])
        self.connection.commits(fresh=1)
        self.successResultOf(saved)
        self.assertEqual(self.outcomes, [Outcome(stored=1)])

    def test_it_is_rejected_when_that_fails_as_well(self) -> None:
        self.write(report())
        self.connection.refuses_trials = "22001"
        self.connection.fails(Coded("22001"))
        self.advance(60)
        self.connection.refuses_trials = ""
        for _ in range(2):
            self.connection.fails(Coded("22001"))
            self.advance(0)
        self.assertEqual(len(self.database.refused), 1)

    def commit_but(self, is_bad: Callable[[dict[str, Any]], bool], error: Exception) -> int:
        """Answer everything, with ``error`` what is bad; returns the number of statements."""
        count = 0
        while self.connection.answer is not None:
            count += 1
            given = self.connection.statements[-1]
            if is_bad(given):
                self.connection.fails(error)
            else:
                rows = given["agent"].count(",") + 1 if "agent" in given else 0
                self.connection.commits(fresh=rows)
        return count

    def test_one_bad_report_of_five_hundred_becomes_a_rejection(self) -> None:
        """row 110: it costs at most nine halvings and the rejection."""
        entries = [report(str(number), uuid=str(number)) for number in range(500)]
        entries[321] = report("POISON", uuid="321")
        _, saved = self.write(*entries)
        count = self.commit_but(lambda given: "POISON" in given.get("value", ""), Coded("22021"))
        self.assertTrue(all(deferred.called for deferred in saved))
        self.assertLessEqual(count, 2 * 9 + 2)
        stored = sum(outcome.stored for outcome in self.outcomes)
        rejected = sum(outcome.rejected for outcome in self.outcomes)
        self.assertEqual((stored, rejected, len(self.database.refused)), (499, 1, 1))

    def test_halves_are_committed_in_order_and_with_new_numbers(self) -> None:
        self.write(*(report(str(number), uuid=str(number)) for number in range(4)))
        self.commit_but(lambda given: given["value"].count(",") > 0, Coded("22021"))
        values = [given["value"] for given in self.connection.statements]
        self.assertEqual(
            [value for value in values if "," not in value], ['{"0"}', '{"1"}', '{"2"}', '{"3"}']
        )
        self.assertEqual(len(set(self.tickets)), len(values))

    def test_a_hole_in_our_validation_costs_one_report(self) -> None:
        """row 96"""
        _, saved = self.write(report("\0"), report("fine"))
        self.commit_but(lambda given: "\0" in given.get("value", ""), ValueError("NUL"))
        self.assertTrue(all(deferred.called for deferred in saved))
        self.assertEqual(sum(outcome.rejected for outcome in self.outcomes), 1)

    def test_a_rejection_that_is_refused_is_kept_and_somebody_called(self) -> None:
        """row 111"""
        _, (saved,) = self.write(rejection("plain"))
        for _ in range(5):
            self.connection.fails(Coded("22P05"))
            self.advance(60)
        self.assertNoResult(saved)
        self.assertEqual(self.database.said[-1], ("error 22P05", Action.BAD_ROW))
        self.connection.commits()
        self.successResultOf(saved)


class Idle(SlotCase):
    def test_a_slot_connects_before_there_is_anything_to_write(self) -> None:
        self.slot.keep_connected()
        self.assertEqual(len(self.database.connections), 1)
        self.assertEqual(self.database.said, [None])
        self.slot.keep_connected()
        self.assertEqual(len(self.database.connections), 1)

    def test_a_connection_lost_while_idle_is_made_anew(self) -> None:
        self.slot.keep_connected()
        self.connection.close()
        self.slot.keep_connected()
        self.assertEqual(len(self.database.connections), 2)
        self.assertEqual(self.database.said, [None, None])

    def test_a_connection_lost_while_idle_is_no_trouble_for_the_next_batch_either(self) -> None:
        """Row 158."""
        _, (saved,) = self.write(report())
        self.connection.fails(psycopg2.OperationalError("server closed the connection unexpectedly"))
        self.advance(0.05)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)
        self.assertEqual(self.database.said, [None])

    def test_a_connection_that_cannot_be_made_anew_is_trouble(self) -> None:
        """Row 158."""
        self.slot.keep_connected()
        self.connection.close()
        self.database.refuses = psycopg2.OperationalError("Connection refused")
        self.slot.keep_connected()
        self.assertEqual(self.database.said, [None, ("Connection refused", Action.RECONNECT)])

    def test_a_batch_waits_while_an_idle_slot_connects(self) -> None:
        self.database.refuses = psycopg2.OperationalError("Connection refused")
        self.slot.keep_connected()
        _, (saved,) = self.write(report())
        self.database.refuses = None
        self.advance(0.05)
        self.connection.commits(fresh=1)
        self.successResultOf(saved)


class Bugs(SlotCase):
    def test_nobody_waits_for_ever_for_a_batch_that_met_a_bug(self) -> None:
        written, (saved,) = self.write(report())
        self.connection.commits(fresh=1, uuids=["somebody else"], ids=[7])
        self.failureResultOf(saved, StoreStopped)
        self.failureResultOf(written, KeyError)


class Stopping(SlotCase):
    def stop(self) -> "Deferred[Any]":
        self.database.stopped = True
        return self.slot.stop()

    def test_what_is_under_way_errbacks(self) -> None:
        written, (saved,) = self.write(report())
        stopped = self.stop()
        self.failureResultOf(saved, StoreStopped)
        self.failureResultOf(written, StoreStopped)
        self.successResultOf(stopped)
        self.assertTrue(self.connection.closed)

    def test_a_pause_ends(self) -> None:
        self.database.refuses = psycopg2.OperationalError("Connection refused")
        written, (saved,) = self.write(report())
        self.stop()
        self.failureResultOf(saved, StoreStopped)
        self.failureResultOf(written, StoreStopped)
        self.assertEqual(self.database.reactor.getDelayedCalls(), [])

    def test_halves_that_were_not_sent_errback_too(self) -> None:
        written, saved = self.write(report(uuid="1"), report(uuid="2"))
        self.connection.fails(Coded("22021"))
        self.stop()
        for deferred in saved:
            self.failureResultOf(deferred, StoreStopped)
        self.failureResultOf(written, StoreStopped)
