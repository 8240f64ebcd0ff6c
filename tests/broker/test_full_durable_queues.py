"""Full queues of durable Sessions: publishers are held, or messages dropped, counted and said."""

from typing import Any

from platziverse.broker.records import Trimmed
from platziverse.mqtt.packets import Publish
from tests.broker.durability import DurableCase, take
from tests.logs import observe_lines


class Connected(DurableCase):
    limits: dict[str, Any] = {"max_queued_messages": 100, "max_inflight": 10}

    def test_whoever_publishes_more_is_held_until_half_is_gone(self) -> None:
        receiver = self.receiver()
        self.flood(110)
        self.assertFalse(self.publisher.held)
        self.flood(1)
        self.assertTrue(self.publisher.held)
        self.assertEqual(len(take(receiver)), 111)
        self.harness.turn()
        self.assertFalse(self.publisher.held)
        self.assertEqual((self.session().dropped, self.acknowledged()), (0, 111))

    def test_when_its_patience_is_over_what_comes_is_dropped_and_acknowledged(self) -> None:
        receiver = self.receiver()
        self.flood(111)
        self.harness.advance(11)
        self.assertFalse(self.publisher.held)
        self.flood(20)
        session, traffic = self.session(), self.broker.traffic
        self.assertEqual((session.dropped, traffic.publish_dropped), (20, 20))
        self.assertEqual(self.acknowledged(), 131)
        self.assertEqual(len(take(receiver)), 111)

    def test_wills_and_the_like_go_as_far_again(self) -> None:
        self.receiver()
        for number in range(250):
            dying = self.harness.connect(f"dying-{number}", will=Publish("t", b"will", 1))
            dying.lose()
        self.assertEqual((self.session().queued, self.session().dropped), (200, 40))


class Absent(DurableCase):
    limits: dict[str, Any] = {"max_queued_messages": 10}

    def setUp(self) -> None:
        super().setUp()
        self.lines = observe_lines(self)
        self.receiver().lose()

    def came(self) -> list[int]:
        return [int(message.payload) for message in take(self.connect())]

    def test_the_newest_are_dropped_acknowledged_counted_and_said(self) -> None:
        self.flood(15)
        self.assertEqual((self.acknowledged(), self.session().dropped, self.left()), (15, 5, 10))
        self.assertTrue(
            any("max_queued_messages" in line and "max_stored_bytes" in line for line in self.lines)
        )
        self.assertEqual(self.came(), list(range(1, 11)))

    def test_they_are_counted_after_a_restart_as_well(self) -> None:
        self.flood(8)
        self.start()
        self.flood(5)
        self.assertEqual((self.session().queued, self.session().dropped), (10, 3))


class Oldest(Absent):
    limits = {"max_queued_messages": 10, "queue_drop": "oldest"}

    def test_the_newest_are_dropped_acknowledged_counted_and_said(self) -> None:
        """Here it is the oldest ones."""
        self.flood(15)
        self.assertEqual((self.acknowledged(), self.session().dropped, self.left()), (15, 5, 10))
        self.assertEqual(len(self.saved(Trimmed)), 5)
        self.assertEqual(self.came(), list(range(6, 16)))
        self.assertEqual((self.session().queued, self.session().queued_bytes), (0, 0))


class Bytes(DurableCase):
    limits: dict[str, Any] = {"max_stored_bytes": 10_000}

    def setUp(self) -> None:
        super().setUp()
        self.receiver().lose()

    def test_bytes_count_too(self) -> None:
        self.flood(15, size=997)
        self.assertEqual((self.session().queued, self.session().queued_bytes), (10, 10_000))
        self.assertEqual(self.session().dropped, 5)


class OldestBytes(Bytes):
    limits = {"max_stored_bytes": 10_000, "queue_drop": "oldest"}

    def test_several_small_ones_go_for_a_large_one(self) -> None:
        self.flood(100, size=97)
        self.flood(1, size=1997)
        self.assertEqual((self.session().dropped, self.left()), (20, 81))
        self.assertEqual(self.session().queued_bytes, 10_000)

    def test_one_that_is_too_large_itself_goes(self) -> None:
        self.flood(1)
        self.publish(b"x" * 10_001, packet_id=2)
        self.assertEqual((self.session().queued, self.session().dropped), (1, 1))
