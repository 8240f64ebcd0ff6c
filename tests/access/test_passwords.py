"""Password files, and checking a password without saying what was wrong."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from argon2 import PasswordHasher
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from platziverse.access import passwords
from platziverse.access.files import AccessError, mode_problem, replace_file
from platziverse.access.passwords import (
    HASHER,
    LoginsUnavailable,
    PasswordChecker,
    PasswordFile,
    remove_user,
    set_password,
    users,
    verify,
)

SECRET = b"correct horse"
#: Made once: hashing is slow on purpose.
HASHED = HASHER.hash(SECRET)


class Threads:
    """Reactor and thread pool whose threads run when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.now = 0.0

    def seconds(self) -> float:
        return self.now

    def callInThreadWithCallback(self, done: Any, call: Any, *args: Any, **fields: Any) -> None:
        def work() -> None:
            try:
                result = call(*args, **fields)
            except Exception:
                done(False, Failure())
            else:
                done(True, result)

        self.waiting.append(work)

    def callFromThread(self, call: Any, *args: Any) -> None:
        call(*args)

    def run(self) -> int:
        """Let the threads work; returns how many calls there were."""
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()
        return len(waiting)


class SlowTable:
    """A table of users that answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[str | None]]] = []

    def password_hash(self, username: str) -> "Deferred[str | None]":
        answer: Deferred[str | None] = Deferred()
        self.asked.append((username, answer))
        return answer


def make_checker(threads: Threads, *tables: Any) -> PasswordChecker:
    return PasswordChecker(tables, cast(Any, threads), cast(Any, threads))


class TestChecker(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = Threads()
        self.checker = make_checker(self.threads, PasswordFile({"ana": HASHED, "böb": HASHED}))

    def ask(self, username: bytes, password: bytes) -> "Deferred[Any]":
        return self.checker.requestAvatarId(UsernamePassword(username, password))

    def test_the_right_password(self) -> None:
        for name in (b"ana", "böb".encode()):
            answer = self.ask(name, SECRET)
            self.threads.run()
            self.assertEqual(self.successResultOf(answer), name)

    def test_hashing_does_not_happen_on_the_reactor_thread(self) -> None:
        """Row 23."""
        answer = self.ask(b"ana", SECRET)
        self.assertNoResult(answer)
        self.assertEqual(self.threads.run(), 1)
        self.successResultOf(answer)

    def test_a_wrong_password_and_an_unknown_user_look_the_same(self) -> None:
        """Row 23."""
        answers = []
        for name, password in ((b"ana", b"wrong"), (b"nobody", SECRET), (b"", SECRET), (b"ana\0", SECRET)):
            answer = self.ask(name, password)
            self.assertEqual(self.threads.run(), 1, name)  # the unknown user costs a hash too
            answers.append(self.failureResultOf(answer, UnauthorizedLogin).getErrorMessage())
        self.assertEqual(len(set(answers)), 1)

    def test_no_password_but_the_right_one_matches(self) -> None:
        for password in (b"", b"wrong", SECRET + b"\0", SECRET.upper(), HASHED.encode(), b"\xff" * 65535):
            self.assertFalse(verify(HASHED, password))
        self.assertTrue(verify(HASHED, SECRET))
        self.assertFalse(verify("no hash", SECRET))

    def test_a_second_table_is_asked_when_the_first_does_not_know_the_user(self) -> None:
        table = SlowTable()
        self.checker = make_checker(self.threads, PasswordFile({"ana": HASHED}), table)
        known, unknown = self.ask(b"ana", SECRET), self.ask(b"carla", SECRET)
        self.threads.run()
        self.successResultOf(known)
        [(name, answer)] = table.asked
        self.assertEqual(name, "carla")
        answer.callback(HASHED)
        self.threads.run()
        self.assertEqual(self.successResultOf(unknown), b"carla")

    def test_a_table_that_fails_lets_nobody_in(self) -> None:
        table = SlowTable()
        self.checker = make_checker(self.threads, table)
        answer = self.ask(b"carla", SECRET)
        table.asked[0][1].errback(RuntimeError("the database is away"))
        self.failureResultOf(answer, RuntimeError)


class TestRemembering(SynchronousTestCase):
    """A fleet that reconnects does not hash everything again."""

    def setUp(self) -> None:
        self.threads = Threads()
        self.checker = make_checker(self.threads, PasswordFile({"ana": HASHED}))

    def ask(self, password: bytes, username: bytes = b"ana") -> "tuple[int, list[Any]]":
        """How many hashes it took, and what came."""
        results: list[Any] = []
        answer: Deferred[Any] = self.checker.requestAvatarId(UsernamePassword(username, password))
        answer.addBoth(results.append)
        return self.threads.run(), results

    def test_a_password_that_was_right_needs_no_second_hash(self) -> None:
        self.assertEqual(self.ask(SECRET), (1, [b"ana"]))
        self.assertEqual(self.ask(SECRET), (0, [b"ana"]))

    def test_any_other_password_is_hashed_and_refused(self) -> None:
        """Row 23."""
        self.ask(SECRET)
        for password in (b"wrong", SECRET + b"\0", b"\0" + SECRET):
            hashes, [failure] = self.ask(password)
            self.assertEqual(hashes, 1)
            failure.trap(UnauthorizedLogin)
        for _ in range(2):  # nor is what was wrong remembered as right
            hashes, [failure] = self.ask(b"None", b"nobody")
            self.assertEqual(hashes, 1)
            failure.trap(UnauthorizedLogin)

    def test_a_user_who_is_removed_or_changed_is_not_remembered(self) -> None:
        self.ask(SECRET)
        self.checker.tables = (PasswordFile({"ana": HASHER.hash(b"another")}),)
        hashes, [failure] = self.ask(SECRET)
        self.assertEqual(hashes, 1)
        failure.trap(UnauthorizedLogin)
        self.checker.tables = (PasswordFile({}),)
        hashes, [failure] = self.ask(SECRET)
        self.assertEqual(hashes, 1)
        failure.trap(UnauthorizedLogin)

    def test_memory_is_bounded(self) -> None:
        """The login of the longest ago is forgotten."""
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(SECRET)
        names = [str(number) for number in range(passwords.REMEMBERED + 1)]
        self.checker.tables = (PasswordFile(dict.fromkeys(names, cheap)),)
        for name in names:
            self.ask(SECRET, name.encode())
        self.assertEqual(self.ask(SECRET, names[1].encode())[0], 0)
        self.assertEqual(self.ask(SECRET, names[0].encode())[0], 1)

    def test_a_login_that_has_waited_too_long_costs_no_hash_and_the_next_ones_get_in(self) -> None:
        """Row 23: hashing never falls so far behind that it only serves those who are gone."""
        late: Deferred[Any] = self.checker.requestAvatarId(UsernamePassword(b"ana", SECRET))
        self.threads.now += passwords.PATIENCE
        in_time: Deferred[Any] = self.checker.requestAvatarId(UsernamePassword(b"ana", SECRET))
        self.threads.now += 1
        self.threads.run()
        self.failureResultOf(late, LoginsUnavailable)
        self.assertEqual(self.successResultOf(in_time), b"ana")

    def test_logins_that_wait_when_the_daemon_stops_are_not_hashed(self) -> None:
        """Row 23: the pool works off what waits before it stops, and the reactor waits for the pool."""
        asked = UsernamePassword(b"ana", SECRET)
        waiting: list[Deferred[Any]] = [self.checker.requestAvatarId(asked) for _ in range(3)]
        self.patch(passwords, "verify", lambda *_: self.fail("it was hashed"))
        self.checker.stop()
        self.threads.run()
        for answer in waiting:
            self.assertEqual(
                str(self.failureResultOf(answer, LoginsUnavailable).value), "the daemon is stopping"
            )


class TestFile(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def refused(self, text: str, line: "int | None") -> None:
        self.path.write_text(text)
        error = self.assertRaises(AccessError, PasswordFile.load, str(self.path))
        self.assertEqual((error.path, error.line), (str(self.path), line), text)

    def test_blank_and_malformed_lines_are_refused_and_named(self) -> None:
        """Row 80."""
        good = f"ana:{HASHED}\n"
        for line in (
            "",
            "   ",
            ":",
            f":{HASHED}",
            f" :{HASHED}",
            f" bob:{HASHED}",
            "bob",
            "bob:",
            "bob:plain",
            "bob:$6$abc$def",
            "bob:$argon2id$v=19$m=1",
            "# comment",
            f"ana:{HASHED}",
            f"b\tob:{HASHED}",
        ):
            self.refused(good + line + "\n", 2)
            self.refused(line + "\n" + good, 1 if "ana" not in line else 2)

    def test_an_empty_or_missing_file_is_refused(self) -> None:
        """Row 82."""
        self.refused("", None)
        self.path.unlink()
        self.assertRaises(AccessError, PasswordFile.load, str(self.path))

    def test_a_colon_belongs_to_the_name(self) -> None:
        self.path.write_text(f"urn:dev:7:{HASHED}\n")
        answer = PasswordFile.load(str(self.path)).password_hash("urn:dev:7")
        self.assertEqual(self.successResultOf(answer), HASHED)

    def test_editing(self) -> None:
        path = str(self.path)
        set_password(path, "ana", b"one")
        set_password(path, "bob", b"two")
        set_password(path, "ana", b"three")
        self.assertEqual(users(path), ["ana", "bob"])
        loaded = PasswordFile.load(path)
        self.assertEqual(len(loaded), 2)
        hashed = self.successResultOf(loaded.password_hash("ana"))
        self.assertTrue(verify(cast(str, hashed), b"three"))
        remove_user(path, "ana")
        self.assertEqual(users(path), ["bob"])
        self.assertRaises(AccessError, remove_user, path, "ana")

    def test_the_file_is_its_owners_alone(self) -> None:
        """Row 84."""
        set_password(str(self.path), "ana", SECRET)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.path.chmod(0o644)
        set_password(str(self.path), "bob", SECRET)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_a_file_that_a_group_reads_stays_readable_for_it(self) -> None:
        """Row 84: the daemon's group, where the file is root's."""
        set_password(str(self.path), "ana", SECRET)
        self.path.chmod(0o660)
        set_password(str(self.path), "bob", SECRET)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_names_and_passwords_that_would_break_the_file_are_refused(self) -> None:
        for name in ("", " ", "a\nb", "a\0", " ana", "a\u2028b"):
            self.assertRaises(AccessError, set_password, str(self.path), name, SECRET)
        for secret in (b"", b"x" * 65_536):
            self.assertRaises(AccessError, set_password, str(self.path), "ana", secret)
        self.assertRaises(AccessError, set_password, str(self.path), "a" * 65_536, SECRET)
        self.assertFalse(self.path.exists())

    def test_a_broken_file_is_not_touched(self) -> None:
        self.path.write_text("broken\n")
        self.assertRaises(AccessError, set_password, str(self.path), "ana", SECRET)
        self.assertEqual(self.path.read_text(), "broken\n")

    def test_a_write_that_fails_leaves_nothing_behind(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "target").mkdir()
        self.assertRaises(AccessError, replace_file, str(folder / "target"), "text")
        self.assertEqual([entry.name for entry in folder.iterdir()], ["target"])


class TestModes(SynchronousTestCase):
    def problem(self, mode: int, secret: bool = True) -> "str | None":
        path = Path(self.mktemp())
        path.write_text("x")
        path.chmod(mode)
        return mode_problem(str(path), secret)

    def test_modes_are_judged(self) -> None:
        """Row 84."""
        self.assertIsNone(self.problem(0o600))
        self.assertIsNone(self.problem(0o640))
        self.assertIsNone(self.problem(0o644, secret=False))
        for mode, secret in ((0o644, True), (0o660, True), (0o602, True), (0o666, False), (0o664, False)):
            self.assertIn(f"{mode:04o}", self.problem(mode, secret) or "", oct(mode))
        self.assertIn("No such file", mode_problem("/nonexistent") or "")
