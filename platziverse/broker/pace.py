"""Pace: how quickly a client, or another daemon, acknowledges what is owed to it."""

from math import inf
from typing import Final

from twisted.internet.interfaces import IReactorTime

#: Messages acknowledged since one was late, after which a silence is not the client's fault.
MANY: Final = 100
#: Graces that a message may take while its receiver acknowledges those before it.
PATIENCE: Final = 4
#: The same while it has all of our window within each of them, or is about to reach the message. ADR 0158.
LONGEST: Final = 20
#: Seconds within which a client has to have acknowledged ``MANY`` messages to be one that flows.
SAMPLE: Final = 0.05


class Pace:
    """A Pace knows if a client is likely to acknowledge a message within the grace. ADR 0114, 0125.

    A client is quick until it acknowledges a message too late. From then on one message after the other is
    timed, until one is acknowledged in time.

    :ivar quick: the client is likely to acknowledge the next message within the grace.
    :ivar answered: how many messages the client has acknowledged so far.
    :ivar timed: position of the message that is timed; 0: none is.
    """

    __slots__ = (
        "_clock",
        "_flows",
        "_graces",
        "_late",
        "_sample",
        "_sampled",
        "_since",
        "answered",
        "quick",
        "timed",
    )

    def __init__(self, clock: IReactorTime) -> None:
        self._clock, self._since = clock, 0.0
        # How many had been acknowledged when the client was late for the last time, or came.
        self._late = self.answered = self.timed = 0
        self._graces = 1
        self._flows, self._sample, self._sampled = False, 0, 0.0
        self.quick = True

    @property
    def proven(self) -> bool:
        """Return whether the client has acknowledged many messages since it was late, or came."""
        return self.answered - self._late >= MANY

    def flows(self) -> bool:
        """Return whether the client has acknowledged many messages between the last two samples.

        A sample is taken when this is asked, ``SAMPLE`` seconds after the one before at the earliest.
        """
        now = self._clock.seconds()
        if now - self._sampled >= SAMPLE:
            self._flows = self.answered - self._sample >= MANY
            self._sample, self._sampled = self.answered, now
        return self._flows

    def was_late(self) -> None:
        """Note that a message is late: the next get no grace until one is acknowledged in time."""
        self.quick, self._late = False, self.answered

    def begin(self) -> None:
        """Note that the client has come."""
        self.quick, self.timed, self._late = True, 0, self.answered

    def sent(self, position: int, inflight: int) -> None:
        """Note that a message at QoS 1 was sent; it is timed if the client is not quick, and no other one is.

        Its time begins when two turns of the reactor are over: they are ours, and may be long.

        :param inflight: how many messages are in flight by now, this one included: behind others it may take
            longer.
        """
        if not self.quick and not self.timed:
            self.timed, self._since, self._graces = position, inf, PATIENCE if inflight > 1 else 1
            later = self._clock.callLater
            later(0, later, 0, self._begin, position)

    def _begin(self, position: int) -> None:
        if self.timed == position:
            self._since = self._clock.seconds()

    def owned(self, position: int, grace: float) -> None:
        """Note that the client has acknowledged a message.

        :param grace: seconds that a message may take which is alone in flight.
        """
        self.answered += 1
        if position == self.timed:
            self.timed = 0
            self.quick = self._clock.seconds() - self._since <= self._graces * grace
