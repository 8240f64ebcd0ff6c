"""``/api/``: read-only, and JSON but for streams. Four paths answer as the original platziverse did."""

from collections.abc import Callable, Collection, Mapping, Sized
from datetime import datetime, timezone
from functools import partial
from heapq import nsmallest
from importlib.resources import files
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from msgspec import Raw
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.server import Request

from platziverse.broker.ports import Session
from platziverse.broker.sessions import Sessions
from platziverse.web.answers import Answer, HTTPError, segments
from platziverse.web.charts import Charts
from platziverse.web.interfaces import ReadStore, Row
from platziverse.web.query import DEFAULT_LIMIT, LONGEST, Query
from platziverse.web.rejections import Rejections

#: Subscriptions of each client in a list of clients, and of all together: a page takes a turn of the reactor.
SHOWN_SUBSCRIPTIONS: Final = 100
SHOWN_IN_ALL: Final = 2000
NO_SUBSCRIPTIONS: Final[Row] = {"subscriptions": [], "subscriptionCount": 0}
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


class Api(Answer):
    """An Api answers everything below ``/api/``.

    :param store: the tables.
    :param sessions: those of the broker.
    :param now: seconds since the epoch.
    :param more: further paths of one segment, and what answers them.
    """

    has_parts = True

    def __init__(
        self,
        store: ReadStore,
        sessions: Sessions,
        now: Callable[[], float],
        more: Mapping[str, Route],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._store = store
        self._sessions = sessions
        self._document = Raw((files("platziverse.web") / _DOCUMENT).read_bytes())
        charts, rejections = Charts(store, now), Rejections(store)
        self._routes: dict[tuple[str, int], Route] = {
            ("agents", 1): self._agents,
            ("agent", 2): self._agent,
            ("metrics", 2): self._types,
            ("metrics", 3): self._metrics,
            ("series", 1): charts.series,
            ("latest", 1): charts.latest,
            ("rejected", 1): rejections.page,
            ("rejected", 2): rejections.one,
            ("clients", 1): self._clients,
            ("sessions", 1): self._list_sessions,
            ("daemons", 1): self._daemons,
            (_DOCUMENT, 1): self._openapi,
            **{(name, 1): route for name, route in more.items()},
        }

    @property
    def paths(self) -> Collection[tuple[str, int]]:
        """The first segment of each path that there is, and how many segments it has."""
        return self._routes.keys()

    def answer(self, request: Request) -> Any:
        """Answer by the path.

        :raises HTTPError: 404 if there is nothing, 400 for a query that makes no sense.
        """
        path = segments(request)
        route = self._routes.get((path[0] if path else "", len(path)))
        if route is None:
            raise HTTPError(404, "not found")
        query = Query(request)
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

    def _clients(self, query: Query) -> list[Row]:
        query.only("limit", "after")
        limit, after = query.limit(), query.after()
        connected = [
            (client.number, session)
            for session in self._sessions
            if (client := session.client) is not None
            and session.connection is not None
            and client.number > after
        ]
        page = nsmallest(limit, connected, key=itemgetter(0))
        shown = _shown(page)
        return [_client(session, shown) for _, session in page]

    def _list_sessions(self, query: Query) -> "Deferred[list[Row]]":
        query.only("limit", "after")
        stored = self._store.sessions(query.text("after") or "", query.limit())
        return stored.addCallback(self._with_present)

    def _with_present(self, rows: list[Row]) -> list[Row]:
        shown = _shown(rows)
        return [_session(row, self._sessions.get(row["clientId"]), shown) for row in rows]

    def _daemons(self, query: Query) -> "Deferred[list[Row]]":
        query.only("limit", "after")
        limit, after = query.limit(), query.after()
        return self._store.daemons().addCallback(partial(_page_of_daemons, after, limit))

    def _openapi(self, query: Query) -> Raw:
        query.only()
        return self._document


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


def _client(session: Session, shown: int) -> Row:
    client = session.client
    assert client is not None
    return {
        "id": client.client_id,
        "number": client.number,
        "address": client.address,
        "user": client.username,
        "since": _iso(client.since),
        **_subscriptions(session, shown),
        "queue": session.queued + session.inflight,
        "dropped": session.dropped,
    }


def _session(stored: Row, session: Session | None, shown: int) -> Row:
    """Return a durable Session as JSON shows it: who and since when by the tables, the rest as it is now.

    :param stored: see ``ReadStore.sessions``.
    """
    return {
        "client": stored["clientId"],
        "user": stored["username"],
        "connected": session is not None and session.connection is not None,
        "absentSince": stored["absentSince"],
        "since": stored["createdAt"],
        **(_subscriptions(session, shown) if session is not None else NO_SUBSCRIPTIONS),
        "messages": session.queued + session.inflight if session is not None else 0,
        "bytes": session.queued_bytes if session is not None else 0,
        "oldest": stored["oldest"],
        "dropped": session.dropped if session is not None else 0,
    }


def _shown(page: Sized) -> int:
    return min(SHOWN_SUBSCRIPTIONS, SHOWN_IN_ALL // max(1, len(page)))


def _subscriptions(session: Session, shown: int) -> Row:
    filters = islice(session.subscriptions.items(), shown)
    return {
        "subscriptions": [{"filter": topic_filter, "qos": options & 3} for topic_filter, options in filters],
        "subscriptionCount": len(session.subscriptions),
    }


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
