"""Rates: how fast one client may send. What is too fast is read later, never dropped."""

from typing import Final, Protocol

from platziverse.broker.limits import Limits

#: A client may be ahead of its rate by what it may send in this many seconds.
AHEAD: Final = 5.0


class Sender(Protocol):
    """A connection that is read from."""

    #: Until when, in steady time, what it has sent is paid for; owned by :class:`Rates`.
    paid_messages: float
    paid_bytes: float


class Rates:
    """One for the whole daemon; asked once for every read."""

    def __init__(self, limits: Limits) -> None:
        message_rate, byte_rate = limits.max_message_rate, limits.max_byte_rate
        self._message_seconds = 1 / message_rate if message_rate else 0.0
        self._byte_seconds = 1 / byte_rate if byte_rate else 0.0

    def excess(self, sender: Sender, messages: int, size: int, now: float) -> float:
        """Count what came; for how many seconds no more should be read, or 0 or less.

        :param now: steady time.
        """
        paid = sender.paid_messages
        sender.paid_messages = messages_until = (
            paid if paid > now else now
        ) + messages * self._message_seconds
        paid = sender.paid_bytes
        sender.paid_bytes = bytes_until = (paid if paid > now else now) + size * self._byte_seconds
        return (messages_until if messages_until > bytes_until else bytes_until) - now - AHEAD
