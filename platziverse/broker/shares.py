"""Shares: the members of Shared Subscriptions, one of which gets each message (section 4.8.2 of MQTT 5)."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from platziverse.broker.session import Session
from platziverse.broker.subscriptions import CACHE_SIZE, SubscriptionTree

#: How a Shared Subscription begins.
SHARE: Final = "$share/"
#: Members that are compared for one message, those that got one longest ago: a group may have thousands.
COMPARED: Final = 32
#: And those that are looked at if none of these may get it.
LOOKED_AT: Final = 1000


def is_shared(topic_filter: str) -> bool:
    """Return whether this is the Topic Filter of a Shared Subscription."""
    return topic_filter.startswith(SHARE)


def filter_behind(topic_filter: str) -> str:
    """Return the Topic Filter behind the name of a group; empty: there is none, or no name."""
    _, name, *rest = topic_filter.split("/", 2)
    if not name or "+" in name or "#" in name:  # [MQTT5-4.8.2-1]
        return ""
    return rest[0] if rest else ""  # [MQTT5-4.8.2-2]


class Share:
    """A Share is the group of the Sessions that have one Shared Subscription: name and filter are the same.

    :ivar topic_filter: whole, with ``$share/`` and the name.
    :ivar present: members that are connected → what is granted; the one that got a message longest ago first.
    :ivar absent: likewise of those whose Sessions are kept.
    :ivar leaving: of those whose Sessions are on their way to another daemon; they get nothing.
    """

    __slots__ = ("absent", "leaving", "present", "topic_filter")

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.present: OrderedDict[Session, int] = OrderedDict()
        self.absent: OrderedDict[Session, int] = OrderedDict()
        self.leaving: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self.present) + len(self.absent) + len(self.leaving)

    @property
    def is_there(self) -> bool:
        """Return whether a member may get a message, now or later."""
        return bool(self.present or self.absent)

    def choose(self, qos: int, may: Callable[[Session], bool]) -> tuple[Session, int] | None:
        """Return the member that gets a message, with what is granted to it; ``None``: nobody.

        It is one that is connected, if there is any, with fewest messages in flight and waiting; of those
        that are equal the one that got a message longest ago. Absent ones get nothing at QoS 0.

        :param may: returns whether a member may get it.
        """
        found = _least(self.present, may)
        if found is None and qos and self.absent:
            found = _least(self.absent, lambda session: self.absent[session] & 3 > 0 and may(session))
        return found


def _least(
    members: "OrderedDict[Session, int]", may: Callable[[Session], bool]
) -> tuple[Session, int] | None:
    best: Session | None = None
    least = 0
    for session in islice(members, COMPARED):
        load = session.inflight + session.queued
        connection = session.connection
        if connection is not None and connection.congested:
            load += COMPARED
        if (best is None or load < least) and may(session):
            best, least = session, load
            if not load:
                break
    if best is None:  # none of them may
        best = next(filter(may, islice(members, COMPARED, LOOKED_AT)), None)
    if best is None:
        return None
    members.move_to_end(best)
    return best, members[best]


class Shares:
    """Shares are all groups of a broker.

    :param begun: called when there is a group, and was none before.
    :param others: has the other Subscriptions; what it remembers of a Topic Name changes with the groups.
    """

    def __init__(self, begun: Callable[[], None], others: SubscriptionTree[Session]) -> None:
        self._begun, self._others = begun, others
        self._groups: dict[str, Share] = {}
        #: Is told of each group that has connected members from now on, or has none any more.
        self.present: Callable[[str, bool], None] = lambda topic_filter, there: None
        # The filter behind the name → groups.
        self._tree: SubscriptionTree[Share] = SubscriptionTree(CACHE_SIZE // 4)

    def __len__(self) -> int:
        """Return the number of Shared Subscriptions of all members."""
        return self._others.shared

    def get(self, topic_filter: str) -> Share | None:
        """Return the group with this Topic Filter; ``None``: it has no members."""
        return self._groups.get(topic_filter)

    def of(self, topic: str) -> Iterable[Share]:
        """Return the groups that get a message with this Topic Name."""
        return [share for share, _ in self._tree.match(topic)]

    def add(self, session: Session, topic_filter: str, granted: int) -> None:
        """Take a member, or what is granted to it now."""
        share = self._groups.get(topic_filter)
        if share is None:
            if not self._groups:
                self._begun()
            share = self._groups[topic_filter] = Share(topic_filter)
            self._tree.add(filter_behind(topic_filter), share, 0)
            self._others.forget(filter_behind(topic_filter))
        members = share.present if session.connection is not None else share.absent
        new = session not in members
        self._others.shared += new
        members[session] = granted
        session.shares = self
        if members is share.present and len(members) == 1 and new:
            self.present(topic_filter, True)

    def remove(self, session: Session, topic_filter: str) -> bool:
        """Have a member no more; return whether it was one."""
        share = self._groups.get(topic_filter)
        if share is None:
            return False
        if session in share.present:
            self._is_absent(share, session)
        elif share.absent.pop(session, share.leaving.pop(session, None)) is None:
            return False
        self._others.shared -= 1
        if not share:
            del self._groups[topic_filter]
            self._tree.remove(filter_behind(topic_filter), share)
            self._others.forget(filter_behind(topic_filter))
        return True

    def came(self, session: Session) -> None:
        """Note that a member is connected."""
        for share in self._groups_of(session):
            if session in share.absent:
                share.present[session] = share.absent.pop(session)
                if len(share.present) == 1:
                    self.present(share.topic_filter, True)

    def went(self, session: Session) -> None:
        """Note that a member is connected no more."""
        for share in self._groups_of(session):
            if session in share.present:
                share.absent[session] = self._is_absent(share, session)

    def _is_absent(self, share: Share, session: Session) -> int:
        granted = share.present.pop(session)
        if not share.present:
            self.present(share.topic_filter, False)
        return granted

    def depart(self, session: Session) -> None:
        """Give nothing more to a member, whose Session begins to move to another daemon."""
        for share in self._groups_of(session):
            if session in share.absent:
                share.leaving[session] = share.absent.pop(session)

    def stay(self, session: Session) -> None:
        """Note that its Session has not moved."""
        for share in self._groups_of(session):
            if session in share.leaving:
                share.absent[session] = share.leaving.pop(session)

    def _groups_of(self, session: Session) -> list[Share]:
        groups = self._groups
        return [groups[name] for name in filter(is_shared, session.subscriptions) if name in groups]
