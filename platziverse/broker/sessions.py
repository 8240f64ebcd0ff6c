"""Sessions: every Session by Client Identifier, those of absent clients until they expire."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred

from platziverse.broker.interfaces import Authority
from platziverse.broker.limits import Limits
from platziverse.broker.session import Session
from platziverse.mqtt.memo import Recent

#: Sessions that end in one turn of the reactor, a few milliseconds.
MANY: Final = 500

#: A Session to go on with, and whether it was there before (Session Present).
Opened: TypeAlias = tuple[Session, bool]
#: Makes a new Session durable for the login with this user name, which has connected at this time; or returns
#: the one that another daemon has had until now.
Begin: TypeAlias = "Callable[[Session, str | None, float], Deferred[Opened]]"


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

    def open(
        self, client_id: str, clean: bool, username: str | None = None, since: float = 0.0
    ) -> "Opened | Deferred[Opened]":
        """Return the Session to go on with; one that has to become durable first comes later.

        :param clean: a Session that is there is ended first.
        :param username: of the login that a new Session belongs to.
        :param since: when it has connected, in seconds since the epoch.
        """
        session = self._by_id.get(client_id)
        if session is not None and (clean or not session.persistent):  # [MQTT-3.1.4-3]
            self.end(session)  # [MQTT-3.1.2-6]
            session = None
        self._absent.forget(client_id)
        if session is not None:
            return session, True  # [MQTT-3.1.2-4]
        session = self.make(client_id, not clean)
        if self.begin is not None and not clean:
            return self.begin(session, username, since).addCallback(self._begun)
        self.add(session)
        return session, False  # [MQTT-3.2.2-1] [MQTT-3.2.2-3]

    def _begun(self, opened: Opened) -> Opened:
        self.add(opened[0])
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
        count = 0
        while (
            expiry
            and count < MANY
            and (oldest := self._absent.oldest()) is not None
            and oldest[1] + expiry <= now
        ):
            self.end(self._by_id[oldest[0]])
            count += 1
        return count
