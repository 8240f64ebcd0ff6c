"""LocalBus: the daemons of one process, for a daemon that is alone, and for tests of several."""

from collections import deque

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from platziverse.broker.ports import FrameReceiver


class LocalHub:
    """A LocalHub is where the buses of one process meet.

    :param clock: frames are delivered in the turn after the one in which they were sent.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.receivers: dict[int, FrameReceiver] = {}


class LocalBus:
    """A LocalBus is the :class:`~platziverse.broker.ports.MessageBus` of one daemon.

    :param daemon: its number, from 0; bit ``1 << daemon`` of a mask is its own.
    :ivar lost: always 0, as ``missed`` and ``refused``; ``state`` is always ``"ready"``.
    """

    def __init__(self, hub: LocalHub, daemon: int) -> None:
        self.lost = self.missed = self.refused = 0
        self.state = "ready"
        self._hub, self._daemon = hub, daemon
        self._sent: deque[tuple[int, bytes]] = deque()

    def start(self, receiver: FrameReceiver) -> "Deferred[None]":
        """Begin to receive frames."""
        self._hub.receivers[self._daemon] = receiver
        return succeed(None)

    def send(self, daemons: int, frame: bytes) -> None:
        """Send ``frame`` to every daemon whose bit is set in ``daemons`` and that has started."""
        if not self._sent:
            self._hub.clock.callLater(0, self._deliver)
        self._sent.append((daemons, frame))

    def stop(self) -> "Deferred[None]":
        """Send and receive nothing more; frames sent in this turn do not leave."""
        self._hub.receivers.pop(self._daemon, None)
        self._sent.clear()
        return succeed(None)

    def _deliver(self) -> None:
        sent, self._sent = self._sent, deque()
        for daemons, frame in sent:
            for daemon, receiver in list(self._hub.receivers.items()):
                if daemon != self._daemon and daemons >> daemon & 1:
                    receiver.frame(self._daemon, frame)
