"""Together: messages that differ in their payloads alone, handed to a receiver in one step."""

from collections.abc import Sequence

from platziverse.broker.interfaces import NetworkConnection
from platziverse.broker.outgoing import SHARED
from platziverse.broker.session import Session
from platziverse.mqtt.codec import TOPICS, EncodedPublish, encode_all_at_qos0
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.wire import Wire


class Together:
    """A Together is messages that one client has published to one topic, one after the other, at one QoS.

    None is retained or has Properties. They are written once for all receivers. Decided in ADR 0223.

    :ivar size: bytes of their payloads.
    """

    __slots__ = ("_at_qos0", "_encoded", "payloads", "qos", "size", "topic")

    def __init__(self, topic: str, payloads: Sequence[bytes], qos: int) -> None:
        self.topic, self.payloads, self.qos = topic, payloads, qos
        self.size = sum(map(len, payloads))
        self._at_qos0: dict[Wire, list[bytes]] = {}
        self._encoded: list[EncodedPublish] | None = None

    @property
    def is_short(self) -> bool:
        """Return whether none of them is so large that its receivers share its payload."""
        return self.size <= SHARED or max(map(len, self.payloads)) <= SHARED

    def send(self, session: Session, connection: NetworkConnection, qos: int) -> bool:
        """Send all of them, if the client takes them at once, and need not be looked at for each of them."""
        wire = session.terms.wire
        if connection.congested or wire.limited:
            return False
        if not qos:
            connection.send_together(self._written(wire))
            return True
        outgoing, room = session.outgoing, session.terms.most_inflight - session.inflight
        if outgoing is None or session.queued or len(self.payloads) > room:  # [MQTT5-4.9.0-2]
            return False
        return outgoing.send_together(connection, self._messages(), qos)

    def _written(self, wire: Wire) -> list[bytes]:
        written = self._at_qos0.get(wire)
        if written is None:
            before = TOPICS[self.topic] + wire.no_properties
            written = self._at_qos0[wire] = encode_all_at_qos0(before, self.payloads)
        return written

    def _messages(self) -> list[EncodedPublish]:
        if self._encoded is None:
            topic, qos = self.topic, self.qos
            self._encoded = [EncodedPublish(Publish(topic, payload, qos)) for payload in self.payloads]
        return self._encoded
