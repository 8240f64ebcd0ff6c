"""FormerSessions: those that we have died with, and that their heirs have not settled. ADR 0229."""

from collections.abc import Callable, Set
from typing import Any

from twisted.internet.defer import Deferred

from platziverse.broker.durable import Durable
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.interest import Interest
from platziverse.cluster.peers import Peers


class FormerSessions:
    """FormerSessions are open elsewhere when we begin: we have no others until nobody has any.

    What is in the links to us is for them alone until then. So each row is for whoever has the Session, and a
    second or a third death changes nothing about that.

    :param durable: ``None``: there are none.
    :param when_known: fires when we know what the clients of all others listen to.
    :ivar owners: numbers of the daemons that have some; ``None``: nobody has been asked since we have begun.
    """

    def __init__(
        self,
        durable: Durable | None,
        peers: Peers,
        interest: Interest,
        heirs: Heirs,
        when_known: "Callable[[], Deferred[None]]",
    ) -> None:
        self._durable, self._peers, self._interest, self._heirs = durable, peers, interest, heirs
        self._when_known = when_known
        self.owners: Set[int] | None = None

    def ask(self) -> "Deferred[Set[int]]":
        """Return a Deferred that fires with ``owners``, as the store has them when the rest is known."""
        known: Deferred[Any] = self._when_known()
        return known.addCallback(lambda _: self._ask())

    def _ask(self) -> "Deferred[Set[int]]":
        assert self._durable is not None  # or there would be nothing to load
        return self._durable.heirs(self._peers.number).addCallback(self._found)

    def _found(self, owners: Set[int]) -> Set[int]:
        self.owners = owners - {self._peers.number}
        return self.owners

    def restored(self) -> None:
        """Owe nothing to dead daemons whose Sessions are ours: from now on these get what we publish.

        One of them that is back has nothing of its own yet.
        """
        for daemon in self._heirs.incomplete:
            self._interest.drop(daemon)

    def begin_anew(self) -> None:
        """Know nothing: others own what was ours."""
        self.owners = None

    def may_inherit(self, daemon: int) -> bool:
        """Return whether we may be the heir of a dead daemon.

        While we wait for others, we are only that of one we wait for: otherwise two daemons could wait for
        each other.
        """
        return self.owners is not None and (not self.owners or daemon in self.owners)
