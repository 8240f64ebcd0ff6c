"""Who a daemon is, and whose agents it sets right after a crash."""

import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from platziverse.store.instance import Instance, InstanceError, reset_presence
from platziverse.store.migrate import migrate
from tests.store.scratch import open_dir
from tests.store.test_migrate import DatabaseCase

Steps = Generator["Deferred[Any]", Any, None]


HOLD = """
import sys
from platziverse.store.instance import Instance
instance = Instance(sys.argv[1])
print(instance.id, flush=True)
input()
"""


class TheStateDirectory(SynchronousTestCase):
    def setUp(self) -> None:
        self.dir = open_dir()
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.state_dir = os.path.join(self.dir, "deep", "state")

    def instance(self) -> Instance:
        instance = Instance(self.state_dir)
        self.addCleanup(instance.release)
        return instance

    def test_the_identity_survives_a_restart(self) -> None:
        first = self.instance()
        first.release()
        self.assertEqual(self.instance().id, first.id)

    def test_the_file_is_private(self) -> None:
        self.instance()
        mode = os.stat(os.path.join(self.state_dir, "instance")).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_a_second_daemon_is_refused_in_one_line(self) -> None:
        """Row 128: a double start."""
        self.instance()
        error = self.assertRaises(InstanceError, Instance, self.state_dir)
        self.assertIn("another daemon is using the state directory", str(error))

    def test_the_lock_ends_with_the_process_that_held_it(self) -> None:
        root = Path(__file__).parent.parent.parent
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, self.state_dir],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as daemon:
            assert daemon.stdout is not None
            theirs = daemon.stdout.readline().strip()
            self.assertRaises(InstanceError, Instance, self.state_dir)
            daemon.kill()
        self.assertEqual(str(self.instance().id), theirs)

    def test_a_process_started_by_us_does_not_keep_the_lock(self) -> None:
        first = self.instance()
        with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
            first.release()
            self.instance()
            child.kill()

    def test_a_file_cut_short_by_a_full_disk_is_replaced(self) -> None:
        self.instance().release()
        Path(self.state_dir, "instance").write_text("12")
        self.assertIsInstance(self.instance().id, uuid.UUID)

    def test_a_state_directory_that_cannot_be_made_is_one_line(self) -> None:
        Path(self.dir, "deep").write_text("")
        error = self.assertRaises(InstanceError, Instance, self.state_dir)
        self.assertIn("cannot create the directory", str(error))


class PresenceAfterACrash(DatabaseCase):
    @inlineCallbacks
    def test_only_our_agents_and_those_of_nobody_are_reset(self) -> Steps:
        """Rows 124 and 125."""
        yield migrate(self.dsn, reactor)
        ours, theirs = uuid.uuid4(), uuid.uuid4()
        for name, daemon in (("ours", ours), ("theirs", theirs), ("original's", None)):
            self.execute(
                """INSERT INTO agents (uuid, username, name, hostname, pid, connected,
                "createdAt", "updatedAt", "connectedBy")
                VALUES (%s, 'u', 'n', 'h', 1, true, now(), now(), %s)""",
                name,
                daemon and str(daemon),
            )
        reset = yield reset_presence(self.dsn, reactor, ours)
        self.assertEqual(sorted(reset), ["original's", "ours"])
        self.assertEqual(self.execute("SELECT uuid FROM agents WHERE connected"), [("theirs",)])
        again = yield reset_presence(self.dsn, reactor, ours)
        self.assertEqual(again, [])
