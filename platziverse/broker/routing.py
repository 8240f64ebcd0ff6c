"""Router: hands a message to every Session that has subscribed to its topic, encoded once for all."""

from collections.abc import Sequence

from platziverse.broker.backpressure import Backpressure
from platziverse.broker.dispatcher import joined
from platziverse.broker.durable import Durable
from platziverse.broker.interfaces import (
    DROPPED,
    FULL,
    OWED,
    TOO_LARGE,
    WAITING,
    Answer,
    Authority,
    Client,
    NetworkConnection,
)
from platziverse.broker.outgoing import SHARED
from platziverse.broker.owing import Debtor, Owing
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import AS_PUBLISHED, LOCAL, Match
from platziverse.broker.together import Together
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.wire import UNUSED, Wire


class Router:
    """A Router delivers, counts what it has delivered, and leaves out who may not receive.

    :param authority: asked about every receiver, while there are rules.
    :param traffic: counts deliveries.
    :param backpressure: decides what a full receiver means for the publisher.
    :param durable: what durable Sessions are owed; ``None``: there are none.
    """

    def __init__(
        self,
        authority: Authority,
        traffic: Traffic,
        backpressure: Backpressure,
        durable: Durable | None = None,
    ) -> None:
        self._authority, self._traffic = authority, traffic
        self._backpressure = backpressure
        self._durable = durable
        #: Of the last message for durable Sessions, if others may join it.
        self.alike: Match[Session] = ()

    def route(
        self, message: Publish, receivers: "Match[Session]", client: Client, more: object = True
    ) -> Answer:
        """Hand the message to every receiver once, at the lower of both QoS. [MQTT-3.8.4-6]

        This happens at once, so that messages of one topic keep their order [MQTT-4.6.0-5] [MQTT-4.6.0-6].

        :param receivers: Sessions with the QoS of their Subscription.
        :param client: the publisher, who is held for receivers that are full.
        :param more: false: nothing else is waited for, so the answer may be that of the message before.
        :return: ``None``, or a Deferred that the acknowledgement waits for: durable Sessions get it.
        """
        if self._authority.restricts or client.bridge:
            receivers = self._allowed(receivers, message.topic, client)
        if message.qos:  # DUP of the incoming PUBLISH plays no part [MQTT-3.3.1-3]
            encoded = EncodedPublish(message)
            if self.alike and not more and message.qos == 1 and receivers == self.alike:
                answer = self._join(encoded, receivers)
                if answer is not None:
                    return answer
            return self._deliver(encoded, message, receivers, client)
        self._offer(message, receivers, client)
        return None

    def route_together(
        self, messages: Together, receivers: "Match[Session]", client: Client
    ) -> "Match[Session]":
        """Hand messages of a client to each receiver in one step; see :meth:`route`.

        :return: who has got none of them, and has to get each on its own: durable Sessions, and clients that
            have no room for all of them, or a limit for each.
        """
        if self._authority.restricts or client.bridge:
            receivers = self._allowed(receivers, messages.topic, client)
        left, traffic, count = [], self._traffic, len(messages.payloads)
        for receiver in receivers:
            session, granted = receiver
            if granted > messages.qos:
                granted = _optional(granted, messages.qos, session, client)
            connection = session.connection
            if granted < 0 or (connection is None and not granted):
                continue
            if connection is None or not messages.send(session, connection, granted):
                left.append(receiver)
                continue
            traffic.publish_sent[granted] += count
            traffic.publish_bytes_sent[granted] += messages.size
        return tuple(left)

    def _join(self, encoded: EncodedPublish, receivers: "Match[Session]") -> Answer:
        """Owe a message together with the one before it, to the same Sessions; ADR 0124.

        It is counted by :meth:`joined`, with all others of its run.

        :return: the answer of both; ``None``: that is not possible.
        """
        durable = self._durable
        owing = durable.open if durable is not None else None
        if owing is None or not owing.left:
            return None
        if encoded.size > SHARED or not owing.extend((encoded,)):
            for session, _ in receivers:
                if session.connection is None or session.deliver(encoded, 1) != OWED:
                    return None
            owing.add(encoded)
        return owing.answer

    def join(self, owing: Owing, receivers: "Match[Session]", topic: str, run: Sequence[Publish]) -> int:
        """Owe messages together with the one before them in one step, while each is sent at once. ADR 0157.

        What was found out about that one holds for those with its Topic Name. It is over when some of their
        receivers, daemons among them, are no durable Sessions that owe it.

        :param receivers: of that one.
        :param topic: of that one, which is not retained, and which no handler gets.
        :param run: of its client, at QoS 1, behind it.
        :return: how many of them are owed; counted by :meth:`joined`. The next one has to be routed.
        """
        if not receivers or receivers != self.alike:
            return 0
        alike = []
        for message in run:
            if message.topic != topic or message.retain:
                break
            encoded = EncodedPublish(message)
            if encoded.size > SHARED:
                break
            alike.append(encoded)
        return owing.extend(alike) if alike else 0

    def joined(self, owing: Owing, size: int) -> None:
        """Count what has joined the first message of ``owing``, for all its receivers.

        :param size: bytes of these payloads together.
        """
        traffic, count = self._traffic, len(owing.receivers)
        traffic.publish_sent[1] += count * (len(owing.messages) - 1)
        traffic.publish_bytes_sent[1] += count * size

    def route_retained(
        self,
        message: Publish,
        receivers: "Match[Session]",
        client: Client,
        links: "Sequence[tuple[Debtor, int]]" = (),
    ) -> Answer:
        """Hand on a message with RETAIN as :meth:`route` does; to bridges as it was published. ADR 0102.

        And to Subscriptions of MQTT 5 with Retain As Published. [MQTT5-3.3.1-13]

        :param links: to other daemons, as in :meth:`route_owed`. They are owed it together with our own
            Sessions: at QoS 2 a Packet Identifier that is committed says that all of them are.
        """
        bridges = tuple(receiver for receiver in receivers if _as_published(*receiver))
        others = receivers
        if bridges:
            others, client = tuple(one for one in receivers if not _as_published(*one)), client.in_steps()
        if links:
            owed = self.route_owed(message, others, client, links)
        else:
            owed = self.route(message, others, client)
        if not bridges:
            return owed
        if self._authority.restricts:
            bridges = self._permitted(bridges, message.topic)
        if client.bridge:
            bridges = _without(client, bridges)
        encoded = EncodedPublish(message, retain=True)
        if message.qos:
            return joined(owed, self._deliver(encoded, message, bridges, client))
        self._offer(message, bridges, client, retain=True)
        return owed

    def route_owed(
        self,
        message: Publish,
        receivers: "Match[Session]",
        client: Client,
        links: "Sequence[tuple[Debtor, int]]" = (),
        crossed: "tuple[tuple[int, int], ...]" = (),
    ) -> Answer:
        """Hand on a message at QoS 1 or 2 as :meth:`route` does, and to other daemons.

        :param links: to these, with its QoS.
        :param crossed: the rows of links that those of our Sessions take the place of.
        """
        if self._authority.restricts or client.bridge:
            receivers = self._allowed(receivers, message.topic, client)
        answer = self._deliver(EncodedPublish(message), message, receivers, client, links, crossed)
        self.alike = ()  # nothing may join it
        return answer

    def _deliver(
        self,
        encoded: EncodedPublish,
        message: Publish,
        receivers: "Match[Session]",
        client: Client,
        links: "Sequence[tuple[Debtor, int]]" = (),
        crossed: "tuple[tuple[int, int], ...]" = (),
    ) -> Answer:
        qos, size, traffic = message.qos, len(message.payload), self._traffic
        without: list[tuple[Session, int]] = []
        owed: list[tuple[Debtor, int]] | None = list(links) if links else None
        for session, granted in receivers:
            if granted > qos:
                granted = qos if granted < LOCAL else _optional(granted, qos, session, client)
            if granted < 1:
                if not granted:
                    without.append((session, granted))
                continue
            strained = session.deliver(encoded, granted)
            if strained:
                if strained >= OWED and session.window is not None:
                    (owed := owed or []).append((session.window, granted))
                    strained -= OWED
                if strained and self._strain(strained, session, client) == DROPPED:
                    continue
            traffic.publish_sent[granted] += 1  # [MQTT-4.5.0-1]
            traffic.publish_bytes_sent[granted] += size
        if without:
            self._offer(message, without, client, encoded.retain)
        return self._owe(encoded, message, owed, receivers, client, crossed) if owed is not None else None

    def _owe(
        self,
        encoded: EncodedPublish,
        message: Publish,
        owed: "list[tuple[Debtor, int]]",
        receivers: "Match[Session]",
        client: Client,
        crossed: "tuple[tuple[int, int], ...]",
    ) -> Answer:
        durable = self._durable
        assert durable is not None
        answer = durable.deliver(message, encoded, owed, client, crossed)
        # Only where all of them got it in this way.
        self.alike = receivers if durable.latest is not None and len(owed) == len(receivers) else ()
        return answer

    def _offer(
        self,
        message: Publish,
        receivers: "Sequence[tuple[Session, int]]",
        client: Client,
        retain: bool = False,
    ) -> None:
        """Send a PUBLISH at QoS 0, which is written once for each Wire.

        RETAIN is 0, but for bridges: the Subscriptions are old. [MQTT-3.3.1-9] [MQTT5-3.3.1-12]
        """
        if not receivers:
            return
        count, size, wire = len(receivers), len(message.payload), receivers[0][0].terms.wire
        wire = UNUSED if wire.limited else wire
        data = wire.qos0(EncodedPublish(message, retain)) if retain else wire.at_qos0(message)
        written = None
        for session, granted in receivers:
            connection = session.connection
            if connection is None or (granted >= LOCAL and _optional(granted, 0, session, client) < 0):
                count -= 1  # [MQTT5-3.8.3-3]
                continue
            if session.terms.wire is not wire:
                written = {wire: data} if written is None else written
                if session.terms.wire.limited:
                    count -= self._offer_one(message, session, connection, client, retain, written)
                    continue
                wire = session.terms.wire
                data = _written(written, wire, message, retain)
            if strained := connection.offer(data):
                count -= self._strain(strained, session, client) == DROPPED  # [MQTT-4.3.1-1]
        traffic = self._traffic
        traffic.publish_sent[0] += count
        traffic.publish_bytes_sent[0] += count * size

    def _offer_one(
        self,
        message: Publish,
        session: Session,
        connection: NetworkConnection,
        client: Client,
        retain: bool,
        written: dict[Wire, bytes],
    ) -> bool:
        """Send a PUBLISH at QoS 0 to one client, whose Wire is limited: what it writes is sent, or too large.

        :return: whether the client does not get it.
        """
        data = _written(written, session.terms.wire, message, retain)
        strained = connection.offer(data) if len(data) <= session.terms.largest else TOO_LARGE
        return self._strain(strained, session, client) == DROPPED  # [MQTT-4.3.1-1]

    def _strain(self, strained: int, session: Session, client: Client) -> int:
        if strained == FULL:
            self._backpressure.full(session, client)
        elif strained == WAITING:
            self._backpressure.waiting(session)
        elif strained == DROPPED:
            self._backpressure.dropped(session)
        elif strained == TOO_LARGE:  # [MQTT5-3.1.2-25]
            self._backpressure.too_large(session)
            return DROPPED
        return strained

    def _allowed(self, receivers: "Match[Session]", topic: str, client: Client) -> "Match[Session]":
        """Return the receivers that may get a message of ``client``; a bridge gets none of its own."""
        if self._authority.restricts:
            receivers = self._permitted(receivers, topic)
        return _without(client, receivers) if client.bridge else receivers

    def _permitted(self, receivers: "Match[Session]", topic: str) -> "Match[Session]":
        may_receive = self._authority.may_receive
        return tuple(
            (session, granted)
            for session, granted in receivers
            if session.client is not None and may_receive(session.client, topic)
        )


def _written(written: dict[Wire, bytes], wire: Wire, message: Publish, retain: bool) -> bytes:
    """Return a PUBLISH at QoS 0 as a Wire writes it, once for all that have it."""
    data = written.get(wire)
    if data is None:
        data = wire.qos0(EncodedPublish(message, retain)) if retain else wire.at_qos0(message)
        written[wire] = data
    return data


def _optional(granted: int, qos: int, session: Session, client: Client) -> int:
    """Return the QoS for a Subscription with options; below 0: it gets nothing of its own. [MQTT5-3.8.3-3]"""
    return -1 if granted & LOCAL and session.client_id == client.client_id else min(granted & 3, qos)


def _as_published(session: Session, granted: int) -> bool:
    return granted & AS_PUBLISHED > 0 or _is_bridge(session)


def _is_bridge(session: Session) -> bool:
    return session.client is not None and session.client.bridge


def _without(client: Client, receivers: "Match[Session]") -> "Match[Session]":
    """Return the receivers but ``client`` itself."""
    return tuple(receiver for receiver in receivers if receiver[0].client_id != client.client_id)
