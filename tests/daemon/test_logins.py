"""Who may connect, and the modes of the files that say so."""

from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access.files import AccessError
from platziverse.access.passwords import PasswordFile
from platziverse.config import Access, Config, Tls
from platziverse.daemon.logins import files, mode_warnings, user_tables, who_may_connect
from platziverse.errors import Unusable
from tests.access.test_passwords import HASHED


def config(**access: Any) -> Config:
    return Config(access=Access(**access))


class Table:
    def password_hash(self, username: str) -> "Deferred[str | None]":
        return succeed(None)


class WhoTests(SynchronousTestCase):
    def test_the_banner_says_whether_there_are_logins(self) -> None:
        self.assertEqual(
            who_may_connect(config()), "only clients on this machine may connect: there are no logins"
        )
        for given in (
            config(password_file="/p"),
            config(database_users=True),
            evolve(config(), tls=Tls("/c", "/k", "/ca")),
        ):
            self.assertEqual(
                who_may_connect(given), "without a login only clients on this machine may connect"
            )
        self.assertIn("everyone may connect: there are no", who_may_connect(config(anonymous="always")))
        self.assertIn("nobody", who_may_connect(config(anonymous="never", database_users=True)))

    def test_a_door_that_nobody_can_open_is_an_error(self) -> None:
        """Row 81."""
        error = self.assertRaises(Unusable, who_may_connect, config(anonymous="never"))
        self.assertIn("nobody could connect; set password_file", str(error))


class TableTests(SynchronousTestCase):
    def test_the_file_is_asked_before_the_database(self) -> None:
        path = Path(self.mktemp())
        path.write_text(f"ana:{HASHED}\n")
        table = Table()
        self.assertEqual(user_tables(Access(), table), ())
        self.assertEqual(user_tables(Access(database_users=True), table), (table,))
        file, second = user_tables(Access(password_file=str(path), database_users=True), table)
        self.assertIsInstance(file, PasswordFile)
        self.assertIs(second, table)

    def test_the_database_is_no_substitute_for_a_broken_file(self) -> None:
        """Row 82."""
        self.assertRaises(
            AccessError, user_tables, Access(password_file="/nonexistent", database_users=True), Table()
        )


class ModeTests(SynchronousTestCase):
    """Row 84."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def file(self, name: str, mode: int) -> str:
        path = self.folder / name
        path.write_text("x")
        path.chmod(mode)
        return str(path)

    def test_a_secret_that_everyone_may_read_is_a_warning(self) -> None:
        """Row 84."""
        given = Config(
            database="host=x password=y",
            access=Access(password_file=self.file("passwords", 0o644), acl_file=self.file("acl", 0o644)),
            tls=Tls(self.file("pem", 0o644), self.file("key", 0o644)),
        )
        warnings = mode_warnings(given, self.file("toml", 0o644))
        self.assertEqual(
            [Path(line.split(":")[0]).name for line in warnings], ["toml", "passwords", "key"], warnings
        )
        self.assertIn("everyone may read it (mode 0644); chmod o-rwx", warnings[0])

    def test_a_file_that_everyone_may_change_stops_the_start(self) -> None:
        """Row 84."""
        for given, path in (
            (Config(tls=Tls(self.file("pem", 0o646), "")), None),
            (Config(tls=Tls("", self.file("key", 0o602))), None),
            (Config(access=Access(password_file=self.file("passwords", 0o606))), None),
            (Config(access=Access(acl_file=self.file("acl", 0o666))), None),
            (Config(), self.file("toml", 0o602)),
        ):
            error = self.assertRaises(Unusable, mode_warnings, given, path)
            self.assertIn("everyone may write to it; chmod o-w", str(error))

    def test_a_configuration_without_a_password_is_no_secret(self) -> None:
        path = self.file("toml", 0o644)
        self.assertEqual(files(Config(database="host=x"), path), {"configuration file": (path, False)})
        self.assertEqual(mode_warnings(Config(), path), [])
        self.assertEqual(mode_warnings(Config(), None), [])
