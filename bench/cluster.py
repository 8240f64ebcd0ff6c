"""What it costs that several brokers are one: messages from a client of one to a client of another.

A message may come alone, or 20 or 100 in a turn of the reactor. Each set is three brokers on one server:
ours over Redis and over PostgreSQL, aedes and mosca over Redis. Then as many messages as go through one
daemon and through two.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from attrs import frozen

from bench.accounting import cpu_seconds, settle, tree_cpu_seconds
from bench.clients import Client, exactly
from bench.generator import Job
from bench.measure import alternating, generate
from bench.peers import PLATZIVERSE_SETTINGS, Aedes, Mosca, Peer, Platziverse, Running
from bench.results import Outcome, Results, provenance, simple_table, three_digits
from bench.scenarios import AHEAD, WINDOW
from tests.crash import wire
from tests.redis import MISSING_REDIS, RedisServer
from tests.servers import Cluster

IN_A_TURN: Final = (1, 20, 100)
#: Messages of one measurement.
MESSAGES: Final = {1: 1000, 20: 10_000, 100: 20_000}
BROKERS: Final = 3
PAYLOAD: Final = bytes(64)
#: Pairs of a publisher and a subscriber, each on a topic of its own.
PAIRS: Final = 20
#: How far a subscriber is from its publisher: on the same daemon, or on the next one.
SPREADS: Final = {"beside": 0, "across": 1}


@frozen
class Trio:
    """Brokers that are one.

    :param server: the process between them.
    """

    name: str
    brokers: list[Running]
    server: int

    @property
    def pids(self) -> list[int]:
        return [broker.pid for broker in self.brokers]


@frozen
class Between:
    """What may stand between brokers: a database with our tables, and a Redis."""

    dsn: str
    redis: int


def ours(between: Between, url: str) -> Peer:
    """A daemon with this bus."""
    return Platziverse("platziverse", between.dsn, PLATZIVERSE_SETTINGS | {"PLATZIVERSE_BUS_URL": url})


OVER_REDIS: Final = "platziverse, Redis"
OVER_POSTGRESQL: Final = "platziverse, PostgreSQL"
#: Each makes one of its brokers.
SETS: Final[dict[str, Callable[[Between], Peer]]] = {
    OVER_REDIS: lambda between: ours(between, f"redis://127.0.0.1:{between.redis}"),
    OVER_POSTGRESQL: lambda between: ours(between, "postgresql:"),
    "aedes, Redis": lambda between: Aedes("aedes", between.redis),
    "mosca, Redis": lambda between: Mosca("mosca", between.redis),
}


class Pair:
    """A publisher and a subscriber of QoS 0, of one broker or of two."""

    def __init__(self, near: Running, far: Running) -> None:
        self._subscriber = Client(("127.0.0.1", far.ports["mqtt"]), "cluster-s")
        self._subscriber.subscribe(["cluster/bench"], 0)
        self._publisher = Client(("127.0.0.1", near.ports["mqtt"]), "cluster-p")
        self._packet = wire.publish("cluster/bench", PAYLOAD, 0)

    def pass_on(self, messages: int) -> float:
        """Publish so many at once; return the seconds until the last of them has come."""
        began = time.perf_counter()
        self._publisher.socket.sendall(self._packet * messages)
        exactly(self._subscriber.socket, len(self._packet) * messages)
        return time.perf_counter() - began

    def meet(self) -> None:
        """Wait until messages come: not every broker knows of a Subscription when it has acknowledged it."""
        self._subscriber.socket.settimeout(0.5)
        for _ in range(20):
            try:
                self.pass_on(1)
                break
            except TimeoutError:
                continue
        time.sleep(0.5)  # and what was late comes too
        self._subscriber.socket.settimeout(0.0)
        with suppress(BlockingIOError):
            self._subscriber.socket.recv(1 << 16)
        self._subscriber.socket.settimeout(30)

    def leave(self) -> None:
        for client in self._publisher, self._subscriber:
            client.socket.close()


class Several:
    """The measurement of all sets.

    :param cluster: the PostgreSQL of our daemons.
    """

    def __init__(self, cluster: Cluster, rounds: int, seconds: float) -> None:
        self._cluster, self._rounds, self._seconds = cluster, rounds, seconds

    def measure(self) -> Results:
        if MISSING_REDIS:
            raise SystemExit(MISSING_REDIS)
        passed: dict[str, Any] = {}
        versions: dict[str, str] = {}
        for name, make in SETS.items():
            peer = make(Between("", 0))
            if reason := peer.missing():
                print(f"{name} is skipped: {reason}")
                continue
            versions[peer.name] = peer.version()
            passed[name] = self._passed(name)
            print(name, passed[name], flush=True)
        return {"versions": versions, "passed": passed, "rates": self._rates()}

    @contextmanager
    def _running(self, name: str, brokers: int) -> Iterator[Trio]:
        """So many brokers of a set, started, with the server between them."""
        with ExitStack() as stack:
            redis = RedisServer()
            stack.callback(redis.remove)
            peer = SETS[name](Between(self._cluster.database("template1"), redis.port))
            running = [stack.enter_context(peer.running()) for _ in range(brokers)]
            time.sleep(3)  # they have found each other
            server = self._cluster.pid if name == OVER_POSTGRESQL else redis.pid
            yield Trio(name, running, server)

    # -- one message, and many in a turn -----------------------------------------------------------

    def _passed(self, name: str) -> dict[str, Outcome]:
        """For each number of messages in a turn what one message takes, beside and across."""
        with self._running(name, BROKERS) as trio:
            return {
                f"{where} {in_a_turn}": self._median(trio, far, in_a_turn)
                for where, far in SPREADS.items()
                for in_a_turn in IN_A_TURN
            }

    def _median(self, trio: Trio, far: int, in_a_turn: int) -> Outcome:
        runs = [self._run(trio, far, in_a_turn) for _ in range(self._rounds)]
        return {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}

    def _run(self, trio: Trio, far: int, in_a_turn: int) -> Outcome:
        """CPU microseconds of a message, and milliseconds until all of a turn have come."""
        pair = Pair(trio.brokers[0], trio.brokers[far])
        pair.meet()
        settle(trio.pids)
        turns = MESSAGES[in_a_turn] // in_a_turn
        before = self._used(trio, far)
        took = sorted(pair.pass_on(in_a_turn) for _ in range(turns))
        used = [after - one for after, one in zip(self._used(trio, far), before, strict=True)]
        pair.leave()
        sender, receiver, server = (1e6 * seconds / MESSAGES[in_a_turn] for seconds in used)
        waited = {"p50_ms": took[turns // 2] * 1000, "p99_ms": took[turns * 99 // 100] * 1000}
        return {"sender": sender, "receiver": receiver, "server": server} | waited

    def _used(self, trio: Trio, far: int) -> tuple[float, float, float]:
        """CPU seconds of the sender's broker, of the receiver's if it is another one, and of the server."""
        pids = trio.pids
        receiver = cpu_seconds([pids[far]]) if far else 0.0
        return cpu_seconds([pids[0]]), receiver, tree_cpu_seconds(trio.server)

    # -- as many as go -----------------------------------------------------------------------------

    def _rates(self) -> dict[str, dict[str, Outcome]]:
        """CPU of one daemon and of two for a message of twenty pairs, at QoS 0 and 1."""
        rates: dict[str, dict[str, list[Outcome]]] = {}
        with (
            self._running(OVER_REDIS, 1) as one,
            self._running(OVER_REDIS, 2) as two,
        ):
            kinds = [("one", one, 0)] + [(where, two, far) for where, far in SPREADS.items()]
            kinds.append(("half", two, -1))
            for qos in 0, 1:
                for where, trio, far in alternating(self._rounds, kinds):
                    found = rates.setdefault(str(qos), {}).setdefault(where, [])
                    found.append(generate(self._job(trio, far, qos)))
        return {qos: {where: summed(runs) for where, runs in kinds.items()} for qos, kinds in rates.items()}

    def _job(self, trio: Trio, far: int, qos: int) -> Job:
        """Each publisher has one subscriber; ``far`` -1: half of these are on the same daemon."""
        ports = [broker.ports["mqtt"] for broker in trio.brokers]
        topics = [topic_of(number, far) for number in range(PAIRS)]
        return Job(
            port=ports[0],
            ports=ports[1:],
            pids=trio.pids,
            server=trio.server,
            publishers=PAIRS,
            subscribers=[[f"bench/{number:03}"] for number in topics],
            deliveries=1,
            qos=qos,
            window=WINDOW if qos else AHEAD,
            seconds=self._seconds,
        )


def topic_of(subscriber: int, far: int) -> int:
    """The publisher whose messages a subscriber gets; a bijection of the numbers below ``PAIRS``."""
    if far >= 0:
        return (subscriber + far) % PAIRS
    half = PAIRS // 2
    return subscriber if subscriber < half else half + (subscriber - half + 1) % half


def summed(runs: list[Outcome]) -> Outcome:
    """CPU microseconds of the daemons and of the server for a message."""
    return {
        name: statistics.median(1e6 * run[field] / run["messages"] for run in runs)
        for name, field in (("daemons", "cpu"), ("server", "server_cpu"))
    }


def section(results: Results) -> str:
    """The tables."""
    rows = [
        [name, *where_and_count(key), *(three_digits(figures[figure]) for figure in FIGURES)]
        for name, all_of_it in results["passed"].items()
        for key, figures in all_of_it.items()
    ]
    passed = simple_table(["brokers", "to", "in a turn", *FIGURES.values()], rows)
    speed = [
        [
            f"QoS {qos}, {SPREAD_NAMES[where]}",
            three_digits(found["daemons"]),
            three_digits(found["server"]),
            three_digits((1 if where == "one" else 2) * kinds["one"]["daemons"] / found["daemons"]),
        ]
        for qos, kinds in results["rates"].items()
        for where, found in kinds.items()
    ]
    headings = [
        "twenty pairs of clients",
        "CPU µs of the daemons",
        "of Redis",
        "times what one daemon can do",
    ]
    return "\n\n".join([provenance(results), passed, simple_table(headings, speed)])


FIGURES: Final = {
    "sender": "sender µs",
    "server": "server µs",
    "receiver": "receiver µs",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
}
SPREAD_NAMES: Final = {
    "one": "one daemon",
    "beside": "two, nobody hears the other",
    "across": "two, everybody hears the other",
    "half": "two, half of them hear the other",
}


def where_and_count(key: str) -> tuple[str, str]:
    where, _, count = key.partition(" ")
    return {"beside": "the same", "across": "another"}[where], count
