"""Legacy: what is owed to a dead daemon whose Sessions are ours now, and not to us as well."""

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from platziverse.broker.durable import RETRY, Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import Acknowledged, StoredMessage, ends_of
from platziverse.broker.sharing import is_copy
from platziverse.cluster.frames import Owed
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.links import ALL
from platziverse.mqtt.packets import Publish
from platziverse.mqtt.properties import restored

#: Messages that are read at once.
PAGE: Final = 100

_Steps = Generator["Deferred[Any]", Any, Any]


class Legacy:
    """A Legacy takes the rows of all links to one dead daemon, as often as it is asked to.

    A row whose message is owed to us as well is left alone: its Sessions get that one, which takes the place
    of both. When the Sessions are settled, what is left of these is deleted. Every page is read when the one
    before is ours, so no row is found twice. ADR 0171, 0220.

    :param daemon: number of the dead one.
    :param heirs: knows which rows are for its Sessions.
    :param route: hands a message to our clients; it is given the row that theirs take the place of.
    :param complain: is told why rows could not be read, or a message not be saved.
    """

    def __init__(
        self,
        daemon: int,
        heirs: Heirs,
        durable: Durable,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[Failure], None],
    ) -> None:
        self._daemon, self._heirs, self._durable = daemon, heirs, durable
        self._route, self._complain = route, complain
        # Origin → position of its last row that was taken.
        self._last: dict[int, int] = {}

    def last(self, origin: int) -> int:
        """Return the position of the last row that was taken of those that a daemon has written."""
        return self._last.get(origin, 0)

    @inlineCallbacks
    def read(self, through: Mapping[int, int]) -> _Steps:
        """Take the rows that are there from now on; the Deferred fires with whether any are left.

        :param through: origin → position of the last one that counts; otherwise all do.
        """
        while True:
            try:
                left = yield from self._read_links(through)
            except CancelledError:
                raise
            except Exception:
                self._complain(Failure())
                yield deferLater(self._durable.clock, RETRY)
            else:
                return left

    def _read_links(self, through: Mapping[int, int]) -> _Steps:
        left = False
        for number in (yield self._durable.links(self._daemon)):
            last = through.get(ends_of(number)[0], ALL)
            yield from self._read_link(number, last)
            rows = yield self._durable.page(number, 0, last, PAGE)
            left = len(rows) == PAGE or bool(self._due(number, rows)) or left
        return left

    def _read_link(self, number: int, last: int) -> _Steps:
        after, origin = 0, ends_of(number)[0]
        while rows := (yield self._durable.page(number, after, last, PAGE)):
            after = rows[-1].position
            due = self._due(number, rows)
            if due:
                self._last[origin] = max(self.last(origin), due[-1].position)
            yield DeferredList([self._cross(number, row) for row in due])

    def _due(self, number: int, rows: Iterable[StoredMessage]) -> list[StoredMessage]:
        is_due, origin = self._heirs.is_due, ends_of(number)[0]
        return [row for row in rows if is_due(self._daemon, origin, row.position, holds_copy(row))]

    def _cross(self, number: int, row: StoredMessage) -> "Deferred[Any]":
        place = number, row.position
        owed = Owed(row.position, row.topic, row.payload, row.qos, properties=row.properties)
        is_over = self._heirs.is_settled(self._daemon) and not holds_copy(row)
        answer = None if is_over else self._route(owed, place)
        if answer is None:
            return self._durable.record(Acknowledged(*place))
        taken: Deferred[Any] = answer.addErrback(self._complain)
        return taken.addCallback(lambda _: self._durable.record(Acknowledged(*place)))


def holds_copy(row: StoredMessage) -> bool:
    """Return whether a message is the copy of a group, which is owed to one daemon alone. ADR 0192."""
    return bool(row.properties) and is_copy(Publish("", b"", properties=restored(row.properties)))
