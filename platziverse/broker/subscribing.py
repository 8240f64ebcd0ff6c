"""Subscribing: which Subscriptions a Session may have, and the Retained Messages that they bring."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import SERVER, Authority
from platziverse.broker.limits import Limits
from platziverse.broker.ports import Listening, RetainedStore
from platziverse.broker.records import IDENTIFIER, OPTIONS
from platziverse.broker.sending import RetainedSending
from platziverse.broker.session import Session
from platziverse.broker.shares import Shares, filter_behind, is_shared
from platziverse.broker.subscriptions import (
    AS_PUBLISHED,
    LOCAL,
    SubscriptionTree,
    encode_identifier,
)
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.broker.weights import LEVEL
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import SUBSCRIPTION_REFUSED, Publish, Subscription
from platziverse.mqtt.properties import brought_by
from platziverse.mqtt.reasoncodes import ReasonCode

#: Subscriptions that are restored in one step.
FEW: Final = 200
#: Part of ``max_memory`` that the levels of all Topic Filters may take.
PART: Final = 0.25
#: Reasons that are no limits.
NO_SHARE: Final = "a Shared Subscription is $share/name/filter, without a wildcard in its name"
NOT_ALLOWED: Final = "not allowed"
#: Why a Subscription is refused → the code for it; of any limit it is another one. [MQTT5-3.9.3-2]
CODES: Final = {
    NO_SHARE: ReasonCode.TOPIC_FILTER_INVALID,
    NOT_ALLOWED: ReasonCode.NOT_AUTHORIZED,
    "max_topic_levels": ReasonCode.TOPIC_FILTER_INVALID,
}


class Subscribing:
    """Subscribing changes the Subscriptions of Sessions and the tree that messages are routed by, together.

    :param tree: Topic Filter → the Sessions that have subscribed.
    :param shares: likewise of Shared Subscriptions; they bring no Retained Messages.
    :param complaints: where refused Subscriptions are said.
    :param turn: what sending Retained Messages may take of a turn of the reactor.
    :param sent: called with a Session and Topic Filters, when their Retained Messages are owed no more.
    """

    def __init__(
        self,
        tree: SubscriptionTree[Session],
        shares: Shares,
        retained: RetainedStore,
        authority: Authority,
        limits: Limits,
        traffic: Traffic,
        complaints: Complaints,
        turn: Turn,
        sent: Callable[[Session, Iterable[str]], None] = lambda session, topic_filters: None,
    ) -> None:
        self._tree, self._shares, self._retained = tree, shares, retained
        self._authority, self._limits, self._traffic = authority, limits, traffic
        self._complaints = complaints
        self._make = partial(RetainedSending, retained, traffic, turn)
        self._sent = sent
        # Of all Topic Filters together: a client can make so many in a moment that a look at the memory now
        # and then is too late.
        self._levels = 0
        self._most_levels = int(limits.max_memory * PART / LEVEL) or sys.maxsize
        # Is told of each Subscription that begins and ends; ``None``: nobody wants to know.
        self._listening: Listening | None = None

    def let_know(self, listening: Listening, sessions: Iterable[Session]) -> Listening:
        """Tell ``listening`` of the Subscriptions of these Sessions, and of each that begins or ends."""
        self._listening = listening
        for session in sessions:
            for topic_filter in session.subscriptions:
                listening.subscribed(session, topic_filter)
        return listening

    def subscribe(self, session: Session, subscriptions: Sequence[Subscription]) -> list[int]:
        """Return the codes for SUBACK, in order: the QoS granted, or a ``ReasonCode``. [MQTT-3.8.4-5]"""
        codes: list[int] = []
        for number, subscription in enumerate(subscriptions):  # [MQTT-3.8.4-4]
            topic_filter = subscription.topic_filter
            if reason := self._refusal(session, topic_filter, number):
                self._refuse(session, topic_filter, reason)
                codes.append(CODES.get(reason, ReasonCode.QUOTA_EXCEEDED))
                continue
            self._add(session, topic_filter, granted(subscription, subscription.qos))
            codes.append(subscription.qos)  # [MQTT-3.9.3-1] [MQTT5-3.8.4-7]
        return codes

    def _add(self, session: Session, topic_filter: str, qos: int) -> None:
        self._levels -= session.levels
        if self._listening is not None and topic_filter not in session.subscriptions:
            self._listening.subscribed(session, topic_filter)
        session.subscribe(topic_filter, qos)
        if qos > OPTIONS and session.subscription_identifiers is None:
            self._identify(session)
        self._levels += session.levels
        if is_shared(topic_filter):
            self._shares.add(session, topic_filter, qos)
        else:
            self._tree.add(topic_filter, session, qos)

    def _identify(self, session: Session) -> None:
        session.identify(partial(_identifiers, session, self._tree.identifiers))

    def _refusal(self, session: Session, topic_filter: str, number: int) -> str:
        """Return why a Subscription is refused, or ``""``.

        :param number: of the Topic Filter in its SUBSCRIBE, from 0.
        """
        if number >= self._limits.max_filters_per_subscribe:
            return "max_filters_per_subscribe"
        if limit := session.limit_for(topic_filter):
            return limit
        if self._levels > self._most_levels and topic_filter not in session.subscriptions:
            return "max_memory"
        wanted = filter_behind(topic_filter) if is_shared(topic_filter) else topic_filter
        if not wanted:
            return NO_SHARE
        assert session.client is not None
        return "" if self._authority.may_subscribe(session.client, wanted) else NOT_ALLOWED

    def _refuse(self, session: Session, topic_filter: str, reason: str) -> None:
        client, refused = session.client, self._traffic.subscriptions_refused
        assert client is not None
        refused[reason] = refused.get(reason, 0) + 1
        self._complaints.warn(
            f"refused to subscribe: {reason}",
            "Refused {address} {client_id!r}, user {username!r}, to subscribe to {topic_filter!r}: {reason}",
            address=client.address,
            client_id=client.client_id,
            username=client.username,
            topic_filter=topic_filter[:200],
            reason=reason if reason in (NO_SHARE, NOT_ALLOWED) else f"the limit {reason}",
        )

    def unsubscribe(self, session: Session, topic_filters: Sequence[str]) -> None:
        """Drop the Subscriptions with exactly these Topic Filters; messages in flight go on.

        [MQTT-3.10.4-2] [MQTT-3.10.4-3]
        """
        for topic_filter in topic_filters:  # [MQTT-3.10.4-6]
            levels = session.levels
            if session.unsubscribe(topic_filter):
                self._levels += session.levels - levels
                self._remove(session, topic_filter)
                if self._listening is not None:
                    self._listening.unsubscribed(session, topic_filter)

    def restore(self, session: Session, subscriptions: dict[str, int]) -> Iterator[None]:
        """Give a new Session the Subscriptions, Topic Filter → QoS, that it had; yield now and then."""
        session.restore(subscriptions)
        if max(subscriptions.values(), default=0) > OPTIONS:
            self._identify(session)
        self._levels += session.levels
        left = iter(subscriptions.items())
        while few := subscriptions if len(subscriptions) <= FEW else dict(islice(left, FEW)):
            self._restore(session, few)
            if self._listening is not None:
                for topic_filter in few:
                    self._listening.subscribed(session, topic_filter)
            if few is subscriptions:
                return
            yield

    def _restore(self, session: Session, subscriptions: dict[str, int]) -> None:
        shared = [*filter(is_shared, subscriptions)]
        if shared:
            for name in shared:
                self._shares.add(session, name, subscriptions[name])
            subscriptions = {name: qos for name, qos in subscriptions.items() if not is_shared(name)}
        self._tree.restore(subscriptions, session)

    def _remove(self, session: Session, topic_filter: str) -> bool:
        """Have a Subscription no more; return whether it was there."""
        if is_shared(topic_filter):
            return self._shares.remove(session, topic_filter)
        return self._tree.remove(topic_filter, session)

    def end(self, session: Session) -> None:
        """Drop all Subscriptions of a Session that is given up. Its Retained Messages stay. [MQTT-3.1.2-7]"""
        self._levels -= session.levels
        session.levels = 0
        for topic_filter in session.subscriptions:
            if self._remove(session, topic_filter) and self._listening is not None:
                self._listening.unsubscribed(session, topic_filter)
        session.subscriptions.clear()

    def send_retained(self, session: Session, granted: Mapping[str, int]) -> None:
        """Send the Retained Messages of the granted Subscriptions, after SUBACK. [MQTT-3.3.1-6]

        :param granted: Topic Filter → QoS.
        """
        may_match = self._retained.may_match
        if wanted := [name for name in granted if may_match(name) and not is_shared(name)]:
            self.owe_retained(session, wanted)

    def owed(self, granted: Mapping[str, int], silent: Collection[str] = ()) -> tuple[str, ...]:
        """Return the Subscriptions, of Topic Filter → QoS, that may bring Retained Messages at QoS 1 or 2.

        :param silent: those that shall bring none.
        """
        loud = [name for name, options in granted.items() if options & 3 and name not in silent]
        return tuple([name for name in loud if self._retained.may_match(name) and not is_shared(name)])

    def owe_retained(self, session: Session, topic_filters: Iterable[str]) -> None:
        """Send the Retained Messages of these Subscriptions as soon as the client takes them."""
        there = session.subscriptions
        wanted = [(name, there[name] & 3) for name in topic_filters if name in there]
        sent, may_get = partial(self._sent, session), partial(self._may_get_retained, session)
        fits, write = partial(_fits, session), partial(_at_qos0, session)
        bring = partial(_bring, session)
        session.send_retained(wanted, partial(self._make, sent, may_get, fits, write, bring))

    def _may_get_retained(self, session: Session, topic: str) -> bool:
        """Return whether ``session`` may get the message kept for ``topic`` now.

        The rules may have changed since: for the receiver, and for whoever published it. A bridge gets none
        of its own.
        """
        if (message := self._retained.get(topic)) is not None and session.terms.wire.is_over(message):
            return False  # [MQTT5-3.3.2-5]
        publisher, client = self._retained.publisher(topic), session.client
        if client is not None and client.bridge and publisher.client_id == client.client_id:
            return False
        if not self._authority.restricts:
            return True
        may_stay = publisher is SERVER or self._authority.may_publish(publisher, topic)
        return may_stay and client is not None and self._authority.may_receive(client, topic)


def _fits(session: Session, message: EncodedPublish) -> bool:
    return session.terms.fits(message)  # another connection of it has others


def _identifiers(
    session: Session, of_topic: Callable[[str], Mapping[Session, bytes]], message: Publish
) -> bytes:
    """Return the Subscription Identifiers of a message for a Session, as Properties."""
    properties = message.properties
    if properties is not None and properties.subscription is not None:  # [MQTT5-3.3.4-5]
        return encode_identifier(session.subscriptions.get(properties.subscription, 0))
    return of_topic(message.topic).get(session, b"")


def _bring(session: Session, message: Publish, topic_filter: str) -> Publish:
    return brought_by(message, topic_filter) if session.subscription_identifiers is not None else message


def _at_qos0(session: Session, message: EncodedPublish) -> bytes:
    return session.terms.wire.qos0(message)


def granted(subscription: Subscription, qos: int) -> int:
    """Return what a Subscription grants: its QoS with its options, and its Subscription Identifier."""
    options = LOCAL if subscription.no_local else 0
    options |= subscription.identifier << IDENTIFIER
    return qos | options | (AS_PUBLISHED if subscription.retain_as_published else 0)


def granted_of(subscriptions: Sequence[Subscription], codes: Sequence[int]) -> dict[str, int]:
    """Return the Subscriptions that were granted, Topic Filter → what is granted.

    A Topic Filter that is there twice is one Subscription, with the last options.
    """
    return {
        subscription.topic_filter: granted(subscription, code)
        for subscription, code in zip(subscriptions, codes, strict=True)
        if code < SUBSCRIPTION_REFUSED
    }
