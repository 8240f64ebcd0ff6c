"""Members: daemons of one process that know each other, by the rules of a ``Membership``."""

from collections.abc import Mapping
from functools import partial

from platziverse.broker.ports import MembershipWatcher


class Members:
    """Members are those of one set, without a database; everybody is told everything at once."""

    def __init__(self) -> None:
        self._all: dict[int, MemoryMembership] = {}
        self._incarnations: dict[int, int] = {}

    def join(self, number: int) -> "MemoryMembership":
        """Return the membership of a daemon that begins, or begins again, with this number."""
        if number in self._all:
            self.leave(number)
        member = MemoryMembership(partial(self._others, number), number, self._incarnate(number))
        self._all[number] = member
        for other in self._others(number).values():
            other.tell_joined(*member.ours)
        return member

    def leave(self, number: int, dead: bool = False) -> None:
        """Have a daemon stop, or die: the others are told."""
        del self._all[number]
        for other in self._others(number).values():
            other.tell_left(number, dead)

    def fence(self, number: int) -> None:
        """Have the others take a daemon for dead, which then finds it out and goes on."""
        member = self._all[number]
        self.leave(number, dead=True)
        member.ours = number, self._incarnate(number)
        self._all[number] = member
        member.tell_fenced()
        for other in self._others(number).values():
            other.tell_joined(*member.ours)

    def _incarnate(self, number: int) -> int:
        incarnation = self._incarnations[number] = self._incarnations.get(number, 0) + 1
        return incarnation

    def _others(self, number: int) -> "dict[int, MemoryMembership]":
        return {other: member for other, member in self._all.items() if other != number}


class MemoryMembership:
    """A MemoryMembership is the ``Membership`` of one of the Members.

    :param peers: returns the other members, by their numbers.
    """

    def __init__(self, peers: "partial[dict[int, MemoryMembership]]", number: int, incarnation: int) -> None:
        self.ours = number, incarnation
        self._peers = peers
        self._watchers: list[MembershipWatcher] = []

    @property
    def others(self) -> Mapping[int, int]:
        """Return the incarnation of each other member, by its number."""
        return {number: member.ours[1] for number, member in self._peers().items()}

    def watch(self, watcher: MembershipWatcher) -> None:
        """Tell ``watcher`` of the members that are there, and of every change from now on."""
        self._watchers.append(watcher)
        for number, incarnation in self.others.items():
            watcher.joined(number, incarnation)

    def tell_joined(self, number: int, incarnation: int) -> None:
        """Tell all watchers that another member is there."""
        for watcher in self._watchers:
            watcher.joined(number, incarnation)

    def tell_left(self, number: int, dead: bool) -> None:
        """Tell all watchers that another member has gone."""
        for watcher in self._watchers:
            watcher.left(number, dead)

    def tell_fenced(self) -> None:
        """Tell all watchers that this member was taken for dead."""
        for watcher in self._watchers:
            watcher.fenced()
