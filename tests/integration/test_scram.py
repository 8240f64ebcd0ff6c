"""SCRAM-SHA-256 over a real socket: MQTT.js, computed by Node.js on the client's side."""

from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.commandline import run
from tests.integration.daemon import NODE, DaemonTestCase
from tests.integration.plain_client import PASSWORD

SCRIPT = Path(__file__).parent / "scram.js"


class ScramTests(DaemonTestCase):
    def setUp(self) -> None:
        if not (NODE.parent / "mqtt").exists():
            raise SkipTest("MQTT.js is not installed")
        passwords = Path(self.mktemp()).absolute()
        for user, more in ("ana", ("--scram",)), ("bob", ()):
            done = run(self, "passwd", "--file", str(passwords), *more, user, stdin=PASSWORD.encode())
            self.assertEqual(done.code, 0, done.err)
        settings = {
            "PLATZIVERSE_ACCESS_PASSWORD_FILE": str(passwords),
            "PLATZIVERSE_ACCESS_ANONYMOUS": "never",
        }
        self.server = self.daemon("--database", "host=/nonexistent dbname=x", environ=settings)

    def login(self, user: str, password: str) -> list[str]:
        arguments = (str(SCRIPT), str(self.server.port()), user, password)
        return self.run_program("node", *arguments).splitlines()

    def test_both_sides_prove_that_they_know_the_password(self) -> None:
        """And nobody else gets in: a wrong password, a user without keys, and nobody at all."""
        known = ", and the server knows the password: true"
        self.assertEqual(self.login("ana", PASSWORD), [f"connected{known}", f"renewed{known}"])
        for user, password in ("ana", "wrong"), ("bob", PASSWORD), ("eva", PASSWORD):
            [refused] = self.login(user, password)
            self.assertIn("Connection refused: ", refused)
        self.assertNotIn(PASSWORD, self.server.output)
        self.assertNotIn("Traceback", self.server.output)
