"""Crossings: what other daemons owe to our durable Sessions, taken in the order of positions. ADR 0139."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from platziverse.broker.durable import RETRY, Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import Acknowledged, StoredMessage, ends_of
from platziverse.cluster.awaited import Awaited
from platziverse.cluster.frames import Align, Aligned, Done, Frame, Message, Owed, Stored
from platziverse.cluster.held import Ahead, Held, Overflow, size_of
from platziverse.cluster.legacy import holds_copy
from platziverse.cluster.links import ALL, POSITIONS

#: Messages that are read at once.
PAGE: Final = 100
#: States of a Crossing: it has asked from where on it gets copies; it was told; it reads the rows before; it
#: takes copies.
ASKED: Final = "asked"
TOLD: Final = "told"
READS: Final = "reads"
FOLLOWS: Final = "follows"
#: Seconds after which the other daemon is asked again, if it has not answered, or rows are read without it:
#: for each that is read it may write another one.
ASK: Final = 1.0
ALONE: Final = 3.0


class Crossing:
    """A Crossing takes what another daemon owes to our durable Sessions, in the order of positions.

    :param number: of the link.
    :param durable: reads the rows, and deletes those that have crossed.
    :param route: hands a message to our clients; it is given the row that theirs take the place of.
    :param tell: sends a frame to the other daemon.
    :param complain: is told why rows could not be read, or a message not be saved.
    :param overflow: of what waits here, and in others.
    :param is_new: rows before the first copies are for nobody, see :attr:`nobodys`.
    :ivar last: the highest position that was taken.
    :ivar nobodys: rows up to this position are for nobody, but for copies of groups; ``None``: those before
        the first copies are. They were owed to Sessions that are elsewhere by now. ADR 0229.
    """

    def __init__(
        self,
        number: int,
        durable: Durable,
        route: Callable[[Owed, tuple[int, int]], Answer],
        tell: Callable[[Frame], None],
        complain: Callable[[Failure], None],
        overflow: Overflow,
        is_new: bool = False,
    ) -> None:
        self.number, self.last = number, 0
        self.nobodys = None if is_new else 0
        self._durable, self._route, self._tell, self._complain = durable, route, tell, complain
        self._asked = 0
        # Positions that were taken and are not Done.
        self._pending: dict[int, None] = {}
        # Rows are read and deleted without the other one, which has died, or does not answer.
        self._alone = False
        # What was there when the other one has gone, or has answered last, was read.
        self.has_read = False
        # Up to where rows are read, and where the next begin.
        self._state, self._through, self._at = ASKED, ALL, 0
        self._origin, self._overflow = ends_of(number)[0], overflow
        self._held = Held(self._origin, overflow)
        # What was read without the other one, which is there.
        self._ahead = Ahead(durable.limits.max_unfinished_total)
        # Messages without a position: the one that each is behind, a count, its size, and what hands it on.
        self._behind: list[tuple[int, int, int, Callable[[], object]]] = []
        # How many there were, and how large those are that wait; and how much has come since a turn began.
        self._kept = self._size = self._came = 0
        self._gone = self._stopped = False
        # What waits until a position is taken, or done; and until rows are read.
        self._takes, self._dones, self._reads = Awaited(), Awaited(), Awaited()

    def stop(self) -> None:
        """Take nothing more, and delete nothing: what is owed is another one's by now. ADR 0201."""
        self._asked += 1
        self._stopped = True

    # -- what others wait for --------------------------------------------------------------------

    def when_taken(self, position: int) -> "Deferred[None]":
        """Return a Deferred that fires when everything up to a position was taken."""
        return succeed(None) if self.last >= position else self._takes.at(position)

    def when_done(self, position: int) -> "Deferred[None]":
        """Return a Deferred that fires when nothing that was taken up to a position is pending."""
        return succeed(None) if self._lowest > position else self._dones.at(position)

    @property
    def _lowest(self) -> int:
        """The lowest position that is pending; they are in order."""
        return next(iter(self._pending), ALL)

    def when_read(self) -> "Deferred[None]":
        """Return a Deferred that fires when what the other daemon has left is read, if that is under way."""
        return self._reads.at(0) if self._alone and self._state == READS else succeed(None)

    def _has_changed(self) -> None:
        if self._takes:
            self._takes.reach(self.last)
        if self._dones:
            self._dones.reach(self._lowest - 1)
        if self._reads and not (self._alone and self._state == READS):
            self._reads.reach(0)

    # -- over the bus ----------------------------------------------------------------------------

    def align(self) -> None:
        """Ask the other daemon from where on it sends copies; those before are read from the store."""
        self._asked += 1
        self._state, self._alone, self._gone, self.has_read = ASKED, False, False, False
        self._held.clear()
        self._tell(Align(self._asked, self.last, tuple(self._pending)))

    @property
    def is_asking(self) -> bool:
        """Return whether the other daemon has not answered yet."""
        return self._state in (ASKED, TOLD)

    @property
    def is_reading(self) -> bool:
        """Return whether rows are being read."""
        return self._state == READS

    @property
    def patience(self) -> float:
        """Seconds after which the other daemon is asked again."""
        if self.is_asking:
            return ASK
        return ALONE if self._alone else float("inf")

    def try_again(self) -> None:
        """Ask again, in turns with reading what is there: the bus may be away."""
        if self._alone:
            self.align()
        else:
            self.read_all()

    def aligned(self, frame: Aligned) -> None:
        """Hold the copies that come from now on, until the rows before them are read."""
        if frame.number == self._asked:
            self._state, self._through = TOLD, frame.through
            self._ahead.clear()

    def stored(self, frame: Stored) -> None:
        """Read the rows: all of them are committed."""
        if frame.number == self._asked and self._state == TOLD:
            self._begin_reading()

    def came(self, frame: Owed) -> None:
        """Take a copy, if nothing before it is missing."""
        if self._state == FOLLOWS:
            self._take(frame)
        elif self._state != ASKED and not self._alone:  # otherwise it is read, or asked for
            self._held.add(frame)
            self._came += 1

    def _take(self, frame: Owed) -> None:
        position = frame.position
        if frame.previous > self.last:
            self.align()
            return
        answer: Answer = None
        if position > self.last:
            self._go_on(position)
            self.last = position
            self._pending[position] = None
            answer = self._route(frame, (self.number, position))
        if answer is not None:
            answer.addErrback(self._complain).addCallback(self._done, position)
        else:
            self._done(None, position)
        self._has_changed()

    def _done(self, _: object, position: int) -> None:
        if self._stopped:
            return
        self._pending.pop(position, None)
        if self._alone:
            self._durable.record(Acknowledged(self.number, position))
        else:
            self._tell(Done(position))
        self._has_changed()

    # -- what has no position --------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """Return whether copies are taken as they come: nothing before them is missing."""
        return self._state == FOLLOWS

    def keep_behind(self, frame: Message, deliver: Callable[[], object]) -> bool:
        """Call ``deliver`` when everything that a message is behind was taken, and before anything else is.

        When too many wait, or too large ones, the first ones wait no longer.

        :return: ``False``: it has come too late, as a row of its topic that is behind it was read. ADR 0228.
        """
        if self._ahead.passes(frame.topic, frame.after):
            self._overflow.say_passed(self._origin)
            return False
        behind, limits, overtook = self._behind, self._durable.limits, 0
        size = size_of(frame)
        self._kept += 1
        self._came += 1
        self._size += size
        heappush(behind, (frame.after, self._kept, size, deliver))
        while len(behind) > limits.max_unfinished_total or self._size > limits.max_unfinished_bytes:
            overtook += 1
            self._deliver_first()
        if overtook:
            self._overflow.say_overtook(self._origin, overtook)
        return True

    def _deliver_first(self) -> None:
        _, _, size, deliver = heappop(self._behind)
        self._size -= size
        deliver()

    def _go_on(self, position: int) -> None:
        """Deliver what is before the message of a position."""
        while self._behind and self._behind[0][0] < position:
            self._deliver_first()

    # -- from the store --------------------------------------------------------------------------

    def read_all(self, gone: bool = False) -> None:
        """Read all rows that are there: the other daemon has gone, or does not answer."""
        self._asked += 1
        self._held.clear()
        self._alone, self._through, self._gone, self.has_read = True, ALL, gone, False
        if self.nobodys is None and gone:
            self.nobodys = 0  # some may be for ours: that one has known them perhaps
        if self.nobodys is None:
            self._state = ASKED  # nobody knows yet which are ours
        else:
            self._begin_reading()

    def _begin_reading(self) -> None:
        """Read what is behind the last, or everything, as an earlier incarnation has left rows before it."""
        anew = self._through // POSITIONS != self.last // POSITIONS
        if self.nobodys is None:
            self.nobodys = self._through
        self._state, self._at = READS, 0 if anew else self.last
        self._next(self._asked)

    def _next(self, asked: int) -> None:
        """Read the next rows, if nothing was asked since."""
        if asked != self._asked:
            return
        if self._at >= self._through:
            self._end()
            return
        page = self._durable.page(self.number, self._at, self._through, PAGE)
        page.addCallbacks(self._page_came, self._page_failed, (asked,), {}, (asked,))
        page.addErrback(self._complain)

    def _page_came(self, rows: list[StoredMessage], asked: int) -> None:
        if asked != self._asked:
            return
        if not rows:
            self._end()
            return
        self._at = rows[-1].position
        answers = [answer for row in rows if (answer := self._cross(row)) is not None]
        self._has_changed()
        # Only so many are under way at once.
        DeferredList(answers).addCallback(lambda _: self._next(asked))

    def _page_failed(self, failure: Failure, asked: int) -> None:
        self._complain(failure)
        self._durable.clock.callLater(RETRY, self._next, asked)

    def _cross(self, row: StoredMessage) -> Answer:
        position = row.position
        if position <= (self.nobodys or 0) and not holds_copy(row):
            self._crossed(None, position)
            return None
        if position <= self.last:  # it was taken as a copy, by an answer that nobody heard
            if position not in self._pending:
                self._crossed(None, position)
            return None
        self._go_on(position)
        if self._alone and not self._gone:
            self._ahead.add(row.topic, position)
        self.last = position
        frame = Owed(position, row.topic, row.payload, row.qos, properties=row.properties)
        answer = self._route(frame, (self.number, position))
        if answer is None:
            self._crossed(None, position)
            return None
        self._pending[position] = None
        return answer.addErrback(self._complain).addCallback(self._crossed, position)

    def _crossed(self, _: object, position: int) -> None:
        if self._stopped:
            return
        self._pending.pop(position, None)
        self._durable.record(Acknowledged(self.number, position))
        self._has_changed()

    def _end(self) -> None:
        """Take copies from now on: all that was before them is ours."""
        self.has_read = True
        if self._alone:
            self._state = ASKED
            self._go_on(ALL if self._gone else self.last + 1)
        else:
            self.last, self._came = max(self.last, self._through), 0
            self._take_held(self._asked)
        self._has_changed()

    def _take_held(self, asked: int) -> None:
        """Take what has come meanwhile, in turns of the reactor; then copies as they come.

        What comes while this goes on waits too. So that it ends, a turn takes at least twice as much as has
        come since the one before. ADR 0227.
        """
        least, self._came = 2 * self._came, 0
        try:
            while self._is_taking(asked) and (least > 0 or not self._overflow.turn.is_over):
                least -= 1
                self._take_next()
        finally:
            if self._is_taking(asked):
                self._durable.clock.callLater(0, self._take_held, asked)

    def _is_taking(self, asked: int) -> bool:
        return asked == self._asked and self._state == READS

    def _take_next(self) -> None:
        """Take the next copy that waits, or deliver what is before it."""
        behind, held = self._behind, self._held
        if held.spills and held.first == ALL:  # what is behind them is a row, and perhaps the last there is
            self.align()
        elif behind and behind[0][0] < held.first:
            self._deliver_first()
        elif held.first < ALL:
            self._take(held.pop())
        else:
            self._state = FOLLOWS
            self._has_changed()
