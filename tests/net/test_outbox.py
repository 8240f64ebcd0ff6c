"""Outbox: PUBACKs are joined, and keep their place among the other packets."""

import gc
from typing import Any

from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import MIB, Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Connect, Pingreq, Pingresp, Puback, Publish, Pubrec
from platziverse.net.outbox import PIECE_SIZE, WRITE_SIZE
from platziverse.testing import BrokerHarness, FakeClient
from tests.logs import observe_log


def publishes(*numbers: int, qos: int = 1) -> bytes:
    return b"".join(encode(Publish("t", b"", qos, packet_id=number)) for number in numbers)


class Acknowledgements(SynchronousTestCase):
    def test_pubacks_of_one_read_stand_where_their_messages_stood(self) -> None:
        client = BrokerHarness().connect()
        client.send_bytes(publishes(1, 2, 3) + encode(Pingreq()) + publishes(4, 5) + publishes(6, qos=2))
        client.send_bytes(publishes(7))
        expected = [Puback(1), Puback(2), Puback(3), Pingresp(), Puback(4), Puback(5), Pubrec(6), Puback(7)]
        self.assertEqual(client.received(), expected)

    def test_each_puback_is_counted(self) -> None:
        harness = BrokerHarness()
        client = harness.connect()
        before = harness.broker.traffic.messages_sent
        client.send_bytes(publishes(*range(1, 10)))
        self.assertEqual(len(client.received()), 9)
        self.assertEqual(harness.broker.traffic.messages_sent - before, 9)

    def test_pubacks_leave_before_the_broker_closes(self) -> None:
        client = BrokerHarness().connect()
        client.send_bytes(publishes(1, 2, 3) + b"\x00\x00")
        self.assertEqual(client.received(), [Puback(1), Puback(2), Puback(3)])
        self.assertTrue(client.protocol.closed)

    def test_who_publishes_and_takes_no_pubacks_is_closed(self) -> None:
        """The turn of each read ends with a flush, which a client that reads nothing does not get."""
        harness = BrokerHarness(limits=Limits(max_queued_bytes=100_000))
        client = harness.connect()
        client.stop_reading()
        for _ in range(1000):
            if client.protocol.closed:
                break
            client.send_bytes(publishes(*range(1, 51)))
            self.assertLess(client.protocol.outbox.out_bytes, 101_000)
        self.assertTrue(client.protocol.closed)

    def test_who_takes_no_answers_is_counted_once_and_named_with_the_setting(self) -> None:
        """Row 280: two bytes for each PINGREQ, of which none is read."""
        lines: list[str] = []
        observe_log(self, lambda event: lines.append(formatEvent(event)))
        harness = BrokerHarness(limits=Limits(max_queued_bytes=100_000))
        client = harness.connect("deaf")
        client.stop_reading()
        while not client.closed:
            client.send_bytes(encode(Pingreq()) * 100)
            harness.turn()
        self.assertEqual(harness.broker.traffic.protocol_errors, {"it does not read its answers": 1})
        (line,) = lines
        self.assertIn("'deaf': it does not read its answers (max_queued_bytes)", line)


class SentTogether(SynchronousTestCase):
    def test_many_bytes_leave_at_once_and_each_piece_is_a_packet(self) -> None:
        harness = BrokerHarness()
        client = harness.connect()
        before = harness.broker.traffic.messages_sent
        outbox = client.protocol.outbox
        piece = encode(Publish("t", bytes(WRITE_SIZE // 2)))
        outbox.send_together([piece])
        self.assertEqual((client.transport.value(), outbox.pieces), (b"", 1))
        outbox.send_together([piece, piece])
        self.assertEqual((client.transport.value(), outbox.pieces), (3 * piece, 0))
        self.assertEqual(harness.broker.traffic.messages_sent - before, 3)

    def test_they_leave_at_the_end_of_the_turn(self) -> None:
        harness = BrokerHarness()
        client, pieces = harness.connect(), [encode(Publish("t", b"%d" % number)) for number in range(3)]
        client.protocol.outbox.send_together(pieces)
        self.assertEqual(client.transport.value(), b"")
        harness.turn()
        self.assertEqual(client.transport.value(), b"".join(pieces))


class Full:
    """A transport that takes a number of bytes, and then tells its producer to pause."""

    def __init__(self, transport: Any, room: int) -> None:
        self._transport, self._room = transport, room
        self.taken = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        self.taken += data
        if len(self.taken) > self._room:
            self._transport.producer.pauseProducing()


class LargeMessages(SynchronousTestCase):
    """Row 291: one message for many who read nothing was copied for each of them."""

    def receiver(self, harness: BrokerHarness, qos: int) -> tuple[FakeClient, Full]:
        client = harness.connect(f"receiver-{qos}")
        client.subscribe("t", qos)
        client.received()
        protocol: Any = client.protocol
        protocol.transport = transport = Full(protocol.transport, WRITE_SIZE)
        return client, transport

    def test_a_transport_gets_no_more_than_it_takes(self) -> None:
        payload = bytes(range(256)) * 40_000
        for qos in (0, 1, 2):
            harness = BrokerHarness(limits=Limits(max_packet_size=16 * MIB))
            client, transport = self.receiver(harness, qos)
            before = harness.broker.traffic.messages_sent
            harness.connect("sender").publish("t", payload, qos, 1 if qos else None)
            self.assertLessEqual(len(transport.taken), 2 * WRITE_SIZE)
            while client.protocol.outbox.out_bytes:
                client.read_again()
            expected = Publish("t", payload, qos, packet_id=1 if qos else None)
            self.assertEqual(transport.taken, encode(expected))
            answers = {0: 0, 1: 1, 2: 1}[qos] + 1  # and the CONNACK of the sender
            self.assertEqual(harness.broker.traffic.messages_sent - before, 1 + answers)

    def test_receivers_share_what_waits_for_them(self) -> None:
        harness = BrokerHarness(limits=Limits(max_packet_size=16 * MIB))
        receivers = [self.receiver(harness, qos)[0] for qos in (1, 2)]
        harness.connect("sender").publish("t", payload := bytes(MIB), 2, 1)
        waiting = [gc.get_referents(client.protocol.outbox) for client in receivers]
        views = [
            view
            for referents in waiting
            for pieces in referents
            if type(pieces) is list
            for view in pieces
            if type(view) is memoryview
        ]
        self.assertEqual([view.obj for view in views], [payload] * 2)
        self.assertIs(views[0].obj, views[1].obj)

    def resumed(self, limits: Limits, count: int, payload: bytes) -> tuple[FakeClient, Full]:
        """A client that comes back to ``count`` messages in flight, and takes little at a time."""
        harness = BrokerHarness(limits=limits)
        client = harness.connect("receiver", clean_session=False)
        client.subscribe("t", 1)
        sender = harness.connect("sender")
        for number in range(1, count + 1):
            sender.publish("t", payload, 1, number)
        client.lose()
        client = harness.open()
        protocol: Any = client.protocol
        protocol.transport = transport = Full(protocol.transport, WRITE_SIZE)
        client.send(Connect("receiver", clean_session=False))
        return client, transport

    def test_whoever_comes_back_to_large_messages_in_flight_gets_all_of_them(self) -> None:
        """Row 343: several that are larger than ``max_queued_bytes`` together ended each connection."""
        for count, payload in ((5, bytes(300_000)), (60, bytes(10_000))):
            limits = Limits(max_queued_bytes=500_000, max_inflight=count)
            client, transport = self.resumed(limits, count, payload)
            self.assertFalse(client.closed)
            while client.protocol.outbox.out_bytes:
                client.read_again()
            numbers = range(1, count + 1)
            again = [encode(Publish("t", payload, 1, dup=True, packet_id=number)) for number in numbers]
            self.assertTrue(transport.taken.endswith(b"".join(again)))
            client.send(*[Puback(number) for number in numbers], Pingreq())
            client.read_again()
            self.assertTrue(transport.taken.endswith(encode(Pingresp())))

    def test_whoever_takes_no_answers_is_closed_behind_large_messages_too(self) -> None:
        client, _ = self.resumed(Limits(max_queued_bytes=500_000), 5, bytes(300_000))
        for _ in range(1000):
            client.send_bytes(encode(Pingreq()) * 100)
        self.assertTrue(client.closed)

    def test_large_messages_that_have_left_make_no_room_for_answers(self) -> None:
        client, _ = self.resumed(Limits(max_queued_bytes=3_000_000), 5, bytes(300_000))
        while client.protocol.outbox.out_bytes:
            client.read_again()
        client.stop_reading()
        while not client.closed:
            client.send_bytes(encode(Pingreq()) * 100)
            outbox = client.protocol.outbox
            self.assertLess(outbox.out_bytes + PIECE_SIZE * outbox.pieces, 3_010_000)

    def test_whoever_takes_a_large_message_slowly_is_answered_behind_it(self) -> None:
        """A message larger than ``max_queued_bytes`` is no answer that is not read."""
        for qos in (0, 1, 2):
            harness = BrokerHarness(limits=Limits(max_queued_bytes=MIB))
            client, transport = self.receiver(harness, qos)
            harness.connect("sender").publish("t", bytes(2 * MIB), qos, 1 if qos else None)
            client.send(Pingreq())
            self.assertFalse(client.closed)
            while client.protocol.outbox.out_bytes:
                client.read_again()
            self.assertTrue(transport.taken.endswith(encode(Pingresp())))
