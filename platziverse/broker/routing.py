"""Router: gives a message to everyone who subscribed, encoded once."""

from collections.abc import Sequence

from platziverse.broker.interfaces import Answer, Authority
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.codec import EncodedPublish, encode_at_qos0
from platziverse.mqtt.packets import Publish


class Router:
    """Knows how to deliver, and asks the Authority where it has to.

    :param traffic: where deliveries are counted.
    """

    def __init__(self, authority: Authority, traffic: Traffic) -> None:
        self._authority = authority
        self._traffic = traffic

    def route(self, message: Publish, receivers: "Match[Session]") -> Answer:
        """Give the message to every receiver once, at the lower of both QoS. [MQTT-3.8.4-6]

        At once, so that every topic is an ordered one [MQTT-4.6.0-5] [MQTT-4.6.0-6].

        :return: what the acknowledgement waits for: nothing, as every receiver is in memory.
        """
        if self._authority.restricts:
            receivers = self._permitted(receivers, message.topic)
        if message.qos:  # DUP of the incoming PUBLISH plays no part [MQTT-3.3.1-3]
            self._deliver(EncodedPublish(message), message, receivers)
        else:
            self._offer(encode_at_qos0(message), len(message.payload), receivers)
        return None

    def _deliver(self, encoded: EncodedPublish, message: Publish, receivers: "Match[Session]") -> None:
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
            if session.deliver(encoded, granted):  # [MQTT-4.5.0-1]
                traffic.publish_sent[granted] += 1
                traffic.publish_bytes_sent[granted] += size
            else:
                traffic.publish_dropped += 1
        if without:
            self._offer(encoded.qos0, size, without)

    def _offer(self, data: bytes, size: int, receivers: "Sequence[tuple[Session, int]]") -> None:
        """To everyone at QoS 0; RETAIN is 0 for established Subscriptions [MQTT-3.3.1-9]."""
        count = 0
        for session, _ in receivers:
            connection = session.connection
            if connection is None:
                continue
            if connection.offer(data):  # [MQTT-4.3.1-1]
                count += 1
            else:
                session.dropped += 1
                self._traffic.publish_dropped += 1
        self._traffic.publish_sent[0] += count
        self._traffic.publish_bytes_sent[0] += count * size

    def _permitted(self, receivers: "Match[Session]", topic: str) -> "Match[Session]":
        may_receive = self._authority.may_receive
        return tuple(
            (session, granted)
            for session, granted in receivers
            if session.client is not None and may_receive(session.client, topic)
        )
