"""The short version of the torture: kills of the daemon, and every fault of the database once."""

import os
import random
import shutil
import signal
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.daemon import Daemon
from tests.crash.embedded import EmbeddedServer
from tests.crash.faults import EMBEDDED, FAULTS
from tests.crash.ledger import Ledger
from tests.crash.load import HABITS, PUBLISHERS, Load
from tests.crash.postgres import private_postgres
from tests.crash.torture import Database, Plan, Torture, report, steps
from tests.crash.waiting import poll

KILLS = 10

#: Visitors come and go faster than any client should; and a frozen server is given up sooner.
SETTINGS = {
    "PLATZIVERSE_LIMITS_MAX_CONNECTS_PER_MINUTE": "1000000",
    "PLATZIVERSE_INGEST_STATEMENT_DEADLINE": "1.5",
}
#: Patient, as the machine may be busy: ``make torture`` has the bounds that are promised.
PLAN = Plan(
    acks=300, longest_hold=2.5, growth=64 * 2**20, soon=60.0, undisturbed=30.0, idle=60.0, present=60.0
)


class CrashCase(SynchronousTestCase):
    """A seed that is printed with a failure, and nothing left behind."""

    def setUp(self) -> None:
        self.seed = random.SystemRandom().getrandbits(32)
        self.home = tempfile.mkdtemp(prefix="platziverse-crash-daemon-")
        os.chmod(self.home, 0o711)
        self.addCleanup(shutil.rmtree, self.home, True)

    def torture(self, database: Database, daemon: Daemon, agents: int = 32) -> Torture:
        ledger = Ledger()
        load = Load(daemon.port, ledger, self.seed, agents, publishers=len(PUBLISHERS), habits=HABITS)
        torture = Torture(database, daemon, load, ledger, random.Random(self.seed), PLAN)
        self.addCleanup(daemon.end)
        self.addCleanup(load.stop)
        torture.begin()
        return torture


class OneDaemonOnADurableServer(CrashCase):
    def test_nothing_acknowledged_is_lost_and_nothing_is_stored_twice(self) -> None:
        """Rows 104, 105, 106, 107, 108, 124, 331."""
        postgres = private_postgres(self)
        postgres.start()
        torture = self.torture(postgres, Daemon(self.home, "--database", postgres.dsn, **SETTINGS))
        try:
            torture.run(steps(KILLS, list(FAULTS), torture.rng))
            torture.end()
        except AssertionError as error:
            raise AssertionError(
                "\n".join([f"seed {self.seed:x}", str(error), *report(torture, 0)])
            ) from None
        self.assertEqual(torture.figures.kills, KILLS)
        done = torture.figures.faults.keys() | torture.figures.skipped.keys()
        self.assertEqual(done, {fault.name for fault in FAULTS})


class OneDaemonWithItsOwnServer(CrashCase):
    def test_a_daemon_that_was_killed_finds_its_server_running(self) -> None:
        """Row 124."""
        daemon = Daemon(self.home, **SETTINGS)
        server = EmbeddedServer(daemon.state_dir)
        self.addCleanup(server.kill, signal.SIGQUIT)
        torture = self.torture(server, daemon, agents=16)
        before = server.pid
        torture.run([None, None, None])
        self.assertEqual(server.pid, before)
        torture.run([*EMBEDDED, None])
        self.assertNotEqual(server.pid, before)
        torture.stop()
        poll(lambda: not server.running(), 60, "the server ends with the daemon")
