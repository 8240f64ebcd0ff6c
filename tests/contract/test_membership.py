"""What every Membership does, shown by the one in memory that other tests use."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.ports import Membership
from tests.doubles.membership import Members


class Watcher:
    def __init__(self) -> None:
        self.told: list[object] = []

    def joined(self, number: int, incarnation: int) -> None:
        self.told.append(("joined", number, incarnation))

    def left(self, number: int, dead: bool) -> None:
        self.told.append(("left", number, dead))

    def fenced(self) -> None:
        self.told.append("fenced")


class MembersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.members, self.watcher = Members(), Watcher()
        self.first: Membership = self.members.join(1)
        self.first.watch(self.watcher)

    def test_everybody_else_is_a_member_of_ours(self) -> None:
        second = self.members.join(2)
        self.assertEqual((self.first.ours, second.ours), ((1, 1), (2, 1)))
        self.assertEqual((self.first.others, second.others), ({2: 1}, {1: 1}))

    def test_a_watcher_is_told_of_those_that_are_there_at_once(self) -> None:
        late = Watcher()
        self.members.join(2).watch(late)
        self.assertEqual(late.told, [("joined", 1, 1)])

    def test_a_member_that_begins_again_has_left_before(self) -> None:
        self.members.join(2)
        self.members.join(2)
        self.assertEqual(self.watcher.told, [("joined", 2, 1), ("left", 2, False), ("joined", 2, 2)])

    def test_one_that_dies_is_told_apart_from_one_that_stops(self) -> None:
        self.members.join(2)
        self.members.leave(2, dead=True)
        self.assertEqual(self.watcher.told[1:], [("left", 2, True)])
        self.assertEqual(self.first.others, {})

    def test_one_that_is_fenced_goes_on_as_another_incarnation(self) -> None:
        second, watcher = self.members.join(2), Watcher()
        second.watch(watcher)
        self.members.fence(2)
        self.assertEqual(watcher.told[1:], ["fenced"])
        self.assertEqual(second.ours, (2, 2))
        self.assertEqual(self.watcher.told[1:], [("left", 2, True), ("joined", 2, 2)])
