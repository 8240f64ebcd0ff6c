"""Restoring: Sessions, Retained Messages and Wills of earlier processes, as the store has them."""

from collections.abc import Callable, Generator, Iterable, Iterator
from heapq import merge
from operator import itemgetter

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from platziverse.broker.clients import Clients
from platziverse.broker.interfaces import Answer, Authority, Client
from platziverse.broker.reasons import Reason
from platziverse.broker.records import StoredRetained, StoredSession, StoredWill, WillGone
from platziverse.broker.retaining import DurableRetained
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import SessionRecords
from platziverse.broker.sessions import Sessions
from platziverse.broker.subscribing import Subscribing
from platziverse.broker.terms import Terms
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import arrived, restored_will

log = Logger()


class Restoring:
    """A Restoring puts what is stored where it belongs, in short steps: its methods yield after each of them.

    :param wall_clock: seconds since the epoch by the clock of the store.
    :ivar newcomers: user names of the clients that have connected with Clean Session 1 meanwhile, by Client
        Identifier. They end the Session that is stored under it, unless that is another login's.
    """

    def __init__(
        self,
        sessions: Sessions,
        subscribing: Subscribing,
        retained: DurableRetained,
        clients: Clients,
        records: SessionRecords,
        authority: Authority,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self.newcomers: dict[str, set[str | None]] = {}
        self._sessions, self._subscribing, self._retained = sessions, subscribing, retained
        self._clients, self._records, self._authority = clients, records, authority
        self._clock, self._wall_clock = clock, wall_clock
        # Of each page: since when clients are absent, and their Sessions, the longest ago first.
        self._absent: list[list[tuple[float, Session]]] = []

    # -- Sessions --------------------------------------------------------------------------------

    def sessions(self, page: "list[StoredSession]") -> Iterator[None]:
        """Restore these Sessions, but for those that newcomers have ended."""
        absent: list[tuple[float, Session]] = []
        for stored in page:
            session = self._sessions.make(stored.client_id, True)
            try:
                if (yield from self._restore(session, stored)):
                    absent.append((self._absent_since(stored), session))
            except Exception:  # it keeps no other from its messages
                self._subscribing.end(session)
                self._clients.traffic.internal_errors += 1
                log.failure("Bug: the stored Session of {client_id!r}", client_id=stored.client_id)
            yield
        absent.sort(key=itemgetter(0))
        self._absent.append(absent)

    def inherited(self, page: "list[StoredSession]") -> Iterator[None]:
        """Restore Sessions of a dead daemon, but for those whose clients have come to us meanwhile.

        These are newcomers, whenever they have come. What the last load has read is there already.
        """
        for stored in page:
            there = self._sessions.get(stored.client_id)
            if there is not None:
                if there.number == stored.session:
                    continue
                self.newcomers.setdefault(stored.client_id, set()).add(there.owner)
            yield from self.sessions([stored])

    def shared(self, rows: "Iterable[tuple[int, int]]") -> Iterator[None]:
        """Note how many rows refer to each message, so that it goes with the last of them."""
        for number, count in rows:
            self._records.recall(number, count)
            yield

    def forget(self) -> Iterator[None]:
        """Forget all Sessions and Retained Messages without a word to the store, and let all clients go.

        They are somebody else's now, and so are the Wills.
        """
        for session in list(self._sessions):
            self._subscribing.end(session)  # as long as it counts as a durable one
            session.number, session.will, session.persistent = 0, None, False
            self._clients.farewells.delayed.forget(session.client_id)
            self._clients.drop(session, Reason.SHUTTING_DOWN, "other daemons have taken over from this one")
            yield
        yield from self._clients.farewells.delayed.clear()
        if (wills := self._clients.farewells.records) is not None:
            wills.restored.clear()
        yield from self._retained.forget()

    def _restore(self, session: Session, stored: StoredSession) -> Generator[None, None, bool]:
        client_id, username = stored.client_id, stored.username
        if stored.inherited_from:
            self._records.durable.was_inherited(stored.session, stored.inherited_from)
        session.owner = username
        if stored.expiry < 0:
            session.terms = Terms(session.terms.wire, session.terms.most_inflight)
            session.terms.expiry = -float(stored.expiry)
        session.stored_expiry = stored.expiry
        # Whoever publishes to it meanwhile asks the rules of access about this client.
        session.client = Client(client_id, 0, username=username, persistent=True)
        if stored.identifiers:
            session.recall(stored.identifiers, self._clock.seconds())
        yield from self._subscribing.restore(session, stored.subscriptions)
        if client_id in self.newcomers and self._is_ended(stored):
            self._subscribing.end(session)
            self._records.end(stored.session, client_id)
            return False
        self._records.attach(session, stored.session, stored)
        self._sessions.add(session)
        if stored.owed:
            self._subscribing.owe_retained(session, stored.owed)
        if stored.absent_since is None:
            self._records.absent(session)
        return True

    def _is_ended(self, stored: StoredSession) -> bool:
        """Return whether a newcomer has ended this Session; one that may not have its identifier goes."""
        owner, names = stored.username, self.newcomers[stored.client_id]
        if owner is None or owner in names or not self._authority.checks_names:
            return True
        newcomer = self._sessions.get(stored.client_id)
        if newcomer is not None:
            text = f"its Client Identifier is that of another login, {owner!r}"
            self._clients.drop(newcomer, Reason.NOT_AUTHORIZED, text)
        return False

    def _absent_since(self, stored: StoredSession) -> float:
        """Return the steady time since which the client is absent: now, if it left with the process."""
        since, now = stored.absent_since, self._wall_clock()
        return self._clock.seconds() - max(0.0, now - since if since is not None else 0.0)

    def absent(self) -> Iterator[None]:
        """Let the time of absent clients run, the one that is absent longest first."""
        ended = 0
        for since, session in merge(*self._absent, key=itemgetter(0)):
            if self._sessions.get(session.client_id) is session and session.connection is None:
                ended += self._sessions.leave(session, since)
            yield
        self._absent.clear()
        if ended:
            self._clients.traffic.sessions_ended_for_room += ended
            text = "{count} stored Sessions, of those absent longest, had to end (max_absent_sessions)"
            log.warn(text, count=ended)

    # -- Retained Messages and Wills -------------------------------------------------------------

    def retained(self, page: "list[StoredRetained]") -> Iterator[None]:
        """Restore these Retained Messages. One that is beyond a limit stays in the store, and is not sent."""
        before = self._retained.refused
        for stored in page:
            self._retained.restore(stored)
            yield
        if refused := self._retained.refused - before:
            text = "{count} stored Retained Messages are too many (max_retained_messages, max_retained_bytes)"
            log.warn(text, count=refused)

    def wills(
        self, stored: "list[StoredWill]", publish: "Callable[[Publish, Client], Answer]"
    ) -> Iterator[None]:
        """Publish these Wills, or let them wait, then save those of clients that have connected meanwhile.

        :param publish: does it at once: before a Will of the same client is saved, which overwrites it.
        """
        farewells, records = self._clients.farewells, self._clients.farewells.records
        assert records is not None
        for will in stored:
            gone = WillGone(will.client_id, will.connection)
            if records.restore(gone):
                continue
            properties, delay = restored_will(will.properties)
            message = Publish(will.topic, will.payload, will.qos, will.retain, properties=properties)
            client = Client(will.client_id, 0, username=will.username)
            seconds = self._left_of(will, delay)
            if seconds > 0:
                farewells.wait(message, client, seconds, gone)
            else:
                farewells.end(arrived(message, will.topic, self._wall_clock()), client, publish, gone)
            yield
        if records.ready:  # it is a dead daemon that has left them
            return
        records.ready = True
        for session in list(self._sessions):
            if session.client is not None and session.client.number:  # it is no restored one
                farewells.save(session)
            yield

    def _left_of(self, will: StoredWill, delay: int) -> float:
        """Return how many seconds a Will still waits; 0: its client is back, or its Session over. ADR 0204.

        Of a client that was connected when its daemon ended the interval begins now: as with the time of its
        Session, nobody knows when that was.
        """
        session = self._sessions.get(will.client_id)
        if self._clients.farewells.delayed.left(will.client_id) is not None:
            return 0
        if session is None or session.connection is not None or not session.number:
            return 0
        return session.terms.patience(delay) if will.due is None else will.due - self._wall_clock()

    def send_retained(self, owed: dict[Session, dict[str, int]]) -> Iterator[None]:
        """Send the Retained Messages of Subscriptions, Topic Filter → QoS, that were made meanwhile.

        :param owed: is empty in the end, but for what comes while others get theirs.
        """
        for session in list(owed):
            filters = owed.pop(session, {})  # it may have ended
            if session.connection is not None:
                there = {name: qos for name, qos in filters.items() if name in session.subscriptions}
                self._subscribing.send_retained(session, there)
            yield
