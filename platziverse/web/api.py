"""``/api/``: read-only JSON, as the original platziverse answered, and ``/api/clients``."""

import re
from collections.abc import Callable
from datetime import datetime, timezone
from heapq import nsmallest
from importlib.resources import files
from itertools import islice
from operator import itemgetter
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Raw
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.server import Request

from platziverse.broker.ports import Session, SessionStore
from platziverse.times import read_time
from platziverse.web.answers import Answer, HTTPError, segments, text_of
from platziverse.web.interfaces import ReadStore, Row

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
#: Subscriptions of each client in a list of clients.
SHOWN_SUBSCRIPTIONS: Final = 100
#: What has pages: its address, and the number of a row that ``after`` takes.
PAGES: Final = {"agents": ("/api/agents", "id"), "clients": ("/api/clients", "number")}
#: What ``connected=`` asks for; ``None``: all agents.
WHICH: Final = {"true": True, "false": False, "all": None}
#: Milliseconds since the epoch; the document names it too.
LAST_MOMENT: Final = 253_370_764_800_000
#: Longest uuid or type there can be.
_LONGEST: Final = 255

_DOCUMENT: Final = "openapi.json"


class Api(Answer):
    """An Api answers everything below ``/api/``.

    :param store: the tables.
    :param sessions: those of the broker.
    """

    has_parts = True

    def __init__(self, store: ReadStore, sessions: SessionStore) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._store = store
        self._sessions = sessions
        self._document = Raw((files("platziverse.web") / _DOCUMENT).read_bytes())
        self._routes: dict[tuple[str, int], Callable[..., Any]] = {
            ("agents", 1): self._agents,
            ("agent", 2): self._agent,
            ("metrics", 2): self._types,
            ("metrics", 3): self._metrics,
            ("clients", 1): self._clients,
            (_DOCUMENT, 1): self._openapi,
        }

    def answer(self, request: Request) -> Any:
        """Answer by the path.

        :raises HTTPError: 404 if there is nothing, 400 for a query that makes no sense.
        """
        path = segments(request)
        route = self._routes.get((path[0] if path else "", len(path)))
        if route is None:
            raise HTTPError(404, "not found")
        query = _query(request)
        answer = route(query, *path[1:])
        if len(path) == 1 and path[0] in PAGES:
            return maybeDeferred(lambda: answer).addCallback(_link, request, query, *PAGES[path[0]])
        return answer

    def _agents(self, query: dict[str, str]) -> "Deferred[Any]":
        _only(query, "username", "connected", "limit", "after")
        which = query.get("connected", "true")
        if which not in WHICH:
            raise HTTPError(400, "connected must be true, false or all")
        limit, after = _limit(query, MAX_LIMIT), _after(query)
        return self._store.agents(query.get("username"), WHICH[which], after, limit)

    def _agent(self, query: dict[str, str], uuid: str) -> "Deferred[Any]":
        _only(query)
        missing = f"Agent not found with uuid {uuid}"
        _check_length(uuid, missing)
        return self._store.agent(uuid).addCallback(_found, missing)

    def _types(self, query: dict[str, str], uuid: str) -> "Deferred[Any]":
        _only(query)
        missing = f"Metrics not found for agent with uuid {uuid}"
        _check_length(uuid, missing)
        return self._store.types(uuid).addCallback(_found, missing)

    def _metrics(self, query: dict[str, str], uuid: str, type: str) -> "Deferred[Any]":
        _only(query, "from", "to", "limit")
        since, until = (_time(query, name) for name in ("from", "to"))
        limit = _limit(query)
        missing = f"Metrics ({type}) not found for agent with uuid {uuid}"
        _check_length(uuid, missing)
        _check_length(type, missing)
        return self._store.metrics(uuid, type, since, until, limit).addCallback(_found, missing)

    def _clients(self, query: dict[str, str]) -> list[Row]:
        _only(query, "limit", "after")
        limit, after = _limit(query, MAX_LIMIT), _after(query)
        connected = [
            (client.number, session)
            for session in self._sessions
            if (client := session.client) is not None
            and session.connection is not None
            and client.number > after
        ]
        return [_client(session) for _, session in nsmallest(limit, connected, key=itemgetter(0))]

    def _openapi(self, query: dict[str, str]) -> Raw:
        _only(query)
        return self._document


def _link(rows: list[Row], request: Request, query: dict[str, str], path: str, key: str) -> list[Row]:
    """Name the next page in the header Link, if this one is full (RFC 8288)."""
    if len(rows) == _limit(query, MAX_LIMIT):
        following = urlencode(query | {"after": str(rows[-1][key])})
        request.setHeader(b"Link", f'<{path}?{following}>; rel="next"'.encode())
    return rows


def _found(answer: Any, missing: str) -> Any:
    if not answer:
        raise HTTPError(404, missing)
    return answer


def _check_length(text: str, missing: str) -> None:
    if not 0 < len(text) <= _LONGEST:
        raise HTTPError(404, missing)


def _query(request: Any) -> dict[str, str]:
    query = {}
    for name, values in request.args.items():
        if len(values) != 1:
            raise HTTPError(400, f"{text_of(name)} is given {len(values)} times")
        query[text_of(name)] = text_of(values[0])
    return query


def _only(query: dict[str, str], *names: str) -> None:
    for name in query:
        if name not in names:
            raise HTTPError(400, f"unknown parameter {name}")


def _time(query: dict[str, str], name: str) -> datetime | None:
    """Return a time of the query, in RFC 3339 or milliseconds since the epoch; ``None``: it has none."""
    text = query.get(name)
    if text is None:
        return None
    try:
        if re.fullmatch(r"\d{1,15}", text, re.ASCII) and int(text) <= LAST_MOMENT:
            return datetime.fromtimestamp(int(text) / 1000, timezone.utc)
        return read_time(text)
    except (ValueError, OverflowError, OSError):
        pass
    raise HTTPError(400, f"{name} must be a time like 2026-11-24T04:07:00Z or milliseconds since the epoch")


def _after(query: dict[str, str]) -> int:
    text = query.get("after", "0")
    if re.fullmatch(r"\d{1,15}", text, re.ASCII):
        return int(text)
    raise HTTPError(400, "after must be a number, the last one of the page before")


def _client(session: Session) -> Row:
    client = session.client
    assert client is not None
    filters = islice(session.subscriptions.items(), SHOWN_SUBSCRIPTIONS)
    return {
        "id": client.client_id,
        "number": client.number,
        "address": client.address,
        "user": client.username,
        "since": _iso(client.since),
        "subscriptions": [{"filter": topic_filter, "qos": qos} for topic_filter, qos in filters],
        "subscriptionCount": len(session.subscriptions),
        "queue": session.queued + session.inflight,
        "dropped": session.dropped,
    }


def _limit(query: dict[str, str], default: int = DEFAULT_LIMIT) -> int:
    text = query.get("limit", str(default))
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise HTTPError(400, f"limit must be a number from 1 to {MAX_LIMIT}")


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
