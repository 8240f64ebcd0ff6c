"""Signs of life of daemons, and the agents that a dead one left behind."""

import uuid
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from platziverse.postgres.clocks import WallClock
from platziverse.postgres.lease import DEAD, Lease
from tests.servers import MISSING, cluster, execute

Steps = Generator["Deferred[Any]", Any, None]


class Later:
    """The reactor, some seconds on: a daemon that has been well for so long."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return reactor.seconds() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class LeaseCase(TestCase):
    skip = MISSING or None
    timeout = 30

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.gone: list[str] = []
        self.later = Later()

    def lease(self, instance: uuid.UUID | None = None) -> Lease:
        clock = WallClock(lambda seconds: None)
        made = Lease(self.later, instance or uuid.uuid4(), clock, self.gone.extend)
        self.addCleanup(made.stop)
        return made

    def rows(self) -> list[Any]:
        return execute(self.dsn, "SELECT id, incarnation FROM mqtt_daemons ORDER BY id")

    def agent(self, name: str, daemon: uuid.UUID) -> None:
        sql = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt",
            "connectedBy") VALUES (%s, 'u', 'n', 'h', 1, true, now(), now(), %s)"""
        execute(self.dsn, sql, (name, str(daemon)))

    def connected(self) -> list[str]:
        return [name for (name,) in execute(self.dsn, "SELECT uuid FROM agents WHERE connected ORDER BY id")]

    def silence(self, daemon: uuid.UUID, seconds: float) -> None:
        sql = """UPDATE mqtt_daemons SET "seenAt" = now() - make_interval(secs => %s) WHERE instance = %s"""
        execute(self.dsn, sql, (seconds, str(daemon)))

    def age_of_the_server(self, seconds: float) -> None:
        """Let the database say that it was started so long ago."""
        execute(
            self.dsn,
            f"""CREATE SCHEMA IF NOT EXISTS old;
            CREATE OR REPLACE FUNCTION old.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql
            AS 'SELECT now() - make_interval(secs => {seconds})'""",
        )
        name = execute(self.dsn, "SELECT current_database()")[0][0]
        execute(self.dsn, f"ALTER DATABASE {name} SET search_path = old, public, pg_catalog")


class OneDaemon(LeaseCase):
    @inlineCallbacks
    def test_each_start_is_another_incarnation_of_the_same_row(self) -> Steps:
        instance = uuid.uuid4()
        for incarnation in 1, 2, 3:
            yield self.lease(instance).start(self.dsn)
            self.assertEqual(self.rows(), [(1, incarnation)])
        yield self.lease().start(self.dsn)
        self.assertEqual(self.rows(), [(1, 3), (2, 1)])

    @inlineCallbacks
    def test_the_lowest_number_that_is_free_is_taken(self) -> Steps:
        for _ in range(3):
            yield self.lease().start(self.dsn)
        execute(self.dsn, "DELETE FROM mqtt_daemons WHERE id = 2")
        yield self.lease().start(self.dsn)
        self.assertEqual(self.rows(), [(1, 1), (2, 1), (3, 1)])

    @inlineCallbacks
    def test_a_sign_of_life_is_a_time_of_the_database(self) -> Steps:
        instance = uuid.uuid4()
        lease = self.lease(instance)
        yield lease.start(self.dsn)
        self.silence(instance, 8.0)
        yield lease.beat()
        ((age,),) = execute(self.dsn, """SELECT extract(epoch FROM now() - "seenAt") FROM mqtt_daemons""")
        self.assertLess(age, 5.0)

    @inlineCallbacks
    def test_a_daemon_that_was_taken_for_dead_begins_anew(self) -> Steps:
        instance = uuid.uuid4()
        lease = self.lease(instance)
        yield lease.start(self.dsn)
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = 7")
        yield lease.beat()
        self.assertEqual(self.rows(), [(1, 8)])
        execute(self.dsn, "DELETE FROM mqtt_daemons")
        yield lease.beat()
        self.assertEqual(self.rows(), [(1, 1)])


class TwoDaemons(LeaseCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        super().setUp()
        self.age_of_the_server(3600.0)
        self.alive, self.dead = uuid.uuid4(), uuid.uuid4()
        self.survivor = self.lease(self.alive)
        return self.two_agents()

    @inlineCallbacks
    def two_agents(self) -> Steps:
        """The survivor has been well for longer than a daemon may be silent."""
        yield self.lease(self.dead).start(self.dsn)
        yield self.survivor.start(self.dsn)
        self.agent("theirs", self.dead)
        self.agent("ours", self.alive)
        self.later.ahead = DEAD + 1.0

    @inlineCallbacks
    def test_agents_of_a_daemon_whose_state_directory_is_gone_are_marked(self) -> Steps:
        """Row 145."""
        self.silence(self.dead, 11.0)
        yield self.survivor.beat()
        self.assertEqual((self.connected(), self.gone), (["ours"], ["theirs"]))
        self.assertEqual(self.rows(), [(1, 2), (2, 1)])
        yield self.survivor.beat()
        self.assertEqual(self.rows(), [(1, 2), (2, 1)])  # once is enough

    @inlineCallbacks
    def test_a_daemon_that_was_seen_lately_is_left_alone(self) -> Steps:
        self.silence(self.dead, 8.0)
        yield self.survivor.beat()
        self.assertEqual((self.connected(), self.gone), (["theirs", "ours"], []))

    @inlineCallbacks
    def test_nobody_is_dead_right_after_the_start_of_the_database(self) -> Steps:
        """Row 145: all of them would be."""
        self.silence(self.dead, 500.0)
        self.age_of_the_server(9.0)
        yield self.survivor.stop()
        yield self.survivor.beat()
        self.assertEqual(self.connected(), ["theirs", "ours"])

    @inlineCallbacks
    def test_nobody_is_dead_for_a_daemon_that_was_cut_off_itself(self) -> Steps:
        self.later.ahead = 0.0
        self.silence(self.dead, 500.0)
        yield self.survivor.beat()
        self.assertEqual(self.connected(), ["theirs", "ours"])

    @inlineCallbacks
    def test_thousands_of_agents_go_in_portions(self) -> Steps:
        sql = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt",
            "connectedBy")
            SELECT n, 'u', 'n', 'h', 1, true, now(), now(), %s FROM generate_series(1, 1200) AS n"""
        execute(self.dsn, sql, (str(self.dead),))
        self.silence(self.dead, 11.0)
        yield self.survivor.beat()
        self.assertEqual((self.connected(), len(self.gone)), (["ours"], 1201))


class Away(LeaseCase):
    @inlineCallbacks
    def test_signs_of_life_go_on_when_the_connection_is_lost(self) -> Steps:
        lease = self.lease()
        yield lease.start(self.dsn)
        execute(
            self.dsn,
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()""",
        )
        before = execute(self.dsn, 'SELECT "seenAt" FROM mqtt_daemons')
        while execute(self.dsn, 'SELECT "seenAt" FROM mqtt_daemons') == before:
            done: Deferred[None] = Deferred()
            reactor.callLater(0.1, done.callback, None)
            yield done
        self.assertEqual(self.rows(), [(1, 1)])

    def test_stopping_what_was_never_started_is_harmless(self) -> None:
        lease = Lease(Clock(), uuid.uuid4(), WallClock(lambda seconds: None), self.gone.extend)
        self.successResultOf(lease.stop())
