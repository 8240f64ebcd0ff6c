"""Calls: one message at one handler, until the handler has finished or its time is up."""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from platziverse.broker.reasons import Refused
from platziverse.mqtt.packets import Publish

if TYPE_CHECKING:
    from platziverse.agents.rows import RecordingRow

#: The calls that what runs now is a part of, the innermost last; a coroutine that goes on later keeps them.
running: Final[ContextVar["tuple[Call, ...]"]] = ContextVar("running", default=())


class TimeIsUp(Exception):
    """A handler's Deferred has not fired in its time."""


class Call:
    """A Call is one message at one handler.

    Time and room are counted while the handler itself is waited for, not while the store is: the database may
    be away for longer than a handler may take.

    :ivar answer: fires when the handler has finished and all that it recorded is committed; it fails as the
        first entry that could not be saved.
    :ivar recorded: the message is being stored, as rows or as a Rejection.
    :ivar unsaved: why an entry could not be saved.
    :ivar refused: what the publisher is told, if it is not told that all is well.
    """

    def __init__(self, row: "RecordingRow", message: Publish) -> None:
        self.row, self.message = row, message
        self.answer: Deferred[Any] = Deferred()
        self.finished = False
        self.recorded = False
        self.unsaved: Failure | None = None
        self.refused: Refused | None = None
        self._saving = 0
        self._began = 0.0
        self._answers: list[Deferred[Any]] = []
        self._given: Deferred[Any] | None = None
        self._finish: Callable[[Any], None] | None = None
        self._timer: IDelayedCall | None = None

    # -- the handler -----------------------------------------------------------------------------

    def wait(self, given: "Deferred[Any]", finish: Callable[[Any], None]) -> None:
        """Call ``finish`` with the result of the handler's Deferred, or a Failure when its time is up."""
        self._given, self._finish = given, finish
        given.addBoth(self._fired)
        self._count()

    def _fired(self, result: Any) -> Any:
        self.stop()
        finish, self._finish = self._finish, None
        if finish is not None:  # else it is too late
            if not isinstance(result, Failure) or not isinstance(result.value, TimeIsUp):
                self.row.recording.finished()
            token = running.set(())  # what the answer sets free, other messages perhaps, is no part of this
            try:
                finish(result)
            finally:
                running.reset(token)
        return None if isinstance(result, Failure) else result

    def _expire(self) -> None:
        given, tables = self._given, self.row.recording.tables
        assert given is not None
        self.row.recording.hangs(self._began)
        text = f"no answer within {tables.deadline:g} s (limits.handler_deadline)"
        self._fired(Failure(TimeIsUp(text)))
        try:
            given.cancel()
        except Exception:  # of a canceller; the message is done with
            tables.complain(self.row, Failure(), "could not be cancelled")

    def _count(self) -> None:
        """Take time and room, if the handler is what is waited for."""
        if self._finish is not None and not self._saving and self._timer is None:
            tables = self.row.recording.tables
            self.row.recording.waiting += 1
            self._began = tables.clock.seconds()
            self._timer = tables.clock.callLater(tables.deadline, self._expire)

    def stop(self) -> None:
        """Take no time and no room any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            self.row.recording.waiting -= 1
            if timer.active():
                timer.cancel()

    def finish(self) -> None:
        """Note that the handler has finished; the answer may still wait for the store."""
        self.finished = True
        for answer in self._answers:
            answer.addErrback(_noted)
        self._look()

    # -- what it records -------------------------------------------------------------------------

    def saving(self, saved: "Deferred[Any]") -> None:
        """Let the answer wait for an entry that is being saved."""
        self._saving += 1
        self.stop()
        saved.addBoth(self._saved)

    def keep(self, saved: "Deferred[Any]") -> None:
        """Let the answer wait for an entry that stands for the message, and that nobody else waits for."""
        self.recorded = True
        self.saving(saved)
        saved.addErrback(_noted)

    def handed(self, answer: "Deferred[Any]") -> None:
        """Remember what the handler got for it: its failure is noted here, if the handler does not care."""
        self._answers.append(answer)

    def _saved(self, result: Any) -> Any:
        self._saving -= 1
        if isinstance(result, Failure):
            self.unsaved = self.unsaved or result
        elif isinstance(result, Refused):
            self.refused = self.refused or result
        self._count()
        self._look()
        return result

    def _look(self) -> None:
        if self.finished and not self._saving and not self.answer.called:
            self.answer.callback(self.unsaved or self.refused)


def _noted(failure: Failure) -> None:
    """Ignore a failure with which the answer of the call fails, too."""


def in_this_context(deferred: "Deferred[Any]") -> "Deferred[Any]":
    """Return a Deferred with the same result, whose callbacks belong to the calls that are running now."""
    answer: Deferred[Any] = Deferred()
    context = copy_context()
    deferred.addBoth(lambda result: context.run(answer.callback, result))
    return answer
