"""Port: transports that send at once and are counted, and a door that shuts when all is full.

Twisted's ``write`` queues the bytes, arms the descriptor for writing, waits for a turn of the reactor and
disarms it. That is two ``epoll_ctl`` and a turn for each small answer, 14.6 instead of 9.4 µs per round trip,
so our transports try ``send`` first. They count in the transport as its end is the socket's: ADR 0046.
TCP and Unix sockets keep all bytes, and their order. [MQTT5-4.2-1]
"""

import socket
import struct
import sys
from contextlib import suppress
from functools import partial
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from platziverse.broker.addresses import neighbourhood
from platziverse.door.crowd import NOWHERE, Crowd, origin
from platziverse.door.proxied import Told
from platziverse.net.peer import is_near

#: Linux has it; elsewhere kernels acknowledge when they like.
QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
#: Options of Linux that Python has no name for, or only lately.
_NOTSENT_LOWAT: Final[int | None] = 25 if sys.platform == "linux" else None
_MEMINFO: Final[int | None] = 55 if sys.platform == "linux" else None
#: ``SK_MEMINFO_…`` of ``linux/sock_diag.h``: what is handed down to be sent is the third, what is queued the
#: sixth; the one counts for Unix sockets, the other for TCP.
_meminfo: Final = struct.Struct("9I")


class Counted:
    """A Counted is a socket that :class:`Crowd` counts until it is closed.

    :param proxied: its address is that of a proxy, which will tell the client's; see ``reveal``.
    """

    #: Connections of this kind have an address.
    has_address = True
    #: A proxy has passed the bytes on, so that they say nothing about where their sender is.
    forwarded = False
    _told: Told | None = None

    def __init__(self, *arguments: Any, crowd: Crowd, proxied: bool) -> None:
        super().__init__(*arguments)
        self._crowd: Crowd | None = crowd
        self._origin = NOWHERE
        crowd.entered(self)
        if self.has_address and not proxied:
            self._count(crowd, neighbourhood(self.hostname))  # type: ignore[attr-defined]

    def _count(self, crowd: Crowd, place: str) -> None:
        self._origin = place
        crowd.came_from(place)

    def reveal(self, told: Told) -> bool:
        """Take the addresses of the proxy's header for those of the socket, and count it under them.

        A client that the proxy calls its neighbour is on this machine only if the proxy is; one that it does
        not name is a stranger.

        :return: ``False`` when there are too many from there, and it has to be closed.
        """
        crowd = self._crowd
        if crowd is None:
            return True
        self.forwarded = told.relayed and (told.client is None or not is_near(self))
        self._told = told
        address = self.getPeer()
        place = origin(address)
        if not crowd.admits_origin(address, place):
            return False
        self._count(crowd, place)
        return True

    def getPeer(self) -> IAddress:
        """Return the address of the client, which may be behind a proxy."""
        told = self._told
        peer: IAddress = super().getPeer()  # type: ignore[misc]
        return peer if told is None or told.client is None else told.client

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to."""
        told = self._told
        host: IAddress = super().getHost()  # type: ignore[misc]
        return host if told is None or told.server is None else told.server

    def kernel_bytes(self) -> int:
        """Return how much memory the kernel takes for what the client has not taken; 0: it does not say."""
        if _MEMINFO is None or self._crowd is None:
            return 0
        try:
            found = self.socket.getsockopt(socket.SOL_SOCKET, _MEMINFO, _meminfo.size)  # type: ignore[attr-defined]
            numbers = _meminfo.unpack(found)
        except (OSError, struct.error):  # closed, or a kernel of another kind
            return 0
        return int(max(numbers[2], numbers[5]))

    def connectionLost(self, reason: Failure) -> None:
        """Count the socket no more."""
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.left(self, self._origin)
        super().connectionLost(reason)  # type: ignore[misc]


class ImmediateServer(Counted, tcp.Server):
    """An ImmediateServer tries ``send`` first, and queues what the kernel does not take."""

    def doRead(self) -> ConnectionDone | ConnectionLost | None:  # type: ignore[override]
        """Read and deliver, as Twisted's method does, in one call less."""
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
        """Send or queue ``data``; an error of ``send`` shows again in Twisted's own, queued way."""
        if self.TLS or self.dataBuffer or self._tempDataBuffer or self.disconnecting or not self.connected:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            super().write(data[sent:] if sent else data)  # type: ignore[no-untyped-call]

    def acknowledge_now(self) -> None:
        """Let the kernel acknowledge what has come, and not wait for bytes of ours to go along. ADR 0103."""
        if QUICKACK is not None:
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)


class CountedUnixServer(Counted, unix.Server):
    """A CountedUnixServer is a counted connection to a Unix socket."""

    has_address = False


class Door:
    """A Door is the factory of a port that asks before a connection costs more than its accept."""

    def __init__(self, factory: IProtocolFactory, crowd: Crowd, proxied: bool) -> None:
        self._factory = factory
        self._crowd = crowd
        self._proxied = proxied
        self.doStart, self.doStop = factory.doStart, factory.doStop

    def buildProtocol(self, address: IAddress) -> IProtocol | None:
        """Return a protocol; ``None``, on which the port closes the socket at once, when there is no room."""
        place = NOWHERE if self._proxied else origin(address)
        return self._factory.buildProtocol(address) if self._crowd.admits(address, place) else None


_COUNTED: Final[dict[Any, Any]] = {tcp.Server: ImmediateServer, unix.Server: CountedUnixServer}


def guard(port: IListeningPort, crowd: Crowd, proxied: bool = False) -> None:
    """Make a listening port send at once, count its connections, and refuse those that are too many.

    Of each of them the kernel takes ``crowd.most_unsent`` bytes or little more, however slow the client is.

    :param proxied: connections begin with a PROXY header.
    """
    listening: Any = port
    kind = _COUNTED.get(getattr(port, "transport", None))
    if kind is not None:
        if listening.transport is tcp.Server and _NOTSENT_LOWAT is not None and crowd.most_unsent:
            with suppress(OSError):  # accepted sockets inherit it
                listening.socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, crowd.most_unsent)
        listening.transport = partial(kind, crowd=crowd, proxied=proxied)
        listening.factory = Door(listening.factory, crowd, proxied)
