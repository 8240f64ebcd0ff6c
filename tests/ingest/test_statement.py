"""The statement of a batch, straight against PostgreSQL."""

import threading
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from typing import Any
from uuid import uuid4

import psycopg2
from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.model import Agent, Departure, Entry
from platziverse.broker.records import Forget, Release
from platziverse.ingest.batch import Outcome
from platziverse.ingest.reports import ReportStatements
from platziverse.ingest.statement import Statement
from platziverse.mqtt.packets import PublishProperties
from tests.ingest.entries import delivery, key, rejection, report
from tests.servers import MISSING, cluster, execute

EVERYTHING: list[Entry] = [
    report("1", uuid="a", key=key(1), rejections=[rejection("part")], delivery=delivery(1)),
    report("2", uuid="b"),
    Departure("b"),
    Departure("c"),
    rejection("whole"),
    Release("other", 1),
    Forget("third"),
]


class StatementCase(SynchronousTestCase):
    skip = MISSING or None

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.statements = ReportStatements(uuid4())
        self.writer = str(uuid4())

    def build(self, entries: Sequence[Entry], number: int) -> Statement:
        return self.statements.build(entries, self.writer, number)

    def run_statement(self, entries: Sequence[Entry], number: int) -> tuple[Outcome, Any]:
        statement = self.build(entries, number)
        (answer,) = execute(self.dsn, statement.sql, statement.parameters)
        return self.statements.committed(statement, answer), answer

    def counts(self) -> list[int]:
        tables = "agents", "metrics", "rejected_messages", "message_keys", "qos2_messages"
        return [execute(self.dsn, f"SELECT count(*) FROM {table}")[0][0] for table in tables]


class Tickets(StatementCase):
    def test_a_batch_of_every_kind_is_one_statement(self) -> None:
        outcome, _ = self.run_statement(EVERYTHING, 1)
        self.assertEqual(outcome, Outcome(stored=2, rejected=1))
        self.assertEqual(self.counts(), [2, 2, 2, 1, 1])
        self.assertEqual(list(self.statements.known), ["a"])

    def test_a_number_that_was_written_is_never_written_again(self) -> None:
        """row 105"""
        self.run_statement(EVERYTHING, 1)
        self.statements.known.clear()
        outcome, answer = self.run_statement(EVERYTHING, 1)
        self.assertEqual((answer[0], outcome), (0, Outcome(stored=2, rejected=1)))
        self.assertEqual(self.counts(), [2, 2, 2, 1, 1])

    def test_an_old_number_is_not_written_either(self) -> None:
        """row 106: a frozen server may wake up with it long after its successors."""
        self.run_statement([report("1")], 1)
        self.run_statement([report("2")], 2)
        self.run_statement([report("1")], 1)
        self.assertEqual(self.counts()[1], 2)

    def test_a_number_waits_for_its_own_first_copy(self) -> None:
        """row 105: and then writes nothing, or everything if the first was rolled back."""
        for end, number in ("COMMIT", 1), ("ROLLBACK", 2):
            statement = self.build([report("1", uuid=end)], number)
            with closing(psycopg2.connect(self.dsn)) as first:
                cursor = first.cursor()
                cursor.execute(statement.sql, statement.parameters)
                given = statement.sql, statement.parameters
                second = threading.Thread(target=execute, args=(self.dsn, *given))
                second.start()
                second.join(0.1)
                self.assertTrue(second.is_alive())
                cursor.execute(end)
                second.join()
            self.assertEqual(self.counts()[1], number)

    def fence(self, number: int) -> bool:
        (row,) = execute(self.dsn, self.statements.fence, {"writer": self.writer, "batch": number})
        return bool(row[0])

    def test_a_number_behind_its_fence_is_never_written(self) -> None:
        """row 105: however often it is set; and whoever is first in a race of the two decides."""
        for _ in range(2):
            self.assertFalse(self.fence(2))
        self.run_statement([report("late")], 2)
        self.assertEqual(self.counts()[1], 0)
        self.run_statement([report("1")], 4)
        for _ in range(2):
            self.assertTrue(self.fence(4))
        self.assertFalse(self.fence(6))
        self.run_statement([report("2")], 8)
        self.assertEqual(self.counts()[1], 2)

    def test_a_repetition_through_another_daemon_waits_for_the_first_copy(self) -> None:
        """row 125: QoS 2 without a timestamp, and the client has gone before the first commits."""
        for number, end in enumerate(("COMMIT", "ROLLBACK"), 1):
            # Agents of their own: the row of one agent would make the second wait in any case.
            statement = self.build([report(end, uuid=f"{end}1", delivery=delivery(number))], number)
            again = report(end, uuid=f"{end}2", delivery=delivery(number, dup=True))
            copy = ReportStatements(uuid4()).build([again], str(uuid4()), 1)
            with closing(psycopg2.connect(self.dsn)) as first:
                cursor = first.cursor()
                cursor.execute(statement.sql, statement.parameters)
                second = threading.Thread(target=execute, args=(self.dsn, copy.sql, copy.parameters))
                second.start()
                second.join(0.1)
                self.assertTrue(second.is_alive())
                cursor.execute(end)
                second.join()
            self.assertEqual(self.counts()[1], number)

    def test_a_bad_row_leaves_nothing_at_all(self) -> None:
        statement = self.build([report("1"), report("2", uuid="x" * 256)], 1)
        self.assertRaises(psycopg2.DataError, execute, self.dsn, statement.sql, statement.parameters)
        self.assertEqual(self.counts(), [0, 0, 0, 0, 0])
        self.assertEqual(execute(self.dsn, "SELECT count(*) FROM ingest_batches"), [(0,)])


class Cutting(StatementCase):
    def test_a_long_payload_is_cut_and_its_size_and_hash_are_kept(self) -> None:
        """Row 143."""
        self.statements = ReportStatements(uuid4(), kept_bytes=1000)
        payloads = [b"x" * 1000, bytes(range(256)) * 4]
        self.run_statement([rejection("long", payload) for payload in payloads], 1)
        sql = """SELECT payload, "fullSize", "fullDigest" FROM rejected_messages ORDER BY id"""
        rows = [
            tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row)
            for row in execute(self.dsn, sql)
        ]
        digest = sha256(payloads[1]).digest()
        self.assertEqual(rows, [(payloads[0], None, None), (payloads[1][:1000], 1024, digest)])


class Senders(StatementCase):
    def test_the_address_is_kept_where_there_is_one(self) -> None:
        self.run_statement([rejection("known", address="192.0.2.1:5000"), rejection("nobody's")], 1)
        rows = execute(self.dsn, "SELECT reason, address FROM rejected_messages ORDER BY id")
        self.assertEqual(rows, [("known", "192.0.2.1:5000"), ("nobody's", None)])


class Sent(StatementCase):
    def test_properties_are_kept_and_those_without_room_counted(self) -> None:
        """Row 531: User Properties by the thousand, with a message that is rejected."""
        self.statements = ReportStatements(uuid4(), kept_bytes=1000)
        few = PublishProperties(content_type="a\u20ac", user_properties=(("b", "1"), ("a", "2"), ("b", "3")))
        many = PublishProperties(user_properties=tuple((f"{n:03}", "v") for n in range(1000)))
        entries = [rejection("some", properties=few), rejection("many", properties=many), rejection("none")]
        self.run_statement(entries, 1)
        rows = execute(self.dsn, "SELECT properties FROM rejected_messages ORDER BY id")
        [(first,), (second,), (third,)] = rows
        expected = {"contentType": "a\u20ac", "userProperties": [["b", "1"], ["a", "2"], ["b", "3"]]}
        self.assertEqual((first, third), (expected, None))
        kept = second["userProperties"]
        self.assertEqual(kept, [[f"{n:03}", "v"] for n in range(len(kept))])
        self.assertEqual(len(kept) + second["leftOut"], 1000)
        self.assertGreater(len(kept), 20)


class Remembering(StatementCase):
    def test_a_known_agent_is_not_written(self) -> None:
        self.run_statement([report("1")], 1)
        (before,) = execute(self.dsn, "SELECT xmin::text FROM agents")
        _, answer = self.run_statement([report("2")], 2)
        self.assertEqual(answer[2:4], (None, None))
        self.assertEqual(execute(self.dsn, "SELECT xmin::text FROM agents"), [before])

    def test_changed_fields_are_written(self) -> None:
        self.run_statement([report()], 1)
        self.run_statement([report(agent=Agent("a", "u", "new", "h", 2))], 2)
        self.assertEqual(execute(self.dsn, "SELECT name, pid FROM agents"), [("new", 2)])

    def test_an_agent_that_reconnects_uses_up_no_number(self) -> None:
        """Row 144: the sequence of the ids has 2^31 of them."""
        for batch in range(1, 21):
            self.run_statement([report(uuid="a"), report(uuid="b")], 2 * batch)
            self.statements.known.clear()  # as after its connection has ended
        self.run_statement([report(uuid="new")], 50)
        self.assertEqual(execute(self.dsn, "SELECT id, uuid FROM agents ORDER BY id")[-1], (3, "new"))

    def test_an_agent_that_somebody_else_took_ends_the_batch(self) -> None:
        self.run_statement([report()], 1)
        execute(self.dsn, 'UPDATE agents SET "connectedBy" = %s', (str(uuid4()),))
        statement = self.build([report()], 2)
        error = self.assertRaises(psycopg2.Error, execute, self.dsn, statement.sql, statement.parameters)
        self.assertEqual(error.pgcode, "PV001")
        self.assertEqual(self.counts()[1], 1)

    def test_new_and_known_agents_share_a_batch(self) -> None:
        self.run_statement([report("1", uuid="a")], 1)
        self.run_statement([report("2", uuid="b"), report("3", uuid="a"), report("4", uuid="c")], 2)
        rows = execute(
            self.dsn,
            'SELECT uuid, value FROM metrics JOIN agents ON agents.id = "agentId" ORDER BY metrics.id',
        )
        self.assertEqual(rows, [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")])
