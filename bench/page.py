"""The page in a headless Chromium: until it is drawn, and while 1,000 events a second come.

``python -m bench.page [--seconds 20]``: 250 agents with four types each. *Cold* is a browser that has never
been there. The age of what is drawn is that of a clock which a client reports ten times a second: at most a
quarter of a second in the daemon, another one in the page, and what it waits for the machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
import psycopg2
from paho.mqtt.enums import CallbackAPIVersion

from bench.api import TYPES, fill
from platziverse.daemon.machine import memory
from platziverse.embedded.cluster import tuned
from tests.integration.browser import Browser, browser
from tests.integration.daemon import Daemon, put_away
from tests.servers import Cluster

AGENTS: Final = 250
#: Events a second: each agent says something in each quarter of a second, of which streams get one.
RATE: Final = 1000
CLOCK: Final = "0 clock"
#: Says when the first agents are drawn with their values.
FIRST: Final = """new MutationObserver((_, observer) => {
    const values = [...document.querySelectorAll(".agent .value")];
    if (values.length < 400 || values.some((one) => !one.textContent)) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.drawn = performance.now(); }));
}).observe(document, { subtree: true, childList: true, characterData: true })"""
#: Counts the events that come.
COUNT: Final = """(() => {
    const add = EventSource.prototype.addEventListener;
    window.counted = 0;
    EventSource.prototype.addEventListener = function (name, hear) {
        add.call(this, name, (event) => { window.counted += 1; hear(event); });
    };
})()"""
#: Notes how old the clock is whenever it is drawn.
AGES: Final = """(() => {
    const card = [...document.querySelectorAll(".agent")].find((one) => one.innerText.includes("0 clock"));
    const value = card.querySelector(".value");
    window.ages = [];
    window.late = [];
    window.texts = 0;
    new MutationObserver((found) => { window.texts += found.length; })
        .observe(document.querySelector(".agents"), { subtree: true, childList: true, characterData: true });
    const age = () => window.ages.push(Date.now() - Number(value.textContent.replace(/[^0-9]/g, "")));
    new MutationObserver(age).observe(value, { subtree: true, childList: true, characterData: true });
    let due = performance.now() + 50;
    setInterval(() => { window.late.push(performance.now() - due); due = performance.now() + 50; }, 50);
})()"""


def first_paint(page: Browser, url: str) -> tuple[float, float, float]:
    """Return the milliseconds until something, and until the first agents are drawn, and the page's CPU."""
    page.open("about:blank")
    before = page.do("metrics")["TaskDuration"]
    page.open(url)
    drawn = page.wait("window.drawn")
    some = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.sees(f"{AGENTS} agents, 1,000 series", "#count")
    return some, drawn, 1000 * (page.do("metrics")["TaskDuration"] - before)


def tell_first_paint(url: str, rounds: int = 5) -> None:
    """Print it, of browsers that have never been there, and of the same ones again."""
    cold, warm = [], []
    for _ in range(rounds):
        page = browser()
        page.do("init", script=FIRST)
        cold.append(first_paint(page, url))
        warm.append(first_paint(page, url))
    for name, found in (("cold", cold), ("again", warm)):
        some, drawn, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        worst = max(one[1] for one in found)
        shown = f"first paint {some:.0f} ms, agents {drawn:.0f} ms, worst {worst:.0f} ms"
        print(f"{name:8} {shown}; CPU of the page {cpu:.0f} ms")


@contextmanager
def reporting(port: int) -> Iterator[None]:
    """Let a gateway report new values of all agents four times a second, and the time ten times."""
    client, over = paho.Client(CallbackAPIVersion.VERSION2), threading.Event()
    client.connect("localhost", port)
    client.loop_start()

    def report(uuid: str, values: dict[str, int]) -> None:
        agent = {"uuid": uuid, "name": uuid, "username": "b", "pid": 1, "hostname": "h"}
        metrics = [{"type": type, "value": value} for type, value in values.items()]
        client.publish("agent/message", json.dumps({"agent": agent, "metrics": metrics}))

    def run() -> None:
        began, sent = time.monotonic(), 0
        while not over.wait(0.01):
            while sent < (time.monotonic() - began) * RATE:
                values = {f"type{type}": (sent * 7 + type) % 1000 for type in range(TYPES)}
                report(f"agent-{sent % AGENTS}", values)
                sent += 1
                if sent % (RATE // 10) == 0:
                    report(CLOCK, {"time": int(time.time() * 1000)})

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        client.disconnect()
        client.loop_stop()


def tell_events(page: Browser, running: Daemon, url: str, turns: Path, seconds: float) -> None:
    """Print what 1,000 events a second are to the page and to the daemon."""
    page.do("init", script=COUNT)
    with reporting(running.port()):
        page.open(url)
        page.sees(CLOCK, ".name")
        page.wait("document.querySelectorAll('.agent').length >= 100")
        time.sleep(2)
        page.evaluate(AGES)
        turns.write_text("")
        before, began = page.do("metrics"), time.monotonic()
        events = page.evaluate("window.counted")
        time.sleep(seconds)
        after, passed = page.do("metrics"), time.monotonic() - began
        counted, texts, ages, late = page.evaluate("[window.counted, window.texts, window.ages, window.late]")
        found = [[float(part) for part in line.split()] for line in turns.read_text().splitlines()]
    came, changed, half = (counted - events) / passed, texts / passed, len(ages) // 2
    print(f"{came:,.0f} events and {changed:,.0f} texts drawn a second, in {len(ages) / passed:.1f} drawings")
    print(f"age of what is drawn, first half: {_spread(ages[:half])} ms; second: {_spread(ages[half:])} ms")
    for name in ("TaskDuration", "ScriptDuration", "LayoutDuration"):
        print(f"the page's thread, {name}: {100 * (after[name] - before[name]) / passed:.1f} %")
    print(f"timers of the page late by {_spread(late)} ms")
    cpu, clock = (_spread(column) for column in zip(*found, strict=True))
    print(f"longest turn of the reactor in each second: CPU {cpu}, clock {clock} ms")


def scratch(dsn: str) -> None:
    """Forget all agents, so that those who report are the first."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        connection.cursor().execute("TRUNCATE agents, series, metrics, metrics_5m, metrics_1h, metrics_marks")


def _spread(numbers: Any) -> str:
    ordered = sorted(numbers)
    most = ordered[len(ordered) * 99 // 100]
    return f"{statistics.median(ordered):.0f} (99 % {most:.0f}, worst {ordered[-1]:.0f})"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    cluster = Cluster(autovacuum="on", max_wal_size="4GB", jit="off", **tuned(memory()))
    state_dir = tempfile.mkdtemp(prefix="platziverse-bench-")
    try:
        turns, dsn = Path(state_dir) / "turns", cluster.database("template1")
        running = Daemon(
            "--listen",
            "tcp:0:interface=127.0.0.1",
            "--database",
            dsn,
            state_dir=state_dir,
            before=(sys.executable, "-m", "bench.turning", str(turns)),
        )
        try:
            url = f"http://localhost:{running.ready()}/"
            fill(dsn, AGENTS, 2)
            tell_first_paint(url)
            scratch(dsn)
            tell_events(browser(), running, url, turns, options.seconds)
        finally:
            running.kill()
    finally:
        cluster.remove()
        put_away(state_dir)


if __name__ == "__main__":
    main()
