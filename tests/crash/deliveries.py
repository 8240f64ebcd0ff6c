"""The ledger of messages between clients: what was published, what was promised to whom, and what came.

A message is known by the name of its publisher and a number ``n``, counted from 0. Both are in its payload,
``<name>:<n>``. A *moment* is a number that only grows, so that it says what was before what.
"""

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from tests.crash.ledger import Ledger
from tests.crash.wire import Received

#: QoS of a message, in the two lowest bits of its flags.
QOS: Final = 3
ACKED: Final = 4
#: Exactly once is promised to a receiver that gets it at the QoS of its publication (at QoS 0: at most once).
ONCE: Final = 8
#: It may not come, whatever is acknowledged.
UNPROMISED: Final = 16
#: Sent by the broker on its own account: neither in order, nor known how often.
LOOSE: Final = 32

MARK: Final = re.compile(rb"([\w-]+):(\d+)[ \"]")
#: The last moment, for what has not come to its end.
NEVER: Final = 2**62
NO_LANE: Final = -1
#: Lanes of one epoch: ports.
LANES: Final = 65_536


def matches(topic: str, topic_filter: str) -> bool:
    """Whether a Topic Name matches a Topic Filter. [MQTT-4.7]"""
    names, parts = topic.split("/"), topic_filter.split("/")
    for number, part in enumerate(parts):
        if part == "#":
            return True
        if number >= len(names) or part not in ("+", names[number]):
            return False
    return len(names) == len(parts)


@define
class Sent:
    """The messages of one publisher. ``flags[n]``, ``topics[n]`` and so on belong to message ``n``.

    :ivar said: how often it was sent, up to 255.
    :ivar first: the moment in which it was sent first.
    :ivar acked: the moment of its acknowledgement.
    :ivar lanes: messages of one lane overtake each other at no receiver; ``NO_LANE``: it may be anywhere.
    """

    flags: bytearray = field(factory=bytearray)
    topics: list[str] = field(factory=list)
    said: bytearray = field(factory=bytearray)
    first: "array[int]" = field(factory=lambda: array("q"))
    acked: "array[int]" = field(factory=lambda: array("q"))
    lanes: "array[int]" = field(factory=lambda: array("q"))


@define(eq=False)
class Subscription:
    """A Subscription of one receiver, and the moments of its life.

    :ivar confirmed: SUBACK has come.
    :ivar since: of SUBACK, or of the end of a doubt then; what is sent later is promised.
    :ivar until: of UNSUBSCRIBE; what is acknowledged before is promised.
    :ivar over: of UNSUBACK; what is sent later may not come.
    """

    topic_filter: str
    qos: int
    confirmed: bool = False
    since: int = NEVER
    until: int = NEVER
    over: int = NEVER


@define
class Inbox:
    """What one receiver has got, by publisher.

    :ivar counts: of each publisher: how often each message has come, up to 255.
    :ivar identifiers: of each publisher: the Packet Identifier under which each message came last.
    :ivar newest: of each Topic Name: its newest message so far.
    :ivar judged: of each publisher: messages below this number are.
    :ivar durable: its Session outlives its connections; else nothing is promised to it.
    """

    subscriptions: list[Subscription] = field(factory=list)
    counts: dict[str, bytearray] = field(factory=dict)
    identifiers: "dict[str, array[int]]" = field(factory=dict)
    newest: dict[tuple[str, str, int, int], int] = field(factory=dict)
    judged: Counter[str] = field(factory=Counter)
    durable: bool = True


@define
class Deliveries:
    """Written by publishers and receivers, and judged while nothing is on its way.

    :ivar retained: Topic Name → payload of the Retained Message that was published last.
    :ivar delivered: messages that came, but for Retained Messages that a new Subscription brought.
    :ivar repeated: of them those that came more than once, where that is allowed.
    :ivar crossing: messages come from several daemons. What crosses a second time, at QoS 1, is another
        message to the daemon that delivers it: neither its Packet Identifier nor DUP say anything. And
        what is under way to another daemon when a client unsubscribes is not for it any more.
    """

    ledger: Ledger
    publishers: dict[str, Sent] = field(factory=dict)
    inboxes: dict[str, Inbox] = field(factory=dict)
    retained: dict[str, bytes] = field(factory=dict)
    sent: int = 0
    acked: int = 0
    delivered: int = 0
    repeated: int = 0
    replayed: int = 0
    judged: int = 0
    crossing: bool = False
    _moments: "Iterator[int]" = field(factory=itertools.count)
    _epoch: int = 0
    _ordered: bool = True
    _doubtful: "list[Subscription] | None" = None
    _matches: "dict[tuple[str, str], bool]" = field(factory=dict)

    def _moment(self) -> int:
        return next(self._moments)

    # -- from whoever does something to the daemons ----------------------------------------------

    def doubt(self, order: bool = False) -> None:
        """Daemons may not know of each other for a while: a new Subscription is promised nothing yet.

        :param order: Sessions may move meanwhile, and what is sent overtake what was.
        """
        if self._doubtful is None:
            self._doubtful = []
        self._ordered = self._ordered and not order

    def certain(self) -> None:
        """All daemons know what all others know."""
        doubtful, self._doubtful = self._doubtful or [], None
        if not self._ordered:
            self._epoch, self._ordered = self._epoch + 1, True
        for subscription in doubtful:
            subscription.since = min(subscription.since, self._moment())

    def _lane(self, via: int) -> int:
        return self._epoch * LANES + via if self._ordered else NO_LANE

    def _match(self, topic: str, topic_filter: str) -> bool:
        key = topic, topic_filter
        known = self._matches.get(key)
        if known is None:
            known = self._matches[key] = matches(topic, topic_filter)
        return known

    # -- from publishers -------------------------------------------------------------------------

    def opened(self, name: str) -> Sent:
        return self.publishers.setdefault(name, Sent())

    def sending(
        self,
        name: str,
        topic: str,
        qos: int,
        persistent: bool,
        *,
        promised: bool = True,
        loose: bool = False,
        via: int = 0,
    ) -> int:
        """A new message is about to be sent; its number.

        :param persistent: its publisher goes on with a QoS 2 message where it was, after a reconnect.
        :param via: the port of the daemon that it goes to.
        """
        sent = self.publishers[name]
        once = qos == 0 or (qos == 2 and persistent)
        flags = qos | (ONCE if once else 0) | (LOOSE if loose else 0)
        sent.flags.append(flags | (0 if promised and qos else UNPROMISED))
        sent.topics.append(topic)
        sent.said.append(0)
        sent.first.append(self._moment())
        sent.acked.append(NEVER)
        sent.lanes.append(self._lane(via))
        self.sent += 1
        return len(sent.flags) - 1

    def said(self, name: str, n: int, via: int = 0) -> None:
        """A message was sent, perhaps again; by another way than before it may overtake, or be overtaken."""
        sent = self.publishers[name]
        sent.said[n] = min(255, sent.said[n] + 1)
        if sent.lanes[n] % LANES != via:
            sent.lanes[n] = NO_LANE

    def acknowledged(self, name: str, n: int) -> None:
        sent = self.publishers[name]
        if not sent.flags[n] & ACKED:
            sent.flags[n] |= ACKED
            sent.acked[n] = self._moment()
            self.acked += 1

    def is_settled(self, name: str, n: int) -> bool:
        """Whether a message is acknowledged, or will never be."""
        flags = self.publishers[name].flags[n]
        return bool(flags & ACKED) or not flags & QOS

    # -- from receivers --------------------------------------------------------------------------

    def arrived(self, receiver: str, durable: bool = True) -> Inbox:
        return self.inboxes.setdefault(receiver, Inbox(durable=durable))

    def subscribing(self, receiver: str, topic_filter: str, qos: int) -> Subscription:
        """SUBSCRIBE is about to be sent."""
        subscription = Subscription(topic_filter, qos)
        self.inboxes[receiver].subscriptions.append(subscription)
        return subscription

    def subscribed(self, subscription: Subscription) -> None:
        """SUBACK came."""
        subscription.confirmed = True
        if self._doubtful is None:
            subscription.since = min(subscription.since, self._moment())
        elif subscription.since == NEVER:
            self._doubtful.append(subscription)

    def unsubscribing(self, subscription: Subscription) -> None:
        """UNSUBSCRIBE is about to be sent."""
        subscription.until = min(subscription.until, self._moment())

    def unsubscribed(self, subscription: Subscription) -> None:
        """UNSUBACK came."""
        subscription.over = self._moment()

    def ended(self, receiver: str) -> None:
        """Its Session ended with its connection."""
        self.inboxes[receiver].subscriptions.clear()

    def received(self, receiver: str, message: Received) -> None:
        """A message was delivered to the receiver: not a copy of what it holds at QoS 2."""
        if not message.payload:
            return  # a Retained Message was cleared
        match = MARK.search(message.payload[:400])
        name = match[1].decode() if match else ""
        sent, n = self.publishers.get(name), int(match[2]) if match else -1
        if sent is None or n >= len(sent.flags):
            self.ledger.violation("received but never sent", f"{receiver}: {message}")
            return
        if message.retain:
            self.replayed += 1
            return
        self.delivered += 1
        if message.topic != sent.topics[n]:
            text = f"{name}:{n} on {message.topic}, not {sent.topics[n]}, by {receiver}"
            self.ledger.violation("received on another topic", text)
        self._check_subscribed(receiver, sent, n, message)
        self._count(receiver, name, n, message)

    def _check_subscribed(self, receiver: str, sent: Sent, n: int, message: Received) -> None:
        """Somebody asked for it, at this QoS."""
        allowed = {
            min(subscription.qos, sent.flags[n] & QOS)
            for subscription in self.inboxes[receiver].subscriptions
            if sent.first[n] < subscription.over and self._match(message.topic, subscription.topic_filter)
        }
        if not allowed:
            self.ledger.violation("received though not subscribed", f"{receiver}: {message}")
        elif message.qos not in allowed:
            self.ledger.violation("received at another QoS", f"{receiver}: {message}, not {allowed}")

    def _count(self, receiver: str, name: str, n: int, message: Received) -> None:
        inbox, sent = self.inboxes[receiver], self.publishers[name]
        counts = inbox.counts.setdefault(name, bytearray())
        identifiers = inbox.identifiers.setdefault(name, array("H"))
        missing = n + 1 - len(counts)
        if missing > 0:
            counts.extend(bytes(missing))
            identifiers.frombytes(bytes(2 * missing))
        counts[n] = min(255, counts[n] + 1)
        flags = sent.flags[n]
        if counts[n] > 1:
            self._check_again(receiver, name, n, message, identifiers[n])
        elif not flags & LOOSE and sent.lanes[n] != NO_LANE and self._all_along(inbox, sent, n):
            key = name, message.topic, flags & QOS, sent.lanes[n]
            if n < inbox.newest.get(key, -1):
                text = f"{name}:{n} after {inbox.newest[key]} on {message.topic}, by {receiver}"
                self.ledger.violation("received out of order", text)
            inbox.newest[key] = max(n, inbox.newest.get(key, -1))
        identifiers[n] = message.packet_id

    def _all_along(self, inbox: Inbox, sent: Sent, n: int) -> bool:
        """Whether the receiver was subscribed when the message was sent first, and is still.

        Otherwise an older message that is sent again, as it was not acknowledged, may be new to it.
        """
        return any(
            one.since < sent.first[n] and one.until == NEVER and self._match(sent.topics[n], one.topic_filter)
            for one in inbox.subscriptions
        )

    def _check_again(self, receiver: str, name: str, n: int, message: Received, before: int) -> None:
        """A message came once more."""
        sent, flags = self.publishers[name], self.publishers[name].flags[n]
        self.repeated += 1
        text = f"{name}:{n} by {receiver}: {message.packet_id} after {before}, sent {sent.said[n]} times"
        if flags & ONCE and message.qos == flags & QOS and self.inboxes[receiver].durable:
            self.ledger.violation("received twice", text)
        elif not flags & LOOSE and sent.said[n] == 1 and not self.crossing:
            # So the broker sends it again. [MQTT-4.4.0-1]
            if message.packet_id != before:
                self.ledger.violation("another Packet Identifier", text)
            if not message.dup:
                self.ledger.violation("sent again without DUP", text)

    # -- while nothing is on its way -------------------------------------------------------------

    def settle(self, receivers: "list[str]") -> None:
        """Judge everything that was published: what is promised to these receivers has come."""
        for receiver, name, n in self.missing(receivers):
            sent = self.publishers[name]
            text = f"{name}:{n} on {sent.topics[n]} at QoS {sent.flags[n] & QOS} by {receiver}"
            self.ledger.violation("acknowledged but never received", text)
        for receiver in receivers:
            inbox = self.inboxes[receiver]
            for name, sent in self.publishers.items():
                numbers = range(inbox.judged[name], len(sent.flags))
                self.judged += sum(self._promised(inbox, sent, n) for n in numbers)
                # The last one may be a Will that is not due yet.
                inbox.judged[name] = max(0, len(sent.flags) - 1)
            inbox.subscriptions = [one for one in inbox.subscriptions if one.over == NEVER]

    def missing(self, receivers: "list[str]") -> "list[tuple[str, str, int]]":
        """What is promised to these receivers, and has not come yet: receiver, publisher, n."""
        return [
            (receiver, name, n)
            for receiver in receivers
            for name, sent in self.publishers.items()
            for n in self._missing(self.inboxes[receiver], name, sent)
        ]

    def _missing(self, inbox: Inbox, name: str, sent: Sent) -> Iterator[int]:
        counts = inbox.counts.get(name, b"")
        for n in range(inbox.judged[name], len(sent.flags)):
            if self._promised(inbox, sent, n) and (n >= len(counts) or not counts[n]):
                yield n

    def _promised(self, inbox: Inbox, sent: Sent, n: int) -> bool:
        flags = sent.flags[n]
        return (
            inbox.durable
            and bool(flags & ACKED)
            and not flags & UNPROMISED
            and any(
                subscription.since < sent.first[n]
                and sent.acked[n] < subscription.until
                and not (self.crossing and subscription.until != NEVER)
                and subscription.qos > 0
                and self._match(sent.topics[n], subscription.topic_filter)
                for subscription in inbox.subscriptions
            )
        )
