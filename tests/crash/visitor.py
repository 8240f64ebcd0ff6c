"""A client that leaves in one of several manners, is cut off, and comes back with the Session that it had."""

import random
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import define

from tests.crash import wire
from tests.crash.talker import Talker

#: Seconds; a ping is sent after half of them without a packet.
KEEP_ALIVE: Final = 5
FIRST_DELAY: Final = 0.02
LONGEST_DELAY: Final = 0.25
#: Seconds after the end of a connection until a visitor who has left is back, at most.
LONGEST_VISIT_ELSEWHERE: Final = 0.5

#: How visitors leave: with DISCONNECT; with a reset; or the old connection stays open, to be taken over.
DISCONNECT, RESET, ABANDON = "disconnect", "reset", "abandon"

#: Where a visitor connects to now; ``None``: nowhere yet.
Choice: TypeAlias = "Callable[[Visitor], tuple[str, int] | None]"


@define(eq=False, kw_only=True)
class Visitor(Talker):
    """A Talker that is ``live`` or ``leaving`` in the end.

    :param name: its Client Identifier, the same through all connections.
    :param persistent: it connects with Clean Session 0.
    :param lasting: its Session has to be there again at each connection but the first.
    :param choose: where it connects to each time; by default always to the same ``address``.
    :param patience: seconds without any answer after which it gives a connection up.
    :ivar accepted: how many of its connections were.
    """

    name: str
    persistent: bool
    lasting: bool
    rng: random.Random
    choose: Choice = lambda visitor: visitor.address
    patience: float = float("inf")
    accepted: int = 0
    _known: bool = False
    #: Since when it has waited for anything to come.
    _waiting: float = float("inf")
    _next_dial: float = 0.0
    _delay: float = FIRST_DELAY
    _last_out: float = 0.0
    _abandoned: socket.socket | None = None

    # -- what each sort of visitor does its own way ----------------------------------------------

    def act(self, now: float, elapsed: float, sending: bool) -> None:
        """Do what is due on a connection."""
        raise NotImplementedError

    def welcomed(self, now: float) -> None:
        """The connection is accepted."""
        raise NotImplementedError

    def packet(self, kind: int, first: int, body: bytes, now: float) -> None:
        """One packet came, neither CONNACK nor PINGRESP."""
        raise NotImplementedError

    def forgotten(self) -> None:
        """The broker has no Session of a client that had one."""

    def left(self, orderly: bool) -> None:
        """A connection has ended, ``orderly``: after DISCONNECT."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Connected, with nothing outstanding in either direction."""
        raise NotImplementedError

    def wants_to_come(self, now: float, sending: bool) -> bool:
        return now >= self._next_dial

    # -- connections -----------------------------------------------------------------------------

    def tick(self, now: float, elapsed: float, sending: bool) -> None:
        if self.state == "away":
            if self.wants_to_come(now, sending) and (address := self.choose(self)) is not None:
                self.address, self._waiting = address, now
                self.dial(now)
        elif now - self._waiting > self.patience:
            self.give_up(now)
        elif self.state == "live":
            self.act(now, elapsed, sending)
            if self.state == "live" and now - self._last_out > KEEP_ALIVE / 2:
                self.send(wire.PINGREQ, now)
                self._waiting = min(self._waiting, now)

    def send(self, data: bytes, now: float) -> None:
        self.out += data
        self._last_out = now

    def lost(self, now: float) -> None:
        """The connection is gone, or was never made: come back after a while."""
        if self.state == "live":
            self.cut_off += 1
        self._close(orderly=self.state == "leaving")
        self._next_dial = now + self._delay * self.rng.uniform(0.5, 1)
        self._delay = min(LONGEST_DELAY, self._delay * 2)

    def give_up(self, now: float) -> None:
        """Nobody answers: try it again."""
        self._close(orderly=self.state == "leaving")
        self._next_dial = now + self._delay * self.rng.uniform(0.5, 1)

    def _close(self, orderly: bool) -> None:
        super().end()
        connected = self.state in ("live", "leaving")
        self.state = "away"
        if connected:
            self.left(orderly)

    def leave(self, now: float, manner: str) -> None:
        """Leave in this manner, to come back soon."""
        sock = self.sock
        assert sock is not None
        if manner == DISCONNECT:
            self.state, self._waiting = "leaving", now
            self.send(wire.DISCONNECT, now)
            return
        if manner == ABANDON:
            self._end_abandoned()
            self._abandoned, self.sock = sock, None
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._close(orderly=False)
        self._next_dial = now if manner == ABANDON else now + self.rng.uniform(0, LONGEST_VISIT_ELSEWHERE)

    def end(self) -> None:
        super().end()
        self._end_abandoned()

    def _end_abandoned(self) -> None:
        """Close the connection that was left open when this visitor went."""
        if self._abandoned is not None:
            self._abandoned.close()
            self._abandoned = None

    # -- packets ---------------------------------------------------------------------------------

    def take(self, first: int, body: bytes, now: float) -> None:
        kind, self._waiting = first >> 4, float("inf")
        if kind == wire.CONNACK:
            self._answered(body[0] & 1, body[1], now)
        elif kind != wire.PINGRESP:
            self.packet(kind, first, body, now)

    def unexpected(self, kind: int) -> None:
        self.ledger.violation("unexpected packet", f"type {kind} for {self.name}")

    def _answered(self, present: int, code: int, now: float) -> None:
        if code == wire.SERVER_UNAVAILABLE and self.persistent:
            self.ledger.unavailable += 1
            self.lost(now)
            return
        if code:
            self.ledger.violation("connection refused", f"CONNACK {code} for {self.name}")
            self.lost(now)
            return
        if self.lasting and self._known and not present:
            self.ledger.violation("Session lost", self.name)
            self.forgotten()
        self.state, self._delay, self._known = "live", FIRST_DELAY, True
        self.accepted += 1
        self.welcomed(now)
