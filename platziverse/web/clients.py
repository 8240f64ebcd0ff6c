"""Clients: who is connected, which Sessions there are, and the end of a connection; of all workers."""

from collections.abc import Sequence, Sized
from datetime import datetime, timezone
from heapq import nsmallest
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final, Protocol
from urllib.parse import quote

from twisted.internet.defer import Deferred

from platziverse.broker.ports import Session
from platziverse.broker.sessions import Sessions
from platziverse.mqtt.details import VERSIONS, named
from platziverse.web.answers import HTTPError
from platziverse.web.interfaces import ReadStore, Row
from platziverse.web.operators import who
from platziverse.web.query import Query
from platziverse.web.siblings import Siblings

#: Subscriptions of each client in a list of clients, and of all together: a page takes a turn of the reactor.
SHOWN_SUBSCRIPTIONS: Final = 100
SHOWN_IN_ALL: Final = 2000
NO_SUBSCRIPTIONS: Final[Row] = {"subscriptions": [], "subscriptionCount": 0}


class Hands(Protocol):
    """Hands do what an operator asks."""

    def kick(self, client_id: str, by: str) -> bool:
        """End the connection of a client to this daemon; return whether there was one.

        :param by: who asks, for the log.
        """

    def ask_others(self, client_id: str, by: str) -> "Deferred[Sequence[str]]":
        """Ask the other daemons of our database to end it; fires with their names.

        It errbacks with ``Unavailable``.
        """


class Clients:
    """Clients answers ``/api/clients`` and what is below, and ``/api/sessions``.

    :param store: the tables.
    :param sessions: those of the broker.
    :param hands: end connections.
    :param siblings: the other workers, which are asked unless the query has ``worker=own``.
    """

    def __init__(self, store: ReadStore, sessions: Sessions, hands: Hands, siblings: Siblings) -> None:
        self._store, self._sessions, self._hands, self._siblings = store, sessions, hands, siblings

    def page(self, query: Query) -> Any:
        """Answer with a page of those that are connected. :raises HTTPError: the query makes no sense."""
        query.only("limit", "after", "worker")
        limit, after = query.limit(), query.after()
        rows = self._page(limit, after)
        if query.is_own():
            return rows
        asked = self._siblings.ask(f"/api/clients?limit={limit}&after={after}&worker=own")
        return asked.addCallback(lambda more: nsmallest(limit, chain(rows, *more), key=itemgetter("number")))

    def _page(self, limit: int, after: int) -> list[Row]:
        unique = self._siblings.unique
        connected = [
            (number, session)
            for session in self._sessions
            if (client := session.client) is not None
            and session.connection is not None
            and (number := unique(client.number)) > after
        ]
        page = nsmallest(limit, connected, key=itemgetter(0))
        shown = _shown(page)
        return [self._client(number, session, shown) for number, session in page]

    def one(self, query: Query, client_id: str) -> Any:
        """Answer with one that is connected. :raises HTTPError: there is none."""
        query.only("worker")
        missing, own = HTTPError(404, f"Client not found with id {client_id}"), query.is_own()
        session = self._sessions.get(client_id)
        if session is not None and session.connection is not None and session.client is not None:
            row = self._client(self._siblings.unique(session.client.number), session, SHOWN_IN_ALL)
            return row | {
                "persistent": session.persistent,
                "will": _will(session),
                "userProperties": _pairs(session),
            }
        if own:
            raise missing
        return self._siblings.ask(_path(client_id)).addCallback(_first, missing)

    def kick(self, query: Query, client_id: str) -> Any:
        """End the connection of a client, wherever it is; its Session stays if it outlives the connection.

        :raises HTTPError: there is none.
        """
        query.only("worker")
        own, by = query.is_own(), who(query.request)
        if self._hands.kick(client_id, by):
            return {"client": client_id, "kicked": True, **self._siblings.named}
        if own:
            raise HTTPError(404, f"Client not found with id {client_id}")
        asked = self._siblings.ask(_path(client_id, "/kick"), b"POST", by)
        return asked.addCallback(self._kicked, query, client_id, by)

    def _kicked(self, answers: list[Row], query: Query, client_id: str, by: str) -> Any:
        if answers:
            return answers[0]
        return self._hands.ask_others(client_id, by).addCallback(_all_asked, query, client_id)

    def sessions(self, query: Query) -> "Deferred[list[Row]]":
        """Answer with a page of the durable Sessions. :raises HTTPError: the query makes no sense."""
        query.only("limit", "after", "worker")
        limit, after = query.limit(), query.text("after") or ""
        stored = self._store.sessions(after, limit).addCallback(self._with_present)
        if query.is_own():
            return stored
        path = f"/api/sessions?limit={limit}&after={quote(after, safe='')}&worker=own"
        return stored.addCallback(lambda rows: self._siblings.ask(path).addCallback(_joined, rows))

    def _with_present(self, rows: list[Row]) -> list[Row]:
        shown = _shown(rows)
        return [self._session(row, self._sessions.get(row["clientId"]), shown) for row in rows]

    def _client(self, number: int, session: Session, shown: int) -> Row:
        client = session.client
        assert client is not None
        return {
            "id": client.client_id,
            "number": number,
            "address": client.address,
            "user": client.username,
            "since": _iso(client.since),
            "protocol": VERSIONS[client.protocol_level],
            "properties": _asked(session),
            **_subscriptions(session, shown),
            "queue": session.queued + session.inflight,
            "dropped": session.dropped,
            **self._siblings.named,
        }

    def _session(self, stored: Row, session: Session | None, shown: int) -> Row:
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
            **(self._siblings.named if session is not None else {}),
        }


def _path(client_id: str, more: str = "") -> str:
    return f"/api/clients/{quote(client_id, safe='')}{more}?worker=own"


def _first(answers: list[Row], missing: HTTPError) -> Row:
    """Return what a worker has answered. :raises HTTPError: none has."""
    if not answers:
        raise missing
    return answers[0]


def _all_asked(names: Sequence[str], query: Query, client_id: str) -> Row:
    """Say which daemons were asked. :raises HTTPError: there are none."""
    if not names:
        raise HTTPError(404, f"Client not found with id {client_id}")
    query.request.setResponseCode(202, b"Accepted")
    return {"client": client_id, "kicked": False, "asked": list(names)}


def _joined(pages: list[list[Row]], rows: list[Row]) -> list[Row]:
    """Return the rows, each as the worker has it that has the Session in memory."""
    there = {row["client"]: row for page in pages for row in page if "worker" in row}
    return [row if "worker" in row else there.get(row["client"], row) for row in rows]


def _will(session: Session) -> Row | None:
    will = session.will
    return None if will is None else {"topic": will.topic, "qos": will.qos, "retain": will.retain}


def _asked(session: Session) -> Row | None:
    """Return the Properties of a CONNECT by their names, but for User Properties; ``None``: it is older."""
    if session.client is None or session.client.protocol_level < 5:
        return None
    found = named(session.terms.asked)
    found.pop("user_properties", None)
    return {_camel(name): value for name, value in found.items()}


def _pairs(session: Session) -> list[Row]:
    return [{"name": name, "value": value} for name, value in session.terms.asked.user_properties]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))


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
