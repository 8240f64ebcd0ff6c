"""Rates: how fast one client may send. What is too fast is read later, never dropped."""

from typing import Final, Protocol

from platziverse.broker.limits import Limits

#: A client may be ahead of its rate by what it may send in this many seconds.
AHEAD: Final = 5.0
#: A client has this part of that on credit, so that most reads cost two subtractions and no more.
CREDIT: Final = 1 / 16
#: The credit where there is no limit.
ENDLESS: Final = 1 << 62


class Sender(Protocol):
    """A connection that is read from; its attributes are for :class:`Rates`."""

    #: What it may still send before it is counted: it subtracts, and asks when less than nothing is left.
    credit_packets: int
    credit_bytes: int
    #: Until when, in steady time, the packets and the bytes that were counted are paid for.
    paid: tuple[float, float]


class Rates:
    """One for the whole daemon."""

    def __init__(self, limits: Limits) -> None:
        packets, size = limits.max_message_rate, limits.max_byte_rate
        self._packet_seconds = 1 / packets if packets else 0.0
        self._byte_seconds = 1 / size if size else 0.0
        self.packets = int(packets * AHEAD * CREDIT) if packets else ENDLESS
        self.bytes = int(size * AHEAD * CREDIT) if size else ENDLESS

    def excess(self, sender: Sender, now: float) -> float:
        """Count what came, and give new credit.

        :param now: steady time.
        :return: seconds for which no more should be read, or 0 or less.
        """
        packets, size = sender.paid
        packets = max(packets, now) + (self.packets - sender.credit_packets) * self._packet_seconds
        size = max(size, now) + (self.bytes - sender.credit_bytes) * self._byte_seconds
        sender.paid = packets, size
        sender.credit_packets, sender.credit_bytes = self.packets, self.bytes
        return max(packets, size) - now - AHEAD
