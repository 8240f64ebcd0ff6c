"""Answers: resources that are read, in JSON but for a few, with the errors in the original's shape."""

from http import HTTPStatus
from typing import Any, Final, Protocol, cast, runtime_checkable

from msgspec.json import encode
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from platziverse.web.interfaces import Unavailable

JSON: Final = b"application/json; charset=utf-8"
METHODS: Final = (b"GET", b"HEAD")
CHANGE: Final = (b"POST",)


class HTTPError(Exception):
    """The answer is another than 200; ``text`` is for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


@runtime_checkable
class Stream(Protocol):
    """A Stream is an answer that is written bit by bit."""

    def begin(self, request: Request) -> None:
        """Begin to answer ``request``, or, if it is HEAD, answer it.

        :raises HTTPError: the answer is another than 200.
        """


class Answer(Resource):
    """An Answer is a leaf of the tree; it answers GET and HEAD with the result of :meth:`answer`."""

    isLeaf = True
    methods: tuple[bytes, ...] = METHODS
    #: Answers paths below its own as well.
    has_parts = False

    def methods_of(self, request: Request) -> tuple[bytes, ...]:
        """Return the methods that the path of a request has."""
        return self.methods

    def is_for_admins(self, request: Request) -> bool:
        """Return whether a request is for those alone who may change things."""
        return False

    def answer(self, request: Request) -> Any:
        """Return bytes, a Stream, an object for JSON, or a Deferred of any of them.

        :raises HTTPError: the answer is another than 200.
        """
        raise HTTPError(404, "not found")

    def render(self, request: Request) -> Any:
        """Answer at once, or when the Deferred fires.

        Of HEAD the length alone: Twisted would say in the log that it leaves out a body, each time.
        """
        body = self._begin(request)
        if request.method != b"HEAD" or body is NOT_DONE_YET:
            return body
        request.setHeader(b"Content-Length", b"%d" % len(body))
        return b""

    def _begin(self, request: Request) -> Any:
        """Return the body, or ``NOT_DONE_YET``."""
        try:
            methods = self.methods_of(request)
            if request.method not in methods:
                request.setHeader(b"Allow", b", ".join(methods))
                what = "this is read-only" if b"GET" in methods else "ask with POST"
                raise HTTPError(405, f"method not allowed: {what}")
            if request.postpath and not self.has_parts:
                raise HTTPError(404, "not found")
            answer = self.answer(request)
            if not isinstance(answer, Deferred):
                return _body(answer, request)
        except Exception:
            return _failed(Failure(), request)
        answer.addCallback(_body, request).addErrback(_failed, request).addCallback(_send, request)
        return NOT_DONE_YET


class Refusal(Answer):
    """A Refusal answers every request with the same error."""

    has_parts = True

    def __init__(self, status: int, text: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._error = status, text

    def methods_of(self, request: Request) -> tuple[bytes, ...]:
        """Return POST too if that was asked for: it is refused for another reason."""
        return (*METHODS, *CHANGE) if request.method in CHANGE else METHODS

    def answer(self, request: Request) -> Any:
        """Refuse.

        :raises HTTPError: always.
        """
        raise HTTPError(*self._error)


def _body(answer: Any, request: Request) -> Any:
    """Return the bytes of an answer, or ``NOT_DONE_YET``: it is a Stream that has begun.

    :raises HTTPError: it cannot begin.
    """
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, Stream):
        if not is_gone(request):
            answer.begin(request)
        return NOT_DONE_YET
    request.setHeader(b"Content-Type", JSON)
    return encode(answer)


def _failed(failure: Failure, request: Request) -> Any:
    error: Any = failure.value
    if isinstance(error, Unavailable):
        error = HTTPError(503, f"the database is away: {error}")
    elif not isinstance(error, HTTPError):
        cast(Any, request).site.failed(request, failure)
        error = HTTPError(500, "internal error")
    # Twisted has no phrase for some, like 421.
    request.setResponseCode(error.status, HTTPStatus(error.status).phrase.encode())
    if error.status == HTTPStatus.UNAUTHORIZED:
        request.setHeader(b"WWW-Authenticate", b'Basic realm="platziverse", charset="UTF-8"')
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        request.setHeader(b"Retry-After", b"5")
    return _body({"error": error.text}, request)


def is_gone(request: Any) -> bool:
    """Return whether the client did not wait for the answer."""
    return request.channel is None or bool(request._disconnected)


def _send(body: Any, request: Any) -> None:
    if body is NOT_DONE_YET or is_gone(request):
        return
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()


def text_of(segment: bytes) -> str:
    """Return the text of a segment of a path, or of a value of a query.

    :raises HTTPError: it is no text.
    """
    try:
        text = segment.decode()
    except UnicodeDecodeError:
        raise HTTPError(400, "not UTF-8") from None
    if "\0" in text:
        raise HTTPError(400, "NUL is no text")
    return text


def segments(request: Request) -> list[str]:
    """Return the rest of the path, below the resource.

    :raises HTTPError: a segment is no text.
    """
    return [text_of(segment) for segment in cast("list[bytes]", request.postpath)]
