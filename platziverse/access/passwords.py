"""Passwords: users and their argon2 hashes, in a file of ``user:hash`` lines or in a table.

Behind the hash, and a space, may stand what SCRAM needs; see :mod:`platziverse.access.scram`. Checking a
password costs some 20 ms of a processor on purpose, and happens in a thread of its own.
"""

import os
from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Final, Protocol

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from platziverse.access.files import AccessError, read_lines, replace_file
from platziverse.access.scram import make_keys, parse_keys
from platziverse.mqtt.memo import Recent

#: 19 MiB, two passes, one lane: OWASP's recommendation; a login of every agent of a fleet must be bearable.
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
#: Longest user name and password, in bytes: CONNECT has no room for more.
LONGEST: Final = 65_535
#: Seconds that a login may wait for a thread. Who has waited longer will soon be cut off, or has been, and to
#: hash for those who are gone would keep everybody else out: CONNECT may take 10 s.
PATIENCE: Final = 8.0
#: Users remembered with the password that was right last time.
REMEMBERED: Final = 20_000


class LoginsUnavailable(Exception):
    """No login can be checked now; the text says why in one line."""


class UserTable(Protocol):
    """A UserTable knows users and the hashes of their passwords, in the database for example."""

    def password_hash(self, username: str) -> "Deferred[str | None]":
        """Fire with the argon2 hash of a user's password; ``None``: there is no such user."""


class PasswordFile:
    """A PasswordFile has the users of a password file, in memory.

    :param hashes: argon2 hash by user name.
    """

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)

    @classmethod
    def load(cls, path: str) -> "PasswordFile":
        """Read a file.

        :raises AccessError: it cannot be read, has no users, or a line that is no ``user:hash``.
        """
        users = cls(_parse(path))
        if not users._hashes:
            raise AccessError(path, "it holds no user; add one with: platziverse passwd")
        return users

    def password_hash(self, username: str) -> "Deferred[str | None]":
        """Fire at once; see :class:`UserTable`."""
        return succeed(self._hashes.get(username))

    def __len__(self) -> int:
        return len(self._hashes)


def _parse(path: str) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        username, colon, hashed = line.rstrip("\r").rpartition(":")
        if not colon or not _is_username(username):
            raise AccessError(path, "a line must be user:hash", number)
        argon2, _, keys = hashed.partition(" ")
        try:
            extract_parameters(argon2)
            if keys:
                parse_keys(keys)
        except InvalidHashError:
            reason = f"the password of {username!r} is no argon2 hash; set it with: platziverse passwd"
            raise AccessError(path, reason, number) from None
        except ValueError as error:
            raise AccessError(
                path, f"user {username!r}: {error}; use: platziverse passwd --scram", number
            ) from None
        if username in hashes:
            raise AccessError(path, f"user {username!r} is there twice", number)
        hashes[username] = hashed
    return hashes


def _is_username(username: str) -> bool:
    return bool(username) and username == username.strip() and username.isprintable()


def set_password(path: str, username: str, password: bytes, scram: bool = False) -> None:
    """Add a user to a password file, or give it another password. The file is made when there is none.

    :param scram: see :func:`hash_password`.
    :raises AccessError: the name or the password is empty or unusable, or the file is broken.
    """
    hashed = hash_password(path, username, password, scram)
    hashes = _parse(path) if os.path.exists(path) else {}
    hashes[username] = hashed
    _write(path, hashes)


def hash_password(place: str, username: str, password: bytes, scram: bool = False) -> str:
    """Return the argon2 hash of a password.

    :param place: names the file or table in messages.
    :param scram: with the keys for SCRAM behind it.
    :raises AccessError: the name or the password cannot be used.
    """
    if not _is_username(username) or len(username.encode()) > LONGEST:
        raise AccessError(place, f"{username!r:.100} cannot be a user name")
    if not password:
        raise AccessError(place, "the password is empty")
    if len(password) > LONGEST:
        raise AccessError(place, f"the password is longer than {LONGEST} bytes")
    if not scram:
        return HASHER.hash(password)
    try:
        return f"{HASHER.hash(password)} {make_keys(password)}"
    except ValueError as error:
        raise AccessError(place, f"the password of {username!r}: {error}") from None


def remove_user(path: str, username: str) -> None:
    """Take a user out of a password file.

    :raises AccessError: there is none of that name, or the file cannot be used.
    """
    hashes = _parse(path)
    if username not in hashes:
        raise AccessError(path, f"there is no user {username!r}")
    del hashes[username]
    _write(path, hashes)


def users(path: str) -> list[str]:
    """Return the names in a password file, in its order.

    :raises AccessError: the file cannot be used.
    """
    return list(_parse(path))


def _write(path: str, hashes: Mapping[str, str]) -> None:
    replace_file(path, "".join(f"{username}:{hashed}\n" for username, hashed in hashes.items()))


def verify(hashed: str, password: bytes) -> bool:
    """Return whether ``password`` belongs to ``hashed``: slow on purpose, in the same time for all."""
    try:
        return HASHER.verify(hashed.partition(" ")[0], password)
    except (VerificationError, InvalidHashError):
        return False


@implementer(ICredentialsChecker)
class PasswordChecker:
    """A PasswordChecker checks ``IUsernamePassword`` against tables of users, the first that has the name.

    A fleet that reconnects shows the passwords it has just shown. What was right is remembered, as a keyed
    hash together with the hash it was checked against, and costs no thread again until either changes.

    :param reactor: tells steady time, in threads too, and takes calls from them.
    :param pool: its threads do the hashing; started and stopped by its owner.
    :ivar tables: in the order in which they are asked; may be replaced.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, tables: "tuple[UserTable, ...]", reactor: Any, pool: ThreadPool) -> None:
        self.tables = tables
        self._reactor = reactor
        self._pool = pool
        self._stopped = False
        # An unknown user costs what a known one does.
        self._decoy = HASHER.hash(os.urandom(16))
        self._key = os.urandom(32)
        self._right: Recent[str, bytes] = Recent(REMEMBERED)

    def use_password_file(self, users: PasswordFile) -> None:
        """Ask ``users`` instead of the users of the file as it was before."""
        self.tables = tuple(users if isinstance(table, PasswordFile) else table for table in self.tables)

    def knows(self, username: str) -> "Deferred[bool]":
        """Fire with whether a table has a user; errbacks with ``LoginsUnavailable``."""
        found: Deferred[Any] = self._find(username)
        return found.addCallback(lambda hashed: hashed is not None)

    def scram_keys(self, username: str) -> "Deferred[str | None]":
        """Fire with what SCRAM needs of a user; ``None``: there is no such user, or nothing of that."""
        found: Deferred[Any] = self._find(username)
        return found.addCallback(lambda hashed: (hashed or "").partition(" ")[2] or None)

    def stop(self) -> None:
        """Hash no more: logins that wait for a thread errback at once, and the pool can be stopped."""
        self._stopped = True

    @inlineCallbacks
    def requestAvatarId(self, credentials: Any) -> "Any":
        """Fire with the user name, in UTF-8.

        Errbacks with ``UnauthorizedLogin``, which does not say what was wrong, or ``LoginsUnavailable``.
        """
        username, password = credentials.username.decode(), credentials.password
        hashed = yield self._find(username)
        proof = blake2b(f"{hashed}\0".encode() + password, key=self._key).digest()
        if not compare_digest(self._right.get(username) or b"", proof):
            right = yield self._verify(hashed or self._decoy, password)
            if hashed is None or not right:
                raise UnauthorizedLogin("wrong user name or password")
            self._right.put(username, proof)
        return credentials.username

    def _verify(self, hashed: str, password: bytes) -> "Deferred[bool]":
        asked = self._reactor.seconds()
        return deferToThreadPool(self._reactor, self._pool, self._work, hashed, password, asked)

    def _work(self, hashed: str, password: bytes, asked: float) -> bool:
        """Verify a password, in a thread."""
        if self._stopped:
            raise LoginsUnavailable("the daemon is stopping")
        if self._reactor.seconds() - asked > PATIENCE:
            raise LoginsUnavailable("too many logins at a time")
        return verify(hashed, password)

    @inlineCallbacks
    def _find(self, username: str) -> "Any":
        for table in self.tables:
            hashed = yield table.password_hash(username)
            if hashed is not None:
                return hashed
        return None
