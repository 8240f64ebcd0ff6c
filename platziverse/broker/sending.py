"""RetainedSending: the Retained Messages that one Session is still to get, looked up when they are sent."""

from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

from platziverse.broker.interfaces import DROPPED, Answer, NetworkConnection
from platziverse.broker.traffic import Traffic
from platziverse.broker.turn import Turn
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.packets import Publish

#: Whether the Session may get the Retained Message of this Topic Name now.
MayGet: TypeAlias = Callable[[str], bool]
#: The bytes of a message at QoS 0.
Write: TypeAlias = Callable[[EncodedPublish], bytes]
#: A message as the Subscription with this Topic Filter brings it.
Bring: TypeAlias = Callable[[Publish, str], Publish]
#: Sends a message at its QoS.
Send: TypeAlias = Callable[[NetworkConnection, EncodedPublish, int], Answer]


class RetainedLookup(Protocol):
    """A RetainedLookup is the part of ``RetainedStore`` that is needed here."""

    def get(self, topic: str) -> Publish | None: ...

    def match(self, topic_filter: str) -> list[Publish]: ...


#: Messages sent in one turn of the reactor, and how many of them looking up a filter counts as.
STEPS: Final = 200
LOOKUP_STEPS: Final = 50


class RetainedSending:
    """A RetainedSending looks up the Retained Messages of new Subscriptions while the client takes them.

    It remembers Topic Filters, each of them once, and the Topic Names that match the one under way, but no
    messages. So neither many Subscriptions nor a client that does not read make it large; and a message is
    never older than what the client has got meanwhile.

    :param sent: called with the Topic Filters whose messages were all sent, and need no more to be done to
        survive the end of the process.
    :param may_get: whether the Session may get the message of a Topic Name now.
    :param fits: whether a packet is as small as the client takes them.
    :param write: writes a message at QoS 0 as the client's version has it.
    :param bring: makes of a Retained Message that of one Subscription.
    :param turn: shared by all clients that have subscribed.
    """

    __slots__ = (
        "_bring",
        "_filter",
        "_filters",
        "_fits",
        "_may_get",
        "_names",
        "_owed",
        "_qos",
        "_resting",
        "_retained",
        "_sent",
        "_steps",
        "_traffic",
        "_turn",
        "_unsettled",
        "_write",
    )

    def __init__(
        self,
        retained: RetainedLookup,
        traffic: Traffic,
        turn: Turn,
        sent: Callable[[Iterable[str]], None],
        may_get: MayGet,
        fits: Callable[[EncodedPublish], bool],
        write: Write,
        bring: Bring,
    ) -> None:
        self._fits, self._write, self._bring = fits, write, bring
        self._retained, self._sent = retained, sent
        self._turn = turn
        self._traffic = traffic
        self._may_get = may_get
        self._filters: dict[str, int] = {}
        self._filter = ""
        self._names: list[str] = []
        self._qos = 0
        self._steps = STEPS
        self._resting = False
        # Filters to be told of, and messages that are neither committed nor acknowledged.
        self._owed: dict[str, None] = {}
        self._unsettled = 0

    @property
    def is_over(self) -> bool:
        """Return whether nothing more is to be done, now or later."""
        return not (self or self._owed or self._resting)

    def __bool__(self) -> bool:
        return bool(self._names or self._filters)

    def add(self, topic_filter: str, qos: int) -> None:
        """Begin anew to send what matches this filter, at most at this QoS."""
        self.discard(topic_filter)
        self._filters[topic_filter] = qos
        self._owed[topic_filter] = None

    def discard(self, topic_filter: str) -> None:
        """Send no more of what matches this filter."""
        self._filters.pop(topic_filter, None)
        self._owed.pop(topic_filter, None)
        if topic_filter == self._filter:
            self._names = []

    def rest(self) -> None:
        """Note that the others have had their turn, so that more may be sent in this one."""
        self._steps, self._resting = STEPS, False

    def pump(
        self,
        connection: NetworkConnection,
        has_room: Callable[[NetworkConnection], bool],
        send: Send,
        rested: Callable[[], None],
    ) -> None:
        """Send while there is room, but no more messages than fit into one turn of the reactor.

        :param has_room: returns whether a message of QoS 1 or 2 may be sent now.
        :param send: takes messages of QoS 1 and 2; returns when the store need not know of one any more.
        :param rested: called in the next turn.
        """
        while self._steps > 0 and self and has_room(connection):
            if self._turn.is_over:
                self._steps = 0
                break
            message = self._next()
            self._steps -= 1 if message is not None else LOOKUP_STEPS
            if message is not None:
                self._send(message, connection, send)
        self._tell()
        if self._steps < STEPS and not self._resting:
            self._resting = True
            connection.soon(rested)

    def _tell(self) -> None:
        if self._owed and not self._unsettled and not self:
            owed, self._owed = self._owed, {}
            self._sent(owed)

    def _settled(self, _: object) -> None:
        self._unsettled -= 1
        self._tell()

    def _next(self) -> Publish | None:
        """Return the next message, or ``None``: a filter was looked up instead, or the message is gone."""
        if self._names:
            message = self._retained.get(self._names.pop())
            return message if message is not None and self._may_get(message.topic) else None
        self._filter = next(iter(self._filters))
        self._qos = self._filters.pop(self._filter)
        self._names = [message.topic for message in self._retained.match(self._filter)]
        return None

    def _send(
        self,
        message: Publish,
        connection: NetworkConnection,
        send: Send,
    ) -> None:
        qos = min(self._qos, message.qos)
        encoded = EncodedPublish(self._bring(message, self._filter), retain=True)  # [MQTT-3.3.1-8]
        if not self._fits(encoded):
            self._traffic.publish_too_large += 1
            return
        if qos:
            if (answer := send(connection, encoded, qos)) is not None:
                self._unsettled += 1
                answer.addBoth(self._settled)
        elif connection.offer(self._write(encoded)) == DROPPED:
            self._traffic.publish_dropped += 1
            return
        self._traffic.publish_sent[qos] += 1
        self._traffic.publish_bytes_sent[qos] += len(message.payload)
