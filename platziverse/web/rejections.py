"""Rejections: messages that could not become rows, newest first; one by one with their payload."""

import re
from base64 import b64encode
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred

from platziverse.web.answers import HTTPError
from platziverse.web.interfaces import ReadStore, Row
from platziverse.web.query import Query
from platziverse.web.readers import Reader, reader_of

#: Rejected messages of a page if the query does not say how many.
DEFAULT_LIMIT: Final = 100


class Rejections:
    """Rejections answers ``/api/rejected`` and what is below, but for topics that a reader may not get."""

    def __init__(self, store: ReadStore) -> None:
        self._store = store

    def page(self, query: Query) -> "Deferred[Row]":
        """Answer with a page. :raises HTTPError: the query makes no sense."""
        query.only("limit", "before")
        limit, before = query.limit(DEFAULT_LIMIT), query.text("before")
        if before is not None and not re.fullmatch(r"\d{1,15}", before, re.ASCII):
            raise HTTPError(400, "before must be the next of the page before")
        found = self._store.rejected(None if before is None else int(before), limit)
        return found.addCallback(partial(_page, reader_of(query.request), limit))

    def one(self, query: Query, number: str) -> "Deferred[Row]":
        """Answer with one message. :raises HTTPError: there is none with this number."""
        query.only()
        missing = f"Rejected message not found with id {number}"
        if not re.fullmatch(r"\d{1,15}", number, re.ASCII):
            raise HTTPError(404, missing)
        found = self._store.rejection(int(number))
        return found.addCallback(partial(_whole, reader_of(query.request), missing))


def _page(reader: Reader, limit: int, rows: list[Row]) -> Row:
    following = str(rows[-1]["id"]) if len(rows) == limit else None
    return {"rows": [row for row in rows if reader.may_receive(row["topic"])], "next": following}


def _whole(reader: Reader, missing: str, row: Row | None) -> Row:
    if row is None or not reader.may_receive(row["topic"]):
        raise HTTPError(404, missing)
    payload: bytes = bytes(row["payload"])
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = None
    return {**row, "payload": b64encode(payload).decode(), "text": text}
