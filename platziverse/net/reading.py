"""Reading: how one client is read from: what holds it, how fast it may send, how long it may be silent."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from platziverse.net.deadlines import TICK
from platziverse.net.flow import CLOSED, NEVER_TOLD, RATE, STORE, TURN
from platziverse.net.shared import Shared


class Owner(Protocol):
    """An Owner is the connection that a reading is part of."""

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
        "_owner",
        "_pacing",
        "_shared",
        "bytes",
        "holds",
        "keep_alive",
        "last_read",
        "packets",
        "paid",
        "partial_since",
        "telling",
        "unfinished",
        "waiting",
    )

    def __init__(self, shared: Shared, owner: Owner) -> None:
        self._shared = shared
        # Until the connection has ended: a connection that nothing refers to is freed at once.
        self._owner: Owner | None = owner
        #: Why nothing is read: bits of :mod:`platziverse.net.flow`.
        self.holds = 0
        self.unfinished = self.waiting = 0
        #: Whether the client is told that there is no room in the store; see :mod:`platziverse.net.flow`.
        self.telling = NEVER_TOLD
        # Counted up from 0, not down from what is allowed: small numbers take no memory of their own.
        self.packets = self.bytes = 0
        self.paid = (0.0, 0.0)
        self.last_read = 0.0
        #: When the packet began to come that is not complete yet.
        self.partial_since: float | None = None
        #: Seconds; 0: it may be silent for ever.
        self.keep_alive = 0
        self._pacing: IDelayedCall | None = None

    # -- holding ---------------------------------------------------------------------------------

    def hold_reading(self, why: int) -> None:
        """Read nothing more for this reason; from now on the client is not to blame for its silence.

        :param why: a bit of :mod:`platziverse.net.flow`.
        """
        if why == STORE and not self.holds & STORE:
            self._shared.traffic.store_holds += 1
            self._say(
                self._shared.complaints.mention,
                "not stored yet",
                "what it has published is not stored (max_unfinished; or what all have, max_unfinished_total,"
                " max_unfinished_bytes)",
            )
        if not self.holds and self._owner is not None:
            self._owner.transport.pauseProducing()
        self.holds |= why

    def resume_reading(self, why: int) -> None:
        """Go on reading, if this reason was the last."""
        owner = self._owner
        if not self.holds & why or owner is None:
            return
        self.holds &= ~why
        if self.holds:
            return
        self.last_read = self._shared.deadlines.now
        owner.take_packets()
        if not self.holds:
            owner.transport.resumeProducing()

    def yield_turn(self) -> None:
        """Let the others have their turn before the rest of what has come."""
        shared = self._shared
        shared.traffic.turns_ended += 1
        why = "the others get their turn (packets_per_turn)"
        self._say(shared.complaints.mention, "the others' turn", why)
        self.hold_reading(TURN)
        shared.clock.callLater(0, self.resume_reading, TURN)

    def pace(self) -> None:
        """Count what the client has sent, and hold reading if that is more than it may send."""
        shared = self._shared
        excess = shared.rates.excess(self, shared.deadlines.now)
        if excess > 0 and not self.holds & (RATE | CLOSED):
            shared.traffic.rate_holds += 1
            why = "it sends more than max_message_rate or max_byte_rate"
            self._say(shared.complaints.warn, "faster than it may send", why)
            self.hold_reading(RATE)
            self._pacing = shared.clock.callLater(excess, self.resume_reading, RATE)

    def _say(self, write: Callable[..., None], cause: str, why: str) -> None:
        """Log why the client is read from later.

        :param write: a method of ``Complaints``.
        """
        if (owner := self._owner) is not None:
            text, client_id = "Reading {address} {client_id!r} later: {why}", owner.client_id
            write(cause, text, address=owner.address, client_id=client_id, why=why)

    def end(self) -> None:
        """Read nothing more, ever."""
        self.holds |= CLOSED
        self._owner = None
        if self.waiting:
            self._shared.partials.note(self, 0)
        pacing, self._pacing = self._pacing, None
        if pacing is not None and pacing.active():
            pacing.cancel()

    # -- silence ---------------------------------------------------------------------------------

    def start_keep_alive(self, seconds: int) -> None:
        """Begin to expect a packet within one and a half times this time. [MQTT-3.1.2-24]

        [MQTT5-3.1.2-22] [MQTT5-3.2.2-22]
        """
        self.keep_alive = seconds
        self.last_read = self._shared.deadlines.now

    def note_partial(self, pending: int, progress: bool) -> None:
        """Note how much of an incomplete packet has come, and whether that of another is complete now."""
        if pending != self.waiting:
            self._shared.partials.note(self, pending)
        if not pending:
            self.partial_since = None
        elif progress or self.partial_since is None:
            self.partial_since = self._shared.deadlines.now

    @property
    def _silence(self) -> float:
        """How many seconds of silence are too many; ``last_read`` is exact to a tick."""
        return self.keep_alive * 1.5 + TICK

    def is_partial(self, now: float) -> bool:
        """Return whether the rest of a packet has not come within ``packet_deadline``."""
        since = self.partial_since
        return not self.holds and since is not None and now - since >= self._shared.limits.packet_deadline

    def is_silent(self, now: float) -> bool:
        """Return whether nothing has come within the Keep Alive, and reading was not held."""
        return not self.holds and bool(self.keep_alive) and now - self.last_read >= self._silence

    def due(self, now: float) -> float:
        """Return when to ask both again, before a silence that begins now could be too long."""
        at = now + self._shared.limits.packet_deadline
        if self.holds:
            return min(at, now + (max(self._silence, 1.0) if self.keep_alive else 1.0))
        if self.keep_alive:
            at = min(at, self.last_read + self._silence)
        if self.partial_since is not None:
            at = min(at, self.partial_since + self._shared.limits.packet_deadline)
        return at
