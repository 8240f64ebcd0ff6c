"""Brokers whose durable Sessions, and what waits for them, are in a store in memory."""

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Authority
from platziverse.broker.limits import Limits
from platziverse.broker.records import Acknowledged, Queued
from platziverse.broker.session import Session
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Packet, Puback, Publish
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore

#: Seconds.
GRACE = 0.005

ACCEPTED = [Connack(False, ConnectReturnCode.ACCEPTED)]
RESUMED = [Connack(True, ConnectReturnCode.ACCEPTED)]
UNAVAILABLE = [Connack(False, ConnectReturnCode.SERVER_UNAVAILABLE)]


class SavingCase(SynchronousTestCase):
    """A case with a store in memory, which keeps what it was told to save."""

    store: MemorySessionStore

    def saved(self, *kinds: type) -> list[Any]:
        """Return the records of these kinds, in their order."""
        return [record for record in self.store.records if isinstance(record, kinds)]


class DurableCase(SavingCase):
    """A broker that begins again with its store, a publisher, and receivers with durable Sessions."""

    limits: dict[str, Any] = {}
    grace = GRACE
    authority: Authority | None = None
    table: dict[str, Any] = {}

    def setUp(self) -> None:
        self.store = MemorySessionStore()
        self.start()

    def start(self) -> None:
        """Begin, or begin again after a ``kill -9``, with what is committed."""
        self.store.waiting.clear()
        self.harness = BrokerHarness(
            self.table,
            limits=Limits(**self.limits),
            authority=self.authority,
            sessions=self.store,
            grace=self.grace,
        )
        self.broker = self.harness.broker
        self.harness.turn()
        self.publisher = self.harness.connect("publisher")
        self.sent = 0

    def session(self, client_id: str = "receiver") -> Session:
        session = self.broker.sessions.get(client_id)
        assert session is not None
        return session

    def receiver(self, client_id: str = "receiver", qos: int = 1, topic: str = "t") -> FakeClient:
        """A connected client with a durable Session and one Subscription."""
        client = self.connect(client_id)
        client.subscribe(topic, qos)
        return client

    def connect(self, client_id: str = "receiver") -> FakeClient:
        """A client with a durable Session; what came behind CONNACK is received again."""
        client = self.harness.connect(client_id, clean_session=False)
        client.transport.write(b"".join(encode(packet) for packet in client.connack[1:]))
        return client

    def publish(self, payload: bytes = b"x", qos: int = 1, packet_id: int = 1, topic: str = "t") -> None:
        self.publisher.publish(topic, payload, qos, packet_id)

    def flood(self, count: int, size: int = 1) -> None:
        """Publish so many messages at QoS 1; their payloads are numbers, counted on."""
        for _ in range(count):
            self.sent += 1
            self.publish(str(self.sent).encode().rjust(size, b"0"), 1, (self.sent - 1) % 65_535 + 1)
            if self.sent % 50 == 0:
                self.harness.turn()
        self.harness.turn()

    def acknowledged(self) -> int:
        """How many messages the publisher has been acknowledged since the last look."""
        return len(self.publisher.received())

    @property
    def written(self) -> list[tuple[bytes, int]]:
        """Payload, and number of rows, of what was written."""
        return [(record.payload, len(record.rows)) for record in self.saved(Queued) if record.rows]

    def left(self, client_id: str = "receiver") -> int:
        """How many rows there are for a client."""
        rows = self.successResultOf(self.store.page(self.session(client_id).number, 0, 1 << 60, 1 << 30))
        return len(rows)

    def count(self, kind: type = Acknowledged) -> int:
        return len(self.saved(kind))


def take(client: FakeClient) -> list[Publish]:
    """Acknowledge all that has come, and what comes then; return it."""
    taken: list[Publish] = []
    while messages := [packet for packet in client.received() if isinstance(packet, Publish)]:
        taken += messages
        client.send(*[Puback(message.packet_id) for message in messages if message.packet_id])
    return taken


def payloads(packets: Sequence[Packet]) -> list[bytes]:
    """Payload of each PUBLISH."""
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


def summary(packets: Sequence[Packet]) -> list[tuple[int | None, bool]]:
    """Packet Identifier and DUP of each PUBLISH."""
    return [(packet.packet_id, packet.dup) for packet in packets if isinstance(packet, Publish)]
