"""Traces: ``/api/clients/<id>/trace``, the packets of one client as they come and go."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final, Protocol
from urllib.parse import quote

from twisted.internet.defer import succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import formatEvent
from twisted.web.server import Request

from platziverse.broker.traffic import Traffic
from platziverse.web.events import ALIVE, INTERVAL, SIGN_OF_LIFE, event_of
from platziverse.web.interfaces import Complaints, Row
from platziverse.web.operators import who
from platziverse.web.query import Query
from platziverse.web.readers import reader_of
from platziverse.web.siblings import Siblings
from platziverse.web.streams import Places, Writing

#: Lines of one write, four times a second; what is beyond is dropped, and the reader is told how much.
MAX_LINES: Final = 1000


class Tracer(Protocol):
    """A Tracer knows the packets of clients."""

    def is_connected(self, client_id: str) -> bool:
        """Return whether a client is connected to this daemon."""

    def trace(
        self, client_id: str, hear: Callable[[str, Mapping[str, object]], None], by: str
    ) -> Callable[[], None]:
        """Let ``hear`` be told of each packet of a client from now on; return what ends that.

        It is called with a format of ``twisted.logger``, and its fields.

        :param by: who asks, for the log.
        """


class Traces:
    """Traces answers with streams.

    :param clock: steady time, and ``callLater``.
    :param now: seconds since the epoch.
    :param most: streams at a time.
    :param patience: seconds that a stream may take nothing before it is cut.
    """

    def __init__(
        self,
        clock: Any,
        now: Callable[[], float],
        tracer: Tracer,
        siblings: Siblings,
        most: int,
        patience: float,
        traffic: Traffic,
        complaints: Complaints,
    ) -> None:
        self.clock, self.now, self.tracer = clock, now, tracer
        self.siblings, self.patience = siblings, patience
        self.places = Places(most, "web.max_streams", "traces", traffic, complaints)
        self.open: set[TraceStream] = set()

    def answer(self, query: Query, client_id: str) -> "TraceStream":
        """Answer with a stream. :raises HTTPError: the query makes no sense."""
        query.only("worker")
        return TraceStream(self, client_id, query.is_own())

    @property
    def usernames(self) -> set[str]:
        """The names of those who read."""
        return {stream.username for stream in self.open if stream.username is not None}

    def end_of(self, username: str) -> int:
        """End the streams of a reader; return how many."""
        theirs = [stream for stream in self.open if stream.username == username]
        for stream in theirs:
            stream.finish()
        return len(theirs)

    def stop(self) -> None:
        """End all of them."""
        for stream in list(self.open):
            stream.finish()


class TraceStream:
    """A TraceStream is one open answer. The trace ends with it, not with the connection of the client.

    :param own: the other workers are not asked for their packets.
    :ivar username: of the reader.
    """

    username: str | None = None

    def __init__(self, traces: Traces, client_id: str, own: bool) -> None:
        self._traces, self._client_id, self._own = traces, client_id, own
        self._lines: list[Row] = []
        self._dropped = 0
        self._silent = 0.0
        self._writing: Writing | None = None
        self._call: IDelayedCall | None = None
        self._ends: list[Callable[[], None]] = []

    def begin(self, request: Request) -> None:
        """Begin to answer. :raises HTTPError: there is no room."""
        traces = self._traces
        traces.places.take(request)
        self.username = reader_of(request).username
        request.setHeader(b"Content-Type", b"text/event-stream; charset=utf-8")
        request.setHeader(b"X-Accel-Buffering", b"no")
        self._writing = Writing(request, traces.clock, traces.patience, lambda: None, self._ended)
        traces.open.add(self)
        if request.method == b"HEAD":
            self.finish()
            return
        by, path = who(request), f"/api/clients/{quote(self._client_id, safe='')}"
        self._ends = [traces.tracer.trace(self._client_id, self._hear, by)]
        if not self._own:
            self._ends.append(traces.siblings.follow(f"{path}/trace?worker=own", by, self._hear_event))
        asked = succeed([]) if self._own else traces.siblings.ask(f"{path}?worker=own")
        asked.addCallback(self._begun)

    def _begun(self, others: list[Row]) -> None:
        """Say whether the client is connected here or to another worker, then what it sends."""
        if self._writing is None or self._writing.over:
            return
        connected = bool(others) or self._traces.tracer.is_connected(self._client_id)
        first = {"client": self._client_id, "connected": connected, **self._traces.siblings.named}
        self._writing.write(event_of("trace", first))
        self._call = self._traces.clock.callLater(INTERVAL, self._write)

    def finish(self) -> None:
        """Write the end."""
        if self._writing is not None:
            self._writing.finish()

    def _hear(self, format: str, fields: Mapping[str, object]) -> None:
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        text = formatEvent({"log_format": format, **fields})
        self._lines.append({"time": int(self._traces.now() * 1000), "text": text})

    def _hear_event(self, event: str, data: Row) -> None:
        """Take an event of the stream of another worker."""
        if event == "dropped":
            self._dropped += data["events"]
        elif event == "packet":
            if len(self._lines) < MAX_LINES:
                self._lines.append(data)
            else:
                self._dropped += 1

    def _write(self) -> None:
        """Write what has come, unless the reader takes nothing: then it waits, up to ``MAX_LINES``."""
        writing = self._writing
        self._call = self._traces.clock.callLater(INTERVAL, self._write)
        if writing is None or writing.full:
            return
        self._lines.sort(key=itemgetter("time"))  # those of other workers come a little later
        data = b"".join(event_of("packet", line) for line in self._lines)
        if self._dropped:
            data += event_of("dropped", {"events": self._dropped})
        self._silent = 0.0 if data else self._silent + INTERVAL
        if self._silent >= ALIVE:
            data, self._silent = SIGN_OF_LIFE, 0.0
        self._lines.clear()
        self._dropped = 0
        if data:
            writing.write(data)

    def _ended(self) -> None:
        for end in self._ends:
            end()
        self._traces.open.discard(self)
        self._traces.places.give_back()
        if self._call is not None and self._call.active():
            self._call.cancel()
