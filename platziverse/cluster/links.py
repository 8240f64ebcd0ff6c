"""Links: what daemons owe to durable Sessions of each other, in positions, until it is theirs.

Of each pair of daemons the one that owes has a :class:`Link`, and the other one a ``Crossing``. A copy
of each message goes over the bus, and is answered when the Sessions have it; what is not answered soon, and
all of QoS 2, is a row of the link in the store. So nothing is lost by the bus: whoever may have missed a copy
*aligns*, reads the rows up to a position, and takes copies from there on. Decided in ADR 0139.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from attrs import define, field, frozen

from platziverse.broker.durable import Durable
from platziverse.broker.owing import Owing, Unsettled
from platziverse.broker.pace import Pace
from platziverse.broker.records import Acknowledged
from platziverse.cluster.frames import Align, Aligned, Frame, Owed, Stored
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.properties import store_properties

#: Positions of one incarnation: those of the next are above them.
POSITIONS: Final = 1 << 40
#: Above every position.
ALL: Final = (1 << 63) - 1


@define
class Serials:
    """Serials are the positions that a daemon gives to what it owes.

    All its links share them: a message has the same position in each, so two daemons that get it can tell.

    :ivar last: the highest position that was given.
    :ivar unsent: topic → link → how many of its messages wait for a commit, and are not sent.
    """

    last: int = 0
    unsent: dict[str, Counter[int]] = field(factory=dict)

    def begin(self, incarnation: int) -> int:
        """Return the position below all those of this incarnation, and give none at or below it."""
        first = incarnation * POSITIONS
        self.last = max(self.last, first)
        return first


@frozen
class _Unsent:
    """An _Unsent is a message that waits for the commit of one before it, or its own.

    :ivar position: 0: it is owed to nobody.
    """

    position: int
    topic: str
    qos: int
    send: Callable[[], None]


class Link:
    """A Link is the queue of what this daemon owes to durable Sessions of another one.

    It stands among the Windows of our own Sessions; see :class:`Durable`.

    :param number: of the link, as the store has it.
    :param incarnation: of this daemon.
    :param serials: of all links of this daemon.
    :param tell: sends a frame to the other daemon.
    :ivar unsettled: what is neither committed nor answered.
    """

    def __init__(
        self, number: int, incarnation: int, serials: Serials, durable: Durable, tell: Callable[[Frame], None]
    ) -> None:
        self.number, self._serials = number, serials
        first = serials.begin(incarnation)
        self.unsettled, self.pace = Unsettled(self.last), Pace(durable.clock)
        self._durable, self._tell = durable, tell
        # Copies are sent: the other one is there, and has said from where on.
        self._follows = False
        # What waits for the commit of a message of QoS 2 before it, as that is sent when it is committed.
        self._unsent: deque[_Unsent] = deque()
        # Position → number of the message of rows that are committed and not answered.
        self._committed: dict[int, int] = {}
        # Positions that the other daemon had taken as copies, and not answered, when it asked last.
        self._taken: set[int] = set()
        self._aligning: int | None = None
        # The last position before this incarnation; that up to which the other daemon reads rows itself.
        self._first, self._through = first, self.last
        # Positions of the last copy that was sent, and of the last message of this link.
        self._sent = self._newest = self.last

    # -- as a Window -----------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The highest position that was given, in whichever link."""
        return self._serials.last

    @property
    def newest(self) -> int:
        """The highest position that the other daemon is going to get."""
        return self._newest

    @property
    def head(self) -> int:
        """The position at and below which everything is committed or answered."""
        return next(iter(self.unsettled), self.last + 1) - 1

    @property
    def inflight(self) -> int:
        """How many messages are neither committed nor answered."""
        return len(self.unsettled)

    @property
    def loaded(self) -> int:
        """The highest position that may have been sent."""
        return self.last if self._follows else 0

    def take(self, owing: Owing, message: EncodedPublish, qos: int) -> bool:
        """Give a message the next position, and send a copy; return whether an answer is likely soon."""
        position = owing.first[self.number][0] + len(owing.messages) - 1
        self._newest = position
        self._serials.last = max(self._serials.last, position)
        self.unsettled[position] = owing
        if not self._follows:
            return False
        if qos == 2 or self._unsent:
            self._wait(_Unsent(position, message.topic, qos, partial(self._send, position, message, qos)))
            return False
        self._send(position, message, qos)
        return self.pace.quick

    def sends(self, size: int) -> bool:
        """Return ``False``: no message joins others without a look at it."""
        return False

    def offer(self, owing: Owing, messages: Sequence[EncodedPublish]) -> int:
        """Return 0: each message is taken."""
        return 0

    def _send(self, position: int, message: EncodedPublish, qos: int) -> None:
        self.pace.sent(position, len(self.unsettled))
        properties = store_properties(message.message.properties)
        self._tell(Owed(position, message.topic, message.payload, qos, self._sent, properties))
        self._sent = position

    def committed(self, position: int, number: int) -> None:
        """Note that the row of this position is committed."""
        del self.unsettled[position]
        if self._follows and (position > self._through or position in self._taken):
            self._committed[position] = number

    def failed(self, position: int, size: int) -> None:
        """Note that the row of this position never will be: it is sent no more."""
        if self.unsettled.pop(position, None) is not None:
            unsent = self._take_unsent()
            for one in unsent:
                if one.position != position:
                    self._wait(one)
            if position == self._newest:
                self._newest = max([self._sent, *(one.position for one in self._unsent)])
            self.go_on()

    def go_on(self) -> None:
        """Send what has waited for a commit."""
        unsent = self._unsent
        while unsent and not (unsent[0].qos == 2 and unsent[0].position in self.unsettled):
            one = unsent.popleft()
            self._forget(one)
            one.send()
        self._check_aligned()

    # -- what waits for a commit -----------------------------------------------------------------

    def _wait(self, one: "_Unsent") -> None:
        self._unsent.append(one)
        self._serials.unsent.setdefault(one.topic, Counter())[self.number] += 1

    def _take_unsent(self) -> "deque[_Unsent]":
        unsent, self._unsent = self._unsent, deque()
        for one in unsent:
            self._forget(one)
        return unsent

    def _forget(self, one: "_Unsent") -> None:
        topics, number = self._serials.unsent, self.number
        links = topics[one.topic]
        links[number] -= 1
        if not links[number]:
            del links[number]
        if not links:
            del topics[one.topic]

    def pass_behind(self, topic: str, send: Callable[[], None]) -> bool:
        """Call ``send`` when messages of a topic have left that wait for a commit; return whether any does.

        It sends a message that is owed to nobody there any more. ADR 0185.
        """
        if self.number not in self._serials.unsent.get(topic, ()):
            return False
        self._wait(_Unsent(0, topic, 0, send))
        return True

    # -- the other daemon ------------------------------------------------------------------------

    def done(self, position: int) -> None:
        """Owe a message no more: its Sessions have it."""
        self.pace.owned(position, self._durable.grace)
        owing = self.unsettled.pop(position, None)
        if owing is not None:
            entry = owing.withdraw(self.number, position)
            if entry is not None:
                self._delete(position, self._durable.is_over(entry.number, len(entry.rows)))
            self.go_on()
        elif position in self._committed:
            self._delete(position, self._durable.is_over(self._committed.pop(position)))
        elif position <= self._first:  # of an earlier incarnation, whose row may be there
            self._delete(position, 0)

    def _delete(self, position: int, over: int) -> None:
        self._durable.record(Acknowledged(self.number, position, over))

    def align(self, frame: Align) -> None:
        """Begin to send copies, behind those up to which the other daemon will read rows."""
        self._taken = pending = set(frame.pending)
        last = frame.last
        for position in [one for one in (*self._committed, *self.unsettled) if one <= last]:
            if position not in pending:
                self.done(position)
        # What is behind it reads, and deletes, itself.
        self._committed = {one: number for one, number in self._committed.items() if one <= last}
        unsent = self._take_unsent()
        self._follows = True
        self.pace.begin()
        self._through, self._aligning = self.last, frame.number
        self._sent = self.last
        self._tell(Aligned(frame.number, self.last))
        for one in unsent:
            if not one.position:
                one.send()
        for owing in list(self.unsettled.values()):
            self._durable.save_owing(owing)
        self._check_aligned()

    def _check_aligned(self) -> None:
        if self._aligning is not None and next(iter(self.unsettled), ALL) > self._through:
            number, self._aligning = self._aligning, None
            self._tell(Stored(number))

    def part(self) -> None:
        """Send no more copies: the other daemon has gone, and somebody will read the rows."""
        self._follows, self._aligning = False, None
        self._take_unsent()
        self._committed.clear()
        for owing in list(self.unsettled.values()):
            self._durable.save_owing(owing)
