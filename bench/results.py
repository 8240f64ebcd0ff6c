"""From what was measured to figures, and from figures to tables, on the terminal and in the documents."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.scenarios import ALL, FLOWS, IDLE, Scenario
from tests.integration.daemon import ROOT

Outcome = dict[str, float]
Results = dict[str, Any]

RESULTS: Final = ROOT / "bench" / "results"
COMPLETE: Final = RESULTS / "bench.json"
PARTIAL: Final = RESULTS / "partial.json"
FLAT: Final = RESULTS / "flat.json"
BURSTS: Final = RESULTS / "bursts.json"
DURABLE: Final = RESULTS / "durable.json"
CLUSTER: Final = RESULTS / "cluster.json"
ROLLUPS: Final = RESULTS / "rollups.json"
FIVE: Final = RESULTS / "five.json"
RULES: Final = RESULTS / "rules.json"

Format = Callable[[float], str]


def three_digits(value: float) -> str:
    """As many as there are before the point, else three."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


#: Heading and format of every figure, in the order of the columns.
FIGURES: Final[dict[str, tuple[str, Format]]] = {
    "rate": ("per second", "{:,.0f}".format),
    "cpu_us": ("CPU µs each", three_digits),
    "server_cpu_us": ("database µs", three_digits),
    "p50_ms": ("p50 ms", three_digits),
    "p99_ms": ("p99 ms", three_digits),
    "memory_mib": ("MiB", "{:.0f}".format),
    "kib": ("KiB each", "{:.1f}".format),
    "idle_ms": ("idle, CPU ms/s", "{:.1f}".format),
    "generator": ("generator busy", "{:.0%}".format),
    "count": ("count", "{:,.0f}".format),
}
NONE: Final = "–"

#: Brokers of the documents, and what they are called there.
NAMES: Final = {
    "platziverse": "platziverse",
    "mosquitto": "Mosquitto",
    "aedes": "aedes",
    "amqtt": "amqtt",
}
#: Brokers of a single part.
OTHERS: Final = {"mosca": "mosca"}


def figures(outcome: Outcome) -> Outcome:
    """The figures of one run."""
    found: Outcome = {}
    if messages := outcome.get("messages", 0):
        found["rate"] = messages / outcome["seconds"]
        for name in ("cpu", "server_cpu"):
            if outcome.get(name):
                found[f"{name}_us"] = outcome[name] / messages * 1e6
    if connections := outcome.get("connections", 0):
        found["rate"] = connections / outcome["seconds"]
        found["cpu_us"] = outcome["cpu"] / connections * 1e6
        found["kib"] = outcome["memory"] / 1024 / connections
        found["idle_ms"] = outcome["idle_cpu"] / outcome["idle_seconds"] * 1000
        found["count"] = connections
    for name in ("p50", "p99"):
        if name in outcome:
            found[f"{name}_ms"] = outcome[name] * 1000
    if "resident" in outcome:
        found["memory_mib"] = outcome["resident"] / 2**20
        found["generator"] = outcome["generator_cpu"] / outcome["seconds"]
    return found


def summary(scenario: Scenario, runs: dict[str, list[Outcome]]) -> Results:
    """The medians of the runs, and the lowest and the highest CPU time."""
    peers: dict[str, Any] = {}
    for name, outcomes in runs.items():
        each = [figures(outcome) for outcome in outcomes]
        if scenario in FLOWS and not scenario.latency:
            # With a window of many messages it is the window divided by the rate.
            each = [{name: value for name, value in run.items() if name[0] != "p"} for run in each]
        medians = {
            figure: rounded(statistics.median(run[figure] for run in each))
            for figure in FIGURES
            if each and figure in each[0]
        }
        cpu = [rounded(run["cpu_us"]) for run in each if "cpu_us" in run]
        if medians:
            peers[name] = medians | ({"cpu_us_range": [min(cpu), max(cpu)]} if cpu else {})
    return {"number": scenario.number, "title": scenario.title, "unit": scenario.unit, "peers": peers}


def rounded(value: float) -> float:
    """Four digits that count; more would be noise."""
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": rounded(os.getloadavg()[0]),
    }


def heading(results: Results) -> Results:
    """What stands before the scenarios."""
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine(), **results}


def store(path: Path, results: Results) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    results: Results = json.loads(path.read_text())
    return results


# -- tables --------------------------------------------------------------------------------------


def simple_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A "simple table" of reStructuredText; all columns but the first are right-aligned."""
    body = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs)
        )
        for pairs in (list(zip(row, widths, strict=True)) for row in body)
    ]
    return "\n".join(line.rstrip() for line in (rule, lines[0], rule, *lines[1:], rule))


def scenario_table(measured: Results) -> str:
    """All figures of one scenario, a line for each broker."""
    peers: dict[str, Outcome] = measured["peers"]
    shown = [figure for figure in FIGURES if any(figure in peer for peer in peers.values())]
    head = ["", *(FIGURES[figure][0] for figure in shown), "CPU of ours"]
    ours = peers.get("platziverse", {}).get("cpu_us")
    rows = []
    for name, peer in peers.items():
        cells = [_cell(peer, figure) for figure in shown]
        times = f"{peer['cpu_us'] / ours:.2f}×" if ours and "cpu_us" in peer else NONE
        rows.append([name, *cells, times])
    return simple_table(head, rows)


def title(measured: Results) -> str:
    return f"({measured['number']}) {measured['title']}, per {measured['unit']}"


def comparison(results: Results) -> str:
    """CPU time of every broker in every scenario, and ours as a part of theirs."""
    rows = []
    for scenario in ALL:
        if scenario in (*FLOWS, IDLE) and scenario.key in results["scenarios"]:
            measured = results["scenarios"][scenario.key]
            rows.append(_row(f"({scenario.number}) {scenario.title}", measured["peers"], "cpu_us"))
            if scenario == IDLE:
                rows.append(_row("(7) the same, KiB of memory each", measured["peers"], "kib"))
    head = ["CPU µs each", *NAMES.values(), *(f"/ {NAMES[name]}" for name in list(NAMES)[1:])]
    return simple_table(head, rows)


def _row(name: str, peers: dict[str, Outcome], figure: str) -> list[str]:
    values = [peers.get(peer, {}).get(figure) for peer in NAMES]
    ours = values[0]
    cells = [_cell(peers.get(peer, {}), figure) for peer in NAMES]
    ratios = [f"{ours / value:.2f}" if ours and value else NONE for value in values[1:]]
    return [name, *cells, *ratios]


def ingest_table(results: Results) -> str:
    """Rows a second, the daemon beside what PostgreSQL does alone."""
    names = {
        "platziverse": "platziverse, 10 clients with a window of 100",
        "clients-5": "the same, 5 clients",
        "clients-1": "the same, 1 client",
        "straight": "the same statement, one stream",
        "copy": "copy of psql",
        "single": "one INSERT for each row",
    }
    scenarios = [results["scenarios"].get(key, {"peers": {}})["peers"] for key in ("ingest-4", "ingest-20")]
    rows = []
    for name, shown in names.items():
        cells = []
        for peers in scenarios:
            peer = peers.get(name, {})
            cells += [_cell(peer, figure) for figure in ("rate", "server_cpu_us", "p99_ms")]
        rows.append([shown, *cells])
    head = ["rows a second", "4 metrics", "database µs", "p99 ms", "20 metrics", "database µs", "p99 ms"]
    return simple_table(head, rows)


def _cell(peer: Outcome, figure: str) -> str:
    return FIGURES[figure][1](peer[figure]) if figure in peer else NONE


# -- documents -----------------------------------------------------------------------------------


def readme_section(results: Results) -> str:
    """What README.rst says of the figures."""
    latency = results["scenarios"].get("ingest-latency", {"peers": {}})["peers"]
    lines = [provenance(results), "", comparison(results), "", ingest_table(results)]
    if latency:
        ours, theirs = (
            "{p50_ms:.1f} ms (p99 {p99_ms:.1f} ms)".format(**latency[name])
            for name in ("platziverse", "straight")
        )
        lines += ["", f"At 50 messages a second a PUBACK comes after {ours};"]
        lines += [f"the database alone takes {theirs} for the same statement."]
    return "\n".join(lines)


def provenance(results: Results, which: str = "Medians") -> str:
    """One sentence: which figures, when, where, with what."""
    at, versions = results["machine"], results["versions"]
    names = NAMES | OTHERS
    named = ", ".join(f"{names[name]} {versions[name]}" for name in names if name in versions)
    rounds = "1 round" if results["rounds"] == 1 else f"{results['rounds']} rounds"
    return (
        f"{which} of {rounds}, {results['date']}, {at['cores']} × {at['cpu']}, "
        f"Linux {at['kernel'].split('-')[0]},\nPython {at['python']}: {named}."
    )


def performance_section(results: Results) -> str:
    """Every scenario with all of its figures."""
    parts = [provenance(results)]
    for scenario in ALL:
        if scenario.key in results["scenarios"]:
            measured = results["scenarios"][scenario.key]
            parts += [f"**{title(measured)}**", scenario_table(measured)]
    return "\n\n".join(parts)
