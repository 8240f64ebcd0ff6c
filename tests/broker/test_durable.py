"""Durable Sessions: a message is acknowledged when every receiver has acknowledged it, or it is committed."""

from typing import Any

from twisted.internet.defer import Deferred

from platziverse.broker.records import Acknowledged, Queued, Received, WillLeft
from platziverse.mqtt.packets import (
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from tests.broker.durability import GRACE, DurableCase, summary, take


class Graces(DurableCase):
    def test_what_all_receivers_acknowledge_in_time_is_never_written(self) -> None:
        first, second = self.receiver("first"), self.receiver("second")
        self.publish()
        self.assertEqual(self.publisher.received(), [])
        for client in first, second:
            self.assertEqual(client.received(), [Publish("t", b"x", 1, packet_id=1)])
        first.send(Puback(1))
        self.assertEqual(self.publisher.received(), [])
        second.send(Puback(1))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.harness.advance(1)
        self.assertEqual((self.written, self.count()), ([], 0))
        durable: Any = self.broker.durable
        self.assertEqual((durable.discharged, durable.saved), (1, 0))

    def test_what_is_not_acknowledged_in_time_is_written(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.assertEqual(self.publisher.received(), [])
        self.harness.clock.advance(GRACE)
        self.assertEqual(self.publisher.received(), [Puback(1)])
        [queued] = self.saved(Queued)
        self.assertEqual((queued.payload, list(queued.rows.values())), (b"x", [(1, 1)]))
        receiver.send(Puback(1))
        [acknowledged] = self.saved(Acknowledged)
        self.assertEqual((acknowledged.position, self.left()), (1, 0))

    def test_only_who_is_late_has_a_row(self) -> None:
        early, late = self.receiver("early"), self.receiver("late")
        self.publish()
        early.send(Puback(1))
        self.harness.clock.advance(GRACE)
        self.assertEqual(self.written, [(b"x", 1)])
        late.send(Puback(1))
        self.assertEqual((self.left("early"), self.left("late"), self.count()), (0, 0, 1))

    def test_what_was_sent_meanwhile_is_read_before_anybody_is_late(self) -> None:
        """Timers come first in a turn of the reactor, and sockets behind them."""
        receiver = self.receiver()
        self.publish()
        self.harness.clock.callLater(GRACE, receiver.send, Puback(1))
        self.harness.clock.advance(GRACE)
        self.assertEqual((self.publisher.received(), self.written), ([Puback(1)], []))

    def test_each_message_has_its_own_time(self) -> None:
        receiver = self.receiver()
        self.receiver("other", topic="u")
        self.publish(b"1", packet_id=1)
        self.harness.clock.advance(GRACE / 2)
        self.publish(b"2", packet_id=2, topic="u")
        receiver.send(Puback(1))
        self.harness.clock.advance(GRACE / 2)
        self.assertEqual(self.written, [])
        self.harness.clock.advance(GRACE / 2)
        self.assertEqual(self.written, [(b"2", 1)])

    def test_a_will_is_written_before_its_client_leaves_another(self) -> None:
        """Row 333."""
        receiver = self.receiver(topic="will")
        for text in b"old", b"new":
            self.harness.connect("one", will=Publish("will", text, 1))
        self.assertEqual(receiver.received(), [Publish("will", b"old", 1, packet_id=1)])
        texts = [record.payload for record in self.saved(WillLeft, Queued)]
        self.assertEqual(texts, [b"old", b"old", b"new"])

    def test_what_an_absent_receiver_is_owed_is_written_at_once(self) -> None:
        """And with it the rows of the others, who get it at once all the same."""
        self.receiver("absent").lose()
        receiver = self.receiver("present")
        self.store.hold()
        self.publish()
        self.assertEqual(len(receiver.received()), 1)
        self.assertEqual(self.publisher.received(), [])
        self.store.resume()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.assertEqual(self.written, [(b"x", 2)])

    def test_no_message_overtakes_in_the_table_one_that_waits_within_the_grace(self) -> None:
        """Row 350: after a crash the later one would be sent first."""
        self.receiver("present")
        self.publish(b"1", packet_id=1)
        self.assertEqual(self.written, [])
        self.receiver("absent").lose()
        self.publish(b"2", packet_id=2)
        self.assertEqual(self.written, [])
        self.harness.clock.advance(GRACE)
        self.assertEqual(self.written, [(b"1", 1), (b"2", 2)])

    def test_who_leaves_takes_along_what_others_must_have_before(self) -> None:
        """Row 350: the rows of each Session are written in its order."""
        self.receiver("absent", topic="a").lose()
        leaving = self.receiver("leaving", topic="c")
        self.receiver("all", topic="+")
        self.store.hold()
        for number, topic in enumerate(("a", "b", "c"), 1):
            self.publish(b"%d" % number, packet_id=number, topic=topic)
        leaving.lose()
        self.store.resume()
        self.assertEqual(self.written, [(b"1", 2), (b"2", 1), (b"3", 2)])

    def test_a_stop_saves_what_waits_within_the_grace(self) -> None:
        self.receiver()
        self.publish()
        self.broker.stop()
        self.assertEqual((self.written, self.publisher.received()), ([(b"x", 1)], [Puback(1)]))

    def test_who_acknowledges_before_the_batch_is_taken_has_no_row(self) -> None:
        self.receiver("absent").lose()
        receiver = self.receiver("present")
        self.store.hold()
        self.publish()
        receiver.send(Puback(1))
        self.assertEqual(self.publisher.received(), [])
        self.store.resume()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.assertEqual((self.left("absent"), self.left("present"), self.count()), (1, 0, 0))

    def test_a_late_puback_while_the_batch_is_written_counts_at_once(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.store.hold()
        self.harness.clock.advance(GRACE)
        self.store.take()
        receiver.send(Puback(1))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.store.resume()
        self.assertEqual((self.publisher.received(), self.left(), self.count()), ([], 0, 1))

    def test_a_late_puback_before_the_batch_is_taken_leaves_nothing(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.store.hold()
        self.harness.clock.advance(GRACE)
        receiver.send(Puback(1))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.store.resume()
        self.assertEqual((self.written, self.count()), ([], 0))

    def test_a_receiver_that_was_slow_gets_none_until_it_was_quick(self) -> None:
        receiver = self.receiver()
        self.publish(b"1", packet_id=1)
        self.harness.clock.advance(0.02)
        receiver.send(Puback(1))
        self.publish(b"2", packet_id=2)
        self.assertEqual(self.written, [(b"1", 1), (b"2", 1)])
        receiver.send(Puback(2))
        self.publish(b"3", packet_id=3)
        self.assertEqual(len(self.written), 2)

    def test_a_receiver_that_takes_nothing_gets_none(self) -> None:
        receiver = self.receiver()
        receiver.stop_reading()
        self.publish()
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.assertEqual(receiver.received(), [])
        receiver.read_again()
        self.assertEqual(len(receiver.received()), 1)

    def test_a_full_window_of_a_quick_receiver_waits_with_it(self) -> None:
        receiver = self.receiver()
        self.flood(100)
        self.assertEqual((self.acknowledged(), self.written), (0, []))
        self.assertEqual(len(take(receiver)), 100)
        self.assertEqual((self.acknowledged(), self.written), (100, []))

    def test_who_leaves_within_it_is_written_for_at_once(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.assertEqual(self.written, [])
        receiver.lose()
        self.assertEqual(self.written, [(b"x", 1)])
        self.assertEqual(self.publisher.received(), [Puback(1)])

    def test_a_take_over_within_it(self) -> None:
        old = self.receiver()
        self.publish()
        old.received()
        self.store.hold()
        new = self.connect()
        self.assertEqual(new.received(), [Publish("t", b"x", 1, dup=True, packet_id=1)])
        self.assertEqual(self.publisher.received(), [])
        new.send(Puback(1))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.store.resume()
        self.assertEqual(self.left(), 0)

    def test_a_session_that_ends_within_it_is_owed_nothing(self) -> None:
        self.receiver()
        self.publish()
        self.store.hold()
        self.harness.connect("receiver")
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.store.resume()
        self.assertEqual(self.written, [])

    def test_the_end_of_the_daemon_waits_for_nobody(self) -> None:
        receiver = self.receiver()
        self.publish(b"1", packet_id=1)
        durable: Any = self.broker.durable
        durable.stop()
        durable.stop()
        self.publish(b"2", packet_id=2)
        self.assertEqual(self.written, [(b"1", 1), (b"2", 1)])
        self.assertEqual(self.acknowledged(), 2)
        self.assertEqual(len(take(receiver)), 2)


class WithoutGrace(DurableCase):
    grace = 0.0

    def test_everything_is_written_at_once(self) -> None:
        self.receiver()
        self.publish()
        self.assertEqual((self.written, self.publisher.received()), ([(b"x", 1)], [Puback(1)]))


class Exactly(DurableCase):
    """QoS 2: committed before it is sent, and before PUBREL."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.receiver(qos=2)

    def test_it_is_sent_when_it_is_committed(self) -> None:
        self.store.hold()
        self.publish(qos=2)
        self.assertEqual((self.client.received(), self.publisher.received()), ([], []))
        self.store.resume()
        self.assertEqual(self.publisher.received(), [Pubrec(1)])
        self.assertEqual(self.client.received(), [Publish("t", b"x", 2, packet_id=1)])

    def test_order_is_kept_with_what_comes_behind(self) -> None:
        self.store.hold()
        self.publish(b"1", qos=2, packet_id=1)
        self.publish(b"2", qos=1, packet_id=2)
        self.assertEqual(self.client.received(), [])
        self.store.resume()
        self.assertEqual([message.payload for message in take(self.client)], [b"1", b"2"])

    def test_pubrel_waits_for_the_commit(self) -> None:
        self.publish(qos=2)
        self.client.received()
        self.store.hold()
        self.client.send(Pubrec(1), Pubrec(1))
        self.assertEqual(self.client.received(), [])
        self.store.resume()
        self.assertEqual(self.client.received(), [Pubrel(1), Pubrel(1)])
        before = self.count(Received)
        self.client.send(Pubrec(1))
        self.assertEqual((self.client.received(), self.count(Received)), ([Pubrel(1)], before))
        self.client.send(Pubcomp(1))
        self.assertEqual((self.left(), self.session().inflight), (0, 0))

    def test_one_of_several_that_is_refused_is_no_longer_owed(self) -> None:
        self.receiver().lose()
        self.store.hold()
        self.flood(2, size=10)
        window: Any = self.session().window
        before = window.queue.bytes
        self.store.refuse()
        self.assertEqual((window.queue.messages, window.queue.bytes), (1, before // 2))

    def test_pubrec_that_cannot_be_saved_is_not_answered(self) -> None:
        self.publish(qos=2)
        self.client.received()
        self.store.hold()
        self.client.send(Pubrec(1))
        self.store.refuse()
        self.assertTrue(self.client.closed)
        self.store.resume()
        again = self.connect()
        self.assertEqual(again.received(), [Publish("t", b"x", 2, dup=True, packet_id=1)])

    def test_the_whole_handshake_across_kills(self) -> None:
        """At every step the daemon is killed, and the client goes on where it was."""
        self.publish(qos=2)
        self.client.received()
        self.start()
        client = self.connect()
        self.assertEqual(client.received(), [Publish("t", b"x", 2, dup=True, packet_id=1)])
        client.send(Pubrec(1))
        self.assertEqual(client.received(), [Pubrel(1)])
        self.start()
        client = self.connect()
        self.assertEqual(client.received(), [Pubrel(1)])
        client.send(Pubcomp(1))
        self.start()
        self.assertEqual(self.connect().received(), [])
        self.assertEqual(self.left(), 0)

    def test_a_reconnect_between_pubrec_and_its_commit_sends_it_again(self) -> None:
        """PUBREL alone could be forgotten with the row's PUBREC."""
        self.publish(qos=2)
        self.client.received()
        self.store.hold()
        self.client.send(Pubrec(1))
        self.client.lose()
        client = self.connect()
        self.assertEqual(client.received(), [Publish("t", b"x", 2, dup=True, packet_id=1)])

    def test_the_identifier_of_the_publisher_is_committed_with_it(self) -> None:
        publisher = self.connect("persistent")
        publisher.publish("t", b"x", 2, 7)
        [queued] = self.saved(Queued)
        self.assertEqual((queued.delivery.client_id, queued.delivery.packet_id), ("persistent", 7))

    def test_without_a_receiver_at_qos_2_it_is_not(self) -> None:
        publisher = self.connect("persistent")
        self.receiver("other", topic="u").lose()
        publisher.publish("u", b"x", 2, 7)
        [queued] = self.saved(Queued)
        self.assertIsNone(queued.delivery)


class Failures(DurableCase):
    def test_what_cannot_be_written_closes_the_publisher_unacknowledged(self) -> None:
        self.receiver().lose()
        self.store.hold()
        self.publish()
        self.store.refuse()
        self.assertEqual((self.publisher.received(), self.publisher.closed), ([], True))
        session = self.session()
        self.assertEqual((session.queued, session.queued_bytes), (0, 0))

    def test_it_is_not_sent_to_a_receiver_at_qos_2(self) -> None:
        receiver = self.receiver(qos=2)
        self.store.hold()
        self.publish(b"refused", qos=2)
        self.store.refuse()
        self.store.resume()
        self.publisher = self.harness.connect("publisher")
        self.publish(b"again", qos=2)
        self.assertEqual(receiver.received(), [Publish("t", b"again", 2, packet_id=2)])

    def test_a_receiver_at_qos_1_may_have_it_already(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.store.hold()
        self.harness.clock.advance(GRACE)
        self.store.refuse()
        self.assertTrue(self.publisher.closed)
        self.assertEqual(summary(receiver.received()), [(1, False)])
        receiver.send(Puback(1))
        self.assertEqual((self.session().inflight, self.session().queued), (0, 0))

    def test_one_that_has_acknowledged_it_makes_no_difference(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.store.hold()
        self.harness.clock.advance(GRACE)
        self.store.take()
        receiver.send(Puback(1))
        self.store.refuse()
        self.assertEqual((self.publisher.received(), self.publisher.closed), ([Puback(1)], False))

    def test_an_acknowledgement_that_cannot_be_saved_is_said(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.harness.clock.advance(GRACE)
        self.store.hold()
        receiver.send(Puback(1))
        self.store.refuse()
        self.assertEqual((receiver.closed, self.session().inflight), (False, 0))


class Away(DurableCase):
    """The database is away."""

    def test_connected_quick_receivers_go_on_and_absent_ones_hold_their_publishers(self) -> None:
        self.receiver("absent", topic="absent").lose()
        receiver = self.receiver()
        self.store.hold(reads=True)
        for number in range(1, 1001):
            self.publish(str(number).encode(), packet_id=number)
            take(receiver)
        self.assertEqual(self.acknowledged(), 1000)
        other = self.harness.connect("other")
        for number in range(1, 300):
            other.publish("absent", b"x", 1, number)
        self.assertEqual((other.received(), other.held), ([], True))
        self.assertFalse(self.publisher.held)
        self.store.resume()
        self.harness.turn()
        self.assertEqual((len(other.received()) >= 256, other.held), (True, False))

    def test_a_will_that_waits_is_counted(self) -> None:
        self.receiver().lose()
        dying = self.harness.connect("dying", will=Publish("t", b"will", 2))
        self.store.hold()
        dying.lose()
        wills = self.broker.clients.farewells.unfinished
        self.assertGreaterEqual(wills.count, 1)
        self.store.resume()
        self.assertEqual((wills.count, self.written), (0, [(b"will", 1)]))


class Handlers(DurableCase):
    def start(self) -> None:
        self.answer: Deferred[None] = Deferred()
        self.table = {"t": lambda message, client: self.answer}
        super().start()

    def test_both_are_waited_for(self) -> None:
        receiver = self.receiver()
        self.publish()
        receiver.send(Puback(1))
        self.assertEqual(self.publisher.received(), [])
        self.answer.callback(None)
        self.assertEqual(self.publisher.received(), [Puback(1)])

    def test_the_receiver_may_be_the_last(self) -> None:
        receiver = self.receiver()
        self.publish()
        self.answer.callback(None)
        self.assertEqual(self.publisher.received(), [])
        receiver.send(Puback(1))
        self.assertEqual(self.publisher.received(), [Puback(1)])


class SharedMessages(DurableCase):
    """A message with several rows is over when the last of them is."""

    def setUp(self) -> None:
        super().setUp()
        for name in "one", "two":
            self.receiver(name).lose()
        self.publish()
        self.assertEqual(self.store.messages, {1})

    def test_the_last_one_says_so(self) -> None:
        take(self.connect("one"))
        self.assertEqual(self.store.messages, {1})
        take(self.connect("two"))
        self.assertEqual(self.store.messages, set())

    def test_a_start_counts_the_rows_that_are_left(self) -> None:
        take(self.connect("one"))
        self.start()
        take(self.connect("one"))
        self.assertEqual(self.store.messages, {1})
        take(self.connect("two"))
        self.assertEqual((self.store.messages, self.left("two")), (set(), 0))

    def test_one_at_qos_2_is_over_with_pubcomp_over_reconnects_and_kills(self) -> None:
        for name in "one", "two":
            take(self.connect(name))
            self.receiver(name, 2).lose()
        self.publish(b"y", 2, 2)
        for name in "one", "two":
            client = self.connect(name)
            [message] = [packet for packet in client.received() if isinstance(packet, Publish)]
            assert message.packet_id is not None
            client.send(Pubrec(message.packet_id))
            client.lose()
        self.start()
        self.assertEqual(self.store.messages, {2})
        for name in "one", "two":
            self.connect(name).send(Pubcomp(2))
        self.assertEqual(self.store.messages, set())

    def test_who_acknowledges_between_batch_and_commit_counts(self) -> None:
        first, second = self.connect("one"), self.connect("two")
        take(first)
        take(second)
        self.receiver("three").lose()
        self.store.hold()
        self.publish(b"y", packet_id=2)
        self.store.take()
        take(first)
        self.store.resume()
        take(second)
        self.assertEqual(self.store.messages, {2})
        take(self.connect("three"))
        self.assertEqual(self.store.messages, set())

    def test_a_receiver_that_is_connected_remembers_the_number(self) -> None:
        first = self.connect("one")
        take(first)
        self.publish(b"y", packet_id=2)
        self.assertEqual(self.store.messages, {1, 2})
        take(first)
        take(self.connect("two"))
        self.assertEqual(self.store.messages, set())


class Parting(DurableCase):
    def test_a_receiver_that_disconnects_keeps_its_place(self) -> None:
        receiver = self.receiver()
        self.flood(3)
        receiver.send(Puback(1), Disconnect())
        packets: list[Packet] = self.connect().received()
        self.assertEqual(summary(packets), [(2, True), (3, True)])
