"""The course's session, typed as it stands there; only the port is another one."""

import json
import shlex
import subprocess

from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase

MESSAGE = (
    '{"agent": {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10,'
    ' "hostname": "platzibogota"},'
    ' "metrics": [{"type": "memory", "value": "1001"}, {"type": "temp", "value": "33"}]}'
)
AGENT = {"uuid": "yyy", "username": "platzi", "name": "platzi", "hostname": "platzibogota", "pid": 10}


class CourseTests(DaemonTestCase):
    def psql(self, daemon: Daemon, query: str) -> list[list[str]]:
        """Rows of ``query``, through the command that the daemon printed."""
        command = daemon.wait_for("look at the data: (.*)")[1]
        done = subprocess.run(
            f"{command} -X -A -t -F '|' -c {shlex.quote(query)}",
            shell=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [line.split("|") for line in done.stdout.splitlines()]

    def test_the_session_of_the_course(self) -> None:
        state_dir = self.state_dir()
        daemon = self.daemon(state_dir=state_dir)
        port = str(daemon.ready())
        subscriber = self.start_program("mosquitto_sub", "-d", "-p", port, "-t", "agent/+", "-v")
        subscriber.wait_for("Subscribed")

        self.run_program("mqtt", "pub", "-t", "agent/message", "-h", "localhost", "-p", port, "-m", "Hello")
        complaint = r"Rejected a message of \S+ 'mqttjs_\w+' to 'agent/message': JSON is malformed"
        daemon.wait_for(complaint)
        self.run_program("mqtt", "pub", "-t", "agent/message", "-h", "localhost", "-p", port, "-m", MESSAGE)
        announced = json.loads(subscriber.wait_for("^agent/connected (.*)")[1])
        self.assertEqual(announced, {"agent": AGENT | {"connected": True}})
        self.assertEqual(json.loads(subscriber.wait_for("^agent/message ({.*)")[1]), json.loads(MESSAGE))
        self.assertEqual(
            json.loads(subscriber.wait_for("^agent/disconnected (.*)")[1]), {"agent": {"uuid": "yyy"}}
        )
        kept = {"received": 2, "stored": 1, "duplicates": 0, "rejected": 1, "given_up": 0, "pending": 0}
        poll(lambda: daemon.books() == kept, PATIENCE, "the commit of what came at QoS 0")
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(len([line for line in daemon.lines if " warn " in line]), 1, daemon.output)
        self.assertNotIn("Traceback", daemon.output)
        self.look(self.daemon(state_dir=state_dir))

    def look(self, daemon: Daemon) -> None:
        """A second daemon finds what the first one has stored."""
        daemon.ready()
        self.assertEqual(
            self.psql(daemon, "select uuid, username, name, hostname, pid, connected from agents"),
            [["yyy", "platzi", "platzi", "platzibogota", "10", "f"]],
        )
        query = 'select type, value from metrics join agents a on a.id = "agentId" order by type'
        self.assertEqual(self.psql(daemon, query), [["memory", "1001"], ["temp", "33"]])
        (rejected,) = self.psql(daemon, "select topic, convert_from(payload, 'UTF8') from rejected_messages")
        self.assertEqual(rejected, ["agent/message", "Hello"])
        self.assertEqual(daemon.stop(), 0)
