"""A dead daemon's Sessions are another one's, in the midst of traffic: nothing is lost, QoS 2 comes once."""

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.records import Queued, ends_of, link
from platziverse.broker.session import Session
from platziverse.broker.subscriptions import Match
from platziverse.cluster.codec import encode
from platziverse.cluster.frames import Mark, Message
from platziverse.cluster.heirs import Heirs
from platziverse.cluster.links import POSITIONS
from platziverse.mqtt.packets import Connack, Publish, PublishProperties
from platziverse.mqtt.properties import store_properties
from platziverse.testing import BrokerHarness, MemorySessionStore
from tests.cluster import test_links
from tests.cluster.daemons import Daemon
from tests.cluster.shares import Share, Table
from tests.cluster.test_links import acknowledge


class Case(test_links.Case):
    """Daemon 2 dies, whose Session ``durable`` daemon 3 inherits; daemon 1 and 3 publish to it."""

    def setUp(self) -> None:
        super().setUp()
        self.shares[3] = Share(self.table, 3)
        self.three = self.begin(3)
        self.durable(self.two, 2).lose()
        self.near = self.three.connect("near")

    def die(self) -> None:
        self.shares[2].kill()
        self.two.die()
        self.daemons.turn()

    def inherit(self) -> "Deferred[None]":
        """Daemon 3 has the Sessions of daemon 2, and everything that is said at once is on its way."""
        return self.three.cluster.inheriting.inherit(2, succeed(self.table.inherit(2, 3)))

    def owes_the_dead(self) -> bool:
        return bool(self.one.cluster.interest.daemons("a")[1] & 1 << 2)

    def got(self, daemon: Daemon | None = None, client_id: str = "durable") -> list[bytes]:
        client = (daemon or self.three).connect(client_id, clean_session=False)
        found = []
        while some := acknowledge(client):
            found += some
            self.settle()
        client.lose()
        return sorted(found)


class BothWaysTests(Case):
    """What is owed to the dead daemon and to its heir."""

    def test_a_message_that_is_owed_to_both_comes_once(self) -> None:
        self.die()
        ear = self.one.bus.ear
        ear.slow = True
        self.successResultOf(self.inherit())
        self.daemons.turn()
        ear.hear()  # what the heir listens to; that it is one is said when this is answered
        self.publisher.publish("a", b"x", 2, 1)
        self.assertEqual(self.rows(), [b"x"])
        self.assertEqual(self.rows(link(1, 3)), [b"x"])
        ear.slow = False
        self.settle()
        self.assertEqual(self.got(), [b"x"])
        self.assertEqual((self.rows(), self.rows(link(1, 3))), ([], []))

    def test_so_does_one_that_the_heir_was_owed_before_for_another_session(self) -> None:
        self.three.listening("own", "a", 2, clean_session=False).lose()
        self.die()
        self.shares[3].held = True
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        done = self.inherit()
        self.settle()
        self.shares[3].resume()
        self.settle()
        self.successResultOf(done)
        self.assertEqual((self.got(), self.got(client_id="own")), ([b"x"], [b"x"]))
        self.assertEqual((self.rows(), self.rows(link(1, 3))), ([], []))

    def test_what_the_dead_has_published_itself_comes_once(self) -> None:
        """The heir reads it, for its own Sessions, when those of the dead are in its memory already."""
        self.three.listening("own", "a", 2, clean_session=False).lose()
        self.three.bus.ear.losing = True
        self.two.connect("there").publish("a", b"x", 2, 1)
        self.settle()
        self.three.bus.ear.losing = False
        self.shares[3].slow = True
        self.die()
        self.successResultOf(self.inherit())
        self.shares[3].slow = False
        while self.shares[3].asked:
            self.shares[3].answer()
        self.settle()
        self.assertEqual((self.got(), self.got(client_id="own")), ([b"x"], [b"x"]))
        self.assertEqual(self.rows(link(2, 3)), [])

    def test_a_message_waits_until_a_daemon_that_is_back_says_for_whom_it_is(self) -> None:
        """It is owed to both, and for the Sessions of before."""
        self.three.listening("own", "a", 2, clean_session=False).lose()
        self.die()
        self.successResultOf(self.inherit())
        self.publisher.publish("a", b"x", 2, 1)
        self.shares[2] = Share(self.table, 2)
        self.begin(2)
        self.publisher.publish("a", b"y", 2, 2)
        self.daemons.advance(2)
        self.assertEqual((self.got(), self.got(client_id="own")), ([b"x", b"y"], [b"x", b"y"]))
        self.assertEqual((self.rows(), self.rows(link(1, 3))), ([], []))

    def test_a_daemon_that_is_back_before_all_know_its_heir_takes_nothing_of_its_sessions(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.one.bus.ear.losing = True
        self.inherit()
        self.shares[2] = Share(self.table, 2)
        self.begin(2)
        self.one.bus.ear.losing = False
        self.daemons.advance(20)
        self.assertEqual(self.got(), [b"x"])
        self.assertEqual(self.rows(), [])

    def test_what_a_daemon_publishes_after_it_has_died_is_for_its_sessions_of_before(self) -> None:
        self.die()
        self.successResultOf(self.inherit())
        self.shares[2] = Share(self.table, 2)
        self.two = self.begin(2)
        self.two.connect("there").publish("a", b"x", 2, 1)
        self.settle()
        self.assertEqual(self.got(), [b"x"])

    def test_what_the_heir_publishes_itself_comes_once(self) -> None:
        self.die()
        self.near.publish("a", b"before", 2, 1)
        done = self.inherit()
        self.near.publish("a", b"meanwhile", 2, 2)
        self.daemons.turn()
        self.near.publish("a", b"after", 2, 3)
        self.settle()
        self.successResultOf(done)
        self.assertEqual(self.got(), [b"after", b"before", b"meanwhile"])
        self.assertEqual(self.rows(link(3, 2)), [])

    def test_a_message_for_others_is_not_for_them_while_it_is_owed_to_the_dead(self) -> None:
        live = self.three.listening("live", "a", 2)
        self.die()
        self.successResultOf(self.inherit())
        self.three.cluster.frame(1, encode(Message("a", b"x", 2), 1))
        self.settle()
        self.assertEqual(acknowledge(live), [b"x"])
        self.three.cluster.frame(1, encode(Message("a", b"y", 2), 1))  # owed to none of ours: ADR 0199
        self.settle()
        self.assertEqual((acknowledge(live), self.got()), ([b"y"], []))


class AgainTests(Case):
    """The heir looks again for what others owe to the dead daemon, until nobody owes anything."""

    def test_what_is_written_by_who_has_not_heard_of_the_heir_comes(self) -> None:
        self.die()
        self.one.bus.ear.deaf = True
        self.successResultOf(self.inherit())
        self.settle()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.assertEqual(self.rows(), [b"x"])
        self.daemons.advance(6)
        self.assertEqual(self.rows(), [])
        self.one.bus.ear.deaf = False
        self.one.cluster.lost(3)
        self.daemons.advance(12)
        self.assertFalse(self.owes_the_dead())
        self.assertEqual(self.got(), [b"x"])

    def test_who_may_not_know_what_the_heir_listens_to_goes_on_owing_it_to_the_dead(self) -> None:
        self.die()
        self.one.bus.ear.losing = True
        self.successResultOf(self.inherit())
        self.settle()
        self.one.cluster.peers[3].asked = True
        self.one.bus.ear.losing = False
        self.one.cluster.frame(3, encode(Mark(7, (2,)), 1))
        self.assertTrue(self.owes_the_dead())

    def test_who_is_not_the_heir_after_all_owes_to_the_dead_as_before(self) -> None:
        self.die()
        taken: Deferred[Sequence[int]] = Deferred()
        done = self.three.cluster.inheriting.inherit(2, taken)
        taken.cancel()
        self.daemons.advance(4)
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.three.cluster.routing.heirs.incomplete, [])
        self.near.publish("a", b"x", 2, 1)
        self.settle()
        self.assertEqual(self.rows(link(3, 2)), [b"x"])

    def test_rows_that_cannot_be_read_are_read_later(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.shares[3].failing = True
        self.successResultOf(self.inherit())
        self.settle()
        self.assertIn("What other daemons owe to our Sessions is late: the database is away", self.lines)
        self.shares[3].failing = False
        self.daemons.advance(2)
        self.assertEqual(self.got(), [b"x"])

    def test_what_the_store_does_not_note_is_noted_later(self) -> None:
        self.die()
        self.shares[3].refusing = True
        self.successResultOf(self.inherit())
        self.settle()
        self.daemons.advance(4)
        self.assertIn("What other daemons owe to our Sessions is late: refused by the test", self.lines)
        self.assertEqual(list(self.table.before.values()), [(2,)])
        self.shares[3].refusing = False
        self.daemons.advance(8)
        self.assertEqual(self.table.before, {})

    def test_who_has_forgotten_everything_reads_no_more(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.shares[3].slow = True
        self.successResultOf(self.inherit())
        self.settle()
        self.daemons.members.fence(3)
        self.shares[3].answer()
        self.daemons.advance(2)
        self.assertEqual(self.rows(), [b"x"])

    def test_properties_of_mqtt_5_come_with_a_message(self) -> None:
        properties = store_properties(PublishProperties(content_type="text/plain"))
        self.die()
        self.table.write(Queued("a", b"x", 0.0, {link(1, 2): (1, 1)}, properties=properties), 1)
        self.successResultOf(self.inherit())
        self.settle()
        self.assertEqual(self.committed()[-1].properties, properties)
        self.assertEqual(self.got(), [b"x"])

    def test_rows_that_nobody_listens_to_are_deleted(self) -> None:
        self.die()
        self.table.write(Queued("b", b"x", 0.0, {link(1, 2): (1, 1)}), 1)
        self.successResultOf(self.inherit())
        self.settle()
        self.assertEqual(self.rows(), [])

    def test_who_has_none_of_the_sessions_leaves_the_rows_alone(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.successResultOf(self.three.cluster.inheriting.inherit(2, succeed([])))
        self.daemons.advance(1)
        self.assertEqual(self.rows(), [b"x"])

    def test_what_is_owed_to_nobody_any_more_is_forgotten(self) -> None:
        self.die()
        self.successResultOf(self.inherit())
        self.daemons.advance(1)
        heirs = self.three.cluster.routing.heirs
        self.assertEqual(heirs.of_row((link(1, 3), 1), ()), ((), ((link(1, 3), 1),)))


class BackTests(Case):
    """The dead daemon comes back while its heir has not taken everything."""

    def come_back(self) -> Daemon:
        self.shares[2] = Share(self.table, 2)
        self.two = self.begin(2)
        self.settle()
        return self.two

    def read(self) -> None:
        """Have the heir read what it has asked for."""
        self.shares[3].slow = False
        while self.shares[3].asked:
            self.shares[3].answer()
        self.daemons.advance(6)

    def inherit_slowly(self) -> None:
        self.shares[3].slow = True
        self.successResultOf(self.inherit())
        self.settle()

    def test_it_leaves_to_its_heir_what_it_was_owed(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        self.come_back()
        self.daemons.advance(20)
        self.assertEqual(self.rows(), [b"x"])
        self.read()
        self.assertEqual(self.rows(), [])
        self.assertEqual(self.got(), [b"x"])

    def test_it_has_no_session_of_its_own_before_its_former_ones_are_settled(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        self.come_back()
        new = self.two.connect("new", clean_session=False)
        self.assertEqual(new.connack, [])
        text = "waiting for daemon 3, which takes over Sessions that were ours"
        self.assertEqual(str(self.two.broker.loading), text)
        self.read()
        new.connack += new.received()
        self.assertTrue(new.connack)
        new.subscribe("a", 2)
        self.settle()
        new.lose()
        self.publisher.publish("a", b"y", 2, 2)
        self.settle()
        self.assertEqual(self.got(self.two, "new"), [b"y"])
        self.assertEqual(self.got(), [b"x", b"y"])

    def test_clients_that_wait_for_long_go_elsewhere(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        self.come_back()
        new = self.two.connect("new", clean_session=False)
        self.daemons.advance(4)
        self.assertEqual(new.received(), [Connack(False, 3)])

    def test_clients_without_a_session_get_their_messages_meanwhile(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        self.come_back()
        clean = self.two.listening("clean", "a", 1)
        self.publisher.publish("a", b"y", 0)
        self.settle()
        self.assertEqual(clean.received(), [Publish("a", b"y", 0)])

    def test_who_waits_is_the_heir_of_those_it_waits_for_alone(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        back = self.come_back().cluster.former
        self.assertEqual([back.may_inherit(number) for number in (1, 3)], [False, True])
        self.read()
        self.assertTrue(back.may_inherit(1))
        back.begin_anew()
        self.assertFalse(back.may_inherit(1))

    def test_while_it_hears_nobody_it_reads_nothing(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.inherit_slowly()
        self.shares[2] = Share(self.table, 2)
        self.two = self.daemons.begin(2, sessions=self.shares[2])
        self.two.bus.ear.deaf = True
        self.two.cluster.lost(1)
        self.daemons.advance(20)
        self.assertEqual(self.rows(), [b"x"])
        self.two.bus.ear.deaf = False
        self.daemons.advance(2)
        self.read()
        self.assertEqual(self.got(), [b"x"])

    def test_what_a_daemon_has_left_that_is_dead_too_is_its_heirs(self) -> None:
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.inherit_slowly()
        self.come_back()
        self.read()
        self.assertEqual(self.rows(), [])
        self.assertEqual(self.got(), [b"x"])

    def test_its_heir_takes_what_it_has_published_itself(self) -> None:
        """It comes back while the heir reads, alone, what it has published itself: a Will, mostly."""
        self.shares[1].kill()
        self.daemons.members.leave(1, dead=True)
        self.die()
        self.near.publish("a", b"x", 2, 1)
        self.settle()
        self.inherit_slowly()
        self.come_back()
        self.read()
        self.assertEqual(self.rows(link(3, 2)), [])
        self.assertEqual(self.got(), [b"x"])


class LateLinks(Share):
    """A Share that says late which daemons have left rows for ours."""

    late: "Deferred[None]"

    def __init__(self, table: Table, daemon: int) -> None:
        super().__init__(table, daemon)
        self.late, links = Deferred(), self.links

        def left(target: int) -> "Deferred[list[int]]":
            if target != daemon or self.late.called:
                return links(target)
            found: Deferred[list[int]] = Deferred()
            self.late.addCallback(lambda _: links(target).chainDeferred(found))
            return found

        self.links = left


class LeftTests(Case):
    def test_nothing_is_settled_before_what_the_dead_has_left_for_its_heir_is_read(self) -> None:
        """It has written it for its own Sessions as well: afterwards nobody knows that any more."""
        self.three.listening("far", "a", 2, clean_session=False).lose()
        publisher = self.two.connect("publisher at 2")
        self.shares[3].kill()
        self.three.die()
        self.daemons.turn()
        publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.die()
        self.shares[3] = share = LateLinks(self.table, 3)
        self.three = self.begin(3)
        self.settle()
        self.successResultOf(self.inherit())
        self.daemons.advance(3)
        self.assertEqual(list(self.table.before.values()), [(2,)])
        share.late.callback(None)
        self.daemons.advance(6)
        self.assertEqual(self.table.before, {})
        self.assertEqual((self.got(), self.got(client_id="far")), ([b"x"], [b"x"]))


class StrangerTests(Case):
    def test_a_daemon_that_has_never_owed_anything_keeps_nobody_waiting(self) -> None:
        """A Session that has come from far away has a cut of it."""
        linking = self.three.cluster.linking
        assert linking is not None
        self.successResultOf(linking.when_done(9, 7))
        self.die()
        self.publisher.publish("a", b"x", 2, 1)
        self.settle()
        self.successResultOf(self.inherit())
        self.daemons.advance(6)
        self.assertEqual(self.table.before, {})


class OvertakenTests(Case):
    def test_who_was_taken_for_dead_tells_nobody_that_it_has_what_it_could_not_save(self) -> None:
        self.shares[2].held = True
        self.publisher.publish("a", b"x", 1, 1)
        self.settle()
        self.two.cluster.overtaken()
        self.shares[2].refusing = True
        self.shares[2].resume()
        self.settle()
        self.assertEqual(self.rows(), [b"x"])


class HeirsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heirs = Heirs(lambda: 3)
        harness = BrokerHarness(sessions=MemorySessionStore())
        for name in ("own", "inherited"):
            harness.connect(name, clean_session=False).subscribe("a", 2)
        harness.connect("clean").subscribe("a", 2)
        self.all = harness.broker.subscriptions.match("a")

    def names(self, receivers: "Match[Session]") -> list[str]:
        return sorted(session.client_id for session, _ in receivers)

    def number(self, name: str) -> int:
        return next(session.number for session, _ in self.all if session.client_id == name)

    def of_row(self, origin: int, target: int, position: int) -> "tuple[list[str], list[int]]":
        """The receivers of a message that is owed, and the daemons whose rows it takes the place of."""
        receivers, rows = self.heirs.of_row((link(origin, target), position), self.all)
        self.assertEqual({place for _, place in rows}, {position})
        return self.names(receivers), [ends_of(number)[1] for number, _ in rows]

    def test_sessions_that_are_not_all_there_get_nothing_that_is_owed_to_us(self) -> None:
        self.heirs.inherited(self.number("inherited"), [2])
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "own"], [3]))
        self.heirs.complete(5)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "own"], [3]))

    def test_what_is_owed_to_both_is_taken_from_us(self) -> None:
        self.heirs.inherited(self.number("inherited"), [2])
        self.heirs.marked(2, 1, 6, 5)
        self.heirs.complete(5)
        self.heirs.marked(2, 1, 6, 4)  # it does not know yet
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "own"], [3]))
        self.heirs.marked(2, 1, 7, 5)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "own"], [3]))
        self.assertEqual(self.of_row(1, 2, 7), (["inherited"], [2]))
        self.assertEqual(self.of_row(1, 3, 8), (["clean", "inherited", "own"], [3, 2]))
        self.assertEqual(self.of_row(1, 3, POSITIONS + 8), (["clean", "own"], [3]))  # it has begun anew
        found = [self.heirs.is_due(2, 1, position, False) for position in (7, 8, POSITIONS + 8)]
        self.assertEqual(found, [True, False, True])
        self.assertTrue(self.heirs.is_due(2, 1, 8, True))

    def test_when_they_are_settled_all_of_it_is(self) -> None:
        self.heirs.inherited(self.number("inherited"), [2])
        self.heirs.complete(5)
        self.assertFalse(self.heirs.is_settled(2))
        self.heirs.settle(2)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "inherited", "own"], [3]))
        self.assertTrue(self.heirs.is_due(2, 1, 7, False))
        self.heirs.forget(2)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "inherited", "own"], [3]))

    def test_a_session_of_two_dead_daemons_is_owed_what_the_first_one_was(self) -> None:
        """Daemon 4 has inherited it from daemon 2, and has died itself."""
        self.heirs.inherited(self.number("inherited"), [2, 4])
        self.heirs.inherited(self.number("own"), [4])
        self.heirs.complete(5)
        self.assertEqual(self.of_row(1, 2, 7), (["inherited"], [2]))
        self.assertEqual(self.of_row(1, 4, 7), (["own"], [4]))
        self.assertEqual(self.of_row(1, 3, 7), (["clean"], [3]))
        for daemon in 2, 4:
            self.heirs.marked(daemon, 1, 7, 5)
        self.assertEqual(self.of_row(1, 3, 8), (["clean", "inherited", "own"], [3, 2, 4]))

    def test_a_session_is_settled_when_nothing_is_open_of_any_of_its_daemons(self) -> None:
        self.heirs.inherited(1, [2, 4])
        self.heirs.inherited(2, [4])
        self.heirs.inherited(3, [5])
        self.assertEqual(self.heirs.to_settle([4]), ([], []))
        self.assertEqual(self.heirs.to_settle([4, 5]), ([5], [3]))
        daemons, sessions = self.heirs.to_settle([2, 4])
        self.assertEqual((sorted(daemons), sorted(sessions)), ([2, 4], [1, 2]))
        for daemon in 2, 4:
            self.heirs.settle(daemon)
        self.assertEqual(self.heirs.to_settle([]), ([], []))
        for daemon in 2, 4, 5:
            self.heirs.forget(daemon)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "inherited", "own"], [3]))

    def test_a_session_that_has_come_home_is_owed_what_we_were_before(self) -> None:
        """We were dead; daemon 4 had it, and has died. Another one was its own."""
        self.heirs.inherited(self.number("inherited"), [3, 4])
        self.heirs.inherited(self.number("own"), [4])
        self.heirs.complete(5)
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "inherited"], [3]))
        self.assertEqual(self.of_row(1, 4, 7), (["own"], [4]))
        self.heirs.marked(4, 1, 8, 5)
        self.assertEqual(self.of_row(1, 3, 9), (["clean", "inherited", "own"], [3, 4]))
        self.assertEqual(self.heirs.to_settle([4]), ([4], [self.number("inherited"), self.number("own")]))

    def test_what_is_known_of_all_others(self) -> None:
        self.heirs.inherited(1, [2])
        self.assertFalse(self.heirs.knows(2, {}))
        self.heirs.complete(5)
        self.assertTrue(self.heirs.knows(2, {}))
        self.assertFalse(self.heirs.knows(2, {1: 1}))
        self.heirs.marked(2, 1, POSITIONS + 1, 5)
        self.assertTrue(self.heirs.knows(2, {1: 1}))
        self.assertFalse(self.heirs.knows(2, {1: 2}))
        self.assertTrue(self.heirs.knows(2, {1: 1, 2: 3}))  # it is back

    def test_a_daemon_may_die_twice(self) -> None:
        self.heirs.expect(2, 1)
        self.heirs.inherited(self.number("inherited"), [2])
        self.heirs.complete(5)
        self.heirs.settle(2)
        self.heirs.inherited(self.number("own"), [2])
        self.heirs.complete(6)
        self.assertEqual(self.of_row(1, 2, 7), (["own"], [2]))
        self.assertEqual(self.of_row(1, 3, 7), (["clean", "inherited"], [3]))
        self.heirs.inherited(self.number("inherited"), [2])
        self.assertEqual(self.of_row(1, 2, 7), (["inherited", "own"], [2]))

    def test_what_is_left_of_a_daemon_that_is_forgotten_is_for_nobody(self) -> None:
        self.heirs.expect(2, 1)
        self.assertEqual(self.of_row(1, 4, 7), ([], [4]))
