"""The set-up is not the data: whatever somebody does to the tables, good messages wait and are stored."""

from collections.abc import Generator
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.agents.model import Metric, Report
from platziverse.ingest.store import READY
from tests.ingest.entries import agent, delivery, key, rejection, report
from tests.ingest.test_store import StoreCase

Steps = Generator["Deferred[Any]", Any, None]

_RAISE: Final = """CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{}'; END $$;
    CREATE TRIGGER guard BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION guard()"""
_UNGUARD: Final = "DROP TRIGGER guard ON metrics; DROP FUNCTION guard()"

#: What somebody does, what takes it back, and what the state of the store has to name.
CHANGES: Final = {
    "a check": (
        "ALTER TABLE metrics ADD CONSTRAINT site_known CHECK (value = 'never') NOT VALID",
        "ALTER TABLE metrics DROP CONSTRAINT site_known",
        "site_known",
    ),
    "a check of agents": (
        "ALTER TABLE agents ADD CONSTRAINT short CHECK (length(uuid) < 2) NOT VALID",
        "ALTER TABLE agents DROP CONSTRAINT short",
        "short",
    ),
    "a column that must be filled": (
        (
            "ALTER TABLE metrics ADD COLUMN site text NOT NULL DEFAULT '';"
            "ALTER TABLE metrics ALTER COLUMN site DROP DEFAULT"
        ),
        "ALTER TABLE metrics DROP COLUMN site",
        "site",
    ),
    "one of ours that must be filled": (
        'UPDATE metrics SET "timestamp" = now(); ALTER TABLE metrics ALTER COLUMN "timestamp" SET NOT NULL',
        'ALTER TABLE metrics ALTER COLUMN "timestamp" DROP NOT NULL',
        "timestamp",
    ),
    "a foreign key": (
        (
            "CREATE TABLE hosts (name varchar(255) PRIMARY KEY);"
            "ALTER TABLE agents ADD CONSTRAINT known FOREIGN KEY (hostname) REFERENCES hosts"
            " DEFERRABLE INITIALLY DEFERRED NOT VALID"
        ),
        "ALTER TABLE agents DROP CONSTRAINT known; DROP TABLE hosts",
        "known",
    ),
    "a sequence at its end": (
        "SELECT setval('agents_id_seq', 2147483647)",
        "SELECT setval('agents_id_seq', 100)",
        "agents_id_seq",
    ),
    "a trigger": (_RAISE.format("P0001"), _UNGUARD, "guard"),
    "a trigger that keeps agents out": (
        """CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER guard BEFORE INSERT ON agents FOR EACH ROW EXECUTE FUNCTION guard()""",
        "DROP TRIGGER guard ON agents; DROP FUNCTION guard()",
        "agents",
    ),
    "a trigger that blames the data": (_RAISE.format("22023"), _UNGUARD, "guard"),
    "a trigger with a code of its own": (_RAISE.format("ZZ001"), _UNGUARD, "guard"),
    "a shorter column": (
        "ALTER TABLE metrics ALTER COLUMN type TYPE varchar(3)",
        "ALTER TABLE metrics ALTER COLUMN type TYPE varchar(255)",
        "character varying(3)",
    ),
    "a column of another type": (
        "ALTER TABLE metrics ALTER COLUMN value TYPE integer USING 0",
        "ALTER TABLE metrics ALTER COLUMN value TYPE text",
        "value",
    ),
    "a smaller number": (
        "ALTER TABLE agents ALTER COLUMN pid TYPE smallint",
        "ALTER TABLE agents ALTER COLUMN pid TYPE integer",
        "smallint",
    ),
    "a generated column": (
        (
            "ALTER TABLE metrics DROP COLUMN number;"
            "ALTER TABLE metrics ADD COLUMN number double precision GENERATED ALWAYS AS (0) STORED"
        ),
        "ALTER TABLE metrics ALTER COLUMN number DROP EXPRESSION",
        "number",
    ),
    "no partition": (
        (
            """DO $$ DECLARE part regclass; BEGIN
        FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'metrics'::regclass LOOP
        EXECUTE 'ALTER TABLE metrics DETACH PARTITION ' || part;
        END LOOP; END $$"""
        ),
        "ALTER TABLE metrics ATTACH PARTITION metrics_default DEFAULT",
        "metrics",
    ),
    "a unique index": (
        "CREATE UNIQUE INDEX one_of_each ON agents (hostname)",
        "DROP INDEX one_of_each",
        "one_of_each",
    ),
    "no unique index": (
        "ALTER TABLE agents DROP CONSTRAINT agents_uuid_key",
        "ALTER TABLE agents ADD CONSTRAINT agents_uuid_key UNIQUE (uuid)",
        "",
    ),
    "a view in the place of a table": (
        (
            "ALTER TABLE metrics RENAME TO kept;"
            "CREATE VIEW metrics AS SELECT * FROM kept WHERE value = 'never' WITH CHECK OPTION"
        ),
        "DROP VIEW metrics; ALTER TABLE kept RENAME TO metrics",
        "metrics",
    ),
    "no sequence": (
        "DROP SEQUENCE metrics_id_seq CASCADE",
        (
            "CREATE SEQUENCE metrics_id_seq;"
            "ALTER TABLE metrics ALTER COLUMN id SET DEFAULT nextval('metrics_id_seq')"
        ),
        "id",
    ),
    "a check of rejected messages": (
        "ALTER TABLE rejected_messages ADD CONSTRAINT none CHECK (false) NOT VALID",
        "ALTER TABLE rejected_messages DROP CONSTRAINT none",
        "none",
    ),
}


class WhatSomebodyDoesToTheTables(StoreCase):
    """Row 153: held and said with the name of the object, stored within seconds of the repair."""

    slots = 1

    def full_report(self) -> Report:
        given = report("text", uuid="before", rejections=[rejection()])
        given.metrics.append(Metric("pressure", "1"))
        return given

    @inlineCallbacks
    def hold(self, change: str, repair: str, named: str) -> Steps:
        yield self.save([report("0", uuid="before")])
        self.execute(change)
        saved = [
            self.writer.save(report("1", agent=agent("new", pid=40_000), key=key(), delivery=delivery())),
            self.writer.save(self.full_report()),
        ]
        since = reactor.seconds()
        while self.store.state == READY and reactor.seconds() - since < 60:
            yield deferLater(reactor, 0.02)
        yield deferLater(reactor, 0.3)
        self.assertIn(named, self.store.state)
        self.assertEqual(self.execute("SELECT count(*) FROM rejected_messages"), [(0,)])
        self.execute(repair)
        since = reactor.seconds()
        yield gatherResults(saved)
        self.assertLess(reactor.seconds() - since, 60)
        self.assertEqual((self.store.refused, self.store.state), (0, READY))


def _case(change: str, repair: str, named: str) -> Any:
    return lambda self: self.hold(change, repair, named)


for _name, _change in CHANGES.items():
    setattr(WhatSomebodyDoesToTheTables, f"test_{_name.replace(' ', '_')}_is_nobodys_fault", _case(*_change))


class WhatSomebodyLeavesOut(StoreCase):
    slots = 1

    @inlineCallbacks
    def test_rows_that_a_trigger_on_metrics_leaves_out_are_its_owners_decision(self) -> Steps:
        """Row 345: the rest of the message is committed, and what the trigger does instead."""
        self.execute(
            """CREATE TABLE filtered (type text);
            CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.type <> 'noise' THEN RETURN NEW; END IF;
                INSERT INTO filtered VALUES (NEW.type);
                RETURN NULL;
            END $$;
            CREATE TRIGGER guard BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION guard()"""
        )
        given = report("1")
        given.metrics.append(Metric("noise", "2"))
        yield self.save([given])
        self.assertEqual(self.execute("SELECT value FROM metrics"), [("1",)])
        self.assertEqual(self.execute("SELECT type FROM filtered"), [("noise",)])
        self.assertEqual((self.store.refused, self.store.state), (0, READY))


class WhatARestoreOrARoleLeaves(StoreCase):
    slots = 1

    @inlineCallbacks
    def test_a_sequence_that_is_behind_is_caught_up_with(self) -> Steps:
        """Row 154."""
        yield self.save(self.reports(30, agents=30))
        self.execute("SELECT setval('agents_id_seq', 1, false)")
        yield self.save(self.reports(30, first=30, agents=60))
        self.assertEqual(self.execute("SELECT count(*), count(DISTINCT id) FROM agents"), [(60, 60)])
        self.assertEqual(self.execute("SELECT count(*) FROM rejected_messages"), [(0,)])

    @inlineCallbacks
    def test_array_nulls_of_a_role_are_as_we_need_them(self) -> Steps:
        """Row 155: else NULL is a word, or nothing at all."""
        name = self.execute("SELECT current_database()")[0][0]
        self.server.execute(f"ALTER DATABASE {name} SET array_nulls = off")
        _, writer = yield self.make_store()
        yield writer.save(report("text", measured=None))
        self.assertEqual(self.execute('SELECT number, "timestamp" FROM metrics'), [(None, None)])

    @inlineCallbacks
    def test_a_trial_leaves_nothing(self) -> Steps:
        """Row 153."""
        bad = agent("bad", pid=2**31)
        yield self.save([report("0"), report("1", agent=bad)])
        self.assertEqual(self.execute("SELECT count(*) FROM agents"), [(1,)])
        self.assertEqual(self.execute("SELECT count(*) FROM rejected_messages"), [(1,)])
        for table in "message_keys", "qos2_messages":
            self.assertEqual(self.execute(f"SELECT count(*) FROM {table}"), [(0,)])
