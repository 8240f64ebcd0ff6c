"""A daemon in what containers give it: process 1, somebody's number for a user, a directory to read."""

import os
import subprocess
import tempfile
from pathlib import Path

from tests.integration.daemon import Daemon, DaemonTestCase

#: Nothing here needs one that answers.
DATABASE = ("--database", "host=/nonexistent dbname=x user=x")
PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
NO_USER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")


class ContainerTests(DaemonTestCase):
    def contained(self, before: tuple[str, ...], folder: str, *arguments: str, **environ: str) -> Daemon:
        if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
            self.skipTest(f"{' '.join(before)}: not allowed here")
        given = ("--listen", "tcp:0:interface=127.0.0.1", *arguments)
        daemon = Daemon(
            *given,
            state_dir=self.state_dir(),
            twistd=("-n", "platziverse"),
            before=before,
            cwd=folder,
            environ=environ,
        )
        self.addCleanup(daemon.kill)
        return daemon

    def folder(self, mode: int = 0o700) -> str:
        found = tempfile.TemporaryDirectory()
        self.addCleanup(found.cleanup)
        os.chmod(found.name, mode)
        return found.name

    def test_row_240_process_1_starts_where_another_process_1_has_left_its_pid_file(self) -> None:
        folder = self.folder()
        Path(folder, "twistd.pid").write_text("1")
        daemon = self.contained(PROCESS_1, folder, *DATABASE)
        daemon.port()
        self.assertNotIn("Another twistd", daemon.output)

    def test_row_241_a_user_without_an_entry_starts_where_nobody_may_write(self) -> None:
        daemon = self.contained(NO_USER, self.folder(0o555), *DATABASE)
        daemon.port()
        self.assertEqual(daemon.stop(), 0, daemon.output)

    def test_row_241_a_state_directory_that_cannot_be_made_says_what_to_do(self) -> None:
        daemon = self.contained(NO_USER, self.folder(0o555), *DATABASE, PLATZIVERSE_STATE_DIR="here/state")
        self.assertEqual(daemon.ended(), 1)
        self.assertIn("here/state: Permission denied; name another with --state-dir", daemon.output)

    def test_row_241_an_embedded_database_says_that_it_needs_an_entry(self) -> None:
        daemon = self.contained(NO_USER, self.folder(0o555))
        self.assertEqual(daemon.ended(), 1)
        self.assertIn("user 12345 has no entry in /etc/passwd", daemon.output)
        self.assertIn("name a database with --database", daemon.output)
