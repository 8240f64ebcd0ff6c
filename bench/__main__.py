"""Measures platziverse beside Mosquitto, aedes and amqtt, on loopback.

    make bench                                  everything, some minutes; writes the tables of the documents
    make bench ONLY="3 qos1 mosquitto"          scenarios by number or key, and brokers by name
    make bench ONLY="idle --connections 19000"  more connections; mind `ulimit -n`
    make bench ONLY=bursts                      how many messages of a burst arrive, all settings as they come
    make bench ONLY=rollups                     what marks and the job that makes roll-ups cost
    make bench ONLY=durable                     what durable Sessions cost, and what a crash leaves
    make bench ONLY="--protocol 5"              MQTT 5 beside 3.1.1, and what each Property costs
    make bench ONLY=cluster                     what it costs that several daemons are one
    make bench ONLY=rules                       messages of devices, files, and a database that is cut off
    make bench ONLY=flat                        how the cost of a message grows; draws docs/performance-*.svg

Without arguments the figures are stored in bench/results/bench.json, else in bench/results/partial.json.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import evolve

from bench import documents, results
from bench.bursts import Bursts
from bench.cluster import Several
from bench.durable import Durable
from bench.five import Five
from bench.flat import Flat
from bench.measure import Bench, Failed
from bench.peers import MOSQUITTO_SETTINGS, PLATZIVERSE_SETTINGS, Peer, peers
from bench.recorded import Rules
from bench.rollups import RollUpBench
from bench.scenarios import ALL, CONNECTIONS, Scenario
from tests.servers import MISSING, Cluster

#: Parts of their own: where the figures go, and what measures them.
PARTS: Final[dict[str, tuple[Path, Callable[[argparse.Namespace, Cluster], results.Results]]]] = {
    "bursts": (results.BURSTS, lambda given, cluster: Bursts(cluster, given.rounds).measure()),
    "cluster": (results.CLUSTER, lambda given, cluster: timed(Several, given, cluster)),
    "durable": (results.DURABLE, lambda given, cluster: timed(Durable, given, cluster)),
    "flat": (results.FLAT, lambda given, cluster: timed(Flat, given, cluster, given.long)),
    "rollups": (results.ROLLUPS, lambda given, cluster: timed(RollUpBench, given, cluster)),
    "rules": (results.RULES, lambda given, cluster: timed(Rules, given, cluster)),
}
#: Who is measured with MQTT 5.
SPEAK_5: Final = ("platziverse", "mosquitto")
#: Durable, as it is by default.
SERVER = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB"}


def timed(part: Any, given: argparse.Namespace, cluster: Cluster, *more: Any) -> results.Results:
    """The figures of a part whose runs have a length, which is told with them."""
    outcome: results.Results = part(cluster, given.rounds, given.seconds, *more).measure()
    return outcome | {"seconds": given.seconds}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(f"{scenario.number} {scenario.key}" for scenario in ALL)
    parser.add_argument("only", nargs="*", help=f"brokers, {', '.join(PARTS)}, or any of {names}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each run")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of scenario 7")
    parser.add_argument("--protocol", type=int, choices=(4, 5), default=4, help="5: beside 3.1.1, (1) to (9)")
    parser.add_argument("--long", action="store_true", help="flat: ten million rows as well")
    parser.add_argument(
        "--documents", action="store_true", help="write the documents anew, and measure nothing"
    )
    return parser.parse_args(argv)


def chosen(words: list[str], there: list[Peer]) -> tuple[list[Scenario], list[Peer]]:
    """What the words name, all of it by default; :raises SystemExit: one names nothing."""
    scenarios = [scenario for scenario in ALL if {scenario.key, str(scenario.number)} & set(words)]
    wanted = [peer for peer in there if peer.name in words]
    known = {name for scenario in ALL for name in (scenario.key, str(scenario.number))}
    known |= {peer.name for peer in there}
    if unknown := set(words) - known:
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}; see python -m bench --help")
    return scenarios or list(ALL), wanted or there


def available(wanted: list[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those that can be measured, and why the others cannot."""
    skipped = {peer.name: reason for peer in wanted if (reason := peer.missing())}
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}")
    return [peer for peer in wanted if peer.name not in skipped], skipped


def measure(given: argparse.Namespace, cluster: Cluster) -> results.Results:
    """Everything that was asked for, printed as it comes."""
    dsn = cluster.database("template1")
    scenarios, wanted = chosen(given.only, peers(dsn))
    there, skipped = available(wanted)
    bench = Bench(there, cluster, dsn, given.rounds, given.seconds, given.connections)
    if given.protocol == 5:
        bench = evolve(bench, peers=[peer for peer in there if peer.name in SPEAK_5])
        told = {"versions": {peer.name: peer.version() for peer in there}, "rounds": given.rounds}
        return results.heading(Five(bench).measure(scenarios) | told | {"seconds": given.seconds})
    measured = {}
    for scenario in scenarios:
        began = time.monotonic()
        try:
            outcome = results.summary(scenario, bench.measure(scenario))
        except Failed as error:
            print(f"  {scenario.key}: {error}")
            continue
        if outcome["peers"]:
            measured[scenario.key] = outcome
            print(f"\n{results.title(outcome)}  [{time.monotonic() - began:.0f} s]")
            print(results.scenario_table(outcome), flush=True)
    return results.heading(
        {
            "versions": {peer.name: peer.version() for peer in there}
            | {"postgresql": cluster.execute("SHOW server_version")[0][0].split()[0]},
            "settings": {"platziverse": PLATZIVERSE_SETTINGS, "mosquitto": MOSQUITTO_SETTINGS.splitlines()},
            "skipped": skipped,
            "rounds": given.rounds,
            "seconds": given.seconds,
            "scenarios": measured,
        }
    )


def main(argv: list[str]) -> None:
    given = arguments(argv)
    if given.documents:
        documents.write()
        return
    if MISSING:
        raise SystemExit(MISSING)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cluster = Cluster(**SERVER)
    try:
        part = PARTS.get(given.only[0]) if len(given.only) == 1 else None
        if part is not None:
            target, outcome = part[0], results.heading(part[1](given, cluster) | {"rounds": given.rounds})
        else:
            target, outcome = results.PARTIAL if argv else results.COMPLETE, measure(given, cluster)
            if given.protocol == 5 and not given.only:
                target = results.FIVE
    finally:
        cluster.remove()
    results.store(target, outcome)
    if target != results.PARTIAL:
        documents.write()


if __name__ == "__main__":
    main(sys.argv[1:])
