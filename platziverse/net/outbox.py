"""Outbox: what goes out to one client, joined to one write per turn.

A read of one client often means packets for many others, and many for one. They are collected, and
each connection touched is flushed once, at the end of the turn.
"""

from typing import Final

from twisted.internet.interfaces import IReactorTime, ITransport
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.codec import encode_puback, encode_pubacks

log = Logger()

#: Bytes collected for one client before they are written without waiting for the end of the turn.
WRITE_SIZE: Final = 64 * 1024
#: Bytes that each piece of what is collected takes besides its own.
PIECE_SIZE: Final = 64


class Flushes:
    """The outboxes touched in this turn.

    :param clock: flushes what was sent outside of a turn, in the next one.
    """

    __slots__ = ("_clock", "_touched", "turn")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._touched: list[Outbox] = []
        #: Someone is going to call ``flush`` before this turn of the reactor ends.
        self.turn = False

    def add(self, outbox: "Outbox") -> None:
        """Flush this one as well."""
        self._touched.append(outbox)
        if not self.turn and len(self._touched) == 1:
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Write everything that was collected, also what the writing itself brings about."""
        self.turn = True
        try:
            for outbox in self._touched:  # also those that come to it meanwhile
                try:
                    outbox.flush()
                except Exception:  # one transport's bug is not the others' end
                    log.failure("Bug: writing to a client")
        finally:
            self._touched.clear()
            self.turn = False


class Outbox(Protocol):
    """The sending half of a connection, and push producer of its transport."""

    def __init__(self, flushes: Flushes, limits: Limits, traffic: Traffic) -> None:
        self._flushes = flushes
        self._limits = limits
        self._traffic = traffic
        self._out: list[bytes] = []
        self._out_size = 0
        #: The transport has told us to pause: the client takes less than it is sent.
        self.congested = False
        self.closed = False

    @property
    def out_bytes(self) -> int:
        """Bytes that wait for the transport."""
        return self._out_size

    def acknowledge(self, packet_ids: list[int]) -> None:
        """Queue a PUBACK for each of these, in one piece."""
        if len(packet_ids) == 1:
            self.send(encode_puback(packet_ids[0]))
        elif packet_ids:
            self._traffic.messages_sent += len(packet_ids) - 1
            self.send(encode_pubacks(packet_ids))

    def send(self, data: bytes) -> None:
        """Queue bytes that may not be dropped."""
        out = self._out
        if not out:
            self._flushes.add(self)
        out.append(data)
        self._out_size += len(data)
        if self._out_size > WRITE_SIZE:
            self._overflow()

    def offer(self, data: bytes) -> bool:
        """Queue a QoS 0 PUBLISH; ``False`` when the client's queue is full and it was dropped."""
        if self.congested and not self._has_room(len(data)):
            return False
        out = self._out
        if not out:
            self._flushes.add(self)
        out.append(data)
        self._out_size += len(data)
        if self._out_size > WRITE_SIZE:
            self.flush()
        return True

    def _has_room(self, size: int) -> bool:
        limits = self._limits
        return not self.closed and (
            len(self._out) < limits.max_queued_messages and self._out_size + size <= limits.max_queued_bytes
        )

    def _overflow(self) -> None:
        if not self.congested:
            self.flush()
        elif self._out_size + len(self._out) * PIECE_SIZE > self._limits.max_queued_bytes:
            self.close(Reason.TOO_SLOW, "it does not read its answers")

    def flush(self) -> None:
        """Hand everything to the transport, unless that has told us to pause."""
        out = self._out
        if not out or self.congested or self.closed:
            return
        data = b"".join(out) if len(out) > 1 else out[0]
        self._traffic.messages_sent += len(out)
        self._traffic.bytes_sent += len(data)
        out.clear()
        self._out_size = 0
        transport: ITransport = self.transport  # type: ignore[assignment]
        transport.write(data)

    def close(self, reason: Reason, text: str) -> None:
        """Close without an answer."""
        raise NotImplementedError

    # -- IPushProducer: the transport speaks -----------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self.congested = True

    def resumeProducing(self) -> None:
        """The transport's buffer is empty: go on with what has waited."""
        if self.congested:
            self.congested = False
            self.flush()
            if not self.congested:
                self.drained()

    def stopProducing(self) -> None:
        """The connection is going away; ``connectionLost`` says so too."""

    def drained(self) -> None:
        """Everything that waited has been written: there is room for more."""
