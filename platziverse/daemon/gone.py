"""Gone: after a reload the connections of users end that are in no table any more."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.access.authority import AccessAuthority
from platziverse.access.passwords import LoginsUnavailable
from platziverse.broker.broker import Broker
from platziverse.broker.reasons import Reason
from platziverse.broker.session import Session
from platziverse.net.outbox import Outbox
from platziverse.net.peer import certificate_user

log = Logger("platziverse.reload")

#: Names that are looked up together.
TOGETHER: Final = 500


class Streams(Protocol):
    """Streams are open answers over HTTP, of readers with a name."""

    @property
    def usernames(self) -> Collection[str]:
        """The names of those who read."""

    def end_of(self, username: str) -> int:
        """End those of one; return how many."""


class GoneUsers:
    """GoneUsers looks who is connected as a user that is in no table; some in each turn of the reactor.

    Whoever has shown a certificate is its own proof. ADR 0178.

    :param streams: see :class:`Streams`.
    """

    def __init__(
        self, clock: Any, broker: Broker, authority: AccessAuthority, streams: Sequence[Streams]
    ) -> None:
        self._clock, self._broker, self._authority, self._streams = clock, broker, authority, streams

    def look(self) -> "Deferred[Any]":
        """Look, and end their connections; fires when that is done."""
        clock = self._clock
        cooperator = Cooperator(scheduler=lambda go_on: clock.callLater(0, go_on))
        return cooperator.coiterate(self._steps())

    def _steps(self) -> "Iterator[Deferred[Any] | None]":
        connected = self._by_name()
        names = list(connected.keys() | {name for streams in self._streams for name in streams.usernames})
        ended = 0
        for first in range(0, len(names), TOGETHER):
            some = names[first : first + TOGETHER]
            gone: list[str] = []
            asked = [self._authority.knows(name).addCallback(_note, name, gone) for name in some]
            yield DeferredList(asked, consumeErrors=True).addCallback(_check)
            for name in gone:
                ended += sum(streams.end_of(name) for streams in self._streams)
                for session in connected.get(name, ()):
                    ended += self._end(session)
                    yield None
        if ended:
            text = "{count} connections of users that are gone have ended (access.disconnect_removed)"
            log.info(text, count=ended)

    def _by_name(self) -> dict[str, list[Session]]:
        found: dict[str, list[Session]] = {}
        for session in self._broker.sessions:
            client = session.client
            if session.connection is not None and client is not None and client.username is not None:
                found.setdefault(client.username, []).append(session)
        return found

    def _end(self, session: Session) -> bool:
        """End the connection of a Session, unless it has a certificate; return whether it has ended."""
        outbox = session.connection
        owner = outbox.owner if isinstance(outbox, Outbox) else None
        if owner is None or certificate_user(owner.transport) is not None:
            return False
        self._broker.clients.part(session, Reason.NOT_AUTHORIZED, "its user is gone")
        return True


def _note(known: bool, name: str, gone: list[str]) -> None:
    if not known:
        gone.append(name)


def _check(results: list[tuple[bool, Any]]) -> None:
    """Say, once, that some users could not be looked up; they stay connected."""
    failures: list[Failure] = [result for fine, result in results if not fine]
    if failures:
        if not failures[0].check(LoginsUnavailable):
            log.failure("Bug: users that are gone", failures[0])
        reason = failures[0].getErrorMessage()
        log.warn("Users of the database stay connected, be they gone or not: {reason}", reason=reason)
