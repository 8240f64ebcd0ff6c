"""Loading: what a start reads of the store, while clients come already, and what they have to wait for."""

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from platziverse.broker.durable import REMEMBERED
from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.ports import Former, Opened, SessionStore
from platziverse.broker.records import StoredWill
from platziverse.broker.restoring import Restoring
from platziverse.broker.session import Session
from platziverse.broker.sessionrecords import unavailable
from platziverse.broker.turn import Turn
from platziverse.mqtt.packets import Connect, Publish

log = Logger()

#: Sessions, or Retained Messages, that are read at once.
PAGE: Final = 2000
#: Seconds of one turn of the reactor.
LENGTH: Final = 0.005
#: Seconds until what could not be read is read again: at first, and at most.
SOON: Final = 0.5
LATE: Final = 10.0

#: Seconds that clients wait on when nobody knows if Sessions are ours: an heir tries again within them.
UNKNOWN: Final = 3.0

#: Seconds until it is asked again who has Sessions that were ours.
SHORT: Final = 0.1

#: Why a client that would have to wait may not come.
NOT_LOADED: Final = "the database is away, and the stored Sessions are not loaded"

#: The answers that are waited for, each with what is done for it then.
Waiting: TypeAlias = "deque[tuple[Deferred[Any], Callable[[], Any]]]"


class Loading:
    """A Loading fills the memory of a broker, and keeps waiting what must not happen before that is done.

    A message at QoS 1 or 2, or with RETAIN, would miss Sessions that are not there yet; so it waits for all
    of them, and so does a client with Clean Session 0, for its own. All others are served. ADR 0116.

    :param most: clients with Clean Session 1 that are remembered; further ones wait like the others.
    :param publish: publishes a message now.
    :param done: called when everything is loaded and nobody waits any more.
    :param former: returns what knows who has Sessions that were ours; until nobody has, nothing is loaded.
    :ivar sessions: how many were read so far.
    :ivar retained: likewise Retained Messages.
    """

    def __init__(
        self,
        store: SessionStore,
        restoring: Restoring,
        most: int,
        publish: Callable[[Publish, Client], Answer],
        done: Callable[[], None],
        former: Callable[[], Former],
        clock: IReactorTime,
    ) -> None:
        self.sessions = self.retained = 0
        self._former, self._owners = former, ""
        self._store, self._restoring, self._most = store, restoring, most
        self._publish, self._done = publish, done
        self._clock, self._turn = clock, Turn(clock, LENGTH)
        self._loaded = self._stops = False
        self._connects: Waiting = deque()
        # Client Identifiers of the clients that wait.
        self._clients: set[str] = set()
        # Client Identifier → its messages: those of one client keep their order.
        self._messages: dict[str, Waiting] = {}
        # Subscriptions that were made meanwhile, with their QoS.
        self._owed: dict[Session, dict[str, int]] = {}

    def __str__(self) -> str:
        if self._owners:
            return f"waiting for daemon {self._owners}, which takes over Sessions that were ours"
        return f"loading, {self.sessions} Sessions and {self.retained} Retained Messages so far"

    # -- meanwhile -------------------------------------------------------------------------------

    def connect(
        self, packet: Connect, username: str | None, open: "Callable[[], Opened | Deferred[Opened]]"
    ) -> "Opened | Deferred[Opened]":
        """Connect a client with Clean Session 1 now, any other later, each after those with its identifier.

        :param open: connects it.
        :raises ConnectRefused: it would have to wait, and the database is away; or as ``open`` does.
        """
        client_id, newcomers = packet.client_id, self._restoring.newcomers
        waits = not self._loaded and (not packet.clean_session or len(newcomers) >= self._most)
        if waits or client_id in self._clients:
            if not self._store.available:
                raise unavailable(NOT_LOADED)
            self._clients.add(client_id)
            return _later(self._connects, open)
        opened = open()
        if client_id:
            newcomers.setdefault(client_id, set()).add(username)
        return opened

    def publish(self, message: Publish, client: Client) -> Answer:
        """Publish a message at QoS 0 without RETAIN now, any other later."""
        if message.qos or message.retain:
            return self.later(client, partial(self._publish, message, client))
        return self._publish(message, client)

    def later(self, client: Client, function: Callable[[], Answer]) -> Answer:
        """Call ``function`` after all that came before from this client, and return what it will return."""
        waiting = self._messages.get(client.client_id)
        if waiting is None:
            if self._loaded:
                return function()
            waiting = self._messages[client.client_id] = deque()
        return _later(waiting, function)

    def owe(self, session: Session, granted: Mapping[str, int]) -> None:
        """Send the Retained Messages of these Subscriptions, Topic Filter → QoS, later."""
        self._owed.setdefault(session, {}).update(granted)

    def forget(self, session: Session) -> None:
        """Owe nothing to a Session that has ended."""
        self._owed.pop(session, None)

    def stop(self, load: "Deferred[Any]") -> None:
        """Read nothing more; ``load`` is what one of the methods below has returned last."""
        self._stops = True
        load.cancel()

    # -- what is loaded --------------------------------------------------------------------------

    @inlineCallbacks
    def load(self) -> "Generator[Deferred[Any], Any, int]":
        """Read everything; the Deferred fires when it is in memory and nobody waits for it any more.

        It fires with how many Sessions were read.
        While the database is away, it is asked again and again. Cancelled, it asks no more.
        """
        yield from self._wait_for_heirs()
        began = self._clock.seconds()
        restoring, store = self._restoring, self._store
        wills = yield self._read(store.wills)
        page = yield self._read(partial(store.sessions, 0, PAGE))
        while page:
            self.sessions += len(page)
            following = self._read(partial(store.sessions, page[-1].session, PAGE))
            page = yield from self._restore(page, restoring.sessions(page), following)
        yield self._work(restoring.shared((yield self._read(partial(store.shared, REMEMBERED)))))
        yield self._work(restoring.absent())
        self._former().restored()
        page = yield self._read(partial(store.retained, "", PAGE))
        while page:
            self.retained += len(page)
            following = self._read(partial(store.retained, page[-1].topic, PAGE))
            page = yield from self._restore(page, restoring.retained(page), following)
        yield from self._finish(wills)
        text = "Loaded {sessions} Sessions and {retained} Retained Messages in {seconds:.1f} s"
        seconds = self._clock.seconds() - began
        log.info(text, sessions=self.sessions, retained=self.retained, seconds=seconds)
        return self.sessions

    def _wait_for_heirs(self) -> "Generator[Deferred[Any], Any, None]":
        """Wait until no other daemon has Sessions that were ours; clients go elsewhere, if it takes long."""
        until = self._clock.seconds() + UNKNOWN
        while owners := (yield self._read(self._former().ask)):
            before, self._owners = self._owners, " and ".join(map(str, sorted(owners)))
            if not before:
                log.info("Daemon {owners} takes over Sessions that were ours", owners=self._owners)
            if self._clock.seconds() > until:
                self._refuse()
            yield deferLater(self._clock, SHORT)
        self._owners = ""

    @inlineCallbacks
    def load_anew(self) -> "Generator[Deferred[Any], Any, int]":
        """Forget everything, then load what is ours; see :meth:`load`."""
        yield self._work(self._restoring.forget())
        yield deferLater(self._clock, 0)  # until all know that they begin anew
        sessions: int = yield self.load()
        return sessions

    @inlineCallbacks
    def inherit(
        self, taken: "Deferred[Sequence[int]]", restored: Callable[[], None]
    ) -> "Generator[Deferred[Any], Any, None]":
        """Read Sessions that were a dead daemon's, and publish its Wills; see :meth:`load`.

        :param taken: fires with their numbers when they are ours; cancelled: they are not, for all we know.
        :param restored: called when all of them are in memory, before anything is published.
        """
        restoring, store = self._restoring, self._store
        try:
            numbers = yield taken
        except CancelledError:
            self._refuse()
            if not self._stops:
                yield deferLater(self._clock, UNKNOWN)  # what was asked for may have been done: ADR 0141
                self._refuse()
            yield from self._finish([])
            raise
        began = self._clock.seconds()
        page = yield self._read(partial(store.inherited, numbers[:PAGE]))
        for at in range(PAGE, len(numbers) + PAGE, PAGE):
            self.sessions += len(page)
            following = self._read(partial(store.inherited, numbers[at : at + PAGE]))
            page = yield from self._restore(page, restoring.inherited(page), following)
        yield self._work(restoring.absent())
        restored()
        wills = yield self._read(store.inherited_wills)
        yield from self._finish(wills)
        text = "Inherited {sessions} Sessions and {wills} Wills in {seconds:.1f} s"
        seconds = self._clock.seconds() - began
        log.info(text, sessions=self.sessions, wills=len(wills), seconds=seconds)

    def _finish(self, wills: "list[StoredWill]") -> "Generator[Deferred[Any], Any, None]":
        """Publish Wills, then let everybody go on who has waited."""
        restoring = self._restoring
        yield self._work(restoring.wills(wills, self._publish))
        self._loaded = True
        # First: messages that wait are new to these Subscriptions, and come to them as such.
        yield self._work(restoring.send_retained(self._owed))
        yield self._work(self._answer())
        self._done()
        yield self._work(restoring.send_retained(self._owed))

    @inlineCallbacks
    def _read(self, read: "Callable[[], Deferred[Any]]") -> "Generator[Deferred[Any], Any, Any]":
        seconds = SOON
        while True:
            try:
                return (yield read())
            except CancelledError:
                raise
            except Exception as error:
                text = "Cannot load Sessions and Retained Messages, next try in {seconds:g} s: {reason}"
                log.error(text, seconds=seconds, reason=error)
            self._refuse()
            yield deferLater(self._clock, seconds)
            seconds = min(2 * seconds, LATE)

    def _refuse(self) -> None:
        """Refuse all clients that wait: nobody knows how long it will take."""
        reason = str(self) if self._owners else NOT_LOADED
        waiting, self._connects = self._connects, deque()
        self._clients.clear()
        for answer, _ in waiting:
            answer.errback(unavailable(reason))

    def _restore(
        self, page: Sequence[object], steps: Iterator[None], following: "Deferred[Any]"
    ) -> "Generator[Deferred[Any], Any, Any]":
        """Put a page into memory, and return the following one, which is read meanwhile.

        The collector of garbage would look through all of it again and again, for 170 ms at a time, and find
        nothing. So it rests meanwhile, and looks at what is loaded by then never more. ADR 0116.
        """
        rests = len(page) == PAGE and gc.isenabled()
        if rests:
            gc.disable()
        try:
            yield self._work(steps)
        except CancelledError:
            following.addErrback(lambda _: None).cancel()
            raise
        finally:
            if rests:
                gc.freeze()
                gc.enable()
        return (yield following)

    @inlineCallbacks
    def _work(self, steps: Iterator[None]) -> "Generator[Deferred[Any], Any, None]":
        """Take all ``steps``, but only so many in a turn of the reactor."""
        for _ in steps:
            if self._turn.is_over:
                yield deferLater(self._clock, 0)

    def _answer(self) -> Iterator[None]:
        """Do what was put off.

        All of one client goes in one step. What it sends from then on need not wait any more; otherwise
        clients that send without a pause would keep everybody here for ever.
        """
        while self._connects or self._messages:
            if self._connects:
                _answer(*self._connects.popleft())
            else:
                client_id, waiting = next(iter(self._messages.items()))
                while waiting:
                    _answer(*waiting.popleft())
                del self._messages[client_id]
            yield


def _later(waiting: Waiting, function: Callable[[], Any]) -> "Deferred[Any]":
    answer: Deferred[Any] = Deferred()
    waiting.append((answer, function))
    return answer


def _answer(answer: "Deferred[Any]", function: Callable[[], Any]) -> None:
    try:
        result = function()
    except Exception:
        answer.errback(Failure())
        return
    if isinstance(result, Deferred):
        result.chainDeferred(answer)
    else:
        answer.callback(result)
