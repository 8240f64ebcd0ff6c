"""Daemons that share their clients, when the network to Redis or to PostgreSQL is bad for one of them."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tests.crash.waiting import TooLate, poll
from tests.integration.daemon import PATIENCE, Daemon, DaemonTestCase
from tests.integration.test_heirs import OWNERS, Client
from tests.proxy import Proxy
from tests.redis import MISSING_REDIS, RedisServer
from tests.servers import MISSING, Cluster, execute

#: Seconds of silence after which a server of the bus is given up.
SILENCE: Final = 5.0
#: Messages of one publisher in a test, and reports of one agent.
MESSAGES: Final = 50
REPORTS: Final = 10

WAITING: Final = "SELECT count(*) FROM mqtt_queue"


def agent_message(number: int) -> bytes:
    agent = {"uuid": "a", "username": "a", "name": "a", "hostname": "a", "pid": 1}
    metrics = [{"type": "n", "value": str(number)}]
    return json.dumps({"agent": agent, "metrics": metrics, "timestamp": time.time() * 1000}).encode()


class BadNetworks(DaemonTestCase):
    """The first daemon, ``near``, has a Proxy to each server; the other one reaches them directly."""

    skip = MISSING or MISSING_REDIS or None

    def setUp(self) -> None:
        cluster = Cluster()
        self.addCleanup(cluster.remove)
        self.dsn = cluster.database("template1")
        self.redis = RedisServer()
        self.addCleanup(self.redis.remove)
        self.bus = self.proxy(self.redis.port)
        self.database = self.proxy(f"{cluster.directory}/.s.PGSQL.5432")
        name = self.dsn.split("dbname=")[1].split()[0]
        through = f"host=127.0.0.1 port={self.database.port} user=postgres dbname={name}"
        self.near = self.start(through, f"redis://127.0.0.1:{self.bus.port}")
        self.far = self.start(self.dsn, self.redis.url)
        self.near.wait_for("daemon 2 on .* shares our clients")
        self.ports = self.near.port(), self.far.port()

    def proxy(self, target: "int | str") -> Proxy:
        proxy = Proxy(target)
        self.addCleanup(proxy.stop)
        return proxy

    def start(self, dsn: str, url: str) -> Daemon:
        daemon = self.daemon("--database", dsn, environ={"PLATZIVERSE_BUS_URL": url})
        daemon.ready()
        return daemon

    def client(self, number: int, name: str, **more: Any) -> Client:
        client = Client(self.ports[number], name, **more)
        self.addCleanup(client.end)
        return client

    def durable(self) -> list[Client]:
        """A durable Session at each daemon that listens to both."""
        clients = [self.client(number, f"durable-{number}", clean=False) for number in range(2)]
        for client in clients:
            client.subscribe("to/+")
        return clients

    def publishing(self) -> "tuple[Callable[[], bool], list[bytes]]":
        """Messages at both daemons at QoS 1; whether all are acknowledged, and their payloads."""
        acknowledged: set[tuple[int, int]] = set()
        payloads = []
        for number in range(2):
            publisher = self.client(number, f"publisher-{number}")
            publisher.paho.on_publish = lambda *told, number=number: acknowledged.add((number, told[2]))
            for n in range(MESSAGES):
                payloads.append(b"%d:%d" % (number, n))
                publisher.paho.publish(f"to/{number}", payloads[-1], 1)
        return lambda: len(acknowledged) == 2 * MESSAGES, payloads

    def has(self, client: Client, payloads: list[bytes]) -> bool:
        return set(payloads) <= {payload for _, payload, _ in client.received}

    def have(self, clients: list[Client], payloads: list[bytes]) -> None:
        """Each of them gets everything, in order from each daemon."""
        for client in clients:
            try:
                poll(partial(self.has, client, payloads), PATIENCE, "everything comes")
            except TooLate as error:
                rows = execute(self.dsn, "SELECT session, count(*) FROM mqtt_queue GROUP BY 1")
                missing = set(payloads) - {payload for _, payload, _ in client.received}
                raise AssertionError(
                    f"{error}: {len(missing)} such as {sorted(missing)[:3]}, {rows}\n"
                    f"{self.near.output}\n---\n{self.far.output}"
                ) from None
            for number in range(2):
                came = [payload for topic, payload, _ in client.received if topic == f"to/{number}"]
                first = list(dict.fromkeys(came))
                self.assertEqual(first, [one for one in payloads if one.startswith(b"%d:" % number)])

    def all_is_well(self) -> None:
        """Nothing waits, and new clients of both daemons meet."""
        poll(lambda: execute(self.dsn, WAITING) == [(0,)], PATIENCE, "nothing waits", interval=0.1)
        speaker, listener = self.client(0, "speaker"), self.client(1, "listener")
        listener.subscribe("meet")

        def heard() -> bool:
            speaker.publish("meet", b"x")
            return bool(listener.received)

        poll(heard, PATIENCE, "they meet", interval=0.1)
        for daemon in self.near, self.far:
            self.assertNotIn("Traceback", daemon.output)
            self.assertNotIn("is dead", daemon.output)

    # -- Redis -------------------------------------------------------------------------------------

    def bus_is_away(self, strike: Callable[[], object]) -> None:
        """One line says so; and what is published after ``strike`` is not lost."""
        durable = self.durable()
        strike()
        is_acknowledged, payloads = self.publishing()
        self.near.wait_for(r"the bus \S+ is away: \S+ has not answered for 5 s")
        poll(is_acknowledged, PATIENCE, "all are acknowledged although the bus is away")
        self.have(durable, payloads)

    def test_a_black_hole_before_redis_costs_time_and_nothing_else(self) -> None:
        """Row 426."""
        self.bus_is_away(lambda: self.bus.swallow(True))
        self.bus.swallow(False)
        self.near.wait_for(r"the bus \S+ is there again")
        self.all_is_well()
        away = [line for line in self.near.lines if "is away" in line]
        self.assertLessEqual(len(away), 3, away)
        self.assertNotIn("is away", self.far.output)

    def test_a_connection_to_redis_that_only_we_believe_in_is_given_up(self) -> None:
        """Row 426: as when a firewall forgets it."""
        self.bus_is_away(self.bus.forget)
        self.near.wait_for(r"the bus \S+ is there again")
        self.all_is_well()

    def test_a_redis_that_is_a_second_away_is_slow_and_no_more(self) -> None:
        """Row 427."""
        self.bus.slow_down(0.5)  # in each direction
        durable = self.durable()
        is_acknowledged, payloads = self.publishing()
        poll(is_acknowledged, PATIENCE, "all are acknowledged")
        self.have(durable, payloads)
        time.sleep(2 * SILENCE)  # enough for somebody to lose patience
        self.assertNotIn("is away", self.near.output)
        self.bus.slow_down(0.0)
        self.all_is_well()

    # -- PostgreSQL --------------------------------------------------------------------------------

    def reports(self) -> "Callable[[], set[str]]":
        """Reports of an agent at the first daemon; the values of those that are acknowledged by now."""
        acknowledged: list[int] = []
        agent = self.client(0, "a")
        agent.paho.on_publish = lambda *told: acknowledged.append(told[2])
        values = {
            agent.paho.publish("agent/message", agent_message(number), 1).mid: str(number)
            for number in range(REPORTS)
        }
        return lambda: {values[identifier] for identifier in list(acknowledged)}

    def all_are_acknowledged(self, acknowledged: "Callable[[], set[str]]") -> None:
        poll(lambda: len(acknowledged()) == REPORTS, PATIENCE, "all are acknowledged")
        self.assertEqual(len(self.metrics()), REPORTS)

    def metrics(self) -> list[str]:
        """The values that are stored, a message that is stored twice counting twice."""
        return [value for (value,) in execute(self.dsn, "SELECT value FROM metrics")]

    def test_a_black_hole_before_postgresql_holds_what_must_be_stored(self) -> None:
        """Row 428: for less long than after which a daemon is dead."""
        durable = self.durable()
        self.database.swallow(True)
        acknowledged = self.reports()
        time.sleep(SILENCE / 3)
        self.assertFalse(acknowledged())  # nothing is let through
        self.database.swallow(False)
        self.all_are_acknowledged(acknowledged)
        is_acknowledged, payloads = self.publishing()
        poll(is_acknowledged, PATIENCE, "all are acknowledged")
        self.have(durable, payloads)
        self.all_is_well()

    def test_a_connection_to_postgresql_that_only_we_believe_in_is_given_up(self) -> None:
        """Row 428: statements have a deadline, and new connections work at once."""
        self.database.forget()
        self.all_are_acknowledged(self.reports())
        self.assertNotIn("Traceback", self.near.output)

    def test_a_postgresql_that_is_a_second_away_is_slow_and_no_more(self) -> None:
        """Row 427."""
        self.database.slow_down(0.5)  # in each direction
        self.all_are_acknowledged(self.reports())
        durable = self.durable()
        is_acknowledged, payloads = self.publishing()
        poll(is_acknowledged, PATIENCE, "all are acknowledged")
        self.have(durable, payloads)
        self.database.slow_down(0.0)
        self.all_is_well()

    def test_a_daemon_that_alone_is_cut_off_from_postgresql_is_inherited_from_and_begins_anew(self) -> None:
        """Row 429."""
        (durable,) = (self.client(0, "durable", clean=False),)
        durable.subscribe("to/+")
        self.database.swallow(True)
        acknowledged = self.reports()
        poll(lambda: execute(self.dsn, OWNERS) == [("durable", 2)], PATIENCE, "it has an heir", interval=0.2)
        self.assertFalse(acknowledged())  # nothing is let through
        publisher = self.client(1, "publisher")
        publisher.publish("to/1", b"to its heir")
        self.database.swallow(False)
        poll(lambda: durable.disconnected, PATIENCE, "the client has to go")
        self.near.wait_for("other daemons have taken over from this one")
        self.near.wait_for("Loaded 0 Sessions")
        # A statement that was held up is committed now, and may be acknowledged before the client has to go:
        # a dead daemon's Sessions are another's, its agents' reports are not. What is acknowledged is stored.
        self.assertLessEqual(acknowledged(), set(self.metrics()))
        again = self.client(1, "durable", clean=False)
        self.assertEqual(again.present, [True])
        poll(lambda: again.received, PATIENCE, "what has waited comes")
        self.assertEqual([payload for _, payload, _ in again.received], [b"to its heir"])
        self.assertNotIn("Traceback", self.near.output)
