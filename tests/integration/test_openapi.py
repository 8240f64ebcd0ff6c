"""The API of a running daemon does what its OpenAPI document says, whatever schemathesis asks it."""

import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

from platziverse.access.passwords import set_password
from tests.integration.daemon import PATIENCE, DaemonTestCase, clean_environment
from tests.integration.test_course import MESSAGE
from tests.integration.test_operators import ACL

#: A request for everything that the document suggests, and some more that nobody thought of: the same each
#: time, as whoever runs the tests asks about a change. Another seed asks other questions.
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
OPTIONS = ("--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--generation-database", "none")
#: Has no end; tests/integration/test_api.py reads it.
ENDLESS = ("--exclude-path", "/api/events", "--exclude-path", "/api/clients/{id}/trace")
#: May do everything.
ADMIN = ("--header", "Authorization: Basic " + b64encode(b"ana:secret").decode())
#: These may refuse how parameters belong together, such as from and to, and what is the next of no page: a
#: document cannot say that.
CONFIGURATION = "".join(
    f"""[[operations]]
include-path = "{path}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 503]
"""
    for path in ("/api/series", "/api/export", "/api/latest")
)


class OpenAPI(DaemonTestCase):
    def folder(self) -> str:
        """Where schemathesis may leave what it likes."""
        path: str = self.mktemp()
        os.makedirs(path)
        Path(path, "schemathesis.toml").write_text(CONFIGURATION)
        return path

    def access(self) -> dict[str, str]:
        """Let everybody do what they could without rules, and a user end connections."""
        folder = Path(self.state_dir())
        passwords, rules = str(folder / "passwords"), folder / "acl"
        set_password(passwords, "ana", b"secret")
        rules.write_text(ACL)
        return {"PLATZIVERSE_ACCESS_PASSWORD_FILE": passwords, "PLATZIVERSE_ACCESS_ACL_FILE": str(rules)}

    def test_schemathesis_finds_nothing(self) -> None:
        daemon = self.daemon(*self.shared_database(), environ=self.access())
        port = str(daemon.ready())
        subscriber = self.start_program(
            "mosquitto_sub", "-d", "-i", "watcher", "-p", port, "-t", "agent/+", "-q", "1"
        )
        subscriber.wait_for("Subscribed")
        self.run_program("mosquitto_pub", "-p", port, "-q", "1", "-t", "agent/message", "-m", MESSAGE)
        program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
        url = f"http://127.0.0.1:{port}/api/openapi.json"
        done = subprocess.run(
            [program, "run", url, *OPTIONS, "--seed", SEED, *ENDLESS, *ADMIN],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(NO_COLOR="1"),
            cwd=self.folder(),
            timeout=5 * PATIENCE,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        metrics = self.run_program("curl", "-sS", f"http://127.0.0.1:{port}/metrics")
        self.assertIn("platziverse_internal_errors_total 0.0\n", metrics)
        self.assertEqual(daemon.stop(), 0)
        self.assertNotIn("Traceback", daemon.output)
