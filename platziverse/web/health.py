"""Health: ``/healthz`` says that the process turns, ``/readyz`` that messages sent now are stored now."""

from collections.abc import Callable
from typing import Any, Final

from twisted.web.server import Request

from platziverse.web.answers import METHODS, Answer

#: Balancers ask with OPTIONS too, HAProxy unless it is told otherwise: the status is the answer.
PROBES: Final = (*METHODS, b"OPTIONS")


class Health(Answer):
    """Health answers ``ok``: a process that can answer is alive."""

    methods = PROBES

    def answer(self, request: Request) -> Any:
        return {"status": "ok"}


class Readiness(Answer):
    """Readiness answers 503, with the reason, while messages wait for the database.

    :param trouble: what keeps the daemon from storing, in one line; empty when nothing does.
    :param warning: returns what somebody should put right although all is stored, in one line, or nothing.
    """

    methods = PROBES

    def __init__(self, trouble: Callable[[], str], warning: Callable[[], str] = lambda: "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trouble, self._warning = trouble, warning

    def answer(self, request: Request) -> Any:
        reason = self._trouble()
        if not reason:
            warning = self._warning()
            return {"status": "ready", "warning": warning} if warning else {"status": "ready"}
        request.setResponseCode(503)
        return {"status": "not ready", "reason": reason}
