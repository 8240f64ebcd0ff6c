"""A client that subscribes, mostly with a durable Session: what it holds, and how it acknowledges."""

from collections import deque
from typing import Final

from attrs import define, field, frozen

from tests.crash import wire
from tests.crash.deliveries import Deliveries, Subscription
from tests.crash.visitor import DISCONNECT, KEEP_ALIVE, Visitor

#: Seconds from one change of Subscriptions to the next, at least and at most.
CHANGES: Final = (0.1, 1.0)


@frozen
class Habit:
    """How a receiver behaves.

    :param filters: what it subscribes to, each with its QoS.
    :param stay: seconds after which it leaves; 0: it stays.
    :param away: seconds that it is away then, at least and at most.
    :param manner: how it leaves, as in a :class:`~tests.crash.publisher.Profile`.
    :param slow: seconds after which it acknowledges, at most.
    :param changing: a Topic Filter that it subscribes to at QoS 1 and gives up, again and again.
    :param hermit: it stays away even while everybody else is quiet, but for the end.
    :param clean: Clean Session 1.
    """

    name: str
    filters: tuple[tuple[str, int], ...]
    stay: float = 0.0
    away: tuple[float, float] = (0.0, 0.5)
    manner: str = DISCONNECT
    slow: float = 0.0
    changing: str = ""
    hermit: bool = False
    clean: bool = False


@define(eq=False, kw_only=True)
class Receiver(Visitor):
    """With Clean Session 0 its state outlives its connections, as on a disk of its own.

    :ivar wanted: it comes back whatever its habits are.
    """

    habit: Habit
    deliveries: Deliveries
    wanted: bool = False
    #: QoS 2: Packet Identifier → the message that it owns and whose PUBREL has not come.
    _owned: dict[int, tuple[str, bytes]] = field(factory=dict)
    #: QoS 1: Packet Identifier → the message that it has not acknowledged on this connection.
    _held: dict[int, tuple[str, bytes]] = field(factory=dict)
    #: When it sends which acknowledgements: in the order of the packets that asked for them.
    _answers: "deque[tuple[float, int, int]]" = field(factory=deque)
    _asked: list[Subscription] = field(factory=list)
    #: The broker has its Subscriptions.
    _subscribed: bool = False
    _changing: Subscription | None = None
    _asking: int = 0
    _change_at: float = 0.0
    _last_id: int = 0
    _leave_at: float = 0.0
    _away_until: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.deliveries.arrived(self.name, durable=self.persistent)

    @property
    def ready(self) -> bool:
        """Whether everything that it always subscribes to is confirmed."""
        return self._subscribed

    # -- connections -----------------------------------------------------------------------------

    def wants_to_come(self, now: float, sending: bool) -> bool:
        if now < self._next_dial:
            return False
        wanted = self.wanted or (not sending and not self.habit.hermit)
        return wanted or now >= self._away_until

    def greeting(self) -> bytes:
        return wire.connect(self.name, clean=not self.persistent, keep_alive=KEEP_ALIVE)

    def welcomed(self, now: float) -> None:
        if self.habit.stay:
            self._leave_at = now + self.habit.stay * self.rng.uniform(0.5, 1.5)
        if not self._asked:
            self._asked = [self.deliveries.subscribing(self.name, *one) for one in self.habit.filters]
        if not self._subscribed:
            self._last_id += 1
            self.send(wire.subscribe_all(self.habit.filters, self._last_id), now)
            self._asking = self._last_id

    def act(self, now: float, elapsed: float, sending: bool) -> None:
        """Acknowledge, change Subscriptions, or leave."""
        while self._answers and (self._answers[0][0] <= now or not sending):
            _, kind, packet_id = self._answers.popleft()
            self._answer(kind, packet_id, now)
        if not sending or not self._subscribed:
            return
        if self.habit.stay and now >= self._leave_at:
            self.leave(now, self.habit.manner)
            self._away_until = now + self.rng.uniform(*self.habit.away)
        elif self.habit.changing and not self._asking and now >= self._change_at:
            self._change(now)

    def forgotten(self) -> None:
        self._owned.clear()
        self._changing, self._subscribed = None, False

    def left(self, orderly: bool) -> None:
        self._answers.clear()
        self._held.clear()
        self._asking = 0
        if not self.persistent:
            self._asked = []
            self.deliveries.ended(self.name)
            self.forgotten()

    def idle(self) -> bool:
        return self.state == "live" and not (self.out or self._answers or self._owned or self._asking)

    # -- Subscriptions ---------------------------------------------------------------------------

    def _change(self, now: float) -> None:
        """Subscribe, or give it up; again if nobody has answered on the last connection."""
        self._last_id = self._last_id % 65_535 + 1
        self._asking, topic_filter = self._last_id, self.habit.changing
        self._change_at = now + self.rng.uniform(*CHANGES)
        if self._changing is None:
            self._changing = self.deliveries.subscribing(self.name, topic_filter, 1)
        if self._changing.confirmed:
            self.deliveries.unsubscribing(self._changing)
            self.send(wire.unsubscribe(topic_filter, self._asking), now)
        else:
            self.send(wire.subscribe(topic_filter, 1, self._asking), now)

    def _confirmed(self, body: bytes) -> None:
        if 0x80 in body[2:]:
            self.ledger.violation("Subscription refused", self.name)
        for subscription in self._asked if self._changing is None else [self._changing]:
            self.deliveries.subscribed(subscription)
        self._subscribed, self._asking = True, 0

    def _given_up(self) -> None:
        if self._changing is not None:
            self.deliveries.unsubscribed(self._changing)
        self._changing, self._asking = None, 0

    # -- packets ---------------------------------------------------------------------------------

    def packet(self, kind: int, first: int, body: bytes, now: float) -> None:
        if kind == wire.PUBLISH:
            self._take(wire.received(first, body), now)
        elif kind == wire.PUBREL:
            packet_id = wire.packet_id_of(body)
            self._owned.pop(packet_id, None)
            self._promise(wire.PUBCOMP, packet_id, now)
        elif kind == wire.SUBACK and wire.packet_id_of(body) == self._asking:
            self._confirmed(body)
        elif kind == wire.UNSUBACK and wire.packet_id_of(body) == self._asking:
            self._given_up()
        else:
            self.unexpected(kind)

    def _take(self, message: wire.Received, now: float) -> None:
        """A PUBLISH came: a new message, or at QoS 2 perhaps one that it owns. [MQTT-4.3.3-2]"""
        packet_id, same = message.packet_id, (message.topic, message.payload)
        before = self._owned.get(packet_id) or self._held.get(packet_id)
        if before not in (None, same):
            text = f"{packet_id} for {message}, which is {before} to {self.name}"
            self.ledger.violation("Packet Identifier in use", text)
        if before == same and not message.dup:
            self.ledger.violation("sent again without DUP", f"{message} to {self.name}")
        if message.qos < 2 or packet_id not in self._owned:
            self.deliveries.received(self.name, message)
        if message.qos == 2:
            self._owned[packet_id] = same
            self._promise(wire.PUBREC, packet_id, now)
        elif message.qos == 1:
            self._held[packet_id] = same
            self._promise(wire.PUBACK, packet_id, now)

    def _promise(self, kind: int, packet_id: int, now: float) -> None:
        """Answer now, or when the habit says so."""
        if not self.habit.slow:
            self._answer(kind, packet_id, now)
            return
        self._answers.append((now + self.rng.uniform(0, self.habit.slow), kind, packet_id))

    def _answer(self, kind: int, packet_id: int, now: float) -> None:
        if kind == wire.PUBACK:
            self._held.pop(packet_id, None)
        self.send(wire.acknowledgement(kind, packet_id), now)
