"""The table of access rules, put to a real Mosquitto and to our daemon: both must answer as it says."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.access.passwords import HASHER
from tests.access.acl_cases import CASES, Case
from tests.integration.daemon import PATIENCE, DaemonTestCase
from tests.integration.plain_client import PASSWORD, PlainClient
from tests.ports import free_port

#: May do everything; appended to every file.
OBSERVER = "\nuser observer\ntopic readwrite #\ntopic readwrite $SYS/#\n"


@contextmanager
def mosquitto(folder: Path, acl: str, usernames: "list[str]") -> Iterator[int]:
    """A Mosquitto with these rules on a free port; gives the port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None or shutil.which("mosquitto_passwd") is None:
        raise SkipTest("Mosquitto is not installed")
    folder.mkdir(parents=True)
    passwords = folder / "passwords"
    passwords.write_text("".join(f"{name}:{PASSWORD}\n" for name in usernames))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    (folder / "acl").write_text(acl)
    port = free_port()
    (folder / "conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"password_file {passwords.absolute()}\nacl_file {(folder / 'acl').absolute()}\n"
    )
    process = subprocess.Popen([program, "-c", str(folder / "conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError("Mosquitto did not start")
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("Mosquitto does not listen")


def outcome(port: int, case: Case) -> bool:
    """Whether the message of this case arrives."""
    with (
        closing(PlainClient(port, "observer", "observer")) as observer,
        closing(PlainClient(port, case.client_id, case.username)) as client,
    ):
        if case.action == "publish":
            observer.subscribe(case.topic)
            client.publish(case.topic, b"x")
            observer.ping()
            return bool(observer.messages)
        client.subscribe(case.topic)
        observer.publish(case.topic, b"x")
        client.ping()
        return bool(client.messages)


NAMES = sorted({case.username for case in CASES if case.username is not None} | {"observer"})


class TestMosquitto(SynchronousTestCase):
    def test_mosquitto_decides_every_case_as_the_table_says(self) -> None:
        for acl in sorted({case.acl for case in CASES}):
            with mosquitto(Path(self.mktemp()), acl + OBSERVER, NAMES) as port:
                for case in CASES:
                    if case.acl == acl:
                        self.assertEqual(outcome(port, case), case.allowed, case)


class TestOurs(DaemonTestCase):
    def test_our_daemon_decides_every_case_as_the_table_says(self) -> None:
        hashed = HASHER.hash(PASSWORD)
        for acl in sorted({case.acl for case in CASES}):
            folder = Path(self.mktemp()).absolute()
            folder.mkdir()
            (folder / "passwords").write_text("".join(f"{name}:{hashed}\n" for name in NAMES))
            (folder / "acl").write_text(acl + OBSERVER)
            environ = {
                "PLATZIVERSE_ACCESS_PASSWORD_FILE": str(folder / "passwords"),
                "PLATZIVERSE_ACCESS_ACL_FILE": str(folder / "acl"),
            }
            daemon = self.daemon("--database", "host=/nonexistent dbname=x", environ=environ)
            port = daemon.port()
            for case in CASES:
                if case.acl == acl:
                    self.assertEqual(outcome(port, case), case.allowed, case)
            self.assertEqual(daemon.stop(), 0)
