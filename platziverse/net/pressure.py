"""Pressure: how much memory messages and Sessions take, and what gives way when it is too much.

Nothing is counted while messages pass. The Sessions are looked at every five seconds, every second from half
of the budget on, and some in each turn of the reactor.
"""

from collections.abc import Callable, Collection, Generator
from itertools import islice
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.broker.broker import Broker
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.net.flow import FlowControl

log = Logger()

INTERVAL: Final = 1.0
#: Intervals between two looks while less than half of the budget is in use.
RARELY: Final = 5
#: Sessions looked at before the others get their turn.
SLICE: Final = 1000
#: Share of the budget from which on nobody new is let in.
HIGH: Final = 0.8
#: Bytes of what is not looked at one by one: a connection, a Retained Message, an unfinished publish or
#: another entry that waits for the store.
CONNECTION: Final = 8192
RETAINED: Final = 512
UNFINISHED: Final = 1024
#: Bytes that a byte of an unfinished payload takes: it is kept beside what was read from it, and a metric of
#: 34 bytes is read into 150.
READ: Final = 6
#: From this many times ``max_unfinished_total``, or ``max_unfinished_bytes``, on nobody new is let in.
OVERFULL: Final = 2
#: A Session that takes less than this is not worth being ended.
LEAST: Final = 64 * 1024


class Backlog(Protocol):
    """A Backlog counts the entries that wait for the store, also those of connections that have ended."""

    @property
    def waiting(self) -> int:
        """How many entries of all kinds wait."""

    @property
    def departures(self) -> int:
        """How many of them say that an agent has gone: no two of an agent without a publish between."""


class Pressure:
    """Pressure samples; it refuses at 80 % of the budget, and at 100 % lets the slowest receivers go.

    :param connections: the open Network Connections.
    :param store: what waits there; ``None``: nothing but unfinished publishes.
    :param waiting: bytes of what is counted elsewhere: incomplete packets.
    """

    def __init__(
        self,
        broker: Broker,
        flow: FlowControl,
        connections: Collection[object],
        clock: IReactorTime,
        store: Backlog | None = None,
        waiting: Callable[[], int] = int,
    ) -> None:
        #: Bytes; 0: no limit.
        self.budget = broker.limits.max_memory
        self._broker = broker
        self._flow = flow
        self._store = store
        self._connections = connections
        self._waiting = waiting
        self._clock = clock
        self._sampling = LoopingCall(self._begin)
        self._sampling.clock = clock
        self._walk: Generator[None, None, None] | None = None
        self._ticks = 0
        #: Bytes in use when last looked at.
        self.used = 0
        #: Memory is short.
        self.refusing = False

    def refusal(self, client_id: str = "") -> str:
        """Return why no CONNECT of this client is accepted now; empty: it is.

        A client that has a Session may always come: it takes memory already, and frees some when it is
        served.
        """
        if self.refusing and self._broker.sessions.get(client_id) is None:
            return "memory is short (max_memory)"
        limits, wills = self._broker.limits, self._broker.clients.unfinished_wills
        flow, store = self._flow, self._store
        unfinished, size = flow.unfinished + wills.count, flow.unfinished_bytes + wills.bytes
        if store is not None:
            unfinished = max(unfinished, store.waiting - store.departures)
        if (
            unfinished >= OVERFULL * limits.max_unfinished_total
            or size >= OVERFULL * limits.max_unfinished_bytes
        ):
            return "too much waits for the database (max_unfinished_total, max_unfinished_bytes)"
        return ""

    def start(self) -> None:
        """Begin to look, if there is a budget."""
        if self.budget:
            self._sampling.start(INTERVAL, now=False)

    def stop(self) -> None:
        """Look no more."""
        self._walk = None
        if self._sampling.running:
            self._sampling.stop()

    def _begin(self) -> None:
        self._ticks += 1
        if self._walk is None and (self.used * 2 >= self.budget or self._ticks % RARELY == 0):
            self._walk = self._sample()
            self._go_on()

    def _go_on(self) -> None:
        if self._walk is None:
            return
        try:
            next(self._walk)
        except StopIteration:
            self._walk = None
        except Exception:  # of somebody who was told that a client has gone; the next look goes on
            self._walk = None
            self._broker.traffic.internal_errors += 1
            log.failure("Bug: looking at the memory")
        else:
            self._clock.callLater(0, self._go_on)

    def _sample(self) -> Generator[None, None, None]:
        broker, flow = self._broker, self._flow
        used, large = 0, []
        sessions = iter(list(broker.sessions))
        while some := list(islice(sessions, SLICE)):
            for session in some:
                size = _size(session)
                used += size
                if size >= LEAST:
                    large.append((size, session))
            yield
        used += CONNECTION * len(self._connections) + self._waiting()
        used += broker.retained.bytes + RETAINED * len(broker.retained)
        wills, waiting = (
            broker.clients.unfinished_wills,
            self._store.waiting if self._store is not None else 0,
        )
        used += READ * (flow.unfinished_bytes + wills.bytes)
        used += UNFINISHED * max(flow.unfinished + wills.count, waiting)
        self._judge(used, large)

    def _judge(self, used: int, large: list[tuple[int, Session]]) -> None:
        if used >= self.budget * HIGH:
            used = self._shed(used)
        self.used = used
        refusing = used >= self.budget * HIGH
        if refusing != self.refusing:
            self.refusing = refusing
            log.warn(
                "Memory is {state}: {used} of {budget} bytes (max_memory)",
                state="short, nobody new may connect" if refusing else "no longer short",
                used=used,
                budget=self.budget,
            )
        large.sort(key=_first)
        while large and used > self.budget:
            size, session = large.pop()
            used -= size
            self._drop(session, size)

    def _shed(self, used: int) -> int:
        """End Sessions of absent clients, those absent longest first, until newcomers may be let in again.

        :return: bytes in use after that.
        """
        broker, before = self._broker, self._broker.traffic.sessions_shed
        while used >= self.budget * HIGH and (session := broker.sessions.longest_absent()) is not None:
            used -= _size(session)
            broker.traffic.sessions_shed += 1
            broker.sessions.end(session)
        if shed := broker.traffic.sessions_shed - before:
            log.warn("Memory is short (max_memory): {count} Sessions of absent clients ended", count=shed)
        return used

    def _drop(self, session: Session, size: int) -> None:
        """End a Session and its connection; Session Present 0 tells the client that its messages are lost."""
        broker = self._broker
        if broker.sessions.get(session.client_id) is not session:
            return
        broker.traffic.receivers_dropped += 1
        client = session.client
        broker.complaints.warn(
            "memory",
            "Dropping {address} {client_id!r}: {size} bytes wait for it, and memory is short (max_memory)",
            address=client.address if client is not None else "",
            client_id=session.client_id,
            size=size,
        )
        broker.drop(session, Reason.QUOTA, "memory is short and it is the slowest")


def _size(session: Session) -> int:
    connection = session.connection
    if connection is not None and connection.congested:  # otherwise nothing waits beyond this turn
        return session.memory + connection.out_bytes
    return session.memory


def _first(entry: tuple[int, Any]) -> int:
    return entry[0]
