"""Linking: the links from this daemon to all others, and those from them."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.broker.interfaces import Answer
from platziverse.broker.records import ends_of, link
from platziverse.broker.turn import Turn
from platziverse.cluster.crossings import Crossing
from platziverse.cluster.delaying import LENGTH
from platziverse.cluster.frames import (
    OPEN,
    Align,
    Aligned,
    Done,
    Mark,
    Marked,
    Message,
    Owed,
    Stored,
    Unsure,
)
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.held import Overflow
from platziverse.cluster.interest import MASKS, Interest
from platziverse.cluster.legacies import SOON, Legacies
from platziverse.cluster.links import ALL, Link, Serials
from platziverse.cluster.marks import Marks
from platziverse.cluster.peers import Peer, Peers
from platziverse.cluster.strays import Strays
from platziverse.mqtt.memo import Memo

#: Seconds after which rows are looked for that are owed to us, and dead daemons that have no Sessions.
READ_AGAIN: Final = 5.0


class Linking:
    """A Linking has a Link to each daemon that was ever owed something, and a Crossing from each that lives.

    Nothing of it is there without a store.

    :param route: hands a message of another daemon to our clients.
    :ivar serials: the positions that are given.
    :ivar legacies: of dead daemons whose Sessions are ours.
    :ivar late: how many messages have waited behind what was lost on the bus.
    :ivar overflow: of what waits while rows are read.
    :ivar is_loaded: our Sessions are in memory.
    """

    _strays: Strays

    def __init__(
        self,
        durable: Durable,
        peers: Peers,
        clock: IReactorTime,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[str, str, int], None],
    ) -> None:
        self._durable, self._peers, self._clock = durable, peers, clock
        self._route, self._complain = route, complain
        heirs = Heirs(lambda: peers.number)
        crossings = self._crossings = dict[int, Crossing]()
        taking = self._catch_up, self._stored, lambda: list(crossings.values()), self._has_read_what_is_left
        self.legacies = Legacies(durable, peers, clock, heirs, route, self._cannot_read, *taking)
        self._links: dict[int, Link] = {}
        self._asked: dict[int, float] = {}
        # Mask of the bus → links to its daemons.
        self._of: Memo[int, list[Link]] = Memo(self._links_of, MASKS, lambda mask, links: 1)
        self.is_loaded, self.late = False, 0
        self.overflow = Overflow(durable.limits, complain, Turn(clock, LENGTH))
        # We have begun without a durable Session: rows of before are for nobody.
        self._is_new = False
        # It is known which daemons that are not there have left rows.
        self._knows_left = False
        # When rows were looked for that are owed to us; daemon → position up to which we had it all then.
        self._looked, self._seen = 0.0, dict[int, int]()
        self.serials = Serials()
        self._marks = Marks(peers, self._crossing)

    @classmethod
    def of(
        cls,
        durable: Durable | None,
        peers: Peers,
        clock: IReactorTime,
        route: Callable[[Owed, tuple[int, int]], Answer],
        complain: Callable[[str, str, int], None],
    ) -> "Linking | None":
        """Return those of a broker; ``None``: it has no durable Sessions."""
        return cls(durable, peers, clock, route, complain) if durable is not None else None

    # -- to the others ---------------------------------------------------------------------------

    def owed(self, mask: int, qos: int) -> Sequence[tuple[Link, int]]:
        """Return the links to the daemons of a mask of the bus, for a message at this QoS."""
        return [(one, qos) for one in self._of[mask]]

    def pass_behind(self, mask: int, topic: str, send: Callable[[int], None]) -> int:
        """Have a message behind those of its topic that links have not sent yet; return for whom that is not.

        :param mask: of the daemons that it is for, and to which it is not owed.
        :param send: sends it to a mask of daemons.
        """
        if topic in self.serials.unsent:
            for number, one in self._links.items():
                if mask >> number & 1 and one.pass_behind(topic, partial(send, 1 << number)):
                    mask &= ~(1 << number)
        return mask

    def _links_of(self, mask: int) -> list[Link]:
        return [self._link(number) for number in range(mask.bit_length()) if mask >> number & 1]

    def _link(self, number: int) -> Link:
        found = self._links.get(number)
        if found is None:
            peers = self._peers
            tell = partial(peers.tell, number)
            name, incarnation = link(peers.number, number), peers.incarnation
            found = Link(name, incarnation, self.serials, self._durable, tell)
            self._links[number] = found
        return found

    def done(self, peer: Peer, frame: Done) -> None:
        """Owe a message no more."""
        self._link(peer.number).done(frame.position)

    def align(self, peer: Peer, frame: Align) -> None:
        """Send copies from now on."""
        self._link(peer.number).align(frame)

    def interest(self, interest: Interest) -> "Deferred[None]":
        """Take from the store what durable Sessions of others listen to, also of those that are away."""
        self._strays = Strays(self._durable, self._peers, interest, self._cannot_read)
        return self._strays.read(0)

    # -- from the others -------------------------------------------------------------------------

    def loaded(self, is_new: bool) -> None:
        """Take what is owed to our Sessions: they are there.

        :param is_new: there are none, so what was owed to us before is for nobody. ADR 0229.
        """
        self.is_loaded, self._is_new, self._knows_left = True, is_new, False
        for number, crossing in self._crossings.items():  # something has come that waits
            crossing.nobodys = None if is_new else 0
            if number not in self._peers:
                self._read_left(crossing)
        for number in self._peers:
            self.ask(number)
        self._durable.links(self._peers.number).addCallbacks(self._left_rows, self._cannot_read)

    def _left_rows(self, links: "list[int]") -> None:
        """Read what daemons have left that are not there."""
        self._knows_left = True
        for number in links:
            origin, _ = ends_of(number)
            if origin not in self._peers and origin not in self._crossings:
                self._read_left(self._crossing(origin))

    def _read_left(self, crossing: Crossing) -> None:
        crossing.nobodys = ALL if self._is_new else 0
        crossing.read_all(gone=True)

    def ask(self, number: int) -> None:
        """Ask a daemon from where on it sends copies, unless our Sessions are not there yet."""
        if self.is_loaded:
            self._asked[number] = self._clock.seconds()
            self._crossing(number).align()

    def _crossing(self, number: int) -> Crossing:
        found = self._crossings.get(number)
        if found is None:
            tell, cannot = partial(self._peers.tell, number), self._cannot_read
            parts = self._durable, self._route, tell, cannot, self.overflow
            found = self._crossings[number] = Crossing(link(number, self._peers.number), *parts, self._is_new)
        return found

    def _cannot_read(self, failure: Failure) -> None:
        text = "What other daemons owe to our Sessions is late: " + failure.getErrorMessage()
        self._complain("links that were not read", text.replace("{", "(").replace("}", ")"), 0)

    def aligned(self, peer: Peer, frame: Aligned) -> None:
        """Hold copies until the rows before them are read."""
        self._crossing(peer.number).aligned(frame)

    def stored(self, peer: Peer, frame: Stored) -> None:
        """Read the rows."""
        self._crossing(peer.number).stored(frame)

    def came(self, peer: Peer, frame: Owed) -> None:
        """Take a copy."""
        peer.received += 1
        self._crossing(peer.number).came(frame)

    def is_late(self, number: int) -> bool:
        """Return whether what a daemon has owed to us is still to be read."""
        return not self.is_loaded or not self._crossing(number).follows

    def keep_behind(self, number: int, frame: Message, deliver: Callable[[], object]) -> bool:
        """Have a message behind what its daemon has owed to us before; return whether it is not too late.

        :param deliver: hands it to our clients, for whom it has no position. ADR 0200.
        """
        waits = self._crossing(number).keep_behind(frame, deliver)
        self.late += waits
        return waits

    def unsure(self, peer: Peer, frame: Unsure) -> None:
        """Say once more what was taken."""
        self.ask(peer.number)

    # -- up to where -----------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Return whether rows of others are still to be read, so that it may take long to catch up.

        No message may wait for a Session until then: what is read is read when that before is with its
        receivers, and a Session is on its way until all of it is read. ADR 0183.
        """
        peers = self._peers
        return any(
            one.is_reading or (one.is_asking and number in peers) for number, one in self._crossings.items()
        )

    @inlineCallbacks
    def catch_up(self) -> "Generator[Deferred[Any], Any, Mapping[int, int]]":
        """Take all that others have published for our Sessions by now, and for those we have inherited.

        The Deferred fires with daemon → position up to which its messages were taken; at least: see
        :meth:`cuts`. Cancelled, it waits no longer.

        :raises CancelledError: a daemon has gone meanwhile.
        """
        serials: Mapping[int, int] = yield self._catch_up(())
        while self.legacies.daemons:
            yield deferLater(self._clock, SOON)
        return serials

    @inlineCallbacks
    def _catch_up(self, inherited: Sequence[int]) -> "Generator[Deferred[Any], Any, Mapping[int, int]]":
        """Take all that others have published for our Sessions by now.

        :param inherited: see :class:`Mark`.
        """
        serials: Mapping[int, int] = yield self._marks.ask(inherited)
        for crossing in list(self._crossings.values()):
            yield crossing.when_read()
        return serials

    def _has_read_what_is_left(self) -> bool:
        """Return whether all rows were read that daemons have left for us which are not there."""
        gone = (one for origin, one in self._crossings.items() if origin not in self._peers)
        return self.is_loaded and self._knows_left and all(one.has_read for one in gone)

    def cuts(self, serials: Mapping[int, int]) -> dict[int, int]:
        """Return daemon → position up to which its messages were taken by now, our own number included.

        :param serials: what :meth:`catch_up` has found, a moment ago.
        """
        cuts = {origin: crossing.last for origin, crossing in self._crossings.items()}
        for origin, serial in serials.items():
            cuts[origin] = max(serial, cuts.get(origin, 0))
        return {**cuts, self._peers.number: self.serials.last}

    def when_done(self, origin: int, position: int) -> "Deferred[None]":
        """Return a Deferred that fires when nothing is pending of what a daemon owed us up to a position."""
        return self._crossing(origin).when_done(position)

    def mark(self, peer: Peer, frame: Mark) -> None:
        """Say how much we owe, when what we have owed to the daemons of the frame is in the store."""
        settled = [daemon for daemon in frame.inherited if daemon < OPEN]
        if settled and (peer.asked or not self._peers.keys().isdisjoint(settled)):
            return  # we may not know what it listens to for them, or it that one is back; it asks again
        for daemon in settled:
            self._strays.drop(daemon)
        stored = self._stored([daemon % OPEN for daemon in frame.inherited])
        stored.addCallback(self._mark, peer.number, frame.number)

    def _stored(self, daemons: "Iterable[int]") -> "Deferred[Any]":
        """Return a Deferred that fires when what we owe to these daemons by now is in the store.

        Those that are there take copies, and are owed more all the time.
        """
        gone = [
            self._links[daemon] for daemon in daemons if daemon in self._links and daemon not in self._peers
        ]
        owing = [one for each in gone for one in each.unsettled.values()]
        return DeferredList([one.when_settled() for one in dict.fromkeys(owing)])

    def _mark(self, _: object, number: int, question: int) -> None:
        self._peers.tell(number, Marked(question, self.serials.last, self._link(number).newest))

    def marked(self, peer: Peer, frame: Marked) -> None:
        """Take the answer to a question of ours."""
        self.legacies.marked(peer, max(frame.serial, self._crossing(peer.number).last))
        self._marks.answered(peer, frame)

    # -- who there is ----------------------------------------------------------------------------

    def lost(self, number: int) -> None:
        """Ask a daemon again: copies, or answers, may be missing."""
        self.ask(number)
        self._peers.tell(number, Unsure())

    def left(self, number: int) -> None:
        """Leave what is owed to a daemon to the store, and read what it has left there."""
        if number in self._links:
            self._links[number].part()
        self._asked.pop(number, None)
        self._marks.left(number)
        if self.is_loaded:
            self._crossing(number).read_all(gone=True)

    def begin_anew(self) -> None:
        """Forget all positions: we have another incarnation, and others own what was ours."""
        self.is_loaded = False
        self.legacies.clear()
        self._links.clear()
        self._clear()
        self._of.clear()

    def stop_taking(self) -> None:
        """Take nothing more: what could not be saved is not ours."""
        for crossing in self._crossings.values():
            crossing.stop()

    def _clear(self) -> None:
        while self._crossings:
            self._crossings.popitem()[1].stop()

    def look(self) -> None:
        """Ask those again that have not answered, or say nothing; called every second."""
        now = self._clock.seconds()
        if self.is_loaded and self._looked + READ_AGAIN <= now:
            self._looked = now
            self._strays.look()
            self._durable.links(self._peers.number).addCallbacks(self._found_rows, self._cannot_read)
        for number, crossing in self._crossings.items() if self.is_loaded else ():
            if number in self._peers and self._asked.get(number, 0.0) + crossing.patience <= now:
                self._asked[number] = now
                crossing.try_again()

    def _found_rows(self, links: "list[int]") -> None:
        """Ask daemons that owe us something, and have sent nothing lately: they may not reach the bus."""
        self._left_rows(links)
        for origin in [ends_of(number)[0] for number in links]:
            if origin in self._peers and self._seen.get(origin) == self._crossing(origin).last:
                self.ask(origin)
        self._seen = {origin: crossing.last for origin, crossing in self._crossings.items()}


#: What a frame of another daemon does here.
LINKS: Final[dict[type, Callable[[Linking, Peer, Any], None]]] = {
    Owed: Linking.came,
    Done: Linking.done,
    Align: Linking.align,
    Aligned: Linking.aligned,
    Stored: Linking.stored,
    Unsure: Linking.unsure,
    Mark: Linking.mark,
    Marked: Linking.marked,
}
