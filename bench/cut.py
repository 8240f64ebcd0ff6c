"""Rows stored of rows sent, when the database is cut off for ten seconds in the midst: ours, and others.

The others subscribe at Mosquitto with a Session that lasts, at QoS 1, and insert each message. They are
started again when they end, as a service would be.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from bench.measure import Outcome
from bench.peers import PLATZIVERSE_SETTINGS, Mosquitto, Platziverse
from tests.crash.waiting import poll
from tests.integration.daemon import ROOT, clean_environment, find_program
from tests.servers import Cluster

NODE_RED: Final = Path(__file__).parent / "node-red"
#: Messages a second, of devices in turn; each has four numbers.
RATE, DEVICES, NUMBERS = 200, 10, 4
#: Seconds before the cut, of the cut, and after it.
BEFORE, CUT, AFTER = 5.0, 10.0, 5.0
#: Seconds without a further row, after which no more are expected.
SILENT: Final = 10.0
#: Without autocommit of a crash: what is acknowledged is on the disk.
PERSISTENT: Final = (
    "persistence true\npersistence_location {folder}/\nmax_queued_messages 0\nallow_anonymous true\n"
)
READINGS: Final = "CREATE TABLE readings (device text, moment timestamptz, key text, value float8)"


@frozen
class Recorded:
    """Where messages go, and how many rows and different rows came of them."""

    port: int
    rows: Callable[[], tuple[int, int]]


def publish(port: int, seconds: float) -> int:
    """Publish at QoS 1, and wait for all acknowledgements; return how many messages there were."""
    with connected(port, "device") as client:
        began, sent, count = time.monotonic(), [], int(seconds * RATE)
        for number in range(count):
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            sent.append(client.publish(f"tele/d{number % DEVICES}/SENSOR", reading(number), 1))
        for one in sent:
            one.wait_for_publish(120)
    return count


@contextmanager
def connected(port: int, client_id: str) -> Iterator[Client]:
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
    client.max_inflight_messages_set(100)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def reading(number: int) -> str:
    """A message of Tasmota; no row of it is like one of another."""
    readings = {"Temperature": number / 10, "Humidity": number + 0.25, "DewPoint": number + 0.5}
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    return json.dumps({"Time": moment, "TempUnit": "C", "AM2301": readings, "Counter": number})


@contextmanager
def kept_running(*command: str, **environ: str) -> Iterator[None]:
    """A program that is started again a second after it has ended, until the end."""
    over = threading.Event()
    program = [_start(command, environ)]

    def look() -> None:
        while not over.wait(1.0):
            if program[0].poll() is not None:
                program[0] = _start(command, environ)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        program[0].kill()
        program[0].wait()


def _start(command: tuple[str, ...], environ: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(**environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def counted(cluster: Cluster, dsn: str, columns: str, table: str) -> Callable[[], tuple[int, int]]:
    """How many rows there are, and how many different ones."""

    def count() -> tuple[int, int]:
        query = f"SELECT count(*), count(DISTINCT ({columns})) FROM {table}"
        ((rows, different),) = cluster.execute(query, dsn=dsn)
        return rows, different

    return count


@contextmanager
def ours(cluster: Cluster) -> Iterator[Recorded]:
    dsn = cluster.database("template1")
    settings = {**PLATZIVERSE_SETTINGS, "PLATZIVERSE_RECORD_PRESETS": "tasmota"}
    with Platziverse("platziverse", dsn, settings).running() as running:
        yield Recorded(
            running.ports["mqtt"], counted(cluster, dsn, '"agentId", type, value, "timestamp"', "metrics")
        )


@contextmanager
def other(cluster: Cluster, start: Callable[[int, str], Any]) -> Iterator[Recorded]:
    dsn = cluster.database("template1")
    cluster.execute(READINGS, dsn=dsn)
    with Mosquitto("mosquitto", "user root\nlistener {mqtt} 127.0.0.1\n" + PERSISTENT).running() as running:
        port = running.ports["mqtt"]
        with start(port, dsn):
            wait_until_recorded(port, counted(cluster, dsn, "device", "readings"))
            sent = "readings WHERE device <> 'probe'"
            yield Recorded(port, counted(cluster, dsn, "device, moment, key, value", sent))


def wait_until_recorded(port: int, rows: Callable[[], tuple[int, int]]) -> None:
    """Publish until there are rows of it: a program has no other way to say that it has subscribed."""
    with connected(port, "probe") as client:

        def there() -> bool:
            client.publish("tele/probe/SENSOR", reading(0), 1)
            time.sleep(0.5)
            return rows()[0] > 0

        poll(there, 120, "the first row")


def script(port: int, dsn: str) -> Any:
    return kept_running(sys.executable, "-m", "bench.script", str(port), dsn)


def node_red(port: int, dsn: str) -> Any:
    parts = dict(part.split("=", 1) for part in dsn.split())
    command = (str(find_program("node")), str(NODE_RED / "node_modules" / ".bin" / "node-red"))
    folder = Path(parts["host"]) / f"node-red-{port}"
    folder.mkdir()
    for name in "settings.js", "flows.json":
        (folder / name).write_text((NODE_RED / name).read_text())
    (folder / "node_modules").symlink_to(NODE_RED / "node_modules")
    environ = {"PORT": str(port), "SOCKET": parts["host"], "DATABASE": parts["dbname"]}
    return kept_running(*command, "--userDir", str(folder), **environ)


def measure(cluster: Cluster) -> dict[str, Outcome]:
    """Rows sent, rows stored, and rows stored more than once, of each that is there."""
    ways: dict[str, Callable[[], Any]] = {
        "platziverse": lambda: ours(cluster),
        "paho-mqtt and psycopg2": lambda: other(cluster, script),
    }
    if (NODE_RED / "node_modules" / "node-red").exists():
        ways["Node-RED, postgrestor-next"] = lambda: other(cluster, node_red)
    found = {}
    for name, way in ways.items():
        with way() as recorded:
            found[name] = _measure(cluster, recorded)
        print(name, found[name], flush=True)
    return found


def _measure(cluster: Cluster, recorded: Recorded) -> Outcome:
    def cut() -> None:
        time.sleep(BEFORE)
        cluster.stop()
        time.sleep(CUT)
        cluster.start()

    cutting = threading.Thread(target=cut)
    cutting.start()
    messages = publish(recorded.port, BEFORE + CUT + AFTER)
    cutting.join()
    rows, since = recorded.rows(), time.monotonic()
    while time.monotonic() - since < SILENT:
        time.sleep(0.5)
        if (now := recorded.rows()) != rows:
            rows, since = now, time.monotonic()
    return {"sent": messages * NUMBERS, "stored": rows[1], "again": rows[0] - rows[1]}
