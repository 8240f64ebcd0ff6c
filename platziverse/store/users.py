"""The table of users, from a command: plain psycopg2. The daemon asks through :class:`~.reader.Reader`."""

from typing import Any, Final

_SET: Final = """INSERT INTO mqtt_users (username, "passwordHash") VALUES (%s, %s)
    ON CONFLICT (username) DO UPDATE SET "passwordHash" = excluded."passwordHash", "updatedAt" = now()
    RETURNING "createdAt" = "updatedAt" """


def set_user(connection: Any, username: str, password_hash: str) -> bool:
    """Add a user, or give one another password.

    :param connection: of psycopg2, in autocommit.
    :returns: whether the user is new.
    :raises psycopg2.Error: there is no such table, or it may not be written.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SET, (username, password_hash))
        return bool(cursor.fetchone()[0])


def remove_user(connection: Any, username: str) -> bool:
    """Take a user out; ``False``: there was none. :raises psycopg2.Error:"""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM mqtt_users WHERE username = %s", (username,))
        return bool(cursor.rowcount)


def list_users(connection: Any) -> list[str]:
    """All names, sorted. :raises psycopg2.Error:"""
    with connection.cursor() as cursor:
        cursor.execute('SELECT username FROM mqtt_users ORDER BY username COLLATE "C"')
        return [name for (name,) in cursor]
