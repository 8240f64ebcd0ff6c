"""Rates: a client that sends faster than it may is read later, and loses nothing."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import Limits
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import (
    Connect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Subscription,
)
from platziverse.net.rates import AHEAD
from platziverse.testing import BrokerHarness
from tests.door.test_frames import BINARY, frame
from tests.door.test_sniff import deliver
from tests.door.test_tls import TLSCase, TLSClient
from tests.door.test_websocket import WebCase

#: What a client may send at once, of ten messages a second.
AT_ONCE = int(10 * AHEAD)


class RateCase(SynchronousTestCase):
    def harness(self, **limits: Any) -> BrokerHarness:
        return BrokerHarness(limits=Limits(**limits))

    def received_over(
        self, harness: BrokerHarness, publishes: int, size: int = 1, seconds: int = 40
    ) -> list[int]:
        """How many of ``publishes`` messages have reached a subscriber after each second."""
        watcher, sender = harness.connect("watcher"), harness.connect("sender")
        watcher.send(Subscribe(1, [Subscription("#", 0)]))
        watcher.received()
        harness.advance(AHEAD)
        sender.send(*[Publish("t", b"x" * size)] * publishes)
        counts: list[int] = []
        for _ in range(seconds):
            counts.append((counts[-1] if counts else 0) + len(watcher.received()))
            harness.advance(1)
        self.assertEqual(counts[-1], publishes)
        self.assertFalse(sender.closed)
        return counts


class MessageRateTests(RateCase):
    def test_what_is_too_much_comes_later_at_the_rate_and_nothing_is_lost(self) -> None:
        counts = self.received_over(self.harness(max_message_rate=10.0, packets_per_turn=10), 300)
        self.assertLessEqual(counts[0], AT_ONCE + 10)
        for second, count in enumerate(counts):
            self.assertLessEqual(count, AT_ONCE + 20 + 10 * second)
        self.assertGreaterEqual(counts[26], 300)

    def test_within_the_rate_nothing_is_held(self) -> None:
        harness = self.harness(max_message_rate=10.0)
        client = harness.connect()
        for _ in range(300):
            client.publish("t")
            self.assertFalse(client.held)
            harness.advance(0.25)
        self.assertEqual(harness.broker.traffic.rate_holds, 0)

    def test_one_that_is_held_holds_nobody_else(self) -> None:
        harness = self.harness(max_message_rate=10.0)
        fast, slow = harness.connect("fast"), harness.connect("slow")
        fast.send(*[Publish("t", b"")] * 90)
        slow.send(Pingreq())
        self.assertEqual((fast.held, slow.held, slow.received()), (True, False, [Pingresp()]))

    def test_its_silence_is_ours_while_it_is_held(self) -> None:
        """Trap 3: Keep Alive is 2 s, and nothing is read for 5."""
        harness = self.harness(max_message_rate=10.0)
        client = harness.connect(keep_alive=2)
        client.send(*[Publish("t", b"")] * 100)
        harness.advance(4)
        self.assertEqual((client.held, client.closed), (True, False))
        harness.advance(3)
        self.assertFalse(client.held)
        harness.advance(3)
        self.assertTrue(client.closed)

    def test_one_that_leaves_while_it_is_held_leaves_no_timer(self) -> None:
        harness = self.harness(max_message_rate=1.0)
        before = len(harness.clock.getDelayedCalls())
        client = harness.connect()
        client.send(*[Publish("t", b"")] * 90)
        self.assertTrue(client.held)
        client.lose()
        harness.advance(11)  # the line about it has a window of ten seconds
        self.assertEqual(len(harness.clock.getDelayedCalls()), before)

    def test_one_that_leaves_while_its_connect_is_delayed_never_connects(self) -> None:
        """Two timers of one connection."""
        harness = self.harness(max_message_rate=0.01, max_connects_per_minute=1)
        harness.connect("flaps").lose()
        client = harness.open()
        client.send(Connect("flaps"), *[Pingreq()] * 3)
        self.assertTrue(client.held)
        client.lose()
        harness.advance(10)
        self.assertEqual(harness.broker.connected, 0)

    def test_acknowledgements_are_none_too_few(self) -> None:
        harness = self.harness(max_message_rate=10.0, packets_per_turn=10)
        client = harness.connect()
        client.send(*[Publish("t", b"", 1, packet_id=number) for number in range(1, 201)])
        answers: list[Packet] = []
        for _ in range(30):
            answers += client.received()
            harness.advance(1)
        self.assertEqual(answers, [Puback(number) for number in range(1, 201)])

    def test_0_is_any_number(self) -> None:
        harness = self.harness(max_message_rate=0, max_byte_rate=0)
        client = harness.connect()
        for _ in range(1000):
            client.send(*[Publish("t", b"x" * 1000)] * 50)
            self.assertFalse(client.held)


class ByteRateTests(RateCase):
    def test_large_messages_are_held_by_their_bytes(self) -> None:
        size = 1000
        counts = self.received_over(self.harness(max_byte_rate=10 * size, packets_per_turn=10), 90, size)
        self.assertLess(counts[0], 90)
        self.assertEqual(counts[10], 90)

    def test_a_large_packet_that_comes_in_pieces_is_held_between_them(self) -> None:
        harness = self.harness(max_byte_rate=1000.0)
        client = harness.connect()
        data = encode(Publish("t", b"x" * 20_000))
        client.send_bytes(data[:8000])
        self.assertTrue(client.held)
        harness.advance(4)
        self.assertFalse(client.held)


class TransportTests(TLSCase):
    def test_tls_is_held_as_well(self) -> None:
        harness = BrokerHarness(limits=Limits(max_message_rate=10.0))
        self.shared.factory.mqtt = harness.factory
        transport = self.shared.open()
        client = TLSClient(transport).pump().send(encode(Connect("x")))
        client.send(encode(Publish("t", b"")) * 90)
        self.assertEqual(transport.producerState, "paused")
        harness.advance(10)
        self.assertEqual(transport.producerState, "producing")


class WebSocketTests(WebCase):
    limits = Limits(max_message_rate=10.0)

    def test_a_websocket_is_held_as_well(self) -> None:
        transport = self.connected()
        deliver(transport, frame(BINARY, encode(Publish("t", b"")) * 90))
        self.assertEqual(transport.producerState, "paused")
        self.harness.advance(10)
        self.assertEqual(transport.producerState, "producing")
