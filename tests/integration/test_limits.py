"""What a real process does when it runs out of something: descriptors, room for its log, time."""

import json
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Mapping

import psycopg2

from tests.commandline import NOTHING
from tests.crash import wire
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase
from tests.ports import free_port
from tests.postgres.scratch import scratch_server

AGENTS, EACH = 40, 250


def report(number: int, value: int) -> bytes:
    """An ``agent/message`` of one metric, different for every ``value``."""
    agent = {
        "uuid": f"00000000-0000-4000-8000-{number:012}",
        "name": f"agent {number}",
        "username": "platzi",
        "hostname": "here",
        "pid": number,
    }
    return json.dumps({"agent": agent, "metrics": [{"type": "count", "value": str(value)}]}).encode()


class Client:
    """A blocking socket that speaks MQTT."""

    def __init__(self, port: int, client_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.sendall(wire.connect(client_id, True, 0))

    def take(self, size: int) -> bytes:
        """Exactly so many bytes, or what came before the end."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def is_refused(self) -> bool:
        try:
            return self.take(4) != b"\x20\x02\x00\x00"
        except ConnectionError:
            return True


class LimitCase(DaemonTestCase):
    def start(
        self, *arguments: str, before: tuple[str, ...] = (), environ: Mapping[str, str] = NOTHING
    ) -> Daemon:
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        daemon = Daemon(*listen, *arguments, state_dir=self.state_dir(), before=before, environ=environ)
        self.addCleanup(daemon.kill)
        return daemon

    def client(self, port: int, client_id: str = "") -> Client:
        client = Client(port, client_id)
        self.addCleanup(client.socket.close)
        return client

    def metric(self, port: int, name: str) -> float:
        """The value of a metric without labels, or with them as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
            found = re.search(rf"^platziverse_{re.escape(name)} (\S+)$", page.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for_metric(self, port: int, name: str, value: float) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := self.metric(port, name)) != value:
            self.assertLess(time.monotonic(), deadline, f"{name} is {found}")
            time.sleep(0.05)


class DescriptorTests(LimitCase):
    def test_row_118_the_database_has_its_descriptors_when_clients_have_taken_all_others(self) -> None:
        server = scratch_server()
        name = server.create()
        one_address = {"PLATZIVERSE_LIMITS_MAX_CONNECTIONS_PER_ADDRESS": "1000"}
        arguments = ("--database", server.dsn(name))
        daemon = self.start(*arguments, before=("prlimit", "--nofile=200:200"), environ=one_address)
        port = daemon.ready()
        daemon.wait_for("room for 136 connections")
        first = self.client(port, "first")
        self.assertFalse(first.is_refused())
        refused = sum(self.client(port, f"client-{number}").is_refused() for number in range(220))
        self.assertEqual(refused, 220 - 135)
        server.execute(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            name,
        )
        first.socket.sendall(wire.publish("agent/message", report(1, 1), 1, 7))
        self.assertEqual(first.take(4), wire.puback(7))
        self.assertEqual(server.execute(name, "SELECT count(*) FROM metrics"), [(1,)])
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", daemon.output)
        self.assertNotIn("Too many open files", daemon.output)
        lines = [line for line in daemon.lines if "too many connections" in line]
        self.assertLessEqual(len(lines), 25)
        daemon.wait_for("more like this")

    def test_the_soft_limit_is_raised(self) -> None:
        daemon = self.start(
            "--database", "host=/nonexistent dbname=x", before=("prlimit", "--nofile=200:1200")
        )
        daemon.wait_for("room for 1136 connections")

    def test_a_setting_that_cannot_be_is_not_silently_lowered(self) -> None:
        daemon = self.start(
            *("--database", "host=/nonexistent dbname=x"),
            before=("prlimit", "--nofile=200:200"),
            environ={"PLATZIVERSE_LIMITS_MAX_CONNECTIONS": "5000"},
        )
        daemon.wait_for("room for 136 connections")
        daemon.wait_for("limits.max_connections is 5000: the process may not open so many files")


class LogTests(LimitCase):
    def test_row_119_a_full_disk_under_the_log_harms_nobody(self) -> None:
        port = free_port()
        script = 'exec "$@" >/dev/full 2>&1'
        daemon = Daemon(
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--database", "host=/nonexistent dbname=x"),
            state_dir=self.state_dir(),
            before=("sh", "-c", script, "sh"),
            environ={"PLATZIVERSE_LOG_LEVEL": "debug"},
        )
        self.addCleanup(daemon.kill)
        deadline = time.monotonic() + PATIENCE
        while not self.answers(port):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        for _ in range(50):
            bad = self.client(port)
            bad.take(4)
            bad.socket.sendall(b"\xf0\x00")  # a line in the log, each
            self.assertEqual(bad.take(1), b"")
        good = self.client(port)
        good.take(4)
        good.socket.sendall(wire.publish("elsewhere", b"x", 1, 1))
        self.assertEqual(good.take(4), wire.puback(1))
        self.assertEqual(self.metric(port, "internal_errors_total"), 0)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertIn(daemon.ended(), (0, 120))  # 120: Python could not write the last lines either

    def answers(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True


class StopTests(LimitCase):
    def test_row_123_sigterm_with_10000_pending_loses_none_of_them(self) -> None:
        """They are committed and acknowledged, and the process ends with 0 within 20 s."""
        server = scratch_server()
        name = server.create()
        daemon = self.start("--database", server.dsn(name))
        port = daemon.ready()
        lock = psycopg2.connect(server.dsn(name))
        self.addCleanup(lock.close)
        lock.cursor().execute("LOCK TABLE agents IN EXCLUSIVE MODE")
        clients = [self.client(port, f"agent-{number}") for number in range(AGENTS)]
        for number, client in enumerate(clients):
            self.assertEqual(client.take(4), b"\x20\x02\x00\x00")
            messages = (
                wire.publish("agent/message", report(number, value), 1, value) for value in range(1, EACH + 1)
            )
            client.socket.sendall(b"".join(messages))
        self.wait_for_metric(port, "ingest_pending", AGENTS * EACH)
        since = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for("SIGTERM came; stopping")
        lock.rollback()
        self.assertEqual(daemon.ended(), 0, daemon.output)
        self.assertLess(time.monotonic() - since, PATIENCE)
        expected = b"".join(wire.puback(value) for value in range(1, EACH + 1))
        for client in clients:
            self.assertEqual(client.take(len(expected) + 1), expected)
        self.assertEqual(server.execute(name, "SELECT count(*) FROM metrics"), [(AGENTS * EACH,)])
        self.assertEqual(server.execute(name, "SELECT count(*) FROM agents WHERE connected"), [(0,)])
        self.assertNotIn("Traceback", daemon.output)
