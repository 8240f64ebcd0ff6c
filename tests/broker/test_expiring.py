"""Retained Messages that are over leave the memory, and the store. Row 512. [MQTT5-3.3.2-5]"""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import SERVER
from platziverse.broker.records import Cleared, Kept
from platziverse.broker.retained import LOOKED_AT, MANY, RetainedMessages
from platziverse.mqtt.packets import Publish, PublishProperties
from platziverse.mqtt.properties import store_properties
from platziverse.testing import BrokerHarness, MemorySessionStore
from tests.broker.durability import SavingCase


def kept(topic: str, end: float | None) -> Publish:
    found = None if end is None else PublishProperties(expires=end)
    return Publish(topic, b"x", 0, True, properties=found)


class Memory(SynchronousTestCase):
    def setUp(self) -> None:
        self.retained = RetainedMessages(100_000, 1 << 30)

    def keep(self, *ends: float | None) -> None:
        for number, end in enumerate(ends):
            self.retained.set(kept(str(number), end), SERVER)

    def expire(self, now: float) -> list[str]:
        return [message.topic for message in self.retained.expire(now)]

    def test_those_that_are_over_go_and_all_others_stay(self) -> None:
        self.keep(5, None, 3, 4)
        self.assertEqual(self.expire(2.9), [])
        self.assertEqual(self.expire(4), ["2", "3"])
        self.assertEqual(sorted(self.retained.topics), ["0", "1"])
        self.assertEqual(self.expire(4), [])
        self.assertEqual(self.expire(9), ["0"])
        self.assertEqual((self.retained.bytes, self.expire(99)), (2, []))

    def test_one_that_is_replaced_or_cleared_has_the_end_of_the_last(self) -> None:
        self.keep(5, 5, 5, 5)
        for topic, end in (("0", 9), ("1", None), ("2", 4)):
            self.retained.set(kept(topic, end), SERVER)
        self.retained.set(Publish("3", b"", 0, True), SERVER)
        self.assertEqual(self.expire(4), ["2"])
        self.assertEqual(self.expire(8), [])
        self.assertEqual(self.expire(9), ["0"])

    def test_no_more_is_done_at_once_than_a_turn_has_time_for(self) -> None:
        self.keep(*[100.0] * LOOKED_AT, *[1.0] * (MANY + 5))
        counts = [len(self.expire(1)) for _ in range(3)]
        self.assertEqual(counts, [0, MANY, 5])
        self.assertEqual(len(self.retained), LOOKED_AT)


class Stored(SavingCase):
    def setUp(self) -> None:
        self.store = MemorySessionStore()
        self.start()

    def start(self, wall_clock: float = 1_000.0) -> None:
        self.harness = BrokerHarness(sessions=self.store, wall_clock=wall_clock)
        self.harness.turn()
        self.broker = self.harness.broker
        self.client = self.harness.connect("five", protocol_level=5)

    def keep(self, topic: str, seconds: int | None, payload: bytes = b"x") -> None:
        fields: dict[str, Any] = {}
        if seconds is not None:
            fields["properties"] = PublishProperties(message_expiry_interval=seconds)
        self.client.send(Publish(topic, payload, 0, True, **fields))

    def rows(self) -> list[str]:
        return [row.topic for row in self.successResultOf(self.store.retained("", 10))]

    def test_their_rows_go_and_they_are_counted(self) -> None:
        self.keep("a", 5)
        self.keep("b", 50)
        self.keep("c", None)
        self.harness.advance(6)
        self.broker.expire()
        self.assertEqual((self.rows(), len(self.broker.retained)), (["b", "c"], 2))
        self.assertEqual(self.broker.traffic.retained_expired, 1)
        self.assertEqual(len(self.saved(Cleared)), 1)

    def test_also_of_those_that_were_over_at_the_start(self) -> None:
        self.keep("a", 5)
        self.start(2_000.0)
        self.broker.expire()
        self.assertEqual((self.rows(), len(self.broker.retained)), ([], 0))

    def test_a_row_that_is_another_one_s_by_now_stays(self) -> None:
        self.keep("a", 5)
        end = store_properties(PublishProperties(message_expiry_interval=9, expires=9_000))
        newer = Kept("a", b"newer", 0, "other", None, properties=end)
        self.store.save(newer)
        self.harness.advance(6)
        self.broker.expire()
        self.assertEqual(self.successResultOf(self.store.retained("", 10)), [newer])

    def test_very_many_go_in_several_turns(self) -> None:
        for number in range(MANY + 5):
            self.broker.retained.take(kept(str(number), 1.0), SERVER)
        self.broker.expire()
        self.assertEqual(len(self.broker.retained), 5)
        self.harness.turn()
        self.assertEqual(len(self.broker.retained), 0)


class InMemory(SynchronousTestCase):
    def test_without_a_store_there_is_nothing_to_save(self) -> None:
        harness = BrokerHarness(wall_clock=1_000.0)
        harness.broker.retained.take(kept("a", 1.0), SERVER)
        harness.broker.expire()
        self.assertEqual((len(harness.broker.retained), harness.broker.traffic.retained_expired), (0, 1))
