"""Strays: dead daemons to which something is owed, and of which nobody has a Session any more. ADR 0220."""

from collections.abc import Callable

from twisted.python.failure import Failure

from platziverse.broker.durable import Durable
from platziverse.cluster.interest import Interest
from platziverse.cluster.peers import Peers


class Strays:
    """Strays has nothing owed to daemons that are gone and that no Session names any more.

    Their heir says so when it has settled their Sessions; it may have died before it could.

    :param complain: is told why the store did not answer.
    """

    def __init__(
        self, durable: Durable, peers: Peers, interest: Interest, complain: Callable[[Failure], None]
    ) -> None:
        self._durable, self._peers, self._interest = durable, peers, interest
        self._complain = complain

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
