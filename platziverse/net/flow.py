"""FlowControl: publishes that the store has not finished, per connection and in all.

Above the high mark reading is held, below half of it, it is resumed. It counts messages of every QoS:
agents publish at QoS 0 by default, and the database must be able to slow them too.
"""

from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from platziverse.broker.limits import Limits

# Why reading is held: bits, because several reasons may hold it at once.
STORE: Final = 1  #: the store has not finished what the client sent
LOGIN: Final = 2  #: it is not yet decided whether the client may connect
TURN: Final = 4  #: the other connections get their turn
STOPPING: Final = 8  #: the daemon is stopping
CLOSED: Final = 16  #: the connection is being closed
RATE: Final = 32  #: the client sends faster than it may
RECEIVER: Final = 128  #: a receiver of what the client publishes has a full queue
ANSWER: Final = 64  #: a packet has to be answered before the next may be handled
ASLEEP: Final = 256  #: the process was stopped for a while, and nobody knows yet what has happened meanwhile

# Whether a client is told that there is no room in the store, or held; see :mod:`platziverse.net.refusing`.
NEVER_TOLD: Final = 0  #: its protocol has no such answer
MAY_BE_TOLD: Final = 1
TOLD: Final = 2  #: it is read from, and what the store would have to take is refused
NOT_TOLD: Final = 3  #: it has sent something that has no such answer, so it is held all the same


def is_due(answer: "Deferred[Any]") -> bool:
    """Return whether an answer is still to come: one that fired with another Deferred is called, not there.

    FlowControl is not told of an answer that is there already: it might hold reading and resume it at once,
    and the packets behind this one would be handled in its midst, and counted twice. ADR 0108.
    """
    return not answer.called or answer.paused > 0


class Source(Protocol):
    """A Source is a connection that can be asked to read nothing more."""

    #: Publishes of this connection that are not finished; counted by :class:`FlowControl`.
    unfinished: int
    #: Bytes in its decoder; owned by :class:`Partials`.
    waiting: int
    #: Why it is held: bits.
    holds: int
    telling: int

    def hold_reading(self, why: int) -> None: ...

    def resume_reading(self, why: int) -> None: ...


class FlowControl:
    """A FlowControl counts the unfinished publishes of all connections of the daemon."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: dict[Source, None] = {}
        #: No more may wait: everybody who publishes to the store is held.
        self.full = False
        #: Unfinished publishes of all connections, also of those that have ended.
        self.unfinished = 0
        self.unfinished_bytes = 0

    @property
    def held(self) -> int:
        """How many connections are held."""
        return len(self._held)

    def sources(self) -> list[Source]:
        """Return the connections that are held, or would be."""
        return list(self._held)

    def setting(self) -> str:
        """Return which setting says that no more may wait: one for all clients, or the one for each."""
        if not self.full:
            return "max_unfinished"
        limits = self._limits
        most = self.unfinished_bytes * limits.max_unfinished_total
        by_bytes = most > self.unfinished * limits.max_unfinished_bytes
        return "max_unfinished_bytes" if by_bytes else "max_unfinished_total"

    def started(self, source: Source, size: int, count: int = 1) -> None:
        """Count publishes of ``size`` bytes that went to the store, and hold reading if it is too many."""
        limits = self._limits
        self.unfinished += count
        self.unfinished_bytes += size
        source.unfinished += count
        if (
            self.unfinished >= limits.max_unfinished_total
            or self.unfinished_bytes >= limits.max_unfinished_bytes
        ):
            self.full = True
        if self.full or source.unfinished >= limits.max_unfinished:
            self._held[source] = None
            source.hold_reading(STORE)

    def owing(self, source: Source, acknowledgements: int) -> None:
        """Hold reading when too many acknowledgements wait behind an unfinished publish: they take room."""
        if acknowledgements >= self._limits.max_unfinished:
            self._held[source] = None
            source.hold_reading(STORE)

    def finished(self, source: Source, size: int, count: int = 1) -> None:
        """Count so many publishes less: the store has committed them, or given them up."""
        self.unfinished -= count
        self.unfinished_bytes -= size
        source.unfinished -= count
        if self.full:
            self._drain()
        elif source in self._held:
            self._free(source)

    def forget(self, source: Source) -> None:
        """Hold the connection no more: it has ended. Its publishes still count until they are finished."""
        self._held.pop(source, None)

    def _drain(self) -> None:
        limits = self._limits
        if (
            self.unfinished * 2 <= limits.max_unfinished_total
            and self.unfinished_bytes * 2 <= limits.max_unfinished_bytes
        ):
            self.full = False
            for source in list(self._held):  # in the order in which they were held
                if not self.full:
                    self._free(source)

    def _free(self, source: Source) -> None:
        # Another may have ended while its turn had not come.
        if source in self._held and source.unfinished * 2 <= self._limits.max_unfinished:
            del self._held[source]
            if source.telling:
                source.telling = MAY_BE_TOLD
            source.resume_reading(STORE)
