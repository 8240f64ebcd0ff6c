"""A daemon takes what it is owed when its Sessions are in its memory, not before, and once."""

from twisted.internet.defer import Deferred

from platziverse.broker.records import StoredSession
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Owed
from tests.cluster import test_links
from tests.cluster.shares import Share
from tests.cluster.test_links import acknowledge

ALL = [b"1", b"2", b"3"]


class Late(Share):
    """A Share whose Sessions are read when :meth:`load` is called."""

    def sessions(self, after: int, limit: int) -> "Deferred[list[StoredSession]]":
        found = super().sessions(after, limit)
        if after:
            return found
        self.late: Deferred[list[StoredSession]] = Deferred()
        self.load = lambda: found.chainDeferred(self.late)
        return self.late


class LoadingTests(test_links.Case):
    def owe(self) -> None:
        """Have daemon 1 owe messages to a Session of daemon 2."""
        for number, payload in enumerate(ALL, 1):
            self.publisher.publish("a", payload, 1, number)
        self.settle()
        self.assertEqual(self.rows(), ALL)

    def test_rows_wait_until_sessions_are_loaded(self) -> None:
        """A copy that comes before is no reason to read them."""
        self.durable(self.two).lose()
        self.shares[2].kill()
        self.daemons.members.leave(2)
        self.owe()
        self.shares[2] = share = Late(self.table, 2)
        two = self.begin(2)
        two.cluster.frame(1, encode(Owed(1 << 41, "a", b"a copy", 1), 1))
        self.daemons.advance(3)
        self.assertEqual(self.rows(), ALL)
        share.load()
        self.settle()
        self.assertEqual(acknowledge(two.connect("durable", clean_session=False)), ALL)
        self.assertEqual(self.rows(), [])

    def test_who_was_taken_for_dead_leaves_rows_to_its_heir(self) -> None:
        """Those too that it was about to take."""
        self.durable(self.two).lose()
        self.shares[2].slow = self.two.bus.ear.losing = True
        self.owe()
        self.two.cluster.lost(1)
        self.two.bus.ear.losing = False
        self.settle()
        self.assertTrue(self.shares[2].asked)
        self.two.cluster.fenced()
        self.shares[2].slow = False
        while self.shares[2].asked:
            self.shares[2].answer()
        self.settle()
        self.assertEqual(self.rows(), ALL)

    def test_who_was_taken_for_dead_deletes_no_copy_that_it_could_not_save(self) -> None:
        self.durable(self.two).lose()
        self.shares[2].held = True
        self.owe()
        self.leave_unsaved()

    def test_nor_a_row(self) -> None:
        self.durable(self.two).lose()
        self.shares[2].held = self.two.bus.ear.losing = True
        self.owe()
        self.two.cluster.lost(1)
        self.two.bus.ear.losing = False
        self.settle()
        self.leave_unsaved()

    def leave_unsaved(self) -> None:
        self.two.cluster.fenced()
        self.shares[2].refusing = True
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), ALL)
