"""What ``platziverse check`` says about a real PostgreSQL."""

import shutil
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.bus.settings import BusSettings
from platziverse.command import checkdatabase
from platziverse.command.checkdatabase import check_database
from platziverse.command.findings import ERROR, OK, WARNING
from platziverse.config import Access, Config, with_bus
from platziverse.config.model import Workers
from platziverse.postgres.migrate import migrate
from tests.postgres.scratch import open_dir, scratch_server
from tests.postgres.test_migrate import KNOWN, ORIGINAL


class DatabaseCheckCase(TestCase):
    def setUp(self) -> None:
        self.server = scratch_server()
        self.name = self.server.create()
        self.config = Config(database=self.server.dsn(self.name), access=Access(database_users=True))

    def execute(self, sql: str) -> None:
        self.server.execute(self.name, sql)

    def found(self, clock: Any = time.time, user: str = "postgres") -> "dict[str, tuple[str, str]]":
        config = evolve(self.config, database=self.server.dsn(self.name, user=user))
        findings = {finding.name: (finding.level, finding.text) for finding in check_database(config, clock)}
        for _, text in findings.values():
            self.assertNotIn("\n", text)
        return findings


class NewDatabaseTests(DatabaseCheckCase):
    def test_an_empty_database_is_fine(self) -> None:
        self.assertEqual(self.found()["schema"], (OK, "no tables yet; the start makes them"))

    def test_the_tables_of_the_original_are_announced(self) -> None:
        self.execute(ORIGINAL)
        level, text = self.found()["schema"]
        self.assertEqual(level, WARNING)
        self.assertIn("pg_dump", text)

    def test_a_role_that_may_not_create_them_is_an_error(self) -> None:
        """Row 117."""
        self.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
        self.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        level, text = self.found(user="reader")["schema"]
        self.assertEqual(level, ERROR)
        self.assertIn("CREATE in their schema", text)
        self.execute("GRANT CREATE ON SCHEMA public TO reader")
        self.assertEqual(self.found(user="reader")["schema"][0], OK)
        self.execute(ORIGINAL)
        self.assertEqual(self.found(user="reader")["schema"][0], ERROR)  # it does not own them
        self.execute("DROP OWNED BY reader; DROP ROLE reader")

    def test_a_database_that_is_not_there_is_an_error(self) -> None:
        """Row 103."""
        self.name = "nonsense"
        level, text = self.found()["database"]
        self.assertEqual(level, ERROR)
        self.assertIn('"nonsense" does not exist', text)
        self.config = Config(database="host=/nonexistent dbname=x")
        [finding] = check_database(self.config, time.time)
        self.assertEqual(finding.level, ERROR)

    def test_a_database_that_takes_no_writes_is_an_error(self) -> None:
        """Row 107."""
        self.execute(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        self.assertEqual(
            self.found()["writes"], (ERROR, "it takes no writes, a standby perhaps; name the primary")
        )


class OurDatabaseTests(DatabaseCheckCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        super().setUp()
        return migrate(self.config.database, reactor)

    def test_all_is_well_but_that_the_test_server_does_not_sync(self) -> None:
        found = self.found()
        self.assertEqual(found.pop("durability")[0], WARNING)
        self.assertEqual({level for level, _ in found.values()}, {OK}, found)
        self.assertEqual(found["schema"], (OK, f"version {KNOWN}"))

    def test_every_object_that_is_not_as_we_make_it_is_named(self) -> None:
        """Row 157: the version alone would say that all is well."""
        for change, named in (
            ("ALTER TABLE metrics ALTER COLUMN type TYPE varchar(3)", "metrics.type is character varying(3)"),
            ("ALTER TABLE metrics ADD CONSTRAINT site_known CHECK (value = 'never')", "site_known"),
            ("ALTER TABLE metrics ADD COLUMN site text NOT NULL", "metrics.site is not ours"),
            ("ALTER TABLE metrics DETACH PARTITION metrics_default", "metrics_default is detached"),
            ("DROP INDEX agents_connected_idx", "index agents_connected_idx is missing"),
            ("DROP FUNCTION platziverse_prune_agents", "function platziverse_prune_agents"),
            ("ALTER TABLE agents DISABLE TRIGGER agent_deleted", "trigger agent_deleted of agents is off"),
            (
                """CREATE TRIGGER thin BEFORE INSERT ON metrics
                FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
                "trigger thin of metrics is not ours",
            ),
            ("DROP TABLE rejected_messages", "column rejected_messages.id is missing"),
        ):
            self.execute(change)
            level, text = self.found()["tables"]
            self.assertEqual(level, ERROR)
            self.assertIn(named, text)
        left = self.server.execute(self.name, "SELECT to_regnamespace('platziverse_expected')")
        self.assertEqual(left, [(None,)])

    def test_tables_that_the_original_has_made_again_are_announced(self) -> None:
        """Row 156."""
        self.execute(f"DROP TABLE agents CASCADE; DROP TABLE metrics CASCADE; {ORIGINAL}")
        level, text = self.found()["schema"]
        self.assertEqual(level, WARNING)
        self.assertIn("the start converts them", text)

    def test_roll_ups_that_are_late_are_told(self) -> None:
        self.assertEqual(self.found()["roll-ups"], (OK, "none is late"))
        mark = "INSERT INTO metrics_marks SELECT platziverse_bucket(now() - interval '{}'), {}"
        for ago, agent in ("10 min", "NULL"), ("1 day", "7"):  # not yet due, and a reading that came late
            self.execute(mark.format(ago, agent))
        self.assertEqual(self.found()["roll-ups"], (OK, "none is late"))
        self.execute(mark.format("1 day", "NULL"))
        level, text = self.found()["roll-ups"]
        self.assertEqual((level, text[:30]), (WARNING, "1 buckets of 5 minutes are lat"))
        self.assertIn("platziverse roll-up", text)

    def test_what_somebody_adds_for_reading_is_no_difference(self) -> None:
        self.execute("CREATE INDEX mine ON metrics (type); ALTER TABLE agents ADD COLUMN room text")
        self.assertEqual(self.found()["tables"], (OK, "as this platziverse makes them"))

    def test_older_and_newer_tables_are_told_apart(self) -> None:
        """Row 113."""
        self.execute(f"UPDATE platziverse_schema SET version = 901 WHERE version = {KNOWN}")
        self.assertEqual(
            self.found()["schema"],
            (ERROR, f"version 901, this platziverse knows {KNOWN}; install a newer one"),
        )
        self.execute("DELETE FROM platziverse_schema WHERE version > 1")
        self.assertEqual(self.found()["schema"], (WARNING, f"version 1; the next start makes it {KNOWN}"))

    def test_rights_that_are_missing_are_named(self) -> None:
        """Row 117."""
        self.execute("DROP ROLE IF EXISTS writer; CREATE ROLE writer LOGIN")
        self.assertIn("platziverse_schema", self.found(user="writer")["rights"][1])
        self.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO writer")
        found = self.found(user="writer")
        self.assertEqual(found["partitions"][0], WARNING)  # it does not own the tables
        level, text = found["rights"]
        self.assertEqual(level, ERROR)
        for right in ("INSERT on agents", "UPDATE on ingest_batches", "USAGE on metrics_id_seq"):
            self.assertIn(right, text)
        self.assertNotIn("mqtt_users", text)
        self.execute("REVOKE SELECT ON mqtt_users FROM writer")
        self.assertIn("SELECT on mqtt_users", self.found(user="writer")["rights"][1])
        self.execute("DROP OWNED BY writer; DROP ROLE writer")

    def test_whoever_else_may_read_the_hashes_is_named(self) -> None:
        """Row 84."""
        self.execute("GRANT SELECT ON mqtt_users TO PUBLIC")
        level, text = self.found()["password hashes"]
        self.assertEqual(level, WARNING)
        self.assertIn("everyone may read the password hashes", text)

    def test_daemons_that_would_not_share_their_clients_are_named(self) -> None:
        """Row 399."""
        self.assertEqual(self.found()["other daemons"], (OK, "none uses this database now"))
        self.execute(
            "INSERT INTO mqtt_daemons (id, instance, name, bus) VALUES (1, gen_random_uuid(), 'alpha', NULL),"
            " (2, gen_random_uuid(), 'beta', 'platziverse')"
        )
        level, text = self.found()["other daemons"]
        self.assertEqual((level, text[:42]), (WARNING, "daemon 1 on alpha, daemon 2 on beta would "))
        self.config = evolve(self.config, bus=BusSettings(url="postgresql:"))
        self.assertEqual(self.found()["other daemons"][1][:25], "daemon 1 on alpha would s")
        self.execute("DELETE FROM mqtt_daemons WHERE id = 1")
        self.assertEqual(self.found()["other daemons"][0], OK)
        self.config = with_bus(Config(database=self.config.database, workers=Workers(count=2)))
        text = "1 share their clients with this one (bus 'platziverse')"
        self.assertEqual(self.found()["other daemons"], (OK, text))

    def test_a_daemon_is_no_other_one_of_itself(self) -> None:
        ours = uuid4()
        self.config = evolve(self.config, state_dir=self.mktemp())
        Path(self.config.state_dir).mkdir()
        Path(self.config.state_dir, "instance").write_text(f"{ours}\n")
        self.execute(f"INSERT INTO mqtt_daemons (id, instance) VALUES (1, '{ours}')")
        self.assertEqual(self.found()["other daemons"], (OK, "none uses this database now"))

    def test_a_clock_that_differs_is_told(self) -> None:
        """Row 120."""
        for seconds, level, words in (
            (0, OK, "agrees with ours: 0.0"),
            (50, WARNING, "it is 50 s behind ours; let NTP keep both"),
            (-50, WARNING, "it is 50 s ahead of ours; let NTP keep both"),
            (-4000, ERROR, "it is 4000 s ahead of ours; let NTP keep both; until then its time is what"),
        ):
            found = self.found(lambda: time.time() + seconds)  # noqa: B023
            said, text = found["database's clock"]
            self.assertEqual((said, text[: len(words)]), (level, words))


class EmbeddedTests(SynchronousTestCase):
    def setUp(self) -> None:
        state_dir = open_dir()
        self.addCleanup(shutil.rmtree, state_dir)
        self.config = Config(state_dir=state_dir)

    def test_an_embedded_one_that_does_not_run_is_not_looked_at(self) -> None:
        [finding] = check_database(self.config, time.time)
        self.assertEqual(finding.level, WARNING)
        self.assertIn("start the daemon", finding.text)

    def test_a_machine_without_any_postgresql_is_an_error(self) -> None:
        for name in ("system_dirs", "wheel_dirs"):
            self.patch(checkdatabase, name, list)
        [finding] = check_database(self.config, time.time)
        self.assertEqual(finding.level, ERROR)
