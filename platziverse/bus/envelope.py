"""Envelope: the frames of one turn for one target travel as one message, which says from whom it is.

``"PV"``, version, length of the set's name, the name; then mark, number and incarnation of the sender, and
the number of the message among those of the sender for the same target; then each frame behind its length.
"""

import os
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.internet.task import LoopingCall

from platziverse.broker.complaints import Complaints
from platziverse.broker.ports import FrameReceiver, Membership

VERSION: Final = 1
#: The target of messages that every daemon receives.
ALL: Final = -1
#: Seconds after which a target is told the number of the last message, if none has followed it.
TAIL: Final = 1.0
#: Bytes of the frames of one message; what comes on top of them travels in another one.
JOINED: Final = 256 * 1024

#: What to do when two installations meet by chance, or a state directory was copied.
_TWO_SETS: Final = "if two installations use one server, give each its own bus.name"

_TWO_DAEMONS: Final = f"two daemons are number {{number}}; {_TWO_SETS}"
_OURS: Final = f"another daemon is number {{number}} as we are; {_TWO_SETS}"
_DEAD: Final = f"daemon {{number}} was taken for dead, and does not know it yet; {_TWO_SETS}"
_ANOTHER_SET: Final = "a message of another set"
_ANOTHER_VERSION: Final = (
    f"messages of version {{number}}, this platziverse knows {VERSION}; update the older one"
)
#: Messages of one after which it is believed, as nothing comes any more of the one that was first.
RIVALS: Final = 20
#: The highest number of a daemon.
LAST: Final = 32_767

_HEAD: Final = struct.Struct(">8siIQ")
_LENGTH: Final = struct.Struct(">I")


def _prefix(name: str) -> bytes:
    raw = name.encode()
    return b"PV%c%c%s" % (VERSION, len(raw), raw)


class Outbox:
    """An Outbox joins the frames of a turn to messages, and numbers these.

    It posts them at the end of the turn, the frames of every target in the order in which they were sent.

    :param name: of the set.
    :param post: called with the target, a daemon's number or ``ALL``, the message, and how many frames it
        has; it returns nothing, as nobody waits.
    :param everyone: there is a way to post to ``ALL``.
    :ivar mark: tells the messages of this process from those of another one that believes to be it.
    :ivar homeless: frames that were sent while we had no number.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        members: Membership,
        post: Callable[[int, bytes, int], None],
        everyone: bool = True,
    ) -> None:
        self.mark = os.urandom(8)
        self.homeless = 0
        self._reactor, self._members, self._post, self._everyone = reactor, members, post, everyone
        self._prefix = _prefix(name)
        self._ours: tuple[int, int] | None = None
        #: Bits of the other daemons and of our own, as they were when the first frame of the turn was sent.
        self._others = self._own = 0
        self._numbers: Counter[int] = Counter()
        self._joined: dict[int, list[bytes]] = {}
        self._sizes: Counter[int] = Counter()
        self._recent: set[int] = set()
        self._due: set[int] = set()
        self._turn: Any = None
        self._tails = LoopingCall(self._post_tails)
        self._tails.clock = reactor

    def start(self) -> None:
        """Begin to tell the numbers of last messages."""
        self._tails.start(TAIL, now=False)

    def doubt(self, target: int) -> None:
        """Tell ``target`` our number once more, as its last message may be lost."""
        self._recent.add(target)

    def stop(self) -> None:
        """Forget what was sent in this turn."""
        if self._tails.running:
            self._tails.stop()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._joined.clear()

    def send(self, daemons: int, frame: bytes) -> None:
        """Send ``frame`` at the end of this turn to the daemons whose bits are set; -1: to all."""
        if self._turn is None:
            self._begin_turn()
        wanted = self._others if daemons < 0 else daemons & ~self._own
        several = wanted & (wanted - 1) and wanted & self._others == self._others
        if self._everyone and (several or daemons < 0):
            self._end_messages(self._joined.keys() - {ALL})
            self._join(ALL, frame)
            return
        if ALL in self._joined:
            self._end_messages({ALL})
        while wanted:
            lowest = wanted & -wanted
            self._join(lowest.bit_length() - 1, frame)
            wanted ^= lowest

    def _begin_turn(self) -> None:
        self._turn = self._reactor.callLater(0, self._end_turn)
        ours = self._members.ours
        self._own = 0 if ours is None else 1 << ours[0]
        self._others = sum(1 << number for number in self._members.others) & ~self._own

    def _join(self, target: int, frame: bytes) -> None:
        frames = self._joined.get(target)
        if frames is None:
            frames = self._joined[target] = []
            self._sizes[target] = 0
        frames += (_LENGTH.pack(len(frame)), frame)
        self._sizes[target] += len(frame)
        if self._sizes[target] >= JOINED:
            self._end_messages({target})

    def _end_turn(self) -> None:
        self._turn = None
        self._end_messages(set(self._joined))

    def _end_messages(self, targets: set[int]) -> None:
        """Post what has been joined for ``targets``; so a frame for one never passes one for all."""
        for target in sorted(targets):
            frames = self._joined.pop(target)
            if self._is_registered(len(frames) // 2):
                self._post_frames(target, frames)
                self._recent.add(target)

    def _is_registered(self, frames: int) -> bool:
        ours = self._members.ours
        if ours != self._ours:
            self._ours = ours
            self._numbers.clear()
            self._recent.clear()
        if ours is None:
            self.homeless += frames
        return ours is not None

    def _post_frames(self, target: int, frames: list[bytes]) -> None:
        assert self._ours is not None
        self._numbers[target] += 1
        head = _HEAD.pack(self.mark, *self._ours, self._numbers[target])
        self._post(target, b"".join((self._prefix, head, *frames)), len(frames) // 2)

    def _post_tails(self) -> None:
        """Post a message without frames where the last one had some: should that be lost, it is noticed."""
        due, self._due, self._recent = self._due - self._recent, self._recent, set()
        if self._is_registered(0):
            for target in sorted(due):
                self._post_frames(target, [])


@define
class _Origin:
    """An _Origin is a daemon of which messages have come.

    :param next: number of the next message on the way to us alone, and on the way to all.
    :ivar rivals: messages since the last one of it that came of another one with its number and incarnation.
    """

    mark: bytes
    incarnation: int
    next: dict[bool, int | None]
    rivals: int = 0


class Inbox:
    """An Inbox takes messages apart, and tells its receiver the frames and when some are missing.

    :param name: of the set.
    :param mark: of our own messages, which are ignored.
    :param where: the bus, as log lines call it.
    :ivar missed: messages that are known not to have come.
    :ivar refused: messages that were none of this set, by the reason; there are few, whatever comes.
    """

    def __init__(
        self, name: str, mark: bytes, members: Membership, complaints: Complaints, where: str
    ) -> None:
        self.missed = 0
        self.refused: Counter[str] = Counter()
        self.receiver: FrameReceiver | None = None
        self._name, self._mark, self._members = name, mark, members
        self._complaints, self._where = complaints, where
        self._prefix = _prefix(name)
        self._origins: dict[int, _Origin] = {}
        # Number → mark of one that was heard under it, and that the membership knows nothing of.
        self._strangers: dict[int, bytes] = {}

    def take(self, everyone: bool, message: bytes) -> None:
        """Take the next message.

        :param everyone: it came on the way to all.
        """
        if self.receiver is None:
            return
        if not message.startswith(self._prefix) or len(message) < len(self._prefix) + _HEAD.size:
            self._refuse(*self._stranger(message))
            return
        mark, number, incarnation, counted = _HEAD.unpack_from(message, len(self._prefix))
        if mark == self._mark:
            return
        frames = _split(message, len(self._prefix) + _HEAD.size)
        if frames is None:
            self._refuse("a message that was cut")
        elif self._knows(number, mark, incarnation) and self._follows(number, everyone, counted):
            take = self.receiver.frame
            for frame in frames:
                take(number, frame)

    def interrupted(self) -> None:
        """Note that nothing was received for a while; tell of every daemon that may have sent something."""
        for origin in self._origins.values():
            origin.next = {True: None, False: None}
        if self.receiver is not None:
            for number in sorted(self._origins.keys() | self._members.others.keys()):
                self.receiver.lost(number)

    def _knows(self, number: int, mark: bytes, incarnation: int) -> bool:
        """Return whether the sender is who it says it is, as far as can be known.

        The membership says who there is, and may be late: so a higher incarnation than it knows is believed,
        until something comes of the one that it knows. ADR 0225.
        """
        origin, ours = self._origins.get(number), self._members.ours
        if origin is not None and (origin.incarnation, origin.mark) == (incarnation, mark):
            origin.rivals = 0
            return True
        if not 0 <= number <= LAST:
            cause = _ANOTHER_SET
        elif ours is not None and ours[0] == number:
            cause = _OURS
        else:
            cause = self._why_not(number, mark, incarnation, origin)
        if cause:
            self._refuse(cause, number)
        else:
            self._believe(number, mark, incarnation, origin)
        return not cause

    def _why_not(self, number: int, mark: bytes, incarnation: int, origin: _Origin | None) -> str:
        """Return why a sender is not believed that is not the one of before; empty: it is."""
        if incarnation == self._members.others.get(number):
            if origin is None or origin.incarnation != incarnation:
                return ""
        elif mark == self._strangers.get(number):
            return _TWO_DAEMONS
        if origin is None or incarnation > origin.incarnation:
            return ""
        if incarnation < origin.incarnation:
            return _DEAD
        origin.rivals += 1
        return _TWO_DAEMONS if origin.rivals < RIVALS else ""

    def _believe(self, number: int, mark: bytes, incarnation: int, before: _Origin | None) -> None:
        """Take a sender for the daemon with this number from now on."""
        if self._strangers.get(number) == mark:
            del self._strangers[number]
        if before is None or incarnation > before.incarnation:
            self._origins[number] = _Origin(mark, incarnation, {True: 1, False: 1})
            return
        self._strangers[number] = before.mark
        self._refuse(_TWO_DAEMONS, number)  # what came of the other one, and should have been
        self._origins[number] = _Origin(mark, incarnation, {True: None, False: None})
        assert self.receiver is not None
        self.receiver.lost(number)

    def _follows(self, number: int, everyone: bool, counted: int) -> bool:
        """Return whether a message is new; tell the receiver when others should have come before it."""
        origin = self._origins[number]
        expected = origin.next[everyone]
        if expected is not None and counted < expected:
            self._refuse("daemon {number} sends a message twice", number)
            return False
        origin.next[everyone] = counted + 1
        if expected is not None and counted > expected:
            self.missed += counted - expected
            assert self.receiver is not None
            self.receiver.lost(number)
        return True

    def _stranger(self, message: bytes) -> tuple[str, int]:
        if message[:2] != b"PV":
            return "something that is no message of platziverse", 0
        if message[2:3] != self._prefix[2:3]:
            return _ANOTHER_VERSION, message[2] if len(message) > 2 else 0
        return _ANOTHER_SET, 0

    def _refuse(self, cause: str, number: int = 0) -> None:
        """Count and say a message that is refused.

        :param number: what the text of the cause names; no cause of its own, as a stranger may choose it.
        """
        self.refused[cause] += 1
        self._complaints.warn(
            "bus: " + cause.format(number="N"),
            "ignored on the bus {address}, set {name!r}: {reason} ({count} so far)",
            address=self._where,
            name=self._name,
            reason=cause.format(number=number),
            count=self.refused[cause],
        )


def _split(message: bytes, start: int) -> list[bytes] | None:
    """Return the frames of a message from byte ``start`` on; ``None``: the last one is not whole."""
    frames, end, size = [], len(message), _LENGTH.size
    while start < end:
        if end - start < size:
            return None
        (length,) = _LENGTH.unpack_from(message, start)
        begin = start + size
        start = begin + length
        frames.append(message[begin:start])
    return frames if start == end else None
