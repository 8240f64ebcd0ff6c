"""While the store is away, clients of MQTT 5 are told no, where older ones are held."""

from collections import Counter
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.packets import Packet, Puback, Publish, PublishProperties, Pubrec
from platziverse.mqtt.reasoncodes import ReasonCode
from platziverse.net.flow import MAY_BE_TOLD, STORE, FlowControl
from platziverse.net.refusing import Refusing
from platziverse.testing import BrokerHarness, FakeClient
from tests.logs import observe_lines
from tests.net.doubles import Store

QUOTA = ReasonCode.QUOTA_EXCEEDED


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.said = observe_lines(self)
        self.start(max_unfinished_total=4)

    def start(self, **limits: Any) -> None:
        self.store = Store()
        self.harness = BrokerHarness({"x": self.store}, Limits(**limits))
        self.shared, self.traffic = self.harness.shared, self.harness.broker.traffic
        self.away = True
        self.shared.refusing.is_away = lambda: self.away
        self.client = self.harness.connect("five", protocol_level=5)

    def publish(self, client: FakeClient, *packet_ids: int, **more: Any) -> list[Packet]:
        for packet_id in packet_ids:
            client.send(Publish("x", b"12345678", more.pop("qos", 1), packet_id=packet_id, **more))
        return client.received()

    def refused(self, packets: list[Packet]) -> list[tuple[int, int]]:
        return [(one.packet_id, one.reason_code) for one in packets if isinstance(one, (Puback, Pubrec))]


class RefusingTests(Case):
    def test_what_is_beyond_the_bound_is_refused_and_what_was_taken_is_acknowledged_when_committed(
        self,
    ) -> None:
        self.assertEqual(self.publish(self.client, *range(1, 7)), [])
        self.harness.advance(1)
        [first, second] = self.client.received()
        self.assertEqual(self.refused([first, second]), [(5, QUOTA), (6, QUOTA)])
        reason = "the database is away, and too much waits for it (max_unfinished_total)"
        assert isinstance(first, Puback)
        assert first.properties is not None
        self.assertEqual(first.properties.reason_string, reason)
        self.assertEqual(self.refused(self.publish(self.client, 7)), [(7, QUOTA)])
        self.assertEqual(len(self.store.messages), 4)
        self.assertEqual(self.traffic.store_refusals, {"max_unfinished_total": 3})
        self.assertEqual(self.traffic.refusals, {("server", "PUBACK", "quota_exceeded"): 3})
        self.assertEqual(self.traffic.publish_received[1], 7)
        self.assertTrue(any(reason in line and "'five'" in line for line in self.said))
        self.away = False
        self.store.commit()
        self.assertEqual(self.refused(self.client.received()), [(1, 0), (2, 0), (3, 0), (4, 0)])
        self.publish(self.client, 8)
        self.assertEqual([message.packet_id for message in self.store.messages], [1, 2, 3, 4, 8])

    def test_nobody_is_refused_while_the_store_is_there_and_slow(self) -> None:
        self.away = False
        self.publish(self.client, *range(1, 7))
        self.harness.advance(10)
        self.assertEqual((self.client.received(), self.client.held), ([], True))
        self.away = True
        self.harness.advance(1)
        self.assertEqual(self.refused(self.client.received()), [(5, QUOTA), (6, QUOTA)])

    def test_an_older_client_is_held_as_ever(self) -> None:
        older = self.harness.connect("older")
        self.publish(older, *range(1, 7))
        self.harness.advance(10)
        self.assertEqual((older.received(), older.held), ([], True))
        self.store.commit()
        self.store.commit()
        self.assertEqual(len(older.received()), 6)

    def test_one_who_has_nothing_that_waits_hands_on_one_message_and_is_told_then(self) -> None:
        self.publish(self.harness.connect("other"), *range(1, 5))
        self.publish(self.client, 1, 2)
        self.harness.advance(1)
        self.assertEqual(self.refused(self.client.received()), [(2, QUOTA)])
        self.assertEqual(len(self.store.messages), 5)

    def test_when_the_store_is_back_and_busy_reading_is_held_again(self) -> None:
        self.publish(self.client, *range(1, 6))
        self.harness.advance(1)
        self.assertEqual(self.refused(self.client.received()), [(5, QUOTA)])
        self.away = False
        self.assertEqual((self.publish(self.client, 6), self.client.held), ([], True))
        self.store.commit()
        self.assertFalse(self.client.held)
        self.assertEqual([message.packet_id for message in self.store.messages], [1, 2, 3, 4, 6])

    def test_a_message_without_an_answer_holds_reading(self) -> None:
        """Row 530: at QoS 0 nobody can be told, and a later message may not overtake it."""
        self.publish(self.client, *range(1, 6))
        self.harness.advance(1)
        self.client.received()
        self.client.publish("x", b"nothing can be said")
        self.assertEqual(self.publish(self.client, 6), [])
        self.assertTrue(self.client.held)
        self.harness.advance(10)
        self.assertEqual((self.client.received(), self.client.held), ([], True))
        self.store.commit()
        topics = [(message.qos, message.packet_id) for message in self.store.messages]
        self.assertEqual(topics[4:], [(0, None), (1, 6)])

    def test_what_comes_again_may_have_been_handed_on_and_is_not_refused(self) -> None:
        """Row 530: an earlier connection has sent it, and it may be committed yet."""
        self.publish(self.client, *range(1, 6))
        self.harness.advance(1)
        self.client.received()
        self.assertEqual((self.publish(self.client, 6, dup=True), self.client.held), ([], True))

    def test_at_qos_2_pubrec_says_so_and_the_packet_identifier_is_free(self) -> None:
        for packet_id in range(1, 6):
            self.publish(self.client, packet_id, qos=2)
        self.harness.advance(1)
        self.assertEqual(self.client.received()[0].__class__, Pubrec)
        self.assertEqual(self.refused(self.publish(self.client, 6, qos=2)), [(6, QUOTA)])
        [session] = self.harness.broker.sessions
        self.assertEqual(session.identifiers, (1, 2, 3, 4))
        self.assertEqual((self.publish(self.client, 1, qos=2), self.client.held), ([], True))
        self.assertEqual(len(self.store.messages), 4)

    def test_a_refused_message_gives_its_name_to_its_topic_alias(self) -> None:
        self.publish(self.client, *range(1, 5))
        alias = PublishProperties(topic_alias=1)
        self.client.send(Publish("x", b"1", 1, packet_id=5, properties=alias))
        self.client.send(Publish("", b"2", 1, packet_id=6, properties=alias))
        self.harness.advance(1)
        self.assertEqual(self.refused(self.client.received()), [(5, QUOTA), (6, QUOTA)])
        self.store.commit()
        self.client.send(Publish("", b"3", 1, packet_id=7, properties=alias))
        self.assertEqual(self.store.messages[-1].topic, "x")

    def test_each_setting_is_named(self) -> None:
        self.start(max_unfinished_bytes=32)
        self.publish(self.client, *range(1, 6))
        self.harness.advance(1)
        self.assertEqual(self.traffic.store_refusals, {"max_unfinished_bytes": 1})
        self.start(max_unfinished=4)
        for _ in range(4):
            self.client.publish("x", b"1")
        self.publish(self.client, 1)
        self.harness.advance(1)
        self.assertEqual(self.refused(self.client.received()), [(1, QUOTA)])
        self.assertEqual(self.traffic.store_refusals, {"max_unfinished": 1})


class TurnClock(Clock):
    """A clock that counts the turns of the reactor: each call that was for later is one."""

    turn = 0

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
        def run() -> None:
            self.turn += 1
            callable(*args, **kw)

        return super().callLater(delay, run)


class Waiting:
    """A connection that takes half of a turn to be read from again."""

    unfinished = waiting = 0
    holds, telling = STORE, MAY_BE_TOLD

    def __init__(self, clock: TurnClock) -> None:
        self.clock, self.turn = clock, 0

    def hold_reading(self, why: int) -> None:
        self.holds |= why

    def resume_reading(self, why: int) -> None:
        self.holds &= ~why
        self.turn = self.clock.turn
        self.clock.rightNow += 0.006


class TurnTests(SynchronousTestCase):
    def test_many_are_read_from_again_in_turns_of_the_reactor(self) -> None:
        clock = TurnClock()
        flow = FlowControl(Limits(max_unfinished=1))
        sources = [Waiting(clock) for _ in range(7)]
        for source in sources:
            flow.started(source, 1)
        refusing = Refusing(flow, clock)
        refusing.is_away = lambda: True
        refusing.start()
        clock.advance(1)
        in_each = Counter(source.turn for source in sources)
        self.assertNotIn(0, in_each)
        self.assertEqual(sorted(in_each.values()), [1, 3, 3])
        refusing.stop()
        clock.advance(0)
        self.assertEqual(clock.getDelayedCalls(), [])
