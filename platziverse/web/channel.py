"""The HTTP connection: which requests are read from it, and how long it may take."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from twisted.web.http import HTTPChannel

#: Bytes of a request line and its headers together, and headers.
MAX_HEADERS_SIZE: Final = 16 * 1024
MAX_HEADERS: Final = 100

_NO_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
#: A method begins with a letter; PUBREL of MQTT does too, and goes on with a control character.
_NEVER_A_REQUEST: Final = re.compile(rb"[^A-Za-z]|[A-Za-z][\x00-\x0c\x0e-\x1f]")
BODY_REFUSED: Final = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 44\r\n"
    b'Content-Type: application/json\r\n\r\n{"error": "no request here may have a body"}'
)


#: Share of ``max_memory`` that answers may take which nobody reads.
SHARE: Final = 0.25


class Unread:
    """Unread counts the bytes of answers that wait for their clients, where they grow.

    When all together are too many, the connections that have taken nothing for longest are cut.

    :param budget: ``max_memory``; 0: no limit.
    :param cut: called with each connection that has to go, and the bytes that wait for it.
    :ivar total: how many bytes wait now.
    """

    def __init__(self, budget: int, cut: "Callable[[Channel, int], None]") -> None:
        self.total = 0
        self._most = budget * SHARE
        self._cut = cut
        # In the order in which they stopped reading.
        self._waiting: dict[Channel, int] = {}

    def add(self, channel: "Channel", size: int) -> None:
        """Count ``size`` more bytes that wait for this client."""
        self._waiting[channel] = self._waiting.get(channel, 0) + size
        self.total += size
        while self._most and self.total > self._most:
            oldest = next(iter(self._waiting))
            self._cut(oldest, self.taken(oldest))

    def taken(self, channel: "Channel") -> int:
        """Count those of a client no more, which has taken them or has gone; return how many there were."""
        size = self._waiting.pop(channel, 0)
        self.total -= size
        return size


class Channel(HTTPChannel):
    """Reads requests: no bodies, and each one complete in its time, however it trickles in."""

    totalHeadersSize = MAX_HEADERS_SIZE
    maxHeaders = MAX_HEADERS
    #: It has come through the socket of operators.
    operator = False
    _leaving = False
    #: The client does not take what it was sent.
    _full = False
    #: Requests wait until it does.
    _resting = False
    #: A request line has come, and its request is not answered.
    _within = False

    def write(self, data: bytes) -> None:
        """Hand on a part of an answer; what the client does not take at once is counted."""
        super().write(data)  # type: ignore[no-untyped-call]
        self._count(len(data))

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Hand on a chunk of an answer, as one piece: that is sent at once where pieces are queued."""
        self.write(b"".join(iovec))

    def _count(self, size: int) -> None:
        if self._full:
            site: Any = self.factory
            site.unread.add(self, size)

    def resetTimeout(self) -> None:
        """Do nothing: the time runs from the end of the last request, not from the last byte."""

    def dataReceived(self, data: bytes) -> None:
        """See at its first two bytes what can never become a request: it has no line that ends."""
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        self._refuse_what_is_none()

    def _refuse_what_is_none(self) -> None:
        start = self._buffer.lstrip(b"\r\n")
        if _NEVER_A_REQUEST.match(start) and not self._within and not self._leaving:
            cast(Any, self.transport).write(_NO_REQUEST)
            self.loseConnection()

    def allHeadersReceived(self) -> None:
        """Refuse a body before it is read."""
        if self.length == 0:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]
            return
        transport: Any = self.transport
        transport.write(BODY_REFUSED)
        self.loseConnection()

    def lineReceived(self, line: bytes) -> None:
        """Take a line, unless the request was refused: all that follows is ignored."""
        if not self._leaving:
            self._within = self._within or line != b""
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def requestDone(self, request: Any) -> None:
        """Answer a request that came right behind this one in the next turn, as others have to get theirs.

        Nor before the client takes what it was sent: one that pipelines requests and reads no answer would
        fill the memory. Until then what comes is kept behind it, as while a request is answered.
        """
        self._within = False
        more = b"".join(self._dataBuffer)
        self._dataBuffer: list[bytes] = []
        super().requestDone(request)  # type: ignore[no-untyped-call]
        if (more or self._buffer) and not self._leaving:
            self._handlingRequest = True
            self.setRawMode()  # type: ignore[no-untyped-call]
            self._dataBuffer += [more] if more else []
            self._begin_soon()

    def _begin_soon(self) -> None:
        """Begin with the next request in the next turn, or in a later one if others are waiting."""
        site: Any = self.factory
        cast(Any, self).callLater(0, site.in_turn, self._begin_next)

    def _begin_next(self) -> None:
        self._resting = self._full
        if self._leaving or self._resting or self.transport is None:
            return
        self._handlingRequest = False
        data, self._dataBuffer = b"".join(self._dataBuffer), []
        self.setLineMode(data)  # type: ignore[no-untyped-call]
        self._refuse_what_is_none()

    def pauseProducing(self) -> None:
        """Answer no further request for now: the client takes less than it is sent."""
        self._full = True
        super().pauseProducing()  # type: ignore[no-untyped-call]

    def resumeProducing(self) -> None:
        """Go on: the client has taken what it was sent."""
        self._full = False
        site: Any = self.factory
        site.unread.taken(self)
        super().resumeProducing()  # type: ignore[no-untyped-call]
        if self._resting:
            self._resting = False
            self._begin_soon()

    def rawDataReceived(self, data: bytes) -> None:
        """Take bytes of a body, unless the request was refused: all that follows is ignored."""
        if not self._leaving:
            super().rawDataReceived(data)

    def timeoutConnection(self) -> None:
        """Close the connection: it has been idle, or its request does not end, which is counted and said.

        Twisted's method writes a line for each, so whoever connects and waits could fill the log.
        """
        site: Any = self.factory
        if self._within or self._buffer:
            site.timed_out(self)
        self._abortingCall = cast(Any, self).callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        """Cut a client that does not take the end of its connection; likewise without a line."""
        self._abortingCall = None
        cast(Any, self.transport).abortConnection()

    def loseConnection(self) -> None:
        """Close once what was written is sent."""
        if not self._leaving:
            self._leaving = True
            super().loseConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any = None) -> None:
        """Make room for another connection; requests that wait for their turn are answered no more."""
        self._leaving = True
        site: Any = self.factory
        site.left(self)
        site.unread.taken(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
