"""One agent as a client: its Session, what it has in flight, and how it behaves when it is cut off."""

import json
import random
import socket
import time
from collections import deque
from typing import Any, Final

from attrs import define, field, frozen

from tests.crash import wire
from tests.crash.ledger import BAD, GOOD, MIXED
from tests.crash.talker import Talker

#: Bytes that wait for the socket before no further message is made.
MOST_WAITING: Final = 32 * 1024
KEEP_ALIVE: Final = 5
FIRST_DELAY: Final = 0.02
LONGEST_DELAY: Final = 0.25


@frozen
class Profile:
    """How an agent behaves.

    :param qos: what its messages are sent with, one after the other.
    :param persistent: Clean Session 0; it sends again with DUP, under the same Packet Identifiers.
    :param timestamped: its messages carry a ``timestamp``.
    :param rate: messages per second.
    :param stay: messages after which it leaves and comes back; 0: it stays.
    :param manner: how it leaves: ``disconnect``, ``reset``, or ``abandon`` (the old connection stays open).
    :param bad_every: one of so many messages is none that can become rows; 0: all are valid.
    """

    name: str
    qos: tuple[int, ...]
    persistent: bool
    timestamped: bool
    window: int = 20
    rate: float = 50.0
    stay: int = 0
    manner: str = "disconnect"
    bad_every: int = 0

    def once(self, qos: int) -> bool:
        """Whether a message is promised to be stored exactly once (at QoS 0: at most once)."""
        return self.timestamped or qos == 0 or (qos == 2 and self.persistent)


@define(eq=False)
class Message:
    """One message that is not finished."""

    n: int
    qos: int
    kind: int
    payload: bytes
    released: bool = False


def payload_of(uuid: str, n: int, kind: int, timestamped: bool, rng: random.Random) -> bytes:
    """An ``agent/message``; of those that are not good, one of several sorts."""
    agent: dict[str, Any] = {"uuid": uuid, "username": "crash", "name": "crash", "hostname": "here", "pid": 1}
    mark = f"{uuid}:{n}"
    metrics: list[Any] = [{"type": "n", "value": mark}, {"type": "again", "value": mark}]
    if kind == MIXED:
        metrics[1] = {"type": "again", "value": {"mark": mark}}
    sort = rng.randrange(3) if kind == BAD else -1
    if sort == 0:
        agent["pid"] = "one"
    elif sort == 1:
        agent["hostname"] = "\0"
    message: dict[str, Any] = {"agent": agent, "metrics": metrics}
    if timestamped:
        message["timestamp"] = int(time.time() * 1000)
    data = json.dumps(message).encode()
    return data[:-1] if sort == 2 else data


@define(eq=False, kw_only=True)
class Agent(Talker):
    """A client with an agent of the same name; a Talker that is ``live`` or ``leaving`` in the end.

    :param uuid: of the agent, and its Client Identifier; the same through all connections.
    """

    uuid: str
    profile: Profile
    rng: random.Random
    #: Whether this connection has brought a valid message, so that it speaks for the agent.
    speaks: bool = False
    #: Whether it may have taken over a connection that spoke for the agent, and speaks by that alone.
    heir: bool = False
    unfinished: dict[int, Message] = field(factory=dict)
    _again: "deque[Message]" = field(factory=deque)
    _due: "deque[tuple[int, int]]" = field(factory=deque)
    _loose: list[int] = field(factory=list)
    _last_id: int = 0
    _allowance: float = 0.0
    _said: int = 0
    _next_dial: float = 0.0
    _delay: float = FIRST_DELAY
    _last_out: float = 0.0
    _abandoned: socket.socket | None = None

    # -- connection ------------------------------------------------------------------------------

    def tick(self, now: float, elapsed: float, sending: bool) -> None:
        """Do what is due: dial, send messages, ping, leave."""
        if self.state == "away":
            if now >= self._next_dial:
                self.dial(now)
        elif self.state == "live":
            self._allowance = min(self.profile.window, self._allowance + elapsed * self.profile.rate)
            while self._allowance >= 1 and self._has_room() and (self._again or sending):
                self._allowance -= 1
                self._publish_next(now)
            if sending and self._wants_to_leave():
                self._leave(now)
            elif now - self._last_out > KEEP_ALIVE / 2:
                self._send(wire.PINGREQ, now)

    def greeting(self) -> bytes:
        return wire.connect(self.uuid, not self.profile.persistent, KEEP_ALIVE)

    def lost(self, now: float) -> None:
        """The connection is gone, or was never made: come back after a while."""
        if self.state == "live":
            self.cut_off += 1
        self.heir = False
        if self.state != "leaving":
            for n in self._loose:
                self.ledger.freed(self.uuid, n)
        self._close()
        self._next_dial = now + self._delay * self.rng.uniform(0.5, 1)
        self._delay = min(LONGEST_DELAY, self._delay * 2)

    def _close(self) -> None:
        super().end()
        self.state, self.speaks, self._said = "away", False, 0
        self._loose.clear()
        self._due.clear()
        if not self.profile.persistent:
            # Its Session is gone; what was not acknowledged is sent again as new messages.
            kept = [message for message in self.unfinished.values() if not message.released]
            self._again.extendleft(reversed(kept))
            self.unfinished.clear()

    def _wants_to_leave(self) -> bool:
        stay, manner = self.profile.stay, self.profile.manner
        return 0 < stay <= self._said and (manner != "disconnect" or not (self.unfinished or self._again))

    def _leave(self, now: float) -> None:
        manner, sock = self.profile.manner, self.sock
        assert sock is not None
        if manner == "disconnect":
            self.state = "leaving"
            self._send(wire.DISCONNECT, now)
            return
        for n in self._loose:
            self.ledger.freed(self.uuid, n)
        if manner == "abandon":
            self._end_abandoned()
            self._abandoned, self.sock = sock, None
            self.heir = self.speaks or self.heir
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._close()
        self._next_dial = now if manner == "abandon" else now + self.rng.uniform(0, 0.5)

    def end(self) -> None:
        super().end()
        self._end_abandoned()

    def _end_abandoned(self) -> None:
        """Close the connection that was left open when this agent went."""
        if self._abandoned is not None:
            self._abandoned.close()
            self._abandoned = None

    def waiting(self) -> "list[Message]":
        """What was sent, or has to be sent again, and is not finished."""
        return [*self.unfinished.values(), *self._again]

    def idle(self) -> bool:
        """Connected, with nothing outstanding in either direction."""
        return self.state == "live" and not self.out and not self.waiting()

    # -- packets ---------------------------------------------------------------------------------

    def _send(self, data: bytes, now: float) -> None:
        self.out += data
        self._last_out = now

    def _has_room(self) -> bool:
        return len(self.unfinished) < self.profile.window and len(self.out) < MOST_WAITING

    def _publish_next(self, now: float) -> None:
        if self._again:
            self._publish(self._again.popleft(), now)
            return
        profile = self.profile
        bad = profile.bad_every and self.rng.randrange(profile.bad_every) == 0
        kind = self.rng.choice((MIXED, BAD)) if bad else GOOD
        qos = self.rng.choice(profile.qos)
        n = self.ledger.sending(self.uuid, profile.once(qos), kind, qos)
        payload = payload_of(self.uuid, n, kind, profile.timestamped, self.rng)
        self._publish(Message(n, qos, kind, payload), now)

    def _publish(self, message: Message, now: float) -> None:
        packet_id = self._free_id() if message.qos else 0
        if message.qos:
            self.unfinished[packet_id] = message
        else:
            self._loose.append(message.n)
        self._say(message, packet_id, now)

    def _say(self, message: Message, packet_id: int, now: float, dup: bool = False) -> None:
        if message.qos:
            self._due.append((wire.PUBACK if message.qos == 1 else wire.PUBREC, packet_id))
        self._said += 1
        self.speaks = self.speaks or message.kind != BAD
        self._send(wire.publish("agent/message", message.payload, message.qos, packet_id, dup), now)

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self.unfinished:
                return self._last_id

    def take(self, first: int, body: bytes, now: float) -> None:
        kind = first >> 4
        if kind == wire.CONNACK:
            self._welcome(body, now)
        elif kind in (wire.PUBACK, wire.PUBREC):
            self._owned(kind, wire.packet_id_of(body), now)
        elif kind == wire.PUBCOMP:
            self.unfinished.pop(wire.packet_id_of(body), None)
        elif kind != wire.PINGRESP:
            self.ledger.violation("unexpected packet", f"type {kind} for {self.uuid}")

    def _welcome(self, body: bytes, now: float) -> None:
        if body[1]:
            self.ledger.violation("connection refused", f"CONNACK {body[1]} for {self.uuid}")
            self.lost(now)
            return
        self.state, self._delay = "live", FIRST_DELAY
        for packet_id, message in self.unfinished.items():
            if message.released:
                self._send(wire.pubrel(packet_id), now)
            else:
                self._say(message, packet_id, now, dup=True)

    def _owned(self, kind: int, packet_id: int, now: float) -> None:
        """PUBACK or PUBREC: the promise."""
        if not self._due or self._due[0] != (kind, packet_id):
            expected = self._due[0] if self._due else None
            text = f"{self.uuid}: {kind, packet_id}, not {expected}"
            self.ledger.violation("acknowledged out of order", text)
        else:
            self._due.popleft()
        message = self.unfinished.get(packet_id)
        if message is None:
            return
        self.ledger.acknowledged(self.uuid, message.n)
        if kind == wire.PUBACK:
            del self.unfinished[packet_id]
        else:
            message.released = True
            self._send(wire.pubrel(packet_id), now)
