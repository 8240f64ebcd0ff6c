"""MQTTFactory: makes a connection of every client that knocks."""

from collections.abc import Callable

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory

from platziverse.broker.broker import Broker
from platziverse.broker.complaints import Complaints
from platziverse.broker.reasons import Reason
from platziverse.net.deadlines import Deadlines
from platziverse.net.flapping import Flapping
from platziverse.net.flow import STOPPING, FlowControl
from platziverse.net.outbox import Flushes
from platziverse.net.pressure import Backlog, Pressure
from platziverse.net.protocol import MQTTProtocol
from platziverse.net.rates import Rates
from platziverse.net.tracing import TracedProtocol


class MQTTFactory(ServerFactory):
    """What the connections of one daemon have in common, over any ordered stream [MQTT-7.1.1-1].

    :param clock: steady time; also the reactor's ``callLater``.
    :param observe_ack: called with the seconds from a PUBLISH to its acknowledgement, for those that waited.
    :param store: where publishes wait.
    """

    noisy = False

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
        #: Connections from now on tell the log which packets come and go.
        self.tracing = False
        #: Every open Network Connection, also those that have not sent CONNECT yet.
        self.connections: set[MQTTProtocol] = set()
        self.rates = Rates(broker.limits)
        self.pressure = Pressure(broker, self.flow, self.connections, clock, store)
        self.deadlines.start()

    def buildProtocol(self, addr: IAddress | None) -> MQTTProtocol:
        """One protocol for one connection."""
        protocol = TracedProtocol(self) if self.tracing else MQTTProtocol(self)
        protocol.factory = self
        return protocol

    def hold_all(self) -> None:
        """The daemon is stopping: read nothing more from anyone."""
        for connection in list(self.connections):
            connection.hold_reading(STOPPING)

    def close_all(self, reason: Reason, text: str) -> None:
        """Close every connection once its queued answers are written."""
        self.flushes.flush()
        for connection in list(self.connections):
            connection.close(reason, text)

    def stop(self) -> None:
        """The end: no more deadlines."""
        self.deadlines.stop()
        self.pressure.stop()
        self.complaints.stop()
        self.broker.complaints.stop()
