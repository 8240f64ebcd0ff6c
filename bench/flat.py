"""How the cost of a message grows with connections, Subscriptions, Retained Messages and rows.

The figures are stored in bench/results/flat.json, and drawn from there into docs/performance-flat.svg.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any, Final

import psycopg2
from attrs import frozen

from bench import ingest
from bench.generator import Job
from bench.measure import Failed, Outcome, generate
from bench.peers import PLATZIVERSE_SETTINGS, Mosquitto, Peer, Platziverse, Running
from bench.reads import fill
from bench.results import NONE, Results, provenance, rounded, simple_table
from bench.scenarios import AHEAD, ONE_SUBSCRIBER
from tests.integration.daemon import ROOT
from tests.servers import Cluster

DRAWING: Final = ROOT / "docs" / "performance-flat.svg"
SETTINGS: Final = PLATZIVERSE_SETTINGS | {"PLATZIVERSE_LIMITS_MAX_RETAINED_MESSAGES": "200000"}
ROWS: Final = (0, 100_000, 1_000_000)
MANY_ROWS: Final = 10_000_000
AGENTS: Final = 1000


@frozen
class Growth:
    """One panel of the drawing.

    :param grows: the field of :class:`bench.generator.Job` that gets the ``sizes``.
    """

    key: str
    title: str
    grows: str
    sizes: tuple[int, ...]
    job: dict[str, Any]


LOAD: Final[dict[str, Any]] = {"publishers": 10, "deliveries": 1, "window": AHEAD}
GROWTHS: Final = (
    Growth(
        "connections",
        "idle connections beside it, QoS 0",
        "connections",
        (1, 10, 100, 1000, 10_000),
        LOAD | {"subscribers": ONE_SUBSCRIBER},
    ),
    Growth(
        "subscriptions",
        "wildcard Subscriptions, new topics",
        "filters",
        (1, 10, 100, 1000, 10_000, 100_000),
        LOAD | {"subscribers": [["cold/#"]], "messages": "new"},
    ),
    Growth(
        "retained",
        "Retained Messages, each message retained",
        "retained",
        (0, 10, 100, 1000, 10_000, 100_000),
        LOAD | {"subscribers": ONE_SUBSCRIBER, "retain": True},
    ),
)


@frozen
class Flat:
    """What the panels are measured with."""

    cluster: Cluster
    rounds: int
    seconds: float
    long: bool

    def measure(self) -> Results:
        """Medians of CPU time in µs for each message, or row; printed as they come."""
        dsn = self.cluster.database("template1")
        everybody: list[Peer] = [Platziverse("platziverse", dsn, SETTINGS), Mosquitto("mosquitto")]
        there = [peer for peer in everybody if not peer.missing()]
        panels = {}
        for growth in GROWTHS:
            panels[growth.key] = panel = self._grow(growth, there)
            print(f"\n{growth.title}\n{panel_table(panel)}", flush=True)
        panels["rows"] = panel = self._rows()
        print(f"\n{panel['title']}\n{panel_table(panel)}", flush=True)
        return {"versions": {peer.name: peer.version() for peer in there}, "panels": panels}

    def _grow(self, growth: Growth, there: Sequence[Peer]) -> Results:
        lines: dict[str, list[float | None]] = {peer.name: [] for peer in there}
        with ExitStack() as stack:
            running = [stack.enter_context(peer.running()) for peer in there]
            for size in growth.sizes:
                outcomes: dict[str, list[Outcome]] = {one.name: [] for one in running}
                for _ in range(self.rounds):
                    for one in running:
                        outcomes[one.name] += self._once(one, growth, size)
                for name, found in outcomes.items():
                    lines[name].append(each(found, "cpu"))
        return {"title": growth.title, "sizes": list(growth.sizes), "lines": lines}

    def _once(self, running: Running, growth: Growth, size: int) -> list[Outcome]:
        job = Job(
            port=running.ports["mqtt"],
            pids=[running.pid],
            seconds=self.seconds,
            **(growth.job | {growth.grows: size}),
        )
        try:
            return [generate(job)]
        except Failed as error:
            print(f"  {running.name}, {size}: {error}", flush=True)
            return []

    def _rows(self) -> Results:
        """Each size in a database of its own; a row is measured, not a message."""
        sizes = (*ROWS, MANY_ROWS) if self.long else ROWS
        lines: dict[str, list[float | None]] = {"platziverse": [], "its database": []}
        for size in sizes:
            dsn = self.cluster.database("template1")
            with Platziverse("platziverse", dsn).running() as running:
                if size:
                    with closing(psycopg2.connect(dsn)) as connection:
                        connection.autocommit = True
                        fill(connection.cursor(), size, months=6, agents=AGENTS)
                job = ingest.job(running, self.cluster, 4, self.seconds, ingest.AGENTS)
                found = [generate(job) for _ in range(self.rounds)]
            for outcome in found:
                outcome["messages"] *= job.metrics
            lines["platziverse"].append(each(found, "cpu"))
            lines["its database"].append(each(found, "server_cpu"))
        return {"title": "rows in metrics, per row of agent/message", "sizes": list(sizes), "lines": lines}


def each(outcomes: Sequence[Outcome], figure: str) -> float | None:
    """The median in µs; ``None``: there is none."""
    values = [outcome[figure] / outcome["messages"] * 1e6 for outcome in outcomes]
    return rounded(statistics.median(values)) if values else None


def panel_table(panel: Results) -> str:
    """CPU µs each, a line for each size."""
    cells = [
        [NONE if value is None else f"{value:.3g}" for value in line] for line in panel["lines"].values()
    ]
    rows = [[f"{size:,}", *values] for size, *values in zip(panel["sizes"], *cells, strict=True)]
    return simple_table(["CPU µs each", *panel["lines"]], rows)


def section(results: Results) -> str:
    """The tables behind the drawing."""
    parts = [provenance(results)]
    for panel in results["panels"].values():
        parts += [f"**{panel['title']}**", panel_table(panel)]
    return "\n\n".join(parts)


def draw(results: Results) -> None:
    """The panels side by side; the same figures give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "platziverse", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(10, 6), layout="constrained")
        for axes, panel in zip(figure.subplots(2, 2).flat, results["panels"].values(), strict=True):
            for name, values in panel["lines"].items():
                # 0 has no place on a logarithmic axis.
                axes.plot([max(size, 1) for size in panel["sizes"]], values, marker="o", label=name)
            axes.set_xscale("log")
            axes.set_ylim(0, 1.2 * max(value or 0 for line in panel["lines"].values() for value in line))
            axes.set_xlabel(panel["title"])
            axes.set_ylabel("CPU µs each")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
        figure.savefig(DRAWING, metadata={"Date": None})
