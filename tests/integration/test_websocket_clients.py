"""Real clients on the shared port: MQTT, MQTT over WebSocket and HTTP, with and without TLS."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.daemon import PATIENCE, ROOT, Program, clean_environment, find_program
from tests.net.test_tls import write_certificate

HERE = Path(__file__).parent


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


class PortCase(SynchronousTestCase):
    """A shared port in a process of its own."""

    files: "tuple[str, ...]" = ()

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        ca = write_certificate(self.folder, "localhost")
        write_certificate(self.folder, "agent-7", ca)
        files = [str(self.folder / name) for name in self.files]
        self.program = Program(sys.executable, "-m", "tests.integration.shared_port", *files, cwd=str(ROOT))
        self.addCleanup(self.finish)
        self.port = int(self.program.wait_for(r"^port (\d+)$")[1])

    def finish(self) -> None:
        try:
            self.program.stop(signal.SIGTERM)
        finally:
            self.program.kill()
        self.assertIn("internal_errors=0", self.program.output)
        self.assertNotIn("Traceback", self.program.output)

    def succeeded(self, *command: str, **environ: str) -> bytes:
        done = run(*command, **environ)
        self.assertEqual(done.returncode, 0, done.stderr.decode() + self.program.output)
        return done.stdout

    def mqtt_js(self, scheme: str, path: str, version: str = "4") -> None:
        if not (HERE / "node_modules" / "mqtt").exists():
            raise SkipTest("MQTT.js is not installed")
        url = f"{scheme}://localhost:{self.port}{path}"
        extra = {"NODE_EXTRA_CA_CERTS": str(self.folder / "localhost.pem")}
        output = self.succeeded("node", str(HERE / "websocket_client.js"), url, version, **extra)
        self.assertEqual(output, b"all received\n")

    def browser(self, scheme: str, path: str) -> None:
        program = find_program("chromium")
        if program is None or not (HERE / "node_modules" / "mqtt").exists():
            raise SkipTest("Chromium or MQTT.js is not installed")
        since = len(self.program.lines)
        url = f"{scheme}://localhost:{self.port}/browser.html?{path}"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
        ]
        options += ["--ignore-certificate-errors", "--disable-background-networking", "--no-first-run"]
        options += [f"--user-data-dir={self.folder / 'profile'}", "--remote-debugging-port=0"]
        chromium = Program(program, *options, url)
        try:
            found = self.program.wait_for(r"GET /done\?([^ ]*)", since)
        finally:
            os.killpg(
                chromium.process.pid, signal.SIGKILL
            )  # it leads a session of its own, with its children
            chromium.kill()
        self.assertEqual(found[1], "received-012", self.program.output)

    def paho(self, transport: str, tls: bool) -> None:
        received: list[bytes] = []
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
        self.assertTrue(finished.wait(PATIENCE), f"{received} {self.program.output}")
        self.assertEqual(sorted(received), [b"0", b"1", b"2", b"x"])


class TestPlain(PortCase):
    def test_mqtt_js_over_websocket_at_every_qos(self) -> None:
        self.mqtt_js("ws", "/mqtt")
        self.mqtt_js("ws", "/")
        self.mqtt_js("ws", "", "3")

    def test_chromium(self) -> None:
        self.browser("http", "/mqtt")
        self.browser("http", "/")

    def test_mqtt_js_over_tcp(self) -> None:
        self.mqtt_js("mqtt", "")

    def test_paho_over_websocket_and_tcp(self) -> None:
        self.paho("websockets", tls=False)
        self.paho("tcp", tls=False)

    def test_mosquitto_pub(self) -> None:
        for qos in "012":
            self.succeeded("mosquitto_pub", "-p", str(self.port), "-t", "t", "-m", "x", "-q", qos)

    def test_curl(self) -> None:
        self.assertEqual(self.succeeded("curl", "-sS", f"http://localhost:{self.port}/"), b"a page\n")

    def test_tls_where_there_is_no_certificate_is_refused(self) -> None:
        done = run("curl", "-sSk", f"https://localhost:{self.port}/")
        self.assertNotEqual(done.returncode, 0)


class TestTLS(PortCase):
    files = ("localhost.pem", "localhost.key", "localhost.pem")

    def test_mqtt_js_over_secure_websocket_and_tls(self) -> None:
        self.mqtt_js("wss", "/mqtt")
        self.mqtt_js("mqtts", "")

    def test_chromium_over_tls(self) -> None:
        self.browser("https", "/mqtt")

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
        self.assertEqual(self.succeeded("curl", "-sSk", f"https://localhost:{self.port}/"), b"a page\n")
        self.assertEqual(self.succeeded("curl", "-sS", f"http://localhost:{self.port}/"), b"a page\n")

    def s_client(self, *options: str) -> str:
        done = run("openssl", "s_client", "-connect", f"localhost:{self.port}", *options)
        return (done.stdout + done.stderr).decode(errors="replace")

    def test_openssl_s_client(self) -> None:
        self.assertIn("TLSv1.3", self.s_client("-tls1_3"))
        self.assertIn("TLSv1.2", self.s_client("-tls1_2"))
        for old in ("-tls1", "-tls1_1"):
            self.assertIn("Cipher is (NONE)", self.s_client(old, "-cipher", "ALL:@SECLEVEL=0"))
