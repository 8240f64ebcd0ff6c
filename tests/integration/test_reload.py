"""SIGHUP, to a real process with real clients."""

import json
import os
import pty
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from platziverse.access.passwords import set_password
from tests.door.test_tls import write_certificate
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase
from tests.postgres.scratch import scratch_server

#: How often everything is read again while messages flow.
RELOADS = 12
#: Seconds between two messages of a publisher.
PAUSE = 0.004
PUBLISHERS = 3


class Client:
    """A client of paho with a thread of its own; it would come back, which ``lost`` counts."""

    def __init__(self, port: int, client_id: str, username: str, password: str, ca: str) -> None:
        self.lost = self.published = 0
        self.got: "Counter[tuple[str, int]]" = Counter()
        self._ready = threading.Event()
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
        self.paho.username_pw_set(username, password)
        self.paho.tls_set(ca)
        self.paho.tls_insecure_set(True)  # the certificate has no host names
        self.paho.max_inflight_messages_set(20)
        self.paho.on_connect = lambda *_: self._ready.set()
        self.paho.on_subscribe = lambda *_: self._ready.set()
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        self.wait()

    def wait(self) -> None:
        assert self._ready.wait(PATIENCE)
        self._ready.clear()

    def subscribe(self, topic_filter: str) -> None:
        self.paho.subscribe(topic_filter, 1)
        self.wait()

    def _on_disconnect(self, *_: object) -> None:
        self.lost += 1

    def _on_message(self, client: object, userdata: object, message: paho.MQTTMessage) -> None:
        report = json.loads(message.payload)
        self.got[report["agent"]["uuid"], int(report["metrics"][0]["value"])] += 1

    def publish_until(self, enough: threading.Event, uuid: str) -> None:
        """Publish reports of one agent, from 0 to what ``published`` counts."""
        agent = {"uuid": uuid, "name": uuid, "username": uuid, "pid": 1, "hostname": "h"}
        sent = []
        while not enough.is_set():
            number = self.published
            self.published += 1
            report = {"agent": agent, "metrics": [{"type": "n", "value": str(number)}]}
            sent.append(self.paho.publish("agent/message", json.dumps(report), 1))
            time.sleep(PAUSE)
        for info in sent:
            info.wait_for_publish(PATIENCE)

    def end(self) -> None:
        self.paho.on_disconnect = None
        self.paho.disconnect()
        self.paho.loop_stop()


class ReloadUnderLoadTests(DaemonTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.state_dir())
        write_certificate(self.folder, common_names=["localhost"])
        self.acl, self.passwords = self.folder / "acl", self.folder / "passwords"
        self.acl.write_text("user ana\ntopic readwrite #\n")
        set_password(str(self.passwords), "ana", b"secret")
        self.config = self.folder / "platziverse.toml"
        self.write("info")
        server = scratch_server()
        self.name = server.create()
        self.server = self.daemon("--config", str(self.config), "--database", server.dsn(self.name))
        self.port = self.server.ready()

    def write(self, level: str) -> None:
        self.config.write_text(
            f'log_level = "{level}"\n'
            f'[access]\nacl_file = "{self.acl}"\npassword_file = "{self.passwords}"\n'
            f'[tls]\ncertificate = "{self.folder}/server.pem"\nkey = "{self.folder}/server.key"\n'
        )

    def client(self, client_id: str) -> Client:
        # The first certificate stays that of the connections that are open.
        authority = shutil.copy(self.folder / "server.pem", self.folder / f"{client_id}.pem")
        client = Client(self.port, client_id, "ana", "secret", str(authority))
        self.addCleanup(client.end)
        return client

    def reload(self, number: int) -> None:
        """With new rules, new users, another certificate and other levels; every third time one is broken."""
        since = len(self.server.lines)
        broken = number % 3 == 2
        rules = f"user ana\ntopic readwrite #\nuser u{number}\ntopic t\n"
        self.acl.write_text("nonsense\n" if broken else rules)
        set_password(str(self.passwords), f"u{number}", b"x")
        write_certificate(self.folder, common_names=["localhost"])
        self.write("debug" if number % 2 else "info,mqtt=debug")
        self.server.process.send_signal(signal.SIGHUP)
        expected = (
            "Not reloaded, everything stays as it was: .*acl:1: " if broken else "Reloaded: log levels, pass"
        )
        self.server.wait_for(expected, since)

    def test_reloads_lose_nothing_repeat_nothing_and_cut_nobody_off(self) -> None:
        """Rows 76, 78: while messages flow over TLS, to subscribers and into the database."""
        subscribers = [self.client(f"subscriber{number}") for number in range(2)]
        for subscriber in subscribers:
            subscriber.subscribe("agent/message")
        publishers = [self.client(f"publisher{number}") for number in range(PUBLISHERS)]
        enough = threading.Event()
        self.addCleanup(enough.set)
        threads = [
            threading.Thread(target=publisher.publish_until, args=(enough, f"agent{number}"))
            for number, publisher in enumerate(publishers)
        ]
        for thread in threads:
            thread.start()
        for number in range(RELOADS):
            self.reload(number)
        enough.set()
        for thread in threads:
            thread.join(PATIENCE)
        sent = [(f"agent{a}", n) for a, client in enumerate(publishers) for n in range(client.published)]
        wanted = Counter(sent)
        self.assertGreater(min(client.published for client in publishers), RELOADS)
        deadline = time.monotonic() + PATIENCE
        for subscriber in subscribers:
            while subscriber.got != wanted and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(subscriber.got - wanted, Counter())
            self.assertEqual(wanted - subscriber.got, Counter())
        self.assertEqual([client.lost for client in [*publishers, *subscribers]], [0] * (PUBLISHERS + 2))
        query = 'SELECT uuid, value, count(*) FROM metrics m JOIN agents a ON a.id = "agentId" GROUP BY 1, 2'
        rows = scratch_server().execute(self.name, query)
        self.assertEqual(Counter({(uuid, int(value)): count for uuid, value, count in rows}), wanted)
        self.assertNotIn("Traceback", self.server.output)


class ReloadTests(DaemonTestCase):
    def test_levels_change_while_it_runs_and_what_cannot_is_named(self) -> None:
        config = Path(self.state_dir(), "platziverse.toml")
        config.write_text("log_level = 'info'\n")
        daemon = self.daemon("--database", "host=/nonexistent dbname=x", "--config", str(config))
        port = str(daemon.port())
        publish = ("mosquitto_pub", "-p", port, "-t", "x", "-m", "x", "-q", "1")
        self.run_program(*publish)
        self.assertNotIn("PUBLISH", daemon.output)
        config.write_text("log_level = 'info,mqtt=debug'\n[limits]\nmax_inflight = 3\n[ingest]\nslots = 3\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(r" warn  reload: Changed, but needs a restart: ingest.slots, limits.max_inflight$")
        self.run_program(*publish, "-i", "it's me")
        daemon.wait_for(r""" debug mqtt: from 127.0.0.1:\d+ "it's me": PUBLISH to 'x', QoS 1, 1 bytes$""")
        config.unlink()
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(
            r" error reload: Not reloaded, everything stays as it was: \S+: cannot be read: No such file"
        )
        since = len(daemon.lines)
        self.run_program(*publish)
        daemon.wait_for("PUBACK", since)
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def test_new_rules_are_for_the_clients_that_are_connected_too(self) -> None:
        """Rows 43, 52: for what is delivered, also of what was kept; and nobody is disconnected."""
        rules = Path(self.state_dir(), "acl")
        both, none = "topic readwrite a\ntopic readwrite b\n", "topic write a\ntopic readwrite b\n"
        rules.write_text(both)
        database = ("--database", "host=/nonexistent dbname=x")
        daemon = self.daemon(*database, environ={"PLATZIVERSE_ACCESS_ACL_FILE": str(rules)})
        port = str(daemon.port())
        reader = self.start_program("mosquitto_sub", "-d", "-v", "-p", port, "-t", "a", "-t", "b")
        reader.wait_for("Subscribed")
        for number, text in enumerate((both, none, both)):
            if number:
                since = len(daemon.lines)
                rules.write_text(text)
                daemon.process.send_signal(signal.SIGHUP)
                daemon.wait_for("Reloaded: log levels, access rules", since)
            for topic in "ab":
                message = ("-t", topic, "-m", f"message {number}", "-q", "1", "-r")
                self.run_program("mosquitto_pub", "-p", port, *message)
            reader.wait_for(f"^b message {number}")
            late = self.start_program("mosquitto_sub", "-v", "-p", port, "-t", "a", "-t", "b")
            late.wait_for(f"^b message {number}")
            late.kill()
            self.assertEqual(f"a message {number}" in late.output, text is both)
        kept = [line for line in reader.lines if line.startswith("a ")]
        self.assertEqual(kept, ["a message 0", "a message 2"])
        self.assertEqual(reader.output.count("sending CONNECT"), 1)

    def test_a_daemon_whose_terminal_has_gone_stops(self) -> None:
        """It was started there to end with it; only a service reloads at SIGHUP."""
        state_dir, log = self.state_dir(), Path(self.mktemp()).absolute()
        ours, theirs = pty.openpty()
        daemon = Daemon(
            *("--listen", "tcp:0:interface=127.0.0.1", "--database", "host=/nonexistent dbname=x"),
            state_dir=state_dir,
            twistd=("-n", "--pidfile=", f"--logfile={log}", "platziverse"),
            stdin=theirs,
        )
        self.addCleanup(daemon.kill)
        os.close(theirs)
        deadline = time.monotonic() + PATIENCE
        while not (log.exists() and "listens for" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        daemon.process.send_signal(signal.SIGHUP)
        while "Reloaded" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(ours)
        self.assertEqual(daemon.stop(signal.SIGHUP), 0)
        self.assertIn("the terminal has gone; stopping", log.read_text())
