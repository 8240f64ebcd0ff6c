"""A burst is waited for; a receiver that is too slow for long holds nobody."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.complaints import WINDOW
from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Packet, Puback, Publish
from platziverse.testing import BrokerHarness, FakeClient
from tests.logs import observe_lines

#: A receiver with a full queue has this many messages, ten in flight not counted.
FULL = 100


class Receiver:
    """A client that acknowledges what it is sent when it is told to, and remembers it."""

    def __init__(self, client: FakeClient, qos: int, topic_filter: str = "#") -> None:
        self.client = client
        self.payloads: list[bytes] = []
        self.unacknowledged: list[Publish] = []
        client.subscribe(topic_filter, qos)

    def take(self, most: int = 1_000_000) -> None:
        """Acknowledge at most so many messages, of those that have come and those that come then."""
        while most > 0:
            self.unacknowledged += [one for one in self.client.received() if isinstance(one, Publish)]
            messages, self.unacknowledged = self.unacknowledged[:most], self.unacknowledged[most:]
            if not messages:
                break
            self.payloads += [message.payload for message in messages]
            most -= len(messages)
            self.client.send(*[Puback(m.packet_id) for m in messages if m.packet_id is not None])


class BackpressureCase(SynchronousTestCase):
    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.harness = BrokerHarness(
            limits=Limits(**({"max_queued_messages": FULL, "max_inflight": 10} | self.limits))
        )
        self.traffic = self.harness.broker.traffic
        self.slow = Receiver(self.harness.connect("slow"), 1)
        self.publisher = self.harness.connect("publisher")
        self.sent = 0

    def publish(self, count: int, client: FakeClient | None = None, qos: int = 1) -> None:
        client = client or self.publisher
        messages: list[Packet] = []
        for _ in range(count):
            self.sent += 1
            number = (self.sent - 1) % 60_000 + 1
            messages.append(Publish("t", str(self.sent).encode(), qos, packet_id=number if qos else None))
        client.send(*messages)
        for _ in range(count // 100 + 1):
            self.harness.turn()

    def expected(self) -> list[bytes]:
        return [str(number).encode() for number in range(1, self.sent + 1)]


class Bursts(BackpressureCase):
    """Row 129: an ordinary burst ended a healthy subscriber."""

    def test_a_receiver_that_takes_what_it_is_sent_loses_nothing(self) -> None:
        self.publish(5000)
        self.assertTrue(self.publisher.held)
        while self.publisher.held or len(self.slow.payloads) < self.sent:
            self.slow.take(FULL)
            self.harness.advance(0.25)
        self.assertEqual(self.slow.payloads, self.expected())
        self.assertEqual((self.slow.client.closed, self.traffic.publish_dropped), (False, 0))
        self.assertEqual(self.traffic.receivers_too_slow, 0)
        self.assertGreater(self.traffic.receiver_holds, 10)

    def test_a_window_that_is_kept_full_is_mentioned_once_in_a_while(self) -> None:
        lines = observe_lines(self)
        for times in (1, 2):
            begun = self.traffic.queues_begun
            for _ in range(5):
                self.publish(12)
                self.slow.take()
            self.assertEqual(self.traffic.queues_begun - begun, 5)
            self.assertEqual(sum("'slow' wait" in line for line in lines), times)
            self.assertFalse([line for line in lines if "more like this" in line])
            self.harness.advance(WINDOW)

    def test_whoever_publishes_is_held_until_half_is_gone(self) -> None:
        self.publish(FULL + 10)
        self.assertFalse(self.publisher.held)
        self.publish(1)
        self.assertTrue(self.publisher.held)
        self.slow.take(FULL // 2 - 20)
        self.harness.turn()
        self.assertTrue(self.publisher.held)
        self.slow.take(40)
        self.harness.turn()
        self.assertFalse(self.publisher.held)

    def test_nobody_else_is_held(self) -> None:
        other, elsewhere = self.harness.connect("other"), self.harness.connect("elsewhere")
        elsewhere.subscribe("$elsewhere/#", 1)
        self.publish(FULL + 20)
        self.assertEqual((self.publisher.held, other.held, elsewhere.held), (True, False, False))
        self.publish(1, other)
        self.assertTrue(other.held)

    def test_one_message_of_each_publisher_goes_beyond(self) -> None:
        """So that a fleet does not fill the memory before it is held."""
        self.publish(FULL + 10)
        fleet = [self.harness.connect(f"agent-{number}") for number in range(50)]
        for client in fleet:
            self.publish(100, client)
        self.assertTrue(all(client.held for client in fleet))
        [session] = [one for one in self.harness.broker.sessions if one.client_id == "slow"]
        self.assertEqual(session.queued, FULL + 50)

    def test_qos_0_as_well(self) -> None:
        watcher = Receiver(self.harness.connect("watcher"), 0)
        self.slow.client.lose()
        watcher.client.stop_reading()
        self.publish(FULL + 20, qos=0)
        self.assertTrue(self.publisher.held)
        for _ in range(4):
            watcher.client.read_again()
            self.harness.turn()
            watcher.client.stop_reading()
        watcher.client.read_again()
        watcher.take()
        self.assertEqual(watcher.payloads, self.expected())
        self.assertEqual(self.traffic.publish_dropped, 0)

    def test_what_was_held_is_not_taken_for_silence(self) -> None:
        """The Keep Alive of whoever is not read rests, and no publisher is closed."""
        impatient = self.harness.connect("impatient", keep_alive=1)
        self.publish(FULL + 10)
        self.publish(1, impatient)
        self.assertTrue(impatient.held)
        self.harness.advance(4.5)
        self.assertEqual((impatient.held, impatient.closed), (True, False))


class Suspended(BackpressureCase):
    """Row 283: the process is suspended, a laptop's for example, while a receiver has a full queue."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(FULL + 11)
        self.assertTrue(self.publisher.held)
        self.harness.advance(2)

    def check_patience(self) -> None:
        """The receiver has five seconds to take something, as before."""
        self.harness.advance(4.5)
        self.assertEqual((self.publisher.held, self.traffic.receivers_too_slow), (True, 0))
        self.harness.advance(1)
        self.assertEqual((self.publisher.held, self.traffic.receivers_too_slow), (False, 1))

    def test_a_receiver_is_not_to_blame_for_it(self) -> None:
        self.harness.clock.advance(3600)
        self.check_patience()

    def test_nor_if_another_publisher_comes_first_afterwards(self) -> None:
        other = self.harness.connect("other")
        self.harness.clock.rightNow += 3600
        other.publish("t", b"", 1, 1)
        self.assertTrue(other.held)
        self.check_patience()


class Patience(BackpressureCase):
    """Row 130: one slow dashboard never slows a fleet for long."""

    def test_whoever_takes_nothing_for_five_seconds_holds_nobody(self) -> None:
        self.publish(FULL + 50)
        self.harness.advance(4.5)
        self.assertTrue(self.publisher.held)
        self.harness.advance(1)
        self.assertFalse(self.publisher.held)
        self.assertEqual((self.traffic.receivers_too_slow, self.slow.client.closed), (1, False))
        self.publish(1000)
        self.assertFalse(self.publisher.held)
        self.assertGreater(self.traffic.publish_dropped, 900)

    def test_whoever_takes_too_little_holds_for_ten_seconds_of_any_sixty(self) -> None:
        self.publish(5000)
        began = self.harness.clock.seconds()
        while not self.traffic.receivers_too_slow:
            self.slow.take(1)
            self.harness.advance(0.25)
        self.assertAlmostEqual(self.harness.clock.seconds() - began, 10, delta=0.6)
        for _ in range(200):
            self.slow.take(1)
            self.harness.advance(0.25)
            self.publish(10)
        self.assertEqual((self.publisher.held, self.slow.client.closed), (False, False))
        self.assertEqual((self.traffic.receivers_too_slow, self.traffic.receiver_holds), (1, 1))

    def test_times_of_more_than_a_minute_ago_count_no_more(self) -> None:
        self.publish(21)
        for _ in range(3):
            self.publish(FULL - 10)
            self.harness.advance(4)
            self.assertTrue(self.publisher.held)
            self.slow.take(FULL - 10)  # it is not behind any more, but neither has it caught up
            self.harness.turn()
            self.assertFalse(self.publisher.held)
            for _ in range(30):
                self.harness.advance(2)
                self.publish(1)
                self.slow.take(1)
        self.assertEqual((self.traffic.receivers_too_slow, self.traffic.receiver_holds), (0, 3))

    def test_whoever_has_taken_nothing_when_a_publisher_comes_holds_nobody(self) -> None:
        self.publish(FULL + 9)
        for number in range(2):  # a Will: nobody is there who could be held
            self.harness.connect(f"gone-{number}", will=Publish("t", b"", 1)).lose()
        self.harness.advance(6)
        self.assertEqual(self.traffic.receivers_too_slow, 0)
        self.publish(1)
        self.assertEqual((self.publisher.held, self.traffic.receivers_too_slow), (False, 1))

    def test_what_a_connection_has_no_room_for_counts_as_well(self) -> None:
        self.slow.client.subscribe("zero", 0)
        self.publish(FULL + 11)
        self.slow.client.stop_reading()
        self.slow.client.send(*[Puback(number) for number in range(1, 11)])
        [session] = [one for one in self.harness.broker.sessions if one.client_id == "slow"]
        self.assertTrue(self.publisher.held)
        self.assertEqual(session.queued, FULL + 1)

    def test_it_recovers_when_it_has_caught_up(self) -> None:
        self.publish(FULL + 50)
        self.harness.advance(6)
        self.publish(100)
        dropped = self.traffic.publish_dropped
        self.slow.take()
        self.harness.advance(60)
        before = len(self.slow.payloads)
        self.assertEqual(before, self.sent - dropped)
        self.publish(FULL + 50)
        self.assertTrue(self.publisher.held)
        while self.publisher.held:
            self.slow.take()
            self.harness.turn()
        self.slow.take()
        self.assertEqual(len(self.slow.payloads), before + FULL + 50)
        self.assertEqual(self.traffic.publish_dropped, dropped)

    def test_it_is_said_once_with_the_name_and_the_settings(self) -> None:
        events: list[Any] = []
        self.patch(
            self.harness.broker.complaints, "warn", lambda *args, **fields: events.append((args, fields))
        )
        self.publish(FULL + 50)
        self.harness.advance(6)
        self.publish(500)
        [((cause, text), fields)] = events
        self.assertEqual((cause, fields["client_id"]), ("too slow", "slow"))
        for setting in ("max_queued_messages", "max_queued_bytes", "receiver_patience"):
            self.assertIn(setting, text)
        [session] = [one for one in self.harness.broker.sessions if one.client_id == "slow"]
        self.assertEqual(session.dropped, self.traffic.publish_dropped)

    def test_its_write_deadline_closes_it_as_ever(self) -> None:
        self.slow.client.stop_reading()
        self.publish(FULL + 50)
        self.harness.advance(61)
        self.assertEqual((self.slow.client.closed, self.publisher.held), (True, False))

    def test_when_it_leaves_everybody_goes_on(self) -> None:
        for leave in (lambda client: client.lose(), lambda client: self.harness.connect("slow")):
            self.setUp()
            self.publish(FULL + 50)
            self.assertTrue(self.publisher.held)
            leave(self.slow.client)
            self.harness.turn()
            self.assertFalse(self.publisher.held)
            self.harness.advance(20)
            self.assertEqual(self.traffic.receivers_too_slow, 0)

    def test_a_publisher_that_leaves_meanwhile_harms_nobody(self) -> None:
        self.publish(FULL + 50)
        self.publisher.lose()
        self.slow.take()
        self.harness.advance(6)
        self.assertFalse(self.slow.client.closed)
        self.assertEqual(self.traffic.internal_errors, 0)


class Circles(BackpressureCase):
    """Row 131: who waits for itself would wait for ever."""

    def test_a_client_that_gets_its_own_messages_is_not_held(self) -> None:
        own = Receiver(self.harness.connect("own"), 1)
        self.slow.client.lose()
        self.publish(FULL + 50, own.client)
        self.assertFalse(own.client.held)
        own.take()
        self.assertEqual(own.payloads, self.expected())

    def test_two_that_feed_each_other_go_on(self) -> None:
        self.slow.client.lose()
        one, two = (
            Receiver(self.harness.connect("one"), 1, "a"),
            Receiver(self.harness.connect("two"), 1, "b"),
        )
        for topic, client in (("b", one.client), ("a", two.client)):
            client.send(*[Publish(topic, b"x", 1, packet_id=number) for number in range(1, FULL + 51)])
        for _ in range(20):
            self.harness.turn()
            one.take()
            two.take()
        self.assertEqual((one.client.held, two.client.held), (False, False))
        self.assertEqual((len(one.payloads), len(two.payloads)), (FULL + 50, FULL + 50))
        self.assertEqual(self.traffic.publish_dropped, 0)

    def test_wills_and_the_servers_own_go_beyond_the_limit_as_far_again(self) -> None:
        self.publish(FULL + 10)
        for _ in range(3 * FULL):
            self.harness.broker.announce("t", b"x")
        self.assertEqual(self.traffic.publish_dropped, 0)  # at QoS 0 the client reads
        self.slow.client.stop_reading()
        for _ in range(3 * FULL):
            self.harness.broker.announce("t", b"x")
        self.assertGreater(self.traffic.publish_dropped, 0)


class Absent(BackpressureCase):
    """Row 132: whoever is away loses the newest, or the oldest, and it is said."""

    def left_for(self, drop: str) -> list[bytes]:
        self.limits = {"queue_drop": drop}
        self.setUp()
        client = self.harness.connect("away", clean_session=False)
        client.subscribe("t", 1)
        client.lose()
        self.slow.client.lose()
        self.publish(FULL + 30)
        self.assertFalse(self.publisher.held)
        self.assertEqual(self.traffic.publish_dropped, 30)
        again = self.harness.connect("away", clean_session=False)
        [session] = [one for one in self.harness.broker.sessions if one.client_id == "away"]
        self.assertEqual(session.dropped, 30)
        payloads = [packet.payload for packet in again.connack if isinstance(packet, Publish)]
        while packets := [packet for packet in again.received() if isinstance(packet, Publish)]:
            payloads += [packet.payload for packet in packets]
        return payloads

    def test_it_is_said_once_for_each_client_and_absence(self) -> None:
        """Row 132: so that none is hidden behind another who misses many."""
        lines = observe_lines(self)
        clients = [f"away-{number}" for number in range(3)]
        self.slow.client.lose()
        for absence in 1, 2:
            for name in clients:
                client = self.harness.connect(name, clean_session=False)
                client.subscribe("t", 1)
                client.lose()
            self.publish(FULL + 30)
            self.harness.advance(WINDOW)
            said = [line for line in lines if "who is absent" in line]
            self.assertEqual(len(said), absence * len(clients))
        for name, line in zip(clients, said, strict=False):
            self.assertIn(f"{name!r}, who is absent, is full (max_queued_messages, max_queued_bytes", line)
            self.assertIn("newest of its messages are dropped (queue_drop)", line)

    def test_the_newest_by_default(self) -> None:
        self.assertEqual(Limits().queue_drop, "newest")
        self.assertEqual(self.left_for("newest")[0], b"1")

    def test_the_oldest_by_a_setting(self) -> None:
        self.assertEqual(self.left_for("oldest")[0], b"31")
