"""A TCP transport that sends at once.

Twisted's ``write`` queues, arms the descriptor for writing, waits for a turn of the reactor and disarms
it: two ``epoll_ctl`` and a turn for each small answer (14.6 instead of 9.4 µs per round trip).
"""

from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port, Server


class ImmediateServer(Server):
    """Tries ``send`` first, and queues what the kernel does not take."""

    def write(self, data: bytes) -> None:
        """Send or queue; errors come to light where Twisted looks for them, in the queued way."""
        if self.TLS or self.dataBuffer or self._tempDataBuffer or self.disconnecting or not self.connected:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        sent = self.writeSomeData(data)
        if not isinstance(sent, int):
            sent = 0
        if sent < len(data):
            super().write(data[sent:] if sent else data)  # type: ignore[no-untyped-call]


def send_at_once(port: IListeningPort) -> None:
    """Make a listening TCP port use :class:`ImmediateServer`; other kinds of ports stay as they are."""
    if isinstance(port, Port) and port.transport is Server:
        port.transport = ImmediateServer
