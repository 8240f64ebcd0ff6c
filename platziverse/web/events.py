"""Events: ``/api/events``, what happens as it happens, for pages (Server-Sent Events).

Values are written four times a second, to all streams that want the same as the same bytes. So
an open stream costs a message next to nothing, and a chart gets no more points than it can draw.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder, encode
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.web.interfaces import Complaints, ReadStore, Row, Unavailable
from platziverse.web.newest import MAX_SIZE, Newest, Values
from platziverse.web.query import Query
from platziverse.web.readers import Reader, reader_of
from platziverse.web.streams import Feed, Places, Writing

#: Seconds between two writes, two looks at what agents have said, two at the broker and at rejected messages,
#: and two signs of life.
INTERVAL: Final = 0.25
OFTEN: Final = 0.025
#: Writes in a second to all streams together; with more streams each gets them less often.
WRITES: Final = 200
SLOWLY: Final = 1.0
ALIVE: Final = 15.0
#: Agents that come or go, of one write; what is beyond is dropped and counted. The characters of that, and of
#: names of what was rejected, are ``MAX_SIZE`` at most.
MAX_PRESENCE: Final = 5000
#: Rejected messages that are told of at a time.
MAX_REJECTED: Final = 100

HEAD: Final = b"retry: 2000\n\n"
SIGN_OF_LIFE: Final = b":\n\n"

#: A number in JSON's notation, and in that of agents.
_PLAIN: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,16})(?:\.[0-9]{1,12})?", re.ASCII).fullmatch
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII).fullmatch


@frozen
class Wanted:
    """A Wanted is what a stream wants; no agents or no types: all of them."""

    agents: frozenset[str]
    types: frozenset[str]
    reader: Reader


class _Who(Struct):
    uuid: str


class _Presence(Struct):
    agent: _Who


_PRESENCE: Final = Decoder(_Presence)
#: Lines may end anywhere between two words of JSON, and never do so within an event.
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


@frozen
class _Gathered:
    """A _Gathered is what one write brings.

    :ivar presence: event, uuid and payload of the announcement of each agent that has come or gone.
    :ivar values: by agent.
    :ivar rejected: rows of messages that were rejected.
    :ivar said: events for everybody.
    """

    presence: Sequence[tuple[str, str, bytes]]
    values: Mapping[str, Values]
    rejected: Sequence[Row] = ()
    said: Sequence[bytes] = ()
    #: The event of each agent with all of its values, made once for all streams.
    _events: dict[str, bytes] = field(factory=dict)

    def of(self, wanted: Wanted) -> tuple[int, bytes]:
        """Return how many events a stream gets, and their bytes."""
        events = [
            b"event: %s\ndata: %s\n\n" % (event.encode(), payload)
            for event, uuid, payload in self.presence
            if not wanted.agents or uuid in wanted.agents
        ]
        agents = wanted.agents.intersection(self.values) if wanted.agents else self.values
        for uuid in agents:
            if event := self._event(uuid, wanted.types):
                events.append(event)
        events += [
            event_of("rejected", row) for row in self.rejected if wanted.reader.may_receive(row["topic"])
        ]
        events += self.said
        return len(events), b"".join(events)

    def _event(self, uuid: str, types: frozenset[str]) -> bytes:
        values = self.values[uuid]
        if types:
            few = {type: values.types[type] for type in types.intersection(values.types)}
            return _metric(uuid, values.moment, few) if few else b""
        event = self._events.get(uuid)
        if event is None:
            event = self._events[uuid] = _metric(uuid, values.moment, values.types)
        return event


def _metric(uuid: str, moment: int, types: Mapping[str, str]) -> bytes:
    shown = {type: _shown(value) for type, value in types.items()}
    return event_of("metric", {"agent": uuid, "time": moment, "values": shown})


def event_of(name: str, data: object) -> bytes:
    """Return one event of a stream."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(data))


def _shown(value: str) -> Any:
    """Return a value as JSON shows it: a number if it is one."""
    if _PLAIN(value):
        return Raw(value.encode())
    if _NUMBER(value) and math.isfinite(number := float(value)):
        return number
    return value


def _newest(rows: list[Row]) -> list[Row]:
    """Return the last rows of messages that were rejected, as many as one write may have."""
    size = first = 0
    for first in range(len(rows), max(0, len(rows) - MAX_REJECTED), -1):
        size += len(rows[first - 1]["topic"]) + len(rows[first - 1]["client"])
        if size > MAX_SIZE:
            return rows[first:]
    return rows[-MAX_REJECTED:]


class EventStream:
    """An EventStream is one open answer; what its client is too slow for is dropped, and it is told."""

    def __init__(self, events: "Events", wanted: Wanted) -> None:
        self.wanted = wanted
        #: Events that were dropped since the client took something last.
        self.missed = 0
        self._events = events
        self.writing: Writing | None = None

    def begin(self, request: Request) -> None:
        """Begin to answer. :raises HTTPError: there is no room."""
        self.writing = self._events.opened(self, request)
        for name, value in (
            (b"Content-Type", b"text/event-stream; charset=utf-8"),
            (b"X-Accel-Buffering", b"no"),  # or nginx would gather events
        ):
            request.setHeader(name, value)
        self.writing.write(HEAD)
        if request.method == b"HEAD":
            self.writing.finish()

    def write(self, count: int, data: bytes) -> int:
        """Write some events, or drop them; return how many were dropped."""
        writing = self.writing
        if writing is None or not data:
            return 0
        if writing.full:
            self.missed += count
            return count
        writing.write(data)
        return 0

    def caught_up(self) -> None:
        """Tell the client, who takes more again, what it has missed."""
        if self.missed and self.writing is not None:
            missed, self.missed = self.missed, 0
            self.writing.write(event_of("dropped", {"events": missed}))


class Events:
    """Events gathers what happens while there are streams, and writes it to them.

    :param clock: steady time, and ``callLater``.
    :param store: where rejected messages are.
    :param broker: returns how the broker is.
    :param most: streams at a time.
    :param patience: seconds that a stream may take nothing before it is cut.
    """

    def __init__(
        self,
        clock: Any,
        store: ReadStore,
        broker: Callable[[], Row],
        most: int,
        patience: float,
        traffic: Traffic,
        complaints: Complaints,
    ) -> None:
        self._clock, self._store, self._broker = clock, store, broker
        self._patience, self._traffic, self._complaints = patience, traffic, complaints
        self._places = Places(most, "web.max_streams", "streams", traffic, complaints)
        self._turn = Turn(clock)
        self._feed: Feed | None = None
        # Those that want the same, together.
        self._streams: dict[Wanted, dict[EventStream, None]] = {}
        self._presence: list[tuple[str, str, bytes]] = []
        self._presence_size = 0
        self._rejected: list[Row] = []
        self._said: list[bytes] = []
        self._newest = Newest()
        self._calls: list[Any] = []
        self._last_rejected: int | None = None
        self._asking = False

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._places.taken

    def use(self, feed: Feed) -> None:
        """Gather what this feed tells."""
        self._feed = feed

    # -- requests --------------------------------------------------------------------------------

    def answer(self, query: Query) -> EventStream:
        """Answer ``/api/events``. :raises HTTPError: the query makes no sense."""
        query.only(several=("agent", "type"))
        agents, types = frozenset(query.texts("agent")), frozenset(query.texts("type"))
        return EventStream(self, Wanted(agents, types, reader_of(query.request)))

    def opened(self, stream: EventStream, request: Request) -> Writing:
        """Note a stream that begins. :raises HTTPError: there is no room."""
        self._places.take(request)
        if not self._streams:
            self._start()
        self._streams.setdefault(stream.wanted, {})[stream] = None
        return Writing(request, self._clock, self._patience, stream.caught_up, lambda: self._closed(stream))

    def _closed(self, stream: EventStream) -> None:
        streams = self._streams[stream.wanted]
        del streams[stream]
        if not streams:
            del self._streams[stream.wanted]
        self._places.give_back()
        if not self._streams:
            self._stop()

    def stop(self) -> None:
        """End all streams: the daemon is stopping."""
        for wanted in list(self._streams):
            self._end(wanted)

    @property
    def usernames(self) -> set[str]:
        """The names of those who read."""
        return {name for wanted in self._streams if (name := wanted.reader.username) is not None}

    def end_of(self, username: str) -> int:
        """End the streams of a reader; return how many."""
        theirs = [wanted for wanted in self._streams if wanted.reader.username == username]
        count = sum(len(self._streams[wanted]) for wanted in theirs)
        for wanted in theirs:
            self._end(wanted)
        return count

    def _end(self, wanted: Wanted) -> None:
        """End the streams of those who want this, at the end of the daemon or of what they may."""
        for stream in list(self._streams[wanted]):
            if stream.writing is not None:
                stream.writing.finish()

    def _start(self) -> None:
        self._last_rejected, later = None, self._clock.callLater
        if self._feed is not None:
            self._feed.open()
        self._calls = [later(INTERVAL, self._write), later(0, self._look), later(ALIVE, self._live)]
        self._calls.append(later(OFTEN, self._gather_often))

    def _later(self, number: int, seconds: float, function: Callable[..., None], *arguments: object) -> None:
        """Call a function again, unless the last stream has ended meanwhile."""
        if self._streams:
            self._calls[number] = self._clock.callLater(seconds, function, *arguments)

    def _stop(self) -> None:
        if self._feed is not None:
            self._feed.close()
        for call in self._calls:
            if call.active():
                call.cancel()
        self._presence, self._presence_size, self._rejected, self._said = [], 0, [], []
        self._newest.forget()

    # -- what happens ----------------------------------------------------------------------------

    def announced(self, event: str, payload: bytes) -> None:
        """Gather that an agent has come or gone.

        :param event: connected or disconnected.
        :param payload: of the announcement.
        """
        try:
            uuid = _PRESENCE.decode(payload).agent.uuid
        except (DecodeError, UnicodeDecodeError, RecursionError):  # of another daemon, or a handler
            return
        if len(self._presence) < MAX_PRESENCE and self._presence_size < MAX_SIZE:
            self._presence_size += len(payload)
            self._presence.append((event, uuid, payload.translate(_ONE_LINE)))
        else:
            self._drop(1, "")

    def _gather(self) -> None:
        """Look at what agents have said, as long as it is new to the processor."""
        if self._feed is not None:
            self._newest.add(self._feed.take())

    def _gather_often(self) -> None:
        self._gather()
        self._later(3, OFTEN, self._gather_often)

    def _drop(self, count: int, address: str) -> None:
        self._traffic.events_dropped += count
        text = "{count} events were not written: {address} takes them more slowly than they come"
        if not address:
            text = "{count} events were not written: there are too many at a time"
        self._complaints.warn("events dropped", text, address=address, count=count)

    # -- writing ---------------------------------------------------------------------------------

    def _write(self) -> None:
        self._gather()
        values, dropped = self._newest.take()
        if dropped:
            self._drop(dropped, "")
        gathered = _Gathered(self._presence, values, self._rejected, self._said)
        self._presence, self._presence_size, self._rejected, self._said = [], 0, [], []
        self._go_on(iter(list(self._streams)), gathered)

    def _go_on(self, groups: Iterator[Wanted], gathered: _Gathered) -> None:
        """Write to as many groups of streams as there is time for in this turn."""
        for wanted in groups:
            self._tell(wanted, *gathered.of(wanted))
            if self._turn.is_over:
                self._later(0, 0, self._go_on, groups, gathered)
                return
        self._later(0, max(INTERVAL, self.streams / WRITES), self._write)

    def _tell(self, wanted: Wanted, count: int, data: bytes) -> None:
        for stream in list(self._streams.get(wanted, ())):
            if missed := stream.write(count, data):
                assert stream.writing is not None
                self._drop(missed, stream.writing.address)

    def _look(self) -> None:
        """Look how the broker is, and which messages were rejected since."""
        self._said = [event_of("broker", self._broker())]
        for wanted in list(self._streams):
            if not wanted.reader.may_read:
                self._end(wanted)
        if not self._asking:
            self._asking = True
            since = self._last_rejected
            rows: Deferred[list[Row]] = self._store.rejected_since(since, MAX_REJECTED)
            rows.addCallbacks(self._note_rejected, self._not_told, (since,))
        self._later(1, SLOWLY, self._look)

    def _note_rejected(self, rows: list[Row], since: int | None) -> None:
        self._asking = False
        if since != self._last_rejected:  # asked before the last stream ended, and another has begun
            return
        self._last_rejected = rows[-1]["id"] if rows else since or 0
        if since is not None:
            self._rejected = _newest(self._rejected + rows)

    def _not_told(self, failure: Failure) -> None:
        """Tell nothing of rejected messages while the database is away; anything else is a bug of ours."""
        self._asking = False
        if not failure.check(Unavailable):
            text = "Bug: event streams could not be told of rejected messages"
            self._complaints.fail("rejected messages", failure, text, address="")

    def _live(self) -> None:
        """Keep proxies awake."""
        for streams in list(self._streams.values()):
            for stream in list(streams):
                stream.write(0, SIGN_OF_LIFE)
        self._later(2, ALIVE, self._live)
