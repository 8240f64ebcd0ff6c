"""``platziverse passwd``: the file and the table."""

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from platziverse.access.passwords import PasswordFile, users, verify
from platziverse.command.passwd import read_password
from platziverse.postgres.migrate import migrate
from platziverse.settings import ConfigError
from tests.commandline import NOTHING, Ran, run
from tests.postgres.scratch import scratch_server


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def passwd(self, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] = NOTHING) -> Ran:
        return run(self, "passwd", *arguments, stdin=stdin, environ=environ)

    def verified(self, username: str, password: bytes) -> bool:
        hashed = self.successResultOf(PasswordFile.load(str(self.path)).password_hash(username))
        return hashed is not None and verify(hashed, password)

    def test_a_user_is_added_changed_listed_and_taken_out(self) -> None:
        file = ("--file", str(self.path))
        self.assertEqual(self.passwd(*file, "ana", stdin=b"one\n").code, 0)
        self.assertEqual(self.passwd(*file, "bob", stdin=b"two\r\nthree\n").code, 0)
        self.assertEqual(self.passwd(*file, "ana", stdin=b" sp\xc3\xa4t ").code, 0)
        self.assertTrue(self.verified("ana", b" sp\xc3\xa4t "))
        self.assertTrue(self.verified("bob", b"two"))
        self.assertEqual(self.passwd(*file, "--list").out, "ana\nbob\n")
        self.assertEqual(self.passwd(*file, "-D", "ana").code, 0)
        self.assertEqual(users(str(self.path)), ["bob"])

    def test_scram_is_for_who_is_given_it_and_until_the_next_password(self) -> None:
        file = ("--file", str(self.path))
        self.assertEqual(self.passwd(*file, "--scram", "ana", stdin=b"one\n").code, 0)
        entry = self.path.read_text().split(" ")
        self.assertTrue(entry[0].startswith("ana:$argon2id$") and entry[1].startswith("SCRAM-SHA-256$10000$"))
        self.assertTrue(self.verified("ana", b"one"))
        self.assertEqual(self.passwd(*file, "bob", stdin=b"two\n").code, 0)
        self.assertEqual(self.passwd(*file, "ana", stdin=b"three\n").code, 0)
        self.assertNotIn("SCRAM", self.path.read_text())
        self.assertEqual(self.passwd(*file, "--scram", "-D", "ana").code, 2)
        done = self.passwd(*file, "--scram", "ana", stdin=b"\xff\n")
        self.assertIn("the password of 'ana': it cannot be used with SCRAM", done.err)
        self.assertTrue(self.verified("ana", b"three"))

    def test_keys_that_are_broken_are_said(self) -> None:
        self.passwd("--file", str(self.path), "--scram", "ana", stdin=b"one\n")
        self.path.write_text(self.path.read_text().replace("$10000$", "$1$"))
        done = self.passwd("--file", str(self.path), "--list")
        self.assertIn("has no keys for SCRAM; use: platziverse passwd --scram", done.err)

    def test_the_last_one_goes_with_a_warning(self) -> None:
        """Row 80: an empty file stops the next start."""
        self.passwd("--file", str(self.path), "ana", stdin=b"one\n")
        self.assertIn("no daemon starts", self.passwd("--file", str(self.path), "-D", "ana").out)

    def test_the_file_of_the_configuration_is_the_one(self) -> None:
        environ = {"PLATZIVERSE_ACCESS_PASSWORD_FILE": str(self.path)}
        done = self.passwd("ana", stdin=b"one\n", environ=environ)
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertTrue(self.verified("ana", b"one"))

    def test_what_cannot_be_is_one_line_and_changes_nothing(self) -> None:
        both = {"PLATZIVERSE_ACCESS_PASSWORD_FILE": "/x", "PLATZIVERSE_ACCESS_DATABASE_USERS": "true"}
        for words, given in (
            ("the password is empty", self.passwd("--file", str(self.path), "ana", stdin=b"\n")),
            ("no password on the standard input", self.passwd("--file", str(self.path), "ana")),
            ("cannot be a user name", self.passwd("--file", str(self.path), "a\nb", stdin=b"one\n")),
            ("cannot be a user name", self.passwd("--file", str(self.path), "a\udcff", stdin=b"one\n")),
            ("No such file", self.passwd("--file", str(self.path), "-D", "ana")),
            ("No such file", self.passwd("--file", str(self.path), "--list")),
            ("no password_file and no database_users", self.passwd("ana", stdin=b"one\n")),
            ("a password file and a table", self.passwd("ana", stdin=b"one\n", environ=both)),
        ):
            self.assertEqual((given.code, given.out), (1, ""), words)
            self.assertIn(words, given.err)
            self.assertEqual(given.err.count("\n"), 1)
        self.assertFalse(self.path.exists())

    def test_a_broken_file_is_not_touched(self) -> None:
        """Row 80."""
        self.path.write_text("ana:$7$101$mosquittos$own\n")
        done = self.passwd("--file", str(self.path), "bob", stdin=b"one\n")
        self.assertIn(":1: the password of 'ana' is no argon2 hash; set it with", done.err)
        self.assertEqual(self.path.read_text(), "ana:$7$101$mosquittos$own\n")

    def test_a_password_on_the_command_line_is_refused(self) -> None:
        done = self.passwd("--file", str(self.path), "-b", "ana", "secret")
        self.assertEqual(done.code, 2)
        self.assertFalse(self.path.exists())

    def test_row_263_a_new_file_is_readable_for_the_group_of_its_directory_or_root_is_told(self) -> None:
        """Root alone can give a file away; who is not root runs the daemon as well."""
        if os.geteuid():
            self.skipTest("only root makes files for others")
        folder = self.path.parent
        hint = (
            f"only root may read it; for the service: chgrp platziverse {self.path} && chmod 640 {self.path}"
        )
        self.assertIn(hint, self.passwd("--file", str(self.path), "ana", stdin=b"one\n").out)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertNotIn(hint, self.passwd("--file", str(self.path), "bob", stdin=b"two\n").out)
        self.path.unlink()
        self.addCleanup(os.chown, folder, -1, folder.stat().st_gid)
        os.chown(folder, -1, 65534)
        self.assertNotIn("only root", self.passwd("--file", str(self.path), "ana", stdin=b"one\n").out)
        self.assertEqual((self.path.stat().st_gid, self.path.stat().st_mode & 0o777), (65534, 0o640))

    def test_a_name_or_list_is_needed_not_both(self) -> None:
        for arguments in ((), ("--list", "ana"), ("--delete",)):
            self.assertEqual(self.passwd("--file", str(self.path), *arguments).code, 2, arguments)


class TerminalTests(SynchronousTestCase):
    def typed(self, *lines: "str | type[BaseException]") -> bytes:
        left = list(lines)

        def ask(prompt: str) -> str:
            line = left.pop(0)
            if not isinstance(line, str):
                raise line
            return line

        class Terminal:
            @staticmethod
            def isatty() -> bool:
                return True

        self.patch(getpass, "getpass", ask)
        self.patch(sys, "stdin", Terminal())
        try:
            return read_password("ana")
        finally:
            self.assertEqual(left, [])

    def test_a_password_is_asked_for_twice(self) -> None:
        self.assertEqual(self.typed("später", "später"), "später".encode())
        self.assertRaises(ConfigError, self.typed, "one", "two")
        self.assertRaises(ConfigError, self.typed, KeyboardInterrupt)
        self.assertRaises(ConfigError, self.typed, "one", EOFError)


class TableTests(TestCase):
    def setUp(self) -> "Deferred[Any]":  # type: ignore[override]  # trial waits for it
        server = scratch_server()
        self.dsn = server.dsn(server.create())
        return migrate(self.dsn, reactor)

    def passwd(self, *arguments: str, stdin: bytes = b"", dsn: str = "") -> Ran:
        return run(self, "--database", dsn or self.dsn, "passwd", *arguments, stdin=stdin)

    def test_a_user_is_added_changed_listed_and_taken_out(self) -> None:
        for name, password in (("bob", b"one"), ("ana", b"one"), ("ana", b"two")):
            done = self.passwd("--database-users", name, stdin=password)
            self.assertEqual((done.code, done.err), (0, ""))
        self.assertEqual(self.passwd("--database-users", "-l").out, "ana\nbob\n")
        self.assertEqual(self.passwd("--database-users", "-D", "ana").code, 0)
        gone = self.passwd("--database-users", "-D", "ana")
        self.assertEqual((gone.code, gone.err), (1, "platziverse: the database: there is no user 'ana'\n"))
        self.assertEqual(self.passwd("--database-users", "-l").out, "bob\n")

    def test_what_is_kept_is_an_argon2_hash(self) -> None:
        """Row 84."""
        self.passwd("--database-users", "ana", stdin=b"one")
        server = scratch_server()
        name = self.dsn.rpartition("dbname=")[2]
        ((hashed,),) = server.execute(name, 'SELECT "passwordHash" FROM mqtt_users')
        self.assertTrue(verify(hashed, b"one"))

    def test_a_database_without_the_table_is_one_line(self) -> None:
        server = scratch_server()
        done = self.passwd("--database-users", "ana", stdin=b"x", dsn=server.dsn(server.create()))
        self.assertEqual(done.code, 1)
        self.assertEqual(
            done.err, "platziverse: the database has no table of users yet; start the daemon once\n"
        )

    def test_a_database_that_is_away_is_one_line(self) -> None:
        done = self.passwd("--database-users", "ana", stdin=b"x", dsn="host=/nonexistent dbname=x")
        self.assertEqual((done.code, done.err.count("\n")), (1, 1))
