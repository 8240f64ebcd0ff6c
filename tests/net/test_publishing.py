"""Publishing: many messages of one read, messages that come again, and what breaks or closes in between."""

import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.interfaces import Client, Handler
from platziverse.broker.limits import Limits
from platziverse.broker.reasons import Reason
from platziverse.mqtt.codec import encode
from platziverse.mqtt.packets import (
    Connect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
)
from platziverse.testing import BrokerHarness, FakeClient
from tests.net.doubles import Store


class BreaksOnce:
    """A handler with a bug that shows at the first message."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: Publish, client: Client) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ZeroDivisionError


class FailsAtTheSixth:
    """A handler whose sixth answer is a failure."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: Publish, client: Client) -> "Deferred[object] | None":
        self.calls += 1
        return fail(ZeroDivisionError()) if self.calls == 6 else None


class BreaksWhenTold:
    """An observer with a bug."""

    broken = False

    def client_connected(self, client: Client) -> None:
        if self.broken:
            raise ZeroDivisionError

    def client_disconnected(self, client: Client, taken_over: bool) -> None: ...
    def message_released(self, client: Client, packet_id: int) -> None: ...
    def session_ended(self, client_id: str) -> None: ...


def numbered(topic: str, count: int, payload: bytes = b"", qos: int = 1) -> list[Packet]:
    return [Publish(topic, payload, qos, packet_id=number) for number in range(1, count + 1)]


class Runs(SynchronousTestCase):
    def test_messages_after_the_one_that_closes_their_connection_are_not_handled(self) -> None:
        """The handler fails at the sixth; the five before it are acknowledged."""
        harness = BrokerHarness({"t": FailsAtTheSixth()})
        watcher, client = harness.connect("watcher"), harness.connect("client")
        watcher.subscribe("t")
        client.send(*numbered("t", 50))
        self.assertTrue(client.closed)
        acknowledged = [packet for packet in client.received() if isinstance(packet, Puback)]
        self.assertEqual(acknowledged, [Puback(number) for number in range(1, 6)])
        self.assertEqual(len(watcher.received()), 6)

    def test_no_packets_are_kept_once_they_are_handled(self) -> None:
        store = Store()
        client = BrokerHarness({"t": store}, Limits(max_unfinished=4)).connect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        client.send(*numbered("t", 6, b"x" * 100_000))
        self.assertTrue(client.held)
        store.commit()
        store.commit()
        self.assertEqual(len(client.received()), 6)
        store.messages.clear()
        self.assertLess(tracemalloc.get_traced_memory()[0], 50_000)

    def test_who_has_ended_is_not_freed_by_the_store(self) -> None:
        """row 112: freeing one reader ends another, which waits as well"""
        store = Store()
        limits = Limits(max_unfinished_total=4, max_unfinished=10)
        second: FakeClient
        table: dict[str, Handler] = {"t": store, "other": lambda message, client: second.lose()}
        harness = BrokerHarness(table, limits)
        first, second = harness.connect("first"), harness.connect("second")
        first.send(*numbered("t", 4), *numbered("other", 2))
        second.send(*numbered("t", 1))
        self.assertTrue(first.held)
        self.assertTrue(second.held)
        store.commit()
        self.assertEqual((second.closed, first.held, harness.shared.flow.full), (True, False, False))


class ExactlyOnce(SynchronousTestCase):
    def test_a_release_before_its_message_is_stored_waits_and_holds_up_nobody(self) -> None:
        """Rows 57, 58, 112 and 272."""
        store = Store()
        harness = BrokerHarness({"t": store}, Limits(max_unfinished_total=100))
        again = Publish("t", b"", 2, dup=True, packet_id=1)
        for number in range(10):
            client = harness.connect(f"client-{number}")
            client.send(*numbered("t", 1, qos=2), again, Pubrel(1), Pubrel(1), Pingreq())
            self.assertEqual(client.received(), [Pingresp()])
            store.commit()
            self.assertEqual(client.received(), [Pubrec(1), Pubrec(1), Pubcomp(1), Pubcomp(1)])
            client.send(Pubrel(1))
            self.assertEqual((client.received(), client.held), ([Pubcomp(1)], False))
        flow, traffic = harness.shared.flow, harness.broker.traffic
        self.assertEqual((flow.unfinished, flow.full, len(store.messages)), (0, False, 10))
        self.assertEqual(traffic.protocol_errors, {})

    def test_a_release_waits_for_its_pubrec_and_that_for_those_before_it(self) -> None:
        """Row 272: whether anything is stored or not."""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect("client")
        client.send(*numbered("t", 1, qos=2), Publish("other", b"", 2, packet_id=2), Pubrel(2))
        client.send(Pubrel(99))
        self.assertEqual(client.received(), [])
        store.commit()
        self.assertEqual(client.received(), [Pubrec(1), Pubrec(2), Pubcomp(2), Pubcomp(99)])

    def test_a_release_of_a_message_that_is_not_stored_has_no_answer(self) -> None:
        """Row 272."""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect("client")
        client.send(*numbered("t", 1, qos=2), Pubrel(1))
        store.answers[0].errback(ValueError("no"))
        self.assertEqual((client.received(), client.closed), ([], True))
        self.assertEqual(harness.shared.flow.unfinished, 0)

    def test_a_release_that_waits_ends_with_its_connection(self) -> None:
        """Row 272."""
        store = Store()
        harness = BrokerHarness({"t": store})
        client = harness.connect("client", clean_session=False)
        client.send(*numbered("t", 1, qos=2), Pubrel(1))
        client.lose()
        self.assertEqual(harness.shared.flow.unfinished, 1)
        again = harness.connect("client", clean_session=False)
        again.send(Pubrel(1))
        self.assertEqual(again.received(), [])
        store.commit()
        self.assertEqual((again.received(), harness.shared.flow.unfinished), ([Pubcomp(1)], 0))

    def test_a_message_whose_handler_broke_is_a_new_one_when_it_comes_again(self) -> None:
        handler = BreaksOnce()
        harness = BrokerHarness({"t": handler})
        client = harness.connect("client", clean_session=False)
        client.send(*numbered("t", 1, qos=2))
        self.assertEqual((client.closed, client.received()), (True, []))
        client = harness.connect("client", clean_session=False)
        client.send(Publish("t", b"", 2, dup=True, packet_id=1))
        self.assertEqual((client.received(), handler.calls), ([Pubrec(1)], 2))
        self.assertEqual(harness.shared.flow.unfinished, 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Closing(SynchronousTestCase):
    """A real transport tells of the end only when the peer has closed as well."""

    def lingering(self, client: FakeClient) -> None:
        transport: Any = client.transport
        transport.loseConnection = lambda: None
        client.protocol.close(Reason.ADMINISTRATIVE, "a test")

    def test_what_still_comes_is_not_kept(self) -> None:
        """TLS goes on reading."""
        client = BrokerHarness().connect()
        self.lingering(client)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(100):
            client.send_bytes(b"\x30" + b"x" * 1000)
        self.assertLess(tracemalloc.get_traced_memory()[0], 10_000)

    def test_what_would_be_sent_is_dropped_and_counted(self) -> None:
        harness = BrokerHarness()
        client, sender = harness.connect("client"), harness.connect("sender")
        client.subscribe("t")
        self.lingering(client)
        sent = harness.broker.traffic.publish_sent[0]
        for _ in range(20):
            sender.publish("t", b"x" * 100)
        traffic = harness.broker.traffic
        self.assertEqual((traffic.publish_sent[0] - sent, traffic.publish_dropped), (0, 20))
        self.assertEqual(client.protocol.outbox.out_bytes, 0)


class Opening(SynchronousTestCase):
    def opened(self, before: Callable[[BrokerHarness], None]) -> None:
        observer = BreaksWhenTold()
        harness = BrokerHarness(limits=Limits(max_connects_per_minute=1), observers=[observer])
        before(harness)
        observer.broken = True
        client = harness.open()
        client.send_bytes(encode(Connect("client")))
        harness.advance(3)
        self.assertTrue(client.closed)
        self.assertEqual((harness.broker.connected, harness.broker.traffic.internal_errors), (0, 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_bug_of_an_observer_leaves_nobody_connected(self) -> None:
        self.opened(lambda harness: None)

    def test_nor_after_the_delay_of_a_client_that_comes_too_often(self) -> None:
        self.opened(lambda harness: harness.connect("client").lose())


class AnsweredBefore(SynchronousTestCase):
    """Answers that have fired already must not resume, in the midst of a run, what they have held."""

    def test_packets_behind_an_answer_that_has_fired_are_handled_and_counted_once(self) -> None:
        """Row 205."""
        for most in 1, 2:
            depths: list[int] = []

            def handler(message: Publish, client: Client, depths: list[int] = depths) -> "Deferred[object]":
                depths.append(len(traceback.extract_stack()))
                return succeed(None)

            harness = BrokerHarness({"t": handler}, Limits(max_unfinished=most))
            client = harness.connect()
            before = harness.broker.traffic.messages_received
            # Of two kinds, so that each is a run of its own, and the next one is still to be taken.
            client.send(*[Publish("t", b"", n % 2, packet_id=n if n % 2 else None) for n in range(1, 51)])
            for _ in range(50):
                harness.turn()
            self.assertEqual(client.received(), [Puback(number) for number in range(1, 51, 2)])
            self.assertEqual(harness.broker.traffic.messages_received - before, 50)
            self.assertEqual((len(depths), len(set(depths))), (50, 1))
            self.assertEqual((harness.shared.flow.unfinished, client.held), (0, False))

    def test_so_are_releases(self) -> None:
        """Row 205: each was handled within the one before it."""
        depths: list[int] = []

        class Observer(BreaksWhenTold):
            def message_released(self, client: Client, packet_id: int) -> Any:
                depths.append(len(traceback.extract_stack()))
                return succeed(None)

        harness = BrokerHarness(limits=Limits(max_unfinished=1), observers=[Observer()])
        client = harness.connect(clean_session=False)
        numbers = range(1, 51)
        client.send(*[packet for number in numbers for packet in (Pubrel(number), Pingreq())])
        expected = [packet for number in numbers for packet in (Pubcomp(number), Pingresp())]
        self.assertEqual(client.received(), expected)
        self.assertEqual((len(depths), len(set(depths))), (50, 1))
        self.assertEqual((harness.shared.flow.unfinished, client.held), (0, False))

    def test_so_many_may_stand_behind_one_that_has_not_fired(self) -> None:
        """Row 205: their acknowledgements take room."""

        def handler(message: Publish, client: Client) -> "Deferred[object]":
            return succeed(None)

        again = [Publish("other", b"", 2, dup=True, packet_id=1)] * 9
        for packets, acknowledgements in (
            (numbered("t", 9), [Puback(number) for number in range(1, 10)]),
            (again, [Pubrec(1)] * 9),
        ):
            store = Store()
            table: dict[str, Handler] = {"stored": store, "t": handler}
            client = BrokerHarness(table, Limits(max_unfinished=10)).connect()
            client.publish("stored", b"", 1, 100)
            for packet in packets:
                self.assertFalse(client.held)
                client.send(packet)
            self.assertEqual((client.held, client.received()), (True, []))
            store.commit()
            self.assertEqual((client.held, client.received()), (False, [Puback(100), *acknowledgements]))

    def test_a_failure_that_has_fired_already_is_not_acknowledged(self) -> None:
        """Row 205."""
        harness = BrokerHarness({"t": lambda message, client: fail(ZeroDivisionError())})
        client = harness.connect()
        client.publish("t", b"", 1, 1)
        self.assertEqual((client.received(), client.closed, harness.shared.flow.unfinished), ([], True, 0))

    def test_a_repetition_of_what_is_stored_is_answered_and_holds_nothing(self) -> None:
        """Row 205."""
        harness = BrokerHarness(limits=Limits(max_unfinished=1))
        client = harness.connect()
        client.send(*[Publish("t", b"", 2, packet_id=1, dup=again) for again in (False, True, True)])
        self.assertEqual((client.received(), client.held), ([Pubrec(1)] * 3, False))
        self.assertEqual(harness.broker.traffic.messages_received, 4)
