"""Marks: all other daemons are asked how much they owe by now. ADR 0153, 0220."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks

from platziverse.cluster.crossings import Crossing
from platziverse.cluster.frames import Mark, Marked
from platziverse.cluster.peers import Peer, Peers


class Marks:
    """Marks asks the others, and waits until we have taken what they say.

    :param crossing: returns the Crossing from a daemon.
    """

    def __init__(self, peers: Peers, crossing: Callable[[int], Crossing]) -> None:
        self._peers, self._crossing = peers, crossing
        self._number = 0
        # Number of our question → daemon → its answer, serial and newest.
        self._asked: dict[int, dict[int, Deferred[tuple[int, int] | None]]] = {}

    @inlineCallbacks
    def ask(self, inherited: Sequence[int]) -> "Generator[Deferred[Any], Any, Mapping[int, int]]":
        """Take what all others have published for our Sessions by now.

        The Deferred fires with daemon → position of the last that it has published.

        :param inherited: see :class:`Mark`.
        :raises CancelledError: a daemon has gone meanwhile.
        """
        self._number += 1
        number = self._number
        asked = self._asked[number] = {origin: Deferred() for origin in self._peers}
        self._peers.send(self._peers.everybody, Mark(number, tuple(inherited)))
        serials: dict[int, int] = {}
        try:
            for origin, answer in list(asked.items()):
                if (marked := (yield answer)) is None:
                    raise CancelledError(f"daemon {origin} has gone")
                serials[origin], newest = marked
                yield self._crossing(origin).when_taken(newest)
        finally:
            del self._asked[number]
        return serials

    def answered(self, peer: Peer, frame: Marked) -> None:
        """Take an answer."""
        answer = self._asked.get(frame.number, {}).pop(peer.number, None)
        if answer is not None and not answer.called:
            answer.callback((frame.serial, frame.last))

    def left(self, number: int) -> None:
        """Wait for a daemon no longer."""
        for asked in list(self._asked.values()):
            if number in asked:
                asked.pop(number).callback(None)
