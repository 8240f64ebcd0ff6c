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
    def username(self) -> str | None:
        """Return the user that it has been found to be, if any."""

    @property
    def may_read(self) -> bool:
        """Return whether it may read at all; that may change at any time."""

    @property
    def may_change(self) -> bool:
        """Return whether it may end connections, trace clients and replay messages; likewise."""

    def may_receive(self, topic: str) -> bool:
        """Return whether it may receive messages of a Topic Name."""


class Anyone:
    """Anyone may see everything; so is everybody to whom the API is open.

    :ivar may_change: and do everything; so is who has come through the socket of operators.
    """

    username = None
    may_read = True

    def __init__(self, may_change: bool = False) -> None:
        self.may_change = may_change

    def may_receive(self, topic: str) -> bool:
        return True


ANYONE: Final = Anyone()
OPERATOR: Final = Anyone(may_change=True)


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

    @property
    def has_admins(self) -> bool:
        """Return whether a user may change anything over HTTP."""

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
