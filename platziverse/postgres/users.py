"""DatabaseUsers: the table that logins ask, and that a command edits with plain psycopg2."""

from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from platziverse.postgres.reader import Reader

#: Names in one question.
BATCH: Final = 500

_SET: Final = """INSERT INTO mqtt_users (username, "passwordHash") VALUES (%s, %s)
    ON CONFLICT (username) DO UPDATE SET "passwordHash" = excluded."passwordHash", "updatedAt" = now()"""


class DatabaseUsers:
    """DatabaseUsers asks the table for users, for many of them in one question.

    All names that are asked for while a question is under way form the next one, so a fleet that logs in at
    once takes a handful of questions.

    :param reader: has connections that nothing else uses.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._asked: dict[str, list[Deferred[str | None]]] = {}
        self._asking = False

    def password_hash(self, username: str) -> "Deferred[str | None]":
        """Fire with the hash of a user's password; ``None``: there is no such user.

        The Deferred errbacks with the reader's exception when the database is away.
        """
        if "\0" in username:
            return succeed(None)  # PostgreSQL has no such text
        answer: Deferred[str | None] = Deferred()
        self._asked.setdefault(username, []).append(answer)
        if not self._asking:
            self._ask()
        return answer

    def _ask(self) -> None:
        names = list(self._asked)[:BATCH]
        self._asking = bool(names)
        if names:
            asked = {name: self._asked.pop(name) for name in names}
            answers: Deferred[Any] = self._reader.password_hashes(names)
            answers.addBoth(self._answer, asked)

    def _answer(
        self, found: dict[str, str] | Failure, asked: "dict[str, list[Deferred[str | None]]]"
    ) -> None:
        for name, waiting in asked.items():
            for answer in waiting:
                answer.callback(found if isinstance(found, Failure) else found.get(name))
        self._ask()


def set_user(connection: Any, username: str, password_hash: str) -> None:
    """Add a user, or give one another password.

    :param connection: of psycopg2, in autocommit.
    :raises psycopg2.Error: there is no such table, or it may not be written.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SET, (username, password_hash))


def remove_user(connection: Any, username: str) -> bool:
    """Take a user out; return whether there was one.

    :raises psycopg2.Error: there is no such table, or it may not be written.
    """
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM mqtt_users WHERE username = %s", (username,))
        return bool(cursor.rowcount)


def list_users(connection: Any) -> list[str]:
    """Return all names, sorted.

    :raises psycopg2.Error: there is no such table, or it may not be read.
    """
    with connection.cursor() as cursor:
        cursor.execute('SELECT username FROM mqtt_users ORDER BY username COLLATE "C"')
        return [name for (name,) in cursor]
