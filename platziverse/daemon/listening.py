"""Listeners: the ports of the daemon, opened at once and all, or one line that says why not."""

import errno
import os
import re
import socket
from contextlib import suppress
from typing import Any, Final, cast

from attrs import define, field
from twisted.internet import unix
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from platziverse.door.crowd import Crowd
from platziverse.door.port import guard
from platziverse.errors import Unusable

#: Twisted's 50 is too few for a fleet that reconnects at once.
BACKLOG: Final = 1024

#: What a listener takes: ``any`` of MQTT, HTTP and TLS with either; ``mqtt`` without HTTP; ``tls`` and
#: ``mqtts`` the same, but nothing that is not encrypted; ``operator`` of HTTP from whoever may change things,
#: which nobody can reach but over a Unix socket that is handed on.
PROTOCOLS: Final = ("any", "mqtt", "tls", "mqtts", "operator")

#: Prefix of an endpoint that is reached through a proxy.
PROXIED: Final = "haproxy:"

HINTS: Final = {
    errno.EADDRINUSE: "it is in use; stop what holds it, or name another with --listen",
    errno.EACCES: "this user may not; ports below 1024 need root or CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENOENT: "its directory does not exist",
}


class CannotListen(Unusable):
    """A CannotListen is one line that names the listener and says what to do.

    :param taken: something listens there already, for a check perhaps the daemon itself.
    """

    def __init__(self, text: str, taken: bool = False) -> None:
        super().__init__(text)
        self.taken = taken


def is_proxied(description: str) -> bool:
    """Connections there begin with a PROXY header, of version 1 or 2, that tells the client's address."""
    return description.startswith(PROXIED)


def completed(description: str, dual_stack: bool) -> str:
    """The endpoint description with our backlog, and for IPv6 as well where it names no interface."""
    if is_proxied(description):
        return PROXIED + completed(description.removeprefix(PROXIED), dual_stack)
    kind = description.partition(":")[0]
    if kind in ("tcp", "unix") and not re.search(r":backlog=", description):
        description += f":backlog={BACKLOG}"
    if kind == "tcp" and dual_stack and not re.search(r":interface=", description):
        description += r":interface=\:\:"
    return description


def divided(description: str) -> tuple[str, str]:
    """The endpoint that Twisted knows, and one of ``PROTOCOLS``, which may stand in ``description``.

    ``ssl:8883`` is ``tcp:8883:protocol=tls``: certificates are ours, so that they can be replaced.

    :raises CannotListen: a protocol that there is not, or files in ``ssl:``.
    """
    if is_proxied(description):
        endpoint, protocol = divided(description.removeprefix(PROXIED))
        return PROXIED + endpoint, protocol
    parts = re.split(r"(?<!\\):", description)
    given = [part.removeprefix("protocol=") for part in parts if part.startswith("protocol=")]
    kept = [part for part in parts if not part.startswith("protocol=")]
    if kept[0] == "ssl":
        if re.search(r":(privateKey|certKey)=", description):
            raise CannotListen(f"cannot listen on {description}: name the files in [tls], not here")
        kept[0], given = "tcp", given or ["tls"]
    protocol = given[-1] if given else "any"
    if protocol not in PROTOCOLS or (protocol == "operator" and kept[:2] != ["systemd", "domain=UNIX"]):
        known = ", ".join(PROTOCOLS[:-1])
        raise CannotListen(f"cannot listen on {description}: protocol must be one of {known}")
    return ":".join(kept), protocol


def readable(port: IListeningPort) -> str:
    """Return where a port listens: ``"[::]:1883"``, ``"127.0.0.1:1883"`` or the path of a socket."""
    address: Any = port.getHost()
    if (host := getattr(address, "host", None)) is None:
        name: bytes | str = address.name
        return name if isinstance(name, str) else name.decode(errors="replace")
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


@define
class Listeners:
    """Listeners opens the ports of the daemon, and closes them.

    :ivar ports: those of clients.

    :param reactor: opens the ports.
    :param crowd: counts the connections of all of them, and decides whether there is room.
    """

    _reactor: Any
    _crowd: Crowd
    ports: list[IListeningPort] = field(factory=list, init=False)
    _operators: list[IListeningPort] = field(factory=list, init=False)
    # Of sockets that are ours.
    _files: list[str] = field(factory=list, init=False)

    def listen(self, description: str, factory: IProtocolFactory) -> None:
        """Open one more port for ``factory``.

        :raises CannotListen: it cannot be opened.
        """
        for port in open_ports(self._reactor, description, factory):
            guard(port, self._crowd, is_proxied(description))
            self.ports.append(port)

    def listen_for_operators(self, description: str, factory: IProtocolFactory) -> None:
        """Open one more, where nothing is counted: operators come when all is full.

        :raises CannotListen: it cannot be opened.
        """
        self._operators += open_ports(self._reactor, description, factory)

    def adopt(self, opened: socket.socket, factory: IProtocolFactory) -> None:
        """Answer operators on a socket that is open; likewise."""
        self._files.append(opened.getsockname())
        with opened:
            self._operators.append(_adopted(self._reactor, opened.fileno(), factory))

    def stop(self) -> "Deferred[Any]":
        """Close all ports; fires when that is done."""
        files, self._files = self._files, []
        for path in files:
            with suppress(OSError):
                os.unlink(path)
        ports, self.ports, self._operators = [*self.ports, *self._operators], [], []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], consumeErrors=True)


class _Keeping:
    """A _Keeping is a reactor that adopts Unix sockets as they are."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def adoptStreamPort(self, descriptor: int, family: int, factory: IProtocolFactory) -> Any:
        """Listen on a socket that somebody else has opened."""
        if family != socket.AF_UNIX or not isinstance(self._reactor, ReactorBase):
            return self._reactor.adoptStreamPort(descriptor, family, factory)
        return _adopted(self._reactor, descriptor, factory)


def _adopted(reactor: Any, descriptor: int, factory: IProtocolFactory) -> unix.Port:
    """Listen on a Unix socket that is open, whose file is another's.

    Twisted would let everybody write to the file, whatever its mode, and remove it at the end although others
    listen there too. It does neither where the name is abstract, so it is told that it is. ADR 0177.
    """
    port: Any = unix.Port._fromListeningDescriptor(reactor, descriptor, factory)
    port._bindPath = b"\0"
    port.startListening()
    return cast(unix.Port, port)


class _Trial:
    """A _Trial is the part of a reactor that an endpoint asks for a port; it opens none for longer."""

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        """Try the port.

        :raises CannotListenError: it cannot be opened.
        """
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((interface, port))
                trial.listen(1)
            except OSError as error:
                raise CannotListenError(interface, port, error) from None

    def listenUNIX(self, address: object, factory: object, **more: object) -> None:
        """Accept any: a socket that was left behind is replaced, and a trial would do so."""


def try_to_listen(description: str) -> None:
    """Do what a start does with one of ``listen``, and leave nothing open.

    :raises CannotListen: it is no endpoint, or cannot be opened now.
    """
    endpoint, _ = divided(description)
    if not endpoint.removeprefix(PROXIED).startswith("systemd:"):  # has its sockets when systemd starts us
        open_ports(_Trial(), endpoint, Factory())


def open_ports(reactor: Any, description: str, factory: IProtocolFactory) -> list[Any]:
    """Let ``reactor`` open what one description asks for; return all that it answered with.

    :raises CannotListen: it is no endpoint, or cannot be opened.
    """
    # The factory reads the header of a proxy: ADR 0096.
    text = completed(description, socket.has_dualstack_ipv6()).removeprefix(PROXIED)
    opened: list[Any] = []
    failed: list[Failure] = []
    try:
        endpoint = serverFromString(_Keeping(reactor), text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise CannotListen(f"cannot listen on {description}: {_misread(error)}") from None
    maybeDeferred(endpoint.listen, factory).addCallbacks(opened.append, failed.append)
    if failed:
        cause = failed[0].value
        taken = _errno(cause) == errno.EADDRINUSE
        raise CannotListen(f"cannot listen on {description}: {_reason(cause)}", taken)
    return opened


def _misread(error: Exception) -> str:
    """Return why a text is no endpoint description; Twisted lets Python say some of it."""
    if (found := re.search(r"^invalid literal for int\(\) with base \d+: (.*)", str(error))) is not None:
        return f"{found[1]} is not a whole number"
    if (found := re.search(r"unexpected keyword argument '(\w+)'", str(error))) is not None:
        return f"it takes no {found[1]}="
    if isinstance(error, TypeError | IndexError):
        return "its parts are too few or too many; what follows the port is written interface=..."
    return str(error)


def _errno(error: BaseException | None) -> int | None:
    return getattr(_cause(error), "errno", None)


def _cause(error: BaseException | None) -> object:
    return error.socketError if isinstance(error, CannotListenError) else error


def _reason(error: BaseException | None) -> str:
    cause, number = _cause(error), _errno(error)
    if number is None:
        return str(cause).removeprefix("bind(): ")
    return HINTS.get(number) or str(getattr(cause, "strerror", cause))
