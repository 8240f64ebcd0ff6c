"""HAProxy's own program in front of a real daemon, with the configuration in ``examples/``."""

import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.crash.waiting import poll
from tests.integration.daemon import PATIENCE, ROOT, Daemon, DaemonTestCase, Program
from tests.ports import free_port
from tests.postgres.scratch import scratch_server
from tests.redis import MISSING_REDIS, sentinels
from tests.servers import MISSING, cluster

EXAMPLE = (ROOT / "examples/haproxy.cfg").read_text()
#: The other ways in which HAProxy sends PROXY and looks whether we are there.
OTHERS = """
backend second_version_with_everything
    option httpchk
    http-check send meth OPTIONS uri /healthz
    server broker 127.0.0.1:1884 send-proxy-v2-ssl-cn proxy-v2-options unique-id,crc32c check check-send-proxy
backend first_version
    server broker 127.0.0.1:1884 send-proxy check check-send-proxy inter 500ms
backend first_version_with_http
    option httpchk GET /readyz
    server broker 127.0.0.1:1884 send-proxy check check-send-proxy inter 500ms
"""


class ProxyTests(DaemonTestCase):
    """Row 235."""

    def statuses(self, path: str) -> dict[str, str]:
        """Backend → the outcome of HAProxy's last check."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"show stat\n")
            data = b""
            while more := client.recv(65_536):
                data += more
        rows = [line.split(",") for line in data.decode().splitlines()]
        return {row[0]: row[36].removeprefix("* ") for row in rows if len(row) > 36 and row[1] == "broker"}

    def test_the_example_and_every_kind_of_check_work_and_leave_no_line(self) -> None:
        self.program("haproxy")
        daemon = self.daemon(
            "--listen",
            "tcp:0:interface=127.0.0.1",
            "--listen",
            f"haproxy:tcp:{(inside := free_port())}:interface=127.0.0.1",
            "--database",
            (server := scratch_server()).dsn(server.create()),
            listen=False,
        )
        daemon.ready()
        folder, front = Path(self.mktemp()).absolute(), free_port()
        folder.mkdir()
        admin = f"/tmp/platziverse-haproxy-{front}.sock"
        self.addCleanup(Path(admin).unlink, missing_ok=True)
        text = EXAMPLE.replace("bind :1883", f"bind 127.0.0.1:{front}") + OTHERS
        text = text.replace("127.0.0.1:1884", f"127.0.0.1:{inside}")
        text = text.replace("fd-hard-limit 40100", f"fd-hard-limit 40100\n    stats socket {admin}")
        (folder / "haproxy.cfg").write_text(text)
        # The usual limit of a shell.
        few = 'ulimit -n 1024; exec haproxy -f "$1" -db'
        haproxy = self.start_program("sh", "-c", few, "sh", str(folder / "haproxy.cfg"))
        deadline, found = time.monotonic() + PATIENCE, {"": "INI"}
        while {"", "INI"} & set(found.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
            self.assertIsNone(haproxy.process.poll(), haproxy.output)
            found = self.statuses(admin) if Path(admin).exists() else found
        self.assertEqual(sorted(found.values()), ["L4OK", "L7OK", "L7OK", "L7OK"], found)
        self.run_program("mosquitto_pub", "-p", str(front), "-t", "x", "-m", "y", "-q", "1")
        with urllib.request.urlopen(f"http://127.0.0.1:{front}/readyz", timeout=PATIENCE) as page:
            self.assertEqual(page.status, 200)
        daemon.stop()
        self.assertNotIn("Closing", daemon.output)


class SeveralTests(DaemonTestCase):
    """The example of three daemons with Sentinels."""

    skip = MISSING or MISSING_REDIS or None

    def begin(self, dsn: str, port: int) -> Daemon:
        text = (ROOT / "examples/cluster/platziverse.toml").read_text()
        hosts = "redis+sentinel://10.0.0.11:26379,10.0.0.12:26379,10.0.0.13:26379/platziverse"
        text = text.replace("haproxy:tcp:1884", f"haproxy:tcp:{port}:interface=127.0.0.1")
        text = text.replace("postgresql://platziverse@10.0.0.20/platziverse", dsn)
        self.assertIn(hosts, text)
        path = Path(self.mktemp()).absolute()
        path.write_text(text.replace(hosts, sentinels().url))
        daemon = self.daemon("--config", str(path), listen=False)
        daemon.wait_for("listens for")
        return daemon

    def front(self, ports: list[int]) -> int:
        """HAProxy in front of daemons at these ports, to which it sends clients in turn; its own port."""
        text = (ROOT / "examples/cluster/haproxy.cfg").read_text()
        front = free_port()
        for host, port in zip(("10.0.0.1", "10.0.0.2", "10.0.0.3"), ports, strict=True):
            text = text.replace(f" {host}:1884", f" 127.0.0.1:{port}")
        text = text.replace("bind :1883", f"bind 127.0.0.1:{front}")
        path = Path(self.mktemp()).absolute()
        path.write_text(text.replace("balance source", "balance roundrobin").replace("hash-type", "#"))
        self.start_program("haproxy", "-f", str(path), "-db")
        return front

    def listeners(self, port: int) -> list[Program]:
        """Clients that have subscribed, at least one of each daemon."""
        words = ["-h", "127.0.0.1", "-p", str(port), "-t", "meet", "-C", "1", "-W", str(int(PATIENCE)), "-d"]
        found = [self.start_program("mosquitto_sub", *words) for _ in range(3)]
        for one in found:
            one.wait_for("received SUBACK|Subscribed")
        return found

    def meet(self, port: int) -> None:
        """A message of one client reaches those of all daemons."""
        found = self.listeners(port)
        self.run_program("mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", "meet", "-m", "hello")
        for one in found:
            self.assertEqual(one.ended(), 0, one.output)

    def comes_in(self, port: int) -> bool:
        """Whether three clients in a row get through, one to each daemon that HAProxy believes in."""
        words = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", "x", "-m", "x", "-q", "1"]
        return all(subprocess.run(words, capture_output=True, check=False).returncode == 0 for _ in range(3))

    def test_clients_of_three_daemons_meet_and_go_to_another_when_one_dies(self) -> None:
        self.program("haproxy")
        dsn, ports = cluster().database("template1"), [free_port() for _ in range(3)]
        daemons = [self.begin(dsn, port) for port in ports]
        for number in 2, 3:
            daemons[0].wait_for(f"daemon {number} on .* shares our clients")
        front = self.front(ports)
        poll(lambda: self.comes_in(front), PATIENCE, "HAProxy is there", interval=0.2)
        self.meet(front)
        daemons[0].kill()
        poll(lambda: self.comes_in(front), PATIENCE, "HAProxy has noticed", interval=0.5)
        self.meet(front)
