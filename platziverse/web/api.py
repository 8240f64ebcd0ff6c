"""``/api/``: JSON but for streams, read-only but for admins. Four paths are the original platziverse's."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, cast

from attrs import frozen
from msgspec import Raw
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.server import Request

from platziverse.web.answers import CHANGE, METHODS, Answer, HTTPError, segments
from platziverse.web.charts import Charts
from platziverse.web.clients import Clients
from platziverse.web.interfaces import ReadStore, Row
from platziverse.web.query import DEFAULT_LIMIT, LONGEST, Query
from platziverse.web.readers import reader_of
from platziverse.web.rejections import Rejections

#: What has pages: its address, and the column of a row that ``after`` takes.
PAGES: Final = {
    "agents": ("/api/agents", "id"),
    "clients": ("/api/clients", "number"),
    "sessions": ("/api/sessions", "client"),
    "daemons": ("/api/daemons", "number"),
}

#: Answers a query; what is behind the first segment of the path follows it.
Route = Callable[..., Any]

_DOCUMENT: Final = "openapi.json"
NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


@frozen
class Action:
    """An Action is the last of three segments of a path, for admins alone.

    :ivar route: gets the query and the segment between.
    """

    route: Route
    methods: tuple[bytes, ...] = CHANGE


class Api(Answer):
    """An Api answers everything below ``/api/``.

    :param store: the tables.
    :param now: seconds since the epoch.
    :param clients: who is connected.
    :param rejections: messages that could not be stored.
    :param more: further paths of one segment, and what answers them.
    :param actions: further ones, by first and last segment.
    """

    has_parts = True

    def __init__(
        self,
        store: ReadStore,
        now: Callable[[], float],
        clients: Clients,
        rejections: Rejections,
        more: Mapping[str, Route],
        actions: Mapping[tuple[str, str], Action] = NONE,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._store = store
        self._document = Raw((files("platziverse.web") / _DOCUMENT).read_bytes())
        charts = Charts(store, now)
        self._routes: dict[tuple[str, int], Route] = {
            ("agents", 1): self._agents,
            ("agent", 2): self._agent,
            ("metrics", 2): self._types,
            ("metrics", 3): self._metrics,
            ("series", 1): charts.series,
            ("latest", 1): charts.latest,
            ("rejected", 1): rejections.page,
            ("rejected", 2): rejections.one,
            ("clients", 1): clients.page,
            ("clients", 2): clients.one,
            ("sessions", 1): clients.sessions,
            ("daemons", 1): self._daemons,
            ("reader", 1): _reader,
            (_DOCUMENT, 1): self._openapi,
            **{(name, 1): route for name, route in more.items()},
        }
        own = {("clients", "kick"): Action(clients.kick), ("rejected", "replay"): Action(rejections.replay)}
        self._actions = own | dict(actions)

    @property
    def paths(self) -> Collection[tuple[str, int | str]]:
        """The first segment of each path that there is, and how many it has, or the last of three."""
        return [*self._routes, *self._actions]

    def methods_of(self, request: Request) -> tuple[bytes, ...]:
        """Return the methods that the path of a request has."""
        action = self._action(request)
        return METHODS if action is None else action.methods

    def is_for_admins(self, request: Request) -> bool:
        """Return whether a request is for an action."""
        action = self._action(request)
        return action is not None and request.method in action.methods

    def _action(self, request: Request) -> Action | None:
        try:
            path = segments(request)
        except HTTPError:  # as it is told when it is answered
            return None
        return self._actions.get((path[0], path[2])) if len(path) == 3 else None

    def answer(self, request: Request) -> Any:
        """Answer by the path.

        :raises HTTPError: 404 if there is nothing, 400 for a query that makes no sense.
        """
        path, query = segments(request), Query(request)
        if (action := self._action(request)) is not None:
            return action.route(query, path[1])
        route = self._routes.get((path[0] if path else "", len(path)))
        if route is None:
            raise HTTPError(404, "not found")
        answer = route(query, *path[1:])
        if len(path) == 1 and path[0] in PAGES:
            return maybeDeferred(lambda: answer).addCallback(_link, query, *PAGES[path[0]])
        return answer

    def _agents(self, query: Query) -> "Deferred[Any]":
        query.only("username", "connected", "limit", "after")
        which, after, limit = query.connected("true"), query.after(), query.limit()
        return self._store.agents(query.text("username"), which, after, limit)

    def _agent(self, query: Query, uuid: str) -> "Deferred[Any]":
        query.only()
        missing = f"Agent not found with uuid {uuid}"
        _check_length(uuid, missing)
        return self._store.agent(uuid).addCallback(_found, missing)

    def _types(self, query: Query, uuid: str) -> "Deferred[Any]":
        query.only()
        missing = f"Metrics not found for agent with uuid {uuid}"
        _check_length(uuid, missing)
        return self._store.types(uuid).addCallback(_found, missing)

    def _metrics(self, query: Query, uuid: str, type: str) -> "Deferred[Any]":
        query.only("from", "to", "limit")
        since, until = query.time("from"), query.time("to")
        limit = query.limit(DEFAULT_LIMIT)
        missing = f"Metrics ({type}) not found for agent with uuid {uuid}"
        _check_length(uuid, missing)
        _check_length(type, missing)
        return self._store.metrics(uuid, type, since, until, limit).addCallback(_found, missing)

    def _daemons(self, query: Query) -> "Deferred[list[Row]]":
        query.only("limit", "after")
        limit, after = query.limit(), query.after()
        return self._store.daemons().addCallback(partial(_page_of_daemons, after, limit))

    def _openapi(self, query: Query) -> Raw:
        query.only()
        return self._document


def _reader(query: Query) -> Row:
    """Say who has sent the request, and whether a login could do more."""
    query.only()
    reader, site = reader_of(query.request), cast(Any, query.request).site
    admins = site.logins is not None and site.logins.has_admins
    return {"user": reader.username, "mayChange": reader.may_change, "admins": admins}


def _page_of_daemons(after: int, limit: int, rows: list[Row]) -> list[Row]:
    """Return a page of all daemons: there are few."""
    return [row for row in rows if row["number"] > after][:limit]


def _link(rows: list[Row], query: Query, path: str, key: str) -> list[Row]:
    """Name the next page in the header Link, if this one is full (RFC 8288)."""
    if len(rows) == query.limit():
        following = query.following("after", str(rows[-1][key]))
        query.request.setHeader(b"Link", f'<{path}?{following}>; rel="next"'.encode())
    return rows


def _found(answer: Any, missing: str) -> Any:
    if not answer:
        raise HTTPError(404, missing)
    return answer


def _check_length(text: str, missing: str) -> None:
    if not 0 < len(text) <= LONGEST:
        raise HTTPError(404, missing)
