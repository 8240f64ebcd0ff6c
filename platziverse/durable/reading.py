"""Reading: what the tables of Sessions hold, over connections of their own."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from platziverse.broker.places import StoredInterest, StoredPlace
from platziverse.broker.records import (
    ELSEWHERE,
    IDENTIFIER,
    OPTIONS,
    StoredMessage,
    StoredRetained,
    StoredSession,
    StoredWill,
    WillLeft,
    ends_of,
)
from platziverse.durable.columns import PROPERTIES, PUBREC, RETAIN
from platziverse.ingest.errors import StoreStopped
from platziverse.ingest.recovery import Backoff
from platziverse.mqtt.properties import without_properties
from platziverse.postgres.reader import Reader

log = Logger("platziverse.store")

#: Questions at a time, and seconds for one: two thousand Sessions with a thousand messages each take some.
CONNECTIONS: Final = 2
DEADLINE: Final = 30.0
#: Bytes of Topic Names and payloads in one answer, as the reactor stands still for it, unless one message has
#: more: a page is asked for in as many parts as it takes.
PART_BYTES: Final = 1 << 20
#: 2 to the power of this many Sessions come together.
TOGETHER: Final = 12
_QOS: Final = 3
_OURS: Final = _QOS | RETAIN | PUBREC | PROPERTIES
#: Of the protocol, as Sessions have it.
_VERSION: Final = 4

# Bounds and limit stand inside, so that whatever the planner knows, it joins a page and not a table.
_PAGE: Final = f"""SELECT seq, topic, payload, flags, message, found FROM (
    SELECT seq, coalesce(queue.topic, mqtt_messages.topic) AS topic,
        coalesce(queue.payload, mqtt_messages.payload) AS payload,
        queue.flags, coalesce(message, 0) AS message,
        sum(octet_length(coalesce(queue.payload, mqtt_messages.payload))
            + octet_length(coalesce(queue.topic, mqtt_messages.topic))) OVER (ORDER BY seq) AS total,
        row_number() OVER (ORDER BY seq) AS nth, count(*) OVER () AS found
    FROM (SELECT * FROM mqtt_queue WHERE session = %s AND seq > %s AND seq <= %s
        ORDER BY seq LIMIT %s) AS queue
    LEFT JOIN mqtt_messages ON mqtt_messages.id = queue.message AND queue.flags & {PUBREC} = 0) AS page
    WHERE nth = 1 OR coalesce(total, 0) <= {PART_BYTES} ORDER BY seq"""
# All in one question, several times as fast as page by page: the rows of one Session lie all over the table.
# The answer is a text for every 4,096 Sessions, taken apart when the first of them is asked for: ADR 0113.
_HEADS: Final = f"""SELECT session >> {TOGETHER},
    string_agg(concat_ws(' ', session, first, last, messages, size), ',')
FROM (
    SELECT session, min(seq) AS first, max(seq) AS last, count(*) AS messages,
        sum(octet_length(coalesce(queue.payload, mqtt_messages.payload, ''))
            + octet_length(coalesce(queue.topic, mqtt_messages.topic, ''))) AS size
    FROM mqtt_queue AS queue LEFT JOIN mqtt_messages ON mqtt_messages.id = queue.message
    GROUP BY session) AS heads GROUP BY 1"""
# No index finds the rows of one message: they are counted once, all together. As with heads, in few texts.
_SHARED: Final = f"""SELECT string_agg(message || ' ' || rows, ',') FROM (
    SELECT message, count(*) AS rows FROM mqtt_queue WHERE message IS NOT NULL GROUP BY 1 LIMIT %s) AS shared
    GROUP BY message >> {TOGETHER}"""
# The Subscriptions of a Session are one text, which costs half of what arrays do. No Topic Filter has a "#"
# that is not its last character, so none has the separator: ADR 0127.
_BETWEEN: Final = "#,"
_SESSION: Final = f"""SELECT id, "clientId", username, expiry, extract(epoch FROM "absentSince")::float8,
    filters, owed, identified, head, array_to_string(ARRAY(
        SELECT "packetId" FROM mqtt_incoming AS incoming WHERE incoming."clientId" = page."clientId"), ' '),
    version, "inheritedFrom"
FROM ({{page}}) AS page
LEFT JOIN LATERAL (
    SELECT string_agg(to_hex(options & {OPTIONS}) || filter, '{_BETWEEN}') AS filters,
        string_agg(filter, '{_BETWEEN}') FILTER (WHERE replay) AS owed,
        string_agg(identifier || ' ' || filter, '{_BETWEEN}') FILTER (WHERE identifier > 0) AS identified
    FROM mqtt_subscriptions WHERE session = page.id) AS subscriptions ON true ORDER BY page.id"""
_SESSIONS: Final = _SESSION.format(
    page="SELECT * FROM mqtt_sessions WHERE daemon = %s AND id > %s ORDER BY id LIMIT %s"
)
_INHERITED: Final = _SESSION.format(page="SELECT * FROM mqtt_sessions WHERE daemon = %s AND id = ANY(%s)")
_HEADS_OF: Final = """SELECT mqtt_sessions.id, min(seq), max(seq), count(*),
    sum(octet_length(coalesce(queue.payload, mqtt_messages.payload, ''))
        + octet_length(coalesce(queue.topic, mqtt_messages.topic, '')))::bigint
    FROM mqtt_sessions JOIN mqtt_queue AS queue ON session = mqtt_sessions.id AND seq > head
    LEFT JOIN mqtt_messages ON mqtt_messages.id = queue.message
    WHERE mqtt_sessions.id = ANY(%s) GROUP BY 1"""
_RETAINED: Final = """SELECT topic, payload, flags, coalesce("clientId", ''), username, version
    FROM mqtt_retained WHERE topic > %s ORDER BY topic LIMIT %s"""
_WILLS: Final = """SELECT "clientId", username, connection, topic, payload, flags,
    extract(epoch FROM "dueAt")::float8 FROM mqtt_wills WHERE daemon = ANY(%s) ORDER BY connection"""
# From one link to the next in the index; there are as many as pairs of daemons.
_LINKS: Final = """WITH RECURSIVE waiting AS (
    (SELECT session FROM mqtt_queue WHERE session < 0 ORDER BY session LIMIT 1)
    UNION ALL SELECT (SELECT queue.session FROM mqtt_queue AS queue WHERE queue.session > waiting.session
        AND queue.session < 0 ORDER BY queue.session LIMIT 1) FROM waiting WHERE session IS NOT NULL
) SELECT session FROM waiting WHERE session IS NOT NULL ORDER BY session DESC"""
# What is for a Session is owed to its owner, and to the dead that had it before, as long as it names them.
_ELSEWHERE: Final = """SELECT page.id, unnest(array_remove(abs(daemon)::smallint || before, ours.id)),
    coalesce(
        (SELECT array_agg(filter) FROM mqtt_subscriptions WHERE session = page.id), '{}')
    FROM mqtt_daemons AS ours, LATERAL (
        SELECT mqtt_sessions.id, daemon, "inheritedFrom" AS before FROM mqtt_sessions
        JOIN mqtt_daemons AS theirs ON theirs.id = abs(daemon)
            AND theirs.bus = ours.bus AND theirs.id <> ours.id
        WHERE mqtt_sessions.id > %s ORDER BY 1 LIMIT %s) AS page WHERE ours.id = %s ORDER BY 1"""
# Whoever shares no clients with us any more settles nothing that we could wait for.
_HEIRS: Final = """SELECT owner FROM (SELECT abs(daemon) AS owner FROM mqtt_sessions WHERE daemon IN (%s, -%s)
        UNION SELECT abs(daemon) FROM mqtt_sessions
        WHERE "inheritedFrom" IS NOT NULL AND %s::smallint = ANY ("inheritedFrom")) AS owners
    JOIN mqtt_daemons AS theirs ON theirs.id = owner JOIN mqtt_daemons ours USING (bus) WHERE ours.id = %s"""
_LAST: Final = "SELECT coalesce(max(id), 0) FROM mqtt_messages WHERE id >= %s AND id < %s"
# Of a Session that has just begun, and not of one that was there.
_NUMBER: Final = """SELECT id FROM mqtt_sessions WHERE "clientId" = %s AND daemon = %s
    AND "absentSince" IS NULL AND head = 0"""
_FIND: Final = """SELECT found.id, CASE WHEN theirs.id IS NULL THEN 0 ELSE daemon END,
        extract(epoch FROM "absentSince")::float8, coalesce(
            (SELECT array_agg(filter) FROM mqtt_subscriptions WHERE session = found.id), '{}')
    FROM mqtt_sessions AS found JOIN mqtt_daemons AS ours ON ours.id = %s
    LEFT JOIN mqtt_daemons AS theirs ON theirs.id = abs(daemon) AND theirs.bus = ours.bus
    WHERE "clientId" = %s"""

_Steps = Generator["Deferred[Any]", Any, Any]


class Unread(Exception):
    """A question was not answered; the text says why in one line."""


def _taken_apart(payload: Any, flags: int) -> tuple[bytes, bytes]:
    """Return the payload of a row, and the Properties that stand before it."""
    data = bytes(payload)
    return without_properties(data) if flags & PROPERTIES else (data, b"")


def _subscriptions(filters: str, identified: str | None) -> dict[str, int]:
    """Return what is granted by Topic Filter.

    :param filters: each behind its options, which are one hexadecimal digit.
    :param identified: those with a Subscription Identifier, each behind it and a space.
    """
    granted = {item[1:]: int(item[0], 16) for item in filters.split(_BETWEEN)}
    for item in identified.split(_BETWEEN) if identified else ():
        identifier, topic_filter = item.split(" ", 1)
        granted[topic_filter] |= int(identifier) << IDENTIFIER
    return granted


def _pairs(texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    for text in texts:
        for pair in text.split(","):
            number, count = pair.split()
            yield int(number), int(count)


class _Heads:
    """_Heads are first and last position, number and bytes of the messages that wait for each Session.

    :param texts: see ``_HEADS``.
    """

    def __init__(self, texts: Sequence[tuple[int, str]]) -> None:
        self._texts = dict(texts)
        self._known: dict[int, list[int]] = {}

    def of(self, session: int) -> Sequence[int]:
        """Return those of one Session; zeros: nothing waits for it."""
        text = self._texts.pop(session >> TOGETHER, None)
        for head in text.split(",") if text is not None else ():
            number, *numbers = map(int, head.split())
            self._known[number] = numbers
        return self._known.get(session, (0, 0, 0, 0))


class SessionReader:
    """A SessionReader asks until there is an answer, or it is stopped.

    :param daemon: returns the number of this daemon.
    :param lost: called with Session and position of a row whose message is missing.
    :ivar unreadable: how many rows were skipped, as they have no message, or another version wrote them.
    """

    def __init__(self, reactor: Any, daemon: Callable[[], int], lost: Callable[[int, int], None]) -> None:
        self.unreadable = 0
        self._reactor, self._daemon, self._lost = reactor, daemon, lost
        self._reader = Reader(reactor, Unread, CONNECTIONS, DEADLINE, target="read-write")
        self._pauses: set[Deferred[None]] = set()
        self._said: set[str] = set()
        # While the Sessions are read, page by page.
        self._heads: _Heads | None = None
        self._stopped = False

    def start(self, dsn: str) -> None:
        """Answer questions from this database; until then they wait."""
        self._reader.dsn = dsn

    def stop(self) -> None:
        """Close all connections; questions errback with ``StoreStopped``."""
        self._stopped = True
        self._reader.stop()
        for pause in list(self._pauses):
            pause.cancel()

    @inlineCallbacks
    def page(self, session: int, after: int, through: int, limit: int) -> _Steps:
        """Return the first messages that wait for a Session, in order; see ``SessionStore``."""
        messages: list[StoredMessage] = []
        while left := limit - len(messages):
            rows = yield self._ask(_PAGE, session, after, through, left)
            for *row, _ in rows:
                message = self._message(session, *row)
                if message is not None:
                    messages.append(message)
            if not rows or len(rows) == rows[0][-1] < left:
                break
            after = rows[-1][0]
        return messages

    @inlineCallbacks
    def links(self, target: int) -> _Steps:
        """Return the numbers of the links to daemon ``target`` in which messages wait."""
        rows = yield self._ask(_LINKS)
        return [number for (number,) in rows if ends_of(number)[1] == target]

    @inlineCallbacks
    def elsewhere(self, after: int, limit: int) -> _Steps:
        """Return the Sessions of daemons that share our clients, whose number is higher than ``after``."""
        rows = yield self._ask(_ELSEWHERE, after, limit, self._daemon())
        return [StoredInterest(session, daemon, tuple(filters)) for session, daemon, filters in rows]

    @inlineCallbacks
    def heirs(self, daemon: int) -> _Steps:
        """Return the daemons that have Sessions of a daemon; see ``SessionStore``."""
        return {owner for (owner,) in (yield self._ask(_HEIRS, daemon, daemon, daemon, self._daemon()))}

    @inlineCallbacks
    def sessions(self, after: int, limit: int) -> _Steps:
        """Return the Sessions of this daemon whose number is higher than ``after``, in order of numbers."""
        sessions: list[StoredSession] = []
        if not after or self._heads is None:
            self._heads = _Heads((yield self._ask(_HEADS)))
        heads = self._heads
        while not sessions:
            rows = yield self._ask(_SESSIONS, self._daemon(), after, limit)
            if not rows:
                self._heads = None
                break
            after = rows[-1][0]
            sessions = [
                session for row in rows if (session := self._session(heads.of(row[0]), *row)) is not None
            ]
        return sessions

    @inlineCallbacks
    def retained(self, after: str, limit: int) -> _Steps:
        """Return the Retained Messages whose Topic Name is behind ``after``, in order of the code points."""
        rows = yield self._ask(_RETAINED, after, limit)
        return [
            StoredRetained(topic, content, flags & _QOS, client_id, username, version, properties)
            for topic, payload, flags, client_id, username, version in rows
            for content, properties in (_taken_apart(payload, flags),)
        ]

    @inlineCallbacks
    def inherited(self, numbers: Sequence[int]) -> _Steps:
        """Return the Sessions with these numbers, which were another daemon's until now."""
        if not numbers:
            return []
        found: dict[int, Sequence[int]] = {
            number: head for number, *head in (yield self._ask(_HEADS_OF, list(numbers)))
        }
        rows = yield self._ask(_INHERITED, self._daemon(), list(numbers))
        sessions = [self._session(found.get(row[0], (0, 0, 0, 0)), *row) for row in rows]
        return [session for session in sessions if session is not None]

    @inlineCallbacks
    def wills(self, inherited: bool = False) -> _Steps:
        """Return the Wills that this daemon has to publish, or only those that it has inherited."""
        daemon = self._daemon()
        rows = yield self._ask(_WILLS, [-daemon] if inherited else [daemon, -daemon])
        wills: list[StoredWill] = []
        for client_id, username, connection, topic, payload, flags, due in rows:
            content, properties = _taken_apart(payload, flags)
            how = flags & _QOS, bool(flags & RETAIN), properties, due
            wills.append(WillLeft(client_id, username, connection, topic, content, *how))
        return wills

    @inlineCallbacks
    def shared(self, limit: int) -> _Steps:
        """Return the numbers of messages that rows refer to, each with how many do; see ``SessionStore``."""
        rows = yield self._ask(_SHARED, limit)
        return _pairs([text for (text,) in rows])

    @inlineCallbacks
    def last_message(self) -> _Steps:
        """Return the highest number of a message of this daemon; 0: it has none."""
        first = self._daemon() << 48
        ((last,),) = yield self._ask(_LAST, first, first + (1 << 48))
        return last

    @inlineCallbacks
    def number(self, client_id: str) -> _Steps:
        """Return the number of the Session of a client that has just begun; see :class:`Begun`."""
        rows = yield self._ask(_NUMBER, client_id, self._daemon())
        return rows[0][0] if rows else ELSEWHERE

    @inlineCallbacks
    def find(self, client_id: str) -> _Steps:
        """Return where the Session of a client is; ``None``: there is none."""
        rows = yield self._ask(_FIND, self._daemon(), client_id)
        for session, daemon, absent_since, filters in rows:
            return StoredPlace(session, daemon, absent_since, tuple(filters))
        return None

    # -- rows ------------------------------------------------------------------------------------

    def _message(
        self, session: int, position: int, topic: str | None, payload: Any, flags: int, number: int
    ) -> StoredMessage | None:
        received = bool(flags & PUBREC)
        if flags & ~_OURS or not flags & _QOS or flags & _QOS == _QOS:
            text = "a message of another version of platziverse waits for Session {session}; it stays there,"
            self._skip(text + " for a daemon that knows it (docs/mqtt5.rst)", session)
            return None
        if topic is None and not received:
            self._skip("a message that waits for Session {session} is missing; its row is deleted", session)
            self._lost(session, position)
            return None
        content, properties = (b"", b"") if payload is None else _taken_apart(payload, flags)
        retain = bool(flags & RETAIN)
        return StoredMessage(
            position, topic or "", content, flags & _QOS, retain, received, number, properties
        )

    def _session(self, queue: Sequence[int], session: int, *row: Any) -> StoredSession | None:
        client_id, username, expiry, absent, filters, owed, identified, head, identifiers, *more = row
        version, before = more
        if version != _VERSION:
            self._skip("Session {session} is of another version; it is left alone", session)
            return None
        first, last, messages, size = queue
        return StoredSession(
            session,
            client_id,
            username,
            expiry,
            absent,
            _subscriptions(filters, identified) if filters else {},
            first,
            max(head, last),
            messages,
            size,
            tuple(sorted(map(int, identifiers.split()))) if identifiers else (),
            tuple(owed.split(_BETWEEN)) if owed else (),
            tuple(before or ()),
        )

    def _skip(self, text: str, session: int) -> None:
        """Count a row that is left out; the log has the first one of its kind."""
        self.unreadable += 1
        if text not in self._said:
            self._said.add(text)
            log.error(text + "; more of this kind are counted and not said", session=session)

    # -- asking ----------------------------------------------------------------------------------

    @inlineCallbacks
    def _ask(self, sql: str, *values: Any) -> _Steps:
        """Fire with the rows.

        :raises StoreStopped: the reader was stopped.
        """
        backoff, said = Backoff(), False
        while not self._stopped:
            try:
                rows: Sequence[Any] = yield self._reader.rows(sql, *values)
                return rows
            except Unread as error:
                if self._stopped:
                    break
                if not said:
                    log.info("Sessions are read later: {reason}", reason=str(error))
                said = True
            yield self._pause(backoff.next())
        raise StoreStopped

    @inlineCallbacks
    def _pause(self, seconds: float) -> _Steps:
        pause: Deferred[None] = deferLater(self._reactor, seconds)
        self._pauses.add(pause)
        try:
            yield pause
        except CancelledError:
            pass
        finally:
            self._pauses.discard(pause)
