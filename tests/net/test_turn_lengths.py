"""A turn of the reactor is short under each of the attacks that once made it long.

What is measured is the CPU time of a turn, in this thread: a busy machine makes none of them longer. Whoever
has sent a PINGREQ waits for the turn that is under way, and is answered in the next one.
"""

import gc
import time
from collections.abc import Callable, Generator
from itertools import product
from typing import Any, Final
from unittest import TestCase

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import SynchronousTestCase

from platziverse.mqtt.packets import Packet, Pingreq, Pingresp, Puback, Publish, Subscribe, Subscription
from platziverse.testing import BrokerHarness, FakeClient
from platziverse.web.api import Api
from platziverse.web.rejections import Rejections
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.net.test_turns import run_turn
from tests.postgres.test_reader import ReaderCase
from tests.web.browser import Connection
from tests.web.tables import TableStore, clients_of
from tests.web.test_metrics import MetricsCase

#: Seconds that the longest turn may take.
LONGEST: Final = 0.1


def spent(work: Callable[[], object]) -> float:
    """The seconds of CPU time that ``work`` takes."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def at(number: int) -> IPv4Address:
    """One of eight addresses of this machine: no one may have all connections."""
    return IPv4Address("TCP", f"127.0.0.{number % 8 + 1}", 50_000)


def leave_out_the_past(test: TestCase) -> None:
    """Let the garbage collector look at no object from before: those of the other tests are no daemon's."""
    gc.collect()
    gc.freeze()
    test.addCleanup(gc.unfreeze)


class TurnLengths(SynchronousTestCase):
    """The turns of a broker on a clock that moves as work is done."""

    def setUp(self) -> None:
        self.harness = BrokerHarness()
        self.start(self.harness.clock)
        self.innocent = self.harness.connect("innocent")
        self.longest = 0.0

    def start(self, clock: Clock) -> None:
        """Let the clock move with the CPU time of this thread."""
        leave_out_the_past(self)
        self.clock, began = clock, time.thread_time()
        self.patch(clock, "seconds", lambda: clock.rightNow + time.thread_time() - began)

    def act(self, work: Callable[[], object]) -> None:
        """Do in one turn what a client makes the broker do; the innocent one is answered after it."""
        self.longest = max(self.longest, spent(work))
        self.innocent.send(Pingreq())
        self.assertIn(Pingresp(), self.innocent.received())

    def turns_until(self, done: Callable[[], bool], most: int) -> int:
        """Run turns until everything is done; how many."""
        for number in range(most):
            if done():
                return number
            self.act(lambda: run_turn(self.clock))
        raise AssertionError(f"not done after {most} turns")

    def check(self) -> None:
        self.assertLess(self.longest, LONGEST)

    def subscribe(self, client: FakeClient, filters: list[str]) -> None:
        for start in range(0, len(filters), 500):
            client.send(Subscribe(1, [Subscription(one, 0) for one in filters[start : start + 500]]))
            run_turn(self.clock)
            client.received()


class Broker(TurnLengths):
    def many_filters(self) -> list[str]:
        """33,000 wildcard filters; the first levels of the Topic Names for which all are looked at."""
        names = [str(level) for level in range(15)]
        filters = ["/".join(choice) for choice in product(*[(name, "+") for name in names])][1:]
        self.subscribe(self.harness.connect("receiver"), filters)
        return names[:-1]

    def test_publishes_for_which_33_000_wildcard_filters_are_looked_at(self) -> None:
        """Row 183: a hundred of them took 2.9 s."""
        names, attacker = self.many_filters(), self.harness.connect("attacker")
        messages: list[Packet] = [Publish("/".join([*names, str(last)]), b"") for last in range(100, 200)]
        self.act(lambda: attacker.send(*messages))
        turns = self.turns_until(lambda: not attacker.held, 200)
        self.assertGreater(turns, 90)
        self.check()

    def test_twenty_publishers_with_new_topics_for_which_33_000_filters_are_looked_at(self) -> None:
        """Row 341: the first messages of all of them took 0.3 s in one turn."""
        names = self.many_filters()
        attackers = [self.harness.connect(f"attacker-{number}") for number in range(20)]

        def attack() -> None:
            for number, attacker in enumerate(attackers):
                topics = ["/".join([*names, f"{number}-{last}"]) for last in range(3)]
                attacker.send(
                    *[Publish(topic, b"", 1, packet_id=last) for last, topic in enumerate(topics, 1)]
                )

        self.act(attack)
        self.turns_until(lambda: not any(attacker.held for attacker in attackers), 200)
        for attacker in attackers:
            self.assertEqual(attacker.received(), [Puback(1), Puback(2), Puback(3)])
        self.check()

    def test_a_message_whose_receivers_are_known_waits_for_no_search(self) -> None:
        names = self.many_filters()
        publisher, attacker = self.harness.connect("publisher"), self.harness.connect("attacker")
        publisher.publish("known", b"", 1, 1)
        publisher.received()
        attacker.send(Publish("/".join([*names, "new"]), b""))
        publisher.send(Publish("known", b"", 1, packet_id=2), Publish("unknown", b"", 1, packet_id=3))
        self.assertEqual((publisher.received(), publisher.held), ([Puback(2)], True))
        run_turn(self.clock)
        self.assertEqual((publisher.received(), publisher.held), ([Puback(3)], False))

    def test_subscribes_of_1_000_filters_against_10_000_deep_retained_topics(self) -> None:
        """Row 184: those of twenty clients took 7 s."""
        for number in range(10_000):
            topic = f"{number % 10}/{number % 100}/" + "/".join("abcdefgh") + f"/{number}"
            self.harness.broker.announce(topic, b"x", retain=True)
        clients = [self.harness.connect(f"client-{number}") for number in range(20)]
        filters = [f"{'+/' * 10}{number}" for number in range(1000)]
        packet = Subscribe(1, [Subscription(one, 0) for one in filters])

        def attack() -> None:
            for client in clients:
                client.send(packet)

        self.act(attack)
        for _ in range(300):
            self.act(lambda: run_turn(self.clock))
        self.assertEqual(len(self.harness.broker.subscriptions), 20 * 1000)
        self.assertGreater(self.harness.broker.traffic.publish_sent[0], 0)
        self.check()


class Http(TurnLengths):
    def test_pipelined_requests_for_all_clients(self) -> None:
        """Row 182: 400 of them held the reactor for 15 s."""
        for number in range(1000):
            self.subscribe(self.harness.connect(f"client-{number}"), [f"{number}/{n}" for n in range(100)])
        store = TableStore()
        api: Any = Api(store, self.clock.seconds, clients_of(self.harness, store), Rejections(store), {})
        site = make_site(self.clock, WebSettings(), lambda: "", [("api", api)])
        # One is answered in a turn, so the others would show nothing more.
        self.pipeline(Connection(site), "/api/clients", 40)

    def pipeline(self, connection: Connection, path: str, count: int) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost:8083\r\n\r\n".encode()
        statuses: list[int] = []

        def answered() -> bool:
            statuses.extend(response.status for response in connection.responses())
            return len(statuses) == count

        self.act(lambda: connection.send(request * count))
        self.turns_until(answered, 3 * count)
        self.assertEqual(set(statuses), {200})
        self.check()


class Metrics(MetricsCase, Http):
    def setUp(self) -> None:
        MetricsCase.setUp(self)
        self.longest = 0.0
        self.start(self.clock)
        self.innocent = self.harness.connect("innocent")

    def test_pipelined_requests_for_metrics(self) -> None:
        """Row 182: a thousand of them took 1.4 s."""
        self.pipeline(Connection(self.site), "/metrics", 1000)

    def test_pipelined_requests_of_1000_connections_that_read_nothing(self) -> None:
        """Row 340: each had one answered in a turn, and a client waited 5 to 9 s for its CONNACK."""
        connections = [Connection(self.site, at(number)) for number in range(1000)]
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost:8083\r\n\r\n"

        def attack() -> None:
            for connection in connections:
                connection.send(request * 400)

        self.act(attack)
        self.assertEqual(Connection(self.site, at(1)).request("/healthz").status, 200)
        answered = 0
        for _ in range(60):
            self.act(lambda: run_turn(self.clock))
            answered += sum(bool(connection.transport.value()) for connection in connections)
            for connection in connections:
                connection.transport.clear()
        self.assertGreater(answered, 100)
        self.check()

    test_pipelined_requests_for_all_clients = None  # type: ignore[assignment]


class Agents(ReaderCase):
    """The turns of the real reactor, with a real database."""

    @inlineCallbacks
    def test_lists_of_100_000_agents(self) -> "Generator[Deferred[Any], Any, None]":
        """Row 282: one took 0.5 s."""
        self.execute(
            """INSERT INTO agents (uuid, username, name, hostname, pid, connected, "createdAt", "updatedAt")
            SELECT 'agent-' || n, 'u', 'n', 'h', 1, true, now(), now() FROM generate_series(1, 100000) n
            RETURNING 1"""
        )
        clients = clients_of(BrokerHarness(), TableStore())
        api: Any = Api(self.reader, time.time, clients, Rejections(self.reader), {})
        site = make_site(reactor, WebSettings(), lambda: "", [("api", api)])
        leave_out_the_past(self)
        turns: list[float] = []
        last = [time.thread_time()]

        def look() -> None:
            now = time.thread_time()
            turns.append(now - last[0])
            last[0] = now

        looking = LoopingCall(look)
        looking.start(0)
        connections = [Connection(site) for _ in range(4)]
        for connection in connections:
            connection.send(b"GET /api/agents HTTP/1.1\r\nHost: localhost:8083\r\n\r\n")
        found: list[Any] = []
        while len(found) < len(connections):
            yield deferLater(reactor, 0)
            for connection in connections:
                found += connection.responses()
        looking.stop()
        for connection in connections:
            connection.transport.loseConnection()
        self.assertEqual([len(response.json) for response in found], [1000] * 4)
        self.assertLess(max(turns), LONGEST)
