"""Connections to a real server, and to sockets that never answer."""

import os
import signal
import socket
import time
from collections.abc import Generator
from typing import Any

import psycopg2
import psycopg2.extensions
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.postgres.connection import Connection, Cursor, DeadlinePassed, connect, force_close, timed
from platziverse.postgres.sqlstate import Action, classify
from tests.crash.waiting import poll
from tests.postgres.test_migrate import DatabaseCase

Steps = Generator["Deferred[Any]", Any, None]


class AServerThatNeverAnswers(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.port = self.listener.getsockname()[1]

    @inlineCallbacks
    def test_connecting_ends_at_the_deadline(self) -> Steps:
        dsn = f"host=127.0.0.1 port={self.port} user=u dbname=d"
        since = time.monotonic()
        yield self.assertFailure(connect(dsn, reactor, 0.3), DeadlinePassed)
        self.assertLess(time.monotonic() - since, 20)

    @inlineCallbacks
    def test_a_host_name_is_resolved_without_holding_the_process(self) -> Steps:
        """Row 114."""
        yield self.assertFailure(
            connect(f"host=localhost port={self.port} user=u", reactor, 0.3), DeadlinePassed
        )

    @inlineCallbacks
    def test_a_name_nobody_knows_is_an_operational_error(self) -> Steps:
        """Row 114."""
        error = yield self.assertFailure(
            connect("host=no.such.invalid", reactor, 20), psycopg2.OperationalError
        )
        self.assertIn("no.such.invalid", str(error))

    @inlineCallbacks
    def test_a_refused_connection_is_an_operational_error(self) -> Steps:
        self.listener.close()
        dsn = f"host=localhost port={self.port} user=u"
        error = yield self.assertFailure(connect(dsn, reactor, 5), psycopg2.OperationalError)
        self.assertIn(f"Is the server running on localhost, port {self.port}, and accepting", str(error))

    @inlineCallbacks
    def test_nonsense_in_the_connection_string_fails_at_once(self) -> Steps:
        yield self.assertFailure(self.tried("host=127.0.0.1 nonsense=1"), psycopg2.ProgrammingError)

    @inlineCallbacks
    def tried(self, dsn: str) -> Steps:
        yield connect(dsn, reactor, 1)


class Lost:
    """psycopg2's connection in the moment when libpq has closed the socket and psycopg2 does not know."""

    closed = 0
    notifies: list[Any] = []

    def __init__(self, **parameters: object) -> None: ...

    def poll(self) -> int:
        return psycopg2.extensions.POLL_OK

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = 1


class AnEndThatTheReactorSees(SynchronousTestCase):
    def test_a_statement_fails_as_it_does_when_libpq_sees_it(self) -> None:
        """A sign of life that met with it was called a bug."""
        for error in (ConnectionDone(), ConnectionLost()):
            waiting = timed(Connection(MemoryReactorClock()), fail(error), 1.0)
            self.failureResultOf(waiting, psycopg2.OperationalError)


class AConnectionWithoutASocket(SynchronousTestCase):
    def setUp(self) -> None:
        memory = MemoryReactorClock()
        self.connection = Connection(reactor=memory)
        self.connection.connectionFactory = Lost
        connected = self.connection.connect()
        memory.advance(0)
        self.successResultOf(connected)

    def test_is_closed_when_it_is_read_from(self) -> None:
        self.connection.doRead()
        self.assertTrue(self.connection.closed)

    def test_is_closed_when_a_statement_ends_whose_outcome_stays_as_it_is(self) -> None:
        """An error in here would be taken for the statement's own, and for one of its data."""
        cursor = Cursor(None, self.connection)
        self.connection.cursorRunning(cursor)
        self.connection.cursorFinished(cursor)
        self.assertTrue(self.connection.closed)


class ARealServer(DatabaseCase):
    @inlineCallbacks
    def connected(self) -> Generator["Deferred[Any]", Any, Any]:
        connection = yield connect(self.dsn, reactor)
        self.addCleanup(force_close, connection)
        return connection

    @inlineCallbacks
    def test_several_hosts_are_tried_in_turn(self) -> Steps:
        dsn = f"host=/nonexistent,{self.server.data} port=5432,5432 user=postgres dbname={self.name}"
        connection = yield connect(dsn, reactor)
        self.addCleanup(force_close, connection)
        self.assertEqual((yield connection.runQuery("SELECT 1")), [(1,)])

    @inlineCallbacks
    def test_a_frozen_server_is_given_up_at_the_deadline(self) -> Steps:
        connection = yield self.connected()
        ((backend,),) = yield connection.runQuery("SELECT pg_backend_pid()")
        os.kill(backend, signal.SIGSTOP)
        try:
            waiting = timed(connection, connection.runQuery("SELECT 1"), 0.2)
            yield self.assertFailure(waiting, DeadlinePassed)
            self.assertTrue(connection.closed)
        finally:
            os.kill(backend, signal.SIGCONT)

    @inlineCallbacks
    def test_a_statement_that_the_server_canceled_is_to_be_halved(self) -> Steps:
        """row 106: the connection is as good as ever."""
        connection = yield self.connected()
        query = connection.runQuery("SET LOCAL statement_timeout = 50; SELECT pg_sleep(20)")
        error = yield self.assertFailure(timed(connection, query, 10), psycopg2.OperationalError)
        self.assertIs(classify(error, closed=bool(connection.closed)), Action.HALVE)
        self.assertEqual((yield connection.runQuery("SELECT 1")), [(1,)])

    @inlineCallbacks
    def test_a_statement_whose_outcome_is_unknown_is_not(self) -> Steps:
        """rows 105, 106"""
        connection = yield self.connected()
        waiting = timed(connection, connection.runQuery("SELECT pg_sleep(20)"), 0.1)
        error = yield self.assertFailure(waiting, DeadlinePassed)
        self.assertIs(classify(error, closed=bool(connection.closed)), Action.RECONNECT)

    @inlineCallbacks
    def test_an_idle_connection_takes_its_end_quietly(self) -> Steps:
        connection = yield self.connected()
        ((backend,),) = yield connection.runQuery("SELECT pg_backend_pid()")
        self.execute("SELECT pg_terminate_backend(%s)", backend)
        while not connection.closed:
            yield deferLater(reactor, 0.02)
        yield self.assertFailure(connection.runQuery("SELECT 1"), psycopg2.Error)
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def test_a_statement_on_a_dead_connection_leaves_nothing_in_the_reactor(self) -> Steps:
        """libpq closes the socket while a large statement is sent; its number may soon be another's."""
        connection = yield self.connected()
        ((backend,),) = yield connection.runQuery("SELECT pg_backend_pid()")
        self.execute("SELECT pg_terminate_backend(%s)", backend)
        gone = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
        poll(lambda: not self.execute(gone, backend), 5, "the end of the backend")
        connection.doRead()  # takes the server's last words, not yet the end
        self.assertFalse(connection.closed)
        large = connection.runQuery("SELECT length(%s)", ("x" * 200_000,))
        yield self.assertFailure(large, psycopg2.OperationalError)
        force_close(connection)
        again = yield self.connected()
        self.assertEqual((yield again.runQuery("SELECT 1")), [(1,)])

    @inlineCallbacks
    def test_a_connection_watches_for_its_end_after_a_statement_that_could_not_be_sent(self) -> Steps:
        connection = yield self.connected()
        yield self.assertFailure(connection.runQuery("SELECT %s", ("\0",)), ValueError)
        self.assertIn(connection, reactor.getReaders())

    @inlineCallbacks
    def test_closing_fails_what_is_in_flight_and_leaves_nothing_in_the_reactor(self) -> Steps:
        connection = yield self.connected()
        readers = len(reactor.getReaders())
        waiting = connection.runQuery("SELECT pg_sleep(5)")
        yield deferLater(reactor, 0.1)
        force_close(connection)
        force_close(connection)
        yield self.assertFailure(waiting, Exception)
        self.assertLess(len(reactor.getReaders()), readers)

    @inlineCallbacks
    def test_a_standby_that_takes_no_writes_is_refused(self) -> Steps:
        """Row 107."""
        self.execute(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        error = yield self.assertFailure(connect(self.dsn, reactor), psycopg2.OperationalError)
        self.assertIn("read-only", str(error))
