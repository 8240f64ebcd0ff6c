"""What becomes of agents, Sessions and Wills of a daemon that is dead, or has left."""

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.trial.unittest import TestCase

from platziverse.durable.heir import Heir
from platziverse.durable.members import Members
from platziverse.postgres.clocks import WallClock
from platziverse.postgres.daemons import LOOK, DaemonRow, Registration
from platziverse.postgres.lease import Lease
from platziverse.postgres.requests import DEAD
from tests.contract.test_membership import Watcher
from tests.logs import observe_lines
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


class Daemon:
    """The part of a daemon that looks at the others."""

    def __init__(self, bus: str, instance: uuid.UUID | None = None, ahead: float = 0.0) -> None:
        self.instance = instance or uuid.uuid4()
        self.gone: list[str] = []
        self.inherited: list[tuple[int, list[int]]] = []
        #: Numbers of the daemons of which something came between.
        self.failed: list[int] = []
        #: Called when clients of the Sessions of a dead daemon have to wait.
        self.hold: Callable[[], object] = lambda: None
        self.later, self.watcher = Later(), Watcher()
        registration = Registration(self.instance, "1.0", bus, "host")
        clock = WallClock(lambda seconds: None, lambda: time.time() + ahead)
        self.lease = Lease(self.later, registration, clock, self._looked, lambda: self.members.fenced())
        self.members = Members(bus, lambda: self.lease.holding)
        self.members.watch(self.watcher)
        self.heir = Heir(self.lease, self.members, self.gone.extend, self.inherit)

    def _looked(self, rows: Sequence[DaemonRow], well: bool) -> "Deferred[Any]":
        self.members.looked(rows)
        return self.heir.looked(rows, well)

    def inherit(self, row: DaemonRow, taken: "Deferred[Sequence[int]]") -> None:
        self.hold()
        taken.addCallbacks(
            lambda sessions: self.inherited.append((row.number, list(sessions))),
            lambda _: self.failed.append(row.number),
        )


class Cut:
    """The connection of a lease, which is lost before the answer about Sessions comes."""

    def __init__(self, lease: Lease) -> None:
        self.is_cut = True
        self._lease = lease

    @property
    def holding(self) -> tuple[int, int] | None:
        return self._lease.holding

    def ask(self, sql: str, parameters: Any = ()) -> "Deferred[Any]":
        return self._lease.ask(sql, parameters).addCallback(self._answer, sql)

    def _answer(self, rows: Any, sql: str) -> Any:
        if self.is_cut and "UPDATE mqtt_sessions" in sql:
            raise psycopg2.OperationalError("cut")
        return rows


class DaemonsCase(TestCase):
    skip = MISSING or None
    timeout = 30

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.age_of_the_server(3600.0)

    def daemon(self, bus: str, instance: uuid.UUID | None = None, ahead: float = 0.0) -> Daemon:
        """A daemon whose clock is so many seconds ahead of that of the database."""
        made = Daemon(bus, instance, ahead)
        self.addCleanup(made.lease.stop)
        return made

    @inlineCallbacks
    def daemons(self, *buses: str) -> Generator["Deferred[Any]", Any, list[Daemon]]:
        """Daemons with these buses, numbers from 1, that are well for longer than one may be silent."""
        made = []
        for bus in buses:
            daemon = self.daemon(bus)
            yield daemon.lease.start(self.dsn)
            daemon.later.ahead = DEAD + 1.0
            made.append(daemon)
        return made

    def rows(self) -> list[Any]:
        return execute(self.dsn, "SELECT id, incarnation FROM mqtt_daemons ORDER BY id")

    def agent(self, name: str, daemon: Daemon) -> None:
        sql = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt",
            "connectedBy") VALUES (%s, 'u', 'n', 'h', 1, true, now(), now(), %s)"""
        execute(self.dsn, sql, (name, str(daemon.instance)))

    def connected(self) -> list[str]:
        return [name for (name,) in execute(self.dsn, "SELECT uuid FROM agents WHERE connected ORDER BY id")]

    def session(self, client_id: str, daemon: int) -> None:
        execute(
            self.dsn,
            'INSERT INTO mqtt_sessions ("clientId", daemon, expiry) VALUES (%s, %s, 0)',
            (client_id, daemon),
        )

    def will(self, client_id: str, daemon: int) -> None:
        sql = """INSERT INTO mqtt_wills ("clientId", daemon, connection, topic, payload, flags)
            VALUES (%s, %s, 1, 't', '', 0)"""
        execute(self.dsn, sql, (client_id, daemon))

    def owners(self, table: str) -> list[Any]:
        return execute(self.dsn, f'SELECT "clientId", daemon FROM {table} ORDER BY 1, 2')

    def silence(self, daemon: Daemon, seconds: float = DEAD + 1.0) -> None:
        sql = """UPDATE mqtt_daemons SET "seenAt" = now() - make_interval(secs => %s) WHERE instance = %s"""
        execute(self.dsn, sql, (seconds, str(daemon.instance)))

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


class Agents(DaemonsCase):
    @inlineCallbacks
    def two(self) -> Steps:
        self.dead, self.survivor = yield self.daemons("", "")
        self.agent("theirs", self.dead)
        self.agent("ours", self.survivor)

    @inlineCallbacks
    def test_agents_of_a_daemon_whose_state_directory_is_gone_are_marked(self) -> Steps:
        """Row 145."""
        yield self.two()
        self.silence(self.dead, 11.0)
        yield self.survivor.lease.beat()
        self.assertEqual((self.connected(), self.survivor.gone), (["ours"], ["theirs"]))
        self.assertEqual(self.rows(), [(1, 2), (2, 1)])
        yield self.survivor.lease.beat()
        self.assertEqual(self.rows(), [(1, 2), (2, 1)])  # once is enough

    @inlineCallbacks
    def test_a_daemon_that_was_seen_lately_is_left_alone(self) -> Steps:
        yield self.two()
        self.silence(self.dead, 8.0)
        yield self.survivor.lease.beat()
        self.assertEqual((self.connected(), self.survivor.gone), (["theirs", "ours"], []))

    @inlineCallbacks
    def test_nobody_is_dead_right_after_the_start_of_the_database(self) -> Steps:
        """Row 145: all of them would be."""
        yield self.two()
        self.silence(self.dead, 500.0)
        self.age_of_the_server(9.0)
        yield self.survivor.lease.stop()
        yield self.survivor.lease.beat()
        self.assertEqual(self.connected(), ["theirs", "ours"])

    @inlineCallbacks
    def test_nobody_is_dead_for_a_daemon_that_was_cut_off_itself(self) -> Steps:
        yield self.two()
        self.survivor.later.ahead = 0.0
        self.silence(self.dead, 500.0)
        yield self.survivor.lease.beat()
        self.assertEqual(self.connected(), ["theirs", "ours"])

    @inlineCallbacks
    def test_thousands_of_agents_go_in_portions(self) -> Steps:
        yield self.two()
        sql = """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt",
            "connectedBy")
            SELECT n, 'u', 'n', 'h', 1, true, now(), now(), %s FROM generate_series(1, 1200) AS n"""
        execute(self.dsn, sql, (str(self.dead.instance),))
        self.silence(self.dead, 11.0)
        yield self.survivor.lease.beat()
        self.assertEqual((self.connected(), len(self.survivor.gone)), (["ours"], 1201))


class Shared(DaemonsCase):
    """Daemons with one bus."""

    @inlineCallbacks
    def test_sessions_and_wills_go_to_one_survivor(self) -> Steps:
        """Row 396."""
        dead, one, two = yield self.daemons("bus", "bus", "bus")
        self.session("theirs", 1)
        self.session("ours", 2)
        self.will("theirs", 1)
        self.silence(dead)
        yield gatherResults([one.lease.beat(), two.lease.beat()])
        yield two.lease.beat()
        ((heir,),) = execute(self.dsn, "SELECT heir FROM mqtt_daemons WHERE id = 1")
        number = execute(self.dsn, "SELECT id FROM mqtt_sessions WHERE \"clientId\" = 'theirs'")[0][0]
        expected = {2: ([(1, [number])], []), 3: ([], [(1, [number])])}
        self.assertEqual((one.inherited, two.inherited), expected[heir])
        self.assertEqual(self.rows()[0], (1, 2))
        self.assertEqual(self.owners("mqtt_sessions"), [("ours", 2), ("theirs", heir)])
        self.assertEqual(self.owners("mqtt_wills"), [("theirs", -heir)])

    @inlineCallbacks
    def test_clients_are_held_before_the_first_session_is_ours(self) -> Steps:
        dead, heir = yield self.daemons("bus", "bus")
        self.session("c", 1)
        self.silence(dead)
        owners: list[Any] = []
        heir.hold = lambda: owners.extend(self.owners("mqtt_sessions"))
        yield heir.lease.beat()
        self.assertEqual((owners, self.owners("mqtt_sessions")), ([("c", 1)], [("c", 2)]))
        self.assertEqual((len(heir.inherited), heir.failed), (1, []))

    @inlineCallbacks
    def test_a_client_that_is_connected_to_the_heir_by_now_keeps_its_own_will(self) -> Steps:
        dead, survivor = yield self.daemons("bus", "bus")
        for number in 1, 2:
            self.will("c", number)
        self.silence(dead)
        yield survivor.lease.beat()
        self.assertEqual(self.owners("mqtt_wills"), [("c", -2), ("c", 2)])

    @inlineCallbacks
    def test_one_that_comes_back_keeps_what_nobody_has_taken_yet(self) -> Steps:
        """Row 397."""
        dead, survivor = yield self.daemons("bus", "bus")
        self.session("taken", 1)
        self.silence(dead)
        yield survivor.lease.beat()
        self.session("left", 1)
        yield dead.lease.beat()
        self.assertIn("fenced", dead.watcher.told)
        yield survivor.lease.beat()
        self.assertEqual(self.owners("mqtt_sessions"), [("left", 1), ("taken", 2)])
        self.assertEqual(self.rows(), [(1, 3), (2, 1)])

    @inlineCallbacks
    def test_one_that_has_left_is_inherited_from_at_once(self) -> Steps:
        gone, survivor = yield self.daemons("bus", "bus")
        self.session("c", 1)
        yield survivor.lease.beat()
        yield gone.lease.leave()
        yield survivor.lease.beat()
        self.assertEqual(self.owners("mqtt_sessions"), [("c", 2)])

    @inlineCallbacks
    def test_an_heir_that_dies_is_inherited_from_itself(self) -> Steps:
        first, second, third = yield self.daemons("bus", "bus", "bus")
        self.silence(first)
        yield second.lease.beat()
        self.session("late", 1)  # as if the second one had died before it came to this one
        self.will("late", 1)
        self.silence(second)
        yield third.lease.beat()
        self.assertEqual(self.owners("mqtt_sessions"), [("late", 3)])
        self.assertEqual(self.owners("mqtt_wills"), [("late", -3)])

    @inlineCallbacks
    def test_a_session_says_which_daemons_have_died_with_it(self) -> Steps:
        first, second, third = yield self.daemons("bus", "bus", "bus")
        for number, name in enumerate(("first", "second", "third"), 1):
            self.session(name, number)
        for dead, heir in (first, second), (second, third):
            self.silence(dead)
            yield heir.lease.beat()
        before = 'SELECT "clientId", daemon, "inheritedFrom" FROM mqtt_sessions ORDER BY 1'
        self.assertEqual(
            execute(self.dsn, before), [("first", 3, [1, 2]), ("second", 3, [2]), ("third", 3, None)]
        )
        yield first.lease.beat()  # it has come back, and inherits its own
        self.silence(third)
        yield first.lease.beat()
        execute(self.dsn, "UPDATE mqtt_sessions SET daemon = -1 WHERE \"clientId\" = 'third'")
        yield second.lease.beat()
        self.silence(first)
        yield second.lease.beat()
        self.assertEqual(
            execute(self.dsn, before),
            [("first", 2, [1, 2, 3]), ("second", 2, [2, 3, 1]), ("third", 2, [3, 1])],
        )

    @inlineCallbacks
    def test_two_wills_of_one_client_are_inherited_one_after_the_other(self) -> Steps:
        """Row 546: an heir has one of a dead daemon when it dies, and one that its client has left since."""
        _, dead, heir = yield self.daemons("bus", "bus", "bus")
        for number in 2, -2:
            self.will("c", number)
        self.silence(dead)
        yield heir.lease.beat()
        self.assertEqual((self.owners("mqtt_wills"), heir.heir.daemons), ([("c", -3), ("c", -2)], 0))
        yield heir.lease.beat()
        self.assertEqual(self.owners("mqtt_wills"), [("c", -3), ("c", -2)])
        execute(self.dsn, "DELETE FROM mqtt_wills WHERE daemon = -3")  # it is published
        yield heir.lease.beat()
        self.assertEqual((self.owners("mqtt_wills"), heir.heir.daemons), ([("c", -3)], 1))

    @inlineCallbacks
    def test_sessions_whose_taking_was_committed_without_an_answer_are_not_forgotten(self) -> Steps:
        dead, heir = yield self.daemons("bus", "bus")
        self.session("c", 1)
        self.silence(dead)
        connection = Cut(heir.lease)
        heir.heir = Heir(connection, heir.members, heir.gone.extend, heir.inherit)  # type: ignore[arg-type]
        failed = yield self.assertFailure(heir.lease.beat(), psycopg2.OperationalError)
        self.assertIn("cut", str(failed))
        self.assertEqual(self.owners("mqtt_sessions"), [("c", 2)])
        self.assertEqual((heir.inherited, heir.failed), ([], [1]))
        connection.is_cut = False
        yield heir.lease.beat()
        ((number,),) = execute(self.dsn, "SELECT id FROM mqtt_sessions")
        self.assertEqual(heir.inherited, [(1, [number])])

    @inlineCallbacks
    def test_an_heir_that_is_taken_for_dead_itself_takes_nothing_more(self) -> Steps:
        dead, heir = yield self.daemons("bus", "bus")
        self.session("c", 1)
        self.silence(dead)
        # Between its sign of life and its look at the others.
        rows = [DaemonRow(*row) for row in execute(self.dsn, LOOK, (str(heir.instance),))]
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = 9 WHERE id = 2")
        yield heir.heir.looked(rows, True)
        self.assertEqual(self.owners("mqtt_sessions"), [("c", 1)])

    @inlineCallbacks
    def test_without_a_bus_sessions_stay_where_they_are(self) -> Steps:
        """It comes back with its state directory."""
        dead, survivor, other = yield self.daemons("", "", "bus")
        self.session("c", 1)
        self.will("c", 1)
        self.agent("theirs", dead)
        self.silence(dead)
        yield survivor.lease.beat()
        yield other.lease.beat()
        self.assertEqual((self.owners("mqtt_sessions"), self.owners("mqtt_wills")), ([("c", 1)], [("c", 1)]))
        self.assertEqual((self.connected(), survivor.inherited, other.inherited), ([], [], []))

    @inlineCallbacks
    def test_who_has_no_place_for_sessions_leaves_them_to_another(self) -> Steps:
        dead, memory, heir = yield self.daemons("bus", "bus", "bus")
        memory.heir = Heir(memory.lease, memory.members, memory.gone.extend)
        self.session("c", 1)
        self.silence(dead)
        yield memory.lease.beat()
        self.assertEqual(self.owners("mqtt_sessions"), [("c", 1)])
        yield heir.lease.beat()
        self.assertEqual(self.owners("mqtt_sessions"), [("c", 3)])

    @inlineCallbacks
    def test_daemons_of_another_bus_look_after_their_own(self) -> Steps:
        dead, stranger = yield self.daemons("bus", "another")
        self.session("c", 1)
        self.silence(dead)
        yield stranger.lease.beat()
        self.assertEqual((self.rows(), self.owners("mqtt_sessions")), ([(1, 1), (2, 1)], [("c", 1)]))


class Membership(DaemonsCase):
    @inlineCallbacks
    def test_those_with_the_same_bus_know_each_other(self) -> Steps:
        first, second, other, alone = yield self.daemons("bus", "bus", "another", "")
        self.assertEqual((second.members.ours, second.members.others), ((2, 1), {1: 1}))
        yield first.lease.beat()
        self.assertEqual(first.watcher.told, [("joined", 2, 1)])
        self.assertEqual((other.members.others, alone.members.others), ({}, {}))

    @inlineCallbacks
    def test_an_outage_of_the_database_parts_nobody(self) -> Steps:
        """Row 398: after it all of them have been silent."""
        first, second = yield self.daemons("bus", "bus")
        self.age_of_the_server(5.0)
        self.silence(first)
        self.silence(second)
        yield second.lease.beat()
        yield second.lease.beat()
        self.assertEqual((second.members.others, self.rows()), ({1: 1}, [(1, 1), (2, 1)]))

    @inlineCallbacks
    def test_daemons_whose_clocks_are_an_hour_apart_think_the_same(self) -> Steps:
        """Row 402."""
        early, late = self.daemon("bus", ahead=-3600.0), self.daemon("bus", ahead=3600.0)
        for daemon in early, late:
            yield daemon.lease.start(self.dsn)
            daemon.later.ahead = DEAD + 1.0
        for daemon in early, late, early:
            yield daemon.lease.beat()
        self.assertEqual((early.members.others, late.members.others), ({2: 1}, {1: 1}))
        self.assertEqual(self.rows(), [(1, 1), (2, 1)])
        self.silence(early)
        yield late.lease.beat()
        self.assertEqual(late.watcher.told[-1], ("left", 1, True))

    @inlineCallbacks
    def test_who_dies_leaves_and_comes_back_as_another_incarnation(self) -> Steps:
        dead, heir, third = yield self.daemons("bus", "bus", "bus")
        self.silence(dead)
        yield heir.lease.beat()
        yield third.lease.beat()
        for each in heir, third:
            self.assertIn(("left", 1, True), each.watcher.told)
            self.assertNotIn(1, each.members.others)
        yield dead.lease.beat()
        yield heir.lease.beat()
        self.assertEqual(heir.watcher.told[-1], ("joined", 1, 3))
        yield dead.lease.leave()
        yield heir.lease.beat()
        self.assertEqual(heir.watcher.told[-1], ("left", 1, False))

    @inlineCallbacks
    def test_one_that_is_started_again_has_left_before(self) -> Steps:
        first, second = yield self.daemons("bus", "bus")
        yield self.daemon("bus", first.instance).lease.start(self.dsn)
        yield second.lease.beat()
        self.assertEqual(second.watcher.told, [("joined", 1, 1), ("left", 1, False), ("joined", 1, 2)])

    @inlineCallbacks
    def test_a_daemon_without_a_bus_beside_another_is_told_so_once(self) -> Steps:
        """Row 399: it may record, it does not share."""
        lines = observe_lines(self)
        _, second = yield self.daemons("", "")
        yield second.lease.beat()
        found = [line for line in lines if "shares neither clients nor messages" in line]
        self.assertEqual([line[:20] for line in found], ["daemon 1 on host use"])

    @inlineCallbacks
    def test_a_daemon_whose_bus_is_another_is_told_so_too(self) -> Steps:
        lines = observe_lines(self)
        yield self.daemons("bus", "another", "another")
        found = [line for line in lines if "shares neither clients nor messages" in line]
        self.assertEqual([line[:20] for line in found], ["daemon 1 on host use"] * 2)
