"""Pressure: how much memory messages and Sessions take, and what gives way when it is too much.

Nothing is counted while messages pass. The Sessions are looked at every five seconds, every second from half
of the budget on, and at once when so much has come that it may have filled a large part of the budget; some
of them in each turn of the reactor.
"""

from collections.abc import Callable, Collection, Generator
from itertools import islice
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from platziverse.broker.broker import Broker
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.net.flow import FlowControl
from platziverse.net.peer import format_peer

log = Logger()

#: Seconds between two questions for whether they have to be looked at.
INTERVAL: Final = 0.05
#: Seconds between two looks at the Sessions, and while less than half of the budget is in use.
OFTEN: Final = 1.0
RARELY: Final = 5.0
#: Share of the budget that clients may send, or be sent, until it is looked at sooner: it takes as much when
#: all of it waits for receivers, here or in the kernel.
MUCH: Final = 0.05
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
#: Bytes that wait in the transport of a client that takes nothing.
TRANSPORT: Final = 128 * 1024
#: A Session, or a socket, that takes less than this is not worth being ended.
LEAST: Final = 64 * 1024


class Backlog(Protocol):
    """A Backlog counts the entries that wait for the store, also those of connections that have ended."""

    @property
    def waiting(self) -> int:
        """How many entries of all kinds wait."""

    @property
    def departures(self) -> int:
        """How many of them say that an agent has gone: no two of an agent without a publish between."""


class Socket(Protocol):
    """A Socket is an open connection, whatever it speaks."""

    def kernel_bytes(self) -> int:
        """Return how many bytes the kernel takes for what the client has not taken."""

    def getPeer(self) -> IAddress: ...

    def abortConnection(self) -> None: ...


class Pressure:
    """Pressure samples; it refuses at 80 % of the budget, and at 100 % lets the slowest receivers go.

    :param connections: the open Network Connections.
    :param store: what waits there; ``None``: nothing but unfinished publishes.
    :param counted_bytes: returns the bytes of what is counted elsewhere: incomplete packets, TLS.
    :ivar sockets: for which the kernel may take memory, too.
    :ivar kernel: returns how many bytes it takes for all sockets of the machine.
    """

    def __init__(
        self,
        broker: Broker,
        flow: FlowControl,
        connections: Collection[object],
        clock: IReactorTime,
        store: Backlog | None = None,
        counted_bytes: Callable[[], int] = int,
    ) -> None:
        #: Bytes; 0: no limit.
        self.budget = broker.limits.max_memory
        self._broker = broker
        self._flow = flow
        self._store = store
        self._connections = connections
        self._counted_bytes = counted_bytes
        self._clock = clock
        self._sampling = LoopingCall(self._begin)
        self._sampling.clock = clock
        self._walk: Generator[None, None, None] | None = None
        # When they were last looked at, and what had come and gone by then.
        self._looked = 0.0
        self._passed = 0
        #: Bytes in use when last looked at.
        self.used = 0
        self.sockets: Collection[Socket] = ()
        self.kernel: Callable[[], int] = int
        #: Memory is short.
        self.refusing = False

    def refusal(self, client_id: str = "") -> str:
        """Return why no CONNECT of this client is accepted now; empty: it is.

        A client that has a Session may always come: it takes memory already, and frees some when it is
        served.
        """
        if self.refusing and self._broker.sessions.get(client_id) is None:
            return "memory is short (max_memory)"
        limits, wills = self._broker.limits, self._broker.clients.farewells.unfinished
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
            self._looked = self._clock.seconds()
            self._sampling.start(INTERVAL, now=False)

    def stop(self) -> None:
        """Look no more."""
        self._walk = None
        if self._sampling.running:
            self._sampling.stop()

    def _begin(self) -> None:
        if self._walk is None and self._is_due():
            self._looked, self._passed = self._clock.seconds(), self._bytes_passed()
            self._walk = self._sample()
            self._go_on()

    def _is_due(self) -> bool:
        if self._bytes_passed() - self._passed >= self.budget * MUCH:
            return True
        interval = OFTEN if self.used * 2 >= self.budget else RARELY
        return self._clock.seconds() - self._looked >= interval

    def _bytes_passed(self) -> int:
        return self._broker.traffic.bytes_received + self._broker.traffic.bytes_sent

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
        used = 0
        large: list[tuple[int, Session | Socket]] = []
        sessions = iter(list(broker.sessions))
        while some := list(islice(sessions, SLICE)):
            for session in some:
                size = _size(session)
                used += size
                if size >= LEAST:
                    large.append((size, session))
            yield
        used += yield from self._sample_kernel(large)
        used += CONNECTION * len(self._connections) + self._counted_bytes()
        used += broker.retained.bytes + RETAINED * len(broker.retained)
        wills, waiting = (
            broker.clients.farewells.unfinished,
            self._store.waiting if self._store is not None else 0,
        )
        used += READ * (flow.unfinished_bytes + wills.bytes)
        used += UNFINISHED * max(flow.unfinished + wills.count, waiting)
        self._judge(used, large)

    def _sample_kernel(self, large: "list[tuple[int, Session | Socket]]") -> Generator[None, None, int]:
        """Return what the kernel takes for clients; it is asked where that could be too much. ADR 0087."""
        used = 0
        if self.used + self.kernel() < self.budget * HIGH:
            return used
        sockets = iter(list(self.sockets))
        while some := list(islice(sockets, SLICE)):
            for socket in some:
                size = socket.kernel_bytes()
                used += size
                if size >= LEAST:
                    large.append((size, socket))
            yield
        return used

    def _judge(self, used: int, large: "list[tuple[int, Session | Socket]]") -> None:
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
            size, slow = large.pop()
            used -= size
            if isinstance(slow, Session):
                self._drop(slow, size)
            else:
                self._abort(slow, size)

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

    def _abort(self, socket: Socket, size: int) -> None:
        broker, address = self._broker, format_peer(socket.getPeer())
        broker.traffic.receivers_dropped += 1
        text = "Closing {address}: it has not taken {size} bytes, and memory is short (max_memory)"
        broker.complaints.warn("memory", text, address=address, size=size)
        socket.abortConnection()

    def _drop(self, session: Session, size: int) -> None:
        """End a connection, and its Session: Session Present 0 tells the client that its messages are lost.

        A durable Session stays: its messages are in the store.
        """
        broker, connection = self._broker, session.connection
        durable = session.number > 0
        if broker.sessions.get(session.client_id) is not session or (durable and connection is None):
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
        text = "memory is short and it is the slowest"
        if durable and connection is not None:
            connection.close(Reason.QUOTA, text)
        else:
            broker.drop(session, Reason.QUOTA, text)


def _size(session: Session) -> int:
    connection = session.connection
    if connection is not None and connection.congested:  # otherwise nothing waits beyond this turn
        return session.memory + connection.out_bytes + TRANSPORT
    return session.memory


def _first(entry: tuple[int, Any]) -> int:
    return entry[0]
