"""Held: what the bus brings while rows are read: copies wait, as many as may, and some is too late."""

from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import define

from platziverse.broker.limits import Limits
from platziverse.broker.turn import Turn
from platziverse.cluster.frames import Message, Owed
from platziverse.cluster.links import ALL

#: Which settings say how much may wait.
SETTINGS: Final = "(max_unfinished_total, max_unfinished_bytes)"


@define
class Overflow:
    """An Overflow bounds what waits in all Crossings, and counts and says what could not wait.

    :param complain: is given a cause, a text, and the number of a daemon.
    :ivar turn: in which Crossings take what has waited.
    :ivar count: copies that wait; of ``size`` bytes.
    :ivar spilled: copies that did not find a place in memory, and are read as rows instead.
    :ivar overtook: messages without a position that have waited no longer, as too many did.
    :ivar passed: those that were dropped, as they came after what was published behind them.
    """

    limits: Limits
    complain: Callable[[str, str, int], None]
    turn: Turn
    count: int = 0
    size: int = 0
    spilled: int = 0
    overtook: int = 0
    passed: int = 0

    def takes(self, size: int) -> bool:
        """Return whether one copy more finds a place, which it has from now on."""
        limits = self.limits
        if self.count >= limits.max_unfinished_total or self.size + size > limits.max_unfinished_bytes:
            return False
        self.count += 1
        self.size += size
        return True

    def say_spilled(self, number: int) -> None:
        """Say that copies of a daemon are read as rows."""
        text = (
            "Too much that daemon {number} owes to our Sessions waits while rows are read; the rest is read "
        )
        self.complain("copies that are read as rows", text + "as rows, too " + SETTINGS, number)

    def say_overtook(self, number: int, count: int) -> None:
        """Count messages of a daemon that wait no longer, and say so."""
        self.overtook += count
        text = "Too much of daemon {number} waits for what the bus has lost; the first waits no more "
        self.complain("messages that overtake what was lost", text + SETTINGS, number)

    def say_passed(self, number: int) -> None:
        """Count a message of a daemon that is dropped, and say so."""
        self.passed += 1
        text = (
            "The bus was so slow that a message of daemon {number} is dropped: a later one was read before it"
        )
        self.complain("messages that the bus brings too late", text, number)


class Held:
    """Held has the copies that one daemon sends while rows before them are read.

    The first that does not find a place is dropped, and all behind it: their rows are in the store. ADR 0227.

    :ivar spills: some were dropped since :meth:`clear`.
    """

    def __init__(self, number: int, overflow: Overflow) -> None:
        self.spills = False
        self._number, self._overflow = number, overflow
        self._frames: deque[Owed] = deque()

    def add(self, frame: Owed) -> None:
        """Keep a copy, unless one before it was dropped, or it is too much."""
        overflow = self._overflow
        if not self.spills and overflow.takes(size_of(frame)):
            self._frames.append(frame)
            return
        overflow.spilled += 1
        if not self.spills:
            self.spills = True
            overflow.say_spilled(self._number)

    @property
    def first(self) -> int:
        """Return the position of the first copy; ``ALL``: there is none."""
        return self._frames[0].position if self._frames else ALL

    def pop(self) -> Owed:
        """Return the first copy, and keep it no longer."""
        frame = self._frames.popleft()
        self._overflow.count -= 1
        self._overflow.size -= size_of(frame)
        return frame

    def clear(self) -> None:
        """Keep nothing: all of it is read as rows."""
        self._overflow.count -= len(self._frames)
        self._overflow.size -= sum(map(size_of, self._frames))
        self._frames.clear()
        self.spills = False


class Ahead:
    """An Ahead knows the topics of rows that were read without their daemon, which was there all the time.

    What it has sent before, and what comes only now as the bus stood still, is older than they are: ADR 0228.

    :param most: topics that are told apart; with more of them all are like one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Hash of a topic, which may have 64 KiB itself → position of its last row; and that of the last row
        # of topics that are not told apart. ADR 0228.
        self._topics: dict[int, int] = {}
        self._any = 0

    def add(self, topic: str, position: int) -> None:
        """Note that a row was read."""
        key = hash(topic)
        if len(self._topics) >= self._most and key not in self._topics:
            self._any = max(self._any, *self._topics.values())
            self._topics.clear()
        self._topics[key] = position

    def passes(self, topic: str, after: int) -> bool:
        """Return whether a row was read before a message of its topic that is behind this position only."""
        return max(self._topics.get(hash(topic), 0), self._any) > after

    def clear(self) -> None:
        """Forget all: what was on the bus has come, or is lost."""
        self._topics.clear()
        self._any = 0


def size_of(frame: Message | Owed) -> int:
    """Return the bytes of a message."""
    return len(frame.topic) + len(frame.payload) + len(frame.properties)
