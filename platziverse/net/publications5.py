"""Publications5: those of a client of MQTT 5, which is told when nobody has subscribed."""

from collections.abc import Iterable
from itertools import groupby
from typing import Final, cast

from platziverse.mqtt.codec import encode_pubacks
from platziverse.mqtt.codec5 import encode_acknowledgement, encode_unheard
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.publications import Publications

UNHEARD: Final = ReasonCode.NO_MATCHING_SUBSCRIBERS


class Publications5(Publications):
    """A Publications5 says in PUBACK and PUBREC if nobody has subscribed to what has come.

    Nobody: no client of this daemon, or by what they have said of another one, connected or not, and no
    handler, as one that records; and the message is not retained. What waits before it is acknowledged is
    not looked at: somebody gets it. Decided in ADR 0194.
    """

    __slots__ = ()

    def _is_unheard(self, message: Publish) -> bool:
        broker, topic = self._shared.broker, message.topic
        if message.retain or broker.destinations[topic]:
            return False
        return not broker.subscriptions.match(topic)

    def _acknowledge(self, messages: list[Publish]) -> None:
        topic = messages[0].topic
        for message in messages:
            if message.topic is not topic or message.retain:
                break
        else:  # as usual: one answer, of which all are told in one call
            self._puback(messages, self._is_unheard(messages[0]))
            return
        for unheard, group in groupby(messages, self._is_unheard):
            self._puback(group, unheard)

    def _puback(self, messages: Iterable[Publish], unheard: bool) -> None:
        packet_ids = cast("list[int]", [message.packet_id for message in messages])
        encode = encode_unheard if unheard else encode_pubacks
        self._place = self._outbox.acknowledge(packet_ids, self._place, encode)

    def _ack(self, packet: Publish, packet_id: int) -> bytes:
        if not self._is_unheard(packet):
            return super()._ack(packet, packet_id)
        return encode_acknowledgement(0x50 if packet.qos == 2 else 0x40, packet_id, UNHEARD)
