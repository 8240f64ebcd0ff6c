"""Real clients on the shared port of a daemon: MQTT, MQTT over WebSocket and HTTP, with and without TLS."""

import http.server
import json
import os
import queue
import signal
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.trial.unittest import SkipTest

from tests.door.test_tls import write_certificate
from tests.integration.daemon import PATIENCE, DaemonTestCase, Program, clean_environment, find_program

HERE = Path(__file__).parent
SCRIPT = HERE / "node_modules" / "mqtt" / "dist" / "mqtt.min.js"


def run(*command: str, **environ: str) -> "subprocess.CompletedProcess[bytes]":
    """A client, with its output."""
    program = find_program(command[0])
    if program is None:
        raise SkipTest(f"{command[0]} is not installed")
    return subprocess.run(
        [program, *command[1:]],
        capture_output=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env=clean_environment(**environ),
    )


class Pages(http.server.BaseHTTPRequestHandler):
    """A page somewhere else, its script, and the place where it tells what it has seen."""

    def __init__(self, told: "queue.Queue[str]", *arguments: Any) -> None:
        self.told = told
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        files = {"/browser.html": HERE / "browser.html", "/mqtt.js": SCRIPT}
        if path == "/done":
            self.told.put(query)
        self.send_response(200 if path in files else 204)
        self.send_header("Content-Type", "text/html" if path.endswith("html") else "text/javascript")
        self.end_headers()
        if path in files:
            self.wfile.write(files[path].read_bytes())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the browser tells itself what is wrong."""


class PortCase(DaemonTestCase):
    """A daemon without a database; what is not ``agent/message`` does not need one."""

    files: "tuple[str, ...]" = ()

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        ca = write_certificate(self.folder, "localhost")
        write_certificate(self.folder, "agent-7", ca)
        names = ("PLATZIVERSE_TLS_CERTIFICATE", "PLATZIVERSE_TLS_KEY", "PLATZIVERSE_TLS_CLIENT_CA")
        environ = {name: str(self.folder / file) for name, file in zip(names, self.files, strict=False)}
        self.told: queue.Queue[str] = queue.Queue()
        self.pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, self.told))
        threading.Thread(target=self.pages.serve_forever, daemon=True).start()
        self.addCleanup(self.pages.server_close)
        self.addCleanup(self.pages.shutdown)
        self.origin = f"http://localhost:{self.pages.server_address[1]}"
        environ["PLATZIVERSE_WEB_WEBSOCKET_ORIGINS"] = self.origin
        self.server = self.daemon("--database", "host=/nonexistent dbname=x", environ=environ)
        self.port = self.server.port()
        self.addCleanup(self.all_is_well)

    def all_is_well(self) -> None:
        """Whatever the clients did, it was no bug."""
        metrics = self.succeeded("curl", "-sS", f"http://localhost:{self.port}/metrics").decode()
        self.assertIn("platziverse_internal_errors_total 0.0\n", metrics)
        self.assertEqual(self.server.stop(signal.SIGTERM), 0)
        self.assertNotIn("Traceback", self.server.output)

    def succeeded(self, *command: str, **environ: str) -> bytes:
        done = run(*command, **environ)
        self.assertEqual(done.returncode, 0, done.stderr.decode() + self.server.output)
        return done.stdout

    def mqtt_js(self, scheme: str, path: str, version: str = "4") -> None:
        if not SCRIPT.exists():
            raise SkipTest("MQTT.js is not installed")
        url = f"{scheme}://localhost:{self.port}{path}"
        extra = {"NODE_EXTRA_CA_CERTS": str(self.folder / "localhost.pem")}
        output = self.succeeded("node", str(HERE / "websocket_client.js"), url, version, **extra)
        self.assertEqual(output, b"all received\n")

    def browser(self, scheme: str, path: str, origin: str = "", told: str = "received-012") -> None:
        program = find_program("chromium")
        if program is None or not SCRIPT.exists():
            raise SkipTest("Chromium or MQTT.js is not installed")
        broker = f"{scheme}://localhost:{self.port}{path}"
        url = f"{origin or self.origin}/browser.html?{broker}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--no-proxy-server", "--ignore-certificate-errors", "--disable-background-networking"]
        options += [f"--user-data-dir={self.folder / 'profile'}", "--remote-debugging-port=0"]
        chromium = Program(program, *options, url)
        try:
            self.assertEqual(self.told.get(timeout=PATIENCE), told, self.server.output)
        finally:
            os.killpg(chromium.process.pid, signal.SIGKILL)  # it leads a session, with its children
            chromium.kill()

    def paho(self, transport: str, tls: bool) -> None:
        received: list[bytes | bytearray] = []
        finished = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, transport=transport)  # type: ignore[arg-type]

        def on_connect(*_: Any) -> None:
            client.subscribe("paho/#", qos=2)

        def on_subscribe(*_: Any) -> None:
            for qos in (0, 1, 2):
                client.publish("paho/x", b"%d" % qos, qos=qos)
            client.publish("paho/x", b"x" * 300_000, qos=1)

        def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            received.append(message.payload[:1])
            if len(received) == 4:
                finished.set()

        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        if tls:
            client.tls_set(str(self.folder / "localhost.pem"))
            client.tls_insecure_set(True)
        client.connect("localhost", self.port)
        client.loop_start()
        self.addCleanup(client.loop_stop)
        self.addCleanup(client.disconnect)
        self.assertTrue(finished.wait(PATIENCE), f"{received} {self.server.output}")
        self.assertEqual(sorted(received), [b"0", b"1", b"2", b"x"])


class TestPlain(PortCase):
    def test_mqtt_js_over_websocket_at_every_qos(self) -> None:
        self.mqtt_js("ws", "/mqtt")
        self.mqtt_js("ws", "/")
        self.mqtt_js("ws", "", "3")

    def test_chromium(self) -> None:
        self.browser("ws", "/mqtt")
        self.browser("ws", "/")

    def test_chromium_does_not_let_a_foreign_page_in(self) -> None:
        """Row 191: the same page, of an origin that is not listed."""
        foreign = self.origin.replace("localhost", "127.0.0.1")
        self.browser("ws", "/mqtt", foreign, "closed")

    def test_mqtt_js_over_tcp(self) -> None:
        self.mqtt_js("mqtt", "")

    def test_paho_over_websocket_and_tcp(self) -> None:
        self.paho("websockets", tls=False)
        self.paho("tcp", tls=False)

    def test_mosquitto_pub(self) -> None:
        for qos in "012":
            self.succeeded("mosquitto_pub", "-p", str(self.port), "-t", "t", "-m", "x", "-q", qos)

    def test_curl(self) -> None:
        def get(path: str, *options: str) -> tuple[int, Any]:
            url = f"http://localhost:{self.port}{path}"
            body, _, status = self.succeeded("curl", "-sS", "-w", " %{http_code}", *options, url).rpartition(
                b" "
            )
            return int(status), json.loads(body)

        self.assertEqual(get("/healthz"), (200, {"status": "ok"}))
        status, answer = get("/readyz")
        self.assertEqual((status, answer["status"]), (503, "not ready"))
        status, answer = get("/api/agents")
        self.assertEqual(status, 503)
        self.assertIn("the database is away", answer["error"])
        self.assertEqual(get("/api/clients"), (200, []))
        self.assertEqual(get("/nothing")[0], 404)
        self.assertEqual(get("/api/agents", "-X", "DELETE")[0], 405)
        self.assertEqual(get("/api/agents", "-d", "body")[0], 413)
        self.assertEqual(get("/api/agents", "-H", "Host: elsewhere.example")[0], 421)
        self.assertEqual(get("/api/agents", "-H", "Origin: https://elsewhere.example")[0], 403)

    def test_curl_sees_who_is_connected(self) -> None:
        watcher = self.start_program(
            "mosquitto_sub", "-p", str(self.port), "-i", "watcher", "-t", "a/#", "-d"
        )
        watcher.wait_for("SUBACK")
        [row] = json.loads(self.succeeded("curl", "-sS", f"http://localhost:{self.port}/api/clients"))
        self.assertEqual((row["id"], row["subscriptions"]), ("watcher", [{"filter": "a/#", "qos": 0}]))

    def test_tls_where_there_is_no_certificate_is_refused(self) -> None:
        done = run("curl", "-sSk", f"https://localhost:{self.port}/healthz")
        self.assertNotEqual(done.returncode, 0)


class TestTLS(PortCase):
    files = ("localhost.pem", "localhost.key", "localhost.pem")

    def test_mqtt_js_over_secure_websocket_and_tls(self) -> None:
        self.mqtt_js("wss", "/mqtt")
        self.mqtt_js("mqtts", "")

    def test_paho_over_secure_websocket_and_tls(self) -> None:
        self.paho("websockets", tls=True)
        self.paho("tcp", tls=True)

    def test_mosquitto_pub_with_and_without_a_client_certificate(self) -> None:
        options = ["-h", "localhost", "-p", str(self.port), "--cafile", str(self.folder / "localhost.pem")]
        options += ["--insecure", "-t", "t", "-m", "x", "-q", "1"]
        self.succeeded("mosquitto_pub", *options)
        certificate = ("--cert", str(self.folder / "agent-7.pem"), "--key", str(self.folder / "agent-7.key"))
        self.succeeded("mosquitto_pub", *options, *certificate)

    def test_curl_over_tls_and_plain_on_the_same_port(self) -> None:
        for scheme in ("https", "http"):
            answer = self.succeeded("curl", "-sSk", f"{scheme}://localhost:{self.port}/healthz")
            self.assertEqual(json.loads(answer), {"status": "ok"})

    def s_client(self, *options: str) -> str:
        done = run("openssl", "s_client", "-connect", f"localhost:{self.port}", *options)
        return (done.stdout + done.stderr).decode(errors="replace")

    def test_openssl_s_client(self) -> None:
        self.assertIn("TLSv1.3", self.s_client("-tls1_3"))
        self.assertIn("TLSv1.2", self.s_client("-tls1_2"))
        for old in ("-tls1", "-tls1_1"):
            self.assertIn("Cipher is (NONE)", self.s_client(old, "-cipher", "ALL:@SECLEVEL=0"))


class TestTLSWithoutClientCertificates(PortCase):
    """A page cannot answer when its WebSocket is asked for a certificate, so here nobody asks."""

    files = ("localhost.pem", "localhost.key")

    def test_chromium_over_tls(self) -> None:
        self.browser("wss", "/mqtt")
