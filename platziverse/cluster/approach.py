"""Approach: one durable Session on its way to us, from the daemon that its client has left."""

from collections.abc import Callable, Generator, Iterator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from platziverse.broker.places import StoredPlace
from platziverse.broker.records import Taken
from platziverse.broker.sessionrecords import unavailable
from platziverse.cluster.delaying import Delay
from platziverse.cluster.frames import ANOTHER, NEWER, Aborted, Followed, Frame, Free, LetGo, Moved, Refused
from platziverse.cluster.way import Way, shielded
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import ConnectReturnCode

_Steps = Generator["Deferred[Any]", Any, Any]


class Elsewhere(Exception):
    """The Session does not come now; perhaps it is somewhere else by then."""


class Approach:
    """An Approach asks for one Session, and takes it.

    :param later: is given steps that can wait; the Deferred fires after the last one.
    :param place: where the Session is.
    :param ask: says something to its daemon; the Deferred fires with the answer.
    """

    def __init__(
        self,
        way: Way,
        later: "Callable[[Iterator[None]], Deferred[Any]]",
        place: StoredPlace,
        ask: "Callable[[Frame], Deferred[Frame]]",
    ) -> None:
        self._way, self._later, self._place, self._ask = way, later, place, ask
        self._filters: tuple[str, ...] = ()
        self._delay: Delay | None = None
        self._identifiers: tuple[int, ...] = ()
        # Said to the daemon that the Session comes from: it is asked, and it hears no end.
        self._number: int | None = None

    @inlineCallbacks
    def near(self, wanted: LetGo) -> _Steps:
        """Have the Session let go, and everything that it shall not get from us behind it.

        May be cancelled.

        :raises Elsewhere: it is not there any more, or not all daemons answer.
        :raises ConnectRefused: its client may not have it.
        """
        way, self._number = self._way, wanted.number
        self._check(wanted, (yield self._ask(wanted)))
        yield from self._look(wanted.client_id, self._place.daemon)
        yield from self._follow()
        free = yield self._ask(Followed(wanted.number))
        if not isinstance(free, Free):
            raise Elsewhere("it stays")
        self._identifiers = free.identifiers
        assert self._delay is not None
        cuts = dict(free.cuts)
        way.delaying.cut(self._delay, cuts)
        yield way.linking.catch_up()
        for origin, position in cuts.items():
            if origin != way.peers.number:
                yield way.linking.when_done(origin, position)
        yield from self._look(wanted.client_id, -self._place.daemon)

    def _check(self, wanted: LetGo, answer: Frame) -> None:
        if not isinstance(answer, Refused):
            return
        self._number = None
        if answer.reason == ANOTHER:
            text = f"its Client Identifier is that of another login, {answer.owner!r}"
            raise ConnectRefused(ConnectReturnCode.IDENTIFIER_REJECTED, text)
        if answer.reason == NEWER:
            raise unavailable(f"it has connected to daemon {self._place.daemon} later")
        raise Elsewhere("its daemon does not have it")

    def _look(self, client_id: str, daemon: int) -> _Steps:
        """Look again where the Session is, and with which Subscriptions."""
        place = yield shielded(self._way.durable.find(client_id))
        if place is None or (place.session, place.daemon) != (self._place.session, daemon):
            raise Elsewhere("it has gone somewhere else")
        self._filters, self._since = place.filters, place.absent_since or 0.0

    def _follow(self) -> _Steps:
        """Have all daemons owe to us, too, what they owe to the Session; it waits here."""
        way = self._way
        self._delay = way.delaying.begin(self._filters)
        for topic_filter in self._filters:
            way.announcing.own.add(topic_filter, True)
        told, number = way.announcing.told(), way.announcing.number
        if told is not None:
            yield shielded(told)
        if not way.announcing.is_known(number):
            raise Elsewhere("not all daemons answer")

    @inlineCallbacks
    def take(self, client_id: str) -> _Steps:
        """Take the Session; the Deferred fires when it is in memory, with what has waited for it.

        :raises Elsewhere: somebody else has it.
        """
        way, place = self._way, self._place
        if self._number is not None:
            try:
                yield way.durable.save(Taken(place.session, place.daemon, self._since))
            except Exception as error:  # others have taken over from us
                raise Elsewhere(f"it cannot be taken: {error}") from error
        stored = yield way.durable.inherited([place.session])
        if not stored:
            raise Elsewhere("somebody else has it")
        yield self._later(way.moving.take_in(stored[0], self._identifiers))
        session = way.broker.sessions.get(client_id)
        if session is None or session.number != place.session:
            raise Elsewhere("its client has ended it")
        self.end(Moved)
        return session

    def end(self, frame: "type[Moved] | type[Aborted]" = Aborted) -> None:
        """Keep messages no longer, and say how it ended; once."""
        way = self._way
        if self._number is not None:
            way.peers.tell(self._place.daemon, frame(self._number))
            self._number = None
        if self._delay is not None:
            way.delaying.end(self._delay)
            for topic_filter in self._filters:
                way.announcing.own.remove(topic_filter, True)
            self._delay = None
