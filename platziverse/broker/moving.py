"""Moving: durable Sessions that go to another daemon, with their clients, or come from one."""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList

from platziverse.broker.clients import Clients
from platziverse.broker.records import StoredSession
from platziverse.broker.restoring import Restoring
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import SessionRecords
from platziverse.broker.sessions import Sessions
from platziverse.broker.subscribing import Subscribing


class Moving:
    """A Moving is what a broker does with a Session at each end of its way; its caller knows when. ADR 0153.

    :param restoring: makes what puts stored Sessions into memory.
    :ivar in_turn: see :meth:`Clients.in_turn`.
    :ivar part: lets the client of a Session go; see :meth:`Clients.part`.
    :ivar left: see :meth:`SessionRecords.left`.
    :ivar free: see :meth:`SessionRecords.free`.
    """

    def __init__(
        self,
        sessions: Sessions,
        subscribing: Subscribing,
        clients: Clients,
        records: SessionRecords,
        restoring: Callable[[], Restoring],
    ) -> None:
        self._sessions, self._subscribing, self._durable = sessions, subscribing, records.durable
        self._records, self._restoring = records, restoring
        self.in_turn, self.part = clients.in_turn, clients.part
        self.left, self.free = records.left, records.free

    def come_to(self, elsewhere: "Callable[[str, str | None, float], Deferred[Session | None]]") -> None:
        """Ask ``elsewhere`` for the Session of a client that another daemon has; see SessionRecords."""
        self._records.elsewhere = elsewhere

    def settle(self, session: Session) -> "Deferred[Any]":
        """Save what an absent client is owed, and wait for what it has published.

        The Deferred fires when all of it is committed. Nothing may be owed to the Session meanwhile.
        """
        assert session.window is not None
        return DeferredList([self._durable.settle(session.window), *session.handled()])

    def let_go(self, session: Session) -> None:
        """Have a Session no more: it is another daemon's, and nothing is saved of it.

        A Will that waits goes on waiting here, until that daemon says that the client is connected. ADR 0204.
        """
        self._subscribing.end(session)
        self._durable.abandon(session)
        session.number = 0
        self._sessions.remove(session)

    def take_in(self, stored: StoredSession, identifiers: "tuple[int, ...]") -> Iterator[None]:
        """Have a Session from now on, in short steps; yield after each of them.

        A client that has connected with Clean Session 1 meanwhile has ended it. It is there already if we
        have inherited it from the daemon that has freed it.

        :param identifiers: Packet Identifiers of incoming QoS 2 messages that are not stored.
        """
        there = self._sessions.get(stored.client_id)
        if there is not None:
            if there.number != stored.session:
                self._records.end(stored.session, stored.client_id)
            return
        all_ = tuple(sorted({*stored.identifiers, *identifiers}))
        restoring = self._restoring()
        yield from restoring.sessions([evolve(stored, identifiers=all_)])
        yield from restoring.absent()
