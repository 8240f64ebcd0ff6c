"""docs/embedding.rst and the agent of docs/messages.rst, as programs of their own."""

import json
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration.daemon import PATIENCE, TWISTD, DaemonTestCase, Program
from tests.pages import blocks
from tests.ports import free_port
from tests.postgres.scratch import scratch_server


class PagesRun(DaemonTestCase):
    def script(self, source: str, name: str, *command: str, **environ: Any) -> Program:
        """Write ``source`` into a file, and run it with ``command``."""
        folder = Path(self.state_dir())
        (folder / name).write_text(source)
        program = Program(*command, str(folder / name), cwd=str(folder), **environ)
        self.addCleanup(program.kill)
        return program

    def embedded(self, number: int, name: str, *command: str) -> tuple[Program, int, str]:
        """Run a script of docs/embedding.rst on another port and with a database; returns both."""
        source, port, server = blocks("embedding.rst")[number], free_port(), scratch_server()
        self.assertIn("tcp:1883:", source)
        database = server.create()
        program = self.script(
            source.replace("tcp:1883:", f"tcp:{port}:"),
            name,
            *command,
            PLATZIVERSE_DATABASE=server.dsn(database),
            PLATZIVERSE_STATE_DIR=self.state_dir(),
        )
        program.wait_for("the database is ready")
        return program, port, database

    def api(self, port: int, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)

    def test_a_child_of_an_application_serves_and_ends_with_0(self) -> None:
        program, port, _ = self.embedded(0, "mine.tac", TWISTD, "--pidfile=", "-ny")
        self.run_program("mqtt", "pub", "-q", "1", "-h", "localhost", "-p", str(port), "-t", "t", "-m", "x")
        self.assertEqual(program.stop(signal.SIGTERM), 0, program.output)

    def test_a_child_of_any_service_records_what_the_agent_of_20_lines_sends(self) -> None:
        program, port, database = self.embedded(1, "mine.py", sys.executable)
        (source,) = blocks("messages.rst")
        self.assertLessEqual(len([line for line in source.splitlines() if line]), 20)
        agent = self.script(source.replace("1883", str(port)), "agent.py", sys.executable)
        deadline = time.monotonic() + PATIENCE
        rows: list[Any] = []
        while not rows and time.monotonic() < deadline:
            time.sleep(0.1)
            rows = scratch_server().execute(database, "SELECT type, number IS NOT NULL FROM metrics")
        self.assertEqual(rows, [("load", True)], agent.output)
        self.assertEqual([one["uuid"] for one in self.api(port, "agents")], ["greenhouse-1"])
        agent.kill()
        while self.api(port, "agents") and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(self.api(port, "agents"), [])
        found = [(one["uuid"], one["connected"]) for one in self.api(port, "agents?connected=all")]
        self.assertEqual(found, [("greenhouse-1", False)])
        self.assertEqual(self.api(port, "metrics/greenhouse-1"), [{"type": "load"}])
        self.assertEqual(program.stop(signal.SIGTERM), 0, program.output)
