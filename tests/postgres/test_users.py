"""The table of users, on a real server."""

from collections.abc import Generator
from typing import Any, cast

import psycopg2
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from platziverse.command.database import connected
from platziverse.postgres import users
from platziverse.postgres.users import BATCH, DatabaseUsers
from tests.postgres.test_reader import Away, ReaderCase

Steps = Generator["Deferred[Any]", Any, None]


class UserTests(ReaderCase):
    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        yield super().setUp()
        self.users = DatabaseUsers(self.reader)

    @inlineCallbacks
    def test_a_user_has_the_hash_that_the_command_has_written(self) -> Steps:
        with connected(self.dsn) as connection:
            users.set_user(connection, "ana", "$argon2id$1")
            users.set_user(connection, "ana", "$argon2id$2")
            users.set_user(connection, "böb", "$argon2id$3")
            self.assertEqual(users.list_users(connection), ["ana", "böb"])
        self.assertEqual((yield self.users.password_hash("ana")), "$argon2id$2")
        self.assertEqual((yield self.users.password_hash("böb")), "$argon2id$3")
        with connected(self.dsn) as connection:
            self.assertTrue(users.remove_user(connection, "ana"))
            self.assertFalse(users.remove_user(connection, "ana"))
        self.assertIsNone((yield self.users.password_hash("ana")))

    @inlineCallbacks
    def test_no_name_is_anything_but_a_name(self) -> Steps:
        """Row 82."""
        with connected(self.dsn) as connection:
            users.set_user(connection, "ana", "$argon2id$1")
        for name in ("", "ANA", "ana ", "ana\0", "' OR ''='", "%", "%s", "a" * 65_535):
            self.assertIsNone((yield self.users.password_hash(name)), name)

    @inlineCallbacks
    def test_a_database_that_is_away_is_no_answer(self) -> Steps:
        """Row 82: never an open door."""
        reader = self.opened(deadline=0.3)
        asked = DatabaseUsers(reader)
        yield self.assertFailure(asked.password_hash("ana"), Away)
        reader.dsn = "host=/nonexistent dbname=x"
        failing = [self.assertFailure(asked.password_hash(name), Away) for name in ("ana", "bob", "ana")]
        yield gatherResults(failing)
        reader.dsn = self.dsn  # and afterwards it is asked again
        self.assertIsNone((yield asked.password_hash("ana")))

    def test_the_table_takes_no_nameless_user_and_no_password_in_the_clear(self) -> None:
        """Row 80."""
        with connected(self.dsn) as connection:
            for name, hashed in (("", "$argon2id$1"), ("ana", ""), ("ana", "secret")):
                self.assertRaises(psycopg2.IntegrityError, users.set_user, connection, name, hashed)


class Questions:
    """In the place of a reader: keeps what was asked, and answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Deferred[dict[str, str]]]] = []

    def password_hashes(self, usernames: list[str]) -> "Deferred[dict[str, str]]":
        answer: Deferred[dict[str, str]] = Deferred()
        self.asked.append((usernames, answer))
        return answer


class FleetTests(SynchronousTestCase):
    def test_a_fleet_that_logs_in_at_once_is_a_handful_of_questions(self) -> None:
        questions = Questions()
        asked = DatabaseUsers(cast(Any, questions))
        names = [str(number) for number in range(1200)]
        answers = [asked.password_hash(name) for name in [*names, "7"]]
        for known in ({"0": "h0"}, {"7": "h7"}, {}, {}):
            questions.asked[-1][1].callback(known)
        self.assertEqual([len(names) for names, _ in questions.asked], [1, BATCH, BATCH, 199])
        found = [self.successResultOf(answer) for answer in answers]
        self.assertEqual(
            {number: hashed for number, hashed in enumerate(found) if hashed}, {0: "h0", 7: "h7", 1200: "h7"}
        )
