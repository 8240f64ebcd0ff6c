"""Server: how a connection to Redis is made and logged in."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError, UserError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from platziverse.bus.kept import Gone, Steps, using
from platziverse.bus.resp import Refused, RespConnection
from platziverse.bus.tls import TlsFiles
from platziverse.bus.url import BusUrl
from platziverse.errors import Unusable

#: Seconds for connecting; resolving the name is among them.
DEADLINE: Final = 5.0


class Server:
    """A Server opens connections to servers that all want the same login.

    :param url: says how: TLS, user name, password, database; its hosts are not looked at.
    :param password: returns that which does not stand in the URL, ``""`` if that has it; asked for each
        connection, as its file may have another one by then. It may raise ``Unusable``.
    :param tls: files for TLS.
    """

    def __init__(
        self, reactor: Any, url: BusUrl, password: Callable[[], str], tls: TlsFiles, client_name: str
    ) -> None:
        self.reactor = reactor
        self._url, self._password, self._tls = url, password, tls
        self._client_name = client_name

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint of a server on ``host``; without a host that of the Unix socket."""
        if not host:
            return UNIXClientEndpoint(self.reactor, self._url.path, DEADLINE)
        plain = HostnameEndpoint(self.reactor, host, port, DEADLINE)
        return wrapClientTLS(self._tls.options(host), plain) if self._url.tls else plain

    @inlineCallbacks
    def open(
        self,
        place: tuple[str, int],
        message: Callable[[bytes, bytes], None] | None = None,
        sentinel: bool = False,
        login: bool = True,
    ) -> Steps:
        """Connect to host and port, and log in; the Deferred fires with the :class:`RespConnection`.

        :param message: called with channel and payload, for a connection that subscribes.
        :param sentinel: it has no databases to select from.
        :param login: false: without, as most Sentinels want it.
        :raises Gone: it cannot be reached, or refuses us; the text says why and what to do.
        """
        host, port = place
        name = f"{host}:{port}" if host else self._url.path
        made = partial(RespConnection, self.reactor, name, message)
        try:
            password = self._password() if login else ""
            connection: RespConnection = yield self._endpoint(host, port).connect(Factory.forProtocol(made))
        except (ConnectError, ConnectingCancelledError, DNSLookupError, UserError, OSError) as error:
            raise Gone(f"{name} cannot be reached: {_text(error)}") from error
        except Unusable as error:  # a file, which was good when we started
            raise Gone(str(error)) from error
        password = password or (self._url.password if login else "")
        yield using(connection, self._log_in(connection, password, select=not sentinel), keep=True)
        return connection

    @inlineCallbacks
    def _log_in(self, connection: RespConnection, password: str, select: bool) -> Steps:
        user = self._url.username
        if password:
            words = [user, password] if user else [password]
            yield connection.command(b"AUTH", *(word.encode() for word in words))
        if select and self._url.database:
            yield connection.command(b"SELECT", b"%d" % self._url.database)
        try:
            yield connection.command(b"CLIENT", b"SETNAME", self._client_name.encode())
        except Refused as error:
            # The name is for people, and a user without the right to it may have all that we need.
            if not error.said.startswith("NOPERM"):
                raise


def _text(error: Exception) -> str:
    if isinstance(error, ConnectError) and error.osError is not None:
        return str(error).partition(":")[0]
    return str(error) or type(error).__name__
