"""NotifyBus against a PostgreSQL that restarts, hangs and refuses; payloads, and what is made of them."""

import signal
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from platziverse.bus.making import make_bus
from platziverse.bus.notify import Joints, Parts
from platziverse.bus.settings import BusSettings
from tests.bus.test_redis import BusTestCase, Steps, reactor
from tests.doubles.membership import MemoryMembership
from tests.doubles.receiver import Receiver
from tests.servers import MISSING, Cluster, cluster

TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'platziverse-bus'"""


class NotifyTestCase(BusTestCase):
    skip = MISSING or None

    def bus(self, url: str, member: MemoryMembership, name: str = "", **settings: Any) -> Any:
        """Make a bus on the database ``url``, which is that of the daemon, or with ``own=True`` not."""
        own = settings.pop("own", False)
        settings |= {"url": url if own else "postgresql:", "name": name or self.name}
        bus = make_bus(BusSettings(**settings), reactor, member, lambda: "" if own else url)
        self.addCleanup(bus.stop)  # type: ignore[union-attr]
        return bus

    def own_cluster(self) -> Cluster:
        server = Cluster()
        self.addCleanup(server.remove)
        return server


class NotifyTests(NotifyTestCase):
    @inlineCallbacks
    def test_a_database_that_restarts(self) -> Steps:
        server = self.own_cluster()
        first, second, receiver = yield self.two(server.dsn())
        first.send(4, b"before")
        yield self.until(lambda: receiver.frames)
        server.stop()
        yield self.until(lambda: first.state.startswith("away") and second.state.startswith("away"))
        first.send(4, b"meanwhile")
        yield self.until(lambda: first.lost)
        server.start()
        yield self.until(lambda: (first.state, second.state) == ("ready", "ready"))
        self.assertEqual((receiver.gaps, first.lost), ([1], 1))
        first.send(4, b"after")
        yield self.until(lambda: receiver.frames == [(1, b"before"), (1, b"after")])
        self.assertEqual(self.count("the bus postgresql: is there again, after"), 2)

    @inlineCallbacks
    def test_a_connection_that_the_database_ends(self) -> Steps:
        server = self.own_cluster()
        first, _, receiver = yield self.two(server.dsn())
        ended = server.execute(TERMINATE)
        self.assertEqual(len(ended), 4)
        yield self.until(lambda: receiver.gaps)
        yield self.until(lambda: first.state == "ready")
        first.send(4, b"after")
        yield self.until(lambda: receiver.frames)

    @inlineCallbacks
    def test_a_database_that_hangs(self) -> Steps:
        """What is sent beyond ``bus.max_pending`` is dropped, and silence ends the connection."""
        server = self.own_cluster()
        first, second, receiver = yield self.two(server.dsn(), max_pending=20_000)
        server.signal_all(signal.SIGSTOP)
        for _ in range(5):
            first.send(4, bytes(8000))
            yield deferLater(reactor, 0.01)
        yield self.until(lambda: first.lost == 3)
        self.assertEqual(self.count("frames are dropped beyond 20000 bytes (bus.max_pending)"), 3)
        yield self.until(lambda: first.state.startswith("away") and second.state.startswith("away"))
        self.assertIn("no answer from the database within 5.0 s", first.state)
        server.signal_all(signal.SIGCONT)
        yield self.until(lambda: (first.state, second.state) == ("ready", "ready"))
        self.assertIn(1, receiver.gaps)
        first.send(4, bytes(8000))
        yield self.until(lambda: receiver.frames)

    @inlineCallbacks
    def test_a_database_that_refuses_is_said(self) -> Steps:
        bus = self.bus(cluster().dsn("there_is_none"), self.members.join(1))
        bus.start(Receiver())
        yield self.until(lambda: bus.state.startswith("away"))
        self.assertIn('database "there_is_none" does not exist', bus.state)

    @inlineCallbacks
    def test_a_stop_waits_for_connections_that_are_being_made(self) -> Steps:
        server = cluster()
        yield deferLater(reactor, 0)  # trial's own timer begins
        for turns in range(12):
            before = set(reactor.getDelayedCalls())
            bus = self.bus(server.dsn(), self.members.join(turns + 1))
            bus.start(Receiver())
            for _ in range(turns):
                yield deferLater(reactor, 0)
            yield bus.stop()
            yield deferLater(reactor, 0)  # a statement that was answered is told of in the next turn
            self.assertEqual(set(reactor.getDelayedCalls()), before)

    @inlineCallbacks
    def test_a_database_may_be_another_one_than_that_of_the_daemon(self) -> Steps:
        url = f"postgresql:///postgres?host={cluster().directory}&user=postgres"
        first, _, receiver = yield self.two(url, own=True)
        first.send(4, b"elsewhere")
        yield self.until(lambda: receiver.frames)

    @inlineCallbacks
    def test_a_start_waits_for_the_database_of_the_daemon(self) -> Steps:
        dsn = [""]
        bus: Any = make_bus(
            BusSettings(url="postgresql:", name=self.name), reactor, self.members.join(1), lambda: dsn[0]
        )
        self.addCleanup(bus.stop)
        started = bus.start(Receiver())
        yield self.until(lambda: bus.state == "away: the database has not started yet")
        dsn[0] = cluster().dsn()
        yield started

    @inlineCallbacks
    def test_payloads_that_are_none_of_ours_are_refused(self) -> Steps:
        first, second, receiver = yield self.two(cluster().dsn())
        mark = uuid4().hex[:16]
        for payload in ("", "hello", "é" * 30, f"{mark}.00000000AAAA", f"{mark}>00000000AAAA", f"{mark}?"):
            cluster().execute("SELECT pg_notify(%s, %s)", (f"pv_{self.name}_2", payload))
        first.send(4, b"ours")
        yield self.until(lambda: receiver.frames)
        self.assertEqual((receiver.frames, receiver.gaps), ([(1, b"ours")], []))
        self.assertEqual(sum(second.inbox.refused.values()), 4)

    @inlineCallbacks
    def test_the_same_bytes_twice_in_one_statement_arrive_twice(self) -> Steps:
        """PostgreSQL drops a payload that it has in the same transaction already."""
        first, _, receiver = yield self.two(cluster().dsn())
        for _ in range(2):
            first.send(4, b"x" * 50_000)
            yield deferLater(reactor, 0)
        yield self.until(lambda: len(receiver.frames) == 2)
        self.assertEqual(receiver.gaps, [])

    @inlineCallbacks
    def test_many_daemons_send_large_frames_at_once(self) -> Steps:
        members = [self.members.join(number) for number in range(1, 5)]
        buses = [self.bus(cluster().dsn(), member) for member in members]
        receivers = [Receiver() for _ in buses]
        yield gatherResults([bus.start(one) for bus, one in zip(buses, receivers, strict=True)])
        for number, bus in enumerate(buses):
            for turn in range(3):
                bus.send(-1, bytes([number, turn]) * 30_000)
                yield deferLater(reactor, 0)
        yield self.until(lambda: all(len(one.frames) == 9 for one in receivers))
        for number, one in enumerate(receivers):
            others = [other for other in range(4) if other != number]
            wanted = {(other + 1, bytes([other, turn]) * 30_000) for other in others for turn in range(3)}
            self.assertEqual((set(one.frames), one.gaps), (wanted, []))


class PayloadTests(SynchronousTestCase):
    @given(st.lists(st.integers(1, 20_000), min_size=1, max_size=4), st.randoms())
    def test_parts_of_several_senders_may_be_mixed(self, sizes: list[int], chance: Any) -> None:
        messages = {f"{number:016x}": bytes([number]) * size for number, size in enumerate(sizes)}
        queues = [Parts(mark).cut(message) for mark, message in messages.items()]
        joints, found = Joints(), []
        while any(queues):
            payload = chance.choice([queue for queue in queues if queue]).pop(0)
            self.assertTrue(len(payload) < 8000)
            message = joints.take("channel", payload)
            found += [] if message is None else [message]
        self.assertEqual(sorted(found), sorted(messages.values()))

    def test_no_payload_is_like_another(self) -> None:
        parts = Parts("0" * 16)
        payloads = [payload for _ in range(3) for payload in parts.cut(b"x" * 50_000)]
        self.assertEqual(len(set(payloads)), len(payloads))

    def test_a_message_whose_beginning_is_missing_is_dropped(self) -> None:
        joints, parts = Joints(), Parts("0" * 16)
        for payload in parts.cut(bytes(20_000))[1:]:
            self.assertIsNone(joints.take("channel", payload))
        (last,) = parts.cut(b"whole")
        self.assertEqual(joints.take("channel", last), b"whole")

    @given(st.text())
    def test_any_text_is_a_payload_or_raises_value_error(self, text: str) -> None:
        try:
            Joints().take("channel", text)
        except ValueError:
            return
        self.assertIn(text[16:17], "<->.")
