"""QueueSize: how much waits for one durable Session, in memory and in the store, and if more may."""

from platziverse.broker.interfaces import DROPPED, FULL, OWED
from platziverse.broker.limits import Limits
from platziverse.broker.records import StoredSession


class QueueSize:
    """A QueueSize counts the messages that a durable Session is owed and that are still to be sent.

    :param stored: the Session as it was committed before this process began.
    :ivar messages: how many; those in flight do not count.
    :ivar bytes: of their Topic Names and payloads. Those of messages that were dropped from the table are
        estimated, so it is right again when nothing waits.
    :ivar excess: messages besides the first one that had to go for the last that came.
    """

    __slots__ = ("_limits", "bytes", "excess", "messages")

    def __init__(self, limits: Limits, stored: StoredSession | None) -> None:
        self._limits, self.excess = limits, 0
        self.messages = stored.messages if stored is not None else 0
        self.bytes = stored.size if stored is not None else 0

    @property
    def average(self) -> float:
        """Return the bytes of a message, at least one."""
        return max(self.bytes / max(self.messages, 1), 1)

    def add(self, size: int, count: int = 1) -> None:
        """Count so many messages more, of ``size`` bytes together."""
        self.messages += count
        self.bytes += size

    def remove(self, size: int) -> None:
        """Count a message of ``size`` bytes less."""
        if self.messages > 1:
            self.messages -= 1
            self.bytes = max(self.bytes - size, 0)
        else:
            self.messages = self.bytes = 0

    def admit(self, size: int, too_slow: bool) -> int:
        """Return what becomes of one message more for a client that is connected, as bits.

        :param size: bytes of its Topic Name and payload.
        :param too_slow: no publisher is held for this client any more.
        :return: ``OWED``, together with ``FULL`` when it fills the queue; ``DROPPED``: there is no room.
        """
        limits, queued, total = self._limits, self.messages, self.bytes + size
        most, most_bytes = limits.max_queued_messages, limits.max_stored_bytes
        if queued < most and total <= most_bytes:
            return OWED
        if too_slow or limits.is_overfull(queued, total, most_bytes):
            return DROPPED
        return OWED | FULL

    def make_room(self, size: int) -> int:
        """Drop as many of the oldest messages of an absent client as are too many for one more.

        How many bytes these take follows from the average.

        :param size: bytes of the new one.
        :return: how many; -1: it is the new one that is dropped.
        """
        limits, messages = self._limits, self.messages
        total, most_bytes = self.bytes + size, limits.max_stored_bytes
        if messages < limits.max_queued_messages and total <= most_bytes:
            return 0
        if limits.queue_drop == "newest" or size > most_bytes or not messages:
            return -1
        average = self.average
        too_many, too_large = messages + 1 - limits.max_queued_messages, -((most_bytes - total) // average)
        count = min(max(too_many, int(too_large)), messages)
        self.messages, self.excess = messages - count, count - 1
        self.bytes = int(average * self.messages)
        return count
