"""Life under systemd: a real process with a notification socket, and with sockets that were opened for it."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from tests.integration.daemon import PATIENCE, ROOT, TWISTD, DaemonTestCase, Program
from tests.postgres.scratch import scratch_server


class Notifications(threading.Thread):
    """What arrives on a notification socket."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(0.1)
        self._news = threading.Condition()
        self._going = True
        self.messages: list[str] = []
        self.start()

    def run(self) -> None:
        while self._going:
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                continue
            with self._news:
                self.messages.append(text)
                self._news.notify_all()

    def wait_for(self, text: str, since: int = 0) -> int:
        """The number of the first message after number ``since`` in which ``text`` stands, plus one."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                for number, message in enumerate(self.messages[since:], since + 1):
                    if text in message:
                        return number
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {text!r} in {self.messages[since:]}")

    def close(self) -> None:
        self._going = False
        self.join(PATIENCE)
        self._socket.close()


class NotifyTests(DaemonTestCase):
    def notifications(self, address: str) -> Notifications:
        found = Notifications(address)
        self.addCleanup(found.close)
        return found

    def test_systemd_learns_all_there_is_to_know(self) -> None:
        """Row 122: READY when it listens, the state of the database, signs of life, a reload, the stop."""
        path = os.path.join(self.state_dir(), "notify")
        told, server = self.notifications(path), scratch_server()
        name = server.create()
        environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        daemon = self.daemon("--database", server.dsn(name), environ=environ)
        since = told.wait_for("READY=1\nSTATUS=the database is ")
        with socket.create_connection(("127.0.0.1", daemon.port())):
            pass
        since = told.wait_for("STATUS=the database is ready; 0 clients", since)
        since = told.wait_for("WATCHDOG=1", since)

        subscriber = self.start_program("mosquitto_sub", "-p", str(daemon.port()), "-t", "#")
        since = told.wait_for("STATUS=the database is ready; 1 clients", since)
        daemon.process.send_signal(signal.SIGHUP)
        since = told.wait_for("RELOADING=1\nMONOTONIC_USEC=", since)
        since = told.wait_for("READY=1\nSTATUS=the database is ready; 1 clients", since)

        server.execute("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute(
            "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name
        )
        since = told.wait_for("STATUS=the database is away: ", since)
        server.execute("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        since = told.wait_for("STATUS=the database is ready; 1 clients", since)

        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        told.wait_for("STOPPING=1\nSTATUS=stopping", since)
        self.assertNotIn("Traceback", daemon.output)
        subscriber.kill()

    def test_an_abstract_socket_will_do(self) -> None:
        name = f"platziverse-{os.getpid()}-{time.monotonic_ns()}"
        told = self.notifications(f"\0{name}")
        self.daemon("--database", "host=/nonexistent dbname=x", environ={"NOTIFY_SOCKET": f"@{name}"})
        told.wait_for("READY=1\nSTATUS=the database is ")


#: Does what systemd does for a unit with a socket, then becomes twistd.
ACTIVATE = """
import os, socket, sys
listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, listener in enumerate(listeners):
    listener.set_inheritable(True)
kept = [os.dup(listener.fileno()) for listener in listeners]
for number, descriptor in enumerate(kept, 3):
    os.dup2(os.dup(descriptor) if descriptor < 5 else descriptor, number)
    os.set_inheritable(number, True)
print("ports", *(listener.getsockname()[1] for listener in listeners), flush=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "plain:http"}
os.execv(sys.argv[1], sys.argv[1:])
"""


class SocketActivationTests(DaemonTestCase):
    def test_sockets_that_systemd_has_opened_are_listened_on(self) -> None:
        listen = (
            "--listen",
            "systemd:domain=INET:index=0:protocol=mqtt",
            "--listen",
            "systemd:domain=INET:name=http",
        )
        command = (
            TWISTD,
            "-n",
            "--pidfile=",
            "platziverse",
            *listen,
            "--database",
            "host=/nonexistent dbname=x",
        )
        daemon = Program(
            sys.executable,
            "-c",
            ACTIVATE,
            *command,
            cwd=str(ROOT),
            PLATZIVERSE_STATE_DIR=self.state_dir(),
            PLATZIVERSE_SESSIONS_DURABLE="false",  # or QoS 1 would wait for the database
        )
        self.addCleanup(daemon.kill)
        first, second = (int(port) for port in daemon.wait_for(r"^ports (\d+) (\d+)").groups())
        daemon.wait_for(f"listens for MQTT on 127.0.0.1:{first}, 127.0.0.1:{second};")
        self.run_program("mosquitto_pub", "-p", str(first), "-t", "elsewhere", "-q", "1", "-m", "x")
        self.assertIn("ok", self.run_program("curl", "-s", f"http://127.0.0.1:{second}/healthz"))
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", daemon.output)


class UnitTests(DaemonTestCase):
    """systemd's own opinion of the unit files; nothing is started."""

    def test_systemd_understands_the_units(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        for name in ("platziverse.service", "platziverse.socket"):
            text = (ROOT / "systemd" / name).read_text()
            (folder / name).write_text(text.replace("/opt/platziverse/bin/twistd", sys.executable))
        found = self.run_program(
            "systemd-analyze",
            "verify",
            "--man=no",
            str(folder / "platziverse.socket"),
            str(folder / "platziverse.service"),
        )
        self.assertNotIn("platziverse", found)

    def test_the_hardening_is_what_systemd_calls_ok(self) -> None:
        """Its exposure level is below 2.0 of 10."""
        unit = str(ROOT / "systemd/platziverse.service")
        self.run_program(
            "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit
        )
