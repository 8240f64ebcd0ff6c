"""Shared: all that the connections of one daemon have in common."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.broker import Broker
from platziverse.broker.complaints import Complaints
from platziverse.broker.reasons import Reason
from platziverse.net.deadlines import Deadlines
from platziverse.net.flapping import Flapping
from platziverse.net.flow import STOPPING, TURN, FlowControl, Source
from platziverse.net.flushes import Flushes
from platziverse.net.partials import Partials
from platziverse.net.pressure import Backlog, Pressure
from platziverse.net.rates import Rates

log = Logger()


class Open(Protocol):
    """An Open is a Network Connection that has not ended."""

    @property
    def address(self) -> str:
        """The address of its peer, for logs."""

    @property
    def client_id(self) -> str:
        """The Client Identifier, as far as it is known."""

    @property
    def reading(self) -> Source: ...

    def close(self, reason: Reason, text: str) -> None: ...


class Shared:
    """A Shared has the counters, limits, timers and bounds that every connection of a daemon uses.

    :param clock: steady time; also the reactor's ``callLater``.
    :param observe_ack: called with the seconds from a PUBLISH to its acknowledgement, for those that waited.
    :param store: counts the entries that wait for it.
    """

    def __init__(
        self,
        broker: Broker,
        clock: IReactorTime,
        observe_ack: "Callable[[float], None] | None" = None,
        store: Backlog | None = None,
    ) -> None:
        self.broker = broker
        self.limits = broker.limits
        self.traffic = broker.traffic
        self.clock = clock
        self.observe_ack = observe_ack
        self.deadlines = Deadlines(clock)
        self.flow = FlowControl(broker.limits)
        self.flushes = Flushes(clock)
        self.flapping = Flapping(broker.limits)
        self.complaints = Complaints(clock, "net")
        self.rates = Rates(broker.limits)
        connections: set[Open] = set()
        self.partials = Partials(broker.limits.max_memory, connections, broker.traffic, self.complaints)
        #: Connections from now on tell the log which packets come and go.
        self.tracing = False
        #: Every open Network Connection, also those that have not sent CONNECT yet.
        self.connections = connections
        self.pressure = Pressure(
            broker, self.flow, self.connections, clock, store, lambda: self.partials.total
        )
        #: Whose packets are being handled.
        self.current: Source | None = None
        self._strained: deque[Source] = deque()
        broker.strained = self._yield_turn
        self.deadlines.start()

    def _yield_turn(self) -> None:
        """Handle nothing more of the client whose message took long; one of all such goes on in a turn."""
        reading = self.current
        if reading is None or reading in self._strained:
            return
        reading.hold_reading(TURN)
        self._strained.append(reading)
        if len(self._strained) == 1:
            self.clock.callLater(0, self._let_one_go_on)

    def _let_one_go_on(self) -> None:
        reading = self._strained.popleft()
        if self._strained:
            self.clock.callLater(0, self._let_one_go_on)
        reading.resume_reading(TURN)

    def hold_all(self) -> None:
        """Read nothing more from anyone: the daemon is stopping."""
        for connection in list(self.connections):
            connection.reading.hold_reading(STOPPING)

    def close_all(self, reason: Reason, text: str) -> None:
        """Close every connection once its queued answers are written."""
        self.flushes.flush()
        for connection in list(self.connections):
            connection.close(reason, text)

    def stop(self) -> None:
        """End all timers."""
        self.deadlines.stop()
        self.pressure.stop()
        self.complaints.stop()
        self.broker.complaints.stop()

    def complain(self, cause: str, reason: str, address: str, client_id: str) -> None:
        """Log why a connection is being closed.

        :param cause: a fixed text of ours; the lines are limited for each.
        """
        # The address comes first: what a client has chosen cannot be taken for it.
        text = "Closing {address} {client_id!r}: {reason}"
        self.complaints.warn(cause, text, address=address, client_id=client_id, reason=reason)

    def broke_down(self, failure: Failure, address: str, client_id: str) -> None:
        """Count and log a bug of ours; it costs this client its connection, and nobody else anything."""
        self.traffic.internal_errors += 1
        log.failure("Bug: {address} {client_id!r}", failure, address=address, client_id=client_id)
