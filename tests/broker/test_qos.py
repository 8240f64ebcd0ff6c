"""Acknowledgements at QoS 0, 1 and 2: when they leave, in which order, and what a wrong one brings."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Answer, Client
from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import (
    Connack,
    ConnectReturnCode,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from platziverse.testing import BrokerHarness
from tests.net.doubles import Store


class QoS(SynchronousTestCase):
    def test_puback_waits_for_the_commit(self) -> None:
        store = Store()
        client = BrokerHarness({"agent/message": store}).connect()
        client.publish("agent/message", b"1", 1, 7)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Puback(7)])

    def test_pubrec_waits_for_the_commit(self) -> None:
        """[MQTT-4.3.3-2]"""
        store = Store()
        client = BrokerHarness({"agent/message": store}).connect()
        client.publish("agent/message", b"1", 2, 7)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Pubrec(7)])
        client.send(Pubrel(7))
        self.assertEqual(client.received(), [Pubcomp(7)])

    def test_acknowledgements_leave_in_the_order_of_their_publishes(self) -> None:
        """row 62 [MQTT-4.6.0-2] [MQTT-4.6.0-3]"""
        store = Store()
        client = BrokerHarness({"slow": store}).connect()
        for number, (topic, qos) in enumerate(
            [("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2), ("slow", 0)], 1
        ):
            client.publish(topic, b"", qos, number if qos else None)
        store.commit(1)
        self.assertEqual(client.received(), [])
        store.commit(0)
        self.assertEqual(client.received(), [Puback(1), Puback(2), Pubrec(3), Pubrec(4)])

    def test_acknowledgements_of_one_commit_are_one_write_and_counted_each(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        for packet_id in (1, None, 2, 3):
            client.publish("t", b"", 1 if packet_id else 0, packet_id)
        written: list[bytes] = []
        before = harness.broker.traffic.messages_sent
        self.patch(client.transport, "write", written.append)
        store.commit()
        harness.turn()
        self.assertEqual(written, [b"".join(encode(Puback(number)) for number in (1, 2, 3))])
        self.assertEqual(harness.broker.traffic.messages_sent - before, 3)

    def test_a_failed_handler_closes_the_connection_without_puback(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        store.answers[0].errback(ValueError("no"))
        self.assertEqual(client.received_bytes(), b"")
        self.assertTrue(client.closed)
        self.assertEqual(harness.shared.flow.unfinished, 0)

    def test_a_handler_that_raises_costs_only_its_own_client(self) -> None:
        """row 85 [MQTT-4.8.0-2]"""

        def broken(message: Publish, client: Client) -> Answer:
            raise KeyError("bug")

        harness = BrokerHarness({"t": broken})
        bad, good = harness.connect("bad"), harness.connect("good")
        bad.publish("t", b"", 1, 1)
        self.assertTrue(bad.closed)
        self.assertEqual(harness.broker.traffic.internal_errors, 1)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        good.send(Pingreq())
        self.assertEqual(good.received(), [Pingresp()])

    def test_a_handler_that_raises_when_the_peer_has_gone_leaves_nothing_behind(self) -> None:
        """Row 85."""
        store = Store()

        def handle(message: Publish, client: Client) -> Answer:
            if message.payload == b"bad":
                raise KeyError("bug")
            return store(message, client)

        harness = BrokerHarness({"t": handle}, Limits(max_unfinished=1))
        client = harness.connect("one")
        client.send(Publish("t", b"1"), Publish("t", b"bad"))
        client.lose()
        self.assertEqual((harness.broker.connected, len(harness.broker.sessions)), (0, 0))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_a_handler_that_raises_for_a_will_holds_up_nobody(self) -> None:
        """row 85"""

        def broken(message: Publish, client: Client) -> Answer:
            raise KeyError("bug")

        harness = BrokerHarness({"w": broken, "announced": broken})
        harness.connect("one", will=Publish("w", b"")).lose()
        harness.broker.announce("announced", b"")
        self.assertEqual((harness.broker.connected, len(harness.broker.sessions)), (0, 0))
        self.assertEqual(harness.broker.traffic.internal_errors, 2)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)

    def test_a_repeated_qos_2_publish_is_answered_but_not_routed_again(self) -> None:
        """row 57 [MQTT-4.3.3-2]"""
        store = Store()
        client = BrokerHarness({"t": store}).connect()
        client.publish("t", b"x", 2, 5)
        client.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Pubrec(5), Pubrec(5)])
        client.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(client.received(), [Pubrec(5)])
        self.assertEqual(len(store.messages), 1)
        client.send(Pubrel(5))
        client.publish("t", b"y", 2, 5)
        self.assertEqual(len(store.messages), 2)

    def test_a_repetition_on_a_new_connection_waits_for_the_first_commit(self) -> None:
        store = Store()
        harness = BrokerHarness({"t": store})
        old = harness.connect("one", clean_session=False)
        old.publish("t", b"x", 2, 5)
        old.lose()
        new = harness.connect("one", clean_session=False)
        new.publish("t", b"x", 2, 5, dup=True)
        self.assertEqual(new.received(), [])
        store.commit()
        self.assertEqual(new.received(), [Pubrec(5)])
        self.assertEqual(len(store.messages), 1)

    def test_pubrel_for_an_unknown_id_is_answered(self) -> None:
        """row 58"""
        client = BrokerHarness().connect()
        client.send(Pubrel(99))
        self.assertEqual(client.received(), [Pubcomp(99)])

    def test_publishes_that_are_never_released_expire(self) -> None:
        """row 59"""
        harness = BrokerHarness(limits=Limits(max_awaiting_pubrel=2))
        client = harness.connect()
        client.publish("t", b"", 2, 1)
        client.publish("t", b"", 2, 2)
        harness.advance(301)
        client.publish("t", b"", 2, 3)
        self.assertFalse(client.closed)
        client.publish("t", b"", 2, 4)
        client.publish("t", b"", 2, 5)
        self.assertTrue(client.closed)

    def test_unknown_acknowledgements_are_counted(self) -> None:
        """row 56"""
        harness = BrokerHarness()
        client = harness.connect()
        client.send(Puback(1), Pubcomp(2))
        client.send(Pubrec(3))
        self.assertFalse(client.closed)
        self.assertEqual(client.received(), [Pubrel(3)])
        self.assertEqual(harness.broker.traffic.unknown_acknowledgements, 3)

    def test_an_acknowledgement_of_the_wrong_kind_closes(self) -> None:
        """row 56"""
        for qos, wrong in ((1, Pubrec(1)), (2, Puback(1)), (1, Pubcomp(1)), (2, Pubcomp(1))):
            client = BrokerHarness().connect()
            client.subscribe("t", qos)
            client.publish("t", b"", qos, 9)
            client.send(wrong)
            self.assertTrue(client.closed, (qos, wrong))

    def test_puback_behind_pubrec_is_a_violation(self) -> None:
        """[MQTT-4.3.3-1]"""
        client = BrokerHarness().connect()
        client.subscribe("t", 2)
        client.publish("t", b"", 2, 9)
        client.send(Pubrec(1))
        self.assertEqual(client.received()[-1], Pubrel(1))
        client.send(Puback(1))
        self.assertTrue(client.closed)

    def test_pubcomp_makes_room_for_what_waits(self) -> None:
        harness = BrokerHarness(limits=Limits(max_inflight=1))
        client = harness.connect()
        client.subscribe("t", 2)
        for number in (1, 2):
            harness.connect("sender").publish("t", b"%d" % number, 2, number)
        self.assertEqual(client.received(), [Publish("t", b"1", 2, packet_id=1)])
        client.send(Pubrec(1), Pubcomp(1))
        self.assertEqual(client.received(), [Pubrel(1), Publish("t", b"2", 2, packet_id=2)])

    def test_each_receiver_has_the_lower_of_both_qos_and_the_absent_nothing_at_qos_0(self) -> None:
        """[MQTT-3.8.4-6] [MQTT-4.3.1-1]"""
        harness = BrokerHarness()
        low, high = harness.connect("low"), harness.connect("high")
        low.subscribe("t", 0)
        high.subscribe("t", 2)
        away = harness.connect("away", clean_session=False)
        away.subscribe("t", 0)
        away.lose()
        harness.connect("sender").publish("t", b"x", 1, 5)
        self.assertEqual(low.received(), [Publish("t", b"x")])
        self.assertEqual(high.received(), [Publish("t", b"x", 1, packet_id=1)])
        again = harness.connect("away", clean_session=False)
        self.assertEqual(again.connack, [Connack(True, ConnectReturnCode.ACCEPTED)])

    def test_a_message_is_received_once_at_every_qos(self) -> None:
        """[MQTT-2.3.1-5] [MQTT-4.6.0-6]"""
        client = BrokerHarness().connect()
        client.subscribe("t", 2)
        client.publish("t", b"0")
        client.publish("t", b"1", 1, 1)
        client.publish("t", b"2", 2, 2)
        self.assertEqual(
            client.received(),
            [
                Publish("t", b"0"),
                Puback(1),
                Publish("t", b"1", 1, packet_id=1),
                Pubrec(2),
                Publish("t", b"2", 2, packet_id=2),
            ],
        )
        client.send(Puback(1), Pubrec(2))
        self.assertEqual(client.received(), [Pubrel(2)])
        client.send(Pubcomp(2))
        session = next(iter(client.protocol.shared.broker.sessions))
        self.assertEqual(session.inflight, 0)

    def test_packet_identifiers_skip_zero_and_those_in_use(self) -> None:
        """row 63 [MQTT-2.3.1-1] [MQTT-2.3.1-4]"""
        limits = Limits(max_inflight=6000, packets_per_turn=6000)
        client = BrokerHarness(limits=limits).connect()
        client.subscribe("t", 1)
        used: list[int | None] = []
        for count in [1, *[5041] * 13, 3]:  # all 65,535 but the last, and three more
            client.send(*[Publish("t", b"", 1, packet_id=1)] * count)
            used = [packet.packet_id for packet in client.received() if isinstance(packet, Publish)]
            client.send(*(Puback(packet_id) for packet_id in used if packet_id and packet_id > 1))
        self.assertEqual(used, [65_535, 2, 3])
