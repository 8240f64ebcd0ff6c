"""Rows: those of the handler table that record the Reports of other people's handlers.

A handler records a message by returning Reports, or a Deferred of them, or by calling ``record``. Its Reports
say who measured, what, and when; the rest, that is arrival, source, key and delivery, is added here.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import evolve
from msgspec.json import encode
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.agents.calls import Call, in_this_context, running
from platziverse.agents.careful import read_carefully
from platziverse.agents.interfaces import Client, Recognising
from platziverse.agents.limits import AgentLimits
from platziverse.agents.model import MAX_REASON, InvalidReport, Rejection, Report
from platziverse.agents.payload import check_size, hash_of, use_time
from platziverse.agents.pending import Redeliveries, refused_or
from platziverse.agents.recorder import Recorder, together
from platziverse.broker.reasons import Refused
from platziverse.mqtt.packets import Publish

if TYPE_CHECKING:
    from platziverse.agents.tables import Tables

#: A handler: returns ``None``, or a Deferred that holds back the acknowledgement, or Reports; a Deferred may
#: fire with Reports as well. It may be an ``async def``.
GivenHandler: TypeAlias = Callable[[Publish, Client], Any]


class Recording:
    """A Recording is one table: its name, and the calls of its handlers that wait for the recorder.

    :param name: ``package.module:function``.
    :ivar waiting: calls whose handler has not finished, and does not wait for the store.
    :ivar hung: time was up for a handler, and none has finished since that one began.
    :ivar calls: messages that handlers have finished with.
    :ivar seconds: that this took them, what they waited for included.
    """

    def __init__(self, name: str, tables: "Tables") -> None:
        self.name, self.tables, self.recorder = name, tables, tables.recorder
        self.waiting = 0
        self.hung = False
        self.calls, self.seconds = 0, 0.0
        self._finished = 0.0
        # By the identity of their message: more than one row of a table may get it.
        self._calls: dict[int, list[Call]] = {}

    def record(self, message: Publish, client: Client, /, *reports: Report) -> "Deferred[Any]":
        """Save Reports as the sender's; the Deferred fires with the commit, as rows or as a Rejection.

        Until the handler of the message has finished, the acknowledgement waits for it in any case. All
        Reports of a message go in one call, so that one of QoS 2 is recognised when it comes again.
        """
        saved = self.save(message, client, self.recorder.wall_clock(), reports)
        calls = self._calls.get(id(message)) or running.get()[-1:]  # a handler may make up a message
        for call in calls:
            call.saving(saved)
            call.recorded = call.recorded or bool(reports)
        answer = in_this_context(saved)
        for call in calls:
            call.handed(answer)
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

    def begin(self, call: Call) -> None:
        """Let the call wait, from now on, for all that is recorded of its message."""
        self._calls.setdefault(id(call.message), []).append(call)

    def end(self, call: Call, began: float) -> None:
        """Let the call wait no more: its handler has finished."""
        self.calls += 1
        self.seconds += self.tables.clock.seconds() - began
        calls = self._calls[id(call.message)]
        calls.remove(call)
        if not calls:
            del self._calls[id(call.message)]

    def finished(self) -> None:
        """Note that a handler which was waited for has finished."""
        self._finished, self.hung = self.tables.clock.seconds(), False

    def hangs(self, began: float) -> None:
        """Note that the time is up for a handler that began then."""
        self.hung = self.hung or self._finished <= began

    def stop(self) -> None:
        """Let no time be up any more."""
        for calls in self._calls.values():
            for call in calls:
                call.stop()


class RecordingRow:
    """A RecordingRow is one handler of a table; its Reports are recorded, and its failures are its own.

    A message that comes again while its first copy is being stored waits for that one; the handler is not
    called for it.
    """

    def __init__(self, handler: GivenHandler, recording: Recording) -> None:
        self._handler, self.recording = handler, recording
        self._redeliveries = Redeliveries()

    def __call__(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Call the handler; return ``None`` when there is nothing to wait for."""
        return Together((self,), self.recording.recorder)(message, client)

    def handle(self, message: Publish, client: Client, fate: "Fate") -> "Deferred[Any] | None":
        """Call the handler; what becomes of the message is noted in ``fate`` before the answer fires."""
        outlives = client.persistent and message.packet_id is not None
        if outlives:
            answer = self._redeliveries.find(message, client)
            if answer is not None:
                self.recording.recorder.redelivered += 1
                fate.kept = True  # by the first copy
                return answer.addCallback(refused_or, self.repeated, message, client)
        refusal = self.recording.tables.refusal(self, message)
        if refusal:
            fate.failed.append(refusal)
            return None
        answer = self._answer(Call(self, message), client, fate)
        if outlives and answer is not None:
            self._redeliveries.watch(message, client, answer)
        return answer

    def repeated(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Let the connection speak for the agents of a message that has come again; no handler is called."""
        return self.recording.recorder.repeated(message, client)

    def _answer(self, call: Call, client: Client, fate: "Fate") -> "Deferred[Any] | None":
        finish = partial(self._finish, call, client, fate, self.recording.tables.clock.seconds())
        self.recording.begin(call)
        token = running.set((*running.get(), call))
        try:
            given = self._handler(call.message, client)
            if iscoroutine(given):
                given = Deferred.fromCoroutine(given)
        except BaseException:  # SystemExit too would go on to the reactor, and the message come again
            given = Failure()
        finally:
            running.reset(token)
        if isinstance(given, Deferred):
            call.wait(given, finish)
        else:
            finish(given if isinstance(given, Failure) else _checked(given))
        return call.answer if call.recorded or call.refused or not call.answer.called else None

    def _finish(self, call: Call, client: Client, fate: "Fate", began: float, result: Any) -> None:
        """Save the Reports that the handler has returned, or note how it has failed: it has finished."""
        recording, message = self.recording, call.message
        recording.end(call, began)
        try:
            if reports := reports_in(result):
                call.keep(recording.save(message, client, fate.arrived, reports))
        except Exception:  # a Report made of something that no JSON can say
            result = Failure()
        if isinstance(result, Failure) and isinstance(result.value, Refused):
            result = result.value
        if isinstance(result, Refused):
            self._refuse(call, client, result)
        elif isinstance(result, Failure):
            if isinstance(result.value, InvalidReport):
                call.keep(recording.recorder.reject(message, client, result.value, fate.arrived))
            elif call.unsaved is None:  # else it has only passed on what the store said
                fate.failed.append(recording.tables.failed(self, message, client, result))
        fate.kept = fate.kept or call.recorded
        call.finish()

    def _refuse(self, call: Call, client: Client, refused: Refused) -> None:
        """Note that the handler refuses its message, unless it passes on what the recorder has said."""
        if call.refused is None:
            call.refused = refused
            self.recording.tables.refused(self, call.message, client, refused.text)


def _checked(given: Any) -> Any:
    """Return ``given``, of a handler, or a Failure if it is neither ``None`` nor Reports, nor refuses."""
    if given is None or isinstance(given, Refused) or reports_in(given) is not None:
        return given
    return Failure(TypeError(f"a handler returned {type(given).__name__}, neither Reports nor a Deferred"))


class Fate:
    """A Fate is noted for one message by all its handlers.

    :param arrived: when it came, in seconds since the epoch.
    :ivar kept: it is being stored, as rows or as a Rejection.
    :ivar failed: a line for each handler that has failed.
    """

    __slots__ = ("arrived", "failed", "kept")

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        self.kept = False
        self.failed: list[str] = []


class Together:
    """A Together is all handlers of one Topic Name, some of them of tables.

    A message that a handler of a table has failed with is acknowledged, and kept in ``rejected_messages``
    unless another handler has stored it: a device that sends it again would find the same handler.
    """

    def __init__(self, handlers: "Sequence[Callable[[Publish, Client], Any]]", recorder: Recorder) -> None:
        self._handlers, self._recorder = handlers, recorder

    def __call__(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Call the handler; return ``None`` when there is nothing to wait for."""
        kept: Deferred[Any] | None
        fate = Fate(self._recorder.wall_clock())
        answers = []
        for handler in self._handlers:
            if isinstance(handler, RecordingRow):
                answer = handler.handle(message, client, fate)
            else:
                answer = handler(message, client)
                fate.kept = fate.kept or answer is not None  # ours answer so when they save
            if answer is not None:
                answers.append(answer)
        if not answers:
            kept = self._keep(None, message, client, fate)
            return kept
        return together(answers).addCallback(self._keep, message, client, fate)

    def repeated(self, message: Publish, client: Client, /) -> "Deferred[Any] | None":
        """Tell the handlers that want to know of a message that has come again."""
        handlers: Sequence[object] = self._handlers
        wanting = [handler for handler in handlers if isinstance(handler, Recognising)]
        told = [handler.repeated(message, client) for handler in wanting]
        answers = [answer for answer in told if answer is not None]
        return together(answers) if answers else None

    def _keep(self, results: object, message: Publish, client: Client, fate: Fate) -> Any:
        """Keep a message that handlers have failed with; one of the server's own (number 0) is not.

        :return: that the message is refused, if it is, or a Deferred that fires with it.
        """
        if fate.kept or not fate.failed or not client.number:
            found = results if isinstance(results, list) else [results]
            return next((result for result in found if isinstance(result, Refused)), None)
        error = InvalidReport("handler", "; ".join(fate.failed)[:MAX_REASON])
        return self._recorder.reject(message, client, error, fate.arrived)


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
    who, properties = client.client_id, message.properties
    source = Rejection(message.topic, who, message.payload, "", arrived, "", properties)
    made = Report(agent, metrics, arrived, source)
    if problems:
        made.rejections.append(evolve(source, reason=problems))
    if report.measured is not None:
        # Unlike in agent/message the payload does not name the agent, the topic may: two devices that send
        # equal bytes in one millisecond are two messages.
        hashed = b"\0".join((message.topic.encode(), message.payload, b"%d" % number))
        use_time(made, report.measured * 1000, hash_of(hashed))
    return made
