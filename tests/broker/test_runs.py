"""Messages of one run of a publisher, for the same durable Sessions, wait together. ADR 0124."""

from typing import Any

from twisted.internet.defer import Deferred

from platziverse.broker.outgoing import SHARED
from platziverse.broker.pace import LONGEST, MANY, PATIENCE, SAMPLE
from platziverse.broker.records import Acknowledged
from platziverse.broker.window import MOST
from platziverse.mqtt.packets import Packet, Puback, Publish, Pubrec
from platziverse.testing import FakeClient
from tests.broker.durability import GRACE, DurableCase, payloads, summary, take


def pubacks(first: int, last: int) -> list[Packet]:
    return [Puback(number) for number in range(first, last + 1)]


class RunsCase(DurableCase):
    def run_of(self, count: int, first: int = 1, topic: str = "t", size: int = 1) -> list[Publish]:
        """So many messages at QoS 1; their payloads begin with their numbers."""
        numbers = range(first, first + count)
        return [Publish(topic, b"%d" % number + b"-" * size, 1, packet_id=number) for number in numbers]

    def numbers(self, client: FakeClient) -> list[int]:
        """The numbers of the messages that have come."""
        return [int(payload.partition(b"-")[0]) for payload in payloads(client.received())]

    @property
    def rows(self) -> list[int]:
        """The numbers of the messages that were written."""
        return [int(payload.partition(b"-")[0]) for payload, _ in self.written]


class Together(RunsCase):
    def test_they_are_acknowledged_when_all_receivers_have_all_of_them(self) -> None:
        first, second = self.receiver("first"), self.receiver("second")
        self.publisher.send(*self.run_of(5))
        for client in first, second:
            self.assertEqual(self.numbers(client), [1, 2, 3, 4, 5])
        first.send(*pubacks(1, 5))
        second.send(*pubacks(1, 4))
        self.assertEqual(self.publisher.received(), [])
        second.send(Puback(5))
        self.assertEqual(self.publisher.received(), pubacks(1, 5))
        self.harness.advance(1)
        self.assertEqual((self.written, self.count(), self.broker.traffic.messages_sent), ([], 0, 10 + 5 + 5))
        durable: Any = self.broker.durable
        self.assertEqual((durable.discharged, durable.saved), (5, 0))
        self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_only_what_is_left_is_written_when_their_time_is_over(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(5))
        receiver.send(Puback(2), Puback(1))  # in another order than they were sent
        self.harness.clock.advance(GRACE)
        self.harness.clock.advance((PATIENCE - 1) * GRACE)
        self.assertEqual(self.rows, [3, 4, 5])
        self.assertEqual(self.publisher.received(), pubacks(1, 5))
        durable: Any = self.broker.durable
        self.assertEqual((durable.discharged, durable.saved), (2, 3))
        receiver.send(*pubacks(3, 5))
        self.assertEqual((self.left(), self.count()), (0, 3))

    def test_while_they_are_written_each_may_still_be_acknowledged(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(3))
        self.store.hold()
        self.harness.clock.advance(GRACE)
        receiver.send(*pubacks(1, 2))
        self.assertEqual(self.publisher.received(), [])
        receiver.send(Puback(3))
        self.assertEqual(self.publisher.received(), pubacks(1, 3))
        self.store.resume()
        self.assertEqual((self.left(), self.count(), self.publisher.received()), (0, 0, []))

    def test_a_receiver_that_leaves_within_the_grace_gets_the_rest_again(self) -> None:
        receiver, other = self.receiver(), self.receiver("other")
        self.publisher.send(*self.run_of(4))
        other.send(*pubacks(1, 4))
        receiver.send(Puback(1))
        receiver.lose()
        self.assertEqual((self.rows, self.publisher.received()), ([2, 3, 4], pubacks(1, 4)))
        self.assertEqual(summary(take(self.connect())), [(2, True), (3, True), (4, True)])
        self.assertEqual((self.left(), self.left("other")), (0, 0))

    def test_a_kill_loses_none_that_was_acknowledged(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(3))
        receiver.send(Puback(1))
        self.harness.clock.advance(PATIENCE * GRACE)
        self.harness.turn()
        self.assertEqual(self.publisher.received(), pubacks(1, 3))
        self.start()
        self.assertEqual(self.numbers(self.connect()), [2, 3])

    def test_a_session_that_ends_is_owed_nothing(self) -> None:
        self.receiver()
        self.publisher.send(*self.run_of(3))
        self.store.hold()
        self.harness.connect("receiver")
        self.assertEqual(self.publisher.received(), pubacks(1, 3))

    def test_more_than_may_be_in_flight_wait_in_memory(self) -> None:
        receivers = self.receiver(), self.receiver("other")
        self.publisher.send(*self.run_of(50))
        for receiver in receivers:
            numbers = [int(each.payload.partition(b"-")[0]) for each in take(receiver)]
            self.assertEqual(numbers, [*range(1, 51)])
        self.assertEqual((self.publisher.received(), self.written), (pubacks(1, 50), []))

    def test_those_that_fill_the_queue_hold_the_publisher(self) -> None:
        self.limits = {"max_queued_messages": 5}
        self.start()
        receiver = self.receiver()
        self.publisher.send(*self.run_of(30))
        self.assertTrue(self.publisher.held)
        self.assertEqual(len(take(receiver)), 26)
        self.harness.turn()
        self.assertEqual((len(take(receiver)), self.publisher.held, self.written), (4, False, []))
        self.assertEqual(self.publisher.received(), pubacks(1, 30))

    def test_large_ones_are_sent_as_they_are(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(3, size=SHARED))
        self.assertEqual(self.numbers(receiver), [1, 2, 3])
        receiver.send(*pubacks(1, 3))
        self.assertEqual((self.publisher.received(), self.written), (pubacks(1, 3), []))

    def test_not_with_those_of_the_next_read(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(2))
        self.publisher.send(*self.run_of(2, 3))
        receiver.send(*pubacks(1, 2))
        self.assertEqual(self.publisher.received(), pubacks(1, 2))

    def test_a_client_that_goes_takes_nothing_with_it(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(3))
        self.publisher.lose()
        self.assertEqual(self.harness.shared.flow.unfinished, 3)
        receiver.send(*pubacks(1, 3))
        self.assertEqual((self.harness.shared.flow.unfinished, self.written), (0, []))


class Apart(RunsCase):
    def setUp(self) -> None:
        self.waits: Deferred[object] = Deferred()
        self.table = {"handled": lambda message, client: self.waits}
        super().setUp()

    def test_what_waits_for_nothing_is_acknowledged_behind_what_came_before(self) -> None:
        receiver = self.receiver()
        mixed = [*self.run_of(2), *self.run_of(2, 3, "nobody"), *self.run_of(1, 5)]
        self.publisher.send(*mixed)
        self.assertEqual((self.numbers(receiver), self.publisher.received()), ([1, 2, 5], []))
        receiver.send(*pubacks(1, 2))
        self.assertEqual(self.publisher.received(), pubacks(1, 4))
        receiver.send(Puback(3))
        self.assertEqual(self.publisher.received(), [Puback(5)])

    def test_what_has_other_receivers_has_an_answer_of_its_own(self) -> None:
        receiver, other = self.receiver(), self.receiver("other", topic="u")
        self.publisher.send(*self.run_of(2), *self.run_of(2, 3, "u"), *self.run_of(2, 5))
        receiver.send(*pubacks(1, 4))
        self.assertEqual(self.publisher.received(), pubacks(1, 2))
        other.send(*pubacks(1, 2))
        self.assertEqual(self.publisher.received(), pubacks(3, 6))

    def test_what_handlers_get_as_well_waits_for_both(self) -> None:
        receiver = self.receiver(topic="#")
        self.publisher.send(*self.run_of(1), *self.run_of(2, 2, "handled"), *self.run_of(1, 4))
        receiver.send(*pubacks(1, 4))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.waits.callback(None)
        self.assertEqual(self.publisher.received(), pubacks(2, 4))

    def test_what_is_retained_waits_for_its_own_commit(self) -> None:
        receiver = self.receiver()
        self.store.hold()
        retained = Publish("t", b"2-", 1, True, packet_id=2)
        self.publisher.send(*self.run_of(1), retained, *self.run_of(1, 3))
        receiver.send(*pubacks(1, 3))
        self.assertEqual(self.publisher.received(), [Puback(1)])
        self.store.resume()
        self.assertEqual(self.publisher.received(), pubacks(2, 3))

    def test_qos_2_is_written_first(self) -> None:
        receiver = self.receiver(qos=2)
        self.store.hold()
        self.publisher.send(*self.run_of(2), Publish("t", b"3-", 2, packet_id=3), *self.run_of(1, 4))
        self.assertEqual(self.numbers(receiver), [1, 2])
        receiver.send(*pubacks(1, 2))
        self.assertEqual(self.publisher.received(), pubacks(1, 2))

    def test_those_of_other_topics_join_them(self) -> None:
        receiver = self.receiver(topic="#")
        self.publisher.send(*self.run_of(2), *self.run_of(2, 3, "u"), *self.run_of(2, 5))
        self.assertEqual(self.numbers(receiver), [1, 2, 3, 4, 5, 6])
        receiver.send(*pubacks(1, 5))
        self.assertEqual(self.publisher.received(), [])
        receiver.send(Puback(6))
        self.assertEqual(self.publisher.received(), pubacks(1, 6))
        self.assertEqual(
            (self.broker.traffic.publish_sent[1], self.broker.traffic.publish_bytes_sent[1]), (6, 12)
        )

    def test_what_only_others_than_durable_sessions_get_as_well_is_not_left_out(self) -> None:
        receiver, live = self.receiver(), self.harness.connect("live")
        live.subscribe("t", 1)
        self.publisher.send(*self.run_of(3))
        self.assertEqual((self.numbers(receiver), self.numbers(live)), ([1, 2, 3], [1, 2, 3]))
        receiver.send(*pubacks(1, 3))
        self.assertEqual(self.publisher.received(), pubacks(1, 3))

    def test_one_that_is_large_is_sent_by_itself(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(2), *self.run_of(1, 3, size=SHARED), *self.run_of(1, 4))
        self.assertEqual(self.numbers(receiver), [1, 2, 3, 4])
        receiver.send(*pubacks(1, 4))
        self.assertEqual((self.publisher.received(), self.written), (pubacks(1, 4), []))

    def test_nor_does_one_that_may_not_be_published_join(self) -> None:
        receiver = self.receiver(topic="#")
        self.publisher.send(*self.run_of(2), *self.run_of(2, 3, "$SYS/x"), *self.run_of(1, 5))
        self.assertEqual(self.numbers(receiver), [1, 2, 5])
        receiver.send(*pubacks(1, 3))
        self.assertEqual(self.publisher.received(), pubacks(1, 5))

    def test_who_leaves_while_they_come_gets_the_rest_from_the_store(self) -> None:
        receiver = self.receiver(topic="#")
        self.broker.publish = self.leaving(self.broker.publish, receiver)  # type: ignore[method-assign]
        self.publisher.send(*self.run_of(2), *self.run_of(2, 3, "u"))
        self.assertEqual((self.rows, self.publisher.received()), ([1, 2, 3, 4], pubacks(1, 4)))

    @staticmethod
    def leaving(publish: Any, receiver: FakeClient) -> Any:
        def publishes(message: Publish, client: Any) -> Any:
            if message.packet_id == 3:
                receiver.lose()
            return publish(message, client)

        return publishes


class Refused(RunsCase):
    def test_if_one_cannot_be_written_none_is_acknowledged(self) -> None:
        self.receiver()
        self.publisher.send(*self.run_of(3))
        self.store.hold()
        self.harness.clock.advance(GRACE)
        self.store.refuse()
        self.store.resume()
        self.assertEqual((self.publisher.received(), self.publisher.closed), ([], True))
        self.assertEqual(self.harness.shared.flow.unfinished, 0)

    def test_a_wrong_acknowledgement_leaves_the_right_ones_before_it(self) -> None:
        """Row 357."""
        receiver = self.receiver(qos=2)
        self.publisher.send(*self.run_of(3))
        self.publish(b"4-", 2, 4)
        self.harness.clock.advance(GRACE)
        self.harness.turn()
        receiver.send(*pubacks(1, 4))
        self.assertTrue(receiver.closed)
        self.assertEqual([record.position for record in self.saved(Acknowledged)], [1, 2, 3])

    def test_acknowledgements_of_what_was_not_sent_are_counted(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(30))
        receiver.send(Puback(25), Puback(1), Puback(1))
        self.assertEqual(self.broker.traffic.unknown_acknowledgements, 2)

    def test_pubrec_for_one_of_them_closes_the_receiver(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(3))
        receiver.send(Pubrec(2))
        self.assertTrue(receiver.closed)
        self.assertEqual(self.rows, [1, 2, 3])


class OnTheWay(RunsCase):
    """A receiver that acknowledges as quickly as is needed is waited for a little longer. ADR 0125."""

    limits = {"max_inflight": 100}

    def test_it_is_waited_for(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(100))
        receiver.send(*pubacks(1, 60))
        self.harness.clock.advance(GRACE)
        self.assertEqual((self.written, self.publisher.received()), ([], []))
        receiver.send(*pubacks(61, 100))
        self.assertEqual((self.written, self.publisher.received()), ([], pubacks(1, 100)))

    def test_not_when_it_would_take_too_long(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(100))
        receiver.send(*pubacks(1, 10))
        self.harness.clock.advance(GRACE)
        self.assertEqual((len(self.written), self.publisher.received()), (90, pubacks(1, 100)))

    def test_nor_when_it_has_stopped(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(100))
        receiver.send(*pubacks(1, 90))
        self.harness.clock.advance(GRACE)
        self.assertEqual(self.written, [])
        self.harness.clock.advance(GRACE)
        self.assertEqual(len(self.written), 10)

    def test_nor_longer_than_four_times_the_grace(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(100))
        first = 1
        for count in 40, 25, 20, 5:
            self.assertEqual(self.written, [])
            receiver.send(*pubacks(first, first + count - 1))
            first += count
            self.harness.clock.advance(GRACE)
        self.assertEqual(len(self.written), 10)

    def test_unless_it_is_about_to_have_them(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(100))
        first = 1
        for count in 40, 25, 20, 10, 5:
            receiver.send(*pubacks(first, first + count - 1))
            first += count
            self.harness.clock.advance(GRACE)
        self.assertEqual((self.written, self.publisher.received()), ([], pubacks(1, 100)))

    def test_all_receivers_have_to_be(self) -> None:
        receiver = self.receiver()
        self.receiver("other")
        self.publisher.send(*self.run_of(100))
        receiver.send(*pubacks(1, 60))
        self.harness.clock.advance(GRACE)
        self.assertEqual(len(self.written), 100)

    def test_one_that_was_late_is_quick_again_when_it_answers_within_two_turns(self) -> None:
        """However long these take: they are ours."""
        receiver = self.receiver()
        self.publish()
        self.harness.clock.advance(GRACE)
        self.assertEqual(len(self.written), 1)
        self.publish(packet_id=2)
        self.assertEqual(len(self.written), 2)
        self.harness.clock.rightNow += 1  # a turn of a second
        receiver.send(*pubacks(1, 2))
        self.publish(packet_id=3)
        self.assertEqual(len(self.written), 2)

    def test_behind_others_a_message_that_is_timed_may_take_longer(self) -> None:
        receiver = self.receiver()
        for number in 1, 2:
            self.publish(packet_id=number)
            self.harness.advance(2 * GRACE)
        receiver.send(*pubacks(1, 2))
        self.publish(packet_id=3)
        self.assertEqual(len(self.written), 2)

    def test_alone_it_may_not(self) -> None:
        receiver = self.receiver()
        for number in 1, 2, 3:
            self.publish(packet_id=number)
            self.harness.advance(2 * GRACE)
            receiver.send(Puback(number))
        self.assertEqual(len(self.written), 3)

    def test_one_that_is_proven_may_be_silent_for_two_graces(self) -> None:
        receiver = self.receiver()
        self.publisher.send(*self.run_of(MANY))
        receiver.send(*pubacks(1, MANY))
        self.publish(b"silence-")
        self.harness.clock.advance(GRACE)
        self.assertEqual(self.written, [])
        self.harness.clock.advance(GRACE)
        self.assertEqual(len(self.written), 1)
        receiver.send(Puback(MANY + 1))
        self.publish(b"again-", packet_id=2)
        self.assertEqual(len(self.written), 2)


class HeldUp(RunsCase):
    """A receiver that has all that may be in flight within each grace is held up by that alone. ADR 0158."""

    limits = {"max_inflight": 20, "max_unfinished": 1000}

    def setUp(self) -> None:
        super().setUp()
        self.client = self.receiver()
        self.taken = 0

    def take_window(self) -> None:
        """Acknowledge what is in flight, and let a grace pass."""
        self.client.send(*pubacks(self.taken + 1, self.taken + 20))
        self.taken += 20
        self.harness.clock.advance(GRACE)

    def test_it_is_waited_for_as_long_as_it_goes_on(self) -> None:
        self.publisher.send(*self.run_of(100), *self.run_of(100, 101))
        for _ in range(10):
            self.assertEqual(self.written, [])
            self.take_window()
        self.assertEqual((self.written, self.numbers(self.client)), ([], [*range(1, 201)]))
        self.assertEqual(self.publisher.received(), pubacks(1, 200))

    def test_when_it_stops_the_rest_is_written(self) -> None:
        self.publisher.send(*self.run_of(100))
        self.take_window()
        self.take_window()
        self.assertEqual(self.written, [])
        self.harness.clock.advance(GRACE)
        self.assertEqual((len(self.rows), self.publisher.received()), (60, pubacks(1, 100)))

    def test_no_longer_than_twenty_graces(self) -> None:
        self.publisher.send(*self.run_of(500))
        self.harness.clock.pump([0] * 5)
        for _ in range(LONGEST - 1):
            self.assertEqual(self.written, [])
            self.take_window()
        self.assertEqual(len(self.written), 120)

    def test_what_is_written_for_it_is_sent_out_of_memory(self) -> None:
        self.harness.clock.advance(SAMPLE)
        for _ in range(6):
            self.publisher.send(*self.run_of(20))
            self.take_window()
        self.late(MOST + 50)
        self.assertEqual(self.session().queued, MOST + 31)
        self.store.page = None  # type: ignore[assignment,method-assign]  # nothing is read
        taken = [int(each.payload.partition(b"-")[0]) for each in take(self.client)]
        self.assertEqual(taken[-1], MOST + 50)

    def late(self, count: int) -> None:
        """Publish so many messages that are written at once, as the first one was late."""
        self.publish(b"0-")
        self.harness.advance(2 * GRACE)
        self.publisher.send(*self.run_of(count))
        self.harness.turn()
