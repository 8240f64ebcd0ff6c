"""The Window of a durable Session: Packet Identifiers, DUP, order, and pages of what is in the store."""

from typing import Any

from twisted.internet.defer import Deferred, fail

from platziverse.broker.records import Acknowledged, Queued, StoredMessage
from platziverse.mqtt.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Subscribe, Subscription
from platziverse.testing import MemorySessionStore, OpenAuthority
from tests.broker.durability import GRACE, DurableCase, summary, take
from tests.logs import observe_lines


class Again(DurableCase):
    """What is sent again has its Packet Identifier, DUP, and its place in the order."""

    limits = {"max_inflight": 3}

    def test_what_was_sent_before_the_connection_was_lost(self) -> None:
        receiver = self.receiver()
        self.flood(5)
        receiver.received()
        receiver.send(Puback(2))
        receiver.lose()
        again = self.connect()
        self.assertEqual(summary(again.received()), [(1, True), (3, True), (4, True)])
        again.send(Puback(1))
        self.assertEqual(summary(again.received()), [(5, False)])

    def test_after_a_kill_what_was_there_may_have_been_sent(self) -> None:
        """Row 332: nobody waits for the commit that says that the client has come back."""
        self.receiver().lose()
        self.flood(5)
        self.start()
        receiver = self.connect()
        self.assertEqual(summary(take(receiver)), [(number, True) for number in range(1, 6)])
        self.publish()
        self.assertEqual(summary(receiver.received()), [(6, False)])

    def test_a_client_that_was_connected_may_have_had_everything(self) -> None:
        """Its acknowledgements of what came before may not have been committed."""
        receiver = self.receiver()
        receiver.stop_reading()
        self.flood(5)
        stored = self.successResultOf(self.store.sessions(0, 1))[0]
        self.assertIsNone(stored.absent_since)
        self.start()
        self.assertEqual(summary(take(self.connect())), [(number, True) for number in range(1, 6)])

    def test_an_acknowledgement_that_is_not_yet_committed_counts(self) -> None:
        receiver = self.receiver()
        self.flood(3)
        self.harness.clock.advance(GRACE)
        self.store.hold()
        receiver.send(Puback(2))
        receiver.lose()
        again = self.connect()
        self.assertEqual(summary(again.received()), [(1, True), (3, True)])
        self.store.resume()
        again.send(Puback(1), Puback(3))
        self.assertEqual((self.left(), self.session().queued, self.session().inflight), (0, 0, 0))

    def test_acknowledgements_of_nothing_are_counted(self) -> None:
        receiver = self.receiver(qos=2)
        receiver.send(Puback(7), Pubcomp(8), Pubrec(9))
        self.assertEqual(self.broker.traffic.unknown_acknowledgements, 3)
        self.assertEqual(receiver.received(), [Pubrel(9)])


class Identifiers(DurableCase):
    def test_the_identifier_of_a_stuck_message_stays_its_own(self) -> None:
        """65,536 messages later it is its turn again, and waits."""
        receiver = self.receiver()
        self.publish(b"stuck")
        receiver.received()
        for number in range(65_534):
            self.publish(packet_id=2)
            receiver.send(Puback(number % 65_535 + 2))
            if number % 100 == 0:
                self.harness.turn()
                receiver.received()
                self.publisher.received()
        receiver.received()
        self.publish(b"next", packet_id=3)
        self.assertEqual(receiver.received(), [])
        receiver.send(Puback(1))
        self.assertEqual(receiver.received(), [Publish("t", b"next", 1, packet_id=1)])
        receiver.send(Puback(1))
        self.assertEqual((self.session().inflight, self.session().queued), (0, 0))


class Pages(DurableCase):
    def test_a_thousand_messages_come_through_a_window_of_a_hundred(self) -> None:
        self.receiver().lose()
        self.flood(1000)
        session = self.session()
        self.assertEqual((session.queued, session.inflight), (1000, 0))
        absent = session.memory
        receiver = self.connect()
        self.assertEqual((session.queued, session.inflight), (980, 20))
        self.assertLess(session.memory - absent, 100 * 500)
        payloads = [int(message.payload) for message in take(receiver)]
        self.assertEqual(payloads, list(range(1, 1001)))
        self.assertEqual((session.queued, session.queued_bytes, self.left()), (0, 0, 0))
        self.assertLess(self.store.reads["page"], 60)

    def test_an_absent_client_has_nothing_in_memory(self) -> None:
        receiver = self.receiver()
        before = self.session().memory
        self.flood(50)
        self.assertGreater(self.session().memory, before)
        receiver.lose()
        self.flood(50)
        self.assertEqual(self.session().memory, before)
        self.assertEqual((self.session().queued, self.left()), (100, 100))

    def test_nothing_is_read_where_nothing_waits(self) -> None:
        receiver = self.receiver()
        self.flood(5)
        take(receiver)
        receiver.lose()
        self.connect()
        self.assertEqual(self.store.reads["page"], 0)

    def test_what_does_not_fit_waits_behind_what_does_and_comes_when_there_is_room(self) -> None:
        receiver = self.receiver()
        self.flood(150)
        self.assertEqual([int(message.payload) for message in take(receiver)], list(range(1, 151)))
        self.assertEqual(self.written, [])

    def test_what_does_not_fit_is_written_with_what_it_waits_behind(self) -> None:
        receiver = self.receiver()
        self.flood(150)
        self.assertEqual(self.written, [])
        self.harness.clock.advance(self.grace)
        self.assertEqual(len(self.written), 150)
        self.assertEqual([int(message.payload) for message in take(receiver)], list(range(1, 151)))

    def test_messages_that_are_not_committed_need_not_be_read(self) -> None:
        receiver = self.receiver()
        self.store.hold()
        self.flood(150)
        self.assertEqual(len(take(receiver)), 150)
        self.assertEqual((self.store.reads["page"], self.acknowledged()), (0, 150))

    def test_large_messages_come_a_few_at_a_time(self) -> None:
        self.receiver().lose()
        self.flood(60, size=300_000)
        receiver = self.connect()
        self.assertLess(self.session().memory, 30 * 300_000)
        self.assertEqual(len(take(receiver)), 60)

    def test_a_page_is_not_read_beyond_what_is_not_committed(self) -> None:
        """Row 310: the earlier message may be committed later, as it waited for its receivers."""
        receiver = self.receiver()
        self.receiver("absent").lose()
        self.publish(b"1", packet_id=1, topic="t")
        self.harness.clock.advance(GRACE)
        take(receiver)
        receiver.lose()
        self.store.hold()
        self.flood(3)
        self.store.commit(1)
        receiver = self.connect()
        self.store.resume()
        self.assertEqual([message.payload for message in take(receiver)], [b"1", b"2", b"3"])

    def test_a_page_for_a_connection_that_has_gone_is_thrown_away(self) -> None:
        self.receiver().lose()
        self.flood(3)
        self.store.hold(reads=True)
        first = self.connect()
        second = self.connect()
        self.store.resume()
        self.assertEqual((take(first), len(take(second))), ([], 3))

    def test_what_comes_while_a_page_is_read_comes_behind_it(self) -> None:
        self.receiver().lose()
        self.flood(3)
        self.store.hold(reads=True)
        receiver = self.connect()
        self.flood(3)
        self.assertEqual(receiver.received(), [])
        self.store.resume()
        self.assertEqual([int(message.payload) for message in take(receiver)], [1, 2, 3, 4, 5, 6])

    def test_a_client_that_takes_nothing_gets_the_page_later(self) -> None:
        self.receiver().lose()
        self.flood(3)
        self.store.hold(reads=True)
        receiver = self.connect()
        receiver.stop_reading()
        self.store.resume()
        self.assertEqual(receiver.received(), [])
        receiver.read_again()
        self.assertEqual(len(take(receiver)), 3)

    def test_qos_2_waits_for_its_commit_in_the_order(self) -> None:
        receiver = self.receiver(qos=2)
        self.store.hold()
        self.flood(1)
        self.publish(b"two", 2, 9)
        self.flood(1)
        self.assertEqual([message.payload for message in take(receiver)], [b"1"])
        self.harness.clock.advance(self.grace)
        self.store.resume()
        receiver.send(Pubrec(2), Pubcomp(2))
        self.assertEqual(self.session().queued + self.session().inflight, 1)


class Unreadable(MemorySessionStore):
    """A store whose pages cannot be read for a while."""

    broken = True

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        return fail(OSError("no disk")) if self.broken else super().page(session, after, through, limit)


class Late(MemorySessionStore):
    """A store that answers a read some time after it has read."""

    late = False

    def page(self, session: int, after: int, through: int, limit: int) -> "Deferred[list[StoredMessage]]":
        page = super().page(session, after, through, limit)
        if not self.late:
            return page
        rows: list[list[StoredMessage]] = []
        page.addCallback(rows.append)
        self.answer: Deferred[list[StoredMessage]] = Deferred()
        return self.answer.addCallback(lambda _: rows[0])


class Outdated(DurableCase):
    def test_what_is_deleted_while_a_page_is_read_does_not_come_again(self) -> None:
        self.store = store = Late()
        self.start()
        receiver = self.receiver()
        self.flood(3)
        self.harness.clock.advance(GRACE)
        self.store.hold()
        receiver.send(Puback(2))
        receiver.lose()
        store.late = True
        again = self.connect()
        store.resume()
        store.answer.callback([])
        self.assertEqual(summary(take(again)), [(1, True), (3, True)])
        self.assertEqual((self.session().queued, self.session().inflight), (0, 0))


class Unread(DurableCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = Unreadable()
        self.start()
        self.receiver().lose()
        self.publish()
        self.lines = observe_lines(self)

    def broken(self, broken: bool) -> None:
        store: Any = self.store
        store.broken = broken

    def test_a_page_that_cannot_be_read_is_asked_for_again_and_said(self) -> None:
        """Row 312: the client waits, and gets everything when the store answers."""
        receiver = self.connect()
        self.assertEqual(receiver.received(), [])
        self.publish(b"y", packet_id=2)
        self.assertEqual(
            [line for line in self.lines if "could not be read: no disk" in line], self.lines[:1]
        )
        self.broken(False)
        self.harness.advance(1)
        self.assertEqual([message.payload for message in take(receiver)], [b"x", b"y"])

    def test_not_for_a_client_that_has_gone(self) -> None:
        self.connect().lose()
        self.harness.advance(2)
        self.broken(False)
        self.assertEqual(len(take(self.connect())), 1)


class Strict(OpenAuthority):
    """Forbids topics."""

    restricts = True

    def __init__(self) -> None:
        self.forbidden: set[str] = set()

    def may_receive(self, client: object, topic: str) -> bool:
        return topic not in self.forbidden


class Rights(DurableCase):
    authority = Strict()

    def setUp(self) -> None:
        self.authority.forbidden.clear()
        super().setUp()

    def test_what_the_rules_forbid_meanwhile_is_not_sent_and_its_row_deleted(self) -> None:
        self.receiver(topic="#").lose()
        for number, topic in enumerate(["a", "b", "c"], 1):
            self.publish(packet_id=number, topic=topic)
        self.authority.forbidden.add("b")
        receiver = self.connect()
        self.assertEqual([message.topic for message in take(receiver)], ["a", "c"])
        self.assertEqual((self.left(), self.session().queued, self.session().queued_bytes), (0, 0, 0))

    def test_one_that_is_not_yet_written_never_is(self) -> None:
        receiver = self.receiver(topic="#", qos=1)
        for number in range(1, 31):
            self.publish(packet_id=number, topic="a" if number < 30 else "b")
        self.authority.forbidden.add("b")
        self.assertEqual(len(take(receiver)), 29)
        self.assertEqual((self.acknowledged(), self.written), (30, []))

    def test_rules_for_thousands_of_messages_need_no_deep_stack(self) -> None:
        self.receiver(topic="#").lose()
        self.flood(3000)
        self.authority.forbidden.add("t")
        self.assertEqual((take(self.connect()), self.left()), ([], 0))


class Retained(DurableCase):
    """Retained Messages for a new Subscription are messages like any other."""

    def retain(self, count: int, qos: int) -> None:
        for number in range(1, count + 1):
            self.publisher.publish(f"r/{number}", b"x", qos, number, retain=True)
        self.publisher.received()

    def test_at_qos_1_they_have_their_grace(self) -> None:
        self.retain(1, 1)
        client = self.connect()
        [_, message] = client.subscribe("r/#", 1)
        self.assertEqual(message, Publish("r/1", b"x", 1, retain=True, packet_id=1))
        client.send(Puback(1))
        self.harness.advance(1)
        self.assertEqual(self.written, [])

    def test_what_is_not_acknowledged_comes_again_after_a_kill(self) -> None:
        self.retain(1, 1)
        client = self.connect()
        client.subscribe("r/#", 1)
        client.lose()
        self.start()
        self.assertEqual(
            self.connect().received(), [Publish("r/1", b"x", 1, retain=True, dup=True, packet_id=1)]
        )

    def test_at_qos_2_they_are_committed_before_they_are_sent(self) -> None:
        self.retain(30, 2)
        client = self.connect()
        client.send(Subscribe(1, [Subscription("r/#", 2)]))
        self.assertEqual(len(client.received()), 21)
        queued = self.saved(Queued)
        self.assertEqual((len(queued), all(record.retain for record in queued)), (20, True))

    def test_one_that_cannot_be_saved_is_only_said(self) -> None:
        self.retain(1, 1)
        client = self.connect()
        client.subscribe("r/#", 1)
        self.store.hold()
        self.harness.clock.advance(GRACE)
        self.store.refuse()
        self.assertFalse(client.closed)

    def test_they_come_at_the_pace_of_the_client(self) -> None:
        self.retain(100, 1)
        client = self.connect()
        self.assertEqual(len(client.subscribe("r/#", 1)), 21)
        self.harness.clock.advance(GRACE)
        client.send(*[Puback(number) for number in range(1, 21)])
        self.assertEqual(len(take(client)), 80)
        self.assertEqual(self.left(), 0)

    def test_they_wait_for_what_is_in_the_store(self) -> None:
        self.retain(1, 1)
        self.receiver().lose()
        self.flood(30)
        client = self.connect()
        client.subscribe("r/#", 1)
        client.send(*[Puback(number) for number in range(1, 21)])
        self.assertEqual([message.topic for message in take(client)], ["t"] * 10 + ["r/1"])


class Records(DurableCase):
    def test_what_is_acknowledged_says_up_to_where_nothing_waits(self) -> None:
        receiver = self.receiver()
        self.receiver("absent").lose()
        self.flood(4)
        receiver.received()
        receiver.send(Puback(2), Puback(1), Puback(3))
        heads = [(record.position, record.head) for record in self.saved(Acknowledged)]
        self.assertEqual(heads, [(2, 0), (1, 2), (3, 3)])
