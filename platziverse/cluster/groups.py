"""Groups: whose turn it is when members of a Shared Subscription are at several daemons. ADR 0193."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from platziverse.broker.broker import Broker
from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.routing import Router
from platziverse.broker.shares import Share
from platziverse.cluster.announcing import Announcing
from platziverse.cluster.interest import Interest
from platziverse.cluster.linking import Linking
from platziverse.cluster.peers import Peers
from platziverse.mqtt.packets import Publish

#: Groups of which is remembered whose turn it was.
REMEMBERED: Final = 10_000


class Groups:
    """The daemon that a message is published to chooses one of those that have members; that one a member.

    Daemons with members that are connected come first, in turn; then those with Sessions that are kept.

    :param linking: ``None``: there are no durable Sessions.
    """

    def __init__(self, interest: Interest, peers: Peers, linking: Linking | None, router: Router) -> None:
        self._interest, self._peers, self._linking, self._router = interest, peers, linking, router
        self._turns: Counter[str] = Counter()
        self.groups: Callable[[str], Iterable[str]] = interest.groups

    def choose(self, topic_filter: str, qos: int, share: Share | None) -> int:
        """Return the daemon whose turn it is; 0: it is ours, or nobody's."""
        ours = 1 << self._peers.number
        live, durable = self._interest.members(topic_filter)
        live &= self._peers.everybody
        daemons = [0] if share is not None and share.present else []
        daemons += _numbers(live & ~ours)
        if not daemons and qos:
            daemons = [0] if share is not None and share.is_there else []
            daemons += _numbers(durable & ~ours)
        if not daemons:
            return 0
        if len(self._turns) >= REMEMBERED:
            self._turns.clear()
        self._turns[topic_filter] += 1
        return daemons[self._turns[topic_filter] % len(daemons)]

    def hand(self, daemon: int, copy: Publish, client: Client) -> Answer:
        """Hand the copy of a group to a daemon: owed, if it has Sessions there that are kept."""
        assert copy.properties is not None
        bit = 1 << daemon
        _, durable = self._interest.members(copy.properties.subscription or "")
        copy = replace(copy, retain=False)
        if copy.qos and durable & bit and self._linking is not None:
            return self._router.route_owed(copy, (), client, self._linking.owed(bit, copy.qos))
        self._peers.pass_on(bit, copy, client)
        return None


def share_groups(
    broker: Broker, interest: Interest, peers: Peers, linking: Linking | None, announcing: Announcing
) -> None:
    """Let a broker and the other daemons know of each other's groups."""
    interest.grouped = broker.begin_sharing
    broker.sharing.others = Groups(interest, peers, linking, broker.router)
    broker.shares.present = announcing.present


def _numbers(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
