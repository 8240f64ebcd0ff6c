"""SessionRecords: what the store is told of durable Sessions, and who waits until it is committed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.broker.ports import Opened, SessionStore
from platziverse.broker.records import (
    ELSEWHERE,
    Absent,
    Begun,
    Ended,
    Freed,
    Present,
    Release,
    StoredSession,
    Subscribed,
    Unsubscribed,
)
from platziverse.broker.session import Session
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import ConnectReturnCode

log = Logger()


class SessionRecords:
    """SessionRecords saves when durable Sessions begin, come, go, change their Subscriptions, and end.

    :param durable: is told of each Session that becomes durable.
    :param expiry: seconds that a Session is kept while its client is absent; 0 is for ever.
    :ivar durable: the same.
    :ivar elsewhere: called with Client Identifier, user name and time of a client that has connected, and
        whose Session another daemon has; the Deferred fires with it when it is ours; ``None``: there is none.
    """

    def __init__(self, store: SessionStore, durable: Durable, expiry: int) -> None:
        self._store, self.durable, self._expiry = store, durable, expiry
        #: Saves a record that nobody waits for.
        self.save = durable.record
        self.recall = durable.recall
        self.elsewhere: Callable[[str, str | None, float], Deferred[Session | None]] = _out_of_reach
        # Session → the record to save next, while one of the same kind is being saved: a client that comes
        # and goes while the database is away leaves no more behind than its last word.
        self._attendance: dict[Session, Present | Absent | None] = {}
        # Of an ended Session of a client, which waits until others have what it leaves behind.
        self._handed: dict[str, Deferred[None]] = {}

    @property
    def available(self) -> bool:
        """Return whether a Session can begin."""
        return self._store.available

    def begin(self, session: Session, username: str | None, since: float) -> "Deferred[Opened]":
        """Save a Begun; the Deferred fires when the Session is durable, or that of another daemon is ours.

        It errbacks with :class:`ConnectRefused` when the record is never saved, or the other daemon keeps it.
        """
        client_id = session.client_id
        if (handed := self._handed.get(client_id)) is not None:
            later: Deferred[Opened] = Deferred()
            handed.addCallback(lambda _: self.begin(session, username, since).chainDeferred(later))
            return later
        begun = Begun(client_id, username, self._expiry_of(session))

        def attach(_: object) -> "Opened | Deferred[Opened]":
            if begun.session == ELSEWHERE:
                return self.elsewhere(client_id, username, since).addCallback(moved)
            session.stored_expiry = begun.expiry
            self.attach(session, begun.session, None)
            return session, False

        def moved(there: Session | None) -> "Opened | Deferred[Opened]":
            return (there, True) if there is not None else self.begin(session, username, since)

        def refuse(failure: Failure) -> Opened:
            raise unavailable(f"its Session cannot be stored: {failure.getErrorMessage()}")

        return self._store.save(begun).addCallbacks(attach, refuse)

    def attach(self, session: Session, number: int, stored: StoredSession | None) -> None:
        """Make a Session durable."""
        session.number = number
        self.durable.attach(session, number, stored)

    def present(self, session: Session) -> None:
        """Save that the client of the Session has come back."""
        self._attend(session, Present(session.number, session.owner, self._changed(session)))

    def absent(self, session: Session) -> None:
        """Save that the client of the Session has gone."""
        head = session.window.head if session.window is not None else 0
        self._attend(session, Absent(session.number, head, self._changed(session)))

    def _changed(self, session: Session) -> int | None:
        """Return the time that a Session is kept if it is another one than the store has."""
        expiry = self._expiry_of(session)
        if expiry == session.stored_expiry or min(expiry, session.stored_expiry) >= 0:
            return None
        session.stored_expiry = expiry
        return expiry

    def _expiry_of(self, session: Session) -> int:
        """Return what the store is told; a time of its own is below 0, so that no setting is taken for it."""
        own = session.terms.expiry
        return self._expiry if own is None else -int(own)

    def _attend(self, session: Session, record: Present | Absent) -> None:
        if session in self._attendance:
            self._attendance[session] = record
            return
        self._attendance[session] = None
        self.save(record).addBoth(self._attended, session)

    def _attended(self, _: object, session: Session) -> None:
        record = self._attendance.pop(session)
        if record is not None:
            self._attend(session, record)

    def left(self, session: Session) -> "Deferred[Any]":
        """Save that the client of the Session has gone, and nothing about that any more.

        :return: fires when that is committed, and what was saved of the Session before.
        """
        if session in self._attendance:
            self._attendance[session] = None
        assert session.window is not None
        return self._store.save(Absent(session.number, session.window.head))

    def free(self, session: Session) -> "Deferred[Any]":
        """Save that the Session is nobody's; the Deferred fires when that is committed."""
        assert session.window is not None
        return self._store.save(Freed(session.number, session.window.head))

    def subscribed(
        self, session: Session, granted: Mapping[str, int], owed: tuple[str, ...] = ()
    ) -> "Deferred[Any]":
        """Save Subscriptions, Topic Filter → QoS; SUBACK waits for the Deferred.

        :param owed: Topic Filters whose Retained Messages are to be sent.
        """
        return self._store.save(Subscribed(session.number, tuple(granted.items()), owed))

    def retained_sent(self, session: Session, topic_filters: Iterable[str]) -> None:
        """Save that no Retained Messages of these Subscriptions are owed, if they are still there."""
        there = {name: qos for name in topic_filters if (qos := session.subscriptions.get(name))}
        if session.number and there:
            self.save(Subscribed(session.number, tuple(there.items())))

    def unsubscribed(self, session: Session, topic_filters: Sequence[str]) -> "Deferred[Any]":
        """Save that these Subscriptions are gone; UNSUBACK waits for the Deferred."""
        return self._store.save(Unsubscribed(session.number, tuple(dict.fromkeys(topic_filters))))

    def released(self, session: Session, packet_id: int) -> "Deferred[Any]":
        """Save that PUBREL came; PUBCOMP waits for the Deferred."""
        return self._store.save(Release(session.client_id, packet_id))

    def ended(self, session: Session, handed: "Deferred[None] | None" = None) -> None:
        """Save that the Session has ended.

        :param handed: fires when what waits for it was given to others; another one of its client begins
            after that.
        """
        if session in self._attendance:
            self._attendance[session] = None
        number, client_id = session.number, session.client_id
        if handed is None:
            self.end(number, client_id)
            return
        self._handed[client_id] = handed
        handed.addBoth(self._was_handed, number, client_id)

    def _was_handed(self, result: object, number: int, client_id: str) -> None:
        if isinstance(result, Failure):
            log.failure("Bug: what {client_id!r} leaves to its groups", result, client_id=client_id)
        del self._handed[client_id]
        self.end(number, client_id)

    def end(self, number: int, client_id: str) -> None:
        """Save that the Session with this number, which may never have been in memory, has ended."""
        self.save(Ended(number, client_id))


def _out_of_reach(client_id: str, username: str | None, since: float) -> "Deferred[Session | None]":
    return fail(unavailable("its Session is another daemon's"))


def unavailable(reason: str) -> ConnectRefused:
    """Return the error for a CONNECT that may be accepted later."""
    return ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, reason)
