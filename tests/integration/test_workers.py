"""``--workers``: several real daemons behind one port."""

import os
import re
import signal
import socket
import time
import urllib.request
from pathlib import Path

from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase
from tests.integration.test_systemd import Notifications
from tests.postgres.scratch import scratch_server

MESSAGE = (
    '{"agent": {"uuid": "u", "name": "n", "username": "u", "pid": 1, "hostname": "h"},'
    ' "metrics": [{"type": "a", "value": "1"}]}'
)


def lives(pid: int) -> bool:
    """Return whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class WorkersTests(DaemonTestCase):
    def setUp(self) -> None:
        self.server = scratch_server()
        self.name = self.server.create()
        self.state = self.state_dir()

    def start(self, *more: str) -> Daemon:
        started = self.daemon(
            "--workers", "2", "--database", self.server.dsn(self.name), *more, state_dir=self.state
        )
        self.port = int(started.wait_for(r"has 2 workers; they listen on \S*:(\d+)")[1])
        for number in (1, 2):
            started.wait_for(f"worker {number} broker: Loaded")
        return started

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read(), "utf-8")

    def metric(self, name: str, path: str = "/metrics") -> float:
        found = re.search(rf"^{name} (\S+)$", self.page(path), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def meet(self) -> None:
        """Wait until each of the two has seen both."""
        unknown = 2
        while unknown:  # whichever is asked
            seen = [self.metric("platziverse_daemons", "/metrics?worker=own") for _ in range(20)]
            unknown = len([count for count in seen if count < 2])
        self.assertEqual(self.metric("platziverse_daemons"), 2)

    def publish(self, count: int) -> None:
        for number in range(count):
            options = (
                "-t",
                "agent/message",
                "-q",
                "1",
                "-m",
                MESSAGE.replace('"value": "1"', f'"value": "{number}"'),
            )
            self.run_program("mosquitto_pub", "-p", str(self.port), *options)

    def connect(self, message: str) -> None:
        """Connect an agent that has reported, and stays connected."""
        agent = self.paho_client(self.port)
        agent.publish("agent/message", message, 1).wait_for_publish(PATIENCE)

    def test_they_share_the_port_and_the_counters(self) -> None:
        daemon = self.start()
        sockets = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(40)]
        while self.metric("platziverse_sockets") < 40:
            time.sleep(0.05)
        for one in sockets:
            self.addCleanup(one.close)
        own = {self.metric("platziverse_sockets", "/metrics?worker=own") for _ in range(30)}
        self.assertLess(max(own), 40, "one worker has got them all")
        self.publish(6)
        self.assertEqual(self.metric("platziverse_workers"), 2)
        self.assertEqual(self.metric("platziverse_ingest_stored_total"), 6)
        self.assertEqual(self.server.execute(self.name, "SELECT count(*) FROM metrics"), [(6,)])
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", daemon.output)

    def test_clients_of_all_workers_meet(self) -> None:
        daemon = self.start()
        self.meet()
        receivers = [
            self.start_program(
                "mosquitto_sub", "-p", str(self.port), "-t", "t", "-q", "1", "-C", "1", "-i", f"r{number}"
            )
            for number in range(8)
        ]
        while self.metric("platziverse_subscriptions") < 8:
            time.sleep(0.05)
        self.run_program("mosquitto_pub", "-p", str(self.port), "-t", "t", "-q", "1", "-m", "hello")
        for receiver in receivers:
            receiver.wait_for("hello")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def test_an_event_stream_hears_of_the_agents_of_all_workers_once(self) -> None:
        daemon = self.start()
        self.meet()
        stream = self.start_program("curl", "-sN", f"http://127.0.0.1:{self.port}/api/events")
        while self.metric("platziverse_interest_keys") < 3:  # the other worker knows of its Subscriptions
            time.sleep(0.05)
        for number in range(8):
            self.connect(MESSAGE.replace('"uuid": "u"', f'"uuid": "u{number}"'))
        for number in range(8):
            stream.wait_for(rf'^data: {{"agent":"u{number}",.*"values":{{"a":1}}}}')
        told = [line for line in stream.lines if '"values"' in line and "agent" in line]
        self.assertEqual(len(told), 8, told)
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def test_one_that_is_killed_is_started_again_and_the_other_serves_meanwhile(self) -> None:
        daemon = self.start()
        before = len(daemon.lines)
        victim, other = children(daemon.process.pid)
        os.kill(victim, signal.SIGKILL)
        daemon.wait_for(r"worker \d has ended: .* signal 9", before)
        daemon.wait_for(r"worker \d broker: Loaded", before)
        self.assertIn(other, children(daemon.process.pid))
        self.publish(4)
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def test_nobody_waits_for_a_worker_that_does_not_start_any_more(self) -> None:
        """Row 550."""
        rules = os.path.join(self.state, "rules")
        Path(rules).write_text("topic readwrite #\n")
        Path(self.state, "p.toml").write_text(f'[access]\nacl_file = "{rules}"\n')
        daemon = self.start("--config", os.path.join(self.state, "p.toml"))
        os.rename(rules, f"{rules}~")
        before = len(daemon.lines)
        os.kill(children(daemon.process.pid)[0], signal.SIGKILL)
        daemon.wait_for(r"platziverse: worker \d: .*/rules: No such file", before)
        daemon.wait_for("until then its share of the connections is closed", before)
        answers = [self.healthz() for _ in range(20)]
        self.assertEqual(set(answers), {b"HTTP/1.0 200 OK", b""})
        os.rename(f"{rules}~", rules)
        daemon.wait_for(r"\d connections to worker \d were closed while it did not run", before)
        daemon.wait_for(r"worker \d broker: Loaded", before)
        self.assertEqual({self.healthz() for _ in range(20)}, {b"HTTP/1.0 200 OK"})
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def healthz(self) -> bytes:
        """Return the first line of an answer, or nothing when the connection was closed."""
        with socket.create_connection(("127.0.0.1", self.port), 2) as client:
            try:
                client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return client.recv(1000).partition(b"\r")[0]
            except ConnectionError:
                return b""

    def test_what_needs_a_restart_is_named_at_a_reload(self) -> None:
        path = os.path.join(self.state, "p.toml")
        options = "--config", path, "--database", self.server.dsn(self.name)
        Path(path).write_text("[workers]\ncount = 2\n")
        daemon = self.daemon(*options, state_dir=self.state)
        for number in (1, 2):
            daemon.wait_for(f"worker {number} broker: Loaded")
        daemon.wait_for(rf"worker 1 database: daemon \d on {socket.gethostname()}/2 shares our clients")
        Path(path).write_text('[workers]\ncount = 3\n[bus]\nurl = "redis://nowhere"\n')
        os.kill(daemon.process.pid, signal.SIGHUP)
        daemon.wait_for(r" workers: Changed, but needs a restart: (?=.*workers\.count)(?=.*bus\.url)")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)

    def test_systemd_learns_when_all_are_there_although_one_had_to_be_started_twice(self) -> None:
        path = os.path.join(self.state_dir(), "notify")
        told = Notifications(path)
        self.addCleanup(told.close)
        options = "--workers", "2", "--database", self.server.dsn(self.name)
        daemon = self.daemon(*options, state_dir=self.state, environ={"NOTIFY_SOCKET": path})
        while len(children(daemon.process.pid)) < 2:
            time.sleep(0.001)
        os.kill(children(daemon.process.pid)[1], signal.SIGKILL)  # its ports are not open yet
        told.wait_for("READY=1\nSTATUS=2 of 2 workers; 1: the database is")
        port = daemon.wait_for(r"has 2 workers; they listen on \S*:(\d+)")[1]
        self.start_program("mosquitto_sub", "-p", port, "-t", "#")
        told.wait_for("; 1 clients")
        self.assertEqual(len([text for text in told.messages if "READY=1" in text]), 1)
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        told.wait_for("STOPPING=1")

    def test_a_signal_to_all_of_them_stops_each_as_it_should(self) -> None:
        """A terminal and systemd send it to the workers as well; a second one would end them at once."""
        for number in signal.SIGINT, signal.SIGTERM:
            daemon = self.start()
            for agent in range(8):
                self.connect(MESSAGE.replace('"u"', f'"u{agent}"'))
            connected = "SELECT count(*), count(*) FILTER (WHERE connected) FROM agents"
            self.assertEqual(self.server.execute(self.name, connected), [(8, 8)])
            os.killpg(daemon.process.pid, number)
            self.assertEqual(daemon.ended(), 0)
            self.assertEqual(self.server.execute(self.name, connected), [(8, 0)], daemon.output)

    def test_they_end_with_the_process_that_looks_after_them(self) -> None:
        daemon = self.start()
        workers = children(daemon.process.pid)
        self.assertEqual(len(workers), 2)
        daemon.process.kill()
        deadline = time.monotonic() + PATIENCE
        while any(lives(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual([lives(pid) for pid in workers], [False, False])

    def test_a_setting_that_no_worker_can_use_ends_the_start_with_one_line(self) -> None:
        daemon = self.daemon(
            "--workers", "2", "--database", self.server.dsn("nonsense"), state_dir=self.state
        )
        self.assertEqual(daemon.ended(), 1)
        self.assertRegex(
            daemon.output, r'worker \d \w+: platziverse: the database refuses us: .*"nonsense" does not'
        )

    def test_a_port_that_is_taken_ends_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            daemon = self.daemon(
                "--workers", "2", "--listen", f"tcp:{port}:interface=127.0.0.1", state_dir=self.state
            )
            self.assertEqual(daemon.ended(), 1)
        self.assertIn("it is in use", daemon.output)
