"""Inheriting: Sessions of dead daemons become ours, with all that is owed to them. ADR 0171."""

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred

from platziverse.broker.broker import Broker
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.interest import Interest
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peers


class Inheriting:
    """An Inheriting tells the parts of a cluster, in the right order, whose Sessions are ours.

    :param linking: ``None``: there are no durable Sessions.
    """

    def __init__(
        self,
        broker: Broker,
        linking: Linking | None,
        peers: Peers,
        interest: Interest,
        announcing: Announcing,
        heirs: Heirs,
    ) -> None:
        self._broker, self._linking, self._peers = broker, linking, peers
        self._interest, self._announcing, self._heirs = interest, announcing, heirs
        if linking is not None:
            linking.legacies.heirs = heirs

    def inherit(self, daemon: int, taken: "Deferred[Sequence[int]]") -> "Deferred[None]":
        """Have the Sessions of a dead daemon, and all that is owed to them; see :meth:`Broker.inherit`."""
        broker = self._broker
        peers, there = self._peers, self._peers.get(daemon)
        ended = peers.ended.get(daemon, there.incarnation if there is not None else 0)
        self._heirs.expect(daemon, ended, [one.number for one in broker.sessions if one.number])
        taken.addCallback(self._taken, daemon)
        return broker.inherit(taken, partial(self._restored, daemon))

    def _taken(self, sessions: "Sequence[int]", daemon: int) -> "Sequence[int]":
        self._heirs.take(daemon, sessions)
        return sessions

    def _restored(self, daemon: int) -> None:
        """Let all know that the Sessions of a dead daemon are ours, and in memory now."""
        if not self._heirs.has(daemon):
            return
        if daemon not in self._peers:
            self._interest.drop(daemon)  # before we publish anything more: it is owed to them alone
        told = self._announcing.told()
        self._heirs.complete(daemon, self._announcing.number)
        if told is None:
            self._inherit(None, daemon)
        else:
            told.addCallback(self._inherit, daemon)

    def _inherit(self, _: object, daemon: int) -> None:
        if self._linking is not None:
            self._linking.legacies.add(daemon)
            if daemon in self._peers:  # what it was owed before it came back is for them as well
                self._linking.legacies.back(daemon)

    def begin_anew(self) -> None:
        """Forget what we had inherited: others own it."""
        self._heirs.clear()
