"""Tables: the rows that the functions of the setting ``handlers`` make, and what all of them share."""

from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutine, signature
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from platziverse.agents.calls import TimeIsUp, running
from platziverse.agents.interfaces import Client, Complaints, OnStop, Publisher
from platziverse.agents.model import MAX_REASON
from platziverse.agents.recorder import Recorder
from platziverse.agents.rows import GivenHandler, Recording, RecordingRow, Together
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.topics import check_topic_name

__all__ = ["MakeRows", "Tables"]

#: Makes rows of the table: called with ``publish``, and with ``record``, ``clock`` and ``on_stop`` if it has
#: parameters of these names.
MakeRows: TypeAlias = Callable[..., Mapping[str, GivenHandler]]
#: Bytes of a Topic Name: its length has two of them.
MAX_TOPIC: Final = 65_535


class Tables:
    """Tables makes the rows, calls functions at the end, and says with which messages handlers have failed.

    :param publish: sends a message of the server's own.
    :param clock: steady time, and the timers of handlers.
    :param complaints: where handlers that fail are named.
    :param deadline: seconds that a handler may take for a message, the store's time not counted.
    :param room: messages that the handlers of one table may have begun and not finished.
    """

    def __init__(
        self,
        recorder: Recorder,
        publish: Publisher,
        clock: IReactorTime,
        complaints: Complaints,
        deadline: float,
        room: int,
    ) -> None:
        self.recorder, self.clock, self.deadline = recorder, clock, deadline
        self._publish, self._complaints, self._room = publish, complaints, room
        self._recordings: list[Recording] = []
        self._on_stop: list[tuple[str, Callable[[], Any]]] = []

    def timed(self) -> list[tuple[str, int, float]]:
        """Return the name of each table, how many messages it has finished with, and the seconds."""
        return [(one.name, one.calls, one.seconds) for one in self._recordings]

    def make(self, name: str, make: MakeRows) -> dict[str, RecordingRow]:
        """Return the rows that ``make`` makes: Topic Filter → handler.

        :param name: ``package.module:function``, for the log.
        :raises TypeError: a handler is no function, or ``make`` makes no table.
        """
        recording = Recording(name, self)
        given: dict[str, Any] = {
            "record": recording.record,
            "clock": self.clock,
            "on_stop": self._stop_hook(name),
        }
        wanted = _parameters(make)
        made: Any = make(self.publish, **{key: value for key, value in given.items() if key in wanted})
        if iscoroutine(made):
            made.close()
            raise TypeError("it is async; its handlers may be, but it has to return the table itself")
        rows = dict(made)
        for topic_filter, handler in rows.items():
            if not callable(handler):
                raise TypeError(f"the handler of {topic_filter!r} is no function")
        self._recordings.append(recording)
        return {topic_filter: RecordingRow(handler, recording) for topic_filter, handler in rows.items()}

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Send a message of the server's own at QoS 0, to subscribers and to handlers.

        :raises MalformedPacket: ``topic`` is no Topic Name.
        :raises ValueError: it cannot be sent as UTF-8 of at most 65,535 bytes.
        :raises TypeError: ``payload`` is not bytes.
        """
        check_topic_name(topic)
        if (size := len(topic.encode())) > MAX_TOPIC:
            raise ValueError(f"a Topic Name of {size} bytes, {MAX_TOPIC} are possible")
        if not isinstance(payload, bytes):
            raise TypeError(f"a payload is bytes, this one is {type(payload).__name__}")
        self._publish(topic, payload, retain)

    def _stop_hook(self, name: str) -> OnStop:
        return lambda function: self._on_stop.append((name, function))

    def together(self, handlers: "tuple[Any, ...]") -> "tuple[Any, ...]":
        """Return the handlers of a Topic Name as they are to be called: as one, if a row is among them."""
        if any(isinstance(handler, RecordingRow) for handler in handlers):
            return (Together(handlers, self.recorder),)
        return handlers

    def stop(self) -> "Deferred[Any]":
        """Call the functions of ``OnStop``, the last first; the Deferred fires when all have finished."""
        hooks, self._on_stop = self._on_stop[::-1], []
        answers = [maybeDeferred(hook).addErrback(self._hook_failed, name) for name, hook in hooks]
        return DeferredList(answers).addCallback(self._stopped)

    def _hook_failed(self, failure: Failure, name: str) -> None:
        self._complain(name, failure, f"its function for the end: {failure.getErrorMessage()}")

    def _stopped(self, _: object) -> None:
        for recording in self._recordings:
            recording.stop()

    # -- handlers that fail ----------------------------------------------------------------------

    def refusal(self, row: RecordingRow, message: Publish) -> str:
        """Return why a handler is not called for a message, in one line; usually empty."""
        name = row.recording.name
        calls = running.get()
        if calls and any(call.row is row for call in calls):
            through = " → ".join([*(call.row.recording.name for call in calls), name])
            text = "has caused this message itself ({through})"
            return self._refuse(text, name, "loop", message, through=through)
        if row.recording.hung and row.recording.waiting:  # one at a time, to see whether it goes on
            text = "has finished with nothing for {seconds:g} s (limits.handler_deadline)"
            return self._refuse(text, name, "busy", message, seconds=self.deadline)
        if row.recording.waiting >= self._room:
            text = "has not finished with {room} others (limits.max_unfinished_per_handler)"
            return self._refuse(text, name, "busy", message, room=self._room)
        return ""

    def failed(self, row: RecordingRow, message: Publish, client: Client, failure: Failure) -> str:
        """Count and log the failure of a handler with a message; return it in one line."""
        name = row.recording.name
        error = failure.value
        late = isinstance(error, TimeIsUp)
        self.recorder.handler_failures[name, "deadline" if late else "raised"] += 1
        reason = " ".join(failure.getErrorMessage().split())[:MAX_REASON]
        fields: dict[str, Any] = {
            "address": client.address,
            "client_id": client.client_id,
            "topic": message.topic[:200],
            "handler": name,
            "reason": reason if late else f"{type(error).__name__}: {reason}",
        }
        text = "Handler {handler}, with a message of {address} {client_id!r} to {topic!r}: {reason}"
        if late:
            self._complaints.warn(f"handler {name}: deadline", text, **fields)
        else:
            self._complaints.fail(f"handler {name}: raised", failure, text, **fields)
        return f"handler {name}: {fields['reason']}"

    def refused(self, row: RecordingRow, message: Publish, client: Client, reason: str) -> None:
        """Count and log that a handler refuses a message."""
        name = row.recording.name
        self.recorder.handler_failures[name, "refused"] += 1
        text = "Handler {handler} has refused a message of {address} {client_id!r} to {topic!r}: {reason}"
        who = {"address": client.address, "client_id": client.client_id}
        fields = {**who, "topic": message.topic[:200], "handler": name, "reason": reason[:MAX_REASON]}
        self._complaints.warn(f"handler {name}: refused", text, **fields)

    def complain(self, row: RecordingRow, failure: Failure, reason: str) -> None:
        """Log a failure of a handler that concerns no message."""
        self._complain(row.recording.name, failure, reason)

    def _complain(self, name: str, failure: Failure, reason: str) -> None:
        text = "Handler {handler}: {reason}"
        self._complaints.fail(f"handler {name}", failure, text, address="", handler=name, reason=reason)

    def _refuse(self, text: str, name: str, kind: str, message: Publish, **fields: object) -> str:
        self.recorder.handler_failures[name, kind] += 1
        cause, topic = f"handler {name}: {kind}", message.topic[:200]
        text = "Handler {handler} is not called for a message to {topic!r}: it " + text
        self._complaints.warn(cause, text, address="", handler=name, topic=topic, **fields)
        return f"handler {name}: {kind}"


def _parameters(make: MakeRows) -> Sequence[str]:
    try:
        return list(signature(make).parameters)
    except ValueError:  # a function written in C may have no signature
        return []
