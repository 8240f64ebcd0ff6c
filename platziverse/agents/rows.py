"""Rows: those of the handler table that record the Reports of other people's handlers.

A handler records a message by returning Reports, or a Deferred of them, or by calling ``record``. Its Reports
say who measured, what, and when; the rest, that is arrival, source, key and delivery, is added here.
"""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any, TypeAlias

from msgspec.json import encode
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.agents.careful import read_carefully
from platziverse.agents.interfaces import Client, Publisher
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import InvalidReport, Rejection, Report
from platziverse.agents.payload import check_size, use_time
from platziverse.agents.pending import Redeliveries
from platziverse.agents.recorder import Recorder, together
from platziverse.mqtt.packets import Publish

#: A handler: returns ``None``, or a Deferred that holds back the acknowledgement, or Reports; a Deferred may
#: fire with Reports as well.
GivenHandler: TypeAlias = Callable[[Publish, Client], Any]
#: Makes rows of the table: called with ``publish``, and with ``record`` if it has a parameter of that name.
MakeRows: TypeAlias = Callable[..., Mapping[str, GivenHandler]]


def make_rows(make: MakeRows, publish: Publisher, recorder: Recorder) -> "dict[str, RecordingRow]":
    """Return the rows that ``make`` makes: Topic Filter → handler.

    :raises TypeError: a handler is no function.
    """
    recording = Recording(recorder)
    rows = dict(make(publish, record=recording.record) if _wants_record(make) else make(publish))
    for topic_filter, handler in rows.items():
        if not callable(handler):
            raise TypeError(f"the handler of {topic_filter!r} is no function")
    return {topic_filter: RecordingRow(handler, recording) for topic_filter, handler in rows.items()}


def _wants_record(make: MakeRows) -> bool:
    try:
        return "record" in signature(make).parameters
    except ValueError:  # a function written in C may have no signature
        return False


class Recording:
    """A Recording records for the handlers of one table.

    :ivar recorded: the answers of ``record`` to the handler that is running; ``None`` while none is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.recorded: list[Deferred[Any]] | None = None

    def record(self, message: Publish, client: Client, /, *reports: Report) -> "Deferred[Any]":
        """Save Reports as the sender's; the Deferred fires with the commit, as rows or as a Rejection.

        While the handler of the message runs, the acknowledgement waits for it in any case; later only if the
        handler has returned a Deferred that waits for this one. All Reports of a message go in one call, so
        that a message of QoS 2 is recognised as a whole when it comes again.
        """
        answer = self.save(message, client, self.recorder.wall_clock(), reports)
        if self.recorded is not None:
            self.recorded.append(answer)
        return answer

    def save(
        self, message: Publish, client: Client, arrived: float, given: Iterable[Report]
    ) -> "Deferred[Any]":
        """Save Reports of a message that arrived then, in seconds since the epoch."""
        reports: list[Report] = []
        errors: list[InvalidReport] = []
        for number, report in enumerate(given):
            try:
                reports.append(completed(report, number, message, client, arrived, self.recorder.limits))
            except InvalidReport as error:
                errors.append(error)
        return self.recorder.record(message, client, arrived, reports, errors)


class RecordingRow:
    """A RecordingRow is one handler of the table, whose Reports are recorded.

    A message that comes again while its first copy is being stored waits for that one; the handler is not
    called for it.
    """

    def __init__(self, handler: GivenHandler, recording: Recording) -> None:
        self._handler, self._recording = handler, recording
        self._redeliveries = Redeliveries()

    def __call__(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Call the handler; return ``None`` when there is nothing to wait for.

        See :class:`~platziverse.broker.interfaces.Handler`.
        """
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                self._recording.recorder.redelivered += 1
                return answer
        answers = self._answers(message, client)
        if not answers:
            return None
        answer = together(answers)
        if outlives:
            self._redeliveries.watch(message, client, answer)
        return answer

    def _answers(self, message: Publish, client: Client) -> "list[Deferred[Any]]":
        recording, arrived = self._recording, self._recording.recorder.wall_clock()
        recorded: list[Deferred[Any]] = []
        # A handler that publishes may call handlers.
        before, recording.recorded = recording.recorded, recorded
        try:
            given = self._handler(message, client)
            if isinstance(given, Deferred):
                of_message = message, client, arrived
                given.addCallbacks(self._late, self._refused, callbackArgs=of_message, errbackArgs=of_message)
            else:
                given = self._saved(given, message, client, arrived)
        except InvalidReport as error:
            given = recording.recorder.reject(message, client, error, arrived)
        finally:
            recording.recorded = before
        if given is None or any(given is answer for answer in recorded):
            return recorded
        return [*recorded, given]

    def _saved(self, given: Any, message: Publish, client: Client, arrived: float) -> "Deferred[Any] | None":
        """Save the Reports that the handler has returned, or given to ``record``.

        :raises TypeError: it has returned neither ``None`` nor Reports.
        """
        if given is None:
            return None
        reports = reports_in(given)
        if reports is None:
            raise TypeError(f"a handler returned {type(given).__name__}, neither Reports nor a Deferred")
        return self._recording.save(message, client, arrived, reports) if reports else None

    def _late(self, result: Any, message: Publish, client: Client, arrived: float) -> Any:
        """Record the result of a handler's Deferred if it is Reports; let it pass if it is anything else."""
        reports = reports_in(result)
        return self._recording.save(message, client, arrived, reports) if reports else result

    def _refused(self, failure: Failure, message: Publish, client: Client, arrived: float) -> Any:
        """Keep a message that a handler's Deferred says it cannot read; let any other failure pass."""
        error = failure.value
        if not isinstance(error, InvalidReport):
            return failure
        return self._recording.recorder.reject(message, client, error, arrived)


def reports_in(given: object) -> list[Report] | None:
    """Return the Reports that a handler has returned, one or a list or tuple; ``None``: it is neither."""
    if isinstance(given, Report):
        return [given]
    if isinstance(given, list | tuple) and all(isinstance(report, Report) for report in given):
        return list(given)
    return None


def completed(
    report: Report, number: int, message: Publish, client: Client, arrived: float, limits: AgentLimits
) -> Report:
    """Return a handler's Report, read like an ``agent/message``, with all that the handler does not know.

    :param number: of the Report in its message, from 0, which is a part of the key.
    :raises InvalidReport: no part of it can become rows.
    """
    check_size(message.payload, limits)
    try:
        written = encode({"agent": report.agent, "metrics": report.metrics})
    except UnicodeEncodeError as error:
        raise InvalidReport("encoding", f"not UTF-8: {error.reason}") from None
    agent, metrics, _, problems = read_carefully(written, limits.max_metrics)
    source = Rejection(message.topic, client.client_id, message.payload, "", arrived)
    made = Report(agent, metrics, arrived, source)
    if problems:
        made.rejections.append(Rejection(source.topic, source.client_id, source.payload, problems, arrived))
    if report.measured is not None:
        # Unlike in agent/message the payload does not name the agent, the topic may: two devices that send
        # equal bytes in one millisecond are two messages.
        hashed = b"\0".join((message.topic.encode(), message.payload, b"%d" % number))
        use_time(made, report.measured * 1000, hashed)
    return made
