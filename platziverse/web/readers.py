"""Readers: who has sent a request, and what it may see."""

from base64 import b64decode
from binascii import Error
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.web.server import Request


class Reader(Protocol):
    """A Reader has sent a request; two are equal if they may see the same."""

    @property
    def may_read(self) -> bool:
        """Return whether it may read at all; that may change at any time."""

    def may_receive(self, topic: str) -> bool:
        """Return whether it may receive messages of a Topic Name."""


class Anyone:
    """Anyone may see everything; so is everybody to whom the API is open."""

    may_read = True

    def may_receive(self, topic: str) -> bool:
        return True


ANYONE: Final = Anyone()


@frozen
class Login:
    """A Login is what a request shows of who has sent it.

    :ivar username: ``None``: nothing.
    :ivar address: of the client, for logs.
    :ivar near: the client is on this machine, and no proxy.
    :ivar transport: may have a certificate of the client.
    """

    username: str | None
    password: bytes
    address: str
    near: bool
    transport: Any


class Logins(Protocol):
    """Logins knows the users of MQTT."""

    def lets_in(self, near: bool) -> bool:
        """Return whether a reader without a login may read, as an MQTT client without one may connect."""

    def log_in(self, login: Login) -> "Deferred[Reader]":
        """Find out who a reader is; the Deferred errbacks with ``HTTPError``: 401, 403 or 503."""


def reader_of(request: Request) -> Reader:
    """Return who has sent a request."""
    found: Any = request
    reader: Reader = found.reader
    return reader


def credentials(header: str) -> tuple[str, bytes] | None:
    """Return user name and password of a header ``Authorization`` (RFC 7617); ``None``: it has none."""
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
        username = name.decode()
    except (Error, ValueError):
        return None
    if scheme.lower() != "basic" or not colon or not username or "\0" in username:
        return None
    return username, password
