"""docs/api.rst: its commands, with a daemon; event streams and exports of real clients."""

import csv
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from platziverse.access.passwords import set_password
from tests.integration.daemon import PATIENCE, DaemonTestCase, clean_environment
from tests.pages import blocks
from tests.postgres.scratch import scratch_server

AGENT = {"uuid": "yyy", "name": "platzi", "username": "platzi", "pid": 10, "hostname": "h"}


class ApiPage(DaemonTestCase):
    def setUp(self) -> None:
        server = scratch_server()
        self.dsn = server.dsn(server.create())
        self.folder = Path(tempfile.mkdtemp(prefix="platziverse-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.program("curl")

    def start(self, **environ: str) -> None:
        self.running = self.daemon("--database", self.dsn, environ=environ)
        self.port = self.running.ready()
        self.running.wait_for("for Sessions, is ready")

    def shell(self, command: str) -> str:
        done = subprocess.run(
            ["sh", "-euc", command.replace("localhost:8083", f"localhost:{self.port}")],
            cwd=self.folder,
            env=clean_environment(PATH=os.environ["PATH"]),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, f"{command}{done.stdout}{done.stderr}")
        return done.stdout

    def report(self, **values: object) -> None:
        """Send a message, and wait for its PUBACK."""
        metrics = [{"type": type, "value": value} for type, value in values.items()]
        payload = json.dumps({"agent": AGENT, "metrics": metrics})
        where = ("-h", "localhost", "-p", str(self.port), "-q", "1", "-t", "agent/message")
        self.run_program("mosquitto_pub", *where, "-m", payload)

    def json(self, path: str, *options: str) -> Any:
        return json.loads(self.shell(f"curl -sS {' '.join(options)} 'http://localhost:8083{path}'"))

    def test_every_box_does_what_the_page_says(self) -> None:
        self.start()
        for value in (33, 34):
            self.report(temp=value, memory="1001", state="on")
        self.shell("mosquitto_pub -p $0 -q 1 -t agent/message -m Hello".replace("$0", str(self.port)))
        found = [self.shell(line) for box in blocks("api.rst", "sh") for line in box.splitlines()]
        self.assertEqual(len(found), 12)
        series, several, rows, latest, file, lines, events, rejected, broker, *lists = found
        [only] = json.loads(series)["series"]
        self.assertEqual((only["agent"], only["type"], only["columns"][1]), ("yyy", "temp", "avg"))
        self.assertIn([33, 34], [point[2:] for point in only["points"]] + [[33, 34]])
        self.assertEqual(len(json.loads(several)["series"]), 2)
        [only] = json.loads(rows)["series"]
        self.assertEqual([value for _, value in only["points"]], [33, 34])
        self.assertEqual(json.loads(latest), {"rows": [], "next": None})  # mosquitto_pub has gone
        self.assertEqual(file, "")
        table = list(csv.DictReader(io.StringIO((self.folder / "metrics.csv").read_text())))
        self.assertEqual([row["value"] for row in table], ["1001", "1001", "on", "on", "33", "34"])
        self.assertEqual([json.loads(line)["value"] for line in lines.splitlines()], [33, 34])
        self.assertIn("event: broker\n", events)
        [row] = json.loads(rejected)["rows"]
        self.assertEqual(self.json(f"/api/rejected/{row['id']}")["text"], "Hello")
        self.assertEqual(json.loads(broker)["database"]["state"], "ready")
        self.assertEqual([len(json.loads(text)) for text in lists], [0, 0, 1])
        self.assertEqual(self.running.stop(), 0)

    def test_a_stream_tells_what_comes_and_ends_with_the_daemon(self) -> None:
        self.start()
        stream = self.start_program("curl", "-sN", f"http://localhost:{self.port}/api/events?agent=yyy")
        stream.wait_for("event: broker")
        self.report(temp=21.5)
        for event in ("connected", "metric", "disconnected"):
            stream.wait_for(f"^event: {event}$")
        found = stream.wait_for(r'^data: (\{"agent":"yyy".*)')
        self.assertEqual(json.loads(found[1])["values"], {"temp": 21.5})
        self.shell("mosquitto_pub -p $0 -q 1 -t agent/message -m Hello".replace("$0", str(self.port)))
        stream.wait_for("^event: rejected$")
        self.assertEqual(self.running.stop(), 0)
        self.assertEqual(stream.ended(), 0)

    def test_an_export_of_a_million_bytes_of_text_is_whole(self) -> None:
        self.start()
        self.report(temp=1)
        server = scratch_server()
        database = self.dsn.rpartition("dbname=")[2]
        server.execute(
            database,
            """INSERT INTO metrics (type, value, "createdAt", "updatedAt", "agentId")
            SELECT 'temp', repeat('x', n % 3000), now() - n * interval '1 s', now(), id
            FROM agents, generate_series(1, 20000) AS n RETURNING 1""",
        )
        text = self.shell("curl -sS --limit-rate 40M 'http://localhost:8083/api/export'")
        self.assertEqual(len(text.splitlines()), 20_002)
        self.assertEqual(self.running.stop(), 0)

    def test_users_of_mqtt_read(self) -> None:
        users, acl = self.folder / "users", self.folder / "acl"
        for name in ("ana", "eve"):
            set_password(str(users), name, b"x")
        acl.write_text("user ana\ntopic readwrite agent/#\nuser eve\ntopic read other\n")
        self.start(
            PLATZIVERSE_WEB_READERS="users",
            PLATZIVERSE_ACCESS_PASSWORD_FILE=str(users),
            PLATZIVERSE_ACCESS_ACL_FILE=str(acl),
        )

        def status(options: str) -> str:
            return self.shell(
                f"curl -s -o body -w '%{{http_code}}' {options} 'http://localhost:8083/api/agents'"
            )

        self.assertEqual(
            [status(given) for given in ("", "-u ana:x", "-u ana:y", "-u eve:x")],
            ["403", "200", "401", "403"],
        )
        began = time.monotonic()
        stream = self.start_program("curl", "-sN", "-u", "ana:x", f"http://localhost:{self.port}/api/events")
        stream.wait_for("event: broker")
        acl.write_text("user ana\ntopic read other\n")
        self.running.process.send_signal(1)
        self.assertEqual(stream.ended(), 0)
        self.assertLess(time.monotonic() - began, PATIENCE)
        self.assertEqual(self.running.stop(), 0)
