"""A store of one agent, for tests of what reads it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from platziverse.daemon.hands import Hands
from platziverse.testing import BrokerHarness
from platziverse.web.clients import Clients
from platziverse.web.interfaces import Export, Range, Row, Unavailable
from platziverse.web.rejections import NotReplayed
from platziverse.web.siblings import Siblings

AGENT: Row = {"id": 1, "uuid": "yyy", "username": "platzi", "connected": True}
SESSION: Row = {
    "clientId": "plug",
    "username": "ana",
    "absentSince": None,
    "createdAt": "2026-11-24T04:07:00.000Z",
    "oldest": "2026-11-24T04:08:00.000Z",
}
METRIC: Row = {"id": 7, "type": "temp", "value": "33", "createdAt": "2026-11-24T04:07:00.000Z"}
NEWEST: Row = {
    "uuid": "yyy",
    "name": "platzi",
    "connected": True,
    "type": "temp",
    "unit": "°C",
    "value": "33",
    "number": 33.0,
    "time": 1_795_493_280_000,
    "spark": "[1.5,null]",
    "id": 1,
}
#: Newest first.
REJECTED: list[Row] = [
    {
        "id": number,
        "topic": topic,
        "client": "c",
        "address": None,
        "reason": "no JSON",
        "size": 2,
        "fullSize": None,
        "time": 1_795_493_280_000,
        "replayed": None,
    }
    for number, topic in ((9, "secret"), (8, "agent/message"), (5, "agent/message"))
]


#: Of each of them.
PROPERTIES: Row = {"contentType": "text/plain", "userProperties": [["b", "1"], ["a", "2"]]}


class TableStore:
    """A ``ReadStore`` of one agent with one metric.

    :ivar asked: the questions.
    :ivar others: names of other daemons.
    :ivar in_vain: messages cannot be stored.
    """

    others: Sequence[str] = ()
    in_vain = False

    def __init__(self) -> None:
        self.away = False
        self.types_of = ["temp"]
        self.payload = b"{}"
        self.lines = 3
        self.asked: list[tuple[Any, ...]] = []

    def replay(self, number: int, by: str) -> "Deferred[int]":
        self.asked.append(("replay", number, by))
        return fail(NotReplayed("JSON is malformed")) if self.in_vain else succeed(2)

    def ask_others(self, request: str, argument: str) -> "Deferred[Sequence[str]]":
        return self._answer((request, argument), self.others)

    def _answer(self, question: tuple[Any, ...], rows: Any) -> "Deferred[Any]":
        self.asked.append(question)
        return fail(Unavailable("refused")) if self.away else succeed(rows)

    def agents(
        self, username: str | None, connected: bool | None, after: int, limit: int
    ) -> "Deferred[list[Row]]":
        known = username in (None, "platzi") and connected is not False and after < 1
        return self._answer((username, connected, after, limit), [AGENT] if known else [])

    def agent(self, uuid: str) -> "Deferred[Row | None]":
        return self._answer((uuid,), AGENT if uuid == "yyy" else None)

    def types(self, uuid: str) -> "Deferred[list[Row]]":
        return self._answer((uuid,), [{"type": "temp"}] if uuid == "yyy" else [])

    def metrics(
        self, uuid: str, type: str, since: datetime | None, until: datetime | None, limit: int
    ) -> "Deferred[list[Row]]":
        known = (uuid, type) == ("yyy", "temp")
        return self._answer((uuid, type, since, until, limit), [METRIC] if known else [])

    def sessions(self, after: str, limit: int) -> "Deferred[list[Row]]":
        return self._answer((after, limit), [SESSION, {**SESSION, "clientId": "unknown"}])

    def series(self, uuids: Sequence[str], types: Sequence[str], asked: Range) -> "Deferred[list[Row]]":
        rows = [
            {
                "agent": uuid,
                "id": 1 if uuid == "yyy" else None,
                "type": type,
                "unit": "°C",
                "known": type == "temp",
                "points": None if type == "text" else f"[[{asked.since},1.5]]",
            }
            for uuid in uuids
            for type in types or self.types_of
        ]
        return self._answer((uuids, types, asked), rows)

    def latest(
        self,
        uuids: Sequence[str],
        username: str | None,
        connected: bool | None,
        agent: int,
        type: str,
        limit: int,
        now: int,
    ) -> "Deferred[list[Row]]":
        rows = [NEWEST, {**NEWEST, "type": "text", "value": "on", "number": None, "spark": None}]
        found = [row for row in rows if (row["id"], row["type"]) > (agent, type)][:limit]
        return self._answer((uuids, username, connected, agent, type, limit), found)

    def rejected(self, before: int | None, limit: int) -> "Deferred[list[Row]]":
        rows = [row for row in REJECTED if before is None or row["id"] < before][:limit]
        return self._answer((before, limit), rows)

    def rejected_since(self, after: int | None, limit: int) -> "Deferred[list[Row]]":
        rows = REJECTED[:1] if after is None else [row for row in REJECTED[::-1] if row["id"] > after]
        return self._answer((after, limit), rows)

    def rejection(self, number: int) -> "Deferred[Row | None]":
        found = [row for row in REJECTED if row["id"] == number]
        return self._answer(
            (number,),
            {**found[0], "payload": memoryview(self.payload), "properties": PROPERTIES} if found else None,
        )

    def known(self, uuids: Sequence[str]) -> "Deferred[list[str]]":
        return self._answer((uuids,), [uuid for uuid in uuids if uuid == "yyy"])

    def export(self, export: Export, place: "Sequence[Any] | None", rows: int) -> "Deferred[Row | None]":
        first = place[-1] + 1 if place else 0
        lines = [f"line {number}\n" for number in range(first, min(first + rows, self.lines))]
        page = {"text": "".join(lines), "rows": len(lines), "agent": 1, "type": "t", "moment": "m"}
        found = {**page, "id": first + len(lines) - 1} if lines else None
        return self._answer((export, place, rows), found)

    def daemons(self) -> "Deferred[list[Row]]":
        return self._answer((), [{"number": 1, "state": "alive"}])


def clients_of(harness: BrokerHarness, store: TableStore) -> Clients:
    """The pages about the clients of a broker."""
    hands = Hands(harness.broker, harness.shared, store.ask_others)
    return Clients(store, harness.broker.sessions, hands, Siblings())
