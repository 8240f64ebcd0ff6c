"""The database is away when the daemon starts, or goes away later, while agents report and others talk."""

import os
import random
import shutil
import signal
import socket
import tempfile
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Puback, Publish
from tests.agents.doubles import of_agent
from tests.crash.daemon import Daemon
from tests.crash.invariants import assert_invariants, check_stored_soon
from tests.crash.ledger import Ledger
from tests.crash.load import Load
from tests.crash.postgres import private_postgres
from tests.crash.waiting import poll
from tests.integration.attackers import ACCEPTED

#: Seconds for things that take few, on a machine that may be busy; ``make torture`` is strict.
SOON = 60.0
#: Seconds that no message may take, and that a reactor that waits for its database would make it take.
STALLED = 20.0
AGENTS = 16
WILLS = 500


class Common(SynchronousTestCase):
    """A daemon under load whose database can be ill-treated."""

    settings: "dict[str, str]" = {}

    def setUp(self) -> None:
        self.postgres = private_postgres(self)
        home = tempfile.mkdtemp(prefix="platziverse-outage-")
        os.chmod(home, 0o711)
        self.addCleanup(shutil.rmtree, home, True)
        limits = {"PLATZIVERSE_LIMITS_MAX_CONNECTS_PER_MINUTE": "1000000"}
        self.daemon = Daemon(home, "--database", self.postgres.dsn, **limits, **self.settings)
        self.addCleanup(self.daemon.end)
        self.ledger = Ledger()
        seed = random.SystemRandom().getrandbits(32)
        self.load = Load(self.daemon.port, self.ledger, seed, AGENTS)
        self.addCleanup(self.load.stop)

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_until_listening(SOON)
        self.load.start()

    def all_is_well(self) -> None:
        self.load.pause()
        poll(self.load.idle, SOON, "all is acknowledged")
        assert_invariants(
            self.postgres.execute, self.ledger, self.load.speaking, self.daemon, presence_within=SOON
        )

    def windows_are_full(self) -> bool:
        """Whether every agent that waits for acknowledgements has as many outstanding as it may."""
        agents = [
            agent for agent in self.load.agents if 0 not in agent.profile.qos and not agent.profile.stay
        ]
        return all(len(agent.unfinished) >= agent.profile.window for agent in agents)

    def others_talk(self, trips: int) -> None:
        """Messages on another topic come and go."""
        bystander, before = self.load.bystander, len(self.load.bystander.trips)
        since = time.monotonic()
        poll(lambda: len(bystander.trips) >= before + trips, SOON, "messages on another topic")
        self.assertLess(bystander.worst(since), STALLED)

    def start_again(self) -> None:
        """Everybody comes back, and in the end everything that was acknowledged is there once."""
        poll(lambda: not self.load.live(), SOON, "the clients notice the end of the daemon")
        self.ledger.daemon_killed()
        self.daemon.start()
        self.daemon.wait_until_listening(SOON)
        self.assertIsNotNone(check_stored_soon(self.ledger, self.load.unfinished(), SOON))
        self.all_is_well()


class AnOutage(Common):
    def test_an_outage_later_is_ridden_out_without_losing_anybody(self) -> None:
        """Row 104."""
        self.postgres.start()
        self.start()
        poll(lambda: self.ledger.acked > 200, SOON, "acknowledgements")
        self.postgres.end(signal.SIGINT)
        cut_off, acked = self.load.cut_off(), self.ledger.acked
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        self.assertLess(self.ledger.acked - acked, 1000)
        self.others_talk(20)
        self.postgres.start()
        self.assertIsNotNone(check_stored_soon(self.ledger, self.load.unfinished(), SOON))
        self.assertEqual(self.load.cut_off(), cut_off)
        self.ledger.raise_violations()
        self.all_is_well()

    def test_a_daemon_that_is_told_to_stop_commits_what_is_pending_and_says_so(self) -> None:
        """Row 123: with full windows, while the database is slow."""
        self.postgres.start()
        self.start()
        poll(lambda: self.ledger.acked > 200, SOON, "acknowledgements")
        lock = self.postgres.connect()
        self.addCleanup(lock.close)
        lock.autocommit = False
        lock.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        acked = self.ledger.acked
        self.daemon.process.send_signal(signal.SIGTERM)
        poll(lambda: not self.daemon.listening(), SOON, "nobody is accepted")
        self.assertEqual(self.ledger.acked, acked)
        lock.rollback()
        self.assertEqual(self.daemon.wait(SOON), 0)
        self.assertGreater(self.ledger.acked - acked, AGENTS)
        self.ledger.raise_violations()
        self.start_again()

    def test_a_daemon_that_is_told_to_stop_leaves_a_frozen_database_behind(self) -> None:
        """Rows 106, 123: in time, with exit code 0, and nothing was acknowledged that is not stored."""
        self.postgres.start()
        self.start()
        poll(lambda: self.ledger.acked > 200, SOON, "acknowledgements")
        self.postgres.process.send_signal(signal.SIGSTOP)
        self.postgres.signal_all(signal.SIGSTOP)
        self.addCleanup(self.postgres.signal_all, signal.SIGCONT)
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        self.daemon.new_lines()  # those of the start, which are more with each step of the tables
        since = time.monotonic()
        self.assertEqual(self.daemon.stop(), 0)
        self.assertLess(time.monotonic() - since, SOON)
        self.assertLess(len(self.daemon.new_lines()), 22)
        self.postgres.signal_all(signal.SIGCONT)
        self.start_again()

    def test_the_wills_of_all_who_are_there_are_stored_before_it_ends(self) -> None:
        """Rows 123, 354: more than are published in a turn."""
        self.postgres.start()
        self.daemon.start()
        self.daemon.wait_until_listening(SOON)
        self.wait_until_loaded()
        self.leave_wills()
        self.assertEqual(self.daemon.stop(), 0)
        self.all_wills_are_stored()

    def test_so_they_are_when_it_has_just_been_started(self) -> None:
        """Row 430: it waits for what is stored to be loaded, a while; before, no Will could be stored."""
        lock = self.start_that_does_not_end()
        self.leave_wills()
        self.daemon.process.send_signal(signal.SIGTERM)
        poll(lambda: not self.daemon.listening(), SOON, "nobody is accepted")
        lock.rollback()
        self.assertEqual(self.daemon.wait(SOON), 0)
        self.all_wills_are_stored()

    def test_a_start_that_does_not_end_is_not_waited_for(self) -> None:
        """Row 430: not longer than there is time for."""
        self.start_that_does_not_end()
        self.leave_wills()
        since = time.monotonic()
        self.assertEqual(self.daemon.stop(), 0)
        self.assertLess(time.monotonic() - since, SOON)

    def start_that_does_not_end(self) -> Any:
        """Start the daemon so that it listens and cannot load; return the connection that is in its way."""
        self.postgres.start()
        self.daemon.start()
        self.daemon.wait_until_listening(SOON)
        self.wait_until_loaded()
        self.assertEqual(self.daemon.stop(), 0)
        lock = self.postgres.connect()
        self.addCleanup(lock.close)
        lock.autocommit = False
        lock.cursor().execute("LOCK TABLE mqtt_retained IN ACCESS EXCLUSIVE MODE")
        self.daemon.start()
        self.daemon.wait_until_listening(SOON)
        return lock

    def leave_wills(self) -> None:
        """Connect clients that report in their Wills."""
        for number in range(WILLS):
            client = socket.create_connection(("127.0.0.1", self.daemon.port))
            self.addCleanup(client.close)
            client.sendall(
                encode(Connect(f"{number}", will=Publish("agent/message", of_agent(f"{number}"), 1)))
            )
            self.assertEqual(client.recv(4), ACCEPTED)

    def all_wills_are_stored(self) -> None:
        """See that they are stored once, and their agents gone."""
        found = self.postgres.execute('SELECT count(DISTINCT "agentId") FROM metrics')
        self.assertEqual(found, [(WILLS,)])
        self.assertEqual(self.postgres.execute("SELECT count(*) FROM agents WHERE connected"), [(0,)])
        # The next start would publish them once more.
        self.assertEqual(self.postgres.execute("SELECT count(*) FROM mqtt_wills"), [(0,)])

    def wait_until_loaded(self) -> None:
        """Wait for a PUBACK: before the tables are made and read there is none, and no Will can be stored."""
        with socket.create_connection(("127.0.0.1", self.daemon.port), SOON) as client:
            client.sendall(encode(Connect("first")) + encode(Publish("loaded", b"", 1, packet_id=1)))
            self.assertEqual(client.recv(4), ACCEPTED)
            self.assertEqual(client.recv(4), encode(Puback(1)))

    def test_whoever_asks_twice_does_not_wait(self) -> None:
        """Row 123: a second SIGTERM ends it at once, whatever is pending."""
        self.postgres.start()
        self.start()
        poll(lambda: self.ledger.acked > 200, SOON, "acknowledgements")
        self.postgres.process.send_signal(signal.SIGSTOP)
        self.postgres.signal_all(signal.SIGSTOP)
        self.addCleanup(self.postgres.signal_all, signal.SIGCONT)
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        self.daemon.process.send_signal(signal.SIGTERM)
        poll(lambda: not self.daemon.listening(), SOON, "nobody is accepted")
        since = time.monotonic()
        self.assertEqual(self.daemon.stop(), 128 + signal.SIGTERM)
        self.assertLess(time.monotonic() - since, 8)


class WithoutDurableSessions(Common):
    """A start that has not seen its database; with durable Sessions it could not know who is absent."""

    settings = {"PLATZIVERSE_SESSIONS_DURABLE": "false"}

    def test_a_daemon_without_its_database_serves_everybody_and_acknowledges_nobody(self) -> None:
        """Row 103."""
        self.start()
        self.others_talk(20)
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        self.assertEqual(self.ledger.acked, 0)
        self.others_talk(5)
        self.postgres.start()
        self.assertIsNotNone(check_stored_soon(self.ledger, self.load.unfinished(), SOON))
        self.ledger.raise_violations()
        self.all_is_well()

    def test_a_daemon_that_is_told_to_stop_does_not_wait_for_its_database(self) -> None:
        """Row 123, without a database: nothing can be committed, and nothing was acknowledged."""
        self.start()
        poll(self.windows_are_full, SOON, "the windows of the agents are full")
        since = time.monotonic()
        self.assertEqual(self.daemon.stop(), 0)
        self.assertLess(time.monotonic() - since, SOON)
        self.assertEqual(self.ledger.acked, 0)
