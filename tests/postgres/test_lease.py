"""Signs of life of a daemon, and what it does when its row says something else."""

import socket
import uuid
from collections.abc import Generator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from platziverse.errors import Unusable
from platziverse.postgres.lease import Lease
from platziverse.postgres.requests import DRAIN, END_SESSION, KICK
from tests.servers import MISSING, cluster, execute, lone_lease

Steps = Generator["Deferred[Any]", Any, None]


class LeaseCase(TestCase):
    skip = MISSING or None
    timeout = 120

    def setUp(self) -> None:
        self.dsn = cluster().database()
        self.cloned: list[tuple[uuid.UUID | None, str]] = []

    def lease(self, instance: uuid.UUID | None = None, **more: Any) -> Lease:
        made = lone_lease(reactor, instance, cloned=lambda host: self.cloned.append((instance, host)), **more)
        self.addCleanup(made.stop)
        return made

    def rows(self) -> list[Any]:
        return execute(self.dsn, "SELECT id, incarnation FROM mqtt_daemons ORDER BY id")

    def silence(self, daemon: uuid.UUID, seconds: float) -> None:
        sql = """UPDATE mqtt_daemons SET "seenAt" = now() - make_interval(secs => %s) WHERE instance = %s"""
        execute(self.dsn, sql, (seconds, str(daemon)))


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
    def test_without_a_free_number_the_reason_is_said(self) -> Steps:
        """Row 553: a daemon whose state directory is another one at each of many starts."""
        numbers = "SELECT n, gen_random_uuid() FROM generate_series(1, 32767) AS n"
        execute(self.dsn, f"INSERT INTO mqtt_daemons (id, instance) {numbers}")
        error = yield self.assertFailure(self.lease().start(self.dsn), Unusable)
        self.assertIn("has no number for another one; each has one for a day", str(error))
        execute(self.dsn, "DELETE FROM mqtt_daemons WHERE id = 32767")
        lease = self.lease()
        yield lease.start(self.dsn)
        self.assertEqual(lease.holding, (32767, 1))

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
    def test_who_asks_whether_it_is_who_it_was_hears_it_with_the_next_sign_of_life(self) -> Steps:
        instance, fenced = uuid.uuid4(), list[bool]()
        lease = self.lease(instance, fenced=lambda: fenced.append(True))
        yield lease.confirm()  # nobody can have taken it for dead yet
        yield lease.start(self.dsn)
        yield lease.confirm()
        self.assertEqual(fenced, [])
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = 7")
        yield lease.confirm()
        self.assertEqual((fenced, self.rows()), ([True], [(1, 8)]))
        execute(self.dsn, "ALTER TABLE mqtt_daemons RENAME TO away")
        yield lease.confirm()
        execute(self.dsn, "ALTER TABLE away RENAME TO mqtt_daemons")
        yield lease.confirm()

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

    @inlineCallbacks
    def test_a_daemon_that_goes_on_counts_its_batches_on_and_one_that_was_started_again_begins(self) -> Steps:
        instance = uuid.uuid4()
        lease = self.lease(instance)
        yield lease.start(self.dsn)
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = 7, batch = 40")
        yield lease.beat()
        self.assertEqual(lease.holding, (1, 8))
        self.assertEqual(execute(self.dsn, "SELECT batch FROM mqtt_daemons"), [(40,)])
        yield self.lease(instance).start(self.dsn)
        self.assertEqual(execute(self.dsn, "SELECT batch FROM mqtt_daemons"), [(0,)])

    @inlineCallbacks
    def test_a_daemon_whose_identity_was_cloned_says_so_and_lets_the_other_have_it(self) -> Steps:
        """Row 300."""
        instance = uuid.uuid4()
        first, second = self.lease(instance), self.lease(instance)
        yield first.start(self.dsn)
        yield second.start(self.dsn)
        execute(
            self.dsn, "INSERT INTO mqtt_requests (daemon, request, argument) VALUES (1, 'end session', 'c')"
        )
        yield first.beat()
        self.assertEqual((self.cloned, self.rows()), ([(instance, socket.gethostname())], [(1, 2)]))
        # What an operator asks of the other is not taken away.
        self.assertEqual(execute(self.dsn, "SELECT argument FROM mqtt_requests"), [("c",)])
        yield second.beat()
        self.assertEqual((len(self.cloned), second.holding), (1, (1, 2)))

    @inlineCallbacks
    def test_what_was_asked_of_the_process_before_is_not_done_by_this_one(self) -> Steps:
        """A drain that came too late would end a daemon that was started again."""
        instance, asked = uuid.uuid4(), list[str]()
        yield self.lease(instance).start(self.dsn)
        requests = DRAIN, KICK, END_SESSION
        sql = "INSERT INTO mqtt_requests (daemon, request, argument) SELECT 1, unnest(%s), ''"
        execute(self.dsn, sql, (list(requests),))
        again = self.lease(instance, asked=lambda request, argument: asked.append(request))
        yield again.start(self.dsn)
        yield again.beat()
        self.assertEqual(asked, [END_SESSION])
        # Of a process that was frozen it is asked as before.
        execute(self.dsn, sql, (list(requests),))
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = incarnation + 1")
        yield again.beat()
        self.assertEqual(asked[1:], list(requests))

    @inlineCallbacks
    def test_of_several_hosts_with_one_identity_the_last_to_start_has_it(self) -> Steps:
        """Row 401."""
        instance = uuid.uuid4()
        leases = [self.lease(instance, bus="bus") for _ in range(4)]
        for lease in leases:
            yield lease.start(self.dsn)
        for lease in leases:
            yield lease.beat()
        self.assertEqual((len(self.cloned), self.rows(), leases[-1].holding), (3, [(1, 4)], (1, 4)))

    @inlineCallbacks
    def test_daemons_that_come_at_once_get_numbers_of_their_own(self) -> Steps:
        yield gatherResults([self.lease().start(self.dsn) for _ in range(8)])
        self.assertEqual([number for number, _ in self.rows()], list(range(1, 9)))

    @inlineCallbacks
    def test_one_that_was_taken_for_dead_is_told_when_it_is_registered_again(self) -> Steps:
        told: list[object] = []
        lease: Lease = self.lease(fenced=lambda: told.append(lease.holding))
        yield lease.start(self.dsn)
        execute(self.dsn, "UPDATE mqtt_daemons SET incarnation = 7, heir = 3")
        yield lease.beat()
        self.assertEqual(told, [(1, 8)])
        self.assertEqual(execute(self.dsn, "SELECT heir FROM mqtt_daemons"), [(None,)])
        yield lease.beat()
        self.assertEqual(told, [(1, 8)])

    @inlineCallbacks
    def test_one_that_leaves_says_so_until_it_comes_again(self) -> Steps:
        instance = uuid.uuid4()
        lease = self.lease(instance)
        yield lease.start(self.dsn)
        yield lease.leave()
        left = """SELECT "leftAt" IS NOT NULL FROM mqtt_daemons"""
        self.assertEqual(execute(self.dsn, left), [(True,)])
        yield self.lease(instance).start(self.dsn)
        self.assertEqual(execute(self.dsn, left), [(False,)])


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
        lease = lone_lease(Clock())
        self.successResultOf(lease.stop())
