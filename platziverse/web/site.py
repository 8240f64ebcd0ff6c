"""The HTTP side of the shared port: who is answered, and the tree of what there is."""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from socket import gethostname
from typing import Any, Final, cast
from urllib.parse import urlsplit

from twisted.internet.interfaces import IAddress
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from platziverse.web.answers import Refusal
from platziverse.web.health import Health, Readiness
from platziverse.web.settings import WebSettings

#: Bytes of a request line and its headers together, and headers.
MAX_HEADERS_SIZE: Final = 16 * 1024
MAX_HEADERS: Final = 100

HEADERS: Final = {
    b"Cache-Control": b"no-store",
    b"Content-Security-Policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    b"Referrer-Policy": b"no-referrer",
    b"Server": b"platziverse",
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
}

_NO_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_BODY_REFUSED: Final = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 44\r\n"
    b'Content-Type: application/json\r\n\r\n{"error": "no request here may have a body"}'
)


class Channel(HTTPChannel):
    """Reads requests: no bodies, and each one complete in its time, however it trickles in."""

    totalHeadersSize = MAX_HEADERS_SIZE
    maxHeaders = MAX_HEADERS
    _leaving = False
    #: A request line has come, and its request is not answered.
    _within = False

    def resetTimeout(self) -> None:
        """Do nothing: the time runs from the end of the last request, not from the last byte."""

    def dataReceived(self, data: bytes) -> None:
        """See at its first byte what can never become a request: it has no line that ends."""
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        first = self._buffer.lstrip(b"\r\n")[:1]
        if first and not first.isalpha() and not self._within and not self._leaving:
            cast(Any, self.transport).write(_NO_REQUEST)
            self.loseConnection()

    def allHeadersReceived(self) -> None:
        """Refuse a body before it is read."""
        if self.length == 0:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]
            return
        transport: Any = self.transport
        transport.write(_BODY_REFUSED)
        self.loseConnection()

    def lineReceived(self, line: bytes) -> None:
        """What follows a refused request is not looked at."""
        if not self._leaving:
            self._within = self._within or line != b""
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def requestDone(self, request: Any) -> None:
        """The next one may begin."""
        self._within = False
        super().requestDone(request)  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:
        """What follows a refused request is not looked at."""
        if not self._leaving:
            super().rawDataReceived(data)

    def loseConnection(self) -> None:
        """Close once what was written is sent."""
        if not self._leaving:
            self._leaving = True
            super().loseConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any = None) -> None:
        """Make room for another connection."""
        site: Any = self.factory
        site.connections.discard(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class GuardedRequest(Request):
    """Asks the site before anything is rendered."""

    def process(self) -> None:
        """Look for ``*`` in the tree, where it is not: Twisted would answer it without asking us."""
        if self.path == b"*":
            self.path = b"/*"
        super().process()  # type: ignore[no-untyped-call]

    def render(self, resrc: Any) -> None:
        site: Any = self.site
        resrc = self._refusal(resrc) or resrc
        if resrc is not site.websocket:
            for name, value in HEADERS.items():
                self.setHeader(name, value)  # type: ignore[no-untyped-call]
        channel = self.channel
        super().render(resrc)  # type: ignore[no-untyped-call]
        if resrc is site.websocket and not self.finished:
            site.connections.discard(channel)  # upgraded: it is a connection of MQTT from now on

    def _refusal(self, resource: Any) -> Resource | None:
        """What to answer instead of ``resource``, if anything."""
        site: Any = self.site
        if not _names_its_host(self):
            channel: Any = self.channel
            channel.persistent = False
            self.setHeader("Connection", "close")  # type: ignore[no-untyped-call]
            return Refusal(400, "Host is needed, once")
        if resource is site.websocket:
            return None  # it has rules of its own
        return cast("Resource | None", site.guard.check(self, resource))


class Guard:
    """Decides whether a request is answered."""

    def __init__(self, settings: WebSettings) -> None:
        self._everyone = settings.readers == "everyone"
        self._hosts = frozenset(host.lower().strip("[]") for host in settings.hosts)
        self._origins = frozenset(origin.lower() for origin in settings.origins)
        self._local_names = frozenset({"localhost", gethostname().lower()})

    def check(self, request: Request, resource: Any) -> Resource | None:
        """What to answer instead of ``resource``, if anything."""
        if not self._may_name(_host(request)):
            return Refusal(421, "this Host is not answered here; see the setting web.hosts")
        if not self._may_come_from(request):
            return Refusal(403, "this Origin may not read; see the setting web.origins")
        if not (self._everyone or isinstance(resource, Health | Readiness | Refusal) or _is_local(request)):
            return Refusal(403, "only this machine may read; see the setting web.readers")
        return None

    def _may_name(self, host: str) -> bool:
        if self._hosts:
            return host in self._hosts
        if self._everyone or not host or host in self._local_names or host.endswith(".localhost"):
            return True
        return _address(host) is not None

    def _may_come_from(self, request: Request) -> bool:
        header = request.getHeader("Origin")
        if header is None:
            return True
        origin = header.lower()
        if origin in self._origins:
            request.setHeader("Access-Control-Allow-Origin", header)
            request.setHeader("Vary", "Origin")
            return True
        own = (request.getHeader("Host") or "").lower()
        return own != "" and origin in (f"http://{own}", f"https://{own}")


def _names_its_host(request: Request) -> bool:
    """HTTP/1.1 wants Host in every request, and nobody may send two (RFC 9112, 3.2)."""
    hosts = len(request.requestHeaders.getRawHeaders("Host", []))
    return hosts == 1 or (hosts == 0 and request.clientproto != b"HTTP/1.1")


def _host(request: Request) -> str:
    """The name in Host, in lower case, without port and brackets."""
    try:
        return urlsplit("//" + (request.getHeader("Host") or "")).hostname or ""
    except ValueError:
        return "?"


def _address(host: str) -> Any:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_local(request: Request) -> bool:
    """The client is on this machine: by loopback, by Unix socket, or over an address of this machine."""
    peer, here = (getattr(end, "host", None) for end in (request.getClientAddress(), request.getHost()))
    if peer is None:
        return True
    address = _address(peer)
    return address is not None and (address.is_loopback or address == _address(here or ""))


class GuardedSite(Site):
    """A site for one tree.

    :ivar connections: the open HTTP connections.
    """

    displayTracebacks = False
    noisy = False

    def __init__(
        self, root: Resource, websocket: Resource | None, settings: WebSettings, reactor: Any
    ) -> None:
        super().__init__(root, requestFactory=GuardedRequest, timeout=settings.timeout, reactor=reactor)  # type: ignore[no-untyped-call]
        self.protocol = Channel  # type: ignore[assignment,method-assign]
        self.websocket = websocket
        self.guard = Guard(settings)
        self.connections: set[Channel] = set()
        self._max_connections = settings.max_connections

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel, or ``None`` when there are too many."""
        if len(self.connections) >= self._max_connections:
            return None
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self.connections.add(channel)
        return channel

    def startFactory(self) -> None:
        """There is no access log, so no clock for one."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """There is no access log."""


class _Tree(Resource):
    """The root: it knows its children, and asks ``index`` what ``/`` is."""

    def __init__(self, index: Callable[[Request], Resource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._index = index

    def getChild(self, path: bytes, request: Request) -> Resource:
        """What is not there, or what ``/`` is."""
        return self._index(request) if path == b"" else Refusal(404, "not found")


def make_site(
    reactor: Any,
    settings: WebSettings,
    trouble: Callable[[], str],
    pages: Iterable[tuple[str, Resource]] = (),
    websocket: Resource | None = None,
) -> GuardedSite:
    """The factory for HTTP connections.

    :param trouble: see :class:`~platziverse.web.health.Readiness`.
    :param pages: further resources by name, e.g. ``("metrics", ...)``, ``("api", ...)``.
    :param websocket: MQTT over WebSocket, at ``/mqtt``, and at ``/`` for whoever asks for an upgrade.
    """

    def index(request: Request) -> Resource:
        upgrade = (request.getHeader("Upgrade") or "").lower()
        if websocket is not None and "websocket" in upgrade:
            return websocket
        return Refusal(404, "not found")

    root = _Tree(index)
    own: list[tuple[str, Resource]] = [("readyz", Readiness(trouble))]
    own.append(("healthz", Health()))  # type: ignore[no-untyped-call]
    for name, page in (*own, *pages):
        root.putChild(name.encode(), page)
    if websocket is not None:
        root.putChild(b"mqtt", websocket)
    return GuardedSite(root, websocket, settings, reactor)
