"""Row 126: when memory is short, nobody new comes in, and then the slowest receiver goes."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.broker.limits import KIB, MIB, Limits
from platziverse.mqtt.packets import Connack, ConnectReturnCode, Publish, Subscribe, Subscription
from platziverse.net.pressure import LEAST, SLICE, Pressure
from platziverse.testing import BrokerHarness, FakeClient, MemorySessionStore
from tests.net.doubles import Store

PAYLOAD = bytes(10 * KIB)


class PressureCase(SynchronousTestCase):
    """:ivar budget: bytes."""

    def start(self, budget: int, table: Any = None, store: Any = None, **limits: Any) -> None:
        most = Limits(max_memory=budget, max_queued_bytes=64 * MIB, **limits)
        self.harness = BrokerHarness(table, most, sessions=store)
        self.pressure = self.harness.shared.pressure
        self.pressure.start()
        self.addCleanup(self.pressure.stop)
        self.traffic = self.harness.broker.traffic
        self.budget = budget

    def receiver(self, name: str, qos: int = 1, clean: bool = True) -> FakeClient:
        client = self.harness.connect(name, clean_session=clean)
        client.send(Subscribe(1, [Subscription(name, qos)]))
        client.received()
        return client

    def fill(self, topic: str, share: float, qos: int = 1) -> None:
        """Send what takes this share of the budget while it waits."""
        sender = self.harness.connect("sender")
        for _ in range(int(self.budget * share / len(PAYLOAD))):
            sender.send(Publish(topic, PAYLOAD, qos, packet_id=1 if qos else None))
            self.harness.turn()
        sender.lose()

    def newcomer(self, name: str = "newcomer") -> ConnectReturnCode:
        connack = self.harness.connect(name).connack[0]
        assert isinstance(connack, Connack)
        return ConnectReturnCode(connack.return_code)


class AbsentTests(PressureCase):
    def test_those_absent_longest_make_room_for_newcomers(self) -> None:
        """Row 171: nobody could come in for as long as a Session is kept."""
        self.start(4 * MIB)
        for number in range(9):
            self.receiver(f"absent-{number}", clean=False).lose()
            self.fill(f"absent-{number}", 0.1)
        self.harness.advance(5.1)
        self.assertEqual(self.newcomer(), ConnectReturnCode.ACCEPTED)
        kept = {session.client_id for session in self.harness.broker.sessions}
        self.assertNotIn("absent-0", kept)
        self.assertIn("absent-8", kept)
        self.assertLess(self.traffic.sessions_shed, 4)


class Deaf:
    """A socket of a client that has not taken so many bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.asked, self.aborted = size, 0, False

    def kernel_bytes(self) -> int:
        self.asked += 1
        return self.size

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 1)

    def abortConnection(self) -> None:
        self.aborted = True


class KernelTests(PressureCase):
    """Row 355: what the kernel holds for clients that read nothing."""

    def sockets(self, *sizes: int) -> list[Deaf]:
        sockets = [Deaf(size) for size in sizes]
        self.pressure.sockets, self.pressure.kernel = sockets, lambda: sum(sizes)
        self.harness.advance(5.1)
        return sockets

    def test_it_counts_and_the_slowest_go(self) -> None:
        self.start(4 * MIB)
        sockets = self.sockets(*[200 * KIB] * 20, 150 * KIB, 250 * KIB, *[LEAST - 1] * 10)
        self.assertEqual([socket.size for socket in sockets if socket.aborted], [200 * KIB] * 4 + [250 * KIB])
        self.assertEqual(self.traffic.receivers_dropped, 5)
        self.assertTrue(self.pressure.refusing)
        self.assertEqual(self.newcomer(), ConnectReturnCode.SERVER_UNAVAILABLE)
        self.pressure.sockets = ()
        self.harness.advance(5.1)
        self.assertEqual(self.newcomer("later"), ConnectReturnCode.ACCEPTED)

    def test_the_kernel_is_not_asked_where_it_cannot_take_too_much(self) -> None:
        self.start(256 * MIB)
        (socket,) = self.sockets(200 * MIB)
        self.assertEqual((socket.asked, self.pressure.used), (0, 0))
        (socket,) = self.sockets(205 * MIB)
        self.assertEqual((socket.asked, self.pressure.used), (1, 205 * MIB))

    def test_it_is_looked_at_at_once_when_much_was_sent(self) -> None:
        self.start(64 * MIB)
        for number in range(50):
            self.receiver(f"receiver-{number}").subscribe("all")
        (socket,) = [Deaf(64 * MIB)]
        self.pressure.sockets, self.pressure.kernel = [socket], lambda: 64 * MIB
        self.harness.connect("sender").publish("all", bytes(KIB))
        self.harness.advance(0.1)
        self.assertEqual(socket.asked, 0)
        self.harness.connect("sender").publish("all", bytes(64 * KIB))
        self.harness.advance(0.1)
        self.assertEqual(socket.asked, 1)


class RefusalTests(PressureCase):
    def test_row_126_above_80_percent_nobody_new_may_connect_until_it_is_less(self) -> None:
        self.start(4 * MIB)
        slow = self.receiver("slow")
        slow.stop_reading()
        self.fill("slow", 0.7)
        self.harness.advance(5.1)
        self.assertEqual(self.newcomer(), ConnectReturnCode.ACCEPTED)
        self.fill("slow", 0.15)
        self.harness.advance(5.1)
        self.assertEqual(self.newcomer("another"), ConnectReturnCode.SERVER_UNAVAILABLE)
        self.assertEqual(self.traffic.connects_refused, {"server_unavailable": 1})
        self.assertFalse(slow.closed)
        self.assertEqual(
            self.newcomer(), ConnectReturnCode.ACCEPTED, "it takes over what takes memory already"
        )
        slow.lose()
        self.harness.advance(5.1)
        self.assertEqual(self.newcomer(), ConnectReturnCode.ACCEPTED)

    def test_row_126_whoever_is_refused_has_not_been_asked_for_a_password(self) -> None:
        self.start(64 * KIB)
        self.harness.connect("a").publish("t", bytes(60 * KIB), retain=True)
        self.harness.advance(5.1)
        self.patch(self.harness.broker, "authority", None)
        self.assertEqual(self.newcomer(), ConnectReturnCode.SERVER_UNAVAILABLE)

    def test_row_126_everything_that_is_kept_counts(self) -> None:
        store = Store()
        self.start(MIB, {"stored": store})
        used = []

        def look() -> None:
            self.harness.advance(5.1)
            used.append(self.pressure.used)

        look()
        client = self.receiver("a")
        look()
        client.publish("kept", PAYLOAD, retain=True)
        look()
        client.publish("stored", PAYLOAD)
        look()
        client.publish("a", PAYLOAD, 1, 1)  # in flight
        look()
        client.stop_reading()
        client.publish("a", PAYLOAD, 1, 2)  # in the queue
        look()
        client.publish("a", PAYLOAD, 0)  # in the outbox, as are the acknowledgements
        look()
        growth = [after - before for before, after in pairwise(used)]
        self.assertTrue(all(size >= len(PAYLOAD) for size in growth), growth)
        client.lose()
        store.commit()
        look()
        self.assertLess(used[-1], 2 * len(PAYLOAD))


class DropTests(PressureCase):
    def test_row_126_above_the_budget_the_slowest_goes_and_nobody_else(self) -> None:
        self.start(4 * MIB, max_queued_messages=1_000_000)
        slower, slowest, fast = (self.receiver(name) for name in ("slower", "slowest", "fast"))
        for client in (slower, slowest):
            client.stop_reading()
        self.fill("slower", 0.4)
        self.fill("slowest", 0.7)
        self.harness.advance(5.1)
        self.assertEqual([client.closed for client in (slower, slowest, fast)], [False, True, False])
        self.assertEqual(self.traffic.receivers_dropped, 1)
        self.harness.advance(5.1)
        self.assertEqual((self.traffic.receivers_dropped, self.newcomer()), (1, ConnectReturnCode.ACCEPTED))

    def test_row_126_at_qos_0_what_waits_in_the_connection_counts(self) -> None:
        self.start(4 * MIB, max_queued_messages=1_000_000)
        slow = self.receiver("slow", 0)
        slow.stop_reading()
        self.fill("slow", 1.1, qos=0)
        self.harness.advance(5.1)
        self.assertTrue(slow.closed)

    def test_row_126_what_waits_for_the_absent_goes_with_their_session(self) -> None:
        """They learn of it by Session Present 0."""
        self.start(4 * MIB, max_queued_messages=1_000_000)
        self.receiver("absent", clean=False).lose()
        self.fill("absent", 1.1)
        self.harness.advance(5.1)
        self.assertEqual((self.traffic.sessions_shed, self.traffic.receivers_dropped), (1, 0))
        self.harness.advance(5.1)
        again = self.harness.connect("absent", clean_session=False)
        self.assertEqual(again.connack, [Connack(False, ConnectReturnCode.ACCEPTED)])

    def test_row_126_a_connected_client_with_a_session_to_keep_gives_back_its_memory_too(self) -> None:
        self.start(4 * MIB, max_queued_messages=1_000_000)
        slow = self.receiver("slow", clean=False)
        slow.stop_reading()
        self.fill("slow", 1.1)
        self.harness.advance(10.2)
        self.assertTrue(slow.closed)
        self.assertLess(self.pressure.used, MIB)
        self.assertEqual(len(self.harness.broker.subscriptions), 0)

    def test_a_durable_session_outlives_its_slow_connection(self) -> None:
        self.start(4 * MIB, store=MemorySessionStore(), max_queued_messages=1_000_000)
        slow = self.receiver("slow", 0, clean=False)
        slow.stop_reading()
        self.fill("slow", 1.1, qos=0)
        self.harness.advance(5.1)
        self.assertEqual((slow.closed, self.traffic.receivers_dropped), (True, 1))
        self.assertEqual(len(self.harness.broker.subscriptions), 1)

    def test_a_durable_session_of_an_absent_client_stays(self) -> None:
        self.start(64 * KIB, store=MemorySessionStore())
        absent = self.harness.connect("absent", clean_session=False)
        for number in range(600):
            absent.publish("t", b"", 2, number + 1)
        absent.lose()
        self.harness.advance(10.2)
        self.assertTrue(self.pressure.refusing)
        again = self.harness.connect("absent", clean_session=False)
        self.assertEqual(again.connack, [Connack(True, ConnectReturnCode.ACCEPTED)])

    def test_row_126_idle_clients_are_not_to_blame(self) -> None:
        self.start(64 * KIB)
        clients = [self.harness.connect(f"idle-{number}") for number in range(20)]
        self.harness.advance(10)
        self.assertGreater(self.pressure.used, self.budget)
        self.assertFalse(any(client.closed for client in clients))
        self.assertEqual(self.newcomer(), ConnectReturnCode.SERVER_UNAVAILABLE)


class IntervalTests(PressureCase):
    def test_row_126_from_half_of_the_budget_on_it_is_looked_at_every_second(self) -> None:
        self.start(4 * MIB, max_queued_messages=1_000_000)
        slow = self.receiver("slow")
        slow.stop_reading()
        self.fill("slow", 0.6)
        self.harness.advance(5.1)
        self.fill("slow", 0.6)
        self.assertFalse(slow.closed)
        self.harness.advance(1.1)
        self.assertTrue(slow.closed)

    def test_what_has_come_within_a_moment_is_looked_at_in_the_next(self) -> None:
        """Row 292: a second is enough for a few publishers to fill a small machine."""
        self.start(4 * MIB, max_queued_messages=1_000_000)
        slow = self.receiver("slow")
        slow.stop_reading()
        self.fill("slow", 1.1)
        self.harness.advance(0.06)
        self.assertTrue(slow.closed)

    def test_a_look_does_not_follow_a_look_while_little_comes(self) -> None:
        self.start(4 * MIB)
        self.harness.connect("idle")
        self.harness.advance(1)
        self.assertEqual(self.pressure.used, 0)


class NameTests(PressureCase):
    """Row 290: names of 64 KiB, of characters that take four bytes each, were counted as nothing."""

    def test_names_count_as_what_they_take(self) -> None:
        name = "x" * 60_000 + "\U0001f600"
        self.start(64 * MIB)
        used = []

        def look() -> None:
            self.harness.advance(5.1)
            used.append(self.pressure.used)

        look()
        client = self.harness.connect("user", username=name)
        look()
        self.harness.connect("will", will=Publish(name, b"x"))
        look()
        client.subscribe(name, 1)
        look()
        client.publish(name, b"x", retain=True)
        client.received()
        look()
        client.stop_reading()
        client.publish(name, b"x", 1, 1)
        look()
        growth = [after - before for before, after in pairwise(used)]
        self.assertTrue(all(size >= 4 * len(name) for size in growth), growth)

    def test_long_topic_filters_have_a_share_of_the_memory(self) -> None:
        self.start(4 * MIB)
        client = self.harness.connect("a")
        for number in range(1, 100):
            client.subscribe(f"{number}/".ljust(60_000, "x"), 0)
        self.assertGreater(self.traffic.subscriptions_refused["max_memory"], 80)


class Turns(Clock):
    """A clock on which what belongs to the next turn of a reactor waits until it is told to come.

    :ivar waiting: what waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], object]] = []

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any, **kw: Any) -> IDelayedCall:
        if delay == 0:
            self.waiting.append(callable)
        return super().callLater(delay or 1e9, callable, *args, **kw)

    def next(self) -> None:
        self.waiting.pop(0)()


class SampleTests(SynchronousTestCase):
    def start(self, clients: int) -> None:
        harness = BrokerHarness(limits=Limits(max_memory=1024 * MIB))
        for number in range(clients):
            harness.connect(str(number))
        shared, self.turns = harness.shared, Turns()
        self.pressure = Pressure(harness.broker, shared.flow, shared.connections, self.turns)
        self.pressure.start()
        self.turns.pump([1.0] * 5)

    def test_many_sessions_are_looked_at_some_in_each_turn(self) -> None:
        self.start(2 * SLICE + 1)
        for _ in range(2):
            self.assertEqual(self.pressure.used, 0)
            self.turns.next()
        self.turns.next()
        self.assertGreater(self.pressure.used, SLICE * 2 * 8192)
        self.assertEqual(self.turns.waiting, [])

    def test_the_kernel_is_asked_for_some_sockets_in_each_turn(self) -> None:
        self.start(0)
        self.turns.pump([1.0] * 5)
        sockets = [Deaf(LEAST) for _ in range(4 * SLICE + 1)]
        self.pressure.sockets, self.pressure.kernel = sockets, lambda: 1024 * MIB
        self.turns.pump([1.0] * 6)
        for asked in range(SLICE, 4 * SLICE, SLICE):
            self.assertEqual((sum(socket.asked for socket in sockets), self.pressure.used), (asked, 0))
            self.turns.next()
        self.turns.next()
        self.turns.next()
        self.assertEqual(self.pressure.used, LEAST * len(sockets))

    def test_the_end_comes_between_two_turns(self) -> None:
        self.start(1)
        self.pressure.stop()
        self.turns.next()
        self.assertEqual((self.pressure.used, self.turns.waiting), (0, []))


class BugTests(PressureCase):
    def test_a_bug_does_not_end_the_looking(self) -> None:
        """Row 85."""
        self.start(4 * MIB, max_queued_messages=1_000_000)
        for name, share in (("one", 0.7), ("two", 0.5)):
            self.receiver(name, clean=False).lose()
            self.fill(name, share)
        self.patch(self.harness.broker.clients, "observers", [None])
        self.harness.advance(5.1)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertEqual(self.traffic.internal_errors, 1)
        self.harness.broker.clients.observers.clear()
        self.harness.advance(5.1)
        self.fill("two", 0.6)
        self.harness.advance(5.1)
        self.assertEqual(self.traffic.sessions_shed, 2)

    def test_without_a_budget_nothing_is_looked_at(self) -> None:
        harness = BrokerHarness()
        before = len(harness.clock.getDelayedCalls())
        harness.shared.pressure.start()
        self.assertEqual(len(harness.clock.getDelayedCalls()), before)


class DurableTests(PressureCase):
    def test_a_durable_session_loses_its_connection_and_nothing_that_waits(self) -> None:
        """Row 311."""
        self.start(1 * MIB, store=MemorySessionStore())
        slow = self.receiver("slow", clean=False)
        for number in range(1, 11):
            self.harness.connect("sender").publish("slow", bytes(200 * KIB), 1, number)
            self.harness.turn()
        self.harness.advance(10)
        self.assertEqual((slow.closed, self.traffic.receivers_dropped), (True, 1))
        again = self.harness.connect("slow", clean_session=False)
        taken = [packet for packet in again.connack if isinstance(packet, Publish)]
        self.assertEqual((len(taken), again.connack[0]), (10, Connack(True, ConnectReturnCode.ACCEPTED)))
