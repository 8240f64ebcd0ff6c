"""Pubsub: the two ends of the bus at a Redis server, of which each has a connection of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall

from platziverse.broker.complaints import Complaints
from platziverse.broker.ports import Membership
from platziverse.bus.envelope import ALL, Inbox
from platziverse.bus.kept import BusState, KeptConnection, Steps
from platziverse.bus.pending import Pending
from platziverse.bus.resp import Refused, RespConnection

#: Called with channel and payload.
Message = Callable[[bytes, bytes], None]
#: Connects to the server of the moment; given what takes the messages, for a connection that subscribes.
Opener = Callable[["Message | None"], "Deferred[RespConnection]"]

#: Seconds between two looks at our number, which the database gives us, and may give anew.
LOOK: Final = 0.1
#: The target of the messages that only ask whether we may publish.
CHECK: Final = -2


def channel(name: str, target: int) -> bytes:
    """Return the channel of a daemon of the set ``name``, or that of all.

    In a cluster the text in braces decides which node has it, so the nodes share the daemons.
    """
    ending = {ALL: "all", CHECK: "check"}.get(target) or f"{{{target}}}"
    return f"pv:{name}:{ending}".encode()


class Publisher:
    """A Publisher sends messages to the channels of a set, without ever waiting for the server.

    :param name: of the set.
    :param command: ``PUBLISH`` or ``SPUBLISH``.
    :param max_pending: bytes that the server has not answered yet; what is sent beyond is dropped.
    :param doubt: called with the target of each message that may be lost.
    :param moved: called when a channel is no longer at this node of a cluster.
    :ivar ready: fires when messages can be sent for the first time.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        open: Opener,
        state: BusState,
        complaints: Complaints,
        max_pending: int,
        doubt: Callable[[int], None],
        command: bytes = b"PUBLISH",
        moved: Callable[[], None] = lambda: None,
        part: str = "sending",
    ) -> None:
        self._name, self._command, self._moved = name, command, moved
        self._pending = Pending(complaints, state.where, max_pending, doubt)
        self._heads: dict[int, bytes] = {}
        self._kept = KeptConnection(reactor, lambda: open(None), self._try, state, part)
        self.start, self.stop, self.ready = self._kept.start, self._kept.stop, self._kept.ready

    @property
    def pending(self) -> int:
        """Return the bytes that the server has not taken yet."""
        return self._pending.bytes

    @property
    def lost(self) -> int:
        """Return how many frames are known to be lost."""
        return self._pending.lost

    def publish(self, target: int, message: bytes, frames: int) -> None:
        """Send ``message`` with so many frames to a daemon or to ``ALL``; if that is impossible, drop it."""
        connection, size = self._kept.connection, len(message)
        if connection is None:
            self._pending.lose(target, frames)
            return
        if not self._pending.enter(target, size, frames):
            return
        head = self._heads.get(target) or self._head(target)
        answered = partial(self._answered, target, size, frames, connection)
        connection.send((b"%s%d\r\n" % (head, size), message, b"\r\n"), answered)

    def _head(self, target: int) -> bytes:
        words = self._command, channel(self._name, target)
        head = b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words) + b"$"
        self._heads[target] = head
        return head

    def _answered(
        self, target: int, size: int, frames: int, connection: RespConnection, reply: object
    ) -> None:
        self._pending.leave(size)
        if isinstance(reply, Exception):
            self._pending.lose(target, frames)
            if isinstance(reply, Refused):
                self._refused(connection, reply)
        elif reply == 0 and target != ALL:
            self._pending.lost += frames  # nobody has subscribed; a cluster tells no more than that either

    def _refused(self, connection: RespConnection, error: Refused) -> None:
        if error.said.startswith(("MOVED ", "ASK ", "CLUSTERDOWN ", "TRYAGAIN ")):
            self._moved()
        else:
            connection.give_up(str(error))

    @inlineCallbacks
    def _try(self, connection: RespConnection) -> Steps:
        """Ask whether we may publish, by a message to a channel without subscribers."""
        try:
            yield connection.command(self._command, channel(self._name, CHECK), b"")
        except Refused as error:
            if not error.said.startswith("MOVED "):
                raise


class Subscriber:
    """A Subscriber receives what is sent to us and to all.

    :param inbox: takes the messages.
    :param command: ``SUBSCRIBE`` or ``SSUBSCRIBE``.
    :param everyone: there is a channel of all.
    :ivar ready: fires when messages can arrive for the first time.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        open: Opener,
        state: BusState,
        inbox: Inbox,
        members: Membership,
        command: bytes = b"SUBSCRIBE",
        everyone: bool = True,
    ) -> None:
        self._name, self._inbox, self._members = name, inbox, members
        self._command, self._everyone = command, everyone
        self._all = channel(name, ALL)
        self._number: int | None = None
        self._kept = KeptConnection(reactor, lambda: open(self._take), self._subscribe, state, "receiving")
        self.ready = self._kept.ready
        self._look = LoopingCall(self._look_at_number)
        self._look.clock = reactor

    def start(self) -> None:
        """Subscribe as soon as we have a number, and again whenever it is another."""
        self._look.start(LOOK)

    def stop(self) -> "Deferred[None]":
        """Receive nothing more; the Deferred fires when the connection is closed."""
        if self._look.running:
            self._look.stop()
        return self._kept.stop()

    def _take(self, channel: bytes, message: bytes) -> None:
        self._inbox.take(channel == self._all, message)

    def _look_at_number(self) -> None:
        ours = self._members.ours
        if ours is None or ours[0] == self._number:
            return
        first, self._number = self._number is None, ours[0]
        if first:
            self._kept.start()
        elif self._kept.connection is not None:
            self._kept.connection.give_up(f"we are daemon {self._number} now")

    @inlineCallbacks
    def _subscribe(self, connection: RespConnection) -> Steps:
        assert self._number is not None
        channels = [channel(self._name, self._number)] + [self._all] * self._everyone
        for one in channels:
            yield connection.command(self._command, one)
        if self.ready.called:
            self._inbox.interrupted()
