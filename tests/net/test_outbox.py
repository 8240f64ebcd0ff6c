"""Outbox: PUBACKs are joined, and keep their place among the other packets."""

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import Pingreq, Pingresp, Puback, Publish, Pubrec
from platziverse.testing import BrokerHarness


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
