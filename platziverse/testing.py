"""Doubles for tests: a whole broker without sockets, clients that speak packets to it, a store in memory.

Public, so that authors of topic handlers can test theirs as we test ours. A handler that records is tested
like this::

    harness = BrokerHarness(handlers=[devices.table])
    client = harness.connect()
    client.publish("sensors/kitchen", b'{"temp": 21.5}', qos=1, packet_id=1)
    assert harness.reports.reports[0].metrics == [Metric("temp", "21.5")]

With ``harness.reports.hold()`` nothing is committed, so nothing is acknowledged, until
``harness.reports.resume()``. ``harness.advance(seconds)`` lets time pass, for a handler's timers too;
``harness.stop()`` is the end of the daemon.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

from platziverse.access.authority import is_servers_own
from platziverse.agents.handlers import AgentHandlers
from platziverse.agents.interfaces import ReportStore
from platziverse.agents.recorder import ANNOUNCEMENTS, Recorder
from platziverse.agents.tables import MakeRows, Tables
from platziverse.broker.broker import Broker
from platziverse.broker.complaints import Complaints
from platziverse.broker.dispatcher import TopicDispatcher
from platziverse.broker.durable import GRACE
from platziverse.broker.interfaces import Authority, Client, ClientObserver, Handler
from platziverse.broker.limits import Limits
from platziverse.broker.ports import SessionStore
from platziverse.door.crowd import Crowd
from platziverse.durable.memory import MemorySessionStore
from platziverse.ingest.memory import MemoryStore
from platziverse.mqtt.codec import encode
from platziverse.mqtt.codec5 import encode5
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.packets import Connect, Packet, Publish, Subscribe, Subscription
from platziverse.mqtt.topics import is_anothers_response
from platziverse.net.deadlines import TICK
from platziverse.net.factory import MQTTFactory
from platziverse.net.pressure import Backlog
from platziverse.net.shared import Shared

__all__ = ["BrokerHarness", "FakeClient", "MemorySessionStore", "MemoryStore", "recording_harness"]

#: More than any server packet in a test.
_ANY_SIZE = 268_435_455


class FakeClient:
    """One client: sends packets or raw bytes, and keeps what the broker answered.

    :ivar protocol: the broker's side of the connection.
    """

    def __init__(self, factory: MQTTFactory, address: IPv4Address, protocol_level: int = 4) -> None:
        self._factory = factory
        self._encode: Callable[[Packet], bytes] = encode5 if protocol_level == 5 else encode
        self.protocol = factory.buildProtocol(address)
        self.transport = StringTransportWithDisconnection(peerAddress=address)
        self.transport.protocol = self.protocol
        self._decoder = PacketDecoder(_ANY_SIZE)
        self._decoder.connected(_ANY_SIZE, protocol_level)
        self.connack: list[Packet] = []
        self.protocol.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    @property
    def closed(self) -> bool:
        """The broker has closed the connection, or it was lost."""
        return not self.transport.connected

    @property
    def held(self) -> bool:
        """The broker reads nothing from this client at the moment."""
        return self.transport.producerState == "paused"

    def send(self, *packets: Packet) -> None:
        """Send packets in one segment."""
        self.send_bytes(b"".join(self._encode(packet) for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        """Send raw bytes in one segment."""
        self.protocol.dataReceived(data)

    def received_bytes(self) -> bytes:
        """The bytes received since the last look."""
        self._factory.shared.flushes.flush()
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def received(self) -> list[Packet]:
        """The packets received since the last look."""
        self._decoder.feed(self.received_bytes())
        packets: list[Packet] = []
        while (packet := self._decoder.next_packet()) is not None:
            packets.append(packet)
        return packets

    def subscribe(self, topic_filter: str, qos: int = 0, packet_id: int = 1) -> list[Packet]:
        """Subscribe; returns what came back, the SUBACK first."""
        self.send(Subscribe(packet_id, [Subscription(topic_filter, qos)]))
        return self.received()

    def publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, packet_id: int | None = None, **more: Any
    ) -> None:
        """Send a PUBLISH; ``more`` is ``retain`` and ``dup``."""
        self.send(Publish(topic, payload, qos, packet_id=packet_id, **more))

    def lose(self) -> None:
        """The network cuts the connection."""
        if self.transport.connected:
            self.transport.connected = False
            self.protocol.connectionLost(Failure(ConnectionLost()))

    def stop_reading(self) -> None:
        """From now on the client takes nothing: its transport's buffer is full."""
        cast(Any, self.transport).producer.pauseProducing()

    def read_again(self) -> None:
        """The transport's buffer has emptied."""
        cast(Any, self.transport).producer.resumeProducing()


class OpenAuthority:
    """The ``Authority`` of a broker without logins and access rules: everyone may do everything.

    But nobody may speak for the server itself.
    """

    checks_names = False
    restricts = False

    def login(
        self, connect: Connect, address: str, certificate_user: str | None, near: bool
    ) -> "Deferred[str | None] | None":
        """Believe what CONNECT says."""
        return None

    def exchange(self, method: str, client_id: str, address: str) -> None:
        """Know no Authentication Method."""

    def reserved(self, topic: str) -> bool:
        """Return whether no client may ever publish to ``topic``."""
        return is_servers_own(topic, ANNOUNCEMENTS)

    def may_publish(self, client: Client, topic: str) -> bool:
        """Return whether it is not the server's own."""
        return not self.reserved(topic)

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        """Return whether it is not about what another client is answered."""
        return not is_anothers_response(client.client_id, topic_filter)

    def may_receive(self, client: Client, topic: str) -> bool:
        """Return ``True``."""
        return True


class BrokerHarness:
    """A broker with its connections on a ``Clock``.

    :param table: the handler table.
    :param handlers: functions as the setting ``handlers`` names them; with them, or with ``reports``, the
        broker records ``agent/message`` and what they report.
    :param reports: where Reports go; else a :class:`MemoryStore`.
    :param wall_clock: seconds since the epoch at the beginning; the harness's clock goes on from there.
    :param sessions: where durable Sessions, Retained Messages and Wills are saved; it is loaded at once.
    :param clock: else one of the harness's own.
    :param grace: seconds that a message waits for durable Sessions before it is stored.
    :param share: called with the broker before anything is loaded.
    :ivar loaded: fires when ``sessions`` is loaded.
    """

    def __init__(
        self,
        table: Mapping[str, Handler] | Iterable[tuple[str, Handler]] | None = None,
        limits: Limits | None = None,
        authority: Authority | None = None,
        observers: Iterable[ClientObserver] = (),
        store: Backlog | None = None,
        handlers: Sequence[MakeRows] = (),
        reports: ReportStore | None = None,
        wall_clock: float = 0.0,
        sessions: SessionStore | None = None,
        clock: Clock | None = None,
        grace: float = GRACE,
        share: Callable[[Broker], object] = lambda broker: None,
    ) -> None:
        self.clock = clock = clock or Clock()
        limits = limits or Limits()
        #: Where Reports go.
        self.reports: Any = reports or MemoryStore()
        self._began = wall_clock
        self.recorder = Recorder(self.reports, self._publish, self.now)
        complaints, deadline = Complaints(self.clock, "agents"), limits.handler_deadline
        room = limits.handler_room
        self.tables = Tables(self.recorder, self._publish, self.clock, complaints, deadline, room)
        tables: list[Any] = [table or {}]
        if handlers or reports is not None:
            tables += [AgentHandlers(self.recorder).table]
            tables += [self.tables.make(_name(make), make) for make in handlers]
            observers = [*observers, cast(ClientObserver, self.recorder)]
        dispatcher = TopicDispatcher(*tables, together=self.tables.together)
        access, told = authority or OpenAuthority(), list(observers)
        self.broker = Broker(limits, dispatcher, access, clock, self.now, told, sessions, grace)
        share(self.broker)
        self.loaded = self.broker.load()
        self.shared = Shared(self.broker, self.clock, store=store)
        self.factory = MQTTFactory(self.shared)
        self.crowd = Crowd(self.broker.limits, self.broker.traffic, self.shared.complaints)
        self._port = 40_000

    def _publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.broker.announce(topic, payload, retain)

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._began + self.clock.seconds()

    def stop(self) -> "Deferred[Any]":
        """Call what the handlers want to be called when the daemon stops."""
        return self.tables.stop()

    def open(self, protocol_level: int = 4) -> FakeClient:
        """A Network Connection on which nothing has been sent; its client speaks 5 or 4."""
        self._port += 1
        return FakeClient(self.factory, IPv4Address("TCP", "127.0.0.1", self._port), protocol_level)

    def connect(self, client_id: str = "client", **fields: Any) -> FakeClient:
        """A connected client; ``fields`` are those of CONNECT. Its CONNACK is already taken."""
        client = self.open(fields.get("protocol_level", 4))
        client.send(Connect(client_id, **fields))
        client.connack = client.received()
        return client

    def advance(self, seconds: float) -> None:
        """Let time pass as a running reactor would see it, tick by tick."""
        whole, rest = divmod(seconds, TICK)
        self.clock.pump([TICK] * int(whole) + ([rest] if rest else []))

    def turn(self) -> None:
        """One turn of the reactor."""
        self.clock.advance(0)


def _name(make: MakeRows) -> str:
    """Return the name of a function as the setting ``handlers`` has it."""
    return f"{make.__module__}:{getattr(make, '__name__', type(make).__name__)}"


def recording_harness(*makes: MakeRows, store: ReportStore, wall_clock: float = 0.0) -> BrokerHarness:
    """A broker that records what ``agent/message`` and the handlers of ``makes`` report.

    :param makes: functions as the setting ``handlers`` names them.
    :param store: where Reports go, a :class:`MemoryStore` for example.
    :param wall_clock: seconds since the epoch at the beginning; the harness's clock goes on from there.
    """
    return BrokerHarness(handlers=makes, reports=store, wall_clock=wall_clock)
