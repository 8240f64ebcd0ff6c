"""Rejections: messages that could not become rows, newest first; one by one with their payload."""

import re
from base64 import b64encode
from functools import partial
from typing import Final, NoReturn, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.web.answers import HTTPError
from platziverse.web.interfaces import ReadStore, Row
from platziverse.web.operators import who
from platziverse.web.query import Query
from platziverse.web.readers import Reader, reader_of

#: Rejected messages of a page if the query does not say how many.
DEFAULT_LIMIT: Final = 100


class NotReplayed(Exception):
    """A NotReplayed says, in one line, why a message cannot be stored, or was before."""


class Replays(Protocol):
    """Replays tries messages again."""

    def replay(self, number: int, by: str) -> "Deferred[int]":
        """Try one again; fires with how many metrics were added.

        It errbacks with ``NotReplayed`` or ``Unavailable``.

        :param number: its id.
        :param by: who asks, for the log.
        """


class Rejections:
    """Rejections answers ``/api/rejected`` and what is below, but for topics that a reader may not get."""

    def __init__(self, store: ReadStore, replays: Replays | None = None) -> None:
        self._store, self._replays = store, replays

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
        return self._find(query, number).addCallback(_whole)

    def _find(self, query: Query, number: str) -> "Deferred[Row]":
        query.only()
        missing = f"Rejected message not found with id {number}"
        if not re.fullmatch(r"\d{1,15}", number, re.ASCII):
            raise HTTPError(404, missing)
        found = self._store.rejection(int(number))
        return found.addCallback(partial(_seen, reader_of(query.request), missing))

    def replay(self, query: Query, number: str) -> "Deferred[Row]":
        """Store a message by the rules of this moment. :raises HTTPError: there is none with this number."""
        return self._find(query, number).addCallback(self._replay, who(query.request))

    def _replay(self, row: Row, by: str) -> "Deferred[Row]":
        """Try a row again; the Deferred errbacks with ``HTTPError`` 409: it is, or was, in vain."""
        if row["replayed"] is not None:
            raise HTTPError(409, "it was replayed before")
        assert self._replays is not None
        done = self._replays.replay(row["id"], by).addErrback(_in_vain)
        return done.addCallback(lambda added: {"id": row["id"], "metricsAdded": added})


def _page(reader: Reader, limit: int, rows: list[Row]) -> Row:
    following = str(rows[-1]["id"]) if len(rows) == limit else None
    return {"rows": [row for row in rows if reader.may_receive(row["topic"])], "next": following}


def _in_vain(failure: Failure) -> NoReturn:
    failure.trap(NotReplayed)
    raise HTTPError(409, failure.getErrorMessage())


def _seen(reader: Reader, missing: str, row: Row | None) -> Row:
    if row is None or not reader.may_receive(row["topic"]):
        raise HTTPError(404, missing)
    return row


def _whole(row: Row) -> Row:
    payload: bytes = bytes(row["payload"])
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = None
    return {**row, "payload": b64encode(payload).decode(), "text": text}
