"""AckQueue: acknowledgements leave in the order in which their PUBLISHes came."""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.owing import Owing
from platziverse.mqtt.packets import Publish


class _Nowhere:
    """_Nowhere is the way of a closed connection."""

    def send(self, data: bytes, /) -> None:
        """Forget the bytes."""


NOWHERE: Final = _Nowhere()


class Pending:
    """A Pending is the place of one acknowledgement in its queue."""

    __slots__ = ("_queue", "data", "finished", "left")

    def __init__(self, queue: "AckQueue", data: bytes) -> None:
        self._queue = queue
        self.data = data
        self.finished = False
        #: Fire when it has left; ``None``: nobody waits for that.
        self.left: list[Deferred[None]] | None = None

    @property
    def pubacks(self) -> int:
        """How many messages at QoS 1 are acknowledged here."""
        return self.data[:1] == b"\x40"

    def done(self) -> None:
        """Send the acknowledgement as soon as all before it have been sent: the message is ours."""
        self.finished = True
        self._queue.release()


class Publications(Protocol):
    """Publications are what a client publishes."""

    def all_stored(self, bundle: "Bundle", /) -> None:
        """Acknowledge messages of one run together."""

    def none_stored(self, bundle: "Bundle", failure: Failure, /) -> None:
        """Acknowledge none of the messages of one run."""


class Bundle(Pending):
    """A Bundle is messages of one run that are acknowledged together, in one place of the queue. ADR 0124.

    :param publications: whose messages they are.
    :param owing: what durable Sessions owe for them.
    :param message: the first, at QoS 1; more of them may still come.
    :ivar size: bytes of their payloads, once no further one comes.
    """

    __slots__ = ("_publications", "messages", "owing", "size")

    def __init__(self, publications: Publications, queue: "AckQueue", owing: Owing, message: Publish) -> None:
        super().__init__(queue, b"")
        self._publications, self.owing, self.messages, self.size = publications, owing, [message], 0

    @property
    def pubacks(self) -> int:
        """How many messages wait here."""
        return len(self.messages)

    def stored(self) -> None:
        """Acknowledge the messages: they are ours."""
        self._publications.all_stored(self)

    def refused(self, failure: Failure) -> None:
        """Acknowledge none of the messages."""
        self._publications.none_stored(self, failure)


class Way(Protocol):
    """A Way takes the bytes of finished acknowledgements, to be joined with others of the same turn."""

    def send(self, data: bytes, /) -> None: ...


class AckQueue:
    """An AckQueue holds the acknowledgements that one connection still owes, in the order of their messages.

    :param way: asked for its ``send`` each time: it may become another one, that of a trace.
    """

    __slots__ = ("_pending", "_way")

    def __init__(self, way: Way) -> None:
        self._way = way
        self._pending: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._pending)

    def expect(self, data: bytes) -> Pending:
        """Reserve the place of an acknowledgement with these bytes."""
        pending = Pending(self, data)
        self.append(pending)
        return pending

    def append(self, pending: Pending) -> None:
        """Reserve the place of an acknowledgement behind all others."""
        self._pending.append(pending)

    def release(self) -> None:
        """Send the finished head of the queue; at QoS 0 there is nothing to send."""
        pending = self._pending
        while pending and pending[0].finished:
            first = pending.popleft()
            if first.data:
                self._way.send(first.data)
            if first.left is not None:
                for left in first.left:
                    left.callback(None)

    def when_left(self, data: bytes) -> "Deferred[None] | None":
        """Return a Deferred that fires when the last acknowledgement has left that begins as these bytes.

        :param data: a whole packet; those with a Reason Code differ in their length, and are meant as well.
        :return: ``None``: there is none in the queue. At the end of the queue the Deferred is cancelled.
        """
        for pending in reversed(self._pending):
            if pending.data[:1] == data[:1] and pending.data[2:4] == data[2:4]:
                left: Deferred[None] = Deferred()
                pending.left = [*(pending.left or ()), left]
                return left
        return None

    def end(self) -> None:
        """Owe nothing any more: the client has gone."""
        ended, self._pending = self._pending, deque()
        self._way = NOWHERE
        for pending in ended:
            for left in pending.left or ():
                left.cancel()
