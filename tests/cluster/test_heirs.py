"""Heirs die themselves, before they have taken everything: nothing is lost, and QoS 2 comes once."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from twisted.internet.defer import Deferred, succeed

from platziverse.broker.records import Queued, link
from tests.cluster import test_links
from tests.cluster.daemons import Daemon
from tests.cluster.shares import Share
from tests.cluster.test_links import acknowledge


class Case(test_links.Case):
    """Daemon 1 publishes; daemon 2 has the Session "second", 3 has "third", 4 has "fourth", all absent.

    Each inherits from the one before it.
    """

    names = "second", "third", "fourth"

    def setUp(self) -> None:
        super().setUp()
        self.all: dict[int, Daemon] = {1: self.one, 2: self.two}
        for number in 3, 4:
            self.begin_anew(number)
        for number, name in enumerate(self.names, 2):
            self.all[number].listening(name, "a", 2, clean_session=False).lose()
        self.settle()
        self.number = 0

    def begin_anew(self, number: int) -> Daemon:
        self.shares[number] = Share(self.table, number)
        self.all[number] = self.begin(number)
        return self.all[number]

    def die(self, number: int) -> None:
        self.shares[number].kill()
        self.all[number].die()
        self.daemons.turn()

    def inherit(self, dead: int, heir: int) -> None:
        numbers = self.table.inherit(dead, heir)
        done = self.all[heir].cluster.inheriting.inherit(dead, succeed(numbers))
        self.daemons.turn()
        if not done.called:  # it waits for Sessions that were its own, and are by now
            self.daemons.advance(0.1)
        self.successResultOf(done)

    def publish(self, payload: bytes) -> None:
        self.number += 1
        self.publisher.publish("a", payload, 2, self.number)
        self.settle()

    def miss_both(self) -> None:
        """Daemon 3, the heir of daemon 2, misses "1", which that one has taken, and "2"."""
        self.lose(3)
        self.publish(b"1")
        self.die(2)
        self.publish(b"2")
        self.read_slowly(3)
        self.inherit(2, 3)

    def lose(self, *numbers: int) -> None:
        """These daemons lose the copies that come, and do not hear of it."""
        for number in numbers:
            self.all[number].bus.ear.deaf = True

    def hear(self, number: int) -> None:
        self.all[number].bus.ear.deaf = False
        for origin in self.all:
            self.all[number].cluster.lost(origin)

    def read_slowly(self, number: int) -> None:
        self.shares[number].slow = True

    def read(self, number: int) -> None:
        self.shares[number].slow = False
        while self.shares[number].asked:
            self.shares[number].answer()
        self.daemons.advance(3)

    def got(self, number: int) -> list[list[bytes]]:
        """What has come to each of the Sessions, all of which daemon ``number`` has."""
        self.daemons.advance(3)
        return [self.all_of(self.all[number], name) for name in self.names]

    def all_of(self, daemon: Daemon, name: str) -> list[bytes]:
        client, found = daemon.connect(name, clean_session=False), list[bytes]()
        while some := acknowledge(client):
            found += some
            self.settle()
        client.lose()
        return sorted(found)

    def check_no_row_is_left(self) -> None:
        self.daemons.advance(3)
        for origin in 1, 2, 3, 4:
            for target in 1, 2, 3, 4:
                self.assertEqual(self.rows(link(origin, target)), [], (origin, target))
        self.assertEqual(self.table.before, {})


class SecondDeathTests(Case):
    """Row 545: daemon 3 is the heir of daemon 2, and dies before it has taken everything."""

    def leave_both(self) -> None:
        """Daemon 3 dies before it has read what it misses."""
        self.miss_both()
        self.assertEqual((self.rows(link(1, 2)), self.rows(link(1, 3))), ([b"2"], [b"1", b"2"]))
        self.die(3)

    def test_the_next_heir_knows_which_sessions_the_rows_were_for(self) -> None:
        self.leave_both()
        self.inherit(3, 4)
        self.publish(b"3")
        self.assertEqual(self.got(4), [[b"1", b"2", b"3"]] * 3)
        self.check_no_row_is_left()

    def test_so_does_the_heir_itself_when_it_comes_back(self) -> None:
        self.leave_both()
        self.begin_anew(3)
        self.publish(b"3")
        self.daemons.advance(3)
        found = [self.all_of(self.all[3], name) for name in self.names[:2]]
        self.assertEqual(found, [[b"1", b"2", b"3"]] * 2)
        self.check_no_row_is_left()

    def test_both_come_back_when_another_one_has_their_sessions(self) -> None:
        self.leave_both()
        self.read_slowly(4)
        self.inherit(3, 4)
        for number in 2, 3:
            self.begin_anew(number)
        self.publish(b"3")
        self.daemons.advance(1)
        self.read(4)
        self.publish(b"4")
        self.assertEqual(self.got(4), [[b"1", b"2", b"3", b"4"]] * 3)
        self.daemons.advance(20)
        self.check_no_row_is_left()

    def test_what_was_owed_to_both_and_is_taken_is_taken_for_the_next_heir_too(self) -> None:
        self.die(2)
        self.inherit(2, 3)
        self.publish(b"1")
        self.settle()
        self.shares[3].held = True
        self.publish(b"2")
        self.die(3)
        self.inherit(3, 4)
        self.assertEqual(self.got(4), [[b"1", b"2"]] * 3)
        self.check_no_row_is_left()

    def test_an_heir_that_dies_before_it_has_told_anybody_that_all_is_taken(self) -> None:
        """Its Sessions are settled, and others still owe to the dead what they get from it as well."""
        self.die(2)
        self.inherit(2, 3)
        for origin in 1, 4:
            self.all[origin].bus.ear.deaf = True
        self.daemons.advance(0.2)
        self.die(3)
        self.inherit(3, 4)
        for origin in 1, 4:
            self.hear(origin)
        self.publish(b"1")
        self.assertEqual(self.got(4), [[b"1"]] * 3)
        self.daemons.advance(12)
        self.assertEqual(self.one.cluster.interest.daemons("a")[1], 1 << 4)

    def test_what_an_heir_of_an_older_version_has_taken_is_as_it_was(self) -> None:
        """It does not write whose the Sessions were."""
        self.die(2)
        self.publish(b"1")
        numbers = self.table.inherit(2, 3)
        self.table.before.clear()
        self.successResultOf(self.all[3].cluster.inheriting.inherit(2, succeed(numbers)))
        self.daemons.advance(3)
        self.publish(b"2")
        self.die(3)
        self.inherit(3, 4)
        self.assertEqual(self.got(4)[0], [b"2"])


class ThirdDeathTests(Case):
    def test_a_third_heir_knows_it_too(self) -> None:
        self.lose(3, 4)
        self.publish(b"1")
        self.die(2)
        self.publish(b"2")
        for number in 3, 4:
            self.read_slowly(number)
        self.inherit(2, 3)
        self.publish(b"3")
        self.die(3)
        self.inherit(3, 4)
        self.publish(b"4")
        self.die(4)
        self.assertEqual(sorted(self.table.before.values()), [(2, 3), (3,)])
        self.inherit(4, 1)
        self.assertEqual(sorted(self.table.before.values()), [(2, 3, 4), (3, 4), (4,)])
        self.publish(b"5")
        self.assertEqual(self.got(1), [[b"1", b"2", b"3", b"4", b"5"]] * 3)
        self.check_no_row_is_left()


class HomeTests(Case):
    """The first one has come back, and is the heir of its heir."""

    def test_sessions_that_come_home_get_what_they_were_owed_there(self) -> None:
        self.miss_both()
        self.begin_anew(2)
        self.publish(b"3")
        self.die(3)
        self.inherit(3, 2)
        self.publish(b"4")
        self.daemons.advance(3)
        found = [self.all_of(self.all[2], name) for name in self.names[:2]]
        self.assertEqual(found, [[b"1", b"2", b"3", b"4"]] * 2)
        self.daemons.advance(20)
        self.check_no_row_is_left()


class OrphanTests(Case):
    def test_who_comes_back_waits_for_the_heir_of_its_heir(self) -> None:
        self.die(2)
        self.publish(b"1")
        self.read_slowly(3)
        self.inherit(2, 3)
        self.begin_anew(2)
        self.die(3)
        self.table.inherit(3, 4)  # which does not know it yet
        self.daemons.advance(40)
        self.assertEqual(self.rows(link(1, 2)), [b"1"])

    def test_rows_that_are_for_nobody_are_no_newcomers(self) -> None:
        self.die(2)
        self.table.write(Queued("a", b"old", 0.0, {link(1, 2): (5, 2)}), 1)
        self.table.inherit(2, 3)
        self.table.before.clear()
        self.begin_anew(2)
        newcomer = self.all[2].listening("newcomer", "a", 2, clean_session=False)
        self.daemons.advance(20)
        self.assertEqual((acknowledge(newcomer), self.rows(link(1, 2))), ([], []))


class Ledger(test_links.Ledger):
    """Daemons die, and one of those that live has their Sessions, whatever it has to do already.

    Of three daemons up to two are dead at a time. Who has died, and is back, may die again at once.
    """

    def __init__(self) -> None:
        # Dead daemon → its heir.
        self.dead: dict[int, int] = {}
        self.taken: list[tuple[Deferred[Sequence[int]], list[int]]] = []
        super().__init__()

    @property
    def living(self) -> list[int]:
        return [number for number in (1, 2, 3) if number not in self.dead]

    def home(self, number: int) -> int:
        """The daemon that has the Session of client ``number``."""
        return self.table.owners[number]

    @rule(number=st.sampled_from([1, 2, 3]), qos=st.sampled_from([1, 2]), count=st.integers(1, 4))
    def publish(self, number: int, qos: int, count: int) -> None:
        if number in self.living:
            super().publish(number, qos, count)

    @rule(number=st.sampled_from([1, 2, 3]))
    def come_or_go(self, number: int) -> None:
        client = self.clients[number]
        if client is not None:
            client.lose()
            self.clients[number] = None
        else:
            home = self.all[self.home(number)]
            self.clients[number] = home.connect(f"d{number}", clean_session=False)

    @rule(number=st.sampled_from([1, 2, 3]))
    def kill(self, number: int) -> None:
        """Kill a daemon, which begins anew at once."""
        if number in self.living:
            self.leave(number)
            self.begin(number)

    def leave(self, number: int) -> None:
        self.take()
        self.shares[number].kill()
        self.all[number].die()
        self.daemons.turn()
        for one in (1, 2, 3):
            if self.home(one) == number:
                self.clients[one] = None

    @rule(number=st.sampled_from([1, 2, 3]), late=st.booleans())
    def die(self, number: int, late: bool) -> None:
        """Kill a daemon, of which another one has the Sessions, and what it had to take itself."""
        if number not in self.living or len(self.living) == 1:
            return
        self.leave(number)
        orphans = [dead for dead, heir in self.dead.items() if heir == number]
        self.dead[number] = 0
        heir = self.living[0]
        for dead in [*orphans, number]:
            self.dead[dead] = heir
            mine = self.table.inherit(dead, heir)
            taken: Deferred[Sequence[int]] = Deferred()
            self.all[heir].cluster.inheriting.inherit(dead, taken)
            self.taken.append((taken, mine))
        if not late:
            self.inherit()

    @rule()
    def inherit(self) -> None:
        """The heir hears that the Sessions are its own."""
        all_, self.taken = self.taken, []
        for taken, numbers in all_:
            taken.callback(numbers)

    @rule(late=st.booleans())
    def come_back(self, late: bool) -> None:
        if self.dead:
            self.inherit()
            if late:
                self.settle()
            back = next(iter(self.dead))
            del self.dead[back]
            self.begin(back)

    def settle(self) -> None:
        for number in self.living:
            self.all[number].bus.ear.losing = False
            self.shares[number].resume()
        for number in self.living:
            self.publishers[number].publish("a", b"", 1, 65_000)
            self.sent[number, 65_000] = b"", 1
        self.daemons.advance(20)
        self.take()

    def teardown(self) -> None:
        while self.dead:
            self.come_back(True)
        super().teardown()
        assert not self.table.before


TestLedger = Ledger.TestCase
TestLedger.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
