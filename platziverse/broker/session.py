"""Session: what the broker remembers of a client, on both sides of a lost connection."""

from collections import deque
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import TYPE_CHECKING, Final

from platziverse.broker.interfaces import (
    DROPPED,
    FULL,
    TAKEN,
    TOO_LARGE,
    WAITING,
    Answer,
    Authority,
    Client,
    NetworkConnection,
)
from platziverse.broker.limits import USUAL_LEVELS, Limits
from platziverse.broker.outgoing import Entry, Outgoing
from platziverse.broker.receiving import Receiving
from platziverse.broker.sending import RetainedSending
from platziverse.broker.slow import Slow
from platziverse.broker.terms import ANY_SIZE, Terms, unused
from platziverse.broker.weights import LEVEL, weigh, weigh_all
from platziverse.broker.window import Window
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import weigh as weigh_properties

if TYPE_CHECKING:
    from platziverse.broker.shares import Shares

#: Bytes that a Session takes, and each Subscription, Packet Identifier and waiting message, roughly.
_OWN: Final = 2048
_SUBSCRIPTION: Final = 256
_IDENTIFIER: Final = 128
_ENTRY: Final = 256


class Session(Receiving):
    """A Session has the Subscriptions of one Client Identifier, and the messages that are on their way to it.

    :param persistent: kept when the connection ends (Clean Session 0).
    :param authority: asked again before what has waited is sent.
    """

    __slots__ = (
        "_authority",
        "_queue",
        "_queued_bytes",
        "_sending",
        "client",
        "client_id",
        "connection",
        "denied",
        "dropped",
        "dropped_before",
        "excess",
        "levels",
        "number",
        "outgoing",
        "owner",
        "persistent",
        "shares",
        "slow",
        "stored_expiry",
        "subscription_identifiers",
        "subscriptions",
        "terms",
        "will",
        "window",
    )

    client: Client | None
    #: User name of the login that has begun it, and that alone may go on with it.
    owner: str | None
    connection: NetworkConnection | None
    will: Publish | None
    #: Returns those of a message, as Properties; ``None``: it has never subscribed with one.
    subscription_identifiers: Callable[[Publish], bytes] | None
    #: Where it is, or was, a member of a group; ``None``: it never was.
    shares: "Shares | None"

    def __init__(self, client_id: str, persistent: bool, limits: Limits, authority: Authority) -> None:
        super().__init__(limits)
        self.client_id, self.persistent, self._authority = client_id, persistent, authority
        #: Of a durable Session, as the store has given it, 0: it is none; PUBLISHes that were not allowed.
        self.number = self.denied = 0
        self.client = self.owner = self.connection = self.will = None
        self.subscription_identifiers = self.shares = None
        self.subscriptions: dict[str, int] = {}
        #: What all its Topic Filters weigh together; see :func:`weigh`.
        self.levels = 0
        #: Messages this client did not get: its queue was full, or it takes less now; how many when it left.
        self.dropped = self.dropped_before = self.excess = self._queued_bytes = 0
        #: From a full queue on until the client has caught up.
        self.slow: Slow | None = None
        #: What its client has asked for; and what the store has of its expiry, see :class:`Begun`.
        self.terms, self.stored_expiry = unused(limits.max_inflight), 0
        #: Sends instead of this Session, and has its messages, if it is durable.
        self.window: Window | None = None
        #: Made when first needed: an idle client costs as little as possible. A durable one never has them.
        self.outgoing: Outgoing | None = None
        self._queue: deque[Entry] | None = None
        self._sending: RetainedSending | None = None

    def limit_for(self, topic_filter: str) -> str:
        """Return the name of the limit that forbids a Subscription with this Topic Filter, or ``""``."""
        limits = self._limits
        if topic_filter in self.subscriptions:
            return ""
        if topic_filter.count("/") > limits.max_topic_levels:  # the separators count, as in Mosquitto
            return "max_topic_levels"
        if (
            len(self.subscriptions) >= limits.max_subscriptions
            or self.levels + weigh(topic_filter) > limits.max_subscriptions * USUAL_LEVELS
        ):
            return "max_subscriptions"
        return ""

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Note a Subscription, or the QoS that replaces its own."""
        if topic_filter not in self.subscriptions:
            self.levels += weigh(topic_filter)
        elif self._sending is not None:
            self._sending.discard(topic_filter)  # it begins anew after SUBACK
        self.subscriptions[topic_filter] = qos

    def restore(self, subscriptions: dict[str, int]) -> None:
        """Have these Subscriptions, Topic Filter → QoS, and no others."""
        self.subscriptions, self.levels = subscriptions, weigh_all(subscriptions)

    def unsubscribe(self, topic_filter: str) -> bool:
        """Forget a Subscription, and Retained Messages still to be sent for it; return if it was there."""
        if self.subscriptions.pop(topic_filter, None) is None:
            return False
        self.levels -= weigh(topic_filter)
        if self._sending is not None:
            self._sending.discard(topic_filter)
        return True

    def agree(self, terms: Terms) -> None:
        """Send as the client that has connected has asked for."""
        if self.subscription_identifiers is not None:
            terms = terms.identifying(self.subscription_identifiers)
        self.terms = terms
        if self.outgoing is not None:
            self.outgoing.wire = terms.wire
        if self.window is not None:
            self.window.outgoing.wire = terms.wire

    def identify(self, identifiers: Callable[[Publish], bytes]) -> None:
        """Send Subscription Identifiers from now on; ``identifiers`` returns those of a message."""
        self.subscription_identifiers = identifiers
        self.agree(self.terms)

    @property
    def queued(self) -> int:
        """How many messages wait; those in flight, and Retained Messages, are not counted."""
        if self.window is not None:
            return self.window.queue.messages
        return len(self._queue) if self._queue else 0

    @property
    def queued_bytes(self) -> int:
        """How many bytes of Topic Names and payloads wait."""
        return self._queued_bytes if self.window is None else self.window.queue.bytes

    @property
    def inflight(self) -> int:
        """How many messages were sent whose acknowledgement has not come."""
        if self.window is not None:
            return self.window.inflight
        return len(self.outgoing.inflight) if self.outgoing is not None else 0

    @property
    def memory(self) -> int:
        """How many bytes it takes, roughly and at most: a message for several Sessions counts for each."""
        size = _OWN + self.terms.size + _SUBSCRIPTION * len(self.subscriptions) + LEVEL * self.levels
        size += getsizeof(self.client_id) + getsizeof(self.owner)
        if self.will is not None:
            size += _ENTRY + getsizeof(self.will.topic) + len(self.will.payload)
            size += weigh_properties(self.will.properties) if self.will.properties is not None else 0
        if self._awaiting_pubrel:
            size += _IDENTIFIER * len(self._awaiting_pubrel)
        if self.outgoing is not None and self.outgoing.inflight:
            size += _ENTRY * len(self.outgoing.inflight) + self.outgoing.size
        if self._queue:
            size += _ENTRY * len(self._queue) + self._queued_bytes
        return size if self.window is None else size + self.window.memory

    def deliver(self, message: EncodedPublish, qos: int) -> int:
        """Send at QoS 1 or 2, now or as soon as the window and the connection have room.

        :return: ``TAKEN``; ``WAITING`` when it is the first to wait for a connected client; ``FULL`` when it
            has filled the queue; ``DROPPED`` when it, or an older one instead of it, was dropped. A durable
            Session only says whether it may be owed the message; see :meth:`Window.admit`.
        """
        connection, outgoing = self.connection, self.outgoing
        if message.size >= self.terms.near and not self.terms.fits(message):
            return TOO_LARGE
        if outgoing is None:
            if self.window is not None:
                return self.window.admit(message.size, self.slow is not None and self.slow.too_slow)
            outgoing = self.outgoing = Outgoing(self.terms.wire)
        if (
            connection is not None
            and not self._queue
            and len(outgoing.inflight) < self.terms.most_inflight  # [MQTT5-4.9.0-2]
            and not connection.congested
        ):
            outgoing.send(connection, message, qos)
            return TAKEN
        return self._enqueue(message, qos)

    def send_retained(self, granted: "list[tuple[str, int]]", make: Callable[[], RetainedSending]) -> None:
        """Send the Retained Messages of these Topic Filters, at the client's own pace."""
        if self._sending is None:
            self._sending = make()
        for topic_filter, qos in granted:
            self._sending.add(topic_filter, qos)
        self.pump()

    def _send(self, connection: NetworkConnection, message: EncodedPublish, qos: int) -> Answer:
        if self.window is not None:
            return self.window.replay(message, qos)
        if self.outgoing is None:
            self.outgoing = Outgoing(self.terms.wire)
        self.outgoing.send(connection, message, qos)
        return None

    def _enqueue(self, message: EncodedPublish, qos: int) -> int:
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        limits = self._limits
        size = self._queued_bytes + message.size
        if len(queue) < limits.max_queued_messages and size <= limits.max_queued_bytes:
            queue.append((message, qos))
            self._queued_bytes = size
            return TAKEN if len(queue) > 1 or self.connection is None else WAITING
        if self.connection is None:
            return self._make_room(queue, message, qos)
        if self.is_beyond(len(queue), size):
            return DROPPED
        queue.append((message, qos))
        self._queued_bytes = size
        return FULL

    def is_beyond(self, messages: int, size: int) -> bool:
        """Return whether a full queue takes no more, as nobody is held for it any more, or could be.

        :param messages: how many there are in the queue.
        :param size: bytes of their Topic Names and payloads, the new one included.
        """
        limits, slow = self._limits, self.slow
        if slow is not None and slow.too_slow:
            return True
        return limits.is_overfull(messages, size, limits.max_queued_bytes)

    def _make_room(self, queue: "deque[Entry]", message: EncodedPublish, qos: int) -> int:
        """Drop the newest or the oldest message of an absent client."""
        limits = self._limits
        if limits.queue_drop == "oldest" and message.size <= limits.max_queued_bytes and queue:
            queue.append((message, qos))
            self._queued_bytes += message.size
            before = len(queue)
            while len(queue) > limits.max_queued_messages or self._queued_bytes > limits.max_queued_bytes:
                self._queued_bytes -= queue.popleft()[0].size
            self.excess = before - len(queue) - 1
        return DROPPED

    def refused(self, packet_id: int) -> None:
        """Owe a message no more, to nobody, that the client refuses. [MQTT5-4.3.3-4] [MQTT5-4.8.2-6]"""
        if self.window is not None:
            self.window.refused(packet_id)
        elif self.outgoing is not None:
            self.outgoing.refused((packet_id,))
        self.pump()

    def take_excess(self) -> int:
        """Return, once, how many messages besides the first one had to go for the last that came."""
        queue = self if self.window is None else self.window.queue
        excess, queue.excess = queue.excess, 0
        return excess

    def pump(self) -> None:
        """Send messages that wait, while the window and the connection have room."""
        connection = self.connection
        queue = self._queue
        if self.window is not None:
            self.window.pump()
        elif self.outgoing is not None and self.outgoing.unsent and connection is not None:
            self.outgoing.go_on(connection, self.terms.most_inflight)
        while queue and connection is not None and self._has_room(connection):
            message, qos = queue.popleft()
            self._queued_bytes -= message.size
            if self.may_get(message):
                self._send(connection, message, qos)
        if self._sending is not None and connection is not None:
            self._sending.pump(connection, self._has_room, self._send, self._rested)
            if self._sending.is_over:
                self._sending = None
        if self.slow is not None:
            self._note_taken(self.slow, connection)

    def _note_taken(self, slow: Slow, connection: NetworkConnection | None) -> None:
        size = self.queued_bytes
        if connection is not None and connection.congested:
            size += connection.out_bytes
        if slow.taken(self.queued, size):
            self.slow = None

    def _rested(self) -> None:
        if self._sending is not None:
            self._sending.rest()
            self.pump()

    def may_get(self, message: EncodedPublish, sent: bool = False) -> bool:
        """Return whether the client may still get it: the rules may have changed while it waited.

        :param sent: it was, so it does not expire any more. [MQTT5-4.3.3-7]
        """
        if not sent and self.terms.wire.is_over(message.message):
            return False
        if not self.terms.fits(message):
            return False
        authority, client = self._authority, self.client
        if not authority.restricts or client is None:
            return True
        return authority.may_receive(client, message.topic)

    def _has_room(self, connection: NetworkConnection) -> bool:
        # Messages at QoS 1 and 2 wait for it, and nothing else. [MQTT5-3.3.4-10] [MQTT5-4.9.0-3]
        if self.window is not None:
            return self.window.is_open
        return self.inflight < self.terms.most_inflight and not connection.congested

    def puback(self, packet_ids: Sequence[int]) -> int:
        """Take note that the client owns these QoS 1 messages; see :meth:`Outgoing.puback`."""
        if self.outgoing is None:
            return self._answered(self.window.puback, packet_ids) if self.window else len(packet_ids)
        unknown = self.outgoing.puback(packet_ids)
        if self._queue or self._sending or self.outgoing.unsent:
            self.pump()
        return unknown

    def _answered(self, answer: Callable[[Sequence[int]], int], packet_ids: Sequence[int]) -> int:
        unknown, window = answer(packet_ids), self.window
        if self._sending or self.slow is not None:
            self.pump()
        elif window is not None:
            window.go_on()
        return unknown

    def pubrec(self, packet_id: int) -> bool:
        """Take note that the client owns a QoS 2 message; see :meth:`Outgoing.pubrec`."""
        if self.outgoing is not None:
            return self.outgoing.pubrec(packet_id)
        return self.window is not None and self.window.pubrec(packet_id)

    def pubcomp(self, packet_ids: Sequence[int]) -> int:
        """Take note that these Packet Identifiers are free again; see :meth:`Outgoing.pubcomp`."""
        if self.outgoing is None:
            return self._answered(self.window.pubcomp, packet_ids) if self.window else len(packet_ids)
        unknown = self.outgoing.pubcomp(packet_ids)
        if self._queue or self._sending or self.outgoing.unsent:
            self.pump()
        return unknown

    def leave_behind(self) -> list[Publish]:
        """Return what an ended Session owes that was not sent, or sent at QoS 1. [MQTT5-4.8.2-5]"""
        inflight = self.outgoing.inflight.values() if self.outgoing is not None else ()
        sent = [entry for entry in inflight if entry is not None and entry[1] == 1]
        return [message.message for message, _ in (*sent, *(self._queue or ()))]

    def resume(self) -> None:
        """Send everything in flight again, then messages that wait, after a reconnect. [MQTT-4.4.0-1]"""
        connection = self.connection
        assert connection is not None
        if self.window is not None:
            self.window.resume(connection, self.client)
        if self.outgoing is not None:
            if self.terms.largest < ANY_SIZE:
                self.dropped += self.outgoing.drop(self.terms.fits)
            self.outgoing.send_again(connection, self.terms.most_inflight)
        self.pump()

    def pause(self) -> None:
        """Note that the connection is gone."""
        self.connection = None
        self.dropped_before = self.dropped
        if self.window is not None:
            self.window.pause()
        if self.slow is not None:
            self.slow.release()
            self.slow = None
        self.will = None
