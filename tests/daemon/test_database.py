"""The database of a daemon, until it is ready."""

import shutil
import time
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.recorder import Recorder
from platziverse.broker.records import Kept
from platziverse.config import Config
from platziverse.daemon.database import Database
from platziverse.errors import Unusable
from tests.agents.doubles import FakeClient, message, of_agent
from tests.postgres.scratch import open_dir, scratch_server
from tests.postgres.test_migrate import ORIGINAL

REFUSE = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON mqtt_retained FOR EACH ROW EXECUTE FUNCTION refuse()"""


class DatabaseTests(TestCase):
    def setUp(self) -> None:
        self.state_dir = open_dir()
        self.addCleanup(shutil.rmtree, self.state_dir)

    def database(self, dsn: str) -> Database:
        database = Database(Config(database=dsn, state_dir=self.state_dir), reactor)
        self.addCleanup(database.stop)
        return database

    def test_a_reachable_database_becomes_ready(self) -> "Deferred[Any]":
        server = scratch_server()
        database = self.database(server.dsn(server.create()))

        def ready(_: None) -> None:
            self.assertEqual(database.store.state, "ready")
            self.assertTrue(database.psql_commands[0].startswith("psql "))

        return database.start().addCallback(ready)

    @inlineCallbacks
    def test_it_is_as_well_as_its_stores_are(self) -> Generator["Deferred[Any]", Any, None]:
        server = scratch_server()
        name = server.create()
        database = self.database(server.dsn(name))
        yield database.start()
        self.assertEqual((database.state, database.trouble), ("ready", ""))
        server.execute(name, REFUSE)
        assert database.sessions is not None
        saved = database.sessions.save(Kept("t", b"", 0, "c", None))
        while database.state == "ready":
            yield deferLater(reactor, 0.01)
        self.assertEqual(database.store.state, "ready")
        self.assertIn("not today", database.state)
        self.assertEqual(database.trouble, f"the database is {database.state}")
        server.execute(name, "DROP TRIGGER refuse ON mqtt_retained")
        yield saved
        self.assertEqual(database.state, "ready")

    def test_a_database_that_does_not_exist_is_unusable(self) -> "Deferred[Any]":
        database = self.database(scratch_server().dsn("nonsense"))
        failing: Deferred[Any] = self.assertFailure(database.start(), Unusable)
        return failing.addCallback(lambda error: self.assertIn('"nonsense" does not exist', str(error)))

    def test_tables_of_somebody_else_are_unusable(self) -> "Deferred[Any]":
        server = scratch_server()
        name = server.create()
        server.execute(name, "CREATE TABLE metrics (what text)")
        failing: Deferred[Any] = self.assertFailure(self.database(server.dsn(name)).start(), Unusable)
        return failing.addCallback(lambda error: self.assertIn("table metrics", str(error)))

    @inlineCallbacks
    def test_a_server_that_is_away_is_awaited(self) -> Generator["Deferred[Any]", Any, None]:
        database = self.database(f"host={self.state_dir} dbname=x user=y")
        database.start()
        while not database.store.state.startswith("away"):
            yield deferLater(reactor, 0.01)
        self.assertIn(self.state_dir, database.store.state)
        self.successResultOf(database.drain())

    @inlineCallbacks
    def test_a_clock_that_is_behind_stores_nothing_in_the_past(self) -> Generator["Deferred[Any]", Any, None]:
        """Row 142: not even what came before the database was there."""
        server = scratch_server()
        name = server.create()
        config = Config(database=server.dsn(name), state_dir=self.state_dir)
        database = Database(config, reactor, ours=lambda: time.time() - 3650 * 86_400.0)
        self.addCleanup(database.stop)
        recorder = Recorder(database.writer, lambda topic, payload: None, database.clock)
        client = FakeClient("client")
        recorder.client_connected(client)
        sent = message(of_agent("yyy", f', "timestamp": {int(time.time() * 1000)}'.encode()))
        saved = AgentHandlers(recorder)(sent, client)
        yield database.start()
        yield saved
        yield AgentHandlers(recorder)(sent, client)
        self.assertTrue(database.clock.warning)
        rows = server.execute(
            name,
            """SELECT max(abs(extract(epoch FROM now() - "createdAt"))), count(*),
            max(abs(extract(epoch FROM now() - "timestamp"))) FROM metrics""",
        )
        ((stored, count, measured),) = rows
        self.assertLess(stored, 60)
        self.assertLess(measured, 60)
        self.assertEqual(count, 4)

    @inlineCallbacks
    def test_the_series_are_written_again_after_the_tables_were_remade(
        self,
    ) -> Generator["Deferred[Any]", Any, None]:
        """Row 156."""
        server = scratch_server()
        name = server.create()
        database = self.database(server.dsn(name))
        yield database.start()
        recorder = Recorder(database.writer, lambda topic, payload: None, database.clock)
        database.prepared_again = recorder.describe_again
        client = FakeClient("client")
        recorder.client_connected(client)
        types = "SELECT type FROM series ORDER BY 1"
        yield AgentHandlers(recorder)(message(of_agent("yyy")), client)
        known = server.execute(name, types)
        self.assertTrue(known)
        server.execute(name, f"DROP TABLE agents CASCADE; DROP TABLE metrics CASCADE; {ORIGINAL}")
        yield AgentHandlers(recorder)(message(of_agent("yyy")), client)  # finds out, and is stored
        self.assertEqual(server.execute(name, types), [])
        yield AgentHandlers(recorder)(message(of_agent("yyy")), client)
        self.assertEqual(server.execute(name, types), known)

    def test_two_daemons_do_not_share_a_state_directory(self) -> None:
        self.database("host=a")
        error = self.assertRaises(Unusable, self.database, "host=b")
        self.assertIn(self.state_dir, str(error))
        self.assertNotIn("\n", str(error))
