"""Partials: the bytes of packets that are not complete, or not handled yet, of all connections together."""

from collections.abc import Collection
from typing import Final, Protocol

from platziverse.broker.complaints import Complaints
from platziverse.broker.reasons import Reason
from platziverse.broker.traffic import Traffic

#: Share of ``max_memory`` that they may take, and to which share of that they are brought back.
SHARE: Final = 0.25
RELIEF: Final = 0.75


class Collecting(Protocol):
    """A Collecting is the receiving half of a connection."""

    #: Bytes that wait in its decoder; owned by :class:`Partials`.
    waiting: int


class Holder(Protocol):
    """A Holder is a connection that has bytes in its decoder."""

    @property
    def address(self) -> str: ...
    @property
    def client_id(self) -> str: ...
    @property
    def reading(self) -> Collecting: ...

    def close(self, reason: Reason, text: str) -> None: ...


class Partials:
    """Partials ends the connection with the most of these bytes when all of them together are too many.

    They are counted where they grow, as a second is enough for a thousand clients to fill a small machine.

    :param budget: ``max_memory``; 0: no limit.
    :param connections: the open ones.
    :ivar total: how many bytes there are now.
    """

    def __init__(
        self, budget: int, connections: Collection[Holder], traffic: Traffic, complaints: Complaints
    ) -> None:
        self.total = 0
        self._most = budget * SHARE
        self._connections = connections
        self._traffic, self._complaints = traffic, complaints

    def note(self, reading: Collecting, size: int) -> None:
        """Count that ``size`` bytes wait in this decoder now."""
        self.total += size - reading.waiting
        reading.waiting = size
        if self._most and self.total > self._most:
            self._relieve()

    def _relieve(self) -> None:
        holders = sorted(self._connections, key=_waiting, reverse=True)
        for holder in holders:
            if self.total <= self._most * RELIEF or not holder.reading.waiting:
                return
            self._traffic.partials_dropped += 1
            self._complaints.warn(
                "no room for a packet",
                "Closing {address} {client_id!r}: no room for its incomplete packet of {size} bytes;"
                " see the setting max_memory",
                address=holder.address,
                client_id=holder.client_id,
                size=holder.reading.waiting,
            )
            holder.close(Reason.QUOTA, "no room for its packet")


def _waiting(holder: Holder) -> int:
    return holder.reading.waiting
