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


@frozen
class Running:
    """A broker that takes connections.

    :param ports: of loopback: ``mqtt``, ``websocket``, and ``plain``, for MQTT and nothing else.
    """

    name: str
    program: Program
    ports: dict[str, int]

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
        ports = free_ports("mqtt", "websocket")
        with tempfile.TemporaryDirectory(prefix="platziverse-bench-") as folder:
            program = Program(*self.command(ports, Path(folder)), cwd=str(ROOT))
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
        ports = free_ports("mqtt", "plain")
        state_dir = tempfile.mkdtemp(prefix="platziverse-bench-")
        anything = f"tcp:{ports['mqtt']}:interface=127.0.0.1"
        plain = f"tcp:{ports['plain']}:interface=127.0.0.1:protocol=mqtt"
        arguments = ("--listen", anything, "--listen", plain, "--database", self.dsn)
        daemon = Daemon(
            *arguments,
            state_dir=state_dir,
            twistd=(),
            before=(),
            stdin=subprocess.DEVNULL,
            environ=self.settings,
        )
        try:
            daemon.ready()
            ports["websocket"] = ports["mqtt"]
            yield Running(self.name, daemon, ports)
            daemon.stop()
        finally:
            daemon.kill()
            put_away(state_dir)


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
        (folder / "mosquitto.conf").write_text(self.settings.format(**ports))
        return [str(find_program("mosquitto")), "-c", str(folder / "mosquitto.conf")]

    def says_ready(self) -> bool:
        return False


@frozen
class Aedes(Peer):
    """From npm, in ``bench/aedes``."""

    def missing(self) -> str:
        return "" if find_program("node") and AEDES.exists() else "npm ci in bench/aedes was not possible"

    def version(self) -> str:
        found = re.search(r'"version": "(.*?)"', AEDES.read_text())
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
        return f"{found[1] if found else 'unknown'} (Node.js {node.stdout.strip().lstrip('v')})"

    def command(self, ports: dict[str, int], folder: Path) -> list[str]:
        numbers = (str(ports["mqtt"]), str(ports["websocket"]))
        return [str(find_program("node")), str(HERE / "aedes" / "server.js"), *numbers]


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
