"""HAProxy's own program in front of a real daemon, with the configuration in ``examples/``."""

import socket
import time
import urllib.request
from pathlib import Path

from tests.integration.daemon import PATIENCE, ROOT, DaemonTestCase
from tests.ports import free_port
from tests.postgres.scratch import scratch_server

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
