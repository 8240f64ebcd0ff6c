"""Who gets into the real daemon, and what it refuses to start with."""

import json
import time
from contextlib import closing
from pathlib import Path

from platziverse.access.passwords import set_password
from tests.commandline import run
from tests.door.test_tls import write_certificate
from tests.integration.daemon import DaemonTestCase
from tests.integration.plain_client import PASSWORD, PlainClient, Refused
from tests.postgres.scratch import scratch_server
from tests.servers import MISSING, Cluster, execute

#: CONNACK return codes.
UNAVAILABLE, WRONG, NOT_AUTHORIZED = 0x03, 0x04, 0x05
#: The database is away; nothing here waits for it.
AWAY = ("--database", "host=/nonexistent dbname=x")


def report(uuid: str, username: str) -> bytes:
    agent = {"uuid": uuid, "name": "n", "username": username, "hostname": "h", "pid": 1}
    return json.dumps(
        {"agent": agent, "metrics": [{"type": "t", "value": 1}]}, separators=(",", ":")
    ).encode()


class AccessCase(DaemonTestCase):
    def folder(self) -> Path:
        path = Path(self.mktemp()).absolute()
        path.mkdir(parents=True)
        return path

    def connack(self, port: int, *credentials: str, client_id: str = "c1") -> int:
        """The return code."""
        try:
            PlainClient(port, client_id, *credentials).close()
        except Refused as refused:
            return refused.code
        return 0


class RefusalTests(AccessCase):
    """One line, exit code 1, no traceback, no open door."""

    def refusal(self, *arguments: str, **environ: str) -> str:
        daemon = self.daemon(*AWAY, *arguments, environ=environ)
        self.assertEqual(daemon.ended(), 1, daemon.output)
        self.assertNotIn("Traceback", daemon.output)
        self.assertNotIn("listens for MQTT", daemon.output)
        (line,) = [line for line in daemon.lines if "platziverse: " in line]
        return line

    def test_an_acl_file_without_a_rule(self) -> None:
        """Row 79."""
        acl = self.folder() / "acl"
        acl.write_text("# topic readwrite #\n\n")
        line = self.refusal(PLATZIVERSE_ACCESS_ACL_FILE=str(acl))
        self.assertIn(f"{acl}: it holds no rule", line)

    def test_a_password_file_with_a_blank_line(self) -> None:
        """Row 80."""
        passwords = self.folder() / "passwords"
        set_password(str(passwords), "ana", b"one")
        passwords.write_text(passwords.read_text() + "\n")
        line = self.refusal(PLATZIVERSE_ACCESS_PASSWORD_FILE=str(passwords))
        self.assertIn(f"{passwords}:2: a line must be user:hash", line)

    def test_settings_that_are_unknown_or_lock_everyone_out(self) -> None:
        """Row 81."""
        self.assertIn("unknown variable", self.refusal(PLATZIVERSE_ACCESS_ALLOW_ANONYMOUS="true"))
        self.assertIn("nobody could connect", self.refusal(PLATZIVERSE_ACCESS_ANONYMOUS="never"))

    def test_files_that_are_missing_or_broken(self) -> None:
        """Row 82."""
        folder = self.folder()
        acl, key = folder / "acl", folder / "server.key"
        acl.write_text("topic read a\ntopic red b\n")
        write_certificate(folder)
        key.write_text("no key")
        for environ, words in (
            ({"PLATZIVERSE_ACCESS_ACL_FILE": str(acl)}, f"{acl}:2: 'red' is none of"),
            ({"PLATZIVERSE_ACCESS_ACL_FILE": str(folder)}, "Is a directory"),
            ({"PLATZIVERSE_ACCESS_PASSWORD_FILE": f"{folder}/none"}, "none: No such file"),
            (
                {"PLATZIVERSE_TLS_CERTIFICATE": f"{folder}/server.pem", "PLATZIVERSE_TLS_KEY": str(key)},
                "server.key: ",
            ),
        ):
            self.assertIn(words, self.refusal(**environ))

    def test_a_file_that_everyone_may_change(self) -> None:
        """Row 84."""
        file = self.folder() / "platziverse.toml"
        file.write_text("")
        file.chmod(0o666)
        self.assertIn(f"{file}: everyone may write to it", self.refusal("--config", str(file)))


class LoginTests(AccessCase):
    def test_secrets_that_everyone_may_read_are_a_warning_at_the_start(self) -> None:
        """Row 84."""
        passwords = self.folder() / "passwords"
        set_password(str(passwords), "ana", PASSWORD.encode())
        passwords.chmod(0o644)
        daemon = self.daemon(*AWAY, environ={"PLATZIVERSE_ACCESS_PASSWORD_FILE": str(passwords)})
        daemon.wait_for(r"passwords: everyone may read it \(mode 0644\); chmod o-rwx")
        self.assertEqual(self.connack(daemon.port(), "ana", PASSWORD), 0)

    def test_the_banner_says_who_may_connect_and_that_is_who_may(self) -> None:
        passwords = self.folder() / "passwords"
        set_password(str(passwords), "ana", PASSWORD.encode())
        for environ, words, anonymous, ana in (
            ({}, "only clients on this machine may connect: there are no logins", 0, 0),
            ({"PASSWORD_FILE": str(passwords)}, "without a login only clients on this machine", 0, 0),
            ({"PASSWORD_FILE": str(passwords), "ANONYMOUS": "never"}, "nobody may", NOT_AUTHORIZED, 0),
        ):
            named = {f"PLATZIVERSE_ACCESS_{name}": value for name, value in environ.items()}
            daemon = self.daemon(*AWAY, environ=named)
            daemon.wait_for(words)
            port = daemon.port()
            self.assertEqual((self.connack(port), self.connack(port, "ana", PASSWORD)), (anonymous, ana))
            self.assertEqual(daemon.stop(), 0)

    def test_wrong_passwords_are_refused_slowed_down_and_logged_with_the_address(self) -> None:
        """Rows 22, 23."""
        passwords = self.folder() / "passwords"
        set_password(str(passwords), "ana", PASSWORD.encode())
        daemon = self.daemon(*AWAY, environ={"PLATZIVERSE_ACCESS_PASSWORD_FILE": str(passwords)})
        port = daemon.port()
        for password in ("", "wrong", "Secret"):
            began = time.monotonic()
            self.assertEqual(self.connack(port, "ana", password), WRONG)
        daemon.wait_for(r"wrong user name or password.*'ana'")
        daemon.wait_for(r"127\.0\.0\.1:\d+.*wrong user name|wrong user name.*127\.0\.0\.1:\d+")
        self.assertEqual(self.connack(port, "ana", PASSWORD), 0)  # slowed down, never shut out
        self.assertGreater(time.monotonic() - began, 0.5)
        self.assertNotIn("Secret", daemon.output)
        self.assertNotIn("Traceback", daemon.output)


class DatabaseUserTests(AccessCase):
    skip = MISSING or None

    def test_users_of_the_table_log_in_and_nobody_does_while_the_database_is_away(self) -> None:
        """Row 82: what cannot be asked says no, with 0x03 and one line."""
        cluster = Cluster()
        self.addCleanup(cluster.remove)
        dsn = cluster.database("template1")
        passwords = self.folder() / "passwords"
        set_password(str(passwords), "file", PASSWORD.encode())
        environ = {
            "PLATZIVERSE_ACCESS_DATABASE_USERS": "true",
            "PLATZIVERSE_ACCESS_PASSWORD_FILE": str(passwords),
        }
        daemon = self.daemon("--database", dsn, environ=environ)
        port = daemon.ready()
        self.assertEqual(self.connack(port, "ana", PASSWORD), WRONG)
        added = run(self, "--database", dsn, "passwd", "--database-users", "ana", stdin=PASSWORD.encode())
        self.assertEqual(added.code, 0, added.err)
        self.assertEqual(self.connack(port, "ana", PASSWORD), 0)  # at once, without a reload
        self.assertEqual(self.connack(port, "file", PASSWORD), 0)
        cluster.stop()
        daemon.wait_for("the database is away")
        since = len(daemon.lines)
        for _ in range(5):
            self.assertEqual(self.connack(port, "ana", PASSWORD), UNAVAILABLE)
        self.assertEqual(self.connack(port, "file", PASSWORD), 0)
        daemon.wait_for("Logins cannot be checked: ")
        self.assertEqual(sum("Logins cannot be" in line for line in daemon.lines[since:]), 1)
        cluster.start()
        daemon.wait_for("the database is ready", since)
        self.assertEqual(self.connack(port, "ana", PASSWORD), 0)
        execute(dsn, "DELETE FROM mqtt_users")
        self.assertEqual(self.connack(port, "ana", PASSWORD), WRONG)
        self.assertNotIn("Traceback", daemon.output)


class BindingTests(AccessCase):
    """Row 101: a client speaks for its own agents."""

    def stored(self, binding: str, *reports: "tuple[str, str, str]") -> "tuple[set[str], list[str]]":
        """Each (login, uuid, username) is sent over a connection of its own: uuids of agents, reasons."""
        server = scratch_server()
        name = server.create()
        passwords = self.folder() / "passwords"
        for login in {login for login, _, _ in reports}:
            set_password(str(passwords), login, PASSWORD.encode())
        environ = {
            "PLATZIVERSE_ACCESS_PASSWORD_FILE": str(passwords),
            "PLATZIVERSE_ACCESS_BINDING": binding,
        }
        daemon = self.daemon("--database", server.dsn(name), environ=environ)
        port = daemon.ready()
        for login, uuid, username in reports:
            with closing(PlainClient(port, "c1", login)) as client:
                client.publish("agent/message", report(uuid, username))
        self.assertEqual(daemon.stop(), 0)
        agents = server.execute(name, "SELECT uuid || ' of ' || username FROM agents")
        reasons = server.execute(name, "SELECT reason FROM rejected_messages ORDER BY id")
        return {text for (text,) in agents}, [text for (text,) in reasons]

    def test_by_user_name(self) -> None:
        """Row 101."""
        agents, reasons = self.stored(
            "username", ("ana", "a", "ana"), ("eve", "a", "ana"), ("eve", "a", "eve"), ("eve", "e", "eve")
        )
        self.assertEqual(agents, {"a of ana", "e of eve"})
        self.assertEqual(
            reasons,
            [
                "its user may not speak for this agent",
                "the database refused it: the agent belongs to another username",
            ],
        )

    def test_by_uuid(self) -> None:
        """Row 101."""
        agents, reasons = self.stored("uuid", ("a", "a", "ana"), ("e", "a", "e"), ("e", "e", "ana"))
        self.assertEqual(agents, {"a of ana", "e of ana"})
        self.assertEqual(reasons, ["its user may not speak for this agent"])
