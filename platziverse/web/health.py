"""``/healthz``: the process turns. ``/readyz``: what is sent now is also stored now."""

from collections.abc import Callable
from typing import Any

from twisted.web.server import Request

from platziverse.web.answers import Answer


class Health(Answer):
    """Whoever can answer is alive."""

    def answer(self, request: Request) -> Any:
        return {"status": "ok"}


class Readiness(Answer):
    """503 while messages wait for the database, with the reason.

    :param trouble: what keeps the daemon from storing, in one line; empty when nothing does.
    """

    def __init__(self, trouble: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trouble = trouble

    def answer(self, request: Request) -> Any:
        reason = self._trouble()
        if not reason:
            return {"status": "ready"}
        request.setResponseCode(503)
        return {"status": "not ready", "reason": reason}
