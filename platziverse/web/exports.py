"""Exports: ``/api/export``, all rows of a stretch of time, page by page as the client takes them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from platziverse.broker.traffic import Traffic
from platziverse.web.answers import HTTPError
from platziverse.web.interfaces import Complaints, Export, ExportStore, Row, Unavailable
from platziverse.web.query import LAST_MOMENT, LONGEST, Query
from platziverse.web.streams import Places, Writing

#: By format: the type of the answer, and the end of the name of the file.
FORMATS: Final = {
    "csv": (b"text/csv; charset=utf-8; header=present", "csv"),
    "ndjson": (b"application/x-ndjson", "ndjson"),
}
#: By source: the columns behind agent, type, unit and time.
COLUMNS: Final = {
    "raw": ("value",),
    "5m": ("count", "min", "max", "avg", "last"),
    "1h": ("count", "min", "max", "avg", "last"),
}
#: Of a page: where its last line is.
PLACE: Final = ("agent", "type", "moment", "id")
#: Rows of the first page, and of any; and about how many bytes a page has.
FIRST, LEAST, MOST = 200, 20, 5000
BYTES: Final = 512 * 1024
#: Seconds that a client may take for a page without getting a smaller one next. That it reads is seen only
#: when it has taken all of a page.
LONG: Final = 5.0


class Exports:
    """Exports answers ``/api/export``.

    :param store: has a connection of its own for this.
    :param busy: returns whether messages wait to be stored: then an export rests for as long as it works.
    :param most: exports at a time.
    :param patience: seconds that a client may take nothing before it is cut.
    """

    def __init__(
        self,
        clock: Any,
        store: ExportStore,
        busy: Callable[[], bool],
        most: int,
        patience: float,
        traffic: Traffic,
        complaints: Complaints,
    ) -> None:
        self.clock, self.busy = clock, busy
        self._store, self._patience = store, patience
        self._complaints = complaints
        self.places = Places(most, "web.max_exports", "exports", traffic, complaints)

    def answer(self, query: Query) -> "Deferred[ExportStream]":
        """Answer a query. :raises HTTPError: it makes no sense."""
        query.only("from", "to", "format", "source", several=("agent", "type"))
        agents, types = query.texts("agent"), query.texts("type")
        since, until = query.milliseconds("from"), query.milliseconds("to")
        since, until = since or 0, LAST_MOMENT if until is None else until
        if since >= until:
            raise HTTPError(400, "from must be before to")
        for name in (*agents, *types):
            if not 0 < len(name) <= LONGEST:
                raise HTTPError(404, f"no agent and no type has the name {name!r:.300}")
        source = query.choice("source", tuple(COLUMNS), "raw")
        form = query.choice("format", tuple(FORMATS), "csv")
        export = Export(tuple(agents), tuple(types), since, until, form, source)
        return self._store.known(agents).addCallback(partial(self._begin, export))

    def _begin(self, export: Export, known: list[str]) -> "ExportStream":
        for uuid in export.agents:
            if uuid not in known:
                raise HTTPError(404, f"Agent not found with uuid {uuid}")
        return ExportStream(export, self)

    def opened(self, stream: "ExportStream", request: Request) -> Writing:
        """Note one that begins. :raises HTTPError: there is no room."""
        self.places.take(request)
        return Writing(request, self.clock, self._patience, stream.go_on, self.places.give_back)

    def page(self, export: Export, place: "Sequence[Any] | None", rows: int) -> "Deferred[Row | None]":
        """Return at most so many lines behind ``place``."""
        return self._store.export(export, place, rows)

    def failed(self, failure: Failure, writing: Writing) -> None:
        """Cut an export that cannot go on, and say why."""
        address = writing.address
        writing.cut()
        if failure.check(Unavailable):
            text = "Closing {address}: its export ends early, as the database is away: {reason}"
            reason = failure.getErrorMessage()
            self._complaints.warn("an export that ends early", text, address=address, reason=reason)
        else:
            writing.broke_down(failure)


class ExportStream:
    """An ExportStream is one export; it asks for a page when the client has taken the one before."""

    def __init__(self, export: Export, exports: Exports) -> None:
        self._export, self._exports = export, exports
        self._place: Sequence[Any] | None = None
        self._rows = self._last = FIRST
        self._asking = self._resting = self._ended = False
        self._began = 0.0
        self._writing: Writing | None = None

    def begin(self, request: Request) -> None:
        """Begin to answer. :raises HTTPError: there is no room."""
        self._writing = self._exports.opened(self, request)
        content_type, suffix = FORMATS[self._export.format]
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Disposition", f'attachment; filename="metrics.{suffix}"'.encode())
        self._writing.write(self._heading())
        if request.method == b"HEAD":
            self._end()
        else:
            self.go_on()

    def _heading(self) -> bytes:
        if self._export.format != "csv":
            return b""
        return ",".join(["agent", "type", "unit", "time", *COLUMNS[self._export.source]]).encode() + b"\n"

    def go_on(self) -> None:
        """Ask for the next page."""
        if self._asking or self._resting or self._ended:
            return
        if self._writing is not None and self._writing.took > LONG:
            self._rows = max(LEAST, int(self._last * LONG / self._writing.took))
        self._asking, self._began = True, self._exports.clock.seconds()
        page = self._exports.page(self._export, self._place, self._rows)
        page.addCallback(self._write).addErrback(self._failed)

    def _write(self, page: Row | None) -> None:
        self._asking = False
        assert self._writing is not None
        if page is not None:
            data = page["text"].encode()
            self._place = [page[name] for name in PLACE]
            self._writing.write(data)
        if page is None or page["rows"] < self._rows:
            self._end()
            return
        self._last = page["rows"]
        self._rows = min(MOST, 8 * self._last, max(LEAST, BYTES * self._last // len(data)))
        if self._exports.busy():
            self._resting = True
            took = self._exports.clock.seconds() - self._began
            self._exports.clock.callLater(took, self._go_on_if_wanted)
        else:
            self._go_on_if_wanted()

    def _go_on_if_wanted(self) -> None:
        self._resting = False
        if self._writing is not None and not self._writing.full and not self._writing.over:
            self.go_on()

    def _end(self) -> None:
        self._ended = True
        if self._writing is not None:
            self._writing.finish()

    def _failed(self, failure: Failure) -> None:
        self._asking, self._ended = False, True
        assert self._writing is not None
        self._exports.failed(failure, self._writing)
