"""Handlers of the setting ``handlers`` in a real daemon, with a real client and a database."""

import signal
import time
import urllib.request
from pathlib import Path

import psycopg2

from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, ROOT, DaemonTestCase
from tests.pages import blocks
from tests.postgres.scratch import scratch_server

#: Beside the example of docs/handlers.rst: what fails, and what is to be done at the end.
MORE = """
from twisted.internet.defer import Deferred

def failing(publish, clock, on_stop):
    last = []
    on_stop(lambda: print("the last was", last))

    def fail(message, client):
        last[:] = [message.topic]
        return 1 / 0

    return {"fail": fail, "hang": lambda message, client: Deferred()}
"""


class HandlersRun(DaemonTestCase):
    def test_a_handler_records_and_what_fails_is_named_counted_and_kept(self) -> None:
        """Rows 201 and 202."""
        folder, server = Path(self.state_dir()), scratch_server()
        (folder / "greenhouse.py").write_text(blocks("handlers.rst")[0] + MORE)
        database = server.create()
        environ = {
            "PYTHONPATH": str(folder),
            "PLATZIVERSE_HANDLERS": "greenhouse:table greenhouse:failing",
            "PLATZIVERSE_LIMITS_HANDLER_DEADLINE": "0.3",
        }
        daemon = self.daemon("--database", server.dsn(database), environ=environ)
        port = str(daemon.ready())
        for topic, payload in ("greenhouse/north", "21.5"), ("fail", "x"), ("hang", "y"):
            arguments = ("-q", "1", "-h", "localhost", "-p", port, "-t", topic, "-m", payload)
            self.run_program("mqtt", "pub", *arguments)
        rows = server.execute(
            database, 'SELECT uuid, value FROM metrics JOIN agents ON agents.id = "agentId"'
        )
        self.assertEqual(rows, [("greenhouse:north", "21.5")])
        kept = server.execute(database, "SELECT topic, reason FROM rejected_messages ORDER BY id")
        self.assertEqual(
            kept,
            [
                ("fail", "handler greenhouse:failing: ZeroDivisionError: division by zero"),
                ("hang", "handler greenhouse:failing: no answer within 0.3 s (limits.handler_deadline)"),
            ],
        )
        daemon.wait_for("Handler greenhouse:failing, with a message of .* to 'fail': ZeroDivisionError")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            page = answer.read().decode()
        for reason in "raised", "deadline":
            labels = f'handler="greenhouse:failing",reason="{reason}"'
            self.assertIn(f"platziverse_handler_failures_total{{{labels}}} 1.0", page)
        self.assertEqual(daemon.stop(signal.SIGTERM), 0, daemon.output)
        daemon.wait_for(r"the last was \['fail'\]")

    def test_while_the_table_is_locked_what_handlers_record_is_not_acknowledged(self) -> None:
        """Row 435: what they return and what they hand to ``record``, at QoS 1 and 2 alike."""
        server = scratch_server()
        database = server.create()
        environ = {"PYTHONPATH": str(ROOT / "examples"), "PLATZIVERSE_HANDLERS": "devices:table"}
        port = str(self.daemon("--database", server.dsn(database), environ=environ).ready())
        arguments = ("-h", "localhost", "-p", port, "-m", '{"water": 3}')
        watcher = self.start_program("mosquitto_sub", *arguments[:4], "-t", "alarms", "-d")
        watcher.wait_for("Subscribed")
        connection = psycopg2.connect(server.dsn(database))
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE metrics")
            programs = [
                self.start_program("mosquitto_pub", *arguments, "-q", qos, "-t", topic)
                for qos in "12"
                for topic in ("sensors/kitchen", "alarms/cellar/raise")
            ]
            time.sleep(1)
            self.assertEqual([program.process.poll() for program in programs], [None] * 4)
            self.assertNotIn('{"water": 3}', watcher.output)
            connection.rollback()
        self.assertEqual([program.ended() for program in programs], [0] * 4)
        self.assertEqual(server.execute(database, "SELECT count(*) FROM metrics"), [(4,)])
        poll(lambda: watcher.output.count('{"water": 3}') == 2, PATIENCE, "alarms are told after the commit")
