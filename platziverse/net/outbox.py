"""Outbox: the packets for one client, joined to one write in a turn.

A read of one client often means packets for many others, and many for one of them. They are collected, and
each connection that has some is flushed once, at the end of the turn.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from twisted.logger import Logger

from platziverse.broker.interfaces import DROPPED, FULL, TAKEN
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.mqtt.codec import encode_pubacks
from platziverse.net.flow import RECEIVER, Source
from platziverse.net.shared import Shared

log = Logger()

#: Bytes collected for one client before they are written without waiting for the end of the turn.
WRITE_SIZE: Final = 64 * 1024
#: Bytes from which on they are handed over in slices of ``WRITE_SIZE``.
LARGE: Final = 4 * WRITE_SIZE
#: Bytes that each piece of what is collected takes besides its own.
PIECE_SIZE: Final = 64


class Owner(Protocol):
    """An Owner is the connection that an outbox is part of."""

    transport: Any
    address: str

    @property
    def reading(self) -> Source:
        """The receiving half of the connection."""

    @property
    def client_id(self) -> str:
        """The Client Identifier, as far as it is known; for logs."""

    def close(self, reason: Reason, text: str) -> None: ...

    def expel(self, reason: Reason, text: str, setting: str) -> None:
        """Count, log and close a client that has not kept to a limit."""


class Outbox:
    """An Outbox is the way back to a client (``NetworkConnection``), and push producer of its transport."""

    __slots__ = (
        "_out",
        "_out_size",
        "_owed",
        "_owner",
        "_session",
        "_spoken",
        "closed",
        "congested",
        "congested_since",
        "publishes",
        "shared",
    )

    def __init__(self, shared: Shared, owner: Owner) -> None:
        self.shared = shared
        # Until the connection has ended: a connection that nothing refers to is freed at once.
        self._owner: Owner | None = owner
        self._session: Session | None = None
        self._out: list[bytes] = []
        self._out_size = 0
        # Of these, at most so many bytes are of messages that the client did not ask for just now.
        self._owed = 0
        #: The transport has told us to pause: the client takes less than it is sent.
        self.congested = False
        self.congested_since = 0.0
        #: Nothing leaves any more.
        self.closed = False
        #: The client has published something.
        self.publishes = False
        # Something was written since the kernel was told to acknowledge at once.
        self._spoken = False

    @property
    def owner(self) -> Owner | None:
        """The connection that it is part of; ``None``: that has ended."""
        return self._owner

    @property
    def pieces(self) -> int:
        """How many pieces of bytes wait for the transport."""
        return len(self._out)

    @property
    def out_bytes(self) -> int:
        """How many bytes wait for the transport."""
        return self._out_size

    def serve(self, session: Session) -> None:
        """Send the messages that wait in this Session, from now on, whenever there is room."""
        self._session = session

    def acknowledge(
        self,
        packet_ids: list[int],
        place: int | None = None,
        encode: Callable[[Sequence[int]], bytes] = encode_pubacks,
    ) -> int | None:
        """Queue a PUBACK for each Packet Identifier, all in one piece.

        :param place: see :meth:`send_at`; ``None``: behind all that waits.
        :param encode: makes the piece.
        :return: the place behind them.
        """
        if not packet_ids:
            return place
        self.shared.traffic.messages_sent += len(packet_ids) - 1
        pubacks = encode(packet_ids)
        if place is not None:
            return self.send_at(pubacks, place)
        self.send(pubacks)
        return None

    def send(self, data: bytes) -> None:
        """Queue bytes that may not be dropped."""
        out = self._out
        if not out:
            flushes = self.shared.flushes
            if flushes.first is not self:
                flushes.add(self)
        out.append(data)
        self._out_size += len(data)
        if self._out_size > WRITE_SIZE:
            self._overflow()

    def send_at(self, data: bytes, place: int) -> int:
        """Queue bytes behind the first ``place`` pieces; return the place behind them.

        Where those have left already, or the client takes nothing, they come last.
        """
        self.send(data)
        out = self._out
        if not self.congested and place < len(out) - 1:
            out.insert(place, out.pop())
        return place + 1

    def send_together(self, pieces: Sequence[bytes]) -> None:
        """Queue PUBLISHes, each a piece, while the client takes what it is sent. ADR 0223."""
        if not self._out:
            self.shared.flushes.add(self)
        self._out += pieces
        self._out_size += sum(map(len, pieces))
        if self._out_size > WRITE_SIZE:
            self._owed = self._out_size
            self.flush()

    def send_shared(self, head: bytes, payload: bytes) -> None:
        """Queue a PUBLISH whose payload has other receivers too, without a copy of it.

        It is no answer, so no reason for :meth:`_give_up`: whoever comes back is sent at once all that was in
        flight to it.
        """
        self.shared.traffic.messages_sent -= 1  # of two pieces
        if not self._out:
            self._owed = 0
        self._owed += len(head) + len(payload)
        Outbox.send(self, head)
        Outbox.send(self, payload)

    def offer(self, data: bytes) -> int:
        """Queue a QoS 0 PUBLISH; return ``DROPPED``, ``TAKEN`` or ``FULL``."""
        if self.congested:
            return self._queue_up(data)
        if not self._out:
            self.shared.flushes.add(self)
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > WRITE_SIZE:
            self._owed = self._out_size
            self.flush()
        return TAKEN

    def _queue_up(self, data: bytes) -> int:
        """Queue a QoS 0 PUBLISH while the client takes nothing."""
        if self.closed or self._session is None:
            return DROPPED
        limits, messages, size = self.shared.limits, len(self._out), self._out_size + len(data)
        is_full = messages >= limits.max_queued_messages or size > limits.max_queued_bytes
        if is_full and self._session.is_beyond(messages, size):
            return DROPPED
        if not self._out:
            self.shared.flushes.add(self)
        self._out.append(data)
        self._out_size = size
        return FULL if is_full else TAKEN

    def hold(self) -> None:
        """Read nothing more from this client, as a receiver of its messages has a full queue."""
        if self._owner is not None:
            self._owner.reading.hold_reading(RECEIVER)

    def release(self) -> None:
        """Read from it again, in the next turn."""
        if self._owner is not None:
            self.soon(partial(self._owner.reading.resume_reading, RECEIVER))

    def _overflow(self) -> None:
        if not self.congested:
            self.flush()
        elif self._out_size - self._owed + len(self._out) * PIECE_SIZE > self.shared.limits.max_queued_bytes:
            self._give_up()

    def _give_up(self) -> None:
        """End a client that asks and does not read the answers."""
        if self._owner is not None and not self.closed:
            self._owner.expel(Reason.TOO_SLOW, "it does not read its answers", "max_queued_bytes")

    def answer(self) -> None:
        """Hand over the answers to what this client has just sent: its turn ends.

        Without one the kernel would wait for 40 ms before it acknowledges those bytes, and a client with
        Nagle's algorithm on sends nothing until then. ADR 0103 says when it is told not to.
        """
        if self._out:
            try:
                self.flush()
            except Exception:  # one transport's bug is not the others' end
                log.failure("Bug: writing to a client")
        elif self._spoken and self.publishes:
            self._hasten()

    def _hasten(self) -> None:
        owner = self._owner
        if owner is not None and not owner.reading.unfinished:  # or an answer is on its way
            self._spoken = False
            hasten = getattr(owner.transport, "acknowledge_now", None)
            if hasten is not None:
                hasten()

    def flush(self) -> None:
        """Hand everything to the transport, unless that has told us to pause."""
        out = self._out
        owner = self._owner
        if not out or self.congested or owner is None:
            return
        if self._out_size > LARGE:
            self._flush_in_slices(owner.transport)
            return
        count = len(out)
        data = b"".join(out)  # of one piece of bytes it is the piece itself
        traffic = self.shared.traffic
        traffic.messages_sent += count
        traffic.bytes_sent += self._out_size
        out.clear()
        self._out_size = 0
        self._spoken = True
        owner.transport.write(data)

    def _flush_in_slices(self, transport: Any) -> None:
        """Hand slices to the transport until it tells us to pause.

        A transport copies what the kernel does not take: all of a large message, for each of its receivers.
        Here they share it. ADR 0106.
        """
        out, traffic = self._out, self.shared.traffic
        while out and not self.congested:
            data = b"".join(self._cut(out))
            self._out_size -= len(data)
            traffic.bytes_sent += len(data)
            transport.write(data)

    def _cut(self, out: list[bytes]) -> list[bytes]:
        """Take the first ``WRITE_SIZE`` bytes off the pieces; a piece is counted when its end is taken."""
        left, whole = WRITE_SIZE, 0
        for piece in out:
            if len(piece) > left:
                break
            left -= len(piece)
            whole += 1
        taken = out[:whole]
        del out[:whole]
        self.shared.traffic.messages_sent += whole
        if out and left:
            rest: Any = memoryview(out[0])
            taken.append(rest[:left])
            out[0] = rest[left:]
        return taken

    def soon(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the next turn of the reactor."""
        self.shared.clock.callLater(0, function)

    def close(self, reason: Reason, text: str) -> None:
        """Close the connection, unless it has ended."""
        if self._owner is not None:
            self._owner.close(reason, text)

    # -- the end, for the connection --------------------------------------------------------------

    def shut(self, text: str) -> bool:
        """Write the queued packets, and nothing after them.

        Messages that come later wait in the Session, or are dropped.

        :param text: why, for a trace.
        :return: ``False`` when the client does not take them.
        """
        self.flush()
        taken, self.closed, self.congested = not self.congested, True, True
        return taken

    def end(self) -> None:
        """Let go of the connection, and of packets that wait for it: it has ended."""
        self.closed = self.congested = True
        self._owner = self._session = None
        self._out.clear()

    def overdue(self, now: float) -> bool:
        """Return whether the client has taken nothing for longer than ``write_deadline``."""
        return self.congested and now - self.congested_since >= self.shared.limits.write_deadline

    def due(self, now: float) -> float:
        """Return when to ask :meth:`overdue` again, before a pause that begins now could be."""
        return (self.congested_since if self.congested else now) + self.shared.limits.write_deadline

    # -- IPushProducer: the transport speaks -----------------------------------------------------

    def pauseProducing(self) -> None:
        """Write nothing for now: the buffer of the transport is full."""
        self.congested = True
        self.congested_since = self.shared.deadlines.now
        self._owed = min(self._owed, self._out_size)

    def resumeProducing(self) -> None:
        """Write the packets that wait here, then those in the Session: the transport's buffer is empty."""
        if self.congested and not self.closed:
            self.congested = False
            self.flush()
            session = self._session
            if not self.congested and session is not None and session.connection is self:
                session.pump()

    def stopProducing(self) -> None:
        """Do nothing: the connection is going away, and ``connectionLost`` comes."""
