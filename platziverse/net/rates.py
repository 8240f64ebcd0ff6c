"""Rates: how fast one client may send. Packets that come faster are read later, never dropped."""

from typing import Final, Protocol

from platziverse.broker.limits import Limits

#: A client may be ahead of its rate by what it may send in this many seconds.
AHEAD: Final = 5.0
#: A client may send this part of that before it is counted: most reads cost two additions and no more.
CREDIT: Final = 1 / 16
#: That part where there is no limit.
ENDLESS: Final = 1 << 62


class Sender(Protocol):
    """A Sender is a connection that is read from; its attributes are for :class:`Rates`."""

    #: What it has sent since it was counted. It adds, and asks when that is more than ``Rates`` allows.
    packets: int
    bytes: int
    #: Until when, in steady time, the packets and the bytes that were counted are paid for.
    paid: tuple[float, float]


class Rates:
    """Rates counts what each connection of the daemon has sent."""

    def __init__(self, limits: Limits) -> None:
        packets, size = limits.max_message_rate, limits.max_byte_rate
        self._packet_seconds = 1 / packets if packets else 0.0
        self._byte_seconds = 1 / size if size else 0.0
        #: How many packets, and bytes, a client may send before it is counted.
        self.packets = int(packets * AHEAD * CREDIT) if packets else ENDLESS
        self.bytes = int(size * AHEAD * CREDIT) if size else ENDLESS

    def excess(self, sender: Sender, now: float) -> float:
        """Count what ``sender`` has sent since it was counted last.

        :param now: steady time.
        :return: seconds for which no more should be read, or 0 or less.
        """
        packets, size = sender.paid
        packets = max(packets, now) + sender.packets * self._packet_seconds
        size = max(size, now) + sender.bytes * self._byte_seconds
        sender.paid = packets, size
        sender.packets = sender.bytes = 0
        return max(packets, size) - now - AHEAD
