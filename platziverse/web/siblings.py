"""Siblings: the other workers of a machine, which one of them asks to answer for all."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec.json import decode
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
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

#: Asks the worker with a number: method, path and who asks. The Deferred fires with the body.
Fetch = Callable[[int, bytes, str, str], "Deferred[bytes]"]


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
    """

    def __init__(self, number: int = 0, others: Iterable[int] = (), fetch: Fetch | None = None) -> None:
        self.number, self.others, self.fetch = number, list(others), fetch

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
        endpoint = UNIXClientEndpoint(self._reactor, self._path(number), timeout=DEADLINE)
        agent: Any = Agent.usingEndpointFactory(self._reactor, _Always(endpoint))
        headers = Headers({b"Accept": [b"text/plain; version=0.0.4"], BY: [by.encode("ascii", "replace")]})
        asked: Deferred[Any] = agent.request(method, b"http://localhost" + path.encode(), headers)
        return asked.addCallback(_read).addTimeout(DEADLINE, self._reactor)


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
