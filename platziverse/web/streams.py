"""Streams: answers that are written bit by bit, how many at a time, how slow clients may be, their feed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from platziverse.broker.traffic import Traffic
from platziverse.web.answers import HTTPError
from platziverse.web.guard import peer_of
from platziverse.web.interfaces import Complaints


class Places:
    """Places lets so many answers be under way at a time. One more is counted, said, and refused.

    :param most: how many.
    :param setting: that says so.
    :param reason: under which a refusal is counted.
    """

    def __init__(
        self, most: int, setting: str, reason: str, traffic: Traffic, complaints: Complaints
    ) -> None:
        self._most, self._setting, self._reason = most, setting, reason
        self._traffic, self._complaints = traffic, complaints
        self.taken = 0

    def take(self, request: Request) -> None:
        """Take one. :raises HTTPError: there is none."""
        if self.taken >= self._most:
            self._traffic.connection_refused(self._reason)
            text = "No room for {path} of {address}; see the setting {setting}"
            path, cause = request.path.decode("latin-1"), f"no room: {self._reason}"
            self._complaints.warn(cause, text, address=peer_of(request), path=path, setting=self._setting)
            raise HTTPError(503, f"too many {self._reason} at a time; see the setting {self._setting}")
        self.taken += 1

    def give_back(self) -> None:
        """Give one back."""
        self.taken -= 1


@implementer(IPushProducer)
class Writing:
    """A Writing writes one answer, and knows whether its client takes it.

    :param clock: steady time, and ``callLater``.
    :param patience: seconds in which a client has to take something once it is full; then it is cut.
    :param wanted: called when the client takes more again.
    :param ended: called once: the answer is finished, or the client has gone.
    :ivar full: the client does not take what it was sent.
    :ivar took: seconds that the client took for what it was sent last, beyond what the network keeps.
    :ivar over: the answer is finished, or the client has gone.
    """

    def __init__(
        self,
        request: Request,
        clock: Any,
        patience: float,
        wanted: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.full = False
        self.took = self._since = 0.0
        self._request: Any = request
        self._clock, self._patience, self._wanted, self._ended = clock, patience, wanted, ended
        self._due: IDelayedCall | None = None
        self.over = False
        self._request.registerProducer(self, True)
        self._request.notifyFinish().addBoth(lambda _: self._end())

    @property
    def address(self) -> str:
        """The address of the client, for logs."""
        return peer_of(self._request)

    def write(self, data: bytes) -> None:
        """Write some bytes; of a client that has gone they are forgotten."""
        self.took = 0.0
        if not self.over:
            self._request.write(data)

    def finish(self) -> None:
        """Write the end."""
        if not self.over:
            self._request.unregisterProducer()
            self._request.finish()

    def cut(self) -> None:
        """End the connection: an answer without its end is known to be incomplete."""
        if not self.over:
            self._request.channel.forceAbortClient()

    def broke_down(self, failure: Failure) -> None:
        """Count and log a bug of ours."""
        self._request.site.failed(self._request, failure)

    def pauseProducing(self) -> None:
        """Write nothing more for now."""
        self.full, self._since = True, self._clock.seconds()
        if self._due is None and not self.over:
            self._due = self._clock.callLater(self._patience, self._too_slow)

    def resumeProducing(self) -> None:
        """Go on."""
        self.full, self.took = False, self._clock.seconds() - self._since
        self._rest()
        if not self.over:
            self._wanted()

    def stopProducing(self) -> None:
        """Do nothing: the end of the request says the same."""

    def _too_slow(self) -> None:
        self._due = None
        self._request.site.too_slow(self._request.channel)
        self.cut()

    def _rest(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _end(self) -> None:
        self.over = True
        self._rest()
        self._ended()


class Metric(Protocol):
    """A Metric is one reading, as text."""

    @property
    def type(self) -> str: ...
    @property
    def value(self) -> str: ...


class Who(Protocol):
    """A Who is the agent of a Report."""

    @property
    def uuid(self) -> str: ...


class Report(Protocol):
    """A Report is what an agent has measured at one moment, in seconds since the epoch."""

    @property
    def agent(self) -> Who: ...
    @property
    def metrics(self) -> Sequence[Metric]: ...
    @property
    def moment(self) -> float: ...


class Feed(Protocol):
    """A Feed knows what agents say while it is open; who comes and goes it tells ``Events`` at once."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def take(self) -> Iterable[Report]:
        """Return what agents have measured since the last call, in the order in which it came."""
