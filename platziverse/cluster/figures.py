"""Figures: what a cluster counts, for ``/metrics``."""

from attrs import frozen

from platziverse.cluster.cluster import Cluster


@frozen
class Figures:
    """Figures reads the counters of a cluster when somebody asks."""

    _cluster: Cluster

    @property
    def events(self) -> dict[str, int]:
        """How many frames were sent, lost by the bus, ignored and dropped, and SUBACKs not waited for.

        And how many messages overtook what was lost on the bus, and copies did not wait in memory: see
        :class:`Overflow`.
        """
        cluster = self._cluster
        overflow = cluster.linking.overflow if cluster.linking is not None else None
        return {
            "sent": cluster.peers.sent,
            "lost": cluster.bus.lost,
            "ignored": cluster.ignored,
            "dropped": cluster.routing.dropped,
            "unanswered": cluster.announcing.unanswered,
            "overtook": overflow.overtook if overflow is not None else 0,
            "passed": overflow.passed if overflow is not None else 0,
            "spilled": overflow.spilled if overflow is not None else 0,
        }

    @property
    def moved(self) -> dict[str, int]:
        """How many durable Sessions have come with their clients, have gone, and could not come."""
        moves = self._cluster.moves
        if moves is None:
            return {}
        taking = moves.taking
        return {"come": taking.moved, "gone": moves.leaving.moved, "refused": taking.refused}

    @property
    def delayed(self) -> int:
        """How many messages have waited for Sessions on their way, or behind what was lost on the bus."""
        linking = self._cluster.linking
        return self._cluster.routing.delaying.delayed + (linking.late if linking is not None else 0)

    @property
    def sent(self) -> dict[int, int]:
        """How many messages, and frames of other sorts, were sent to each other daemon."""
        return self._cluster.peers.sent_to()

    @property
    def received(self) -> dict[int, int]:
        """How many messages came from each other daemon."""
        return {number: peer.received for number, peer in self._cluster.peers.items()}

    @property
    def gaps(self) -> dict[int, int]:
        """How often frames of each other daemon were missing."""
        return {number: peer.gaps for number, peer in self._cluster.peers.items()}

    @property
    def unanswered(self) -> dict[int, int]:
        """How many messages for durable Sessions of each it has not answered, and no row of ours has."""
        cluster = self._cluster
        if (linking := cluster.linking) is None:
            return {}
        return {number: linking.owed(1 << number, 1)[0][0].inflight for number in cluster.peers}

    @property
    def keys(self) -> int:
        """How many keys the clients of others listen to."""
        return len(self._cluster.interest)

    @property
    def unheard(self) -> int:
        """How many daemons live, and are not heard on the bus."""
        return len(self._cluster.peers.unheard)
