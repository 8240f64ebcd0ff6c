"""A Will that waits for its client outlives the daemon. Row 516. [MQTT5-3.1.3-9]"""

from typing import Any

from twisted.internet.defer import succeed

from platziverse.broker.records import WillGone, WillLeft
from platziverse.mqtt.packets import Disconnect, Properties, Publish, PublishProperties
from platziverse.mqtt.properties import encode_properties
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.broker.durability import SavingCase, payloads

KEPT = Properties(session_expiry_interval=100)


class WaitingCase(SavingCase):
    harness: BrokerHarness

    def setUp(self) -> None:
        self.store = MemorySessionStore()
        self.now = 1_000.0
        self.start()

    def start(self, later: float = 0.0) -> None:
        """Begin, or begin again after a ``kill -9``, with what is committed, so many seconds later."""
        if later:
            self.now = self.harness.now() + later
        self.harness = BrokerHarness(sessions=self.store, wall_clock=self.now)
        self.harness.turn()
        self.watcher = self.harness.connect("watcher")
        self.watcher.subscribe("w")

    def connect(self, kept: Properties = KEPT, **more: Any) -> FakeClient:
        will = Publish("w", b"x", properties=PublishProperties(message_expiry_interval=5))
        fields: dict[str, Any] = {"will": will, "will_delay": 10, "clean_session": False, **more}
        return self.harness.connect("five", protocol_level=5, properties=kept, **fields)

    def came(self) -> int:
        return len(payloads(self.watcher.received()))

    def came_after(self, *seconds: float) -> list[int]:
        """How many Wills have come after each of these seconds."""
        counts = []
        for each in seconds:
            self.harness.advance(each)
            counts.append(self.came())
        return counts


class Restarts(WaitingCase):
    def test_it_is_published_when_its_remainder_is_over(self) -> None:
        self.connect().lose()
        self.harness.advance(4)
        self.start(later=3)
        self.assertEqual(self.came_after(2, 2, 20), [0, 1, 0])
        self.assertEqual(self.successResultOf(self.store.wills()), [])

    def test_at_once_if_that_was_over_meanwhile(self) -> None:
        self.connect().lose()
        self.harness.advance(4)
        self.start(later=7)
        self.assertEqual(self.successResultOf(self.store.wills()), [])
        self.assertEqual(len(self.saved(WillGone)), 1)

    def test_the_interval_of_who_was_connected_begins_with_the_start(self) -> None:
        self.connect()
        self.harness.advance(4)
        self.start(later=50)
        self.assertEqual(self.came_after(9, 2, 20), [0, 1, 0])

    def test_not_if_its_client_is_back_in_time(self) -> None:
        self.connect().lose()
        self.harness.advance(1)
        self.start(later=3)
        again = self.connect(will=None)
        self.assertEqual(self.came_after(20), [0])
        self.assertEqual(self.successResultOf(self.store.wills()), [])
        again.send(Disconnect())

    def test_what_its_client_leaves_then_is_another_one(self) -> None:
        self.connect().lose()
        self.harness.advance(1)
        self.start(later=3)
        self.connect(will=Publish("w", b"new"), will_delay=0).lose()
        self.assertEqual(payloads(self.watcher.received()), [b"new"])
        self.assertEqual(self.successResultOf(self.store.wills()), [])

    def test_with_its_session_if_that_ends_first(self) -> None:
        for ends in ("time", "clean"):
            self.connect(Properties(session_expiry_interval=20), will_delay=60).lose()
            self.harness.advance(1)
            self.start(later=3)
            if ends == "time":
                self.assertEqual(self.came_after(15, 2), [0, 1])
            else:
                self.connect(will=None, clean_session=True)
                self.assertEqual(self.came(), 1)
            self.assertEqual(self.came_after(60), [0])

    def test_a_second_restart_changes_nothing(self) -> None:
        self.connect().lose()
        self.harness.advance(1)
        self.start(later=3)
        self.harness.advance(1)
        self.start(later=3)
        self.assertEqual(self.came_after(1, 2, 20), [0, 1, 0])

    def test_its_message_expiry_begins_when_it_is_published(self) -> None:
        self.connect().lose()
        self.start(later=1)
        five = self.harness.connect("other", protocol_level=5)
        five.subscribe("w")
        self.harness.advance(10)
        (message,) = [packet for packet in five.received() if isinstance(packet, Publish)]
        self.assertEqual(message.properties, PublishProperties(message_expiry_interval=5))

    def test_one_that_began_to_wait_while_the_store_was_read_is_saved_with_its_end(self) -> None:
        self.store.hold(reads=True)
        self.store.available = True
        self.start()
        client = self.connect(clean_session=True)
        self.store.commit()
        self.assertEqual(self.harness.broker.connected, 2)
        client.lose()
        self.harness.advance(2)
        self.store.resume()
        self.harness.turn()
        (left,) = self.saved(WillLeft)
        self.assertAlmostEqual(left.due or 0, 1_010, delta=0.1)

    def test_one_without_a_session_is_published(self) -> None:
        properties = encode_properties("WILL", None, will_delay_interval=10)
        self.store.save(WillLeft("nobody", None, 1, "w", b"x", 0, True, properties))
        self.start(later=1)
        self.assertIsNotNone(self.harness.broker.retained.get("w"))


class Heirs(WaitingCase):
    """A dead daemon has left the Session of a client, and its Will."""

    def setUp(self) -> None:
        super().setUp()
        self.connect(will=None).lose()
        self.start(later=1)

    def inherit(self, due: float | None = None, number: int = 5) -> None:
        properties = encode_properties("WILL", None, will_delay_interval=10)
        self.store.leave(WillLeft("five", None, number, "w", b"x", 0, False, properties, due))
        self.successResultOf(self.harness.broker.inherit(succeed([1])))
        self.harness.advance(0.1)

    def test_it_waits_for_its_client(self) -> None:
        for _ in range(2):
            self.inherit(self.harness.now() + 4)
        self.assertEqual(self.came_after(3, 2, 20), [0, 1, 0])
        self.inherit()
        self.assertEqual(self.came_after(9, 2, 20), [0, 1, 0])
        self.assertEqual(self.successResultOf(self.store.wills()), [])

    def test_not_if_its_client_is_here(self) -> None:
        self.connect(will=None)
        self.inherit()
        self.assertEqual(self.came(), 1)

    def test_a_second_one_is_published(self) -> None:
        self.inherit()
        self.inherit(number=6)
        self.assertEqual(self.came(), 1)
        self.assertEqual(self.came_after(11, 20), [1, 0])
