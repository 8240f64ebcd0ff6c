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

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.statedir import Instance
from platziverse.errors import Unusable
from tests.postgres.scratch import open_dir

Steps = Generator["Deferred[Any]", Any, None]


HOLD = """
import sys
from platziverse.daemon.statedir import Instance
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
        error = self.assertRaises(Unusable, Instance, self.state_dir)
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
            self.assertRaises(Unusable, Instance, self.state_dir)
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
        error = self.assertRaises(Unusable, Instance, self.state_dir)
        self.assertIn("cannot create the directory", str(error))
