"""The embedded server opened on loopback: the course's own psql command."""

from pathlib import Path

from tests.integration.daemon import DaemonTestCase
from tests.ports import free_port


class Loopback(DaemonTestCase):
    def test_the_courses_psql_works_with_the_generated_password(self) -> None:
        state, port = self.state_dir(), str(free_port())
        environ = {"PLATZIVERSE_EMBEDDED_TCP": "true", "PLATZIVERSE_EMBEDDED_PORT": port}
        daemon = self.daemon(state_dir=state, environ=environ)
        daemon.ready()
        password = Path(state, "pgpass").read_text().strip().rpartition(":")[2]
        self.assertGreaterEqual(len(password), 16)
        typed = (
            "-h",
            "localhost",
            "-p",
            port,
            "-U",
            "platzi",
            "platziverse",
            "-Atc",
            "select count(*) from agents",
        )
        self.assertEqual(self.run_program("psql", *typed, PGPASSWORD=password).strip(), "0")
        refused = ("-w", *typed)
        with self.assertRaises(AssertionError) as failed:
            self.run_program("psql", *refused, PGPASSWORD="wrong", PGPASSFILE="/nonexistent")
        self.assertIn("password authentication failed", str(failed.exception))
