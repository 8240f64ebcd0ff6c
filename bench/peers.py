"""The brokers that are measured: how each is found, started and stopped."""

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen

from platziverse import __version__
from tests.integration.daemon import ROOT, Daemon, Program, find_program, put_away

HERE = Path(__file__).parent
AMQTT = ROOT / ".venv-bench" / "bin" / "python"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MOSCA = HERE / "mosca" / "node_modules" / "mosca" / "package.json"
AEDES = HERE / "aedes" / "node_modules" / "aedes" / "package.json"

#: No broker may drop or hold back what the generator has under way.
PLATZIVERSE_SETTINGS = {
    "PLATZIVERSE_LIMITS_MAX_QUEUED_MESSAGES": "1000000",
    "PLATZIVERSE_LIMITS_MAX_QUEUED_BYTES": "1000000000",
    "PLATZIVERSE_LIMITS_MAX_INFLIGHT": "1000",
}
MOSQUITTO_SETTINGS = """\
user root
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 0
allow_anonymous true
log_type error
listener {mqtt} 127.0.0.1
listener {websocket} 127.0.0.1
protocol websockets
"""
RABBITMQ_SETTINGS = """\
listeners.tcp = none
mqtt.listeners.tcp.default = 127.0.0.1:{mqtt}
mqtt.allow_anonymous = true
mqtt.prefetch = 1000
"""


@frozen
class Running:
    """A broker that takes connections.

    :param ports: of loopback: ``mqtt``, ``websocket``, and ``plain``, for MQTT and nothing else.
    :param server: the process of its database; 0: it has none, or it is of no interest.
    """

    name: str
    program: Program
    ports: dict[str, int]
    server: int = 0

    @property
    def pid(self) -> int:
        return self.program.process.pid

    def obituary(self) -> str:
        """How it ended, in a line; empty: it is alive."""
        code = self.program.process.poll()
        said = [line for line in self.program.lines if line.strip()] or ["nothing"]
        errors = [line for line in said if "Error" in line]
        return "" if code is None else f"it has ended with {code}, and said: {(errors or said)[-1]}"


@frozen
class Peer:
    """One broker, not started."""

    name: str

    def missing(self) -> str:
        """Why it cannot be measured; empty: it can."""
        return ""

    def version(self) -> str:
        return ""

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Started, with ports of its own; stopped at the end."""
        with (
            tempfile.TemporaryDirectory(prefix="platziverse-bench-") as folder,
            self.started(Path(folder)) as running,
        ):
            yield running

    @contextmanager
    def started(self, folder: Path) -> Iterator[Running]:
        """Started with what an earlier run has left in ``folder``; killed at the end, with its database."""
        ports = free_ports("mqtt", "websocket")
        program = Program(*self.command(ports, folder), cwd=str(ROOT))
        try:
            program.wait_for("^ready") if self.says_ready() else wait_for_port(ports["mqtt"])
            yield Running(self.name, program, ports)
        finally:
            program.kill()

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        """What is started; ``folder`` is for its files."""
        raise NotImplementedError

    def says_ready(self) -> bool:
        """It prints "ready"."""
        return True


@frozen
class Platziverse(Peer):
    """The daemon of this checkout; ``settings`` are of its environment."""

    dsn: str = ""
    settings: dict[str, str] = field(factory=lambda: PLATZIVERSE_SETTINGS)

    def version(self) -> str:
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return f"{__version__} ({done.stdout.strip()})" if done.returncode == 0 else __version__

    @contextmanager
    def running(self) -> Iterator[Running]:
        state_dir = tempfile.mkdtemp(prefix="platziverse-bench-")
        try:
            with self.started(Path(state_dir)) as running:
                yield running
                running.program.stop()
        finally:
            put_away(state_dir)

    @contextmanager
    def started(self, folder: Path) -> Iterator[Running]:
        """The database is somebody else's."""
        ports = free_ports("mqtt", "plain")
        anything = f"tcp:{ports['mqtt']}:interface=127.0.0.1"
        plain = f"tcp:{ports['plain']}:interface=127.0.0.1:protocol=mqtt"
        arguments = ("--listen", anything, "--listen", plain, "--database", self.dsn)
        daemon = Daemon(
            *arguments,
            state_dir=str(folder),
            twistd=(),
            before=(),
            stdin=subprocess.DEVNULL,
            environ=self.settings,
        )
        try:
            daemon.ready()
            ports["websocket"] = ports["mqtt"]
            yield Running(self.name, daemon, ports)
        finally:
            daemon.kill()


@frozen
class Mosquitto(Peer):
    """Debian's package."""

    settings: str = MOSQUITTO_SETTINGS

    def missing(self) -> str:
        return "" if find_program("mosquitto") else "mosquitto is not installed"

    def version(self) -> str:
        done = subprocess.run(
            [str(find_program("mosquitto")), "-h"], capture_output=True, text=True, check=False
        )
        found = re.search(r"version (\S+)", done.stdout)
        return found[1] if found else "unknown"

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        (folder / "mosquitto.conf").write_text(self.settings.format(**ports, folder=folder))
        return [str(find_program("mosquitto")), "-c", str(folder / "mosquitto.conf")]

    def says_ready(self) -> bool:
        return False


@frozen
class Aedes(Peer):
    """From npm, in ``bench/aedes``.

    :param redis: port of the server through which several of them hear each other; 0: there is one.
    """

    redis: int = 0

    def missing(self) -> str:
        return "" if find_program("node") and AEDES.exists() else "npm ci in bench/aedes was not possible"

    def version(self) -> str:
        return node_version(AEDES)

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        words = [str(ports["mqtt"]), str(ports["websocket"])]
        words += [str(self.redis), "shared"] if self.redis else []
        return [str(find_program("node")), str(HERE / "aedes" / "server.js"), *words]


@frozen
class AedesOnRedis(Aedes):
    """aedes with aedes-persistence-redis, and a Redis of its own that writes down each command."""

    def missing(self) -> str:
        absent = "" if find_program("redis-server") else "redis-server is not installed"
        return super().missing() or absent

    @contextmanager
    def started(self, folder: Path) -> Iterator[Running]:
        redis = free_ports("redis")["redis"]
        options = ("--save", "", "--appendonly", "yes", "--dir", str(folder))
        server = Program(str(find_program("redis-server")), "--port", str(redis), *options)
        ports = free_ports("mqtt", "websocket")
        try:
            server.wait_for("Ready to accept connections")
            program = Program(*self.command(ports, folder), str(redis), cwd=str(ROOT))
            try:
                program.wait_for("^ready")
                yield Running(self.name, program, ports, server.process.pid)
            finally:
                program.kill()
        finally:
            server.kill()


@frozen
class Mosca(Peer):
    """The broker of the original, from npm, in ``bench/mosca``.

    :param redis: as that of :class:`Aedes`.
    """

    redis: int = 0

    def missing(self) -> str:
        return "" if find_program("node") and MOSCA.exists() else "npm ci in bench/mosca was not possible"

    def version(self) -> str:
        return node_version(MOSCA)

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        words = [str(ports["mqtt"]), *([str(self.redis)] if self.redis else [])]
        return [str(find_program("node")), str(HERE / "mosca" / "server.js"), *words]


@frozen
class RabbitMQ(Peer):
    """Debian's package with its MQTT plugin. What waits for a client is on the disk before PUBACK."""

    def missing(self) -> str:
        return "" if RABBITMQ.exists() else "rabbitmq-server is not installed"

    def version(self) -> str:
        return next((RABBITMQ.parent.parent / "lib").glob("rabbitmq_server-*")).name.rpartition("-")[2]

    @contextmanager
    def started(self, folder: Path) -> Iterator[Running]:
        ports = free_ports("mqtt", "epmd", "distribution")
        (folder / "rabbitmq.conf").write_text(RABBITMQ_SETTINGS.format(**ports))
        (folder / "enabled_plugins").write_text("[rabbitmq_mqtt].")
        program = Program(
            str(RABBITMQ),
            cwd=str(folder),
            HOME=str(folder),
            ERL_EPMD_ADDRESS="127.0.0.1",
            ERL_EPMD_PORT=str(ports["epmd"]),
            RABBITMQ_DIST_PORT=str(ports["distribution"]),
            RABBITMQ_NODENAME="bench@localhost",
            RABBITMQ_MNESIA_BASE=str(folder),
            RABBITMQ_CONFIG_FILE=str(folder / "rabbitmq.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(folder / "enabled_plugins"),
            RABBITMQ_LOGS="-",
            # Or a shell stands between us and the process that is to be killed and measured.
            RABBITMQ_ALLOW_INPUT="yes",
            RABBITMQ_SERVER_START_ARGS="-noinput",
        )
        try:
            program.wait_for("startup complete")
            yield Running(self.name, program, ports)
        finally:
            program.kill()
            # Erlang's map of names to ports goes on without it.
            subprocess.run(["epmd", "-port", str(ports["epmd"]), "-kill"], capture_output=True, check=False)


@frozen
class Amqtt(Peer):
    """From PyPI, in an environment of its own."""

    def missing(self) -> str:
        return "" if AMQTT.exists() else "there is no .venv-bench with amqtt"

    def version(self) -> str:
        question = "import amqtt; print(amqtt.__version__)"
        done = subprocess.run([str(AMQTT), "-c", question], capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        numbers = (str(ports["mqtt"]), str(ports["websocket"]))
        return [str(AMQTT), str(HERE / "amqtt" / "server.py"), *numbers]


@frozen
class Relay(Peer):
    """No broker; see ``bench/relay.py``."""

    def version(self) -> str:
        return "passes bytes on"

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        return [sys.executable, "-m", "bench.relay", str(ports["mqtt"])]


def peers(dsn: str) -> list[Peer]:
    """All of them, ours first."""
    return [
        Platziverse("platziverse", dsn),
        Mosquitto("mosquitto"),
        Aedes("aedes"),
        Amqtt("amqtt"),
        Relay("relay"),
    ]


def node_version(package: Path) -> str:
    """The version of an npm package, and that of Node.js."""
    found = re.search(r'"version": "(.*?)"', package.read_text())
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    return f"{found[1] if found else 'unknown'} (Node.js {node.stdout.strip().lstrip('v')})"


def free_ports(*names: str) -> dict[str, int]:
    """Ports of loopback that nobody uses, by name."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: server.getsockname()[1] for name, server in sockets.items()}
    for server in sockets.values():
        server.close()
    return ports


def wait_for_port(port: int) -> None:
    """Until somebody accepts connections there."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
