"""Rules: a message of a device beside ``agent/message``, files, and a database that is cut off.

The figures are stored in bench/results/rules.json. Kinds take turns, and the best run of each is told: other
programs only ever add.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen

from bench import cut, imports
from bench.generator import Job
from bench.measure import generate
from bench.peers import PLATZIVERSE_SETTINGS, Mosquitto, Platziverse
from bench.results import Results, provenance, rounded, simple_table, three_digits
from platziverse.agents.limits import AgentLimits
from platziverse.agents.payload import parse
from platziverse.mqtt.packets import Publish
from platziverse.rules.loading import load
from platziverse.rules.settings import RecordSettings
from tests.agents.doubles import FakeClient
from tests.servers import Cluster

#: Name → messages and metrics of each.
KINDS: Final = {
    "agent/message, 4 metrics": ("readings", 4),
    "Tasmota, 4 numbers": ("tasmota", 4),
    "agent/message, 13 metrics": ("readings", 13),
    "Tasmota, 13 numbers": ("tasmota", 13),
    "a topic without a rule": ("same", 0),
}
#: Calls of one timing; records of a file.
MANY, RECORDS = 2000, 100_000


@frozen
class Rules:
    """What is measured.

    :param cluster: a PostgreSQL that fsyncs.
    :param rounds: how often each kind has its turn.
    """

    cluster: Cluster
    rounds: int
    seconds: float

    def measure(self) -> Results:
        """All figures; printed as they come."""
        dsn = self.cluster.database("template1")
        ours = Platziverse(
            "platziverse", dsn, {**PLATZIVERSE_SETTINGS, "PLATZIVERSE_RECORD_PRESETS": "tasmota"}
        )
        reading = self._reading()
        return {
            "versions": {"platziverse": ours.version(), "mosquitto": Mosquitto("mosquitto").version()},
            "reading": reading,
            "daemon": self._daemon(ours),
            "files": {name: said(one) for name, one in imports.measure(self.cluster, RECORDS).items()},
            "cut": cut.measure(self.cluster),
        }

    def _reading(self) -> dict[str, float]:
        """CPU µs from a message to its Report."""
        ways, best = readers(), dict[str, float]()
        for _ in range(5 * self.rounds):
            for name, read in ways.items():
                began = time.process_time()
                for _ in range(MANY):
                    read()
                cost = (time.process_time() - began) / MANY * 1e6
                best[name] = min(cost, best.get(name, cost))
        for name, cost in best.items():
            print(f"{name:<28} {cost:6.2f} µs to its Report", flush=True)
        return {name: rounded(cost) for name, cost in best.items()}

    def _daemon(self, ours: Platziverse) -> dict[str, float]:
        """CPU µs of the daemon for a message at QoS 1: five publishers, a window of 100."""
        best: dict[str, float] = {}
        with ours.running() as running:
            for _ in range(self.rounds):
                for name, (messages, metrics) in KINDS.items():
                    job = Job(
                        port=running.ports["mqtt"],
                        pids=[running.pid],
                        publishers=5,
                        qos=1,
                        window=100,
                        messages=messages,
                        metrics=metrics,
                        seconds=self.seconds,
                        warm=0.5,
                    )
                    outcome = generate(job)
                    cost = outcome["cpu"] / outcome["messages"] * 1e6
                    best[name] = min(cost, best.get(name, cost))
        for name, cost in best.items():
            print(f"{name:<28} {cost:6.1f} µs of the daemon's CPU a message", flush=True)
        return {name: rounded(cost) for name, cost in best.items()}


def said(outcome: dict[str, float]) -> dict[str, float]:
    """The same with as many digits as count."""
    return {name: rounded(value) for name, value in outcome.items()}


def readers() -> dict[str, Callable[[], object]]:
    """Kind → reads one of its messages, as often as it is called."""
    found = load(RecordSettings(("tasmota",)), AgentLimits(), False).find("tele/d1/SENSOR")
    assert found is not None
    client, now, ways = FakeClient("device"), time.time(), dict[str, Callable[[], object]]()
    for name, (messages, metrics) in KINDS.items():
        if messages == "tasmota":
            message = Publish("tele/d1/SENSOR", tasmota(metrics, now), 1, packet_id=1)
            ways[name] = lambda message=message: found.read(message, client, now)  # type: ignore[misc]
        elif messages == "readings":
            message = Publish("agent/message", agents(metrics, now), 1, packet_id=1)
            ways[name] = lambda message=message: parse(message, "device", now)  # type: ignore[misc]
    return ways


def tasmota(numbers: int, now: float) -> bytes:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    readings = {f"Reading{number}": number + 0.5 for number in range(numbers)}
    return json.dumps({"Time": moment, "AM2301": readings, "TempUnit": "C"}, separators=(",", ":")).encode()


def agents(numbers: int, now: float) -> bytes:
    agent = {"uuid": "d1", "username": "platzi", "name": "platzi", "hostname": "here", "pid": 10}
    metrics = [{"type": f"Reading{number}", "value": number + 0.5} for number in range(numbers)]
    return json.dumps({"agent": agent, "metrics": metrics, "timestamp": int(now * 1000)}).encode()


def section(found: Results) -> str:
    """The tables of the document."""
    reading, daemon = found["reading"], found["daemon"]
    costs = simple_table(
        ("CPU µs of a message", "to its Report", "daemon, stored", "beside agent/message"),
        [
            (
                name,
                three_digits(reading[name]) if name in reading else "–",
                three_digits(daemon[name]),
                _beside(name, daemon),
            )
            for name in daemon
        ],
    )
    files: dict[str, Any] = found["files"]
    first = sum(files["copy of psql"][part] for part in ("cpu_us", "server_us"))
    speeds = simple_table(
        ("CPU µs of a metric, four in a record", "command", "database", "of copy", "a second", "MiB"),
        [
            (
                name,
                three_digits(one["cpu_us"]),
                three_digits(one["server_us"]),
                f"{(one['cpu_us'] + one['server_us']) / first:.2f}×",
                f"{one['rows_per_second']:,.0f}",
                f"{one['mib']:.0f}" if one["mib"] else "–",
            )
            for name, one in files.items()
        ],
    )
    rows = simple_table(
        ("the database is away for 10 of 20 s", "rows sent", "stored", "lost", "more than once"),
        [
            (
                name,
                *(
                    f"{value:,.0f}"
                    for value in (one["sent"], one["stored"], one["sent"] - one["stored"], one["again"])
                ),
            )
            for name, one in found["cut"].items()
        ],
    )
    return "\n\n".join((provenance(found, "Best"), costs, speeds, rows))


def _beside(name: str, daemon: dict[str, float]) -> str:
    if not name.startswith("Tasmota"):
        return "–"
    count = name.split()[1]
    return f"{daemon[name] / daemon[f'agent/message, {count} metrics']:.2f}×"
