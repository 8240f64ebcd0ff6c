"""Millions of metrics through one daemon: rows per second, and whether its memory stays flat.

    python -m bench.soak [--rows 10000000] [--metrics 20] [--clients 10] [--window 100]

Starts a PostgreSQL of its own, with fsync, and a daemon that is configured to use it.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import wire
from tests.postgres import Cluster

ROOT = Path(__file__).parent.parent


class Publisher:
    """One agent with a window of unacknowledged messages; every message has a timestamp of its own."""

    def __init__(self, number: int, port: int, metrics: int, window: int) -> None:
        self.name = f"soak-{number}"
        self._metrics, self._window = metrics, window
        self._sent, self._odd = 0, 0
        self._clock = int(time.time() * 1000) - 6 * 86_400_000
        self.acknowledged = 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(wire.connect(self.name))
        assert self.socket.recv(4) == b"\x20\x02\x00\x00"

    def send(self, count: int) -> None:
        """That many further messages."""
        messages = []
        for _ in range(count):
            self._sent += 1
            values = [{"type": f"type{n}", "value": self._sent % 977 + n} for n in range(self._metrics)]
            agent = {"uuid": self.name, "username": "u", "name": "n", "hostname": "h", "pid": 1}
            report = {"agent": agent, "metrics": values, "timestamp": self._clock + self._sent}
            packet_id = (self._sent - 1) % self._window + 1
            messages.append(wire.publish("agent/message", json.dumps(report).encode(), 1, packet_id))
        self.socket.sendall(b"".join(messages))

    def start(self) -> None:
        self.send(self._window)

    def answered(self, total: int) -> int:
        """Take the PUBACKs that have come, and send as many messages again; how many they were."""
        data = self.socket.recv(65_536)
        assert data, "the daemon has closed the connection"
        count, self._odd = divmod(self._odd + len(data), 4)
        self.acknowledged += count
        if self._sent < total:
            self.send(min(count, total - self._sent))
        return count


def resident(pid: int) -> float:
    """MiB of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start_daemon(dsn: str, state: str) -> tuple["subprocess.Popen[str]", int]:
    """The process and its port."""
    program = os.path.join(os.path.dirname(sys.executable), "twistd")
    process = subprocess.Popen(
        [
            program,
            "-n",
            "--pidfile=",
            "platziverse",
            "--state-dir",
            state,
            "--database",
            dsn,
            "--listen",
            "tcp:0:interface=127.0.0.1",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    port = 0
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if " listens for " in line:
            port = int(line.partition("127.0.0.1:")[2].split(";")[0].split(",")[0].split()[0])
        if "the database is ready" in line:
            return process, port
    raise SystemExit(f"the daemon did not start:\n{''.join(output)}")


def load(port: int, pid: int, options: argparse.Namespace) -> None:
    """Publish until all rows are acknowledged; a line for every tenth."""
    total = options.rows // options.metrics // options.clients
    publishers = [Publisher(n, port, options.metrics, options.window) for n in range(options.clients)]
    selector = selectors.DefaultSelector()
    for publisher in publishers:
        selector.register(publisher.socket, selectors.EVENT_READ, publisher)
        publisher.start()
    began, done, shown = time.monotonic(), 0, 0
    while done < total * options.clients:
        for key, _ in selector.select(30):
            done += key.data.answered(total)
        if done * 10 // (total * options.clients) > shown:
            shown = done * 10 // (total * options.clients)
            rate = done * options.metrics / (time.monotonic() - began)
            print(
                f"{done * options.metrics:>12,} metrics  {rate:>9,.0f}/s  {resident(pid):7.1f} MiB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (("rows", 10_000_000), ("metrics", 20), ("clients", 10), ("window", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    cluster = Cluster(fsync="on", full_page_writes="on", autovacuum="on", max_wal_size="4GB")
    state = tempfile.mkdtemp(prefix="platziverse-soak-")
    dsn = cluster.database("template1")
    process, port = start_daemon(dsn, state)
    try:
        print(f"{resident(process.pid):.1f} MiB before the load")
        load(port, process.pid, options)
        ((stored,),) = cluster.execute("SELECT count(*) FROM metrics", dsn=dsn)
        print(f"{stored:,} rows in metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        cluster.remove()


if __name__ == "__main__":
    main()
