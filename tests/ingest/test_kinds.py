"""Kinds: the six of reports, and one that the engine has never heard of."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Departure
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Outcome
from platziverse.ingest.errors import EntryRefused
from platziverse.ingest.kinds import Kind, Kinds, Part
from platziverse.ingest.recovery import Backoff
from platziverse.ingest.reports import KINDS, ReportStatements
from platziverse.ingest.slot import Slot
from platziverse.ingest.statement import Statement, Template
from platziverse.ingest.writer import BatchWriter
from tests.ingest.entries import agent, delivery, key, rejection, report
from tests.ingest.test_slot import Coded, FakeDatabase

BATCHES: Final[dict[str, list[object]]] = {
    "everything": [
        report("1", uuid="a", key=key(1), rejections=[rejection("part")], delivery=delivery(1)),
        report("2", uuid="b"),
        Departure("b"),
        Departure("c"),
        rejection("whole"),
        Release("other", 1),
        Forget("third"),
    ],
    "a report of a known agent": [report(uuid="known", key=key(1))],
    "a report of a new agent": [report(uuid="new")],
    "rejections": [rejection()],
    "departures and releases": [Departure("a"), Release("client", 1)],
}


class Reports(SynchronousTestCase):
    def test_a_report_weighs_its_rows_and_its_bytes(self) -> None:
        weight = KINDS[type(report())].weight
        self.assertEqual(weight(report("1", "2", "3")), 3)
        self.assertEqual(weight(report("1", payload=b"x" * 65_536)), 65)

    def test_a_rejection_weighs_its_bytes(self) -> None:
        entry = rejection(payload=b"x" * 10_240)
        self.assertEqual(KINDS[type(entry)].weight(entry), 11)

    def test_the_statements_are_the_ones_that_were_measured(self) -> None:
        """Their plans were: whoever changes a text here measures again, and changes the file with it."""
        recorded = Path(__file__).with_name("statements.sql").read_text()
        texts = dict(re.findall(r"^-- (.*?)\n(.*?);$", recorded, re.MULTILINE | re.DOTALL))
        self.assertEqual(list(texts), list(BATCHES))
        statements = ReportStatements(UUID(int=1))
        for name, entries in BATCHES.items():
            statements.known["known"] = 7, agent("known")
            statement = statements.build(entries, "w", 2)
            self.assertEqual(statement.sql, texts[name], name)
            named = set(re.findall(r"%\((\w+)\)s", statement.sql))
            self.assertEqual(named - statement.parameters.keys(), set(), name)


@frozen
class Note:
    """An entry that no module of the product knows."""

    book: str
    page: int
    text: str


class Notes:
    """The columns of a batch of notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, note: Note) -> None:
        self.texts.append(note.text)

    def settle(self) -> None:
        """Leave them as they are."""


def with_the_reason(note: Note, reason: str) -> list[object]:
    """What becomes of a note that the database refuses."""
    if note.text == "refuse":
        raise EntryRefused(reason)
    return [Note(note.book, note.page, reason)]


NOTES: Final[Kinds] = {
    Note: Kind(
        shard=lambda note: str(note.book),
        add=Notes.add,
        parts=(
            Part(
                "notes",
                lambda notes: notes.texts,
                lambda present: "notes AS (INSERT …)",
                lambda notes: {"texts": (list, notes.texts)},
            ),
        ),
        instead=with_the_reason,
        touches=lambda note: ((note.book, note.page),),
    )
}


@frozen
class NoteStatements:
    """Makes statements that are about notes."""

    fence: str = "FENCE"
    template: Template = field(factory=lambda: Template(NOTES, "ticket AS (…)", lambda present: "1"))

    def build(self, entries: Sequence[object], writer: str, batch: int) -> Statement:
        return self.template.fill(Notes(), entries, writer=writer, batch=batch)

    def committed(self, statement: Statement, answer: Sequence[Any] | None) -> Outcome:
        return Outcome()

    def stale(self) -> None:
        """Nothing is remembered."""

    def trial(self) -> Statement:
        return self.build([Note("a", 1, "trial")], "trial", 1)

    def instead(self, entry: object, reason: str) -> Sequence[object] | None:
        return NOTES[type(entry)].instead(entry, reason)

    def fenced(self, entry: object) -> bool:
        return False


class OneSlot:
    """A store of one slot."""

    slots = 1

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def write(self, shard: int, batch: Any) -> "Deferred[None]":
        return self._slot.write(batch)


class AnotherKind(SynchronousTestCase):
    """The engine commits what it has never heard of."""

    def setUp(self) -> None:
        self.database = FakeDatabase()
        self.clock = Clock()
        slot = Slot(self.database, Backoff(), NoteStatements())
        self.writer = BatchWriter(OneSlot(slot), self.clock, NOTES)

    def save(self, *notes: Note) -> "list[Deferred[None]]":
        saved = [self.writer.save(note) for note in notes]
        self.clock.advance(0)
        return saved

    @property
    def texts(self) -> list[Any]:
        """The parameter of every statement sent."""
        return [given.get("texts") for given in self.database.connections[-1].statements]

    def test_it_is_committed_like_any_other(self) -> None:
        saved = self.save(Note("a", 1, "one"), Note("a", 2, "two"))
        self.assertEqual(self.texts, [["one", "two"]])
        self.database.connections[-1].says(1)
        self.assertEqual([self.successResultOf(deferred) for deferred in saved], [None, None])
        self.assertEqual((self.writer.received, self.writer.waiting), (0, 0))

    def test_two_that_touch_the_same_never_share_a_statement(self) -> None:
        self.save(Note("a", 1, "one"), Note("a", 1, "again"), Note("a", 2, "two"))
        self.assertEqual(self.texts, [["one"]])
        self.database.connections[-1].says(1)
        self.assertEqual(self.texts, [["one"], ["again", "two"]])

    def test_what_the_database_refuses_is_replaced_as_its_kind_says(self) -> None:
        (saved,) = self.save(Note("a", 1, "🐘"))
        self.database.connections[-1].fails(Coded("22P05"))
        self.assertEqual(self.texts, [["🐘"], ["error 22P05"]])
        self.assertNoResult(saved)
        self.database.connections[-1].says(1)
        self.successResultOf(saved)
        self.assertEqual([type(error) for error in self.database.refused], [Coded])

    def test_what_its_kind_refuses_is_left_out_and_not_acknowledged(self) -> None:
        bad, good = self.save(Note("a", 1, "refuse"), Note("a", 2, "two"))
        connection = self.database.connections[-1]
        for _ in range(2):
            connection.fails(Coded("22P05"))
        self.assertEqual(self.texts, [["refuse", "two"], ["refuse"], None])
        connection.says(1)
        self.assertEqual(str(self.failureResultOf(bad, EntryRefused).value), "error 22P05")
        connection.says(1)
        self.successResultOf(good)
        self.assertEqual((len(self.database.refused), self.writer.waiting), (1, 0))

    def test_what_has_no_kind_cannot_be_saved(self) -> None:
        self.assertRaises(KeyError, self.writer.save, report())


class TheEngine(SynchronousTestCase):
    def test_it_knows_no_agents_and_no_records(self) -> None:
        modules = "writer", "batch", "slot", "recovery", "touches", "statement", "kinds", "store"
        imported = "; ".join(f"import platziverse.ingest.{name}" for name in modules)
        rooms = "('platziverse.agents', 'platziverse.broker', 'platziverse.ingest.reports')"
        found = f"import sys; {imported}; print([name for name in sys.modules if name.startswith({rooms})])"
        done = subprocess.run([sys.executable, "-c", found], check=True, capture_output=True, text=True)
        self.assertEqual(done.stdout, "[]\n")
