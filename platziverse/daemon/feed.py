"""Feed: what agents say, for the event streams."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final, Protocol

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.agents.model import Agent, Metric, Report
from platziverse.agents.recorder import CONNECTED, DISCONNECTED, Recorder
from platziverse.broker.broker import Broker
from platziverse.broker.interfaces import SERVER, TAKEN
from platziverse.broker.reasons import Reason
from platziverse.mqtt.packets import Subscription
from platziverse.times import milliseconds

log = Logger("platziverse.web")

MESSAGE: Final = "agent/message"


class Events(Protocol):
    """Events is told; see :class:`platziverse.web.events.Events`."""

    def announced(self, event: str, payload: bytes) -> None: ...


class _Agent(Struct):
    uuid: str


class _Metric(Struct):
    type: str
    value: str | float


class _Message(Struct):
    agent: _Agent
    metrics: list[_Metric] = []
    timestamp: str | float | None = None


_MESSAGE: Final = Decoder(_Message)


class Feed:
    """A Feed knows what agents say while it is open, by a Subscription of the broker's own.

    So it hears from other daemons what any client of this one would. Of what comes to this daemon itself the
    Recorder tells it, which costs less, and says nothing of what is rejected; but not when there are other
    daemons, as everything would be told twice.

    :param now: seconds since the epoch.
    :param shared: there are other daemons.
    """

    def __init__(
        self, broker: Broker, recorder: Recorder, events: Events, now: Callable[[], float], shared: bool
    ) -> None:
        self._broker, self._recorder, self._events, self._now = broker, recorder, events, now
        self._shared = shared
        self._session = broker.sessions.make("", False)
        self._session.client, self._session.connection = SERVER, Listener(self._heard)
        self._filters = [CONNECTED, DISCONNECTED, *([MESSAGE] if shared else [])]
        self._reports: list[Report] = []

    def open(self) -> None:
        """Hear from now on."""
        wanted = [Subscription(topic_filter, 0) for topic_filter in self._filters]
        _watch(self._broker.subscribe(self._session, wanted))
        if not self._shared:
            # Nothing of Python runs for a message but this look: see docs/adr/0166.
            self._recorder.observe = self._reports.append

    def close(self) -> None:
        """Hear no more."""
        self._recorder.observe = None
        self._reports.clear()
        _watch(self._broker.unsubscribe(self._session, self._filters))

    def take(self) -> list[Report]:
        """Return what agents have measured since the last call."""
        reports = self._reports.copy()
        self._reports.clear()
        return reports

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == MESSAGE:
            if len(payload) <= self._recorder.limits.max_payload:
                self._note(payload)
        else:
            self._events.announced("connected" if topic == CONNECTED else "disconnected", payload)

    def _note(self, payload: bytes) -> None:
        """Note an ``agent/message``, if it is one; what is wrong with others is said where they came."""
        try:
            message = _MESSAGE.decode(payload)
        except (MsgspecError, UnicodeDecodeError, RecursionError):
            return
        found = float("nan") if message.timestamp is None else milliseconds(message.timestamp)[0]
        moment = found / 1000 if isfinite(found) else self._now()
        metrics = [Metric(metric.type, _text(metric.value)) for metric in message.metrics]
        self._reports.append(Report(Agent(message.agent.uuid, "", "", "", 0), metrics, moment))


class Listener:
    """A Listener is the ``NetworkConnection`` of a Subscription at QoS 0: it takes each message at once.

    :param heard: called with Topic Name and payload.
    """

    congested = False
    out_bytes = 0

    def __init__(self, heard: Callable[[str, bytes], None]) -> None:
        self._heard = heard

    def offer(self, data: bytes) -> int:
        """Take one PUBLISH."""
        start = next(place for place in range(1, 5) if data[place] < 0x80) + 3  # behind both lengths
        end = start + int.from_bytes(data[start - 2 : start], "big")
        self._heard(data[start:end].decode(), data[end:])
        return TAKEN

    def send(self, data: bytes) -> None:
        """Do nothing: nothing is sent at QoS 1 or 2."""

    def send_together(self, pieces: Sequence[bytes]) -> None:
        """Take PUBLISHes, each of which is a piece."""
        for piece in pieces:
            self.offer(piece)

    def send_shared(self, head: bytes, payload: bytes) -> None:
        """Do nothing, likewise."""

    def hold(self) -> None:
        """Do nothing: it publishes nothing."""

    def release(self) -> None:
        """Do nothing, likewise."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call at once: nothing takes long."""
        function()

    def close(self, reason: Reason, text: str) -> None:
        """Do nothing: nobody has its Client Identifier."""


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def _watch(answer: Any) -> None:
    """Log what goes wrong; other daemons may be away."""
    if isinstance(answer, Deferred):
        answer.addErrback(_not_told)


def _not_told(failure: Failure) -> None:
    log.warn("Other daemons were not told of event streams: {reason}", reason=failure.getErrorMessage())
