"""Reading: how one client is read from: what holds it, how fast it may send, how long it may be silent."""

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from platziverse.net.deadlines import TICK
from platziverse.net.flow import CLOSED, RATE
from platziverse.net.shared import Shared


class Source(Protocol):
    """A Source is the connection whose bytes are read."""

    transport: Any
    address: str

    @property
    def client_id(self) -> str:
        """The Client Identifier, as far as it is known; for logs."""

    def take_packets(self) -> None:
        """Handle the packets that came before reading was held."""


class Reading:
    """A Reading is the receiving half of a connection: ``Source`` of FlowControl and ``Sender`` of Rates."""

    __slots__ = (
        "_keep_alive",
        "_pacing",
        "_shared",
        "_source",
        "bytes",
        "holds",
        "last_read",
        "packets",
        "paid",
        "partial_since",
        "unfinished",
        "waiting",
    )

    def __init__(self, shared: Shared, source: Source) -> None:
        self._shared = shared
        # Until the connection has ended: a connection that nothing refers to is freed at once.
        self._source: Source | None = source
        #: Why nothing is read: bits of :mod:`platziverse.net.flow`.
        self.holds = 0
        self.unfinished = self.waiting = 0
        # Counted up from 0, not down from what is allowed: small numbers take no memory of their own.
        self.packets = self.bytes = 0
        self.paid = (0.0, 0.0)
        self.last_read = 0.0
        self.partial_since = 0.0
        self._keep_alive = 0
        self._pacing: IDelayedCall | None = None

    # -- holding ---------------------------------------------------------------------------------

    def hold_reading(self, why: int) -> None:
        """Read nothing more for this reason; from now on the client is not to blame for its silence.

        :param why: a bit of :mod:`platziverse.net.flow`.
        """
        if not self.holds and self._source is not None:
            self._source.transport.pauseProducing()
        self.holds |= why

    def resume_reading(self, why: int) -> None:
        """Go on reading, if this reason was the last."""
        source = self._source
        if not self.holds & why or source is None:
            return
        self.holds &= ~why
        if self.holds:
            return
        self.last_read = self._shared.deadlines.now
        source.take_packets()
        if not self.holds:
            source.transport.resumeProducing()

    def pace(self) -> None:
        """Count what the client has sent, and hold reading if that is more than it may send."""
        shared = self._shared
        excess = shared.rates.excess(self, shared.deadlines.now)
        if excess > 0 and not self.holds & (RATE | CLOSED):
            shared.traffic.rate_holds += 1
            self._say_held()
            self.hold_reading(RATE)
            self._pacing = shared.clock.callLater(excess, self.resume_reading, RATE)

    def _say_held(self) -> None:
        if (source := self._source) is not None:
            self._shared.complaints.warn(
                "faster than it may send",
                "Reading {address} {client_id!r} later: it sends more than max_message_rate or max_byte_rate",
                address=source.address,
                client_id=source.client_id,
            )

    def end(self) -> None:
        """Read nothing more, ever."""
        self.holds |= CLOSED
        self._source = None
        if self.waiting:
            self._shared.partials.note(self, 0)
        pacing, self._pacing = self._pacing, None
        if pacing is not None and pacing.active():
            pacing.cancel()

    # -- silence ---------------------------------------------------------------------------------

    def start_keep_alive(self, seconds: int) -> None:
        """Begin to expect a packet within one and a half times this time. [MQTT-3.1.2-24]"""
        self._keep_alive = seconds
        self.last_read = self._shared.deadlines.now

    def note_partial(self, pending: int, progress: bool) -> None:
        """Note how much of an incomplete packet has come, and whether that of another is complete now."""
        if pending != self.waiting:
            self._shared.partials.note(self, pending)
        if not pending:
            self.partial_since = 0.0
        elif progress or not self.partial_since:
            self.partial_since = self._shared.deadlines.now

    @property
    def _silence(self) -> float:
        """How many seconds of silence are too many; ``last_read`` is exact to a tick."""
        return self._keep_alive * 1.5 + TICK

    def is_partial(self, now: float) -> bool:
        """Return whether the rest of a packet has not come within ``packet_deadline``."""
        deadline = self._shared.limits.packet_deadline
        return not self.holds and bool(self.partial_since) and now - self.partial_since >= deadline

    def is_silent(self, now: float) -> bool:
        """Return whether nothing has come within the Keep Alive, and reading was not held."""
        return not self.holds and bool(self._keep_alive) and now - self.last_read >= self._silence

    def due(self, now: float) -> float:
        """Return when to ask both again, before a silence that begins now could be too long."""
        at = now + self._shared.limits.packet_deadline
        if self.holds:
            return min(at, now + (max(self._silence, 1.0) if self._keep_alive else 1.0))
        if self._keep_alive:
            at = min(at, self.last_read + self._silence)
        if self.partial_since:
            at = min(at, self.partial_since + self._shared.limits.packet_deadline)
        return at
