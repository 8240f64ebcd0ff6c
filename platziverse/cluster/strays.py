"""Strays: daemons that are not there, and to which something is owed as the store has Sessions of them."""

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.broker.places import StoredInterest
from platziverse.cluster.interest import Interest, key_of
from platziverse.cluster.peers import Peers

#: Sessions that are read at once.
PAGE: Final = 2000


class Strays:
    """Strays has something owed to daemons that are gone, as long as a Session names them. ADR 0139, 0220.

    Their heir says when it has settled their Sessions; it may have died before it could.

    :param complain: is told why the store did not answer.
    """

    def __init__(
        self, durable: Durable, peers: Peers, interest: Interest, complain: Callable[[Failure], None]
    ) -> None:
        self._durable, self._peers, self._interest = durable, peers, interest
        self._complain = complain

    def read(self, after: int) -> "Deferred[None]":
        """Take from the store what durable Sessions of others listen to, whose number is above ``after``."""

        def came(page: "list[StoredInterest]") -> "Deferred[None] | None":
            for one in page:
                if one.daemon not in self._interest:
                    self._interest.stored(one.daemon, map(key_of, one.filters))
            return self.read(page[-1].session) if page else None

        return self._durable.elsewhere(after, PAGE).addCallback(came)

    def look(self) -> None:
        """Ask who has Sessions of daemons that are gone."""
        for daemon in self._interest.gone:
            if daemon not in self._peers:
                self._durable.heirs(daemon).addCallbacks(self._found, self._complain, (daemon,))

    def _found(self, heirs: "set[int]", daemon: int) -> None:
        if not heirs and not any(peer.asked for peer in self._peers.values()):
            self.drop(daemon)  # we know what the next owners listen to

    def drop(self, daemon: int) -> None:
        """Owe nothing more to a daemon that is not there."""
        if daemon not in self._peers and daemon != self._peers.number:
            self._interest.drop(daemon)
