"""Shared: all that the connections of one daemon have in common."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.broker import Broker
from platziverse.broker.complaints import Complaints
from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import Publish
from platziverse.net.deadlines import Deadlines
from platziverse.net.flapping import Flapping
from platziverse.net.flow import ASLEEP, STOPPING, TURN, FlowControl, Source
from platziverse.net.flushes import Flushes
from platziverse.net.partials import Partials
from platziverse.net.pressure import Backlog, Pressure
from platziverse.net.rates import Rates
from platziverse.net.refusing import Refusing
from platziverse.net.waking import Waking

log = Logger()


#: Hears of one packet, or of the beginning or end of a connection: a format, and its fields.
Hear: TypeAlias = Callable[[str, Mapping[str, object]], None]


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

    def connectionLost(self, reason: Failure) -> None: ...


class Shared:
    """A Shared has the counters, limits, timers and bounds that every connection of a daemon uses.

    :param clock: steady time; also the reactor's ``callLater``.
    :param observe_ack: called with the seconds from a PUBLISH to its acknowledgement, for those that waited,
        and how many had the same.
    :param store: counts the entries that wait for it.
    :ivar waking: holds everybody after a pause of the process; ``seconds`` is its clock.
    :ivar traced: Client Identifiers whose connections tell the log which packets come and go.
    :ivar heard: by Client Identifier: what hears the same.
    """

    #: A client has had some milliseconds of this turn of the reactor for itself.
    was_strained = False
    # The head of the line of such clients goes on in the next turn.
    _moving = False
    #: Connections from now on tell the log which packets come and go.
    tracing = False
    traced: frozenset[str] = frozenset()
    #: Another server, for clients when this one stops, or cannot take them; empty: there is none.
    server_reference = ""

    def __init__(
        self,
        broker: Broker,
        clock: IReactorTime,
        observe_ack: "Callable[[float, int], None] | None" = None,
        store: Backlog | None = None,
    ) -> None:
        self.broker = broker
        self.limits, self.traffic = broker.limits, broker.traffic
        self.clock, self.seconds = clock, clock.seconds
        self.observe_ack = observe_ack
        self.deadlines = Deadlines(clock)
        self.flow = FlowControl(broker.limits)
        self.refusing = Refusing(self.flow, clock)
        self.flushes = Flushes(clock)
        self.flapping = Flapping(broker.limits)
        self.complaints = Complaints(clock, "net")
        self.rates = Rates(broker.limits)
        #: Every open Network Connection, also those that have not sent CONNECT yet.
        self.connections: set[Open] = set()
        self.partials = Partials(broker.limits.max_memory, self.connections, broker.traffic, self.complaints)
        self.heard: dict[str, list[Hear]] = {}
        #: Each returns how many bytes something takes that no Session has: incomplete packets, TLS.
        self.counted: list[Callable[[], int]] = [lambda: self.partials.total]
        self.pressure = Pressure(broker, self.flow, self.connections, clock, store, self._count)
        #: Whose packets are being handled.
        self.current: Source | None = None
        self._strained: deque[Source] = deque()
        broker.strained = self._yield_turn
        self.waking = Waking(self.connections, clock)
        self.deadlines.start(self.waking.overslept)
        self.refusing.start()

    def may_strain(self, reading: Source) -> bool:
        """Return whether a packet may be handled that takes some milliseconds: one in each turn may.

        If not, nothing more of the client is handled until its turn comes, with this packet first.
        """
        if self.was_strained:
            self._stand_in_line(reading)
            return False
        self._note_strained()
        return True

    def before_search(self, reading: Source, run: list[Publish]) -> list[Publish]:
        """Return the messages of ``run`` before the first that needs a search for its receivers.

        The client waits in line with that one: another search was long in this turn. ADR 0121.
        """
        remembers = self.broker.subscriptions.remembers
        for number, message in enumerate(run):
            if not remembers(message.topic):
                self._stand_in_line(reading)
                return run[:number]
        return run

    def _note_strained(self) -> None:
        if not self.was_strained:
            self.was_strained = True
            self.clock.callLater(0, self._begin_turn)

    def _begin_turn(self) -> None:
        self.was_strained = False

    @property
    def counted_bytes(self) -> int:
        """How many bytes all that is in ``counted`` takes now."""
        return self._count()

    def _count(self) -> int:
        return sum(count() for count in self.counted)

    def _yield_turn(self) -> None:
        """Handle nothing more of the client whose message took long; one of all such goes on in a turn."""
        self._note_strained()
        if self.current is not None:
            self._stand_in_line(self.current)

    def _stand_in_line(self, reading: Source) -> None:
        if reading in self._strained:
            return
        reading.hold_reading(TURN)
        self._strained.append(reading)
        if not self._moving:
            self._moving = True
            self.clock.callLater(0, self._move_line)

    def _move_line(self) -> None:
        """Let those at the head of the line go on, up to one that takes long again."""
        self.was_strained = False
        while self._strained and not self.was_strained:
            self._strained.popleft().resume_reading(TURN)
        self._moving = bool(self._strained)
        if self._moving:
            self.clock.callLater(0, self._move_line)

    def opened(self, connection: Open) -> None:
        """Note a connection that has begun."""
        self.connections.add(connection)
        self.traffic.connections_opened += 1
        if self.waking.is_asleep:
            connection.reading.hold_reading(ASLEEP)

    def hold_all(self) -> None:
        """Read nothing more from anyone: the daemon is stopping."""
        for connection in list(self.connections):
            connection.reading.hold_reading(STOPPING)

    def close_all(self, reason: Reason, text: str) -> None:
        """Close every connection once its queued answers are written."""
        self.close(list(self.connections), reason, text)

    def close(self, connections: Sequence[Open], reason: Reason, text: str) -> None:
        """Close these connections once their queued answers are written."""
        self.flushes.flush()
        for connection in connections:
            connection.close(reason, text)

    def stop(self) -> None:
        """End all timers."""
        self.deadlines.stop()
        self.refusing.stop()
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
