"""Outgoing: Packet Identifiers of what is in flight, and the acknowledgements that are right."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.outgoing import Outgoing
from platziverse.mqtt.codec import EncodedPublish
from platziverse.mqtt.decoder import PacketDecoder
from platziverse.mqtt.errors import ProtocolViolation
from platziverse.mqtt.packets import Packet, Publish, Pubrel

ANY_SIZE = 268_435_455


class Wire:
    """A connection that keeps what is sent on it."""

    def __init__(self) -> None:
        self._decoder = PacketDecoder(ANY_SIZE)
        self._decoder.connected(ANY_SIZE, 4)
        self.packets: list[Packet] = []

    def send_shared(self, head: bytes, payload: bytes) -> None:
        self.send(head)
        self.send(payload)

    def send(self, data: bytes) -> None:
        self._decoder.feed(data)
        while run := self._decoder.take(100):
            self.packets += run


def message(number: int) -> EncodedPublish:
    return EncodedPublish(Publish("t", b"%d" % number, 2))


class Sending(SynchronousTestCase):
    def setUp(self) -> None:
        self.outgoing, self.wire = Outgoing(), Wire()
        self.connection: Any = self.wire

    def sent(self) -> list[Packet]:
        packets, self.wire.packets = self.wire.packets, []
        return packets

    @given(
        st.lists(
            st.tuples(st.sampled_from(["send 1", "send 2", "answer", "end"]), st.integers(0, 5)), max_size=60
        )
    )
    def test_what_is_sent_again_is_what_was_sent_and_not_acknowledged(
        self, steps: list[tuple[str, int]]
    ) -> None:
        """In order, under its Packet Identifier, PUBREL after PUBREC. [MQTT-4.4.0-1] [MQTT-4.6.0-1]"""
        self.setUp()
        model: dict[int, Packet] = {}
        for number, (step, place) in enumerate(steps):
            if step.startswith("send"):
                qos = int(step[-1])
                self.outgoing.send(self.connection, message(number), qos)
                [packet] = self.sent()
                assert isinstance(packet, Publish)
                assert packet.packet_id
                self.assertNotIn(packet.packet_id, model)
                self.assertEqual(packet, Publish("t", b"%d" % number, qos, packet_id=packet.packet_id))
                model[packet.packet_id] = Publish(
                    "t", packet.payload, qos, dup=True, packet_id=packet.packet_id
                )
            elif model:
                packet_id = list(model)[place % len(model)]
                packet = model[packet_id]
                if isinstance(packet, Pubrel):
                    unknown = self.outgoing.pubcomp([packet_id])
                    del model[packet_id]
                elif packet.qos == 2:  # type: ignore[union-attr]
                    unknown = not self.outgoing.pubrec(packet_id)
                    model[packet_id] = Pubrel(packet_id)
                else:
                    unknown = self.outgoing.puback([packet_id])
                    del model[packet_id]
                self.assertFalse(unknown)
        self.outgoing.send_again(self.connection, 65_535)
        self.assertEqual(self.sent(), list(model.values()))
        self.assertEqual(list(self.outgoing.inflight), list(model))

    def test_a_large_message_is_sent_as_it_is(self) -> None:
        large = Publish("t", bytes(20_000), 1)
        self.outgoing.send(self.connection, EncodedPublish(large), 1)
        self.outgoing.send_at(self.connection, 65_537, (EncodedPublish(large), 1), dup=True)
        packets: Any = self.sent()
        self.assertEqual([packet.payload for packet in packets], [large.payload] * 2)
        self.assertEqual([(packet.packet_id, packet.dup) for packet in packets], [(1, False), (2, True)])
        self.assertEqual(self.outgoing.position(2), 65_537)

    def test_a_packet_identifier_in_flight_is_passed_over(self) -> None:
        """Row 63: and 0 is none. [MQTT-2.3.1-1] [MQTT-2.3.1-2]"""
        for number in range(65_535):
            self.outgoing.send(self.connection, message(number), 1)
            if number != 1:
                self.outgoing.puback([number + 1])
        self.sent()
        for number in range(3):
            self.outgoing.send(self.connection, message(number), 1)
        self.assertEqual([packet.packet_id for packet in self.sent()], [1, 3, 4])  # type: ignore[union-attr]


class Acknowledging(SynchronousTestCase):
    def setUp(self) -> None:
        self.outgoing = Outgoing()
        connection: Any = Wire()
        for qos in (1, 2, 2):
            self.outgoing.send(connection, message(qos), qos)
        self.outgoing.pubrec(3)

    def test_acknowledgements_of_nothing_are_counted(self) -> None:
        self.assertEqual(self.outgoing.puback([7, 1, 1]), 2)
        self.assertEqual(self.outgoing.pubcomp([7, 3, 3]), 2)
        self.assertFalse(self.outgoing.pubrec(7))
        self.assertEqual(list(self.outgoing.inflight), [2])

    def test_pubrec_may_come_again(self) -> None:
        self.assertTrue(self.outgoing.pubrec(3))
        self.assertIsNone(self.outgoing.inflight[3])

    def test_a_wrong_acknowledgement_is_a_violation(self) -> None:
        """[MQTT-4.3.2-1] [MQTT-4.3.3-1]"""
        for acknowledge, packet_id, statement in (
            (lambda: self.outgoing.puback([2]), 2, "MQTT-4.3.3-1"),
            (lambda: self.outgoing.puback([3]), 3, "MQTT-4.3.3-1"),
            (lambda: self.outgoing.pubrec(1), 1, "MQTT-4.3.2-1"),
            (lambda: self.outgoing.pubcomp([1]), 1, "MQTT-4.3.3-1"),
            (lambda: self.outgoing.pubcomp([2]), 2, "MQTT-4.3.3-1"),
        ):
            with self.assertRaises(ProtocolViolation) as caught:
                acknowledge()
            self.assertEqual(caught.exception.statement, statement)
            self.assertIn(f"packet id {packet_id}", str(caught.exception))
        self.assertEqual(list(self.outgoing.inflight), [1, 2, 3])
