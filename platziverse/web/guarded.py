"""The requests of the shared port: guarded, logged in where that is needed, and answered in their turn."""

import re
from functools import partial
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request

from platziverse.web.answers import Answer, HTTPError, Refusal, is_gone
from platziverse.web.guard import Guard, names_its_host
from platziverse.web.health import Health, Readiness
from platziverse.web.readers import ANYONE, OPERATOR, Login, Reader

HEADERS: Final = {
    b"Cache-Control": b"no-store",
    b"Content-Security-Policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    b"Referrer-Policy": b"no-referrer",
    b"Server": b"platziverse",
    b"X-Content-Type-Options": b"nosniff",
    b"X-Frame-Options": b"DENY",
}


#: What is answered without a login.
OPEN: Final = (Health, Readiness, Refusal)
NO_ADMINS: Final = "no login has the role admin; a command on the machine of the daemon may do it"
#: A target in absolute form, as clients send it to proxies and some probes to everybody.
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class GuardedRequest(Request):
    """Asks the site before anything is rendered."""

    #: Who has sent it.
    reader: Reader = ANYONE

    def process(self) -> None:
        """Find the path in whatever form the target of the request has (RFC 9112, 3.2).

        ``*`` is looked for in the tree, where it is not: Twisted would answer it without asking us.
        """
        if self.path == b"*":
            self.path = b"/*"
        elif (target := _ABSOLUTE.match(self.path)) is not None:
            self.path = self.path[target.end() :] or b"/"
            if names_its_host(self):  # Host is to be ignored, once it is there as it has to be
                self.requestHeaders.setRawHeaders(b"Host", [target[1]])
        super().process()  # type: ignore[no-untyped-call]

    def processingFailed(self, reason: Failure) -> None:
        """Answer a bug of ours as every other error, and tell the log about it once in a while."""
        site: Any = self.site
        site.failed(self, reason)
        channel: Any = self.channel
        if self.startedWriting:
            channel.loseConnection()
            return
        self._close_after()
        self._set_headers()
        super().render(Refusal(500, "internal error"))  # type: ignore[no-untyped-call]

    def render(self, resrc: Any) -> None:
        """Answer with ``resrc`` in its turn; health checks and clients of MQTT wait for no other request."""
        site: Any = self.site
        if resrc is site.websocket or isinstance(resrc, Health | Readiness):
            self._render(resrc)
        else:
            site.in_turn(partial(self._render_later, resrc))

    def _render_later(self, resrc: Any) -> None:
        if is_gone(self):
            return
        try:
            self._render(resrc)
        except Exception:  # as Twisted does where it calls render
            self.processingFailed(Failure())

    def _render(self, resrc: Any) -> None:
        """Answer with ``resrc``, or with the reason why not."""
        site: Any = self.site
        resrc = self._refusal(resrc) or resrc
        if cast(Any, self.channel).operator:
            self.reader = OPERATOR
        elif self._asks_for_login(resrc):
            self._log_in(resrc)
            return
        if resrc is not site.websocket:
            self._set_headers()
        channel = self.channel
        super().render(resrc)  # type: ignore[no-untyped-call]
        if resrc is site.websocket and not self.finished:
            site.left(channel)  # upgraded: it is a connection of MQTT from now on

    def _asks_for_login(self, resrc: Any) -> bool:
        site: Any = self.site
        if isinstance(resrc, OPEN) or resrc is site.websocket:
            return False
        return bool(site.guard.asks_for_logins) or self._is_for_admins(resrc)

    def _is_for_admins(self, resrc: Any) -> bool:
        return isinstance(resrc, Answer) and resrc.is_for_admins(self)

    def _log_in(self, resrc: Any) -> None:
        """Answer with ``resrc`` when it is known that the sender may have it."""
        site: Any = self.site
        login = site.guard.login(self) if site.logins is not None else Refusal(403, NO_ADMINS)
        if isinstance(login, Refusal):
            self._answer(login)
            return
        found: Deferred[Reader] = site.logins.log_in(login)
        found.addCallback(self._logged_in, resrc).addErrback(self._not_logged_in, login)

    def _logged_in(self, reader: Reader, resrc: Any) -> None:
        self.reader = reader
        if self._is_for_admins(resrc):
            if not reader.may_change:
                resrc = self._no_admin(reader)
        elif not reader.may_read:
            resrc = Refusal(403, "this login may not read: it may not receive agent/message")
        cast(Any, self.site).in_turn(partial(self._answer, resrc))

    def _no_admin(self, reader: Reader) -> Refusal:
        """Return what to answer to somebody who may only read; a login is asked for where one would do."""
        if not cast(Any, self.site).logins.has_admins:
            return Refusal(403, NO_ADMINS)
        return Refusal(401 if reader.username is None else 403, "a login with the role admin is needed")

    def _not_logged_in(self, failure: Failure, login: Login) -> None:
        site: Any = self.site
        if not failure.check(HTTPError):
            site.failed(self, failure)
            failure = Failure(HTTPError(500, "internal error"))
        error: Any = failure.value
        if login.username is not None:
            site.login_failed(login, error.text)
        self._answer(Refusal(error.status, error.text))

    def _answer(self, resrc: Any) -> None:
        if is_gone(self):
            return
        self._set_headers()
        try:
            super().render(resrc)  # type: ignore[no-untyped-call]
        except Exception:  # as Twisted does where it calls render
            self.processingFailed(Failure())

    def _refusal(self, resource: Any) -> Resource | None:
        """Return what to answer instead of ``resource``, or ``None`` when it may be rendered."""
        site: Any = self.site
        if not names_its_host(self):
            self._close_after()
            return Refusal(400, "Host is needed, once")
        if site.is_reserve(self.channel):
            self._close_after()
            if not isinstance(resource, Health | Readiness):
                return Refusal(503, site.refuse(self))
        if cast(Any, self.channel).operator:  # no page of a browser comes this way, whatever it is called
            return Refusal(403, "MQTT is not spoken here") if resource is site.websocket else None
        return self._guarded(resource)

    def _guarded(self, resource: Any) -> Resource | None:
        """Return what to answer instead of ``resource`` by where the request comes from."""
        site: Any = self.site
        guard: Guard = site.guard
        if resource is site.websocket:
            return guard.check_websocket(self)
        refusal = guard.check(self, resource)
        if refusal is None and self._is_for_admins(resource):
            refusal = guard.check_change(self)
        return refusal

    def _set_headers(self) -> None:
        for name, value in HEADERS.items():
            self.setHeader(name, value)  # type: ignore[no-untyped-call]

    def _close_after(self) -> None:
        channel: Any = self.channel
        channel.persistent = False
        self.setHeader("Connection", "close")  # type: ignore[no-untyped-call]
