"""Sessions: every Session by Client Identifier, those of absent clients until they expire."""

from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Authority
from platziverse.broker.limits import Limits
from platziverse.broker.session import Session
from platziverse.broker.terms import Terms
from platziverse.mqtt.memo import Recent
from platziverse.mqtt.packets import Connect

#: Sessions that end in one turn of the reactor, a few milliseconds.
MANY: Final = 500

#: A Session to go on with, and whether it was there before (Session Present).
Opened: TypeAlias = tuple[Session, bool]
#: Makes a new Session durable for the login with this user name, which has connected at this time; or returns
#: the one that another daemon has had until now.
Begin: TypeAlias = "Callable[[Session, str | None, float], Deferred[Opened]]"


#: A Session Expiry Interval that never is over.
FOR_EVER: Final = 0xFFFF_FFFF


def is_persistent(packet: Connect) -> bool:
    """Return whether the Session of a CONNECT outlives its connection."""
    if packet.protocol_level < 5:
        return not packet.clean_session
    return packet.properties is not None and bool(packet.properties.session_expiry_interval)


class Sessions:
    """The Sessions of one broker, in memory: one for each Client Identifier [MQTT-3.1.3-2].

    A Session lasts at least as long as its connection [MQTT-4.1.0-1] [MQTT-4.1.0-2].

    :param authority: asked again before what has waited for a client is sent.
    :param ended: called with each Session that is given up, after it was removed.
    :ivar begin: what makes new Sessions durable that outlive their connection; ``None``: they end with the
        process.
    """

    def __init__(self, limits: Limits, authority: Authority, ended: Callable[[Session], None]) -> None:
        self.begin: Begin | None = None
        self._limits = limits
        self._authority = authority
        self._ended = ended
        self._by_id: dict[str, Session] = {}
        # Client Identifier → when its connection ended, the longest ago first.
        self._absent: Recent[str, float] = Recent(limits.max_absent_sessions)
        # When those end that have a time of their own, the first that is due first; some are gone by now.
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_id.values())

    @property
    def absent(self) -> int:
        """How many Sessions have no connection."""
        return len(self._absent)

    def get(self, client_id: str) -> Session | None:
        """Return the Session of this client, connected or not; ``None`` if there is none."""
        return self._by_id.get(client_id)

    def longest_absent(self) -> Session | None:
        """Return the Session whose client has been absent longest, and that memory is worth more than.

        Durable Sessions of absent clients are worth more: what waits for them waits in the store.
        """
        oldest = self._absent.oldest() if self.begin is None else None
        return self._by_id[oldest[0]] if oldest is not None else None

    def expiry_of(self, packet: Connect) -> float | None:
        """Return how many seconds the Session of a client is kept; see :class:`Terms`.

        What the client asks for is at most what the setting says. [MQTT5-3.1.2-23]
        """
        asked = packet.properties.session_expiry_interval if packet.properties is not None else None
        return self.expiry_within(asked) if asked else None

    def expiry_within(self, asked: int) -> float | None:
        """Return so many seconds, within the setting; ``None``: as long as that says."""
        most = self._limits.session_expiry
        return None if asked == FOR_EVER or (most and asked >= most) else float(asked)

    def open(
        self,
        client_id: str,
        clean: bool,
        username: str | None = None,
        since: float = 0.0,
        persistent: bool | None = None,
        terms: Terms | None = None,
    ) -> "Opened | Deferred[Opened]":
        """Return the Session to go on with; one that has to become durable first comes later.

        :param clean: a Session that is there is ended first.
        :param username: of the login that a new Session belongs to.
        :param since: when it has connected, in seconds since the epoch.
        :param persistent: a new one outlives its connection; ``None``: if it is not clean.
        :param terms: of the client, which a new one begins with.
        """
        persistent = not clean if persistent is None else persistent
        session = self._by_id.get(client_id)
        if session is not None and (clean or not session.persistent):  # [MQTT-3.1.4-3]
            self.end(session)  # [MQTT-3.1.2-6] [MQTT5-3.1.2-4]
            session = None
        self._absent.forget(client_id)
        if session is not None:
            return session, True  # [MQTT-3.1.2-4] [MQTT5-3.1.2-5]
        session = self.make(client_id, persistent)  # [MQTT5-3.1.2-6]
        if terms is not None:
            session.agree(terms)
        if self.begin is not None and persistent:
            begin = partial(self.begin, session, username, since)
            return begin().addCallback(self._begun, begin if clean else None)
        self.add(session)
        return session, False  # [MQTT-3.2.2-1] [MQTT-3.2.2-3]

    def _begun(
        self, opened: Opened, again: "Callable[[], Deferred[Opened]] | None"
    ) -> "Opened | Deferred[Opened]":
        """Take a new Session, or that of another daemon; Clean Start ends that and begins again."""
        self.add(opened[0])
        if opened[1] and again is not None:  # [MQTT5-3.1.2-4]
            self.end(opened[0])
            return again().addCallback(self._begun, again)
        self._absent.forget(opened[0].client_id)
        return opened

    def make(self, client_id: str, persistent: bool) -> Session:
        """Return a new Session, which is not yet one of these."""
        return Session(client_id, persistent, self._limits, self._authority)

    def add(self, session: Session) -> None:
        """Take a new Session of a client that has none."""
        self._by_id[session.client_id] = session

    def leave(self, session: Session, now: float) -> int:
        """Keep a Session whose connection is gone for its time, or end it.

        :param now: seconds of any steady clock.
        :return: how many Sessions had to end as there are too many whose client is absent.
        """
        if not session.persistent:
            self.end(session)
            return 0
        gone = self._absent.put(session.client_id, now)  # [MQTT-3.1.2-5]
        if session.terms.expiry is not None:
            heappush(self._due, (now + session.terms.expiry, session.client_id))
        for client_id in gone:
            self.end(self._by_id[client_id])
        return len(gone)

    def end(self, session: Session) -> None:
        """Give a Session up with everything in it."""
        self.remove(session)
        self._ended(session)

    def remove(self, session: Session) -> None:
        """Have a Session no more, which goes on elsewhere."""
        del self._by_id[session.client_id]
        self._absent.forget(session.client_id)

    def expire(self, now: float) -> int:
        """End Sessions whose client has been absent too long, at most ``MANY``; return how many.

        :param now: seconds of the clock that ``leave`` is told.
        """
        expiry = self._limits.session_expiry
        count = self._expire_due(now)
        while (
            expiry
            and count < MANY
            and (oldest := self._absent.oldest()) is not None
            and oldest[1] + expiry <= now
        ):
            self.end(self._by_id[oldest[0]])
            count += 1
        return count

    def _expire_due(self, now: float) -> int:
        """End Sessions whose own time is over, at most ``MANY``; return how many. [MQTT5-4.1.0-2]"""
        due, count = self._due, 0
        while due and due[0][0] <= now and count < MANY:
            at, client_id = heappop(due)
            since, session = self._absent.get(client_id), self._by_id.get(client_id)
            # It may have come and gone, or another have its name.
            own = session.terms.expiry if session is not None else None
            if session is not None and since is not None and own is not None and since + own <= at:
                self.end(session)
                count += 1
        return count
