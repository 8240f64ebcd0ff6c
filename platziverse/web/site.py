"""The HTTP side of the shared port: who is answered, and the tree of what there is."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from platziverse.broker.addresses import neighbourhood
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.web.answers import Refusal
from platziverse.web.channel import Channel, Unread
from platziverse.web.guard import Guard, header_of, peer_of, written
from platziverse.web.guarded import GuardedRequest
from platziverse.web.health import Health, Readiness
from platziverse.web.index import Index
from platziverse.web.interfaces import Complaints
from platziverse.web.readers import Login, Logins
from platziverse.web.settings import WebSettings

#: Connections beyond the limits that health checks may have; the oldest of them makes room for a new one.
RESERVE: Final = 32
#: Seconds that such a connection may last.
RESERVE_TIMEOUT: Final = 5.0
#: Connections of operators at a time.
MOST_OPERATORS: Final = 64


class GuardedSite(Site):
    """A site for one tree.

    :param lets_in: see :class:`~platziverse.web.guard.Guard`.
    :param traffic: where refusals and bugs are counted.
    :param complaints: where they are said; ``None``: nowhere.
    :param max_memory: the budget of the daemon, of which unread answers may take a share; 0: no limit.
    :param logins: knows the users, where they are the readers.
    :ivar connections: the open HTTP connections within the limits.
    :ivar operators: the open connections of operators.
    :ivar unread: counts answers that wait for their clients.
    """

    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        root: Resource,
        websocket: Resource | None,
        settings: WebSettings,
        reactor: Any,
        lets_in: Callable[[bool], bool] = lambda local: local,
        traffic: Traffic | None = None,
        complaints: Complaints | None = None,
        max_memory: int = 0,
        logins: Logins | None = None,
    ) -> None:
        super().__init__(root, requestFactory=GuardedRequest, timeout=settings.timeout, reactor=reactor)  # type: ignore[no-untyped-call]
        self.protocol = Channel  # type: ignore[assignment,method-assign]
        self.websocket = websocket
        self.guard, self.logins = Guard(settings, lets_in), logins
        self.connections: dict[Channel, str] = {}
        self.operators: set[Channel] = set()
        self._reserve: deque[Channel] = deque()
        self._by_origin: Counter[str] = Counter()
        self._most, self._most_of_one = settings.max_connections, settings.max_connections_per_address
        self._traffic = Traffic() if traffic is None else traffic
        self._complaints = complaints
        self.unread = Unread(max_memory, self._cut)
        self._reactor, self._turn = reactor, Turn(reactor)
        self._line: deque[Callable[[], None]] = deque()
        self._working = False

    def in_turn(self, work: Callable[[], None]) -> None:
        """Do ``work`` now or later: all connections together have ten milliseconds of a turn. ADR 0121."""
        if not self._working and (self._line or self._turn.is_over):
            self._line.append(work)
            if len(self._line) == 1:
                self._reactor.callLater(0, self._go_on)
            return
        work()

    def _go_on(self) -> None:
        line, self._working = self._line, True
        try:
            while line and not self._turn.is_over:
                line.popleft()()
        finally:
            self._working = False
            if line:
                self._reactor.callLater(0, self._go_on)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a channel; beyond the limits one that lasts for a health check."""
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        host = getattr(addr, "host", None)
        origin = neighbourhood(host) if isinstance(host, str) else ""
        if len(self.connections) < self._most and self._has_share(origin):
            self.connections[channel] = origin
            self._by_origin[origin] += 1
        else:
            channel.timeOut = RESERVE_TIMEOUT
            self._reserve.append(channel)
            if len(self._reserve) > RESERVE:
                self._reserve.popleft().forceAbortClient()
        return channel

    def _has_share(self, origin: str) -> bool:
        return not (self._most_of_one and origin and self._by_origin[origin] >= self._most_of_one)

    def for_operator(self, addr: IAddress | None) -> Any:
        """Make a channel for whoever has come through the socket of operators; ``None``: there are too many.

        What others have open takes no room from them: they come when it is full.
        """
        if len(self.operators) >= MOST_OPERATORS:
            return None
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        channel.operator = True
        self.operators.add(channel)
        return channel

    def is_reserve(self, channel: Any) -> bool:
        """Return whether this connection is beyond the limits."""
        return not channel.operator and channel not in self.connections

    def left(self, channel: Any) -> None:
        """Forget a connection that has ended, or is none of HTTP any more."""
        self.operators.discard(channel)
        origin = self.connections.pop(channel, None)
        if origin is None:
            if channel in self._reserve:
                self._reserve.remove(channel)
            return
        self._by_origin[origin] -= 1
        if not self._by_origin[origin]:
            del self._by_origin[origin]

    def refuse(self, request: Request) -> str:
        """Count and log a request for which there is no room; return what to tell the client."""
        self._traffic.connection_refused("http")
        full = len(self.connections) >= self._most
        setting = "web.max_connections" if full else "web.max_connections_per_address"
        if self._complaints is not None:
            text = "No room for HTTP of {address}; see the setting {setting}"
            self._complaints.warn("no room for HTTP", text, address=peer_of(request), setting=setting)
        return f"too many connections; see the setting {setting}"

    def _cut(self, channel: Channel, size: int) -> None:
        self._traffic.answers_cut += 1
        if self._complaints is not None:
            text = "Closing {address}: its answer of {size} bytes is not read and takes too much (max_memory)"
            address = _address(channel)
            self._complaints.warn("an answer that is not read", text, address=address, size=size)
        channel.forceAbortClient()

    def timed_out(self, channel: Channel) -> None:
        """Count and log a request that has begun and did not end."""
        self._traffic.requests_timed_out += 1
        if self._complaints is not None:
            text = "Closing {address}: its HTTP request did not end in time; see the setting web.timeout"
            self._complaints.warn("an HTTP request without an end", text, address=_address(channel))

    def login_failed(self, login: Login, reason: str) -> None:
        """Log a login that has failed."""
        if self._complaints is not None:
            text = "Refusing {address} over HTTP: {reason}, user {username!r}"
            self._complaints.warn(
                "HTTP login", text, address=login.address, reason=reason, username=login.username
            )

    def too_slow(self, channel: Channel) -> None:
        """Count and log a client that takes nothing of a stream."""
        self._traffic.answers_cut += 1
        if self._complaints is not None:
            text = "Closing {address}: it takes nothing of what it is sent; see the setting web.timeout"
            self._complaints.warn("a stream that is not read", text, address=_address(channel))

    def failed(self, request: Request, failure: Failure) -> None:
        """Count a bug of ours, and log it."""
        self._traffic.internal_errors += 1
        if self._complaints is not None:
            text = "Bug: answering {address} {path!r}"
            self._complaints.fail("a bug in HTTP", failure, text, address=peer_of(request), path=request.path)

    def startFactory(self) -> None:
        """There is no access log, so no clock for one."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """There is no access log."""


class OperatorFactory(Factory):
    """An OperatorFactory makes HTTP connections whose clients may do everything: the site is the same.

    Who may open its socket is up to the file system.
    """

    noisy = False

    def __init__(self, site: GuardedSite) -> None:
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a channel, if there is room."""
        return self._site.for_operator(addr)


class _Tree(Resource):
    """The root: it knows its children, and asks ``index`` what ``/`` is."""

    def __init__(self, index: Callable[[Request], Resource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._index = index

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return 404 for a path that is not there, and the resource of ``index`` for ``/``."""
        return self._index(request) if path == b"" else Refusal(404, "not found")


def make_site(
    reactor: Any,
    settings: WebSettings,
    trouble: Callable[[], str],
    pages: Iterable[tuple[str, Resource]] = (),
    websocket: Resource | None = None,
    warning: Callable[[], str] = lambda: "",
    home: Resource | None = None,
    **more: Any,
) -> GuardedSite:
    """The factory for HTTP connections.

    :param trouble: see :class:`~platziverse.web.health.Readiness`; ``warning`` too.
    :param pages: further resources by name, e.g. ``("metrics", ...)``, ``("api", ...)``.
    :param websocket: MQTT over WebSocket, at ``/mqtt``, and at ``/`` for whoever asks for an upgrade.
    :param home: what ``/`` is; ``None``: a list of links.
    :param more: ``lets_in``, ``traffic``, ``complaints``, ``max_memory`` and ``logins`` of
        :class:`GuardedSite`.
    """

    def index(request: Request) -> Resource:
        if websocket is not None and "websocket" in header_of(request, b"Upgrade").lower():
            return websocket
        return links if home is None else home

    links = Index()  # type: ignore[no-untyped-call]
    root = _Tree(index)
    own: list[tuple[str, Resource]] = [("readyz", Readiness(trouble, warning))]
    own.append(("healthz", Health()))  # type: ignore[no-untyped-call]
    for name, page in (*own, *pages):
        root.putChild(name.encode(), page)
    if websocket is not None:
        root.putChild(b"mqtt", websocket)
    return GuardedSite(root, websocket, settings, reactor, **more)


def _address(channel: Channel) -> str:
    return written(cast(Any, channel).transport.getPeer())
