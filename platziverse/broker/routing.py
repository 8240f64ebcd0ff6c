"""Router: hands a message to every Session that has subscribed to its topic, encoded once for all."""

from collections.abc import Sequence

from platziverse.broker.backpressure import Backpressure
from platziverse.broker.interfaces import DROPPED, FULL, Answer, Authority, Client
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.codec import EncodedPublish, encode_at_qos0
from platziverse.mqtt.packets import Publish


class Router:
    """A Router delivers, counts what it has delivered, and leaves out who may not receive.

    :param authority: asked about every receiver, while there are rules.
    :param traffic: counts deliveries.
    :param backpressure: decides what a full receiver means for the publisher.
    """

    def __init__(self, authority: Authority, traffic: Traffic, backpressure: Backpressure) -> None:
        self._authority = authority
        self._traffic = traffic
        self._backpressure = backpressure

    def route(self, message: Publish, receivers: "Match[Session]", client: Client) -> Answer:
        """Hand the message to every receiver once, at the lower of both QoS. [MQTT-3.8.4-6]

        This happens at once, so that messages of one topic keep their order [MQTT-4.6.0-5] [MQTT-4.6.0-6].

        :param receivers: Sessions with the QoS of their Subscription.
        :param client: the publisher, who is held for receivers that are full.
        :return: ``None``, as nothing is owed by a receiver in memory; or a Deferred that the
            acknowledgement waits for.
        """
        if self._authority.restricts:
            receivers = self._permitted(receivers, message.topic)
        if message.qos:  # DUP of the incoming PUBLISH plays no part [MQTT-3.3.1-3]
            self._deliver(EncodedPublish(message), message, receivers, client)
        else:
            self._offer(encode_at_qos0(message), len(message.payload), receivers, client)
        return None

    def _deliver(
        self, encoded: EncodedPublish, message: Publish, receivers: "Match[Session]", client: Client
    ) -> None:
        qos, traffic = message.qos, self._traffic
        size = len(message.payload)
        without: list[tuple[Session, int]] = []
        for receiver in receivers:
            session, granted = receiver
            if not granted:
                without.append(receiver)
                continue
            if granted > qos:
                granted = qos
            strained = session.deliver(encoded, granted)
            if strained and self._strain(strained, session, client) == DROPPED:
                continue
            traffic.publish_sent[granted] += 1  # [MQTT-4.5.0-1]
            traffic.publish_bytes_sent[granted] += size
        if without:
            self._offer(encoded.qos0, size, without, client)

    def _offer(
        self, data: bytes, size: int, receivers: "Sequence[tuple[Session, int]]", client: Client
    ) -> None:
        """Send ``data``, a whole PUBLISH at QoS 0. RETAIN is 0: the Subscriptions are old [MQTT-3.3.1-9].

        :param size: bytes of its payload.
        """
        count = 0
        for session, _ in receivers:
            connection = session.connection
            if connection is None:
                continue
            strained = connection.offer(data)
            if strained and self._strain(strained, session, client) == DROPPED:
                continue
            count += 1  # [MQTT-4.3.1-1]
        self._traffic.publish_sent[0] += count
        self._traffic.publish_bytes_sent[0] += count * size

    def _strain(self, strained: int, session: Session, client: Client) -> int:
        if strained == FULL:
            self._backpressure.full(session, client)
        else:
            self._backpressure.dropped(session)
        return strained

    def _permitted(self, receivers: "Match[Session]", topic: str) -> "Match[Session]":
        may_receive = self._authority.may_receive
        return tuple(
            (session, granted)
            for session, granted in receivers
            if session.client is not None and may_receive(session.client, topic)
        )
