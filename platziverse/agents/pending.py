"""Pending: entries that have to wait for one another although the store takes them apart."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.agents.interfaces import Client, ReportStore
from platziverse.agents.model import Entry, Report
from platziverse.broker.reasons import Refused
from platziverse.broker.records import Forget, Release
from platziverse.mqtt.packets import Publish

#: Messages remembered while they are being stored; a broker holds back reading before there are as many.
MAX_UNFINISHED: Final = 50_000


@define
class _Unfinished:
    message: Publish
    waiting: "list[Deferred[Any]]" = field(factory=list)


class Redeliveries:
    """Redeliveries recognises a message that comes again while its first copy is on the way to the database.

    A client that reconnects sends the messages again that were not acknowledged. None is stored twice: the
    copy waits for the first one.
    """

    def __init__(self) -> None:
        self._unfinished: dict[tuple[str, int], _Unfinished] = {}

    def find(self, message: Publish, client: Client) -> "Deferred[Any] | None":
        """Return the outcome of the first copy; ``None`` if none is on the way."""
        if not message.dup or message.packet_id is None:
            return None
        entry = self._unfinished.get((client.client_id, message.packet_id))
        if entry is None or entry.message.payload != message.payload or entry.message.topic != message.topic:
            return None
        outcome: Deferred[Any] = Deferred()
        entry.waiting.append(outcome)
        return outcome

    def watch(self, message: Publish, client: Client, answer: "Deferred[Any]") -> None:
        """Remember a message of a persistent Session until it is stored."""
        if answer.called or message.packet_id is None or len(self._unfinished) >= MAX_UNFINISHED:
            return
        key = (client.client_id, message.packet_id)
        entry = self._unfinished[key] = _Unfinished(message)
        answer.addBoth(self._finish, key, entry)

    def _finish(self, result: Any, key: tuple[str, int], entry: _Unfinished) -> Any:
        if self._unfinished.get(key) is entry:
            del self._unfinished[key]
        for outcome in entry.waiting:
            if isinstance(result, Failure):
                outcome.errback(result)
            else:
                outcome.callback(result)
        return result


def refused_or(result: object, repeated: Callable[..., Any], message: Publish, client: Client) -> Any:
    """Return what became of the first copy of a message, if it was refused; else let it have come again."""
    return result if isinstance(result, Refused) else repeated(message, client)


class EndedSessions:
    """EndedSessions saves entries of clients, each after the Forget of its client's ended Session.

    The store keeps the entries of one client in order, and those of one agent. A new Session
    may use a Packet Identifier again that the old one left, so its messages wait for the Forget. If that
    fails, as another daemon has the Session now, what is of QoS 2 fails with it; see ADR 0230.
    """

    def __init__(self, store: ReportStore, failed: Callable[[Failure], None]) -> None:
        self._store = store
        self._failed = failed
        # By client while a Forget of it is on the way; in the queue, ``None`` stands for a further one.
        self._waiting: dict[str, deque[tuple[Entry, Deferred[None]] | None]] = {}

    def forget(self, client_id: str) -> None:
        """Save a Forget: a persistent Session has ended."""
        waiting = self._waiting.get(client_id)
        if waiting is None:
            self._waiting[client_id] = deque()
            self._forget(client_id)
        elif waiting and waiting[-1] is not None:  # with nothing between, one Forget does for two
            waiting.append(None)

    def save(self, client_id: str, entry: Entry) -> "Deferred[None]":
        """Save an entry that came from this client."""
        waiting = self._waiting.get(client_id)
        if waiting is None:
            return self._store.save(entry)
        answer: Deferred[None] = Deferred()
        waiting.append((entry, answer))
        return answer

    def _forget(self, client_id: str) -> None:
        self._store.save(Forget(client_id)).addBoth(self._forgotten, client_id)

    def _forgotten(self, result: object, client_id: str) -> None:
        failure = result if isinstance(result, Failure) else None
        if failure is not None:
            self._failed(failure)
        waiting = self._waiting[client_id]
        while waiting:
            item = waiting.popleft()
            if item is None:
                self._forget(client_id)
                return
            entry, answer = item
            if failure is not None and _is_of_qos_2(entry):
                answer.errback(failure)
            else:
                self._store.save(entry).chainDeferred(answer)
        del self._waiting[client_id]


def _is_of_qos_2(entry: Entry) -> bool:
    """Return whether an entry is about a Packet Identifier."""
    return isinstance(entry, Release) or (isinstance(entry, Report) and entry.delivery is not None)
