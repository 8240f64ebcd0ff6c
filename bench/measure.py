"""Runs scenarios: the brokers in turn, several rounds, so that what else the machine does meets all alike."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar

from attrs import frozen

from bench import ingest
from bench.generator import Job
from bench.peers import Peer, Platziverse, Running
from bench.scenarios import CONNECTIONS_AMQTT, FLOWS, IDLE, INGEST, LATENCY, PORTS, Scenario
from tests.integration.daemon import ROOT
from tests.servers import Cluster

T = TypeVar("T")
Outcome = dict[str, float]
#: Outcomes of every round, by peer.
Runs = dict[str, list[Outcome]]


class Failed(Exception):
    """What the load generator says of it, in one line."""


@frozen
class Bench:
    """What all scenarios are measured with.

    :param peers: those that are there and wanted.
    :param cluster: the PostgreSQL of the daemon, outside of the measured process.
    :param dsn: of a database there with our tables.
    :param seconds: of each run.
    """

    peers: Sequence[Peer]
    cluster: Cluster
    dsn: str
    rounds: int
    seconds: float
    connections: int

    def measure(self, scenario: Scenario) -> Runs:
        """All rounds of one scenario."""
        if scenario in FLOWS:
            return self._flow(scenario)
        if scenario == IDLE:
            return self._idle()
        if scenario == PORTS:
            return self._ports()
        ours = [peer for peer in self.peers if isinstance(peer, Platziverse)]
        if not ours:
            return {}
        with ours[0].running() as running:
            if scenario == LATENCY:
                return self._latency(running)
            return self._ingest(running, 4 if scenario == INGEST[0] else 20)

    def _flow(self, scenario: Scenario) -> Runs:
        """All brokers are up; they are under load one after the other."""
        runs: Runs = {}
        with ExitStack() as stack:
            there = [
                stack.enter_context(peer.running())
                for peer in self.peers
                if peer.name not in scenario.without
            ]
            for running in alternating(self.rounds, there):
                job = Job(
                    port=running.ports[scenario.port],
                    pids=[running.pid],
                    seconds=self.seconds,
                    **scenario.job,
                )
                add(runs, running.name, job, running)
        return runs

    def _idle(self) -> Runs:
        """Each time a broker that was just started."""
        runs: Runs = {}
        for peer in alternating(self.rounds, [peer for peer in self.peers if peer.name not in IDLE.without]):
            count = min(self.connections, CONNECTIONS_AMQTT) if peer.name == "amqtt" else self.connections
            with peer.running() as running:
                job = Job(
                    port=running.ports["mqtt"],
                    pids=[running.pid],
                    kind="idle",
                    connections=count,
                    seconds=2.0,
                )
                add(runs, running.name, job, running)
        return runs

    def _ports(self) -> Runs:
        runs: Runs = {}
        for peer in self.peers:
            if not isinstance(peer, Platziverse):
                continue
            with peer.running() as running:
                for name, port in alternating(
                    self.rounds, [("any protocol", "mqtt"), ("MQTT alone", "plain")]
                ):
                    job = Job(port=running.ports[port], pids=[running.pid], seconds=self.seconds, **PORTS.job)
                    add(runs, name, job, running)
        return runs

    def _ingest(self, running: Running, metrics: int) -> Runs:
        """The daemon, then the other ways, again and again; the tables are emptied in between."""
        runs: Runs = {name: [] for name in (*ingest.LOADS, "straight", "copy", "single")}
        for _ in range(self.rounds):
            for name, clients in ingest.LOADS.items():
                self.cluster.execute(ingest.EMPTY, dsn=self.dsn)
                outcome = generate(ingest.job(running, self.cluster, metrics, 2 * self.seconds, clients))
                outcome["messages"] *= metrics
                runs[name].append(outcome)
            self.cluster.execute(ingest.EMPTY, dsn=self.dsn)
            runs["straight"].append(ingest.straight(self.cluster, self.dsn, metrics, 2 * self.seconds))
            runs["copy"].append(ingest.copy(self.cluster, self.dsn, 200_000))
            runs["single"].append(ingest.single(self.cluster, self.dsn, 1.0))
        return runs

    def _latency(self, running: Running) -> Runs:
        both = [ingest.latency(running, self.dsn, 4.0) for _ in range(self.rounds)]
        return {name: [outcome[name] for outcome in both] for name in both[0]}


def alternating(rounds: int, things: Sequence[T]) -> Iterator[T]:
    """All of ``things`` in each round, each round beginning with another one."""
    for number in range(rounds):
        first = number % len(things) if things else 0
        yield from things[first:]
        yield from things[:first]


def add(runs: Runs, name: str, job: Job, running: Running) -> None:
    """Run the job; what goes wrong is said, and is not counted."""
    try:
        runs.setdefault(name, []).append(generate(job))
    except Failed as error:
        print(f"  {name}: {error}; {running.obituary()}", flush=True)


def generate(job: Job) -> Outcome:
    """The outcome of a load generator; :raises Failed: it gave up."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.generator"],
        input=job.encoded(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120 + job.seconds,
        check=False,
    )
    if done.returncode:
        raise Failed(done.stderr.strip().rpartition("\n")[2])
    outcome: Outcome = json.loads(done.stdout)
    return outcome
