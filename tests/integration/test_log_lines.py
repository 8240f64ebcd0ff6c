"""The log of real processes: in each of its forms, and as fail2ban reads it."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from platziverse.access.passwords import set_password
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect
from tests.integration.daemon import (
    PATIENCE,
    ROOT,
    TWISTD,
    Daemon,
    DaemonTestCase,
    Program,
    clean_environment,
)

NO_DATABASE = ("--database", "host=/nonexistent dbname=x")
FILTER = ROOT / "examples/fail2ban/filter.d/platziverse.conf"

#: Client Identifiers and user names of somebody who wants 198.51.100.1 to be shut out, or not to be seen.
FORGED = "Closing 198.51.100.1:1 'a': wrong user name or password, user 'b'"
ATTEMPTS = (
    ("a", "ana"),
    (FORGED, FORGED),
    (
        f"x\n2026-01-01T00:00:00.000+00:00 warn  net: {FORGED}",
        f"y\n2026-01-01T00:00:00+00:00 warn  net: {FORGED}",
    ),
    ("\x1b[2J\u202e", 'it\'s "me"\u2028'),
)


class BruteForceTests(DaemonTestCase):
    """Row 127: fail2ban's own program reads real lines, and finds the real address in each."""

    def options(self) -> tuple[str, ...]:
        path = Path(self.state_dir(), "passwords")
        set_password(str(path), "ana", b"secret")
        path.with_name("platziverse.toml").write_text(f'[access]\npassword_file = "{path}"\n')
        return ("--config", str(path.with_name("platziverse.toml")), *NO_DATABASE)

    def attack(self, port: int) -> None:
        for client_id, username in ATTEMPTS:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(encode(Connect(client_id, username=username, password=b"wrong")))
                self.assertEqual(client.recv(4), b"\x20\x02\x00\x04")

    def banned(self, log: str) -> list[str]:
        """The addresses that fail2ban's filter finds, one for each line in which it does."""
        path = Path(self.mktemp())
        path.write_text(log + "\n")
        return self.run_program("fail2ban-regex", "-o", "ip", str(path), str(FILTER)).split()

    def test_every_failed_login_in_a_log_file_is_found_and_nobody_else(self) -> None:
        daemon = self.daemon(*self.options())
        self.attack(daemon.port())
        daemon.wait_for(r"me.\\u2028")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertTrue(all(line.isprintable() for line in daemon.lines))
        self.assertEqual(self.banned(daemon.output), ["127.0.0.1"] * len(ATTEMPTS))

    def test_every_failed_login_in_the_journal_is_found_and_nobody_else(self) -> None:
        """Its lines as fail2ban gets them: with time, host, program and process in front, and no priority."""
        shell = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1) exec "$@"'
        command = ("sh", "-c", shell, "sh", TWISTD, "-n", "--pidfile=", "platziverse")
        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        state = self.state_dir()
        daemon = Program(*command, *listen, *self.options(), cwd=str(ROOT), PLATZIVERSE_STATE_DIR=state)
        self.addCleanup(daemon.kill)
        self.attack(int(daemon.wait_for(r"^<6>service: platziverse .* on 127.0.0.1:(\d+);")[1]))
        daemon.wait_for(r"^<4>net: Closing .*me.\\u2028")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertTrue(all(re.match(r"<[2-7]>", line) for line in daemon.lines), daemon.output)
        lines = [f"2026-11-24T13:50:26.123456+00:00 host twistd[1]: {line[3:]}" for line in daemon.lines]
        self.assertEqual(self.banned("\n".join(lines)), ["127.0.0.1"] * len(ATTEMPTS))


class FormTests(DaemonTestCase):
    def test_json_is_one_object_a_line(self) -> None:
        daemon = self.daemon("--log-format", "json", "--log-level", "mqtt=debug,info", *NO_DATABASE)
        port = daemon.wait_for(r'"ports": "127.0.0.1:(\d+)"')[1]
        self.run_program("mosquitto_pub", "-p", port, "-i", "it's me", "-t", "x", "-m", "y", "-q", "1")
        daemon.wait_for("DISCONNECT")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        records = [json.loads(line) for line in daemon.lines]
        (publish,) = [record for record in records if record.get("packet") == "PUBLISH"]
        self.assertEqual((publish["client_id"], publish["topic"], publish["size"]), ("it's me", "x", 1))
        self.assertEqual((publish["level"], publish["room"]), ("debug", "mqtt"))

    def test_one_client_is_traced_and_no_other(self) -> None:
        """Row 261."""
        daemon = self.daemon("--log-level", "info,client:sensor-7=debug", *NO_DATABASE)
        port = str(daemon.port())
        for name in ("sensor-7", "sensor-8"):
            self.run_program("mosquitto_pub", "-p", port, "-i", name, "-t", "x", "-m", name, "-q", "1")
        daemon.wait_for(r"debug net: Gone 127\.0\.0\.1:\d+ 'sensor-7'")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        told = [line for line in daemon.lines if " debug " in line]
        self.assertNotIn("sensor-8", daemon.output)
        for packet in ("from .*: CONNECT,", "to .*: CONNACK,", "from .*: PUBLISH to 'x'", "to .*: PUBACK,"):
            self.assertEqual(len(re.findall(f"debug mqtt: {packet}", "\n".join(told))), 1, packet)

    def test_a_log_file_of_twistd_has_the_same_lines(self) -> None:
        log = Path(self.mktemp()).absolute()
        daemon = Daemon(
            *("--listen", "tcp:0:interface=127.0.0.1", *NO_DATABASE),
            state_dir=self.state_dir(),
            twistd=("-n", "--pidfile=", f"--logfile={log}", "platziverse"),
        )
        self.addCleanup(daemon.kill)
        self.wait_for_text(log, "listens for MQTT")
        self.assertEqual(daemon.stop(signal.SIGTERM), 0)
        self.assertEqual(daemon.output, "")
        head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (info |warn ) \w+: "
        for line in log.read_text().splitlines():
            self.assertRegex(line, head)

    def test_twistd_in_the_background_logs_to_its_file(self) -> None:
        """In JSON if the configuration says so; relative paths are meant from where it was started."""
        folder, state = Path(self.mktemp()).absolute(), self.state_dir()
        folder.mkdir()
        (folder / "platziverse.toml").write_text("log_format = 'json'\n")
        command = (TWISTD, "--pidfile", str(folder / "pid"), "--rundir", "/", "-l", "log", "platziverse")
        listen = ("--listen", "tcp:0:interface=127.0.0.1", "--config", "platziverse.toml", *NO_DATABASE)
        environ = clean_environment(PLATZIVERSE_STATE_DIR=state, PYTHONPATH=str(ROOT))
        done = subprocess.run([*command, *listen], cwd=folder, env=environ, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0)
        self.wait_for_text(folder / "log", "listens for MQTT")
        pid = int((folder / "pid").read_text())
        os.kill(pid, signal.SIGHUP)
        self.wait_for_text(folder / "log", '"message": "Reloaded: log levels"')
        (folder / "log").rename(folder / "moved")
        os.kill(pid, signal.SIGUSR1)
        self.wait_for_text(folder / "log", "")  # it is there again
        os.kill(pid, signal.SIGTERM)
        self.wait_for_text(folder / "log", "SIGTERM came; stopping")
        self.assertNotIn("SIGTERM", (folder / "moved").read_text())
        deadline = time.monotonic() + PATIENCE
        while (folder / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertFalse((folder / "pid").exists())
        for line in (folder / "log").read_text().splitlines():
            self.assertEqual(list(json.loads(line))[:4], ["time", "level", "room", "message"])

    def wait_for_text(self, path: Path, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (path.exists() and text in path.read_text()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} in {path.read_text() if path.exists() else path}")
            time.sleep(0.01)
