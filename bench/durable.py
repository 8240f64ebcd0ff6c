"""Durable Sessions: what their messages cost, how they come to a client that is back, what a crash leaves.

The figures are stored in bench/results/durable.json.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from bench.generator import Job
from bench.kept import Enough, come_back, fresh_name, leave, publish
from bench.measure import Failed, Outcome, alternating, generate
from bench.peers import (
    MOSQUITTO_SETTINGS,
    PLATZIVERSE_SETTINGS,
    AedesOnRedis,
    Mosquitto,
    Peer,
    Platziverse,
    RabbitMQ,
    Running,
)
from bench.results import NONE, Results, provenance, rounded, simple_table, three_digits
from bench.scenarios import ONE_SUBSCRIBER, WINDOW
from tests.crash.counters import scrape
from tests.integration.daemon import ROOT
from tests.servers import Cluster

#: As in the other scenarios, with the file that it writes when it is stopped, and each half an hour.
PERSISTENCE: Final = MOSQUITTO_SETTINGS.replace(
    "persistence false", "persistence true\npersistence_location {folder}/"
)
TITLES: Final = {
    "platziverse": "platziverse",
    "mosquitto": "Mosquitto, persistence true",
    "aedes": "aedes, aedes-persistence-redis",
    "rabbitmq": "RabbitMQ, MQTT plugin",
}
#: Messages that wait for a client that comes back.
QUEUES: Final = (1000, 100_000)
#: Messages that were acknowledged when the broker and its database are killed.
ACKNOWLEDGED: Final = 20_000
FAN_OUT: Final = 1000


@frozen
class Load:
    """What publishers do, and which receivers they have.

    :param receivers: Sessions that one counted message stands for.
    """

    key: str
    title: str
    job: dict[str, Any] = field(factory=dict)
    receivers: int = 1


QUICK: Final[dict[str, Any]] = {
    "publishers": 10,
    "subscribers": ONE_SUBSCRIBER,
    "deliveries": 1,
    "qos": 1,
    "window": 10,
}
ABSENT: Final[dict[str, Any]] = {"publishers": 10, "absent": 1, "qos": 1, "window": WINDOW}
LOADS: Final = (
    Load("clean", "to one connected, Clean Session 1, window 10", QUICK),
    Load("connected", "to one connected, Clean Session 0, window 10", QUICK | {"persistent": True}),
    Load("deep", "to one connected, Clean Session 1, window 100", QUICK | {"window": WINDOW}),
    Load(
        "flooded",
        "to one connected, Clean Session 0, window 100",
        QUICK | {"persistent": True, "window": WINDOW},
    ),
    Load("absent", "to one absent", ABSENT),
    Load("slow", "to one absent, 1,000 a second", ABSENT | {"rate": 1000}),
    Load(
        "fanout",
        "to 1,000, half of them absent, per receiver",
        {
            "subscribers": ONE_SUBSCRIBER * (FAN_OUT // 2),
            "persistent": True,
            "absent": FAN_OUT // 2,
            "deliveries": FAN_OUT // 2,
            "qos": 1,
            "window": 8,
        },
        receivers=2,
    ),
)


@frozen
class Durable:
    """What is measured with a PostgreSQL that fsyncs.

    :param cluster: the PostgreSQL of the daemon.
    :param seconds: of each load.
    :param queued: messages in the queue that is read under a held snapshot.
    """

    cluster: Cluster
    rounds: int
    seconds: float
    queued: int = 1_000_000

    def measure(self) -> Results:
        """All figures; printed as they come."""
        dsn = self.cluster.database("template1")
        everybody: list[Peer] = [
            Platziverse("platziverse", dsn, PLATZIVERSE_SETTINGS),
            Mosquitto("mosquitto", PERSISTENCE),
            AedesOnRedis("aedes"),
            RabbitMQ("rabbitmq"),
        ]
        there = [peer for peer in everybody if not peer.missing()]
        loads = {}
        for load in LOADS:
            loads[load.key] = {"title": load.title, "peers": self._load(load, there)}
            print(load.title, json.dumps(loads[load.key]["peers"]), flush=True)
        return {
            "versions": {peer.name: peer.version() for peer in there},
            "loads": loads,
            "returns": {peer.name: said("returns", self._returns(peer)) for peer in there},
            "crashes": {peer.name: said("crash", self._crash(peer)) for peer in there},
            "snapshot": said("snapshot", script("bench.sessions", "--json", "--queued", str(self.queued))),
            "start": said("start", script("bench.loading", "postgres", "json")),
        }

    # -- loads -----------------------------------------------------------------------------------

    def _load(self, load: Load, there: list[Peer]) -> dict[str, Outcome]:
        """The medians of all rounds, by peer."""
        runs: dict[str, list[Outcome]] = {}
        with ExitStack() as stack:
            brokers = [stack.enter_context(peer.running()) for peer in there]
            for running in alternating(self.rounds, brokers):
                try:
                    runs.setdefault(running.name, []).append(self._run(load, running))
                except Failed as error:
                    print(f"  {running.name}: {error}; {running.obituary()}", flush=True)
        return {
            name: {figure: rounded(statistics.median(run[figure] for run in all_)) for figure in all_[0]}
            for name, all_ in runs.items()
            if all_
        }

    def _run(self, load: Load, running: Running) -> Outcome:
        ours = running.name == "platziverse"
        server = self.cluster.pid if ours else running.server
        job = Job(
            port=running.ports["mqtt"], pids=[running.pid], server=server, seconds=self.seconds, **load.job
        )
        before = written(running) if ours else {}
        found = generate(job)
        count = found["messages"] * load.receivers
        outcome = {
            "rate": count / found["seconds"],
            "cpu_us": found["cpu"] / count * 1e6,
            "server_us": found["server_cpu"] / count * 1e6,
        }
        if "p50" in found and job.rate:
            outcome["p50_ms"], outcome["p99_ms"] = found["p50"] * 1000, found["p99"] * 1000
        if ours:
            after = written(running)
            saved, discharged = (after[name] - before[name] for name in ("saved", "discharged"))
            outcome["saved_percent"] = 100 * saved / max(saved + discharged, 1)
        return outcome

    # -- a client comes back, after a crash or not -------------------------------------------------

    def _returns(self, peer: Peer) -> dict[str, Outcome]:
        """Seconds to the first and to the last message, by the length of the queue."""
        found = {}
        with peer.running() as running:
            for queued in QUEUES:
                came = asyncio.run(self._return(running.ports["mqtt"], queued))
                found[str(queued)] = {name: rounded(value) for name, value in came.items()}
        return found

    async def _return(self, port: int, queued: int) -> Outcome:
        name, acknowledged = fresh_name(), set[int]()
        await leave(port, name)
        began = time.perf_counter()
        await publish(port, fresh_name(), queued, acknowledged, lambda count: None)
        seconds = time.perf_counter() - began
        came = await come_back(port, name, queued)
        return {
            "publish_s": seconds,
            "first_ms": came.first * 1000,
            "last_ms": came.last * 1000,
            "messages": len(came.numbers),
        }

    def _crash(self, peer: Peer) -> Outcome:
        """How many of those acknowledged come after kill -9 of the broker and of its database."""
        name, acknowledged = fresh_name(), set[int]()
        with tempfile.TemporaryDirectory(prefix="platziverse-bench-") as folder:
            Path(folder).chmod(0o711)
            with peer.started(Path(folder)) as running:
                kill = killer(running, ACKNOWLEDGED)
                asyncio.run(leave(running.ports["mqtt"], name))
                flow = publish(running.ports["mqtt"], fresh_name(), 10 * ACKNOWLEDGED, acknowledged, kill)
                asyncio.run(flow)
            if peer.name == "platziverse":
                self.cluster.stop(9)
                self.cluster.start()
            with peer.started(Path(folder)) as running:
                came = asyncio.run(come_back(running.ports["mqtt"], name, 11 * ACKNOWLEDGED))
        return {"acknowledged": len(acknowledged), "left": len(acknowledged & came.numbers)}


def killer(running: Running, acknowledged: int) -> Enough:
    """Kills a broker when so many messages were acknowledged."""

    def kill(count: int) -> None:
        if count >= acknowledged and running.program.process.poll() is None:
            running.program.process.kill()

    return kill


def written(running: Running) -> dict[str, float]:
    """Messages for durable Sessions so far: written, and acknowledged in time."""
    scraped = scrape(running.ports["mqtt"]) or {}
    names = ("saved", "discharged")
    return {name: scraped[f"platziverse_durable_messages_{name}_total"] for name in names}


def script(module: str, *arguments: str) -> dict[str, float]:
    """The figures that a script of the bench prints as JSON; :raises Failed: it has none."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip().rpartition("\n")[2])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: rounded(value) for name, value in found.items()}


def said(title: str, found: Any) -> Any:
    """The same, printed."""
    print(title, json.dumps(found), flush=True)
    return found


# -- tables --------------------------------------------------------------------------------------


def loads_table(results: Results) -> str:
    """A line for each load and broker."""
    head = ["QoS 1, CPU µs each", "broker", "database", "a second", "written", "p50 ms"]
    rows = []
    for load in results["loads"].values():
        for name, figures in load["peers"].items():
            saved = figures.get("saved_percent")
            rows.append(
                [
                    f"{load['title']}: {TITLES[name]}",
                    three_digits(figures["cpu_us"]),
                    three_digits(figures["server_us"]) if figures["server_us"] else NONE,
                    f"{figures['rate']:,.0f}",
                    NONE if saved is None else f"{saved:.1f} %",
                    f"{figures['p50_ms']:.1f}" if "p50_ms" in figures else NONE,
                ]
            )
    return simple_table(head, rows)


def returns_table(results: Results) -> str:
    """A line for each broker: a client that comes back, and what is left after a crash."""
    head = ["ms", *(f"{part} of {queued:,}" for queued in QUEUES for part in ("first", "last")), "left"]
    rows = []
    for name, returns in results["returns"].items():
        times = [
            f"{returns[str(queued)][part]:,.0f}" if returns[str(queued)]["messages"] == queued else NONE
            for queued in QUEUES
            for part in ("first_ms", "last_ms")
        ]
        crash = results["crashes"][name]
        rows.append([TITLES[name], *times, f"{crash['left']:,.0f} of {crash['acknowledged']:,.0f}"])
    return simple_table(head, rows)


def section(results: Results) -> str:
    """The tables, and sentences about a long queue and a start."""
    connected, clean = (results["loads"][key]["peers"]["platziverse"] for key in ("connected", "clean"))
    ratio = connected["cpu_us"] / clean["cpu_us"]
    quick = f"A connected, quick durable Session costs {ratio:.2f} times what one with Clean Session 1 does."
    parts = [provenance(results), loads_table(results), quick, returns_table(results)]
    return "\n\n".join(
        [*parts, _sentence_of_snapshot(results["snapshot"]), _sentence_of_start(results["start"])]
    )


def _sentence_of_snapshot(found: Outcome) -> str:
    queued, page = f"{found['queued']:,.0f}", f"{found['bounded_ms']:.2f}"
    table, index = f"{found['table_mib']:,.0f}", f"{found['index_mib']:,.0f}"
    return (
        f"While a snapshot is held and half of {queued} messages have been deleted, a page of 100 is read\n"
        f"in {page} ms; the table has {table} MiB, its index {index} MiB."
    )


def _sentence_of_start(found: Outcome) -> str:
    names = ("sessions", "subscriptions", "retained")
    sessions, subscriptions, retained = (f"{found[name]:,.0f}" for name in names)
    return (
        f"A start has loaded {sessions} Sessions, {subscriptions} Subscriptions and {retained} Retained\n"
        f"Messages after {found['seconds']:.1f} s; the longest turn of the reactor took "
        f"{found['longest_ms']:.0f} ms of CPU."
    )
