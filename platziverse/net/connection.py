"""Connection: holding, closing and the deadlines of one Network Connection, whatever it carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IDelayedCall

from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.net.deadlines import LINGER, TICK
from platziverse.net.flow import CLOSED, LOGIN, RATE
from platziverse.net.outbox import Outbox

if TYPE_CHECKING:
    from platziverse.net.factory import MQTTFactory


class Connection(Outbox):
    """The part of a client's connection that packets have no say in."""

    # On the class, as few clients need them: an object of more than 30 attributes has a dict of 1.5 KiB.
    paid = (0.0, 0.0)
    _pacing: IDelayedCall | None = None

    def __init__(self, factory: MQTTFactory) -> None:
        super().__init__(factory.flushes, factory.limits, factory.traffic)
        self._owner = factory
        self._session: Session | None = None
        self._holds = 0
        self._keep_alive = 0.0
        self._last_read = 0.0
        self._partial_since = 0.0
        self._congested_since = 0.0
        self.address = ""
        #: What :class:`Deadlines`, :class:`FlowControl` and :class:`Rates` note about this connection.
        self.bucket = -1
        self.unfinished = 0
        self.credit_packets, self.credit_bytes = factory.rates.packets, factory.rates.bytes

    def _take_packets(self) -> None:
        raise NotImplementedError

    def _complain(self, cause: str, reason: str) -> None:
        raise NotImplementedError

    def _set_keep_alive(self, seconds: int) -> None:
        """Begin to expect a packet within one and a half times this time. [MQTT-3.1.2-24]"""
        self._keep_alive = seconds * 1.5 + TICK if seconds else 0.0  # ``_last_read`` is exact to a tick
        self._last_read = self._owner.deadlines.now
        self._schedule(self._last_read)

    def _note_partial(self, pending: int, progress: bool) -> None:
        if not pending:
            self._partial_since = 0.0
        elif progress or not self._partial_since:
            self._partial_since = self._owner.deadlines.now

    def hold_reading(self, why: int) -> None:
        """Read no more for this reason; the client's silence is no longer its own."""
        if not self._holds and not self.closed:
            cast(Any, self.transport).pauseProducing()
        self._holds |= why

    def resume_reading(self, why: int) -> None:
        """This reason has gone; go on if it was the last."""
        if not self._holds & why:
            return
        self._holds &= ~why
        if self._holds or self.closed:
            return
        self._last_read = self._owner.deadlines.now
        self._take_packets()
        if not self._holds and not self.closed:
            cast(Any, self.transport).resumeProducing()

    def _pace(self) -> None:
        """The credit is used up: hold reading if the client has sent more than it may."""
        owner = self._owner
        excess = owner.rates.excess(self, owner.deadlines.now)
        if excess > 0 and not self._holds & (RATE | CLOSED):
            owner.traffic.rate_holds += 1
            self.hold_reading(RATE)
            self._pacing = owner.clock.callLater(excess, self.resume_reading, RATE)

    def close(self, reason: Reason, text: str) -> None:
        """Write what is queued, if the client takes it, and close. Safe to call again."""
        if self.closed:
            return
        transport: Any = self.transport
        self.flush()
        self.closed = True
        self._holds |= CLOSED
        transport.unregisterProducer()
        if self.congested:
            transport.abortConnection()
            return
        self.congested = True  # nothing leaves any more: what still comes waits in the Session, or is dropped
        self._owner.deadlines.add(self, self._owner.deadlines.now + LINGER)
        transport.loseConnection()

    def soon(self, function: Callable[[], None]) -> None:
        """In the next turn of the reactor."""
        self._owner.clock.callLater(0, function)

    def drained(self) -> None:
        """The transport takes more: send what waits in the Session."""
        if self._session is not None and self._session.connection is self:
            self._session.pump()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        super().pauseProducing()
        self._congested_since = self._owner.deadlines.now

    def deadline_reached(self, now: float) -> None:
        """A deadline may have passed, or have moved on since it was set."""
        if self.closed:
            cast(Any, self.transport).abortConnection()
        elif (missed := self._missed(now)) is not None:
            self._complain(missed, missed)
            self._traffic.protocol_error(missed)
            self.close(Reason.KEEP_ALIVE if missed == "Keep Alive" else Reason.TOO_SLOW, missed)
        else:
            self._schedule(now)

    def _missed(self, now: float) -> str | None:
        limits = self._limits
        if self._session is None:
            return "no login in time" if self._holds & LOGIN else "no CONNECT in time"  # section 3.1.4
        if self.congested and now - self._congested_since >= limits.write_deadline:
            return "it does not read"
        if self._holds:  # we hold reading: the silence is ours
            return None
        if self._partial_since and now - self._partial_since >= limits.packet_deadline:
            return "an incomplete packet"
        if self._keep_alive and now - self._last_read >= self._keep_alive:
            return "Keep Alive"
        return None

    def _schedule(self, now: float) -> None:
        """Look again when the first deadline may be due, or before a new one could be missed."""
        limits = self._limits
        at = now + min(limits.packet_deadline, limits.write_deadline)
        if self._holds:
            at = min(at, now + max(self._keep_alive, 1.0))
        elif self._keep_alive:
            at = min(at, self._last_read + self._keep_alive)
        if self._partial_since and not self._holds:
            at = min(at, self._partial_since + limits.packet_deadline)
        if self.congested:
            at = min(at, self._congested_since + limits.write_deadline)
        self._owner.deadlines.add(self, at)
