"""What every SessionStore does, in memory as in PostgreSQL."""

from collections.abc import Callable, Generator
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from platziverse.broker.ports import SessionStore
from platziverse.broker.records import (
    Absent,
    Acknowledged,
    Begun,
    Cleared,
    Delivery,
    Ended,
    Forget,
    Kept,
    Present,
    Queued,
    Received,
    Release,
    SessionRecord,
    StoredMessage,
    StoredRetained,
    StoredSession,
    Subscribed,
    Trimmed,
    Unsubscribed,
    WillGone,
    WillLeft,
    link,
)
from platziverse.durable.memory import MemorySessionStore
from platziverse.durable.store import PostgresSessionStore
from platziverse.ingest.errors import EntryRefused, StoreStopped
from platziverse.mqtt.packets import PublishProperties
from platziverse.mqtt.properties import store_properties
from tests.servers import MISSING, cluster, execute, holding, lone_lease

Steps = Generator["Deferred[Any]", Any, None]

FAR = 2**62
DIGEST = bytes(range(16))


def queued(
    topic: str, rows: dict[int, tuple[int, int]], payload: bytes = b"\x00\xff p", **more: Any
) -> Queued:
    return Queued(topic, payload, 1_700_000_000.25, dict(rows), **more)


def will(client_id: str, connection: int, topic: str = "will") -> WillLeft:
    return WillLeft(client_id, "login", connection, topic, b"\xff\x00", 2, True)


class SessionStoreContract:
    """Mixed into a TestCase that makes ``store``, and can keep it from committing."""

    store: SessionStore
    hold: Callable[[], None]
    resume: Callable[[], None]
    stop: Callable[[], object]
    assertEqual: Callable[..., None]
    assertTrue: Callable[..., None]
    assertFalse: Callable[..., None]
    assertFailure: Callable[..., "Deferred[Any]"]

    def save(self, *records: SessionRecord) -> "Deferred[list[None]]":
        return gatherResults([self.store.save(record) for record in records], consumeErrors=True)

    @inlineCallbacks
    def begin(self, *client_ids: str) -> Generator["Deferred[Any]", Any, list[int]]:
        records = [Begun(client_id, None, 0) for client_id in client_ids]
        yield self.save(*records)
        return [record.session for record in records]

    @inlineCallbacks
    def positions(self, session: int) -> Generator["Deferred[Any]", Any, list[int]]:
        messages = yield self.store.page(session, 0, FAR, 1000)
        return [message.position for message in messages]

    @inlineCallbacks
    def session(self, client_id: str = "c") -> Generator["Deferred[Any]", Any, StoredSession]:
        stored: list[StoredSession] = yield self.store.sessions(0, 1000)
        (found,) = [one for one in stored if one.client_id == client_id]
        return found

    # -- Sessions --------------------------------------------------------------------------------

    @inlineCallbacks
    def test_a_session_comes_back_as_it_was_left(self) -> Steps:
        begun = Begun("c", "login", 3600)
        yield self.save(begun)
        self.assertTrue(begun.session > 0)
        number = begun.session
        yield self.save(Subscribed(number, (("a/+", 1), ("b/#", 2), ("\U0001f600\n\u2028\t\\,\"'", 0))))
        yield self.save(Subscribed(number, (("a/+", 2),)), Unsubscribed(number, ("b/#", "never")))
        one, most = 15 | 1 << 4, 2 | 268_435_455 << 4  # with Subscription Identifiers
        yield self.save(Subscribed(number, (("c d/#", one), ("e", one), ("f", most))))
        yield self.save(Subscribed(number, (("e", 1),)))
        found = yield self.session()
        subscriptions = {"a/+": 2, "c d/#": one, "e": 1, "f": most, "\U0001f600\n\u2028\t\\,\"'": 0}
        self.assertEqual(
            found, StoredSession(number, "c", "login", 3600, None, subscriptions, 0, 0, 0, 0, ())
        )

    @inlineCallbacks
    def test_an_absent_session_says_since_when_until_its_client_is_back_with_another_login(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(Absent(number, 41))
        found = yield self.session()
        self.assertTrue(found.absent_since > 1_700_000_000)
        self.assertEqual((found.first, found.last), (0, 41))
        yield self.save(Present(number, "another"))
        found = yield self.session()
        self.assertEqual((found.absent_since, found.username), (None, "another"))

    @inlineCallbacks
    def test_records_of_one_session_saved_at_once_are_committed_in_order(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(
            Subscribed(number, (("a", 1),)),
            Unsubscribed(number, ("a",)),
            Subscribed(number, (("a", 2), ("b", 0))),
            Unsubscribed(number, ("b",)),
            Absent(number, 7),
            Present(number, "back"),
            Absent(number, 9),
        )
        found = yield self.session()
        self.assertEqual((found.subscriptions, found.username, found.last), ({"a": 2}, "back", 9))

    @inlineCallbacks
    def test_retained_messages_are_owed_until_the_subscription_is_saved_without(self) -> Steps:
        (number,) = yield self.begin("c")
        filters = (("a/#", 1), ("b,", 2), ("c", 1))
        yield self.save(Subscribed(number, filters, ("a/#", "c")))
        found = yield self.session()
        self.assertEqual((found.subscriptions, sorted(found.owed)), (dict(filters), ["a/#", "c"]))
        yield self.save(Subscribed(number, (("a/#", 1),)), Subscribed(number, (("b", 1),), ("b",)))
        found = yield self.session()
        self.assertEqual(sorted(found.owed), ["b", "c"])
        yield self.save(Subscribed(number, (("b", 1),)), Unsubscribed(number, ("c",)))
        found = yield self.session()
        self.assertEqual((sorted(found.subscriptions), found.owed), (["a/#", "b", "b,"], ()))

    @inlineCallbacks
    def test_sessions_come_in_pages_in_order_of_their_numbers(self) -> Steps:
        numbers = yield self.begin(*(f"client {number}" for number in range(25)))
        self.assertEqual(len(set(numbers)), 25)
        found: list[int] = []
        while True:
            page = yield self.store.sessions(found[-1] if found else 0, 10)
            if not page:
                break
            self.assertTrue(len(page) <= 10)
            found += [one.session for one in page]
        self.assertEqual(found, sorted(numbers))

    @inlineCallbacks
    def test_an_ended_session_leaves_nothing_to_another_of_the_same_client(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(
            Subscribed(number, (("a", 1),)),
            queued("a", {number: (1, 1)}, delivery=Delivery("c", 7, False, DIGEST)),
        )
        yield self.save(Ended(number, "c"), Begun("c", None, 5))
        found = yield self.session()
        self.assertTrue(found.session > number)
        self.assertEqual(
            (found.subscriptions, found.messages, found.identifiers, found.expiry), ({}, 0, (), 5)
        )
        self.assertEqual((yield self.positions(number)), [])

    @inlineCallbacks
    def test_a_session_that_begins_takes_the_place_of_one_that_nobody_has_ended(self) -> Steps:
        (first,) = yield self.begin("c")
        yield self.save(Subscribed(first, (("a", 1),)))
        (second,) = yield self.begin("c")
        found = yield self.session()
        self.assertEqual((found.session, found.subscriptions), (second, {}))
        self.assertTrue(second > first)

    # -- links between daemons -------------------------------------------------------------------

    @inlineCallbacks
    def test_a_daemon_that_is_alone_has_no_others(self) -> Steps:
        yield self.begin("client")
        self.assertEqual((yield self.store.elsewhere(0, 10)), [])

    @inlineCallbacks
    def test_what_daemons_owe_each_other_waits_in_links(self) -> Steps:
        there, another, back = link(1, 2), link(3, 2), link(2, 1)
        (number,) = yield self.begin("c")
        yield self.save(
            queued("a", {there: (1 << 32 | 1, 1)}),
            queued("b", {there: (1 << 32 | 2, 2), back: (7, 1), number: (1, 1)}, retain=True),
            queued("c", {another: (2**62, 2)}),
        )
        self.assertEqual((yield self.store.links(2)), [there, another])
        self.assertEqual((yield self.store.links(1)), [back])
        self.assertEqual((yield self.store.links(3)), [])
        self.assertEqual((yield self.positions(there)), [1 << 32 | 1, 1 << 32 | 2])
        page = yield self.store.page(there, 1 << 32 | 1, FAR, 10)
        found = [(one.position, one.topic, one.qos, one.retain) for one in page]
        self.assertEqual(found, [(1 << 32 | 2, "b", 2, True)])
        yield self.save(Acknowledged(there, 1 << 32 | 1), Acknowledged(there, 1 << 32 | 2))
        self.assertEqual((yield self.store.links(2)), [another])

    @inlineCallbacks
    def test_a_message_that_has_crossed_waits_for_sessions_and_no_longer_in_its_link(self) -> Steps:
        one, two = yield self.begin("one", "two")
        there = link(1, 2)
        yield self.save(*(queued(f"t/{n}", {there: (n, 2)}) for n in (1, 2, 3, 4)))
        yield self.save(
            queued("t/1", {one: (1, 2), two: (1, 1)}, crossed=((there, 1),)),
            queued("t/2", {}, crossed=((there, 2), (there, 4))),
        )
        self.assertEqual((yield self.positions(there)), [3])
        self.assertEqual((yield self.positions(one)), [1])
        self.assertEqual((yield self.positions(two)), [1])

    @inlineCallbacks
    def test_a_message_whose_receivers_are_withdrawn_has_crossed_all_the_same(self) -> Steps:
        (number,) = yield self.begin("c")
        there = link(1, 2)
        yield self.save(queued("t", {there: (1, 1)}))
        message = queued("t", {number: (1, 1)}, crossed=((there, 1),))
        self.hold()
        yield self.busy()
        saved = self.store.save(message)
        self.assertTrue(message.withdraw(number))
        self.resume()
        yield saved
        self.assertEqual((yield self.positions(there)), [])
        self.assertEqual((yield self.positions(number)), [])

    # -- messages that wait ----------------------------------------------------------------------

    @inlineCallbacks
    def test_a_message_for_one_comes_back_whole(self) -> Steps:
        (number,) = yield self.begin("c")
        payload = bytes(range(256)) * 40
        message = queued("t/\u00e9\U0001f600", {number: (9, 2)}, payload, retain=True)
        yield self.save(message)
        self.assertTrue(message.taken)
        self.assertEqual(message.number, 0)
        page = yield self.store.page(number, 8, 9, 10)
        self.assertEqual(page, [StoredMessage(9, "t/\u00e9\U0001f600", payload, 2, True, False, 0)])
        found = yield self.session()
        size = len(payload) + len("t/\u00e9\U0001f600".encode())
        self.assertEqual((found.first, found.last, found.messages, found.size), (9, 9, 1, size))

    @inlineCallbacks
    def test_properties_come_back_beside_the_payload(self) -> Steps:
        one, two = yield self.begin("one", "two")
        properties = store_properties(PublishProperties(content_type="t", user_properties=(("a", "b"),)))
        given = {"properties": properties}
        yield self.save(queued("t", {one: (1, 1)}, b"p", **given), queued("t", {one: (2, 2)}, b"q"))
        yield self.save(queued("t", {one: (3, 1), two: (1, 1)}, b"", retain=True, **given))
        page = yield self.store.page(one, 0, 9, 10)
        self.assertEqual(
            [(each.payload, each.properties, each.retain) for each in page],
            [(b"p", properties, False), (b"q", b"", False), (b"", properties, True)],
        )
        yield self.save(Received(one, 2), Kept("t", b"k", 1, "c", None, 0, properties))
        (kept,) = yield self.store.retained("", 10)
        self.assertEqual((kept.payload, kept.properties), (b"k", properties))
        yield self.save(WillLeft("c", None, 1, "w", b"x", 2, True, properties))
        (left,) = yield self.store.wills()
        self.assertEqual((left.payload, left.properties, left.retain), (b"x", properties, True))

    @inlineCallbacks
    def test_the_expiry_of_a_session_changes_when_it_is_said(self) -> Steps:
        (number,) = yield self.begin("c")
        found = yield self.session()
        before = found.expiry
        for record, expiry in (
            (Present(number, None), before),
            (Present(number, None, -7), -7),
            (Absent(number, 0), -7),
            (Absent(number, 0, 60), 60),
        ):
            yield self.save(record)
            found = yield self.session()
            self.assertEqual(found.expiry, expiry)

    @inlineCallbacks
    def test_options_of_a_subscription_come_back(self) -> Steps:
        (number,) = yield self.begin("c")
        filters = tuple((f"f{options}", options) for options in range(16) if options & 3 < 3)
        yield self.save(Subscribed(number, filters))
        found = yield self.session()
        self.assertEqual(found.subscriptions, dict(filters))

    @inlineCallbacks
    def test_a_message_for_several_is_one_message(self) -> Steps:
        one, two = yield self.begin("one", "two")
        message, other = queued("t", {one: (1, 1), two: (5, 2)}), queued("u", {one: (2, 1), two: (6, 1)})
        yield self.save(message, other)
        self.assertTrue(0 < message.number < other.number)
        for session, position, qos in (one, 1, 1), (two, 5, 2):
            page = yield self.store.page(session, position - 1, position, 10)
            stored = StoredMessage(position, "t", message.payload, qos, False, False, message.number)
            self.assertEqual(page, [stored])
        yield self.save(Acknowledged(one, 1), Acknowledged(two, 5, over=message.number))
        self.assertEqual((yield self.positions(one)), [2])
        self.assertEqual((yield self.positions(two)), [6])
        found = yield self.session("one")
        self.assertEqual((found.messages, found.size), (1, 1 + len(other.payload)))

    @inlineCallbacks
    def test_pages_begin_behind_one_position_and_end_with_another(self) -> Steps:
        one, two = yield self.begin("one", "two")
        yield self.save(*(queued(str(n), {one: (n, 1), two: (n + 100, 1)}) for n in range(1, 31)))
        for after, through, limit, expected in (
            (0, FAR, 10, range(1, 11)),
            (10, FAR, 10, range(11, 21)),
            (25, FAR, 10, range(26, 31)),
            (25, 27, 10, range(26, 28)),
            (30, FAR, 10, ()),
        ):
            page = yield self.store.page(one, after, through, limit)
            self.assertEqual([message.position for message in page], list(expected))
        page = yield self.store.page(two, 0, FAR, 3)
        self.assertEqual([(m.position, m.topic) for m in page], [(101, "1"), (102, "2"), (103, "3")])

    @inlineCallbacks
    def test_what_is_acknowledged_waits_no_longer(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(*(queued("t", {number: (n, 1)}) for n in range(1, 6)))
        yield self.save(Acknowledged(number, 2), Acknowledged(number, 4), Acknowledged(number, 77))
        self.assertEqual((yield self.positions(number)), [1, 3, 5])

    @inlineCallbacks
    def test_the_rows_that_refer_to_a_message_are_counted(self) -> Steps:
        numbers = yield self.begin("c", "d", "e")
        three = queued("t", dict.fromkeys(numbers, (1, 2)))
        two = queued("t", dict.fromkeys(numbers[:2], (2, 1)))
        yield self.save(three, two, queued("t", {numbers[0]: (3, 1)}))
        yield self.save(Acknowledged(numbers[2], 1), Received(numbers[1], 1))
        self.assertEqual({*(yield self.store.shared(10))}, {(three.number, 2), (two.number, 2)})
        self.assertEqual(len([*(yield self.store.shared(1))]), 1)
        yield self.save(*(Acknowledged(number, 1) for number in numbers))
        self.assertEqual([*(yield self.store.shared(10))], [(two.number, 2)])

    @inlineCallbacks
    def test_a_received_message_of_qos_2_waits_for_its_pubrel_without_its_payload(self) -> Steps:
        one, two = yield self.begin("one", "two")
        shared = queued("t", {one: (1, 2), two: (1, 2)})
        yield self.save(queued("s", {one: (2, 2)}), shared)
        yield self.save(Received(one, 2), Received(one, 1))
        page = yield self.store.page(one, 0, FAR, 10)
        self.assertEqual([(m.position, m.qos, m.received) for m in page], [(1, 2, True), (2, 2, True)])
        (other,) = yield self.store.page(two, 0, FAR, 10)
        self.assertEqual((other.received, other.payload), (False, shared.payload))
        yield self.save(Acknowledged(one, 1), Acknowledged(one, 2))
        self.assertEqual((yield self.positions(one)), [])

    @inlineCallbacks
    def test_the_first_messages_behind_a_position_are_trimmed(self) -> Steps:
        one, two = yield self.begin("one", "two")
        yield self.save(*(queued("t", {one: (n, 1), two: (n, 1)}) for n in range(1, 11)))
        yield self.save(Acknowledged(one, 4), Trimmed(one, 2, 3))
        self.assertEqual((yield self.positions(one)), [1, 2, 7, 8, 9, 10])
        self.assertEqual((yield self.positions(two)), list(range(1, 11)))

    @inlineCallbacks
    def test_messages_saved_in_the_same_moment_are_trimmed_too(self) -> Steps:
        one, two = yield self.begin("one", "two")
        yield self.save(queued("t", {one: (1, 1)}))
        records: list[SessionRecord] = []
        for n in range(2, 9):
            records.append(queued("t", {one: (n, 1), two: (n, 1)}))
            if n > 3:
                records.append(Trimmed(one, 0, 1))
        yield self.save(*records)
        self.assertEqual((yield self.positions(one)), [6, 7, 8])
        self.assertEqual((yield self.positions(two)), list(range(2, 9)))

    # -- withdrawing -----------------------------------------------------------------------------

    @inlineCallbacks
    def test_a_receiver_withdrawn_before_the_batch_gets_no_row(self) -> Steps:
        one, two = yield self.begin("one", "two")
        self.hold()
        yield self.busy()
        message, nobodys = queued("t", {one: (1, 1), two: (1, 1)}), queued("u", {one: (2, 1)})
        saved = [self.store.save(message), self.store.save(nobodys)]
        self.assertTrue(message.withdraw(one) and nobodys.withdraw(one))
        self.assertFalse(message.withdraw(one))
        self.resume()
        yield gatherResults(saved)
        self.assertEqual((yield self.positions(one)), [])
        self.assertEqual((yield self.positions(two)), [1])
        self.assertFalse(message.withdraw(two))
        yield self.save(Acknowledged(two, 1))
        self.assertEqual((yield self.positions(two)), [])

    @inlineCallbacks
    def test_a_receiver_cannot_be_withdrawn_from_a_batch_under_way(self) -> Steps:
        one, two = yield self.begin("one", "two")
        self.hold()
        message = queued("t", {one: (1, 1), two: (1, 1)})
        saved = self.store.save(message)
        yield self.under_way()
        self.assertFalse(message.withdraw(one))
        self.assertTrue(message.number > 0)
        self.resume()
        yield saved
        self.assertEqual((yield self.positions(one)), [1])

    def under_way(self) -> "Deferred[None]":
        """Fire when what was saved is in a batch that is being committed."""
        raise NotImplementedError

    def busy(self) -> "Deferred[None]":
        """Fire when what is saved next has to wait for a batch that is under way."""
        raise NotImplementedError

    # -- Packet Identifiers of incoming messages -------------------------------------------------

    @inlineCallbacks
    def test_an_incoming_identifier_is_committed_with_the_rows_until_it_is_released(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(
            queued("t", {number: (1, 1)}, delivery=Delivery("c", 65_535, False, DIGEST)),
            queued("t", {number: (2, 1)}, delivery=Delivery("c", 3, False, DIGEST)),
            queued("t", {number: (3, 1)}, delivery=Delivery("other", 4, False, DIGEST)),
        )
        self.assertEqual((yield self.session()).identifiers, (3, 65_535))
        yield self.save(
            Release("c", 3),
            queued("t", {number: (4, 1)}, delivery=Delivery("c", 3, False, DIGEST)),
            Release("c", 65_535),
        )
        self.assertEqual((yield self.session()).identifiers, (3,))
        yield self.save(Forget("c"))
        self.assertEqual((yield self.session()).identifiers, ())

    @inlineCallbacks
    def test_an_identifier_used_again_belongs_to_the_last_message(self) -> Steps:
        (number,) = yield self.begin("c")
        for _ in range(2):
            yield self.save(queued("t", {number: (1, 1)}, delivery=Delivery("c", 3, False, DIGEST)))
            yield self.save(Acknowledged(number, 1))
        self.assertEqual((yield self.session()).identifiers, (3,))

    # -- Retained Messages -----------------------------------------------------------------------

    @inlineCallbacks
    def test_of_several_versions_the_highest_one_stays_whoever_is_written_last(self) -> Steps:
        high, low = 1_700_000_000_000 << 22, 1_600_000_000_000 << 22
        yield self.save(Kept("t", b"new", 1, "c", None, high))
        yield self.save(Kept("t", b"old", 1, "c", None, low))
        yield self.save(Cleared("t", low))
        self.assertEqual((yield self.retained_versions()), [("t", b"new", high)])
        yield self.save(Kept("t", b"same", 1, "c", None, high))
        self.assertEqual((yield self.retained_versions()), [("t", b"same", high)])
        yield self.save(Cleared("t", high))
        self.assertEqual((yield self.retained_versions()), [])

    @inlineCallbacks
    def test_what_has_no_version_is_the_newest(self) -> Steps:
        """A daemon that was one of several, and is alone."""
        high = 1_700_000_000_000 << 22
        yield self.save(Kept("t", b"1", 1, "c", None, high), Kept("u", b"1", 1, "c", None))
        yield self.save(Kept("t", b"2", 1, "c", None))
        yield self.save(Kept("u", b"2", 1, "c", None, 1))
        found = yield self.retained_versions()
        self.assertEqual([one[:2] for one in found], [("t", b"2"), ("u", b"2")])
        yield self.save(Cleared("t"))
        self.assertEqual(len((yield self.retained_versions())), 1)

    def retained_versions(self) -> "Deferred[list[tuple[str, bytes, int]]]":
        found = self.store.retained("", 10)
        return found.addCallback(lambda all_: [(one.topic, one.payload, one.version) for one in all_])

    @inlineCallbacks
    def test_the_last_message_of_a_topic_is_kept(self) -> Steps:
        first, last = Kept("t", b"1", 1, "a", None), Kept("t", b"\x00\xff", 2, "b", "login")
        yield self.save(first, last)
        stored = StoredRetained("t", b"\x00\xff", 2, "b", "login")
        found = yield self.store.retained("", 10)
        self.assertEqual([evolve(one, version=0) for one in found], [stored])
        yield self.save(Cleared("t"), Kept("u", b"3", 0, "c", None))
        self.assertEqual([one.topic for one in (yield self.store.retained("", 10))], ["u"])
        yield self.save(Kept("u", b"4", 0, "c", None), Cleared("u"), Cleared("never"))
        self.assertEqual((yield self.store.retained("", 10)), [])
        yield self.save(Cleared("u"), Kept("u", b"5", 0, "c", None))
        self.assertEqual([one.payload for one in (yield self.store.retained("", 10))], [b"5"])

    @inlineCallbacks
    def test_retained_messages_come_in_pages_in_order_of_code_points(self) -> Steps:
        topics = ["a", "B", "a/b", "a b", "\u00e9", "z", "\uffee", "\U0001f600", "Z", "_", "aa"]
        yield self.save(*(Kept(topic, b"", 0, "c", None) for topic in topics))
        found: list[str] = []
        while page := (yield self.store.retained(found[-1] if found else "", 3)):
            self.assertTrue(len(page) <= 3)
            found += [one.topic for one in page]
        self.assertEqual(found, sorted(topics))

    @inlineCallbacks
    def test_what_is_over_goes_if_it_is_still_there(self) -> Steps:
        def properties(end: int) -> bytes:
            return store_properties(PublishProperties(message_expiry_interval=1, expires=end))

        over, newer = properties(1_700_000_000), properties(1_800_000_000)
        yield self.save(Kept("a", b"a", 1, "c", None, 0, over), Kept("b", b"b", 1, "c", None, 0, newer))
        yield self.save(Kept("c", over, 1, "c", None), Kept("d", b"d", 1, "c", None))
        yield self.save(*[Cleared(topic, over=over) for topic in "abcde"])
        self.assertEqual([one.topic for one in (yield self.store.retained("", 10))], ["b", "c", "d"])
        yield self.save(Kept("d", b"d", 1, "c", None, 0, over), Cleared("d", over=over))
        yield self.save(Cleared("c"), Cleared("c", over=over))
        self.assertEqual([one.topic for one in (yield self.store.retained("", 10))], ["b"])

    # -- Wills -----------------------------------------------------------------------------------

    @inlineCallbacks
    def test_a_will_is_kept_until_its_own_connection_is_over(self) -> Steps:
        yield self.save(will("a", 1), will("b", 2))
        yield self.save(will("a", 3, "newer"))
        yield self.save(WillGone("a", 1), WillGone("b", 2), WillGone("never", 4))
        self.assertEqual((yield self.store.wills()), [will("a", 3, "newer")])

    @inlineCallbacks
    def test_wills_left_and_gone_in_the_same_moment_end_as_they_were_saved(self) -> Steps:
        yield self.save(will("a", 1), WillGone("a", 1), will("b", 2), will("b", 3), WillGone("b", 2))
        yield self.save(WillGone("b", 3), will("b", 4), WillGone("c", 9), will("c", 10))
        found = sorted((yield self.store.wills()), key=lambda one: one.client_id)
        self.assertEqual(found, [will("b", 4), will("c", 10)])

    @inlineCallbacks
    def test_a_will_goes_with_the_message_that_it_was(self) -> Steps:
        one, two = yield self.begin("one", "two")
        yield self.save(will("a", 1), will("b", 2), will("c", 3))
        yield self.save(
            queued("t", {one: (1, 2)}, delivery=WillGone("a", 1)),
            queued("t", {one: (2, 2), two: (1, 1)}, delivery=WillGone("b", 2)),
            queued("t", {one: (3, 2)}, delivery=WillGone("c", 9)),
        )
        self.assertEqual((yield self.store.wills()), [will("c", 3)])
        self.assertEqual(((yield self.positions(one)), (yield self.positions(two))), ([1, 2, 3], [1]))
        yield self.save(will("d", 4), queued("t", {}, delivery=WillGone("d", 4)), will("e", 5))
        yield self.save(queued("t", {one: (4, 1)}, delivery=WillGone("e", 5)), will("e", 6), will("c", 7))
        found = sorted((yield self.store.wills()), key=lambda one: one.client_id)
        self.assertEqual(found, [will("c", 7), will("e", 6)])

    @inlineCallbacks
    def test_a_will_goes_with_a_message_whose_receivers_are_withdrawn(self) -> Steps:
        (number,) = yield self.begin("c")
        yield self.save(will("a", 1))
        message = queued("t", {number: (1, 1)}, delivery=WillGone("a", 1))
        self.hold()
        yield self.busy()
        saved = self.store.save(message)
        self.assertTrue(message.withdraw(number))
        self.resume()
        yield saved
        self.assertEqual((yield self.store.wills()), [])

    @inlineCallbacks
    def test_a_will_that_waits_has_its_end(self) -> Steps:
        waits = evolve(will("a", 1), due=1_700_000_000.25)
        yield self.save(will("a", 1), will("b", 2))
        yield self.save(waits)
        found = sorted((yield self.store.wills()), key=lambda one: one.client_id)
        self.assertEqual(found, [waits, will("b", 2)])
        yield self.save(will("a", 3))
        found = sorted((yield self.store.wills()), key=lambda one: one.client_id)
        self.assertEqual(found, [will("a", 3), will("b", 2)])

    # -- order, and the end ----------------------------------------------------------------------

    @inlineCallbacks
    def test_deferreds_fire_in_the_order_of_the_records(self) -> Steps:
        (number,) = yield self.begin("c")
        fired: list[int] = []

        def note(_: None, position: int) -> None:
            fired.append(position)

        saved = []
        for n in range(1, 1200):
            saved.append(self.store.save(queued("t", {number: (n, 1)})).addCallback(note, n))
        yield gatherResults(saved)
        self.assertEqual(fired, list(range(1, 1200)))

    @inlineCallbacks
    def test_nothing_fires_while_nothing_is_committed(self) -> Steps:
        (number,) = yield self.begin("c")
        self.assertTrue(self.store.available)
        self.hold()
        yield self.busy()
        saved = [self.store.save(record) for record in (queued("t", {number: (1, 1)}), Cleared("t"))]
        self.assertEqual([deferred.called for deferred in saved], [False, False])
        self.resume()
        yield gatherResults(saved)

    @inlineCallbacks
    def test_after_stop_nothing_is_accepted(self) -> Steps:
        self.stop()
        self.assertFalse(self.store.available)
        yield self.assertFailure(self.store.save(Cleared("t")), StoreStopped)


class InPostgreSQL(SessionStoreContract, TestCase):
    """Away means that somebody else has locked a table."""

    skip = MISSING or None
    timeout = 60

    @inlineCallbacks
    def setUp(self) -> Steps:  # type: ignore[override]  # trial waits for it
        self.dsn = cluster().database()
        self.lease = lone_lease(reactor)
        self.addCleanup(self.lease.stop)
        self.postgres = PostgresSessionStore(reactor, lambda: self.lease.holding, self.lease.start)
        self.addCleanup(self.stop)
        self.store = self.postgres
        self._holding: Any = None
        self.addCleanup(self.resume)
        yield self.postgres.start(self.dsn)

    def stop(self) -> object:
        return None if self.postgres.connections.stopped else self.postgres.stop()

    def hold(self) -> None:
        self._holding = holding(self.dsn, "LOCK TABLE mqtt_retained, mqtt_queue IN EXCLUSIVE MODE")
        self._holding.__enter__()

    def resume(self) -> None:
        if self._holding is not None:
            self._holding.__exit__(None, None, None)
            self._holding = None

    def busy(self) -> "Deferred[None]":
        self.postgres.save(Cleared("somewhere else"))
        return self.under_way()

    @inlineCallbacks
    def under_way(self) -> Steps:
        waiting = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not execute(self.dsn, waiting):
            yield deferLater(reactor, 0.02)


class InMemory(SessionStoreContract, TestCase):
    """Commits when the test says so."""

    def setUp(self) -> None:
        self.store = self.memory = MemorySessionStore()
        self.hold, self.resume, self.stop = self.memory.hold, self.memory.resume, self.memory.stop

    def busy(self) -> "Deferred[None]":
        return succeed(None)

    def under_way(self) -> "Deferred[None]":
        return maybeDeferred(self.memory.take)

    def test_reads_wait_when_they_are_held_too(self) -> None:
        self.memory.hold(reads=True)
        read = self.memory.retained("", 10)
        self.memory.save(Kept("t", b"", 0, "c", None))
        self.assertFalse(read.called)
        self.memory.resume()
        self.assertEqual(len(self.successResultOf(read)), 1)
        self.assertEqual(self.memory.reads["retained"], 1)

    def test_one_record_is_refused_and_the_next_committed(self) -> None:
        self.memory.hold()
        bad, good = self.memory.save(Cleared("bad")), self.memory.save(Cleared("good"))
        self.memory.refuse()
        self.memory.commit(1)
        self.failureResultOf(bad, EntryRefused)
        self.successResultOf(good)
        self.assertEqual(self.memory.records, [Cleared("good")])
