"""docs/second-day.rst: its commands, in their order, with a daemon and its embedded database."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.integration.daemon import PATIENCE, ROOT, Daemon, DaemonTestCase, clean_environment
from tests.pages import blocks
from tests.postgres.scratch import scratch_server

RULES = ROOT / "examples" / "prometheus" / "platziverse-rules.yml"
BIN = os.path.dirname(sys.executable)


class SecondDay(DaemonTestCase):
    def setUp(self) -> None:
        for name in ("pg_dump", "createdb", "psql", "mqtt"):
            self.program(name)
        self.state = self.state_dir()
        self.folder = Path(tempfile.mkdtemp(prefix="platziverse-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.start()

    def start(self) -> None:
        self.running: Daemon = self.daemon(state_dir=self.state)
        self.port = self.running.ready()

    def page(self, number: int) -> str:
        """Run a box of the page after the first, which sets the variables; return what it prints."""
        first, *others = blocks("second-day.rst", "sh")
        source = f"{first}{others[number - 1]}".replace("/var/lib/platziverse", self.state)
        return self.shell(source.replace("localhost:8083", f"localhost:{self.port}"))

    def shell(self, source: str) -> str:
        done = subprocess.run(
            ["sh", "-euc", source],
            cwd=self.folder,
            env=clean_environment(
                PATH=f"{BIN}:{os.environ['PATH']}", PLATZIVERSE_STATE_DIR=self.state, LC_ALL="C"
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, f"{source}{done.stdout}{done.stderr}")
        return done.stdout

    def rows(self, sql: str, database: str = "platziverse") -> list[str]:
        first = blocks("second-day.rst", "sh")[0].replace("/var/lib/platziverse", self.state)
        return self.shell(f"{first}psql -AtF ' ' -d {database} <<'END'\n{sql}\nEND\n").splitlines()

    def report(self, uuid: str, *values: float) -> None:
        """Send a message of an agent, and wait for its PUBACK."""
        agent = {"uuid": uuid, "name": f"name of {uuid}", "username": "ana", "hostname": "h", "pid": 1}
        payload = {"agent": agent, "metrics": [{"type": "temp", "value": value} for value in values]}
        where = ("-h", "localhost", "-p", str(self.port), "-q", "1", "-t", "agent/message")
        self.run_program("mqtt", "pub", *where, "-m", json.dumps(payload))

    def retain(self, topic: str, payload: str) -> None:
        """Send a Retained Message, and wait for its PUBACK."""
        where = ("-h", "localhost", "-p", str(self.port), "-q", "1", "-r", "-t", topic)
        self.run_program("mqtt", "pub", *where, "-m", payload)

    def test_every_box_does_what_the_page_says(self) -> None:
        self.assertEqual(len(blocks("second-day.rst", "sh")), 12)
        self.report("yyy", 1, 2)
        self.retain("home/lamp", "on")
        self.page(1)  # back up
        self.assertEqual(self.running.stop(), 0)
        self.start()
        self.report("yyy", 3)
        self.retain("home/lamp", "off")
        self.restore()
        self.copy()
        self.assertIn("ok       schema: version", self.page(5))
        self.delete_and_rename()
        self.read()

    def restore(self) -> None:
        self.page(2)
        self.assertEqual(self.running.ended(), 1)
        self.assertIn("if a backup of the database was restored", self.running.output.splitlines()[-1])
        self.start()
        self.assertEqual(self.rows("SELECT convert_from(payload, 'UTF8') FROM mqtt_retained"), ["on"])
        self.assertEqual(self.rows("SELECT value FROM metrics ORDER BY id"), ["1", "2"])
        self.assertEqual(self.rows("SELECT value FROM metrics ORDER BY id", "replaced"), ["1", "2", "3"])
        self.report("yyy", 4)
        self.assertEqual(self.rows("SELECT value FROM metrics ORDER BY id"), ["1", "2", "4"])

    def copy(self) -> None:
        self.assertEqual(self.running.stop(), 0)
        self.page(3)
        shutil.rmtree(self.state)
        self.page(4)
        self.start()
        self.assertEqual(self.rows("SELECT value FROM metrics ORDER BY id"), ["1", "2", "4"])

    def delete_and_rename(self) -> None:
        self.report("kept", 5)
        self.wait_until_gone()
        self.page(6)
        self.assertEqual(self.rows("SELECT uuid FROM agents"), ["kept"])
        self.assertEqual(self.rows("SELECT value FROM metrics"), ["5"])
        self.report("yyy", 21, 22.5)
        self.wait_until_gone()
        self.page(7)
        self.report("greenhouse-1", 24)
        self.assertEqual(
            self.rows("SELECT uuid, name FROM agents ORDER BY id"),
            ["kept name of kept", "greenhouse-1 name of greenhouse-1"],
        )

    def wait_until_gone(self) -> None:
        ends = time.monotonic() + PATIENCE
        while self.rows("SELECT uuid FROM agents WHERE connected"):
            self.assertLess(time.monotonic(), ends)

    def read(self) -> None:
        found = re.search(r"\|\s+21 \|\s+22\.5 \|\s+24 \|\s+3\n", self.page(8))
        self.assertIsNotNone(found)
        self.page(9)
        self.assertEqual(len((self.folder / "all.csv").read_text().splitlines()), 5)
        self.page(10)
        with (self.folder / "metrics.csv").open(newline="") as file:
            kept = list(csv.DictReader(file))
        self.assertEqual(
            [(row["uuid"], row["type"], row["value"]) for row in kept],
            [("kept", "temp", "5"), *(("greenhouse-1", "temp", value) for value in ("21", "22.5", "24"))],
        )
        self.assertIn("platziverse_ingest_stored_total 3.0\n", self.page(11))


class RulesTests(DaemonTestCase):
    """The scrape job and the rules of examples/prometheus, beside what a daemon really counts."""

    def metrics(self) -> str:
        server = scratch_server()
        daemon = self.daemon("--database", server.dsn(server.create()))
        port = daemon.ready()
        daemon.wait_for("for Sessions, is ready")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            return str(answer.read(), "utf-8")

    def test_every_rule_asks_for_metrics_that_there_are(self) -> None:
        rules: Any = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
        self.assertGreater(len(rules), 9)
        page = self.metrics()
        known = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)) | {"up"}
        known |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", page, re.MULTILINE)}
        for rule in rules:
            names = set(re.findall(r"\b(?:platziverse_|process_|up\b)\w*", rule["expr"]))
            self.assertTrue(names, rule)
            self.assertLessEqual(names, known, rule)
            self.assertEqual(set(rule) - {"for"}, {"alert", "expr", "annotations"})
        self.assertIn('platziverse_database_state{state="ready"} 1.0', page)

    def test_the_scrape_job_has_the_name_in_the_rules_and_names_their_file(self) -> None:
        config: Any = yaml.safe_load(RULES.with_name("prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        self.assertEqual(config["rule_files"], [RULES.name])
        self.assertIn(f'up{{job="{job["job_name"]}"}}', RULES.read_text())
        self.assertEqual(job["static_configs"], [{"targets": ["localhost:8083"]}])
