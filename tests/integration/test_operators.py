"""An operator's commands, to real daemons over the socket in their state directory."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from platziverse.access.passwords import remove_user, set_password
from tests.commandline import Ran, run
from tests.integration.daemon import COMMAND, PATIENCE, Daemon, DaemonTestCase, Program, clean_environment
from tests.postgres.scratch import scratch_server

READING = '{"t": 21.5, "h": 40}'
RULE = """[[rule]]
topic = "home/{device}"
agent = "home:{device}"
name = "{device}"
metrics = { temp = { path = "$.t", unit = "°C" }, humidity = "$.h" }
"""
ACL = "pattern readwrite #\nuser ana\nrole admin\n"


class OperatorTests(DaemonTestCase):
    def setUp(self) -> None:
        server = scratch_server()
        self.dsn, self.state = server.dsn(server.create()), self.state_dir()

    def start(self, *more: str, state: str | None = None) -> Daemon:
        return self.daemon("--database", self.dsn, *more, state_dir=state or self.state)

    def command(self, *arguments: str, code: int = 0) -> str:
        ran: Ran = run(self, *arguments, environ={"PLATZIVERSE_STATE_DIR": self.state})
        self.assertEqual(ran.code, code, ran.err)
        return ran.out + ran.err

    def running(self, *arguments: str) -> Program:
        """A command that runs until it is stopped."""
        program = Program(*COMMAND, *arguments, PLATZIVERSE_STATE_DIR=self.state)
        self.addCleanup(program.kill)
        return program

    def connect(
        self, port: int, client_id: str, topic_filter: str = "", username: str = "", five: bool = False
    ) -> paho.Client:
        """A client that does not come back."""
        version = paho.MQTTv5 if five else paho.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False
        )
        if username:
            client.username_pw_set(username, "secret")
        properties = None
        if five:
            properties = Properties(PacketTypes.CONNECT)
            properties.ReceiveMaximum, properties.UserProperty = 20, ("room", "attic")
        client.connect("127.0.0.1", port, properties=properties)
        client.loop_start()
        self.addCleanup(client.loop_stop)
        self.until(client.is_connected)
        if topic_filter:
            client.subscribe(topic_filter, 1)
        return client

    def has_gone(self, client: paho.Client) -> bool:
        return not client.is_connected()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def five_is_shown(self, daemon: Daemon, port: int) -> None:
        """A client of MQTT 5 is shown with its Properties, and its trace has Reason Codes by name."""
        client = self.connect(port, "five", five=True)
        shown = self.command("clients", "show", "five")
        for text in (" MQTT 5 since ", "  Receive Maximum 20\n", "  User Property 'room' 'attic'\n"):
            self.assertIn(text, shown)
        trace = self.running("clients", "trace", "five")
        daemon.wait_for("An operator with uid .* traces 'five'")
        client.publish("agent/message", "Hello", 1)
        trace.wait_for("to .* 'five': PUBACK payload_format_invalid, reason string 'JSON is malformed: ")
        trace.stop(signal.SIGINT)
        client.disconnect()

    def test_clients_are_listed_shown_traced_and_kicked(self) -> None:
        self.assertIn("no daemon runs in", self.command("clients", "list", code=1))
        folder = Path(self.state_dir())
        passwords, acl = str(folder / "passwords"), folder / "acl"
        set_password(passwords, "ana", b"secret")
        acl.write_text(ACL)
        environ = {"PLATZIVERSE_ACCESS_PASSWORD_FILE": passwords, "PLATZIVERSE_ACCESS_ACL_FILE": str(acl)}
        daemon = self.daemon("--database", self.dsn, state_dir=self.state, environ=environ)
        port = daemon.ready()
        self.assertEqual(os.stat(os.path.join(self.state, "http")).st_mode & 0o777, 0o600)
        client = self.connect(port, "plug", "a/#")
        self.until(lambda: "1 filters" in self.command("clients", "list"))
        self.assertIn("'a/#' QoS 1", self.command("clients", "show", "plug"))
        self.assertIn(" MQTT 3.1.1 since ", self.command("clients", "list"))
        self.five_is_shown(daemon, port)
        trace = self.running("clients", "trace", "plug")
        daemon.wait_for("An operator with uid .* traces 'plug'")
        client.publish("a/b", "12", 1)
        trace.wait_for("from 127.0.0.1:.* 'plug': PUBLISH to 'a/b', QoS 1, 2 bytes")
        trace.wait_for("to 127.0.0.1:.* 'plug': PUBACK")
        self.assertIn("has ended", self.command("clients", "kick", "plug"))
        trace.wait_for("Gone 127.0.0.1:.* 'plug'")
        self.until(lambda: not client.is_connected())
        self.assertEqual(trace.stop(signal.SIGINT), 130)
        daemon.wait_for("An operator with uid .* ends the connection of 127.0.0.1:.* 'plug'")
        self.assertIn("Client not found with id plug", self.command("clients", "kick", "plug", code=1))
        self.kick_over_http(daemon, port)
        self.remove(daemon, port, passwords)
        self.assertEqual(daemon.stop(), 0)
        self.assertNotIn("Traceback", daemon.output)

    def kick_over_http(self, daemon: Daemon, port: int) -> None:
        client = self.connect(port, "plug")
        url = f"http://127.0.0.1:{port}/api/clients/plug/kick"
        status = ("-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST")
        self.assertEqual(self.run_program("curl", *status, url), "401")
        evil = ("-u", "ana:secret", "-H", "Origin: https://evil.example")
        self.assertEqual(self.run_program("curl", *status, *evil, url), "403")
        self.assertTrue(client.is_connected())
        self.assertEqual(self.run_program("curl", *status, "-u", "ana:secret", url), "200")
        daemon.wait_for("User 'ana' of 127.0.0.1:.* ends the connection of")

    def remove(self, daemon: Daemon, port: int, passwords: str) -> None:
        """A user that is gone after a reload is let go, one that is still there is not."""
        set_password(passwords, "eve", b"secret")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("Reloaded: .*passwords")
        eve, ana = (self.connect(port, name, username=name) for name in ("eve", "ana"))
        remove_user(passwords, "eve")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("1 connections of users that are gone have ended")
        self.until(partial(self.has_gone, eve))
        self.assertTrue(ana.is_connected())

    def test_values_and_the_daemon_itself_are_watched(self) -> None:
        folder = self.state_dir()
        rules = os.path.join(folder, "rules.toml")
        Path(rules).write_text(RULE)
        environ = {"PLATZIVERSE_RECORD_FILES": rules, "PLATZIVERSE_RECORD_REPUBLISH": "subscribed"}
        daemon = self.daemon("--database", self.dsn, state_dir=self.state, environ=environ)
        port = str(daemon.ready())
        watch = self.running("watch", "+/temp")
        pattern = r"^\d\d:\d\d:\d\d kitchen temp 21.5 °C$"

        def shows_the_unit() -> bool:
            self.run_program("mosquitto_pub", "-p", port, "-q", "1", "-t", "home/kitchen", "-m", READING)
            return any(re.search(pattern, line) for line in watch.lines)

        self.until(shows_the_unit)
        self.assertNotIn("humidity", watch.output)
        self.assertEqual(watch.stop(), 130)
        self.assertRegex(self.command("stats"), r"reports stored +[\d.]+ +\d+\n")
        self.assertEqual(json.loads(self.command("stats", "--json"))["database"]["state"], "ready")
        self.assertIn("PUBLISH to PUBACK", self.on_a_terminal("top"))
        self.assertEqual(daemon.stop(), 0)

    def on_a_terminal(self, command: str) -> str:
        """What a command has written to its terminal when it has shown latencies and is told to end."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        environ = clean_environment(PLATZIVERSE_STATE_DIR=self.state, TERM="xterm", COLUMNS="120", LINES="40")
        with subprocess.Popen(
            [*COMMAND, command], stdout=slave, stdin=slave, stderr=slave, env=environ
        ) as process:
            os.close(slave)
            found = b""
            while b"PUBACK" not in found:
                found += os.read(master, 65536)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # the terminal is closed with its last program
                while data := os.read(master, 65536):
                    found += data
            self.assertEqual(process.wait(PATIENCE), 130)
        return found.decode()

    def test_any_worker_answers_for_all(self) -> None:
        daemon = self.start("--workers", "2")
        port = int(daemon.wait_for(r"has 2 workers; they listen on \S*:(\d+)")[1])
        for number in (1, 2):
            daemon.wait_for(f"worker {number} broker: Loaded")
            http = os.path.join(self.state, "workers", str(number), "http")
            self.assertEqual(os.stat(http).st_mode & 0o777, 0o600)
        clients: list[paho.Client] = []
        workers: set[str] = set()
        while len(workers) < 2:  # the kernel divides connections by their ports
            clients.append(self.connect(port, f"c{len(clients)}"))
            listed = self.command("clients", "list").splitlines()
            workers = {line.rpartition(" ")[2] for line in listed}
            self.assertEqual(len(listed), len(clients))
        trace = self.running("clients", "trace", "c0")
        for number in (1, 2):
            daemon.wait_for(f"worker {number} service: An operator .* traces 'c0'")
        clients[0].publish("a/b", "12")
        trace.wait_for("PUBLISH to 'a/b'")
        for number, client in enumerate(clients):
            self.assertIn("has ended", self.command("clients", "kick", f"c{number}"))
            self.until(partial(self.has_gone, client))
        self.assertEqual(self.command("clients", "list"), "")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertEqual(os.path.exists(os.path.join(self.state, "http")), False)

    def test_a_daemon_elsewhere_is_asked_over_the_database(self) -> None:
        here, there = self.start(), self.start(state=self.state_dir())
        port = there.ready()
        here.ready()
        for daemon in (here, there):
            daemon.wait_for("broker: Loaded")
        client = self.connect(port, "plug")
        answer = self.command("clients", "kick", "plug")
        self.assertRegex(answer, r"asked to end a connection there: daemon \d")
        there.wait_for("An operator with uid .* ends the connection of 127.0.0.1:.* 'plug'")
        self.until(lambda: not client.is_connected())
