"""Wills: what is stored of them, and those that are unfinished when their clients are gone."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.records import WillGone, WillLeft
from platziverse.broker.turn import Turn
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import encode_will_properties

#: Connections of one process in one millisecond, at most: as numbers they are those of this process alone.
_PER_MILLISECOND: Final = 1 << 20


class UnfinishedWills:
    """UnfinishedWills counts the Wills that were published, or discarded, and are not finished with.

    Handlers still work on them, or the store does; their clients are gone and cannot be held.

    :ivar count: how many there are.
    :ivar bytes: of their payloads together.
    """

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def watch(self, answer: "Deferred[object]", size: int) -> None:
        """Count a Will of ``size`` bytes until ``answer`` fires."""
        self.begun(size)
        answer.addCallback(lambda _: self.finished(size))

    def begun(self, size: int) -> None:
        """Count a Will of ``size`` bytes."""
        self.count += 1
        self.bytes += size

    def finished(self, size: int) -> None:
        """Count a Will of ``size`` bytes less."""
        self.count -= 1
        self.bytes -= size


class DueWills:
    """DueWills publishes the Wills of clients that have gone, as many in a turn as there is time for.

    Thousands of clients may end in one turn, when their Keep Alive is over at once. What is left when the
    time is over goes on in the next turn, in the same order, and counts as unfinished. ADR 0088.

    :param turn: what such work may take of a turn of the reactor.
    :param unfinished: counts those that wait.
    """

    def __init__(self, clock: IReactorTime, turn: Turn, unfinished: UnfinishedWills) -> None:
        self._clock, self._turn, self._unfinished = clock, turn, unfinished
        #: By Client Identifier, each with its bytes.
        self.waiting: dict[str, tuple[Callable[[], None], int]] = {}
        self._goes_on = False

    def add(self, client_id: str, size: int, publish: Callable[[], None]) -> None:
        """Call ``publish``, now if none waits and there is time, else later.

        :param size: of the Will in bytes.
        """
        if not self._goes_on:
            if not self._turn.is_over:
                publish()
                return
            self._in_the_next_turn()
        self._unfinished.begun(size)
        self.waiting[client_id] = publish, size

    def publish_now(self, client_id: str) -> None:
        """Publish the Will of a client that is about to come back, if it waits: what it sends is newer."""
        if (waiting := self.waiting.pop(client_id, None)) is not None:
            publish, size = waiting
            self._unfinished.finished(size)
            publish()

    def _in_the_next_turn(self) -> None:
        self._goes_on = True
        self._clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        published = 0
        try:
            # One at least, whoever else has used up the turn.
            while self.waiting and not (self._turn.is_over and published):
                self.publish_now(next(iter(self.waiting)))
                published += 1
        finally:
            self._goes_on = False
            if self.waiting:
                self._in_the_next_turn()


class DelayedWills:
    """DelayedWills keeps the Wills of clients of MQTT 5 that may come back in time. [MQTT5-3.1.3-9]"""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # Client Identifier → what publishes it, or discards it.
        self._waiting: dict[str, tuple[IDelayedCall, Callable[[bool], None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def left(self, client_id: str) -> float | None:
        """Return how many seconds the Will of a client still waits; ``None``: it does not."""
        call, *_ = self._waiting.get(client_id, (None,))
        return call.getTime() - self._clock.seconds() if call is not None else None

    def add(self, client_id: str, delay: float, end: Callable[[bool], None]) -> None:
        """Call ``end`` with ``True`` after the delay, unless something is known before."""
        self._waiting[client_id] = self._clock.callLater(delay, self.end, client_id, True), end

    def end(self, client_id: str, publish: bool) -> None:
        """Publish the Will of a client whose Session ends, or discard it: the client is back."""
        if (end := self.forget(client_id)) is not None:
            end(publish)

    def clear(self) -> Iterator[None]:
        """Do nothing with any of them, one after the other: all are somebody else's."""
        while self._waiting:
            self.forget(next(iter(self._waiting)))
            yield

    def forget(self, client_id: str) -> "Callable[[bool], None] | None":
        """Do nothing with the Will of a client: it is somebody else's; return what would have been called."""
        call, end = self._waiting.pop(client_id, (None, None))
        if call is not None and call.active():
            call.cancel()
        return end


class WillRecords:
    """WillRecords saves the Wills that connections leave, until they are published or discarded.

    Nobody waits for that: a Will whose connection ends with the process a moment later may be lost.

    :param save: saves a record; the Deferred fires when that is done with, committed or not.
    :param began: seconds since the epoch when this process began, wall clock. Numbers of connections begin
        there, so that none is that of a connection of an earlier process.
    :ivar ready: the Wills of earlier processes are published, so they may be overwritten. Nothing is saved
        before; those of the clients that are connected then are saved late.
    :ivar restored: what deletes each stored Will that waits here, or was published, and is not deleted: an
        heir that inherits once more reads it again.
    """

    def __init__(self, save: "Callable[[WillLeft | WillGone], Deferred[Any]]", began: float) -> None:
        self._save = save
        self._first = int(began * 1000) * _PER_MILLISECOND
        self.ready = False
        self.restored: set[WillGone] = set()

    def left(self, client: Client, will: Publish, delay: int = 0, due: float | None = None) -> None:
        """Save the Will that ``client`` has left.

        :param delay: its Will Delay Interval.
        :param due: when that is over, in seconds since the epoch; ``None``: the client is connected.
        """
        if self.ready:
            number = self._first + client.number
            name, user, qos, retain = client.client_id, client.username, will.qos, will.retain
            properties = encode_will_properties(will.properties, delay)
            self._save(WillLeft(name, user, number, will.topic, will.payload, qos, retain, properties, due))

    def gone_of(self, client: Client) -> WillGone:
        """Return what deletes the Will that ``client`` has left."""
        return WillGone(client.client_id, self._first + client.number)

    def restore(self, gone: WillGone) -> bool:
        """Note that a stored Will is about to wait, or to be published; return whether it was already."""
        before = len(self.restored)
        self.restored.add(gone)
        return len(self.restored) == before

    def gone(self, gone: WillGone) -> Answer:
        """Save that a Will was published, or discarded, if it may be stored."""
        if not self.ready and gone not in self.restored:
            return None
        return self._save(gone).addCallback(lambda _: self.restored.discard(gone))
