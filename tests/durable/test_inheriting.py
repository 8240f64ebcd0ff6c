"""Sessions and Wills that change their daemon, and a store whose daemon was fenced."""

from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater

from platziverse.broker.places import StoredInterest
from platziverse.broker.records import Absent, Cleared, Ended, Settled, Subscribed, WillGone, WillLeft
from platziverse.ingest.errors import StoreStopped
from tests.durable.test_store import SessionStoreCase, Steps


class Inherited(SessionStoreCase):
    @inlineCallbacks
    def test_sessions_of_a_dead_daemon_come_with_what_waits_for_them(self) -> Steps:
        yield self.store.save(Subscribed(self.session, (("a/+", 1), ("b", 2))))
        yield self.save([self.queued(n, b"x" * n) for n in range(5, 8)])
        yield self.store.save(Absent(self.session, 5))
        before = yield self.store.sessions(0, 10)
        _, heir = yield self.make_store(uuid4())
        self.assertEqual((yield heir.inherited([self.session])), [])
        self.execute("UPDATE mqtt_sessions SET daemon = 2")
        (found,) = yield heir.inherited([self.session, self.session + 1])
        self.assertEqual(found.subscriptions, {"a/+": 1, "b": 2})
        # Whatever is at its head, or below it, does not wait.
        self.assertEqual((found.first, found.last, found.messages, found.size), (6, 7, 2, 6 + 7 + 2 * 3))
        self.assertEqual(found.absent_since, before[0].absent_since)
        self.assertEqual([one.position for one in (yield heir.page(self.session, 5, 9, 10))], [6, 7])

    @inlineCallbacks
    def test_a_session_says_which_daemons_have_died_with_it_until_it_is_settled(self) -> Steps:
        """Daemon 5 had it, then daemon 2 until it died; daemon 1 has it now. Daemon 2 has come back."""
        yield self.store.save(Subscribed(self.session, (("a", 1),)))
        _, back = yield self.make_store(uuid4())
        (found,) = yield self.store.sessions(0, 10)
        self.assertEqual(found.inherited_from, ())
        self.execute("UPDATE mqtt_daemons SET bus = 'bus'")
        self.execute("""UPDATE mqtt_sessions SET "inheritedFrom" = '{5,2}'""")
        for stored in (yield self.store.sessions(0, 10)), (yield self.store.inherited([self.session])):
            self.assertEqual([one.inherited_from for one in stored], [(5, 2)])
        self.assertEqual((yield self.store.elsewhere(0, 10)), [])
        elsewhere = yield back.elsewhere(0, 10)
        self.assertEqual(elsewhere, [StoredInterest(self.session, daemon, ("a",)) for daemon in (1, 5)])
        for daemon, heirs in (5, {1}), (2, {1}), (1, {1}), (3, set()):
            self.assertEqual((yield back.heirs(daemon)), heirs)
        self.execute("UPDATE mqtt_daemons SET bus = 'another' WHERE id = 1")
        self.assertEqual((yield back.heirs(2)), set())  # it does not hear that it is to settle anything
        self.execute("UPDATE mqtt_daemons SET bus = 'bus'")
        yield back.save(Settled((self.session,)))  # it is not its own
        self.assertEqual((yield back.heirs(5)), {1})
        yield self.store.save(Settled((self.session, self.session + 1)))
        for daemon, heirs in (5, set()), (2, set()), (1, {1}):
            self.assertEqual((yield back.heirs(daemon)), heirs)
        self.assertEqual(self.execute('SELECT "inheritedFrom" FROM mqtt_sessions'), [(None,)])

    @inlineCallbacks
    def test_an_inherited_will_is_beside_the_one_that_its_client_has_left_since(self) -> Steps:
        _, heir = yield self.make_store(uuid4())
        old, new = WillLeft("c", None, 1, "old", b"", 0, False), WillLeft("c", "ana", 2, "new", b"n", 2, True)
        yield self.store.save(old)
        yield heir.save(new)
        self.execute("UPDATE mqtt_wills SET daemon = -2 WHERE daemon = 1")
        self.assertEqual((yield heir.inherited_wills()), [old])
        self.assertEqual((yield heir.wills()), [old, new])
        yield heir.save(WillGone("c", 1))
        self.assertEqual((yield heir.wills()), [new])
        self.assertEqual((yield self.store.wills()), [])

    @inlineCallbacks
    def test_it_is_deleted_in_the_batch_that_writes_the_new_one(self) -> Steps:
        for order in (0, 1), (1, 0):
            self.execute("DELETE FROM mqtt_wills")
            self.execute("INSERT INTO mqtt_wills VALUES ('c', NULL, -1, 1, 'old', '', 0)")
            new = WillLeft("c", "ana", 2, "new", b"n", 2, True)
            records = WillGone("c", 1), new
            yield self.save([records[place] for place in order])
            self.assertEqual((yield self.store.wills()), [new])

    @inlineCallbacks
    def test_a_session_that_is_not_ours_any_more_is_not_changed(self) -> Steps:
        self.execute("UPDATE mqtt_sessions SET daemon = 2")
        yield self.store.save(Absent(self.session, 41))
        yield self.store.save(Ended(self.session, "c"))
        self.assertEqual(self.execute('SELECT head, "absentSince" FROM mqtt_sessions'), [(0, None)])


class Anew(SessionStoreCase):
    bus = "bus"

    @inlineCallbacks
    def test_nothing_is_written_under_another_incarnation_than_it_was_saved_under(self) -> Steps:
        """Row 400."""
        self.execute("UPDATE mqtt_daemons SET incarnation = incarnation + 1")
        saved = [self.store.save(self.queued(n)) for n in range(1, 400)]
        yield deferLater(reactor, 0.3)  # a batch has been tried
        self.store.give_up()
        saved.append(self.store.save(self.queued(400)))
        for one in saved:
            self.failureResultOf(one, StoreStopped)
        self.store.begin_anew()
        yield self.lease.beat()
        yield self.store.save(self.queued(500))
        self.assertEqual(self.positions(), [500])

    @inlineCallbacks
    def test_a_store_that_has_begun_anew_drains_like_any_other(self) -> Steps:
        self.execute("UPDATE mqtt_daemons SET incarnation = incarnation + 1")
        yield self.lease.beat()
        self.store.give_up()
        self.store.begin_anew()
        saved = self.store.save(Cleared("t"))
        yield self.store.drain()
        self.successResultOf(saved)
        self.assertTrue(self.store.available)
