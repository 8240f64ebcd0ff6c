"""The HTTP connection: which requests are read from it, and how long it may take."""

import re
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


class Channel(HTTPChannel):
    """Reads requests: no bodies, and each one complete in its time, however it trickles in."""

    totalHeadersSize = MAX_HEADERS_SIZE
    maxHeaders = MAX_HEADERS
    _leaving = False
    #: The client does not take what it was sent.
    _full = False
    #: Requests wait until it does.
    _resting = False
    #: A request line has come, and its request is not answered.
    _within = False

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
            cast(Any, self).callLater(0, self._begin_next)

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
        super().resumeProducing()  # type: ignore[no-untyped-call]
        if self._resting:
            self._resting = False
            cast(Any, self).callLater(0, self._begin_next)

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
        """Make room for another connection."""
        site: Any = self.factory
        site.left(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
