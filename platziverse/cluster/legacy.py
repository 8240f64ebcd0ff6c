"""Legacy: what is owed to a dead daemon whose Sessions are ours now, and not to us as well."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from platziverse.broker.durable import RETRY, Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import Acknowledged, StoredMessage, ends_of, link
from platziverse.cluster.frames import Owed
from platziverse.cluster.links import ALL

#: Messages that are read at once.
PAGE: Final = 100

_Steps = Generator["Deferred[Any]", Any, Any]


class Legacy:
    """A Legacy takes the rows of all links to one dead daemon, as often as it is asked to.

    A row whose message is owed to us as well is left alone: its Sessions get that one, which takes the place
    of both. Every page is read when the one before is ours, so no row is found twice. ADR 0171.

    :param daemon: number of the dead one.
    :param ours: our number.
    :param route: hands a message to our clients; it is given the row that theirs take the place of.
    :param complain: is told why rows could not be read, or a message not be saved.
    :ivar bounds: the daemon has come back: origin → position up to which rows are for these Sessions;
        ``None``: it is dead, and all of them are.
    """

    def __init__(
        self,
        daemon: int,
        ours: int,
        durable: Durable,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[Failure], None],
    ) -> None:
        self.bounds: Mapping[int, int] | None = None
        self._daemon, self._ours, self._durable = daemon, ours, durable
        self._route, self._complain = route, complain
        self._asked: list[Deferred[bool]] = []
        self._reads = self._stopped = False

    def read(self) -> "Deferred[bool]":
        """Take the rows that are there from now on; the Deferred fires with whether any are left."""
        asked: Deferred[bool] = Deferred()
        self._asked.append(asked)
        if not self._reads:
            self._reads = True
            self._read_on()
        return asked

    def stop(self) -> None:
        """Read nothing more, and answer nobody: they are somebody else's."""
        self._stopped = True
        asked, self._asked = self._asked, []
        for one in asked:
            one.cancel()

    @inlineCallbacks
    def _read_on(self) -> _Steps:
        while self._asked and not self._stopped:
            asked, self._asked = self._asked, []
            try:
                left = yield from self._read_links()
            except Exception:
                self._complain(Failure())
                self._asked = [*asked, *self._asked]
                yield deferLater(self._durable.clock, RETRY)
                continue
            for one in asked:
                if not one.called:
                    one.callback(left)
        self._reads = False

    def _read_links(self) -> _Steps:
        """Return whether any row is left."""
        left = False
        for number in (yield self._durable.links(self._daemon)):
            origin = ends_of(number)[0]
            yield from self._read_link(number, origin)
            left = bool((yield self._durable.page(number, 0, self._through(origin), 1))) or left
        return left

    def _through(self, origin: int) -> int:
        return ALL if self.bounds is None else self.bounds.get(origin, 0)

    def _read_link(self, number: int, origin: int) -> _Steps:
        after, both = 0, link(origin, self._ours)
        while rows := (yield self._durable.unshared(number, both, after, PAGE)):
            after, through = rows[-1].position, self._through(origin)  # it may have come back meanwhile
            if self._stopped:
                return
            yield DeferredList([self._cross(number, row) for row in rows if row.position <= through])
            if after > through:
                return

    def _cross(self, number: int, row: StoredMessage) -> "Deferred[Any]":
        place = number, row.position
        owed = Owed(row.position, row.topic, row.payload, row.qos, properties=row.properties)
        answer = self._route(owed, place)
        if answer is None:
            return self._durable.record(Acknowledged(*place))
        taken: Deferred[Any] = answer.addErrback(self._complain)
        return taken.addCallback(lambda _: self._durable.record(Acknowledged(*place)))
