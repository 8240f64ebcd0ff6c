"""Inheriting: Sessions of dead daemons become ours, with all that is owed to them. ADR 0171, 0220."""

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from platziverse.broker.broker import Broker
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.former import FormerSessions
from platziverse.cluster.heirs import Heirs
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
        former: FormerSessions,
        announcing: Announcing,
        heirs: Heirs,
    ) -> None:
        self._broker, self._linking, self._peers = broker, linking, peers
        self._former, self._announcing, self._heirs = former, announcing, heirs
        if broker.durable is not None:
            broker.durable.was_inherited = heirs.inherited

    def inherit(self, daemon: int, taken: "Deferred[Sequence[int]]") -> "Deferred[None]":
        """Have the Sessions of a dead daemon, and all that is owed to them; see :meth:`Broker.inherit`.

        It may have been an heir itself: then those of others that were its own by then are among them.
        """
        there = self._peers.get(daemon)
        ended = self._peers.ended.get(daemon, there.incarnation if there is not None else 0)
        self._heirs.expect(daemon, ended)
        return self._broker.inherit(taken, partial(self._restored, daemon)).addErrback(self._failed, daemon)

    def _failed(self, failure: Failure, daemon: int) -> Failure:
        self._heirs.came(daemon)
        return failure

    def _restored(self, dead: int) -> None:
        """Let all know that the Sessions of dead daemons are ours, and in memory now."""
        self._heirs.came(dead)
        self._former.restored()
        self.loaded()

    def loaded(self) -> None:
        """Let all know of Sessions of dead daemons that are in memory, as an earlier process had them."""
        daemons = self._heirs.incomplete
        if not daemons:
            return
        told = self._announcing.told()
        self._heirs.complete(self._announcing.number)
        if told is None:
            self._take(None, daemons)
        else:
            told.addCallback(self._take, daemons)

    def _take(self, _: object, daemons: "list[int]") -> None:
        if self._linking is not None:
            for daemon in daemons:
                self._linking.legacies.add(daemon)
