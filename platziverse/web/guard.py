"""Guard: whether a request is answered, by where it comes from and by what it calls us."""

from collections.abc import Callable
from socket import gethostname
from typing import Any
from urllib.parse import urlsplit

from twisted.web.resource import Resource
from twisted.web.server import Request

from platziverse.broker.addresses import FORWARDED, is_local, parsed
from platziverse.web.answers import Refusal
from platziverse.web.health import Health, Readiness
from platziverse.web.readers import Login, credentials
from platziverse.web.settings import WebSettings


class Guard:
    """Decides whether a request is answered.

    :param lets_in: whether an MQTT client without a login may connect; its argument is whether the client is
        on this machine.
    :ivar asks_for_logins: readers are users of MQTT.
    """

    def __init__(self, settings: WebSettings, lets_in: Callable[[bool], bool]) -> None:
        self._everyone = settings.readers == "everyone"
        self.asks_for_logins = settings.readers == "users"
        self._hosts = frozenset(host.lower().strip("[]") for host in settings.hosts)
        self._origins = frozenset(origin.lower() for origin in settings.origins)
        self._websocket_origins = frozenset(origin.lower() for origin in settings.websocket_origins)
        self._local_names = frozenset({"localhost", gethostname().lower()})
        self._lets_in = lets_in

    def check(self, request: Request, resource: Any) -> Resource | None:
        """Return what to answer instead of ``resource``, or ``None`` when it may be rendered.

        Health checks call us whatever they like: a name in the cluster, or the one a balancer was given.
        """
        if not (isinstance(resource, Health | Readiness) or self._may_name(request)):
            return Refusal(421, "this Host is not answered here; see the setting web.hosts")
        if not self._may_come_from(request):
            return Refusal(403, "this Origin may not read; see the setting web.origins")
        if self._everyone or self.asks_for_logins or isinstance(resource, Health | Readiness | Refusal):
            return None
        if not is_near(request):
            return Refusal(403, "only this machine may read; see the setting web.readers")
        return None

    def check_change(self, request: Request) -> Refusal | None:
        """Return what to answer to a request for admins instead; ``None``: it is no page of another Origin's.

        A browser adds the login of its user to whatever a page asks of us, be it a form that is sent. So
        ``origins`` do not count here, nor does a name that somebody has let lead here. ADR 0176.
        """
        origin = header_of(request, b"Origin").lower()
        fetched = header_of(request, b"Sec-Fetch-Site").lower()
        if (origin and not _is_same_origin(request, origin)) or fetched not in ("", "none", "same-origin"):
            return Refusal(403, "a page of another Origin may change nothing")
        if not (request.requestHeaders.hasHeader("Authorization") or self._is_ours(host_of(request))):
            return Refusal(421, "this Host is not answered here; see the setting web.hosts")
        return None

    def login(self, request: Request) -> Login | Refusal:
        """Return what a request shows of its sender, or what to answer instead.

        A password that has gone over a network in the open is known to others: such a request is refused
        whether it is right or not, so that nobody gets used to it.
        """
        header = header_of(request, b"Authorization")
        username, password = (credentials(header) or ("", b"")) if header else (None, b"")
        if username == "":
            return Refusal(401, "Authorization must be Basic, with a user name and a password")
        if header and not is_private(request):
            return Refusal(403, "a password is taken over TLS only; ask with https")
        channel: Any = request.channel
        return Login(username, password, peer_of(request), is_near(request), channel.transport)

    def check_websocket(self, request: Request) -> Resource | None:
        """Return what to answer instead of opening a WebSocket for MQTT, or ``None`` when it may be opened.

        Only browsers send an Origin. A page of another Origin uses what its visitor may use, and without a
        login that is everything; a page may also have let the name of its own host lead here. See ADR 0089.
        """
        origin = header_of(request, b"Origin").lower()
        if not origin or origin in self._websocket_origins:
            return None
        if not self._websocket_origins and not self._lets_in(is_near(request)):
            return None
        if _is_same_origin(request, origin) and self._is_ours(host_of(request)):
            return None
        return Refusal(403, "this Origin may not connect; see the setting web.websocket_origins")

    def _may_name(self, request: Request) -> bool:
        """Return whether Host is a name that we have, wherever a page of another name could read."""
        host = host_of(request)
        if not self._hosts and (not host or self._is_for_anybody(request)):
            return True
        return self._is_ours(host)

    def _is_for_anybody(self, request: Request) -> bool:
        """Return whether where a request comes from changes nothing: no page has the password of another."""
        if not self.asks_for_logins:
            return self._everyone
        return (
            self._lets_in(False)
            or not self._lets_in(True)
            or request.requestHeaders.hasHeader("Authorization")
        )

    def _is_ours(self, host: str) -> bool:
        """Return whether ``host`` is a name of this machine, which nobody else can have made lead here."""
        if self._hosts:
            return host in self._hosts
        return host in self._local_names or host.endswith(".localhost") or parsed(host) is not None

    def _may_come_from(self, request: Request) -> bool:
        origin = header_of(request, b"Origin")
        if not origin:
            return True
        if origin.lower() in self._origins:
            request.setHeader(b"Access-Control-Allow-Origin", origin.encode("latin-1"))
            request.setHeader(b"Vary", b"Origin")
            return True
        return _is_same_origin(request, origin.lower())


def names_its_host(request: Request) -> bool:
    """Return whether Host is there as the version of HTTP wants it, and is a name (RFC 9112, 3.2).

    HTTP/1.1 wants it in every request, and nobody may send two.
    """
    hosts = request.requestHeaders.getRawHeaders(b"Host", [])
    if len(hosts) > 1 or not all(host.isascii() and b"@" not in host for host in hosts):
        return False
    return len(hosts) == 1 or request.clientproto != b"HTTP/1.1"


def host_of(request: Request) -> str:
    """Return the name in Host, in lower case, without port and brackets; ``""``: no Host; ``"?"``: none."""
    try:
        return urlsplit("//" + header_of(request, b"Host")).hostname or ""
    except ValueError:
        return "?"


def header_of(request: Request, name: bytes) -> str:
    """Return the last line of a header, or ``""``; bytes that are not ASCII are read as Latin-1."""
    value: bytes | None = request.getHeader(name)
    return (value or b"").decode("latin-1")


def peer_of(request: Request) -> str:
    """Return the address of the client, for logs."""
    return written(request.getClientAddress())


def written(address: Any) -> str:
    """Return an address as logs have it."""
    return f"{getattr(address, 'host', 'unix')}:{getattr(address, 'port', 0)}"


def is_private(request: Request) -> bool:
    """Return whether nobody has read what the client has sent: it came inside TLS, or not over a network."""
    peer, own = (getattr(end, "host", None) for end in (request.getClientAddress(), request.getHost()))
    return request.isSecure() or is_local(peer, own)


def is_near(request: Request) -> bool:
    """Return whether the client is on this machine, and no proxy, which would speak for any other."""
    if is_forwarded(request):
        return False
    peer, own = (getattr(end, "host", None) for end in (request.getClientAddress(), request.getHost()))
    return is_local(peer, own)


def is_forwarded(request: Request) -> bool:
    """Return whether a proxy has passed the request on."""
    if any(request.requestHeaders.hasHeader(name) for name in FORWARDED):
        return True
    channel: Any = request.channel
    return getattr(channel.transport, "forwarded", False)


def _is_same_origin(request: Request, origin: str) -> bool:
    own = header_of(request, b"Host").lower()
    return own != "" and origin in (f"http://{own}", f"https://{own}")
