"""MQTT 5 in the bench: its packets, what it costs beside MQTT 3.1.1, and what each Property costs."""

from typing import Any, Final

from attrs import evolve, field, frozen

from bench import results
from bench.generator import Job
from bench.measure import Bench, add, alternating
from bench.peers import Platziverse
from bench.scenarios import FLOWS, IDLE, Scenario


@frozen
class Case:
    """What is published by 10 publishers to 1 subscriber at QoS 1, and delivered.

    :param sent: Properties, in hexadecimal.
    :param delivered: likewise.
    :param more: fields of the Job.
    """

    sent: str = ""
    delivered: str = ""
    more: dict[str, Any] = field(factory=dict)


def _passed_on(properties: str) -> Case:
    return Case(properties, properties)


GROUP: Final = ["$share/group/bench/+"]
CASES: Final[dict[str, Case]] = {
    "none": Case(),
    "Payload Format Indicator": _passed_on("0101"),
    "Message Expiry Interval": _passed_on("0200000e10"),
    "Content Type": _passed_on("03000a746578742f706c61696e"),
    "Response Topic, Correlation Data": _passed_on("080007616e73776572730900040102ff00"),
    "one User Property": _passed_on("26000161000162"),
    "ten User Properties": _passed_on("26000161000162" * 10),
    "Topic Alias of the publisher, with its name": Case("230001"),
    "Topic Alias of the publisher alone": Case("230001", "", {"aliased": "in"}),
    "Topic Alias to the subscriber": Case("", "230001", {"aliased": "out"}),
    "Subscription Identifier": Case("", "0b01", {"subscribes": "0b01"}),
    "Shared Subscription, one member": Case("", "", {"subscribers": [GROUP]}),
    "Shared Subscription, ten members": Case("", "", {"subscribers": [GROUP] * 10}),
}
#: Of those: the load.
LOAD: Final = next(scenario for scenario in FLOWS if scenario.key == "qos1")


@frozen
class Five:
    """The part: every scenario of the broker at both versions, and the Properties."""

    bench: Bench

    def measure(self, scenarios: list[Scenario]) -> results.Results:
        """Print, and return, all figures."""
        measured = {}
        for scenario in scenarios:
            if scenario in (*FLOWS, IDLE):
                outcome = results.summary(scenario, self._versions(scenario))
                measured[scenario.key] = outcome
                print(f"\n{results.title(outcome)}\n{results.scenario_table(outcome)}", flush=True)
        properties = results.summary(LOAD, self._properties())
        print(f"\nProperties, {results.title(properties)}\n{results.scenario_table(properties)}", flush=True)
        return {"scenarios": measured, "properties": properties}

    def _versions(self, scenario: Scenario) -> dict[str, list[dict[str, float]]]:
        """Both versions in turn, against the same process."""
        runs: dict[str, list[dict[str, float]]] = {}
        idle = {"kind": "idle", "connections": self.bench.connections, "seconds": 2.0}
        for peer in self.bench.peers:
            with peer.running() as running:
                for _ in range(self.bench.rounds):
                    for level in (4, 5):
                        more: dict[str, Any] = idle if scenario == IDLE else {"seconds": self.bench.seconds}
                        port, pids = running.ports[scenario.port], [running.pid]
                        job = Job(port=port, pids=pids, protocol=level, **scenario.job, **more)
                        add(runs, _name(peer.name, level), job, running)
        return runs

    def _properties(self) -> dict[str, list[dict[str, float]]]:
        runs: dict[str, list[dict[str, float]]] = {}
        for peer in self.bench.peers:
            if not isinstance(peer, Platziverse):
                continue
            with peer.running() as running:
                port, pids, seconds = running.ports["mqtt"], [running.pid], self.bench.seconds
                usual = Job(port=port, pids=pids, seconds=seconds, protocol=5, **LOAD.job)
                for name in alternating(self.bench.rounds, list(CASES)):
                    case = CASES[name]
                    job = evolve(usual, properties=case.sent, delivered=case.delivered, **case.more)
                    add(runs, name, job, running)
        return runs


def _name(peer: str, level: int) -> str:
    return peer if level == 4 else f"{peer}, 5"


def section(measured: results.Results) -> str:
    """What docs/performance.rst says of the figures."""
    rows = []
    for outcome in measured["scenarios"].values():
        costs = [outcome["peers"].get(name, {}).get("cpu_us") for name in _COLUMNS]
        ours = f"{costs[1] / costs[0]:.2f}" if costs[0] and costs[1] else results.NONE
        cells = [results.three_digits(cost) if cost else results.NONE for cost in costs]
        rows.append([f"({outcome['number']}) {outcome['title']}", cells[0], cells[1], ours, *cells[2:]])
    head = ["CPU µs each", "platziverse, 3.1.1", "5", "ratio", "Mosquitto, 3.1.1", "5"]
    peers = measured["properties"]["peers"]
    none = peers["none"]["cpu_us"]
    more = [
        [name, results.three_digits(peer["cpu_us"]), f"{peer['cpu_us'] - none:+.1f}"]
        for name, peer in peers.items()
    ]
    title = f"CPU µs each, ({LOAD.number}) {LOAD.title}"
    return "\n\n".join(
        [
            f"{results.provenance(measured)}\nThe load at the end was {measured['machine']['load']:.1f}.",
            results.simple_table(head, rows),
            results.simple_table([title, "MQTT 5", "more than without"], more),
        ]
    )


_COLUMNS: Final = ("platziverse", "platziverse, 5", "mosquitto", "mosquitto, 5")
