"""Scram: logins by SCRAM-SHA-256 (RFC 5802 and RFC 7677), in which nobody sends a password.

What is stored of a password stands behind its argon2 hash, where there is one: ``SCRAM-SHA-256``, the
iterations, and in Base64 salt, stored key and server key, with ``$`` between them. Nobody can log in with it
alone. Decided in ADR 0195.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed

#: Of CONNECT and AUTH.
METHOD: Final = "SCRAM-SHA-256"
#: Of PBKDF2, for keys made here; the client has to do them at each login, and RFC 7677 demands 4096.
ITERATIONS: Final = 10_000
LEAST_ITERATIONS: Final = 4096
_SALT: Final = 16
_KEY: Final = 32
#: Of one message of a client; its names are at most ``passwords.LONGEST``, and nothing else in it is long.
LONGEST_MESSAGE: Final = 70_000

#: Salt, stored key, server key and iterations: as the library has them.
Keys: TypeAlias = tuple[bytes, bytes, bytes, int]


def _mechanism() -> Any:
    # When the first client needs it: the library brings a parser of certificates, of some MiB, along.
    from scramp import ScramMechanism

    return ScramMechanism(METHOD)


def make_keys(password: bytes) -> str:
    """Return what is stored of a password, as text.

    :raises ValueError: it is not UTF-8, or has characters that no password may have (RFC 4013).
    """
    from scramp import ScramException

    try:
        salt, stored, server, count = _mechanism().make_auth_info(
            password.decode(), ITERATIONS, os.urandom(_SALT)
        )
    except (UnicodeDecodeError, ScramException) as error:
        raise ValueError(f"it cannot be used with SCRAM: {error}") from error
    return "$".join([METHOD, str(count), *[b64encode(part).decode() for part in (salt, stored, server)]])


def parse_keys(text: str) -> Keys:
    """Return what :func:`make_keys` has made.

    :raises ValueError: the text is something else.
    """
    try:
        method, count, *parts = text.split("$")
        salt, stored, server = (b64decode(part, validate=True) for part in parts)
        iterations = int(count)
    except ValueError as error:
        raise ValueError(f"{text!r:.40} has no keys for SCRAM") from error
    right = method == METHOD and iterations >= LEAST_ITERATIONS and len(salt) >= _SALT
    if not right or len(stored) != _KEY or len(server) != _KEY:
        raise ValueError(f"{text!r:.40} has no keys for SCRAM")
    return salt, stored, server, iterations


class ScramExchange:
    """A ScramExchange is one login: two messages of the client, and an answer to each.

    A user who is not there, or has no keys, is answered like another one, with a salt that is always the
    same, and then refused: nobody finds out which names there are.

    :param find: fires with the keys of a user, as text; ``None``: there are none.
    :param secret: of this process; makes the salt of those who are not there.
    :ivar username: who it is; ``None``: that is not proven yet.
    :ivar claimed: who it says to be.
    """

    def __init__(self, find: "Callable[[str], Deferred[str | None]]", secret: bytes) -> None:
        self._find, self._secret = find, secret
        self._server: Any = None
        self._known = False
        self.username: str | None = None
        self.claimed = ""

    def step(self, data: bytes) -> "Deferred[bytes]":
        """Take a message of the client; fire with the answer.

        Errbacks with ``UnauthorizedLogin``, which does not say what was wrong, or as ``find`` does.
        """
        try:
            if len(data) > LONGEST_MESSAGE or self.username is not None:
                raise ValueError("it is too long, or comes too late")
            text = data.decode()
            return self._begin(text) if self._server is None else succeed(self._finish(text))
        except ValueError as error:
            return fail(UnauthorizedLogin(str(error)))

    def _begin(self, text: str) -> "Deferred[bytes]":
        """Look up who the client says to be, and challenge it.

        The library asks for the keys while it reads the message, and cannot wait for them; so it reads it
        twice, the first time for the name alone.
        """
        names: list[str] = []

        def note(username: str) -> Keys:
            names.append(username)
            return self._decoy(username)

        _reading(note, text)
        [self.claimed] = names
        return self._find(self.claimed).addCallback(self._challenge, text)

    def _challenge(self, found: str | None, text: str) -> bytes:
        self._known = found is not None
        keys = parse_keys(found) if found is not None else self._decoy(self.claimed)
        self._server = _reading(lambda _: keys, text)
        answer: str = self._server.get_server_first()
        return answer.encode()

    def _finish(self, text: str) -> bytes:
        """Check the proof; it costs some hashes and no thread.

        :raises ValueError: it proves nothing.
        """
        from scramp import ScramException

        try:
            self._server.set_client_final(text)
            answer: str = self._server.get_server_final()
        except ScramException as error:
            raise ValueError(str(error)) from error
        if not self._known:
            raise ValueError("there is no such user")
        self.username = self.claimed
        return answer.encode()

    def _decoy(self, username: str) -> Keys:
        """Return keys that no password has."""
        digest = blake2b(username.encode(), key=self._secret).digest()
        return digest[:_SALT], digest[:_KEY], digest[-_KEY:], ITERATIONS


def _reading(find: Callable[[str], Keys], text: str) -> Any:
    """Return a server of the library that has read the first message of a client.

    :raises ValueError: it is none.
    """
    from scramp import ScramException

    server = _mechanism().make_server(find)
    try:
        server.set_client_first(text)
    except ScramException as error:
        raise ValueError(str(error)) from error
    return server
