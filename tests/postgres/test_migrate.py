"""Steps of the schema on a real PostgreSQL, and the database of the original becoming ours."""

import datetime
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import execute_values
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from platziverse.postgres.connection import DeadlinePassed
from platziverse.postgres.migrate import LOCK, SchemaError, migrate, read_steps
from tests.postgres.scratch import open_dir, scratch_server

Steps = Generator["Deferred[Any]", Any, None]
ORIGINAL = (Path(__file__).parent / "original.sql").read_text()
SCHEMA = Path(__file__).parent.parent.parent / "platziverse" / "postgres" / "schema"
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
KNOWN_STEPS = read_steps(SCHEMA)
KNOWN = KNOWN_STEPS[-1].version


class DatabaseCase(TestCase):
    timeout = 180

    def setUp(self) -> None:
        self.server = scratch_server()
        self.name = self.server.create()
        self.dsn = self.server.dsn(self.name)

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        return self.server.execute(self.name, sql, *parameters)

    def schema_with(self, **files: str) -> Path:
        """Our own schema and further steps, e.g. ``n902="CREATE …"``."""
        directory = Path(open_dir())
        self.addCleanup(shutil.rmtree, directory)
        for file in SCHEMA.glob("*.sql"):
            (directory / file.name).write_text(file.read_text())
        for name, sql in files.items():
            (directory / f"{name[1:]}-test.sql").write_text(sql)
        return directory


class MadeAgain(DatabaseCase):
    """Row 156: the setup of the original, run after us, drops agents and metrics and makes its own."""

    def setup_of_the_original(self) -> None:
        self.execute(f"DROP TABLE IF EXISTS agents CASCADE; DROP TABLE IF EXISTS metrics CASCADE; {ORIGINAL}")

    @inlineCallbacks
    def test_the_tables_are_converted_again_and_nothing_else_is_touched(self) -> Steps:
        yield migrate(self.dsn, reactor)
        before = [self.execute(look) for look in (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, FUNCTIONS)]
        self.execute(KEPT)
        self.setup_of_the_original()
        self.execute(NEW_AGENT)
        self.execute(NEW_METRIC)
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)
        after = [self.execute(look) for look in (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, FUNCTIONS)]
        self.assertEqual(after, before)
        self.assertEqual(self.execute("SELECT value FROM metrics"), [("1001",)])
        for table in "message_keys", "rejected_messages", "mqtt_users", "mqtt_sessions", "mqtt_queue":
            self.assertEqual(self.execute(f"SELECT count(*) FROM {table}"), [(1,)], table)
        self.assertEqual(self.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'platziverse'"), [])
        self.execute("DELETE FROM agents")
        self.assertEqual(self.execute('SELECT count(*) FROM metrics WHERE "agentId" IS NULL'), [(1,)])
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)

    @inlineCallbacks
    def test_nothing_is_made_in_another_schema_when_ours_were_there(self) -> Steps:
        """Row 159: a search_path or a role that has changed while the daemon runs."""
        yield migrate(self.dsn, reactor)
        self.execute("CREATE SCHEMA other")
        self.execute(f"ALTER DATABASE {self.name} SET search_path = other")
        error = yield self.assertFailure(migrate(self.dsn, reactor, make=False), SchemaError)
        self.assertIn("search_path", str(error))
        self.assertEqual(self.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'other'"), [(0,)])

    @inlineCallbacks
    def test_the_tables_are_not_made_again_while_somebody_restores_them(self) -> Steps:
        """Else the restore would find them there."""
        yield migrate(self.dsn, reactor)
        self.execute("DROP TABLE agents, metrics")
        error = yield self.assertFailure(migrate(self.dsn, reactor), SchemaError)
        self.assertIn("agents or metrics is gone", str(error))
        self.setup_of_the_original()
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)


class AnEmptyDatabase(DatabaseCase):
    @inlineCallbacks
    def test_each_step_is_told_before_it_is_applied(self) -> Steps:
        told: list[tuple[int, int]] = []
        for _ in range(2):
            yield migrate(self.dsn, reactor, begin=lambda version, last: told.append((version, last)))
        self.assertEqual(told, [(version, KNOWN) for version in range(1, KNOWN + 1)])

    @inlineCallbacks
    def test_the_first_run_makes_the_tables_and_the_second_changes_nothing(self) -> Steps:
        first = yield migrate(self.dsn, reactor)
        second = yield migrate(self.dsn, reactor)
        self.assertEqual((first, second), (KNOWN, KNOWN))
        applied = self.execute("SELECT version, file FROM platziverse_schema ORDER BY version")
        self.assertEqual(applied, [(step.version, step.name) for step in read_steps(SCHEMA)])

    @inlineCallbacks
    def test_an_upgraded_database_is_like_a_new_one(self) -> Steps:
        """Row 113."""
        first = Path(open_dir())
        self.addCleanup(shutil.rmtree, first)
        (first / KNOWN_STEPS[0].name).write_text(KNOWN_STEPS[0].sql)
        yield migrate(self.dsn, reactor, schema=first)
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)
        fresh = self.server.create()
        yield migrate(self.server.dsn(fresh), reactor)
        for look in (COLUMNS, CONSTRAINTS, INDEXES):
            found = self.execute(look)
            self.assertEqual(found, self.server.execute(fresh, look))
            self.assertIn("mqtt_users", {table for table, *_ in found})

    @inlineCallbacks
    def test_sessions_of_every_earlier_version_are_kept(self) -> Steps:
        """Row 113: those of no dead daemon, which are owed what is owed to their owner."""
        for step in KNOWN_STEPS[3:-1]:
            name, before = self.server.create(), Path(open_dir())
            self.addCleanup(shutil.rmtree, before)
            for earlier in KNOWN_STEPS[: step.version]:
                (before / earlier.name).write_text(earlier.sql)
            dsn = self.server.dsn(name)
            self.assertEqual((yield migrate(dsn, reactor, schema=before)), step.version)
            session = """INSERT INTO mqtt_sessions ("clientId", daemon, expiry) VALUES ('c', 7, 0)"""
            self.server.execute(name, session)
            self.assertEqual((yield migrate(dsn, reactor)), KNOWN)
            kept = self.server.execute(name, 'SELECT "clientId", daemon, "inheritedFrom" FROM mqtt_sessions')
            self.assertEqual(kept, [("c", 7, None)])

    @inlineCallbacks
    def test_the_row_of_a_daemon_is_kept_by_the_upgrade_that_brings_sessions(self) -> Steps:
        before = Path(open_dir())
        self.addCleanup(shutil.rmtree, before)
        for step in KNOWN_STEPS[:3]:
            (before / step.name).write_text(step.sql)
        self.assertEqual((yield migrate(self.dsn, reactor, schema=before)), 3)
        self.execute("INSERT INTO mqtt_daemons (id, instance) SELECT 7, gen_random_uuid()")
        self.assertEqual((yield migrate(self.dsn, reactor)), KNOWN)
        self.assertEqual(self.execute("SELECT id, incarnation, run FROM mqtt_daemons"), [(7, 1, None)])

    @inlineCallbacks
    def test_nobody_else_may_read_the_password_hashes(self) -> Steps:
        """Row 84: whatever the default privileges give to the readers of dashboards."""
        self.execute("DROP ROLE IF EXISTS dashboard; CREATE ROLE dashboard LOGIN")
        self.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO dashboard, PUBLIC")
        yield migrate(self.dsn, reactor)
        self.assertEqual(self.execute("SET ROLE dashboard; SELECT count(*) FROM agents"), [(0,)])
        self.assertRaises(psycopg2.Error, self.execute, "SET ROLE dashboard; SELECT * FROM mqtt_users")
        self.execute("DROP OWNED BY dashboard; DROP ROLE dashboard")

    @inlineCallbacks
    def test_daemons_that_start_together_apply_each_step_once(self) -> Steps:
        """Row 115: an advisory lock."""
        schema = self.schema_with(
            n901="CREATE TABLE one (); SELECT pg_sleep(0.3)", n902="CREATE TABLE two ()"
        )
        versions = yield gatherResults([migrate(self.dsn, reactor, schema=schema) for _ in range(4)])
        self.assertEqual(versions, [902] * 4)
        self.assertEqual(self.execute("SELECT count(*) FROM platziverse_schema"), [(len(KNOWN_STEPS) + 2,)])

    @inlineCallbacks
    def test_a_daemon_that_holds_the_lock_for_ever_is_not_waited_for_for_ever(self) -> Steps:
        """Row 115."""
        other = psycopg2.connect(self.dsn)
        self.addCleanup(other.close)
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", LOCK)
        yield self.assertFailure(migrate(self.dsn, reactor, patience=0.3), DeadlinePassed)

    @inlineCallbacks
    def test_the_tables_of_a_newer_daemon_are_refused_in_one_line(self) -> Steps:
        """Row 113."""
        yield migrate(self.dsn, reactor, schema=self.schema_with(n901="CREATE TABLE newer ()"))
        error = yield self.assertFailure(migrate(self.dsn, reactor), SchemaError)
        self.assertEqual(
            str(error),
            f"the database has tables of version 901, this platziverse knows {KNOWN}; install a newer one",
        )

    @inlineCallbacks
    def test_a_step_that_fails_leaves_nothing_behind_and_runs_again_when_mended(self) -> Steps:
        broken = self.schema_with(n901="CREATE TABLE half (); SELECT 1/0")
        error = yield self.assertFailure(migrate(self.dsn, reactor, schema=broken), SchemaError)
        self.assertIn("refused to change its tables: division by zero", str(error))
        self.assertEqual(self.execute("SELECT to_regclass('half')"), [(None,)])
        version = yield migrate(self.dsn, reactor, schema=self.schema_with(n901="CREATE TABLE whole ()"))
        self.assertEqual(version, 901)

    @inlineCallbacks
    def test_a_table_that_is_locked_is_waited_for_only_so_long(self) -> Steps:
        """Row 115: ``lock_timeout``; the caller tries again."""
        yield migrate(self.dsn, reactor)
        other = psycopg2.connect(self.dsn)
        self.addCleanup(other.close)
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE agents")
        schema = self.schema_with(n901="SET LOCAL lock_timeout = 200; ALTER TABLE agents ADD more text")
        yield self.assertFailure(migrate(self.dsn, reactor, schema=schema), psycopg2.OperationalError)

    @inlineCallbacks
    def test_a_foreign_table_named_agents_is_left_alone(self) -> Steps:
        self.execute("CREATE TABLE agents (secret text)")
        error = yield self.assertFailure(migrate(self.dsn, reactor), SchemaError)
        self.assertIn("a table agents that is not platziverse's", str(error))

    @inlineCallbacks
    def test_a_user_without_rights_is_told_so_in_one_line(self) -> Steps:
        self.execute("DROP ROLE IF EXISTS nobody_special; CREATE ROLE nobody_special LOGIN")
        self.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        dsn = self.server.dsn(self.name, user="nobody_special")
        error = yield self.assertFailure(migrate(dsn, reactor), SchemaError)
        self.assertIn("permission denied", str(error))

    @inlineCallbacks
    def test_a_user_who_may_only_write_rows_is_enough_once_the_tables_are_there(self) -> Steps:
        yield migrate(self.dsn, reactor)
        self.execute("DROP ROLE IF EXISTS nobody_special; CREATE ROLE nobody_special LOGIN")
        self.execute(
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT SELECT ON platziverse_schema TO PUBLIC"
        )
        version = yield migrate(self.server.dsn(self.name, user="nobody_special"), reactor)
        self.assertEqual(version, KNOWN)

    @inlineCallbacks
    def test_a_statement_that_somebody_cancels_is_an_operational_error(self) -> Steps:
        migrating = migrate(self.dsn, reactor, schema=self.schema_with(n901="SELECT pg_sleep(30)"))
        while not self.execute(SLEEPING):
            yield deferLater(reactor, 0.05)
        self.execute(SLEEPING.replace("pid", "pg_cancel_backend(pid)", 1))
        yield self.assertFailure(migrating, psycopg2.OperationalError)

    @inlineCallbacks
    def test_a_database_that_is_away_is_an_operational_error(self) -> Steps:
        """Row 103: the caller tries again."""
        dsn = f"host={tempfile.gettempdir()}/nowhere dbname=platziverse"
        yield self.assertFailure(migrate(dsn, reactor), psycopg2.OperationalError)


class TheDatabaseOfTheOriginal(DatabaseCase):
    def setUp(self) -> None:
        super().setUp()
        self.execute(ORIGINAL)

    def fill(self) -> None:
        """761 rows for ten uuids, as measured after one burst, and metrics of four months."""
        begin = datetime.datetime(2026, 1, 31, 23, 30, tzinfo=datetime.timezone.utc)
        later = datetime.timedelta
        agents = [
            (f"uuid-{n % 10}", "platzi", f"name {n}", "host", n, n % 7 == 0, begin, begin + later(seconds=n))
            for n in range(761)
        ]
        metrics = [
            (f"type {n % 4}", str(n), begin + later(hours=n), begin, 1 + n % 761 if n % 50 else None)
            for n in range(2400)
        ]
        connection = psycopg2.connect(self.dsn)
        with connection, connection.cursor() as cursor:
            columns = 'uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt"'
            execute_values(cursor, f"INSERT INTO agents ({columns}) VALUES %s", agents, page_size=1000)
            columns = 'type, value, "createdAt", "updatedAt", "agentId"'
            execute_values(cursor, f"INSERT INTO metrics ({columns}) VALUES %s", metrics, page_size=3000)
        connection.close()

    @inlineCallbacks
    def test_duplicate_agents_are_merged_and_every_metric_is_kept(self) -> Steps:
        self.fill()
        reading = """SELECT m.id, m.type, m.value, m."createdAt", m."updatedAt", a.uuid
            FROM metrics m LEFT JOIN agents a ON a.id = m."agentId" ORDER BY m.id"""
        before = self.execute(reading)
        yield migrate(self.dsn, reactor)
        self.assertEqual(self.execute(reading), before)
        self.assertEqual(len(before), 2400)
        merged = self.execute("SELECT id, uuid, name, pid, connected FROM agents ORDER BY id")
        newest = {n % 10: n for n in range(761)}
        expected = [(n + 1, f"uuid-{n}", f"name {newest[n]}", newest[n], True) for n in range(10)]
        self.assertEqual(merged, expected)
        self.assertEqual(self.execute("SELECT to_regnamespace('platziverse_original')"), [(None,)])

    @inlineCallbacks
    def test_every_month_has_its_partition(self) -> Steps:
        self.fill()
        yield migrate(self.dsn, reactor)
        found = self.execute("SELECT DISTINCT tableoid::regclass::text FROM metrics ORDER BY 1")
        self.assertEqual([name for (name,) in found], [f"metrics_2026_0{month}" for month in range(1, 6)])

    @inlineCallbacks
    def test_numbers_go_on_where_the_original_stopped(self) -> Steps:
        self.fill()
        self.execute("SELECT setval('metrics_id_seq', 5000), setval('agents_id_seq', 900)")
        yield migrate(self.dsn, reactor)
        self.execute(NEW_AGENT)
        self.assertEqual(self.execute("SELECT max(id) FROM agents"), [(901,)])
        self.execute(NEW_METRIC)
        self.assertEqual(self.execute("SELECT max(id) FROM metrics"), [(5001,)])
        self.assertEqual(
            self.execute("SELECT pg_typeof(max(id))::text FROM metrics"), [("double precision",)]
        )

    @inlineCallbacks
    def test_an_empty_original_is_converted_too(self) -> Steps:
        yield migrate(self.dsn, reactor)
        self.execute(NEW_AGENT)
        self.execute(NEW_METRIC)
        self.assertEqual(self.execute("SELECT max(id) FROM metrics"), [(1,)])

    @inlineCallbacks
    def test_unusual_rows_survive(self) -> Steps:
        values = [
            "x" * 1_000_000,
            "",
            "NaN",
            "1e999",
            "1e99",
            "-0.5",
            "%s",
            "'); drop",
            "\\N",
            "\u2603\n",
            "0x1",
        ]
        values += ["9" * 400, " 1", "1_0", "true"]
        insert = """INSERT INTO metrics (type, value, "createdAt", "updatedAt") VALUES ('t', %s, %s, now())"""
        for value in values:
            self.execute(insert, value, "2026-11-24")
        for moment in ("infinity", "-infinity", "0044-03-15 BC", "55000-01-01", "1999-12-31"):
            self.execute(insert, "then", moment)
        yield migrate(self.dsn, reactor)
        found = self.execute("SELECT value, number FROM metrics WHERE value <> 'then' ORDER BY id")
        self.assertEqual([value for value, _ in found], values)
        self.assertEqual([number for _, number in found if number is not None], [1e99, -0.5])
        self.assertEqual(self.execute("SELECT count(*) FROM metrics_default"), [(5,)])

    @inlineCallbacks
    def test_whoever_could_read_it_still_can(self) -> Steps:
        for role in ("course", "guest"):
            self.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN")
        self.execute("ALTER TABLE agents OWNER TO course; ALTER TABLE metrics OWNER TO course")
        self.execute("GRANT SELECT ON agents, metrics TO guest")
        yield migrate(self.dsn, reactor)
        self.execute(f"SET ROLE course; {NEW_AGENT}; {NEW_METRIC}")
        self.assertEqual(self.execute("SET ROLE guest; SELECT count(*) FROM metrics"), [(1,)])
        self.assertRaises(psycopg2.Error, self.execute, f"SET ROLE guest; {NEW_AGENT}")
        self.execute("DROP OWNED BY course, guest; DROP ROLE course, guest")

    @inlineCallbacks
    def test_a_column_or_a_view_of_somebody_stops_the_conversion_and_nothing_is_lost(self) -> Steps:
        self.fill()
        for what, undo in (
            ("CREATE VIEW mine AS SELECT * FROM metrics", "DROP VIEW mine"),
            ("ALTER TABLE agents ADD room text", "ALTER TABLE agents DROP room"),
        ):
            self.execute(what)
            error = yield self.assertFailure(migrate(self.dsn, reactor), SchemaError)
            self.assertNotIn("\n", str(error))
            self.assertEqual(self.execute("SELECT count(*) FROM agents"), [(761,)])
            self.execute(undo)
        version = yield migrate(self.dsn, reactor)
        self.assertEqual(version, KNOWN)

    @inlineCallbacks
    def test_a_conversion_that_is_killed_half_way_has_changed_nothing(self) -> Steps:
        self.fill()
        schema = self.schema_with()
        convert = schema / "original-convert.sql"
        convert.write_text(convert.read_text() + ";\nSELECT pg_sleep(30)")
        converting = migrate(self.dsn, reactor, schema=schema)
        while not self.execute(SLEEPING):
            yield deferLater(reactor, 0.05)
        self.execute(SLEEPING.replace("pid", "pg_terminate_backend(pid)", 1))
        yield self.assertFailure(converting, psycopg2.OperationalError)
        self.assertEqual(self.execute("SELECT count(*) FROM agents"), [(761,)])
        yield migrate(self.dsn, reactor)
        self.assertEqual(self.execute("SELECT count(*) FROM agents"), [(10,)])

    @inlineCallbacks
    def test_what_the_original_asks_and_writes_works_unchanged(self) -> Steps:
        self.fill()
        yield migrate(self.dsn, reactor)
        self.execute("UPDATE agents SET connected = false WHERE uuid <> 'uuid-3'")
        self.execute(NEW_AGENT)
        self.execute(NEW_METRIC)
        self.assertEqual(self.execute(CONNECTED), [("uuid-3",)])
        types = self.execute(TYPES, "uuid-0")
        self.assertEqual(sorted(types), [("type 0",), ("type 1",), ("type 2",), ("type 3",)])
        newest = self.execute(NEWEST, "uuid-0", "type 1")
        self.assertEqual(len(newest), 20)
        self.assertEqual(newest, sorted(newest, key=lambda row: row[3], reverse=True))


COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position"""
CONSTRAINTS = """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"""
TRIGGERS = "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger ORDER BY 1, 2"
FUNCTIONS = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname ~ '^platziverse_' ORDER BY 1"
KEPT = """INSERT INTO message_keys SELECT platziverse_first_key(now());
    INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
    VALUES ('', '', '', '', now());
    INSERT INTO mqtt_users (username, "passwordHash") VALUES ('platzi', '$argon2');
    INSERT INTO mqtt_sessions ("clientId", daemon, expiry) VALUES ('c', 1, 0);
    INSERT INTO mqtt_queue (session, seq, flags, topic, payload) VALUES (1, 1, 1, 't', 'p')"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"

NEW_AGENT = """INSERT INTO "agents"
    ("id", "uuid", "username", "name", "hostname", "pid", "connected", "createdAt", "updatedAt")
    VALUES (DEFAULT, 'new', 'platzi', 'platzi', 'platzibogota', 10, false,
        '2026-11-24 00:00:00.000 +00:00', '2026-11-24 00:00:00.000 +00:00') RETURNING *"""
NEW_METRIC = """INSERT INTO "metrics" ("id", "type", "value", "createdAt", "updatedAt", "agentId")
    VALUES (DEFAULT, 'memory', '1001', '2026-11-24 00:00:00.000 +00:00', '2026-11-24 00:00:00.000 +00:00',
        (SELECT id FROM agents WHERE uuid = 'new')) RETURNING *"""
CONNECTED = """SELECT "uuid" FROM "agents" AS "agent"
    WHERE "agent"."connected" = true AND "agent"."username" = 'platzi'"""
TYPES = """SELECT "metric"."type" FROM "metrics" AS "metric" INNER JOIN "agents" AS "agent"
    ON "metric"."agentId" = "agent"."id" AND "agent"."uuid" = %s GROUP BY "type" """
NEWEST = """SELECT "metric"."id", "metric"."type", "metric"."value", "metric"."createdAt"
    FROM "metrics" AS "metric" INNER JOIN "agents" AS "agent"
    ON "metric"."agentId" = "agent"."id" AND "agent"."uuid" = %s
    WHERE "metric"."type" = %s ORDER BY "metric"."createdAt" DESC LIMIT 20"""
