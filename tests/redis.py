"""Private Redis servers for the tests, each gone when its test or the process ends."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec

from tests.ports import free_port

#: A reason to skip, or "".
MISSING_REDIS = (
    "hiredis is not installed"
    if find_spec("hiredis") is None
    else ""
    if shutil.which("redis-server")
    else "redis-server is not installed"
)


class RedisServer:
    """A server of its own on a free port and on a Unix socket.

    :param options: of the command line, without the two dashes.
    :param sentinel: a Sentinel with this configuration instead.
    """

    def __init__(self, *options: str, sentinel: str = "") -> None:
        self.directory = tempfile.mkdtemp(prefix="platziverse-redis-")
        self.port = free_port()
        self.path = os.path.join(self.directory, "socket")
        self._process: subprocess.Popen[bytes] | None = None
        config = os.path.join(self.directory, "redis.conf")
        with open(config, "w") as file:  # a Sentinel writes into its own what it finds out
            file.write(sentinel)
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory]
        unix = ["--unixsocket", self.path, "--save", "", "--appendonly", "no"]
        self._command = ["redis-server", config, *own, *options]
        self._command += ["--sentinel"] if sentinel else unix
        atexit.register(self.remove)
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Start it and wait until it answers.

        :param options: from now on, in the place of earlier ones.
        """
        self._command += options
        with open(os.path.join(self.directory, "log"), "ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    with open(os.path.join(self.directory, "log")) as log:
                        raise RuntimeError(log.read()) from None
                time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Send it a signal, e.g. SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Stop it, by default as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, *words: str) -> str:
        """Run one command in a connection of its own; returns the raw reply, a short one."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            parts = [word.encode() for word in words]
            text = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
            connection.sendall(b"*%d\r\n%s" % (len(parts), text))
            return connection.recv(65_536).decode(errors="replace")


class SentinelGroup:
    """A master with a replica, and three Sentinels that call it ``main``."""

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replica = RedisServer("--replicaof", "127.0.0.1", str(self.master.port))
        lines = [
            f"sentinel monitor main 127.0.0.1 {self.master.port} 2",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
        ]
        self.sentinels = [RedisServer(sentinel="\n".join(lines) + "\n") for _ in range(3)]
        for one in self.sentinels:
            _await(one, "slaves=1,sentinels=3", "INFO", "sentinel")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/main"

    def remove(self) -> None:
        """Stop all of them and delete everything."""
        for server in (*self.sentinels, self.replica, self.master):
            server.remove()


class RedisCluster:
    """Three masters that share the slots, and a replica of the first."""

    def __init__(self) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        ports = [free_port() for _ in range(4)]
        self.nodes = [RedisServer(*options, "--cluster-port", str(port)) for port in ports]
        for number, node in enumerate(self.nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(ports[number]))
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.nodes[:3]):
            first, last = bounds[number], bounds[number + 1] - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        self._await_nodes("cluster_known_nodes:4")
        identity = self.nodes[0].command("CLUSTER", "MYID").split()[1]
        self.nodes[3].command("CLUSTER", "REPLICATE", identity)
        self._await_nodes("cluster_state:ok")
        self._await_nodes("cluster_slots_ok:16384")
        _await(self.nodes[3], "master_link_status:up", "INFO", "replication")

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[1].port},127.0.0.1:{self.nodes[0].port}"

    def remove(self) -> None:
        """Stop all of them and delete everything."""
        for node in self.nodes:
            node.remove()

    def _await_nodes(self, text: str) -> None:
        for node in self.nodes:
            _await(node, text, "CLUSTER", "INFO")


def _await(server: RedisServer, text: str, *words: str) -> None:
    deadline = time.monotonic() + 60
    while text not in server.command(*words):
        assert time.monotonic() < deadline, server.command(*words)
        time.sleep(0.05)


@cache
def redis() -> RedisServer:
    """The server that tests share; those that stop or freeze one make their own."""
    return RedisServer()


@cache
def sentinels() -> SentinelGroup:
    """The Sentinels that tests share."""
    return SentinelGroup()


@cache
def cluster() -> RedisCluster:
    """The cluster that tests share."""
    return RedisCluster()
