"""``/api/``: read-only JSON, as the original platziverse answered, and ``/api/clients``."""

import re
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any, Final

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from platziverse.broker.ports import SessionStore
from platziverse.web.answers import Answer, HTTPError, segments, text_of
from platziverse.web.interfaces import ReadStore, Row

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
#: Milliseconds since the epoch; the document names it too.
LAST_MOMENT: Final = 253_370_764_800_000
#: Longest uuid or type there can be.
_LONGEST: Final = 255

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+ -])(\d\d:\d\d))", re.ASCII
)
_DOCUMENT: Final = "openapi.json"


class Api(Answer):
    """Everything below ``/api/``.

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
        """:raises HTTPError: 404 for what there is not, 400 for a query that makes no sense."""
        path = segments(request)
        route = self._routes.get((path[0] if path else "", len(path)))
        if route is None:
            raise HTTPError(404, "not found")
        return route(_query(request), *path[1:])

    def _agents(self, query: dict[str, str]) -> "Deferred[Any]":
        _only(query, "username")
        return self._store.agents(query.get("username"))

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
        _only(query)
        return [
            {
                "id": client.client_id,
                "address": client.address,
                "user": client.username,
                "since": _iso(client.since),
                "subscriptions": [
                    {"filter": topic_filter, "qos": qos}
                    for topic_filter, qos in session.subscriptions.items()
                ],
                "queue": session.queued + session.inflight,
            }
            for session in self._sessions
            if (client := session.client) is not None and session.connection is not None
        ]

    def _openapi(self, query: dict[str, str]) -> Raw:
        _only(query)
        return self._document


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
    """RFC 3339, or milliseconds since the epoch."""
    text = query.get(name)
    if text is None:
        return None
    try:
        if re.fullmatch(r"\d{1,15}", text, re.ASCII) and int(text) <= LAST_MOMENT:
            return datetime.fromtimestamp(int(text) / 1000, timezone.utc)
        if match := _TIME.fullmatch(text):
            day, time, fraction, _, sign, offset = match.groups()
            # A plus that was not quoted has become a blank; seconds may be leap seconds.
            zone = "+00:00" if sign is None else f"{sign.replace(' ', '+')}{offset}"
            time = time.replace(":60", ":59") if time.endswith(":60") else time
            return datetime.fromisoformat(f"{day}T{time}.{(fraction or '').ljust(6, '0')[:6]}{zone}")
    except (ValueError, OverflowError, OSError):
        pass
    raise HTTPError(400, f"{name} must be a time like 2026-11-24T04:07:00Z or milliseconds since the epoch")


def _limit(query: dict[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise HTTPError(400, f"limit must be a number from 1 to {MAX_LIMIT}")


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
