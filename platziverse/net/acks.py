"""AckQueue: acknowledgements leave in the order in which their PUBLISHes came."""

from collections import deque
from collections.abc import Callable


class Pending:
    """A Pending is the place of one acknowledgement in its queue."""

    __slots__ = ("_queue", "data", "finished", "waits")

    def __init__(self, queue: "AckQueue", data: bytes) -> None:
        self._queue = queue
        self.data = data
        self.finished = False
        #: FlowControl has been told of it; ``None``: not yet, and ``False``: it need not be.
        self.waits: bool | None = None

    def done(self) -> None:
        """Send the acknowledgement as soon as all before it have been sent: the message is ours."""
        self.finished = True
        self._queue.release()


class AckQueue:
    """An AckQueue holds the acknowledgements that one connection still owes, in the order of their messages.

    :param send: takes the bytes of a finished acknowledgement, to be joined with others of the same turn.
    """

    __slots__ = ("_pending", "_send")

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._pending: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, data: bytes) -> Pending:
        """Reserve the place of an acknowledgement with these bytes."""
        pending = Pending(self, data)
        self._pending.append(pending)
        return pending

    def release(self) -> None:
        """Send the finished head of the queue; at QoS 0 there is nothing to send."""
        pending = self._pending
        while pending and pending[0].finished:
            data = pending.popleft().data
            if data:
                self._send(data)

    def end(self) -> None:
        """Owe nothing any more: the client has gone."""
        self._pending.clear()
        self._send = _nowhere


def _nowhere(data: bytes) -> None:
    """Take the acknowledgements of a closed connection."""
