"""TracedProtocol: an MQTT connection that tells the log, at level debug, what happens on it.

The room ``net`` says who comes and goes, the room ``mqtt`` which Control Packets do. Such connections
are made while somebody wants to know; the others pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, get_args

from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode_puback
from platziverse.mqtt.packets import Connect, Packet, Publish, Subscribe
from platziverse.net.admission import PacketTable
from platziverse.net.protocol import MQTTProtocol

if TYPE_CHECKING:
    from platziverse.net.factory import MQTTFactory

log = Logger()
#: The room is the wire's, which has no log of its own.
wire = Logger("platziverse.mqtt")

#: By the upper half of their first byte.
NAMES: Final = {number: kind.__name__.upper() for number, kind in enumerate(get_args(Packet), 1)}


class TracedProtocol(MQTTProtocol):
    """Names of Control Packets, the topic and size of each PUBLISH, and who it was."""

    def __init__(self, factory: MQTTFactory) -> None:
        super().__init__(factory)
        self._table = _traced(self._table)

    def _open(self, username: str | None, packet: Connect) -> None:
        super()._open(username, packet)
        text = "Connected {address} {client_id!r}, user {username!r}"
        log.debug(text, address=self.address, client_id=self._client_id, username=username)

    def close(self, reason: Reason, text: str) -> None:
        """We close."""
        if not self.closed:
            line = "Closing {address} {client_id!r}: {reason}"
            log.debug(line, address=self.address, client_id=self._client_id, reason=text)
        super().close(reason, text)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The connection has ended."""
        log.debug("Gone {address} {client_id!r}", address=self.address, client_id=self._client_id)
        super().connectionLost(reason)

    def send(self, data: bytes) -> None:
        """What may not be dropped: every packet but a PUBLISH with QoS 0."""
        self._tell_sent(data)
        super().send(data)

    def acknowledge(self, packet_ids: list[int]) -> None:
        """Each PUBACK on its own."""
        for packet_id in packet_ids:
            self.send(encode_puback(packet_id))

    def _handle_packets(self, left: int) -> int:
        """One at a time: each is told before it is handled."""
        while left and not super()._handle_packets(1):
            left -= 1
        return left

    def offer(self, data: bytes) -> bool:
        """A PUBLISH with QoS 0."""
        taken = super().offer(data)
        if taken:
            self._tell_sent(data)
        return taken

    def _tell_sent(self, data: bytes) -> None:
        wire.debug(
            "to {address} {client_id!r}: {packet}, {size} bytes",
            address=self.address,
            client_id=self._client_id,
            packet=NAMES[data[0] >> 4],
            size=len(data),
        )


def _traced(table: PacketTable) -> PacketTable:
    return {kind: _telling(handle) for kind, handle in table.items()}


def _telling(handle: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
    def tell(protocol: TracedProtocol, run: list[Packet]) -> int:
        packet = run[0]
        text, more = _details(packet)
        wire.debug(
            "from {address} {client_id!r}: {packet}" + text,
            address=protocol.address,
            packet=type(packet).__name__.upper(),
            **{"client_id": protocol._client_id} | more,
        )
        return handle(protocol, run)

    return tell


def _details(packet: Packet) -> tuple[str, dict[str, object]]:
    if type(packet) is Publish:
        more = {"topic": packet.topic, "qos": packet.qos, "size": len(packet.payload)}
        return " to {topic!r}, QoS {qos}, {size} bytes", more
    if type(packet) is Connect:
        more = {"client_id": packet.client_id, "username": packet.username, "keep_alive": packet.keep_alive}
        return ", user {username!r}, Keep Alive {keep_alive} s", more
    if type(packet) is Subscribe:
        filters = [(subscription.topic_filter, subscription.qos) for subscription in packet.subscriptions]
        return " to {filters!r}", {"filters": filters}
    return "", {}


TracedProtocol.connected_table = _traced(MQTTProtocol.connected_table)
