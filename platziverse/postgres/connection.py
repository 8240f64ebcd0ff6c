"""Connection: one of txpostgres, with the deadlines that txpostgres does not have.

txpostgres' ``cancel()`` can hold the whole process for seconds, and ``addTimeout`` cancels. So neither is
used anywhere: a statement that takes too long loses its connection.
"""

from collections.abc import Generator
from typing import Any, Final, TypeVar

import psycopg2
from psycopg2.extensions import QueryCanceledError, make_dsn, parse_dsn
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.python.failure import Failure
from txpostgres import txpostgres
from zope.interface import implementer

T = TypeVar("T")


#: Signs of life keep what is idle in the memory of firewalls, and tell soon what has been forgotten.
_DEFAULTS: Final = {
    "application_name": "platziverse",
    "target_session_attrs": "read-write",
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
#: What libpq calls the server that has refused an asynchronous connection; it names others.
_THAT_HOST: Final = "that host"


class DeadlinePassed(psycopg2.OperationalError):
    """The server did not answer in time; the connection was closed, and the outcome is unknown."""


class Cursor(txpostgres.Cursor):  # type: ignore[misc]
    """A Cursor hands statements over while its connection does not watch the socket.

    libpq may find out meanwhile that the connection is dead, and closes the socket. The reactor would go on
    to watch its descriptor, which may be that of another connection the next moment.
    """

    def _doit(self, name: str, *arguments: Any, **keywords: Any) -> "Deferred[Any]":
        connection = self._connection
        connection.reactor.removeReader(connection)
        answer: Deferred[Any] = super()._doit(name, *arguments, **keywords)
        if not connection._cursors:
            connection.watch()  # not sent, but the connection may be as good as ever
        return answer


class Connection(txpostgres.Connection):  # type: ignore[misc]
    """A Connection is one whose end is no error: ``closed`` is set, and the next statement fails."""

    cursorFactory = Cursor

    def watch(self) -> None:
        """Watch the socket between two statements, to notice the end of the server above all."""
        if self.closed:
            return
        if self.fileno() < 0:
            force_close(self)  # libpq has closed its socket, which psycopg2 has not noticed yet
        else:
            self.reactor.addReader(self)
            self.checkForNotifies()

    def cursorFinished(self, cursor: Cursor) -> None:
        self._cursors.remove(cursor)
        self.watch()

    def doRead(self) -> None:
        self.reactor.removeReader(self)
        try:
            self.continuePolling()
        except psycopg2.Error:
            force_close(self)
        self.watch()


def force_close(connection: Any) -> None:
    """Close ``connection`` at once; Deferreds of its statements errback. Harmless when repeated."""
    if connection.pollable() is None:
        return
    # txpostgres' own close() forgets the cursors; with asyncio's reactor the next socket pays for it.
    for waiting in (*connection._cursors, connection):
        connection.reactor.removeReader(waiting)
        connection.reactor.removeWriter(waiting)
    try:
        connection.pollable().close()
        connection.close()
    except psycopg2.Error:
        pass  # it was broken already, and is closed now


def timed(connection: Any, deferred: "Deferred[T]", seconds: float) -> "Deferred[T]":
    """Give ``deferred``, of a statement on ``connection``, a deadline; return it.

    After ``seconds`` the connection is closed, and it errbacks ``DeadlinePassed``. When the server canceled
    the statement it errbacks ``QueryCanceledError`` instead of txpostgres' ``CancelledError``, and when the
    reactor saw the end of the connection first, as it may, with that. All are ``psycopg2.OperationalError``.
    """
    passed = False

    def late() -> None:
        nonlocal passed
        passed = True
        force_close(connection)

    def done(result: T) -> T:
        if call.active():
            call.cancel()
        if passed and isinstance(result, Failure):
            raise DeadlinePassed(f"no answer from the database within {seconds:.1f} s")
        if isinstance(result, Failure) and isinstance(result.value, CancelledError):
            raise QueryCanceledError("the database canceled the statement") from result.value
        if isinstance(result, Failure) and isinstance(result.value, ConnectionDone | ConnectionLost):
            raise psycopg2.OperationalError("the connection to the database has ended") from result.value
        return result

    call = connection.reactor.callLater(seconds, late)
    return deferred.addBoth(done)


@inlineCallbacks
def connect(
    dsn: str, reactor: Any, deadline: float = 10.0, **parameters: Any
) -> Generator["Deferred[Any]", Any, Connection]:
    """Connect to a server that takes writes; the Deferred fires with the :class:`Connection`.

    :param deadline: seconds for resolving the name and connecting together.
    :param parameters: further libpq parameters, e.g. ``options="-c statement_timeout=10000"``.
    :raises psycopg2.OperationalError: the server refuses, cannot be reached, or is too late
        (``DeadlinePassed``).
    """
    since = reactor.seconds()
    given = {**_DEFAULTS, **parse_dsn(dsn), **parameters}
    where = f"{given.get('host', '')}, port {given.get('port', 5432)},"
    given = yield _with_addresses(given, reactor, deadline)
    connection = Connection(reactor=reactor)
    left = max(0.1, deadline - (reactor.seconds() - since))
    try:
        yield timed(connection, connection.connect(make_dsn(**given)), left)
    except ValueError as error:  # from the reactor: there is no socket to watch any more
        force_close(connection)
        raise psycopg2.OperationalError("the connection was lost as soon as it was there") from error
    except Exception as error:
        force_close(connection)
        if _THAT_HOST in str(error):
            raise psycopg2.OperationalError(str(error).replace(_THAT_HOST, where)) from error
        raise
    return connection


@inlineCallbacks
def _with_addresses(
    given: dict[str, Any], reactor: Any, deadline: float
) -> Generator["Deferred[list[str]]", list[str], dict[str, Any]]:
    """Add ``hostaddr`` to the parameters ``given``; the Deferred fires with them.

    Without it libpq would resolve names inside ``connect()``, and hold the whole process meanwhile.
    """
    hosts = str(given.get("host", "")).split(",")
    if "hostaddr" in given or all(_needs_no_resolver(host) for host in hosts):
        return given
    ports = str(given.get("port", "5432")).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if len(ports) != len(hosts):
        return given  # libpq says what is wrong with it
    rows = []
    for host, port in zip(hosts, ports, strict=True):
        addresses = [""] if _needs_no_resolver(host) else (yield _resolve(host, reactor, deadline))
        rows += [(host, address, port) for address in addresses]
    names = zip(("host", "hostaddr", "port"), zip(*rows, strict=True), strict=True)
    return {**given, **{name: ",".join(values) for name, values in names}}


def _needs_no_resolver(host: str) -> bool:
    return not host or host[0] in "/@" or isIPAddress(host) or isIPv6Address(host)


def _resolve(host: str, reactor: Any, deadline: float) -> "Deferred[list[str]]":
    answer: Deferred[list[str]] = Deferred()
    receiver = _Addresses(host, answer)
    call = reactor.callLater(deadline, receiver.resolutionComplete)

    def done(result: list[str]) -> list[str]:
        if call.active():
            call.cancel()
        return result

    answer.addBoth(done)
    reactor.nameResolver.resolveHostName(receiver, host)
    return answer


@implementer(IResolutionReceiver)
class _Addresses:
    """_Addresses collects the addresses that a resolver finds, each of them once."""

    def __init__(self, host: str, answer: "Deferred[list[str]]") -> None:
        self._host, self._answer = host, answer
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None: ...

    def addressResolved(self, address: IAddress) -> None:
        host: str = address.host  # type: ignore[attr-defined]
        if host not in self._found:
            self._found.append(host)

    def resolutionComplete(self) -> None:
        if self._answer.called:
            return
        if self._found:
            self._answer.callback(self._found)
        else:
            self._answer.errback(psycopg2.OperationalError(f"the host name {self._host!r} is unknown"))
