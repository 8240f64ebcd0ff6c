"""Rules in a real daemon: devices that speak no ``agent/message``, and a database that keeps them waiting."""

import json
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import psycopg2

from tests.crash.waiting import poll
from tests.integration.daemon import COMMAND, PATIENCE, DaemonTestCase, Program
from tests.postgres.scratch import scratch_server

#: A household whose sensors are Tasmota's; a preset is beside it.
HOUSEHOLD = """
[[rule]]
topic = "tele/{device}/SENSOR"
agent = "tasmota:{device}"
time = "$.Time"
units = { "*.Temperature" = "°C" }
[[rule]]
topic = "tele/{device}/LWT"
agent = "tasmota:{device}"
presence = { online = ["Online"], offline = ["Offline"] }
"""
ROWS = """SELECT uuid, connected, type, value, number FROM metrics
    JOIN agents ON agents.id = "agentId" ORDER BY type"""


class RulesRun(DaemonTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder, self.server = Path(self.state_dir()), scratch_server()
        self.rules, self.config = self.folder / "rules.toml", self.folder / "platziverse.toml"
        self.rules.write_text(HOUSEHOLD)
        self.config.write_text(f'[record]\nfiles = ["{self.rules}"]\npresets = ["shelly"]\n')
        self.database = self.server.create()
        self.run_daemon = self.daemon(
            "--config", str(self.config), "--database", self.server.dsn(self.database)
        )
        self.port = str(self.run_daemon.ready())
        self.run_daemon.wait_for("records messages of devices, by 12 rules")

    def arguments(self, topic: str, payload: str, qos: int = 1) -> tuple[str, ...]:
        return ("-q", str(qos), "-h", "localhost", "-p", self.port, "-t", topic, "-m", payload)

    def publish(self, topic: str, payload: str, qos: int = 1) -> None:
        self.run_program("mosquitto_pub", *self.arguments(topic, payload, qos))

    def sensor(self, celsius: float) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        return json.dumps({"Time": now, "AM2301": {"Temperature": celsius}, "TempUnit": "C"})

    def test_a_message_of_tasmota_is_acknowledged_when_its_row_is_committed(self) -> None:
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        rows = self.server.execute(self.database, ROWS)
        self.assertEqual(rows, [("tasmota:kitchen", False, "AM2301.Temperature", "21.5", 21.5)])

    def test_while_the_table_is_locked_there_is_no_acknowledgement(self) -> None:
        """Row 412: at QoS 1 and 2 alike."""
        connection = psycopg2.connect(self.server.dsn(self.database))
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE metrics")
            programs = [
                self.start_program(
                    "mosquitto_pub", *self.arguments("tele/a/SENSOR", self.sensor(20 + qos), qos)
                )
                for qos in (1, 2)
            ]
            time.sleep(1)
            self.assertEqual([program.process.poll() for program in programs], [None, None])
            connection.rollback()
        self.assertEqual([program.ended() for program in programs], [0, 0])
        self.assertEqual(self.server.execute(self.database, "SELECT count(*) FROM metrics"), [(2,)])

    def test_what_cannot_be_stored_is_kept_and_counted_with_its_rule(self) -> None:
        self.publish("tele/kitchen/SENSOR", "warm")
        self.publish("shellies/plug/relay/0/power", "12.5")
        kept = self.server.execute(self.database, "SELECT topic, reason FROM rejected_messages")
        self.assertEqual(len(kept), 1)
        self.assertTrue(kept[0][1].startswith("rules.toml#1: JSON is malformed"), kept)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE) as answer:
            page = answer.read().decode()
        self.assertIn('platziverse_rule_messages_total{outcome="rejected",rule="rules.toml#1"} 1.0', page)
        self.assertIn('platziverse_rule_messages_total{outcome="stored",rule="shelly#8"} 1.0', page)

    def connected(self) -> list[tuple[str, bool]]:
        return self.server.execute(self.database, "SELECT uuid, connected FROM agents ORDER BY uuid")

    def test_a_word_of_another_connection_takes_an_agent_from_its_own(self) -> None:
        """Row 414: here the Will of a client that is cut off, while the one that reports stays."""
        arguments = ("-h", "localhost", "-p", self.port, "-q", "1", "-t")
        will = ("--will-topic", "tele/kitchen/LWT", "--will-payload", "Offline", "-d")
        other = self.start_program("mosquitto_sub", *arguments, "commands", *will)
        other.wait_for("Subscribed")
        device = Program(
            self.program("mosquitto_pub"), *arguments, "tele/kitchen/SENSOR", "-l", stdin=subprocess.PIPE
        )
        self.addCleanup(device.kill)
        stdin = device.process.stdin
        assert stdin is not None
        self.addCleanup(stdin.close)
        stdin.write(self.sensor(21.5) + "\n")
        stdin.flush()
        poll(lambda: self.connected() == [("tasmota:kitchen", True)], PATIENCE, "the agent is connected")
        other.kill()
        poll(lambda: self.connected() == [("tasmota:kitchen", False)], PATIENCE, "the agent has gone")
        self.assertIsNone(device.process.poll())

    def test_what_is_recorded_moves_the_charts_of_agents(self) -> None:
        watcher = self.start_program(
            "mosquitto_sub",
            "-h",
            "localhost",
            "-p",
            self.port,
            "-t",
            "agent/message",
            "-C",
            "1",
            "-W",
            "30",
            "-d",
        )
        watcher.wait_for("Subscribed")
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        self.assertEqual(watcher.ended(), 0)
        told = json.loads(watcher.wait_for(r"^\{.*")[0])
        self.assertEqual(told["metrics"], [{"type": "AM2301.Temperature", "value": "21.5"}])
        self.assertEqual(len(self.server.execute(self.database, ROWS)), 1)

    def test_units_are_in_the_table_of_series(self) -> None:
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        rows = self.server.execute(self.database, "SELECT type, unit, rule FROM series")
        self.assertEqual(rows, [("AM2301.Temperature", "°C", "rules.toml#1")])

    def test_other_rules_come_with_a_signal_and_a_wrong_one_changes_nothing(self) -> None:
        """Row 413: no client is disconnected, and what was recorded before goes on."""
        self.rules.write_text(HOUSEHOLD.replace("$.Time", "$..Time"))
        self.run_daemon.process.send_signal(signal.SIGHUP)
        self.run_daemon.wait_for(r"Not reloaded, everything stays as it was: .*rules.toml:5: rule 1: time: ")
        self.rules.write_text(HOUSEHOLD + '[[rule]]\ntopic = "new/{x}"\nagent = "new:{x}"\n')
        self.run_daemon.process.send_signal(signal.SIGHUP)
        self.run_daemon.wait_for("Reloaded: log levels, .*13 rules")
        self.publish("new/a", '{"v": 1}')
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        self.assertEqual(len(self.server.execute(self.database, ROWS)), 2)

    def test_what_is_recorded_is_kept_back_if_that_is_wished(self) -> None:
        """``republish`` changes with a signal."""
        text = self.config.read_text()
        self.config.write_text(text + 'republish = "never"\n')
        self.run_daemon.process.send_signal(signal.SIGHUP)
        self.run_daemon.wait_for("Reloaded: log levels, .*12 rules")
        arguments = ("-h", "localhost", "-p", self.port, "-t", "agent/+", "-C", "2", "-W", "30", "-v", "-d")
        watcher = self.start_program("mosquitto_sub", *arguments)
        watcher.wait_for("Subscribed")
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        self.assertEqual(watcher.ended(), 0)
        topics = [line.split()[0] for line in watcher.lines if line.startswith("agent/")]
        self.assertEqual(topics, ["agent/connected", "agent/disconnected"])

    def test_a_file_is_imported_beside_a_daemon_that_records_the_same_agent(self) -> None:
        """Row 442: what was imported and is then sent is stored once, and nobody is disturbed."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        known = json.dumps({"Time": now, "AM2301": {"Temperature": 20.5}})
        old = json.dumps({"Time": "2019-07-01T12:00:00", "AM2301": {"Temperature": 19.5}})
        path = self.folder / "spool.ndjson"
        path.write_text(f"{old}\n{known}\n")
        self.publish("tele/kitchen/SENSOR", self.sensor(21.5))
        dsn = self.server.dsn(self.database)
        command = (*COMMAND, "-c", str(self.config), "--database", dsn, "import")
        self.run_program(*command, "--topic", "tele/kitchen/SENSOR", str(path))
        self.publish("tele/kitchen/SENSOR", known)
        self.publish("tele/kitchen/SENSOR", self.sensor(22.5))
        values = self.server.execute(self.database, "SELECT value FROM metrics ORDER BY value")
        self.assertEqual(values, [("19.5",), ("20.5",), ("21.5",), ("22.5",)])
        self.assertEqual(self.run_daemon.stop(signal.SIGTERM), 0, self.run_daemon.output)
