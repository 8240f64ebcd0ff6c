"""A client that publishes: what it has in flight, and how it behaves when it is cut off."""

from collections import deque
from typing import Final, Protocol

from attrs import define, field, frozen

from tests.crash import wire
from tests.crash.visitor import ABANDON, DISCONNECT, KEEP_ALIVE, Visitor

#: Bytes that wait for the socket before no further message is made.
MOST_WAITING: Final = 32 * 1024


@frozen
class Profile:
    """How a publisher behaves.

    :param qos: what its messages are sent with, one after the other.
    :param persistent: Clean Session 0; it sends again with DUP, under the same Packet Identifiers.
    :param timestamped: an agent's messages carry a ``timestamp``.
    :param rate: messages per second.
    :param stay: messages after which it leaves and comes back; 0: it stays.
    :param manner: how it leaves: ``disconnect``, ``reset``, or ``abandon`` (the old connection stays open).
    :param bad_every: one of so many messages is none that can become rows; 0: all are valid.
    :param retain_every: one of so many messages is retained; 0: none is.
    """

    name: str
    qos: tuple[int, ...]
    persistent: bool
    timestamped: bool = False
    window: int = 20
    rate: float = 50.0
    stay: int = 0
    manner: str = DISCONNECT
    bad_every: int = 0
    retain_every: int = 0


@define(eq=False)
class Message:
    """One message that is not finished; ``valid``: it proves that its agent is there."""

    n: int
    qos: int
    topic: str
    payload: bytes
    retain: bool = False
    valid: bool = True
    released: bool = False


class Work(Protocol):
    """What a publisher has to say, and who is told what becomes of it.

    :ivar via: the port of the daemon that it is connected to.
    """

    name: str
    via: int

    def next(self) -> Message:
        """A new message, which is about to be sent."""

    def said(self, message: Message) -> None:
        """It was sent, or sent again."""

    def acknowledged(self, message: Message) -> None:
        """PUBACK or PUBREC came."""

    def freed(self, message: Message) -> None:
        """A message of QoS 0 whose fate nobody can know."""

    def will(self) -> "tuple[str, bytes] | None":
        """Topic and payload of the Will of the connection that begins."""

    def left(self, orderly: bool) -> None:
        """An accepted connection has ended."""

    def is_settled(self, n: int) -> bool:
        """Whether a message is acknowledged, or nobody can wait for that any more."""


@define(eq=False, kw_only=True)
class Publisher(Visitor):
    """An agent, or anybody else who publishes.

    :param work: what it publishes.
    """

    profile: Profile
    work: Work
    #: Whether this connection has brought a valid message, so that it speaks for the agent.
    speaks: bool = False
    #: Whether it may have taken over a connection that spoke for the agent, and speaks by that alone.
    heir: bool = False
    unfinished: dict[int, Message] = field(factory=dict)
    _again: "deque[Message]" = field(factory=deque)
    _due: "deque[tuple[int, int]]" = field(factory=deque)
    _loose: list[Message] = field(factory=list)
    _last_id: int = 0
    _allowance: float = 0.0
    _said: int = 0

    # -- connections -----------------------------------------------------------------------------

    def greeting(self) -> bytes:
        self.work.via = self.address[1]
        return wire.connect(self.name, not self.persistent, KEEP_ALIVE, self.work.will())

    def act(self, now: float, elapsed: float, sending: bool) -> None:
        """Send messages, or leave."""
        self._allowance = min(self.profile.window, self._allowance + elapsed * self.profile.rate)
        while self._allowance >= 1 and self._has_room() and (self._again or sending):
            self._allowance -= 1
            self._publish_next(now)
        if sending and self._wants_to_leave():
            if self.profile.manner == ABANDON:
                self.heir = self.speaks or self.heir
            self.leave(now, self.profile.manner)

    def _wants_to_leave(self) -> bool:
        stay, manner = self.profile.stay, self.profile.manner
        return 0 < stay <= self._said and (manner != DISCONNECT or not (self.unfinished or self._again))

    def lost(self, now: float) -> None:
        self.heir = False
        super().lost(now)

    def give_up(self, now: float) -> None:
        self.heir = self.speaks or self.heir
        super().give_up(now)

    def left(self, orderly: bool) -> None:
        if not orderly:
            for message in self._loose:
                self.work.freed(message)
        self.work.left(orderly)
        self.speaks, self._said = False, 0
        self._loose.clear()
        self._due.clear()
        if not self.persistent:
            # Its Session is gone; what was not acknowledged is sent again as new messages.
            kept = [message for message in self.unfinished.values() if not message.released]
            self._again.extendleft(reversed(kept))
            self.unfinished.clear()

    def waiting(self) -> "list[Message]":
        """What was sent, or has to be sent again, and is not finished."""
        return [*self.unfinished.values(), *self._again]

    def idle(self) -> bool:
        return self.state == "live" and not self.out and not self.waiting()

    # -- packets ---------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return len(self.unfinished) < self.profile.window and len(self.out) < MOST_WAITING

    def _publish_next(self, now: float) -> None:
        message = self._again.popleft() if self._again else self.work.next()
        packet_id = self._free_id() if message.qos else 0
        if message.qos:
            self.unfinished[packet_id] = message
        else:
            self._loose.append(message)
        self._say(message, packet_id, now)

    def _say(self, message: Message, packet_id: int, now: float, dup: bool = False) -> None:
        if message.qos:
            self._due.append((wire.PUBACK if message.qos == 1 else wire.PUBREC, packet_id))
        self._said += 1
        self.speaks = self.speaks or message.valid
        self.work.said(message)
        topic, payload = message.topic, message.payload
        self.send(wire.publish(topic, payload, message.qos, packet_id, dup, message.retain), now)

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self.unfinished:
                return self._last_id

    def welcomed(self, now: float) -> None:
        """Send again what is not finished, in the order in which it was sent. [MQTT-4.4.0-1]"""
        for packet_id, message in self.unfinished.items():
            if message.released:
                self.send(wire.pubrel(packet_id), now)
            else:
                self._say(message, packet_id, now, dup=True)

    def packet(self, kind: int, first: int, body: bytes, now: float) -> None:
        if kind in (wire.PUBACK, wire.PUBREC):
            self._owned(kind, wire.packet_id_of(body), now)
        elif kind == wire.PUBCOMP:
            self.unfinished.pop(wire.packet_id_of(body), None)
        else:
            self.unexpected(kind)

    def _owned(self, kind: int, packet_id: int, now: float) -> None:
        """PUBACK or PUBREC: the promise."""
        if not self._due or self._due[0] != (kind, packet_id):
            expected = self._due[0] if self._due else None
            text = f"{self.name}: {kind, packet_id}, not {expected}"
            self.ledger.violation("acknowledged out of order", text)
        else:
            self._due.popleft()
        message = self.unfinished.get(packet_id)
        if message is None:
            return
        self.work.acknowledged(message)
        if kind == wire.PUBACK:
            del self.unfinished[packet_id]
        else:
            message.released = True
            self.send(wire.pubrel(packet_id), now)
