"""A TCP transport that sends at once.

Twisted's ``write`` queues, arms the descriptor for writing, waits for a turn of the reactor and disarms
it: two ``epoll_ctl`` and a turn for each small answer (14.6 instead of 9.4 µs per round trip).
"""

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IListeningPort
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Port, Server


class ImmediateServer(Server):
    """Tries ``send`` first, and queues what the kernel does not take."""

    def doRead(self) -> ConnectionDone | ConnectionLost | None:  # type: ignore[override]
        """What Twisted's does, in one call less."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        """Send or queue; errors come to light where Twisted looks for them, in the queued way."""
        if self.TLS or self.dataBuffer or self._tempDataBuffer or self.disconnecting or not self.connected:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            super().write(data[sent:] if sent else data)  # type: ignore[no-untyped-call]


def send_at_once(port: IListeningPort) -> None:
    """Make a listening TCP port use :class:`ImmediateServer`; other kinds of ports stay as they are."""
    if isinstance(port, Port) and port.transport is Server:
        port.transport = ImmediateServer
