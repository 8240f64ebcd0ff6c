"""Siblings: the other workers of a machine, which one of them asks to answer for all."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from msgspec import DecodeError
from msgspec.json import decode
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, readBody
from twisted.web.http_headers import Headers

log = Logger("platziverse.web")

#: Seconds that another worker may take to answer.
DEADLINE: Final = 2.0
#: Workers of a machine at most, and one more: numbers of clients are unique among them.
MOST: Final = 257
#: Who has asked the worker that asks us.
BY: Final = b"Platziverse-By"

#: Seconds until a stream that has ended is asked for again.
AGAIN: Final = 1.0
#: Bytes of an event at most.
LONGEST: Final = 1 << 20

#: Gets the name and the data of each event of a stream.
Hear = Callable[[str, Any], None]


#: Asks the worker with a number: method, path and who asks. The Deferred fires with the body.
Fetch = Callable[[int, bytes, str, str], "Deferred[bytes]"]
#: Reads an event stream of the worker with a number: path, who asks, who hears. Returns what ends that.
Follow = Callable[[int, str, str, Hear], Callable[[], None]]


class Refused(Exception):
    """A worker has answered with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Siblings:
    """Siblings are the workers beside this one.

    :param number: of this worker; 0: it is none, and there are no others.
    :param others: numbers of the others.
    :param fetch: asks one of them.
    :param follow: reads an event stream of one of them.
    """

    def __init__(
        self,
        number: int = 0,
        others: Iterable[int] = (),
        fetch: Fetch | None = None,
        follow: Follow | None = None,
    ) -> None:
        self.number, self.others, self.fetch, self._follow = number, list(others), fetch, follow

    @property
    def named(self) -> dict[str, int]:
        """The column of a row that says which worker has it; there is none where there is one daemon."""
        return {"worker": self.number} if self.number else {}

    def unique(self, number: int) -> int:
        """Return a number that no other worker gives, in the order of those of this one."""
        return number * MOST + self.number if self.number else number

    def ask(self, path: str, method: bytes = b"GET", by: str = "") -> "Deferred[list[Any]]":
        """Ask all others; fires with what those say, in JSON, that have an answer in time.

        :param by: who asks, for their logs.
        """
        fetch = self.fetch
        if fetch is None:
            return succeed([])
        asked = [
            fetch(number, method, path, by).addCallback(decode).addErrback(self._unheard, number)
            for number in self.others
        ]
        return DeferredList(asked).addCallback(_answers)

    def follow(self, path: str, by: str, hear: Hear) -> Callable[[], None]:
        """Let ``hear`` be told of the events of the streams of all others; return what ends that."""
        follow = self._follow
        ends = [] if follow is None else [follow(number, path, by, hear) for number in self.others]

        def end() -> None:
            for one in ends:
                one()

        return end

    def _unheard(self, failure: Failure, number: int) -> None:
        """Leave out a worker that has nothing, or does not answer; the latter is said."""
        if isinstance(failure.value, Refused) and failure.value.status == 404:
            return
        reason = failure.getErrorMessage()
        log.warn("worker {number} does not answer: {reason}", number=number, reason=reason)


def _answers(results: list[tuple[bool, Any]]) -> list[Any]:
    return [answer for _, answer in results if answer is not None]


class UnixFetch:
    """A UnixFetch asks workers over their sockets.

    :param path: returns the path of the socket of the worker with a number.
    """

    def __init__(self, reactor: Any, path: Callable[[int], str]) -> None:
        self._reactor, self._path = reactor, path

    def __call__(self, number: int, method: bytes, path: str, by: str) -> "Deferred[bytes]":
        """Ask; errbacks with ``Refused`` for another status than 200."""
        return self._asked(number, method, path, by).addCallback(_read).addTimeout(DEADLINE, self._reactor)

    def follow(self, number: int, path: str, by: str, hear: Hear) -> Callable[[], None]:
        """Let ``hear`` be told of the events of a stream, also when the worker is started again."""
        following = _Following(self._reactor, lambda: self._asked(number, b"GET", path, by), hear)
        following.begin()
        return following.end

    def _asked(self, number: int, method: bytes, path: str, by: str) -> "Deferred[Any]":
        endpoint = UNIXClientEndpoint(self._reactor, self._path(number), timeout=DEADLINE)
        agent: Any = Agent.usingEndpointFactory(self._reactor, _Always(endpoint))
        headers = Headers({b"Accept": [b"text/plain; version=0.0.4"], BY: [by.encode("ascii", "replace")]})
        asked: Deferred[Any] = agent.request(method, b"http://localhost" + path.encode(), headers)
        return asked


def _read(response: Any) -> "Deferred[bytes]":
    read: Deferred[bytes] = readBody(response)
    return read.addCallback(_checked, response.code)


def _checked(body: bytes, status: int) -> bytes:
    """Return a body. :raises Refused: it is that of an error."""
    if status != 200:
        raise Refused(status)
    return body


class _Always:
    """An _Always finds the same endpoint for every URI."""

    def __init__(self, endpoint: UNIXClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> UNIXClientEndpoint:
        return self._endpoint


class _Following:
    """A _Following reads one event stream, and asks for it again when it ends, until it is told to stop."""

    def __init__(self, reactor: Any, ask: "Callable[[], Deferred[Any]]", hear: Hear) -> None:
        self._reactor, self._ask, self._hear = reactor, ask, hear
        self._asked: Deferred[Any] | None = None
        self._stream: _Stream | None = None
        self._again: Any = None
        self._ended = False

    def begin(self) -> None:
        """Ask for the stream."""
        self._asked = self._ask()
        self._asked.addCallback(self._found).addErrback(self._lost)

    def end(self) -> None:
        """Hear no more."""
        self._ended = True
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._asked is not None:
            self._asked.cancel()
        if self._stream is not None:
            self._stream.close()

    def _found(self, response: Any) -> None:
        if response.code != 200:
            raise Refused(response.code)
        self._stream = _Stream(self._hear, self._lost)
        response.deliverBody(self._stream)

    def _lost(self, _: object) -> None:
        self._asked = self._stream = None
        if not self._ended:
            self._again = self._reactor.callLater(AGAIN, self.begin)


class _Stream(Protocol):
    """A _Stream tells of each event as it comes."""

    def __init__(self, hear: Hear, lost: Callable[[object], None]) -> None:
        self._hear, self._lost, self._rest = hear, lost, b""

    def close(self) -> None:
        """Take no more."""
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Tell of whole events; what is none, as a sign of life, is left out."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            name, found, value = event.partition(b"\ndata: ")
            if found:
                with suppress(DecodeError):
                    self._hear(name.removeprefix(b"event: ").decode(), decode(value))
        if len(self._rest) > LONGEST:
            self.close()

    def connectionLost(self, reason: Any = None) -> None:
        """Say that it has ended."""
        self._lost(reason)
